"""Programs on the sequencer and its queues, with units of straw, against an interpreter in Python."""

import random
from dataclasses import dataclass, field

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from wordline.compiler.asm import encode, fields
from wordline.rtl.config import Config, MemoryConfig
from wordline.rtl.dispatch import Dispatch
from wordline.rtl.isa import ErrorCode, LoadFormat, Operation, Unit
from wordline.rtl.sequencer import BOOT_CYCLES, CYCLES, QUIET_CYCLES, Sequencer

DEPTH = 64
CONFIG = Config(memory=MemoryConfig(program=DEPTH))
EXTREMES = [0, 1, -1, 2, 0xFFFF, 0x10000, (1 << 39) - 1, -(1 << 39), 0xFFFFFF, 1 << 24, 12345, -6789]


def dram(address: int) -> int:
    """The 32-bit word that LOAD finds at an address."""
    return (address * 0x9E3779B1 >> 3 | address << 31) & 0xFFFFFFFF


def wrap(value: int) -> int:
    value &= (1 << 40) - 1
    return value - (1 << 40) if value >> 39 else value


def control(operation, **values):
    return encode(Unit.CONTROL, {"operation": operation} | values)


END = control(Operation.END)


def interpret(program: list[int], arguments: list[int]) -> list[tuple[Unit, dict]]:
    """What the units are handed, in order: fields with operands resolved."""
    registers = [0, *arguments] + [0] * 11
    handed, pc = [], 0
    while True:
        unit, f = fields(program[pc])
        pc += 1
        if unit != Unit.CONTROL:
            operands = {name: (wrap(value[0] + registers[value[1]]) if name in ("address", "rows", "pad")
                               else (value[0] + registers[value[1]]) % 65536)
                        for name, value in f.items() if isinstance(value, tuple)}
            handed.append((unit, f | operands))
            if f.get("element") == LoadFormat.REGISTER and f["register"]:
                registers[f["register"]] = dram(operands["address"])
            continue
        a, b, value = registers[f["ra"]], registers[f["rb"]], f["value"][0]
        match f["operation"]:
            case Operation.END:
                return handed
            case Operation.BEQ | Operation.BNE | Operation.BLT | Operation.BGE as branch:
                if {Operation.BEQ: a == b, Operation.BNE: a != b, Operation.BLT: a < b,
                        Operation.BGE: a >= b}[branch]:
                    pc = f["target"][0]
            case Operation.SYNC:
                pass
            case operation:
                result = {
                    Operation.ADDI: a + value, Operation.ADD: a + b, Operation.SUB: a - b,
                    Operation.SHL: a << (value & 31), Operation.SHR: a >> (value & 31),
                    Operation.ANDI: a & value, Operation.MIN: min(a, b),
                    Operation.MULI: (a & 0xFFFFFF) * (value & 0xFFFF),
                }[operation]
                if f["rd"]:
                    registers[f["rd"]] = wrap(result)


def random_program(rng: random.Random) -> list[int]:
    """Registers 5 to 15 set, loaded, computed, shown to the units; forward branches and one loop."""
    def some():
        return rng.choice([rng.randrange(16), 0, 1, 4, 15])

    def operand(bits):
        imm = rng.choice(EXTREMES) if bits == 40 else rng.getrandbits(16)
        return imm, some()

    def compute():
        operation = rng.choice([Operation.ADDI, Operation.ADD, Operation.SUB, Operation.SHL, Operation.SHR,
                                Operation.ANDI, Operation.MULI, Operation.MIN])
        value = rng.choice([*EXTREMES, rng.getrandbits(16), rng.randrange(32), -rng.getrandbits(38)])
        # Register 14 counts the loop.
        return control(operation, rd=rng.choice([0, *range(1, 14), 15]), ra=some(), rb=some(),
                       value=(value, some()))  # no register is added to it

    def show():
        unit = rng.choice([Unit.STREAM, Unit.MATMUL, Unit.VECTOR, Unit.STORE, Unit.LOAD])
        operands = {Unit.STREAM: ("address", "runs", "beats", "stride"), Unit.LOAD: ("address", "count"),
                    Unit.MATMUL: ("rows", "act", "out"), Unit.VECTOR: ("pad", "a", "b", "dst", "len"),
                    Unit.STORE: ("address", "src", "count")}[unit]
        return [encode(unit, {operands[0]: operand(40)} | {name: operand(16) for name in operands[1:]})]

    def load():
        return [encode(Unit.LOAD, {"element": LoadFormat.REGISTER, "register": rng.choice([0, *range(5, 14)]),
                                   "address": operand(40), "signal": 1 << Unit.CONTROL}),
                control(Operation.SYNC, wait=1 << Unit.LOAD)]

    program = [control(Operation.ADDI, rd=r, value=rng.choice(EXTREMES)) for r in range(5, 14)]
    program.append(control(Operation.ADDI, rd=14, value=3))
    top = len(program)
    for _ in range(12):
        program += rng.choice([lambda: [compute()], show, load])()
        if rng.random() < 0.5:
            branch = rng.choice([Operation.BEQ, Operation.BNE, Operation.BLT, Operation.BGE])
            program.append(control(branch, ra=some(), rb=some(), target=len(program) + 2))
            program.append(compute())
    program.append(control(Operation.ADDI, rd=14, ra=14, value=-1))
    program.append(control(Operation.BNE, ra=14, target=top))
    program += [encode(Unit.STREAM, {"address": (0, r), "beats": (r, r)}) for r in range(16)]
    return program + [END]


@dataclass
class Bench:
    """Sequencer and dispatch with five units that only wait; `run` is one program from start to finish."""

    slow: float = 0.0
    latency: int = 1
    seed: int = 0
    fail: tuple[Unit, int] | None = None  # a unit's n-th instruction ends with a bus error

    handed: list = field(default_factory=list)
    starts: list = field(default_factory=list)  # cycle of each start, in `running` cycles

    def simulate(self, *runs):
        """Each run: program, arguments, length or None. Returns (error, exit code, cycles, boot's end)."""
        m = Module()
        m.submodules.dispatch = self.dispatch = dispatch = Dispatch()
        m.submodules.sequencer = self.sequencer = sequencer = Sequencer(CONFIG)
        connect(m, sequencer.queue, dispatch.queue)
        for name in ("control_wait", "control_signal", "control_take", "flush"):
            m.d.comb += getattr(dispatch, name).eq(getattr(sequencer, name))
        for name in ("control_granted", "idle", "overflow"):
            m.d.comb += getattr(sequencer, name).eq(getattr(dispatch, name))
        m.d.comb += [
            sequencer.load_ended.eq(dispatch.ended[Unit.LOAD]), sequencer.empty.eq(1),
            sequencer.read_error.eq(dispatch.units[0].error | dispatch.units[1].error),
            sequencer.write_error.eq(dispatch.units[4].error),
        ]
        results = []

        async def bench(ctx):
            for program, arguments, length in runs:
                results.append(await self._run(ctx, program, arguments, length))

        sim = Simulator(m)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()
        return results

    async def _run(self, ctx, program, arguments, length):
        rng = random.Random(self.seed)
        s, units = self.sequencer, self.dispatch.units
        self.handed, self.starts = [], []
        count = [0] * 5
        for i, value in enumerate(arguments):
            ctx.set(s.arguments[i], value)
        address = rng.getrandbits(40)
        ctx.set(s.program_address, address)
        ctx.set(s.program_length, len(program) if length is None else length)
        for port in units:
            ctx.set(port.done, 0)
        ctx.set(s.start, 1)
        await ctx.tick()
        ctx.set(s.start, 0)
        assert ctx.get(s.running) and not ctx.get(s.finished)
        left, words, boot_end, cycle = [0] * 5, [], 0, 0
        write = None
        while not ctx.get(s.finished):
            assert ctx.get(s.running)
            assert cycle < 3500
            ctx.set(s.program.en, 0)
            if words:
                ctx.set(s.program.en, 1)
                ctx.set(s.program.addr, len(program) - len(words))
                ctx.set(s.program.data, words.pop(0))
            starting = []
            for u, port in enumerate(units):
                done = False
                if left[u]:
                    left[u] -= not (u == 0 and (words or write is not None)) or left[u] > 1
                    done = left[u] == 0
                ctx.set(port.done, done)
                ctx.set(port.error, done and self.fail == (u, count[u]))
                ready = not left[u] and not done and rng.random() >= self.slow
                ctx.set(port.instruction.ready, ready)
                if done and u == 0 and not boot_end:
                    boot_end = cycle
                if ready and ctx.get(port.instruction.valid):
                    starting.append(u)
            for u in starting:
                unit, f = fields(ctx.get(units[u].instruction.payload))
                assert unit == u
                left[u] = self.latency + (rng.randrange(8) if self.slow else 0)
                count[u] += 1
                f = {k: v[0] if isinstance(v, tuple) else v for k, v in f.items()}
                if u == 0 and f["element"] == LoadFormat.PROGRAM:
                    assert (wrap(f["address"]), f["count"], f["dst"]) == (wrap(address), len(program), 0)
                    words = list(program)
                else:
                    self.handed.append((unit, f))
                    self.starts.append(cycle)
                if u == 0 and f["element"] == LoadFormat.REGISTER:
                    write = f["register"], dram(f["address"])
            if write is not None and left[0] == 1 and 0 not in starting:
                ctx.set(s.register_write, 1)
                ctx.set(s.register_number, write[0])
                ctx.set(s.register_value, write[1])
                if ctx.get(s.register_taken):
                    write = None
            await ctx.tick()
            ctx.set(s.register_write, 0)
            cycle += 1
        assert not ctx.get(s.running)
        return ErrorCode(ctx.get(s.error)), ctx.get(s.exit_code), cycle, boot_end


def by_unit(handed):
    return {u: [f for unit, f in handed if unit == u] for u in Unit}


@pytest.mark.parametrize("seed,slow", [(1, 0.0), (2, 0.0), (3, 0.7), (4, 0.9), (5, 0.5)])
def test_random_programs(seed, slow):
    rng = random.Random(seed)
    program = random_program(rng)
    assert len(program) <= DEPTH
    arguments = [rng.choice([0, 5, -1, -(1 << 31), (1 << 31) - 1]) for _ in range(4)]
    bench = Bench(slow=slow, seed=seed)
    (error, code, _, _), = bench.simulate((program, arguments, None))
    assert (error, code) == (ErrorCode.NONE, 0)
    want, got = by_unit(interpret(program, arguments)), by_unit(bench.handed)
    for unit in Unit:
        assert [{k: v for k, v in f.items() if k != "unit"} for f in got[unit]] == [
            {k: v for k, v in f.items() if k != "unit"} for f in want[unit]]


@pytest.mark.parametrize("operation", [Operation.ADDI, Operation.ADD, Operation.SUB, Operation.SHL,
                                       Operation.SHR, Operation.ANDI, Operation.MULI, Operation.MIN])
def test_operations_at_their_limits(operation):
    """Results wrap to 40 bits; MULI takes exactly 24 and 16 bits, shifts exactly 5."""
    pairs = [((1 << 39) - 1, -1), (-(1 << 39), -1), ((1 << 39) - 1, (1 << 39) - 1), (0xFFFFFF, 0xFFFF),
             (0x1000001, 0x10001), (-1, 31), (1, 32), (-(1 << 39), 33), (5, 5), (0x5A5A5A5A5A, -0x123456789)]
    program = []
    for x, y in pairs:
        program += [control(Operation.ADDI, rd=5, value=x), control(Operation.ADDI, rd=6, value=y),
                    control(operation, rd=7, ra=5, rb=6, value=y), encode(Unit.STREAM, {"address": (0, 7)})]
    bench = Bench()
    bench.simulate((program + [END], [0] * 4, None))
    want = [f["address"] for _, f in interpret(program + [END], [0] * 4)]
    assert [f["address"] for _, f in bench.handed] == want


@pytest.mark.parametrize("branch", [Operation.BEQ, Operation.BNE, Operation.BLT, Operation.BGE])
def test_branches_compare_signed(branch):
    pairs = [(0, 0), (-1, 0), (0, -1), (-1, -1), ((1 << 39) - 1, -(1 << 39)), (-(1 << 39), (1 << 39) - 1)]
    program = []
    for i, (x, y) in enumerate(pairs):
        program += [control(Operation.ADDI, rd=5, value=x), control(Operation.ADDI, rd=6, value=y),
                    control(branch, ra=5, rb=6, target=len(program) + 4),
                    encode(Unit.STREAM, {"address": i})]
    bench = Bench()
    bench.simulate((program + [END], [0] * 4, None))
    want = [f["address"] for _, f in interpret(program + [END], [0] * 4)]
    assert 0 < len(want) < len(pairs)
    assert [f["address"] for _, f in bench.handed] == want


def test_cycles_are_fixed():
    """Straight code, branches taken and not, and the end, all to the cycle."""
    program = [
        encode(Unit.VECTOR, {}), control(Operation.ADDI, rd=5, value=7), encode(Unit.STORE, {}),
        control(Operation.BEQ, ra=5, target=9), encode(Unit.VECTOR, {}),
        control(Operation.BNE, ra=5, target=7), END, encode(Unit.STREAM, {}), END,
    ]
    bench = Bench()
    (_, _, cycles, boot), = bench.simulate((program, [0] * 4, None))
    first = boot + BOOT_CYCLES
    # Fetched at first + i*CYCLES; into the queue 3 cycles later, started the cycle after.
    assert bench.starts == [first + i * CYCLES + 4 for i in (0, 2, 4, 6)]
    assert cycles == first + 7 * CYCLES + 3 + QUIET_CYCLES + 1


def test_a_full_queue_holds_the_sequencer_and_only_then():
    stream, vector = encode(Unit.STREAM, {}), encode(Unit.VECTOR, {})
    bench = Bench(latency=50)
    (_, _, _, boot), = bench.simulate(([stream] * 7 + [vector, END], [0] * 4, None))
    first = boot + BOOT_CYCLES
    streams = [c for c, (unit, _) in zip(bench.starts, bench.handed) if unit == Unit.STREAM]
    assert streams == [first + 4 + 51 * i for i in range(7)]
    vector, = (c for c, (unit, _) in zip(bench.starts, bench.handed) if unit == Unit.VECTOR)
    # One runs and four are queued; the sixth enters when the second starts, the seventh when the third does.
    assert vector == streams[2] + 1 + CYCLES + 1


def test_semaphores_order_units_and_the_sequencer():
    waits = {u: 1 << u for u in Unit}
    program = [
        encode(Unit.VECTOR, {"wait": waits[Unit.LOAD]}),
        encode(Unit.STORE, {"wait": waits[Unit.VECTOR] | waits[Unit.LOAD]}),
        encode(Unit.LOAD, {"signal": 1 << Unit.VECTOR | 1 << Unit.STORE}),
        encode(Unit.VECTOR, {"signal": 1 << Unit.STORE | 1 << Unit.CONTROL}),
        control(Operation.SYNC, wait=waits[Unit.VECTOR], signal=1 << Unit.MATMUL),
        encode(Unit.MATMUL, {"wait": waits[Unit.CONTROL]}),
        END,
    ]
    bench = Bench(latency=20)
    bench.simulate((program, [0] * 4, None))
    order = [unit for unit, _ in bench.handed]
    assert order == [Unit.LOAD, Unit.VECTOR, Unit.VECTOR, Unit.STORE, Unit.MATMUL]
    load, first, second, store, matmul = bench.starts
    assert first == load + 20 + 1 and second == first + 21
    assert store == second + 20 + 1
    # SYNC executes one cycle after the end, and MATMUL is fetched in the next.
    assert matmul == second + 20 + 1 + CYCLES + 1


def last_stream(bench):
    return bench.handed[-1][1]["address"]


def test_starts_afresh_with_new_arguments():
    show = [encode(Unit.STREAM, {"address": (100, 1)}), END]
    other = [control(Operation.ADDI, rd=5, value=9), control(Operation.SYNC, signal=1 << Unit.STREAM), END]
    stale = [encode(Unit.STREAM, {"address": (0, 5)}),
             encode(Unit.STREAM, {"wait": 1 << Unit.CONTROL}), END]
    bench = Bench()
    assert bench.simulate((show, [7, 0, 0, 0], None))[0][0] == ErrorCode.NONE
    assert last_stream(bench) == 107
    bench.simulate((other, [0] * 4, None), (show, [-3, 0, 0, 0], None))
    assert last_stream(bench) == 97
    # A semaphore left over, a register left over: neither is seen by the next program.
    with pytest.raises(AssertionError, match="3500"):
        bench.simulate((other, [0] * 4, None), (stale, [0] * 4, None))
    assert last_stream(bench) == 0 and len(bench.handed) == 1


@pytest.mark.parametrize("latency", range(1, 9))
def test_a_loaded_register_and_a_computed_one_in_the_same_cycle(latency):
    program = [encode(Unit.LOAD, {"element": LoadFormat.REGISTER, "register": 5, "address": 36,
                                  "signal": 1 << Unit.CONTROL})]
    program += [control(Operation.ADDI, rd=r, value=r) for r in range(6, 10)]
    program += [control(Operation.SYNC, wait=1 << Unit.LOAD)]
    program += [encode(Unit.STREAM, {"address": (0, r)}) for r in range(5, 10)] + [END]
    bench = Bench(latency=latency)
    bench.simulate((program, [0] * 4, None))
    assert [f["address"] for unit, f in bench.handed if unit == Unit.STREAM] == [dram(36), 6, 7, 8, 9]


def test_nothing_beyond_the_program_is_fetched():
    bench = Bench()
    (error, *_), = bench.simulate(([encode(Unit.VECTOR, {})], [0] * 4, None))
    assert error == ErrorCode.ILLEGAL_INSTRUCTION
    assert [unit for unit, _ in bench.handed] == [Unit.VECTOR]


VECTOR_WAITS = encode(Unit.VECTOR, {"wait": 1 << Unit.STORE})
OVERFLOW = [control(Operation.ADDI, rd=5, value=64),
            *[control(Operation.SYNC, signal=1 << Unit.LOAD)] * 4,
            control(Operation.ADDI, rd=5, ra=5, value=-1),
            control(Operation.BNE, ra=5, target=1)] + [END]


@pytest.mark.parametrize("program,length,fail,error,code", [
    ([VECTOR_WAITS, 6, END], None, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([VECTOR_WAITS, 7, END], None, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([control(Operation.END) + (1 << 140), END], None, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([encode(Unit.VECTOR, {})], None, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([control(Operation.BEQ, target=5000)], None, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([END], 0, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([END], DEPTH + 1, None, ErrorCode.ILLEGAL_INSTRUCTION, 0),
    ([END], None, (Unit.LOAD, 1), ErrorCode.BUS_READ, 0),
    ([VECTOR_WAITS] * 9 + [END], None, (Unit.LOAD, 1), ErrorCode.BUS_READ, 0),
    ([encode(Unit.STREAM, {})] + [VECTOR_WAITS] * 9 + [END], None, (Unit.STREAM, 1), ErrorCode.BUS_READ, 0),
    ([encode(Unit.STORE, {}), END], None, (Unit.STORE, 1), ErrorCode.BUS_WRITE, 0),
    ([encode(Unit.STORE, {}), control(Operation.SYNC, wait=1 << Unit.LOAD), END], None, (Unit.STORE, 1),
     ErrorCode.BUS_WRITE, 0),
    ([encode(Unit.STORE, {}), control(Operation.END, value=9)], None, None, ErrorCode.PROGRAM_EXIT, 9),
    (OVERFLOW, None, None, ErrorCode.SEMAPHORE_OVERFLOW, 0),
])
def test_errors_stop_the_program_and_the_next_one_runs(program, length, fail, error, code):
    good = [encode(Unit.VECTOR, {"dst": (5, 2)}), END]

    class Recover(Bench):
        async def _run(self, ctx, program, arguments, length):
            self.fail = fail if program is not good else None
            return await super()._run(ctx, program, arguments, length)

    bench = Recover(latency=60)
    first, second = bench.simulate((program, [0] * 4, length), (good, [0, 4, 0, 0], None))
    assert first[:2] == (error, code)
    assert first[2] < 400 or error == ErrorCode.SEMAPHORE_OVERFLOW
    assert second[:2] == (ErrorCode.NONE, 0)
    assert [(unit, f["dst"]) for unit, f in bench.handed] == [(Unit.VECTOR, 9)]
