"""`lut`: dot products read from a table of signed sums of activations (LUT Tensor Core, T-MAC).

`k` activations (4 unless said otherwise) have ``2**k`` sums ``+-x0 +-x1 ..``. Half of them, those in which the last
activation counts positive, are stored; the others are their negatives (LUT Tensor Core, arXiv 2408.06003; T-MAC). A
bit of each of k weights picks one of the sums: a step takes a cycle for every bit plane. The tables depend on the
activations alone, so the array has one set for all its columns, made by `TableFront`.

**Integers.** With bits b = (s+1)/2, s = +-1, a two's complement integer is ``q = (q' - 1) / 2``, where q' is the same
sum of powers of two over s, the top one negative. So ``2 * dot = sum(q' * x) - sum(x)``. The second sum is that of the
tables' all-ones entries; the front forms it once for all columns. A ternary weight is half the sum of two planes of
+-1, a bipolar bit is a plane: they need none. Nor do planes with power-of-two coefficients (ShiftAddLLM, arXiv
2406.05981), each of which is shifted by what its group's gaps say.

**Where the index is folded.** The stored half is reached with the low bits of the index, inverted where the top bit
is clear. The papers invert off line, because their weights are static. Here the KV cache's codes are written at run
time, and one image in DRAM serves every family; so the codes stay plain and `fold` is k-1 XORs a table, once for
all rows.
"""

from typing import Any, ClassVar

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from wordline.pe.bit_serial import is_planes, significance
from wordline.pe.datatypes import INT_BITS, KIND_BITS, PLANES, WeightKind
from wordline.pe.family import Front, adder_tree, signed_bits, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, delayed, register


def half_table(acts: list[Any]) -> list[Any]:
    """Entry i: the sum of the activations, each negative where its bit of i is clear, the last always positive.

    Sums of the halves are shared: 12 additions for four activations.
    """
    if len(acts) == 1:
        return [acts[0]]
    split = len(acts) // 2
    low, high = half_table(acts[:split]), half_table(acts[split:])
    entries = []
    for index in range(1 << len(acts) - 1):
        i, j = index % (1 << split), index >> split
        folded = i % len(low)
        entries.append(high[j] + low[folded] if i >> split - 1 else high[j] - low[~folded % len(low)])
    return entries


def additions(k: int) -> int:
    """Additions that `half_table` takes."""
    return 0 if k == 1 else additions(k // 2) + additions(k - k // 2) + (1 << k - 1)


def fold(bits: Value) -> tuple[Value, Value]:
    """Index into a half table, and whether the entry is to be negated, for a bit of each weight."""
    negative = ~bits[-1]
    return bits[:-1] ^ negative.replicate(len(bits) - 1), negative


def folded(bits: int, k: int) -> tuple[int, int]:
    """What `fold` makes of a plane's k bits, for weights that are static and can be folded off line."""
    negative = ~bits >> (k - 1) & 1
    return (~bits if negative else bits) & ((1 << k - 1) - 1), negative


def sizes(lanes: int, k: int) -> list[int]:
    """Activations of each table; the last may have fewer."""
    return [min(k, lanes - i) for i in range(0, lanes, k)]


class TableFront(Front):
    """The tables of all rows, and each row's sum of activations.

    Its operand comes a cycle later than a front's must: the activations have a register in front of the additions.
    `total` comes as many cycles behind the tables as a column's sums: with those of the step's first cycle.
    """

    def elaborate(self, platform):
        m = Module()
        tables = sizes(self.lanes, self.family.k)
        acts = Signal.like(self.acts)
        with m.If(self.taken):
            m.d.sync += acts.eq(self.acts)
        for r in range(self.rows):
            ones, at = [], 0
            for t, size in enumerate(tables):
                entries = half_table([acts[r][at + i] for i in range(size)])
                ones.append(self.store(m, entries, self.operand.tables[r][t], f"table_{r}_{t}"))
                at += size
            m.d.sync += self.operand.total[r].eq(adder_tree(m, ones, f"total_{r}"))
        return m

    def store(self, m: Module, entries: list[Value], table: Any, name: str) -> Value:
        """Puts the entries into the operand's table; the all-ones entry as it is stored."""
        m.d.sync += [table[i].eq(entry) for i, entry in enumerate(entries)]
        return table[len(entries) - 1]


class LutColumn(PipelinedColumn):
    """Per row and table a multiplexer and a conditional negation; the index is folded once for all rows.

    Interval: bits of the datatype. Latency ``interval + 4 + ceil(log4(tables))``: step, one plane after the other,
    index, entry, adder tree, place value, accumulator.
    """

    KINDS = frozenset(INT_BITS) | {WeightKind.INT1, WeightKind.TERNARY} | frozenset(PLANES)
    OPTIONS = {"k": (2, 3, 4, 5, 6)}
    SHIFTS = 7
    HALVES = True
    FRONT = TableFront
    TABLE_CYCLES: ClassVar[int] = 1  # from a step to its tables
    k = 4

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return KIND_BITS[kind]

    @classmethod
    def coupled(cls) -> int:
        return cls.k

    @classmethod
    def depth(cls, lanes: int) -> int:
        return cls.TABLE_CYCLES + 1 + tree_levels(len(sizes(lanes, cls.k)))

    @classmethod
    def operand(cls, rows: int, lanes: int, act_bits: int) -> data.StructLayout:
        total = signed(signed_bits(lanes << (act_bits - 1)))
        tables = data.ArrayLayout(cls.table(act_bits), len(sizes(lanes, cls.k)))
        return data.StructLayout({"tables": data.ArrayLayout(tables, rows), "total": data.ArrayLayout(total, rows)})

    @classmethod
    def table(cls, act_bits: int) -> data.Layout:
        """The half table of k activations."""
        return data.ArrayLayout(signed(signed_bits(cls.k << (act_bits - 1))), 1 << cls.k - 1)

    @staticmethod
    def entry(table: Any, index: Value, negative: Value) -> Value:
        """A signed sum."""
        return Mux(negative, -table[index], table[index])

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        # The accumulator holds twice the dot product.
        place = Mux(Cat(step.kind == kind for kind in INT_BITS).any(), step.index, step.kind == WeightKind.INT1)
        if self.kinds & set(PLANES):
            shift = significance(step.kind, step.select, step.index, self.kinds)
            place = Mux(is_planes(step.kind), shift + 1, place)
        return place, Const(0)

    def sums(self, m: Module, step: Step) -> list[Value]:
        integer, top = Signal(), Signal()
        with m.Switch(step.kind):
            for kind in sorted(self.kinds & set(INT_BITS)):
                with m.Case(kind):
                    m.d.comb += [integer.eq(1), top.eq(step.index == KIND_BITS[kind] - 1)]
        bits = [self._bit(step, code) for code in step.codes]
        indices, at = [], 0
        for t, size in enumerate(sizes(self.lanes, self.k)):
            index, negative = fold(Cat(bits[at : at + size]))
            indices.append((delayed(m, index, self.TABLE_CYCLES, f"index_{t}"),
                            delayed(m, negative ^ top, self.TABLE_CYCLES, f"negative_{t}")))
            at += size
        first = delayed(m, integer & (step.index == 0), self.depth(self.lanes), "first")
        sums = []
        for r in range(self.rows):
            entries = [register(m, self.entry(step.acts.tables[r][t], *index), f"entry_{r}_{t}")
                       for t, index in enumerate(indices)]
            total = adder_tree(m, entries, f"tree_{r}")
            sums.append(total - Mux(first, step.acts.total[r], 0))
        return sums

    def _bit(self, step: Step, code: Value) -> Value:
        """The plane's bit: 1 for +1 and 0 for -1."""
        most = max(KIND_BITS[kind] for kind in self.kinds)
        bit = code[:most].bit_select(step.index, 1)
        if WeightKind.TERNARY not in self.kinds:
            return bit
        ternary = Mux(step.index == 0, ~(code[0] & code[1]), code[0] & ~code[1])
        return Mux(step.kind == WeightKind.TERNARY, ternary, bit)
