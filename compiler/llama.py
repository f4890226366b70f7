"""From a Llama-architecture model to a Program: one program for every position and length.

Tokens go through the layers `array.rows` at a time while they come from the prompt, then one by one. What a step needs
to know is in registers: its position, the number of its tokens, and the sizes of the key and value cache that follow.
The heads of a layer are unrolled; layers, tokens of a step and steps are loops.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wordline.compiler.asm import to_array
from wordline.compiler.builder import Builder, Parts, reg
from wordline.compiler.model import Model, ModelConfig, layer_shapes
from wordline.compiler.program import Program
from wordline.compiler.weights import (
    CompileError,
    Matrix,
    MemoryMap,
    check_accumulator,
    embedding_row,
    int8_embedding,
    make_matrix,
    quantised,
    require,
    shape_matrix,
    weight_type,
)
from wordline.pe.datatypes import WeightType, act_max
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    INSTRUCTION_BYTES,
    CodeOrder,
    Destination,
    Factor,
    Function,
    IntBits,
    LoadFormat,
    Operation,
    Reduction,
    SourceA,
    SourceB,
    StoreMode,
)
from wordline.rtl.layout import TileLayout, ceil_div

# Registers. PROMPT, LAST, START, EOS are the host's arguments; START is over when KEY_TILES begins.
PROMPT, LAST, KEY_TILES, EOS, POSITION, TOKENS, CONTEXT, LAYER, VALUE_STEPS, VALUE_BEATS = range(1, 11)
START = KEY_TILES
ROW, ROW_M, ROW_X, T1, T2 = range(11, 16)
# Scalars of the vector unit.
S_SUM, S_SCALE, S_INVERSE, S_NORM, S_TOTAL, S_BEST, S_TOKEN, S_EPS = 0, 1, 2, 3, 4, 8, 9, 15

_BITS = {4: IntBits.B4, 8: IntBits.B8, 16: IntBits.B16}


@dataclass(frozen=True)
class _Places:
    """Word offsets within a row of banks X and M and of the activation buffer, and within banks L and S; strides of
    the rows. What a head needs for itself has two places, for even and odd heads, where the memories
    have room, so that a head's vectors and the next one's matmuls go on side by side."""

    x: int  # residual
    work: int
    qk: int
    x_row: int
    scores: tuple[int, int]
    heads: int
    m_row: int
    query: tuple[int, int]
    probabilities: tuple[int, int]
    gamma: int
    vscale: tuple[int, int]
    rope: int
    rope_row: int
    chunk: int  # tiles of the output head at a time

    def parts(self, h: int) -> Parts:
        """The parts of the banks that head `h` has for itself."""
        def name(pair: tuple[int, int]) -> str:
            return f"{h % 2 if pair[0] != pair[1] else 0}"

        return {"M": f"scores{name(self.scores)}", "L": f"vscale{name(self.vscale)}"}


#: Matrices of a layer, and the projections whose rows each takes together.
MATRICES = {"qkv": ("self_attn.q", "self_attn.k", "self_attn.v"), "o": ("self_attn.o",),
            "gate_up": ("mlp.gate", "mlp.up"), "down": ("mlp.down",)}


def parts_of(c: ModelConfig, layer: int, parts: tuple[str, ...]) -> tuple[list[str], tuple[int, int]]:
    """Names of a matrix's tensors, and its shape [N, K]."""
    names = [f"model.layers.{layer}.{part}_proj.weight" for part in parts]
    shapes = [layer_shapes(c)[f"{part}_proj"] for part in parts]
    return names, (sum(shape[0] for shape in shapes), shapes[0][1])


class LlamaCompiler:
    """Compiles one model for one configuration; `program` is the result."""

    def __init__(self, model: Model, config: Config, *, context: int = 0, keep_logits: bool = True):
        self.model, self.config, self.keep_logits = model, config, keep_logits
        self.c: ModelConfig = model.config
        self.context = context or self.c.context
        self.b = Builder()
        self.lanes = config.vector.lanes
        self.looped = config.array.rows > 1  # the code being written loops over the tokens of a step
        self._check()
        self.places = self._place()
        self._lay_out()

    # --- Does it fit?

    def _check(self) -> None:
        c, a, t = self.c, self.config.array, self.config.types
        require(1 <= self.context <= c.context,
                f"context = {self.context}: the model was trained for 1 to {c.context} positions")
        require(t.acts <= a.act_bits, f"types.acts = {t.acts} does not fit array.act_bits = {a.act_bits}")
        for what, size in (("width", c.width), ("head_dim / 2", c.head_dim // 2), ("ffn", c.ffn)):
            require(size % self.lanes == 0,
                    f"{c.name}: {what} = {size} is not a multiple of vector.lanes = {self.lanes}")
        for what, unit in (("array.lanes", a.lanes), ("array.cols", a.cols)):
            require(c.head_dim % unit == 0, f"{c.name}: head_dim = {c.head_dim} is not a multiple of "
                                            f"{what} = {unit}, which the KV cache needs")
        self.max_context = ceil_div(self.context, max(a.lanes, a.cols)) * max(a.lanes, a.cols)
        require(self.max_context <= self.config.memory.act_elements,
                f"context {self.context} does not fit memory.act_elements = "
                f"{self.config.memory.act_elements}")
        require(max(self.max_context, c.head_dim) <= a.group_max,
                f"context {self.context} is above array.group_max = {a.group_max}")
        self.kv = weight_type(self.config, t.kv)
        top = (1 << (self.kv.bits - 1)) - 1
        check_accumulator(self.config, "attention", top * max(self.max_context, c.head_dim))

    def _place(self) -> _Places:
        c, config, v = self.c, self.config, self.lanes
        rows = config.array.rows

        def words(elements: int) -> int:
            return ceil_div(elements, v)

        width, half = words(c.width), c.head_dim // 2 // v
        rotary = (c.heads + c.kv_heads) * half  # words of one half of all queries and keys
        work = max(words(c.ffn), width, words(self.max_context), 2 * rotary)
        x_row = width + work + 2 * rotary
        length = words(self.max_context)

        def pair(first: int, size: int, room: int) -> tuple[int, int]:
            """Two places behind `first` if `room` holds both, else one."""
            return (first, first + size) if first + 2 * size <= room else (first, first)

        after = words(c.heads * c.head_dim)
        scores = pair(words(c.qkv), length, config.memory.matmul_floats // v // rows - after)
        heads = scores[1] + length
        m_row = max(heads + after, words(2 * c.ffn), width)
        act = words(config.memory.act_elements)
        query = pair(0, words(c.head_dim), act)
        probabilities = pair(query[1] + words(c.head_dim), length, act)
        if probabilities[1] + length > act:
            query = probabilities = (0, 0)
        per_tile = config.array.cols // v
        chunk = min(ceil_div(c.vocab, config.array.cols), config.memory.matmul_floats // v // per_tile,
                    config.memory.store_floats // v // per_tile)
        gamma = width  # bank L: embedding row first
        vscale = pair(gamma + width, length, words(config.memory.load_floats) - rows * 2 * half)
        rope = vscale[1] + length
        floats = {"vector_floats": rows * x_row * v, "matmul_floats": rows * m_row * v,
                  "load_floats": (rope + rows * 2 * half) * v,
                  "store_floats": 2 * (c.head_dim // v + 1) * v, "act_elements": max(c.width, c.ffn)}
        for name, need in floats.items():
            have = getattr(config.memory, name)
            require(need <= have, f"{c.name} with context {self.context} needs memory.{name} = "
                                  f"{1 << (need - 1).bit_length()}, the configuration has {have}")
        return _Places(x=0, work=width, qk=width + work, x_row=x_row, scores=scores, heads=heads, m_row=m_row,
                       query=query, probabilities=probabilities, gamma=gamma, vscale=vscale, rope=rope,
                       rope_row=2 * half, chunk=chunk)

    # --- DRAM.

    def _lay_out(self) -> None:
        c, config, a = self.c, self.config, self.config.array
        model, beat = self.model, config.beat_bytes
        self.map = MemoryMap()
        self.program_address = self.map.take("program", config.memory.program * INSTRUCTION_BYTES,
                                             "instruction")
        self.token_address = self.map.take("tokens", 4 * (self.context + 1), "int32", (self.context + 1,))
        body, head = weight_type(config, config.types.weights), weight_type(config, config.types.head_weights)
        self.embedding_row = embedding_row(c.width, beat)
        require(self.embedding_row < 1 << 16, f"{c.name}: an embedding row of {self.embedding_row} bytes "
                                              "is longer than 65535")
        self.embedding_address = self._put(
            "embedding", c.vocab * self.embedding_row, lambda: int8_embedding(model, beat), dtype="int8",
            shape=(c.vocab, c.width), layout="float32 scale in the first beat of a row")
        frequency = c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
        angle = np.arange(self.max_context)[:, None] * frequency
        rope = np.concatenate([np.cos(angle), np.sin(angle)], 1).astype("<f4")
        self.rope_address = self.map.put("rope", rope, dtype="float32", shape=rope.shape)

        # A layer is one block: weights, gains, cache; all layers alike, so that one register leads to each.
        self.key = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits, planes=self.kv.bits,
                              steps=c.head_dim // a.lanes, group_scales=False, order=CodeOrder.COLUMNS)
        self.value = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits,
                                planes=self.kv.bits, steps=self.max_context // a.lanes, group_scales=False,
                                channel_scales=False, order=CodeOrder.LANES)
        self.offsets: dict[str, int] = {}
        for i in range(c.layers):
            start = self.map.top
            self.matrices = {}
            for name, parts in MATRICES.items():
                matrix = self.matrices[name] = self._matrix(f"layer {i} {name}", *parts_of(c, i, parts), body)
                self.offsets[name] = self._put_matrix(f"layer{i}.{name}", matrix) - start
            for name in ("input_layernorm", "post_attention_layernorm"):
                self.offsets[name] = self._put(
                    f"layer{i}.{name}", 4 * c.width, partial(model.layer, i, name), dtype="float32") - start
            sizes = {"keys": self.max_context // a.cols * self.key.tile_bytes,
                     "values": c.head_dim // a.cols * self.value.tile_bytes,
                     "value_scales": 4 * self.max_context}
            for h in range(c.kv_heads):
                for name, size in sizes.items():
                    self.offsets[f"{name}{h}"] = self.map.take(f"layer{i}.{name}{h}", size,
                                                               self.kv.name) - start
            if i == 0:
                self.layer_address, self.layer_bytes = start, self.map.top - start
        self.norm_address = self._put("norm", 4 * c.width, lambda: model.tensors["model.norm.weight"],
                                      dtype="float32")
        self.head = self._matrix("output head", [model.head_name], (c.vocab, c.width), head)
        self.head_address = self._put_matrix("head", self.head)
        if self.keep_logits:
            self.logit_address = self.map.take("logits", 4 * c.vocab * self.context, "float32",
                                               (self.context, c.vocab))
        require(self.map.top <= config.dram.size,
                f"{c.name} needs {self.map.top} bytes of DRAM, dram.size = {config.dram.size}")
        require(self.map.top < 1 << config.bus.address_bits,
                f"{c.name} needs {self.map.top} bytes, bus.address_bits = {config.bus.address_bits}")

    def _matrix(self, name: str, tensors: list[str], shape: tuple[int, int], dtype: WeightType) -> Matrix:
        """The rows of some tensors, one below the other, as one matrix [N, K]."""
        if self.model.shape_only:
            return shape_matrix(self.config, name, shape, dtype)
        weights = np.concatenate([self.model.tensors[tensor] for tensor in tensors])
        return make_matrix(self.config, name, quantised(self.config, weights, dtype))

    def _put_matrix(self, name: str, matrix: Matrix) -> int:
        return self._put(name, matrix.size, lambda: matrix.raw, dtype=matrix.dtype.name, layout=repr(matrix.layout))

    def _put(self, name: str, size: int, data: Callable[[], Any], **about: Any) -> int:
        """A place in DRAM with its contents, if the model has any."""
        if self.model.shape_only:
            return self.map.take(name, size, **about)
        return self.map.put(name, data(), **about)

    # --- Pieces of code.

    def in_layer(self, name: str, extra: int = 0) -> tuple[int, int]:
        return reg(LAYER, self.layer_address + self.offsets[name] + extra)

    def stream(self, name: str) -> None:
        self.b.part = name
        self.b.stream(self.in_layer(name), *self.matrices[name].run())

    def matmul(self, matrix: Matrix, *, slot: int, rows: tuple[int, int] | int, tiles: int = 0) -> None:
        self.b.matmul(rows=rows, act=0, tiles=tiles or matrix.tiles, out=0, out_stride=self.places.m_row,
                      slot=slot, **matrix.matmul_fields())

    def quantise(self, *, slot: int, length: object, pad: object = 0, source: tuple[SourceA, object],
                 bits: int, row: bool = True, factor: float = 1.0, divide_total: bool = False, act: int = 0,
                 parts: Parts | None = None) -> None:
        """Activations of one row, from word `act` on, out of a vector whose largest magnitude is in S_SUM.

        The row scale is ``absmax / top``, times `factor`, or times scalar S_TOTAL.
        """
        b = self.b
        number = 16 * slot
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SUM, multiply=Factor.IMMEDIATE,
                 immediate=1.0 / act_max(bits), destination=Destination.SCALAR, dst=S_SCALE)
        if divide_total:
            scaled: dict[str, Any] = {"multiply": Factor.SCALAR, "multiply_scalar": S_TOTAL}
        else:
            scaled = {"multiply": Factor.IMMEDIATE, "immediate": float(factor)}
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, **scaled,
                 destination=Destination.ROW_SCALE, dst=reg(ROW, number) if row else number, parts=parts)
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, function=Function.RECIP,
                 destination=Destination.SCALAR, dst=S_INVERSE)
        b.vector(len=length, pad=pad, a_source=source[0], a=source[1], multiply=Factor.SCALAR,
                 multiply_scalar=S_INVERSE, function=Function.INT, bits=_BITS[bits],
                 destination=Destination.ACT, dst=reg(self.act_row, act) if row else act, parts=parts)

    def norm(self, x: object, work: object) -> None:
        """RMSNorm of a residual row with the gain in bank L into `work`; largest magnitude in S_SUM."""
        b, c, p = self.b, self.c, self.places
        b.vector(len=c.width, a=x, multiply=Factor.B, b=x, b_source=SourceB.X, reduction=Reduction.SUM,
                 scalar=S_SUM)
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SUM, multiply=Factor.IMMEDIATE,
                 immediate=1.0 / c.width, addend=Factor.SCALAR, addend_scalar=S_EPS,
                 function=Function.RSQRT, destination=Destination.SCALAR, dst=S_NORM)
        b.vector(len=c.width, a=x, multiply=Factor.SCALAR, multiply_scalar=S_NORM,
                 destination=Destination.X, dst=work)
        b.vector(len=c.width, a=work, multiply=Factor.B, b=p.gamma, b_source=SourceB.L,
                 destination=Destination.X, dst=work, reduction=Reduction.ABSMAX, scalar=S_SUM)

    def rows(self, name: str, *, act: bool = False):
        """Loop over the tokens of the step; ROW_X and ROW_M lead to the row's words."""
        return _Rows(self, name, act)

    # --- The program.

    def compile(self) -> Program:
        b, c = self.b, self.c
        b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=c.norm_eps, destination=Destination.SCALAR,
                 dst=S_EPS)
        b.set(POSITION, 0, START)
        b.label("step")
        self._step_sizes()
        b.part = "embedding"
        self._embed()
        b.set(LAYER, 0)
        self.stream("qkv")
        if self.config.array.rows > 1:
            b.set(T1, 1)
            b.branch(Operation.BGE, T1, TOKENS, "one")
            self._layers("layers")
            b.control(Operation.BEQ, target="logits")
            b.label("one")
            for register in (ROW, ROW_M, ROW_X):
                b.set(register, 0)
        self._layers("one token's layers")
        b.label("logits")
        b.branch(Operation.BLT, CONTEXT, PROMPT, "advance")
        b.part = "head"
        self._next_token()
        b.part = "step"
        b.label("advance")
        b.control(Operation.ADD, rd=POSITION, ra=CONTEXT, rb=0)
        b.branch(Operation.BGE, POSITION, LAST, "end")
        b.branch(Operation.BLT, POSITION, PROMPT, "step")
        # A generated token is read back like one of the prompt; the end token ends the program.
        b.control(Operation.SHL, rd=T1, ra=POSITION, value=2)
        b.load_register(T2, reg(T1, self.token_address), "tokens")
        b.branch(Operation.BNE, T2, EOS, "step")
        b.label("end")
        b.control(Operation.END)
        words = b.words()
        limit = self.config.memory.program
        require(len(words) <= limit, f"{c.name} takes {len(words)} instructions, memory.program = {limit}")
        info = {"model": c.name, "architecture": "llama", "context": self.context, "vocab": c.vocab,
                "weights": self.config.types.weights, "head": self.config.types.head_weights,
                "group_size": self.config.types.group_size, "acts": self.config.types.acts,
                "kv": self.config.types.kv, "config": self.config.name,
                "layers": c.layers, "parts": b.sections()}
        return Program(self.config.hardware_hash(), to_array(words), self.map.segments,
                       self.map.symbols, info)

    def _layers(self, label: str) -> None:
        """All layers, in a loop. Code for a single token has no loop over tokens, so that nothing in a layer
        waits for all that came before it: row registers are 0 there."""
        b, c = self.b, self.c
        self.looped = label == "layers"
        b.label(label)
        self._attention()
        self._mlp()
        b.part = "step"
        b.set(LAYER, self.layer_bytes, LAYER)
        b.set(T1, -c.layers * self.layer_bytes, LAYER)
        b.branch(Operation.BLT, T1, 0, label)

    @property
    def act_row(self) -> int:
        """The register with a row's place in the activation buffer."""
        return T1 if self.looped else 0

    def _step_sizes(self) -> None:
        """TOKENS, CONTEXT, KEY_TILES, VALUE_STEPS, VALUE_BEATS of this step."""
        b, a = self.b, self.config.array
        b.control(Operation.SUB, rd=TOKENS, ra=PROMPT, rb=POSITION)
        b.set(T1, 1)
        b.control(Operation.BGE, ra=TOKENS, rb=T1, target="prompt")
        b.set(TOKENS, 1)
        b.label("prompt")
        b.set(T1, a.rows)
        b.control(Operation.MIN, rd=TOKENS, ra=TOKENS, rb=T1)
        b.control(Operation.ADD, rd=CONTEXT, ra=POSITION, rb=TOKENS)
        b.set(T1, a.cols - 1, CONTEXT)
        b.control(Operation.SHR, rd=KEY_TILES, ra=T1, value=a.cols.bit_length() - 1)
        b.set(T1, a.lanes - 1, CONTEXT)
        b.control(Operation.SHR, rd=VALUE_STEPS, ra=T1, value=a.lanes.bit_length() - 1)
        beat = self.config.beat_bytes
        b.control(Operation.MULI, rd=T1, ra=VALUE_STEPS, value=self.value.step_bytes)
        b.set(T1, beat - 1, T1)
        b.control(Operation.SHR, rd=VALUE_BEATS, ra=T1, value=beat.bit_length() - 1)

    def _embed(self) -> None:
        b, c, p, beat = self.b, self.c, self.places, self.config.beat_bytes
        with self.rows("embed"):
            b.control(Operation.ADD, rd=T1, ra=POSITION, rb=ROW)
            b.control(Operation.SHL, rd=T2, ra=T1, value=2)
            b.load_register(T2, reg(T2, self.token_address), "tokens")
            b.control(Operation.MULI, rd=T2, ra=T2, value=self.embedding_row)
            b.load(reg(T2, self.embedding_address), p.gamma, 1)
            b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=1.0, multiply=Factor.B, b=p.gamma,
                     b_source=SourceB.L, destination=Destination.SCALAR, dst=S_SCALE)
            b.load(reg(T2, self.embedding_address + beat), 0, c.width, LoadFormat.INT8)
            b.vector(len=c.width, a_source=SourceA.SCALAR, a=S_SCALE, multiply=Factor.B, b=0,
                     b_source=SourceB.L, destination=Destination.X, dst=reg(ROW_X, p.x))
            b.control(Operation.MULI, rd=T1, ra=T1, value=4 * c.head_dim)
            b.control(Operation.MULI, rd=T2, ra=ROW, value=p.rope_row)
            b.load(reg(T1, self.rope_address), reg(T2, p.rope), c.head_dim)

    def _attention(self) -> None:
        """Attention of a layer. While one head's softmax is computed, the array multiplies the next head's keys, and
        the keys and values of the head after that are rotated, quantised and stored."""
        b, c, p, t = self.b, self.c, self.places, self.config.types
        per_kv = c.heads // c.kv_heads
        b.part = "qkv"
        b.load(self.in_layer("input_layernorm"), p.gamma, c.width, parts={"L": "gamma"})
        with self.rows("norm1", act=True):
            self.norm(reg(ROW_X, p.x), reg(ROW_X, p.work))
            self.quantise(slot=0, length=c.width, source=(SourceA.X, reg(ROW_X, p.work)), bits=t.acts)
        self.matmul(self.matrices["qkv"], slot=0, rows=reg(TOKENS))
        self._store_cache(0)
        for h in range(c.heads + 1):
            # Streams first: what they bring lies ready while the vector unit is at work.
            if h < c.heads:
                self._stream_keys(h)
            if h > 0:
                self._stream_values(h - 1)
            if h == c.heads:
                self.stream("o")
            if h < c.heads:
                if h % per_kv == 0 and h // per_kv + 1 < c.kv_heads:
                    self._store_cache(h // per_kv + 1)
                self._scores(h)
            if h > 0:
                self._values(h - 1)
        b.part = "o"
        with self.rows("quantise_o", act=True):
            source = (SourceA.M, reg(ROW_M, p.heads))
            n = c.heads * c.head_dim
            parts = {"M": "heads"}
            b.vector(len=n, a_source=SourceA.M, a=source[1], reduction=Reduction.ABSMAX, scalar=S_SUM, parts=parts)
            self.quantise(slot=0, length=n, source=source, bits=t.acts, parts=parts)
        self.matmul(self.matrices["o"], slot=0, rows=reg(TOKENS))

    def _rotate(self, start: int, n: int) -> None:
        """RoPE on `n` of a row's heads, queries first, then keys: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
        b, c, p = self.b, self.c, self.places
        half = c.head_dim // 2 // self.lanes
        b.control(Operation.MULI, rd=T1, ra=ROW, value=p.rope_row)
        cos, sin = reg(T1, p.rope), reg(T1, p.rope + half)
        first, second = reg(ROW_M, 2 * half * start), reg(ROW_M, 2 * half * start + half)
        out = p.qk + 2 * half * start
        t1, t2 = reg(ROW_X, p.work), reg(ROW_X, p.work + n * half)

        def product(source: object, table: object, dst: object) -> None:
            b.vector(len=c.head_dim // 2, outer=n - 1, a_source=SourceA.M, a=source, a_stride=2 * half,
                     multiply=Factor.B, b_source=SourceB.L, b=table, destination=Destination.X, dst=dst,
                     dst_stride=half, parts={"M": "qkv", "L": "rope"})

        def combine(negate: int, dst: object) -> None:
            b.vector(len=c.head_dim // 2, outer=n - 1, a=t1, a_stride=half, addend=Factor.B, b_source=SourceB.X,
                     b=t2, b_stride=half, negate_addend=negate, destination=Destination.X, dst=dst,
                     dst_stride=2 * half)

        product(first, cos, t1)
        product(second, sin, t2)
        combine(1, reg(ROW_X, out))
        product(second, cos, t1)
        product(first, sin, t2)
        combine(0, reg(ROW_X, out + half))

    def _store_cache(self, h: int) -> None:
        """Rotate key-value head `h` and its queries, quantise key and value, and write them where the array will
        read them."""
        b, c, p, a = self.b, self.c, self.places, self.config.array
        dim = c.head_dim // self.lanes
        b.part = "cache"
        packed = {"mode": StoreMode.PACKED, "bits": self.kv.bits}

        def split(tile: int, tile_bytes: int, within: int) -> None:
            """T2 = (T1 / tile) * tile_bytes + (T1 % tile) * within, on top of the layer's address."""
            b.control(Operation.SHR, rd=T2, ra=T1, value=tile.bit_length() - 1)
            b.control(Operation.MULI, rd=T2, ra=T2, value=tile_bytes)
            b.control(Operation.ANDI, rd=ROW_M, ra=T1, value=tile - 1)
            b.control(Operation.MULI, rd=ROW_M, ra=ROW_M, value=within)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=ROW_M)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)

        def codes(source: SourceA, at: tuple[int, int], place: int, parts: Parts) -> None:
            """Integers of one head into bank S, their scale into the word behind them."""
            b.vector(len=c.head_dim, a_source=source, a=at, reduction=Reduction.ABSMAX, scalar=S_SUM, parts=parts)
            b.vector(len=1, a_source=SourceA.SCALAR, a=S_SUM, multiply=Factor.IMMEDIATE,
                     immediate=1.0 / act_max(self.kv.bits), destination=Destination.SCALAR, dst=S_SCALE)
            b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, function=Function.RECIP,
                     destination=Destination.SCALAR, dst=S_INVERSE)
            b.vector(len=c.head_dim, a_source=source, a=at, multiply=Factor.SCALAR,
                     multiply_scalar=S_INVERSE, function=Function.INT, bits=_BITS[self.kv.bits],
                     destination=Destination.S, dst=place, parts=parts)
            b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, destination=Destination.S, dst=place + dim,
                     parts=parts)

        key, value = {"S": "key", "M": "qkv"}, {"S": "value", "M": "qkv"}
        keys, values = f"keys{h}", f"values{h}"
        per_kv = c.heads // c.kv_heads
        with self.rows(f"cache{h}"):
            self._rotate(c.heads + h, 1)
            codes(SourceA.X, reg(ROW_X, p.qk + (c.heads + h) * dim), 0, key)
            codes(SourceA.M, reg(ROW_M, (c.heads + c.kv_heads + h) * dim), dim + 1, value)
            b.control(Operation.ADD, rd=T1, ra=POSITION, rb=ROW)
            split(a.cols, self.key.tile_bytes, a.lanes * self.kv.bits // 8)
            b.store(reg(T2, self.layer_address + self.offsets[keys] + self.key.header_bytes), 0,
                    c.head_dim // a.lanes, keys, piece=a.lanes, run_stride=self.key.step_bytes, parts=key,
                    **packed)
            split(a.cols, self.key.tile_bytes, 4)
            b.store(reg(T2, self.layer_address + self.offsets[keys]), dim, 1, keys, parts=key)
            split(a.lanes, self.value.step_bytes, a.cols * self.kv.bits // 8)
            b.store(reg(T2, self.layer_address + self.offsets[values]), dim + 1, c.head_dim // a.cols, values,
                    piece=a.cols, run_stride=self.value.tile_bytes, parts=value, **packed)
            b.control(Operation.SHL, rd=T2, ra=T1, value=2)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)
            b.store(reg(T2, self.layer_address + self.offsets[f"value_scales{h}"]), 2 * dim + 1, 1, values,
                    parts=value)
            b.control(Operation.MULI, rd=ROW_M, ra=ROW, value=p.m_row)
            self._rotate(h * per_kv, per_kv)

    def _head_matmul(self, h: int, operand: str, **fields: Any) -> None:
        """A matmul with keys or values; `operand` names what it takes from the activation buffer."""
        p = self.places
        parts = p.parts(h) | {"ACT": operand, "ROW_SCALE": operand}
        if operand.startswith("p"):
            parts["M"] = "heads"
        self.b.matmul(kind=int(self.kv.kind), planes=self.kv.bits, groups=1, out_stride=p.m_row, rows=reg(TOKENS),
                      parts=parts, **fields)

    def _operand(self, name: str, pair: tuple[int, int], h: int) -> tuple[int, str, Parts]:
        """A head's place in the activation buffer in words, its name, and the parts that are written with it."""
        if self.places.query == self.places.probabilities:  # no room to tell them apart
            return pair[0], f"{name}x", {}
        part = f"{name}{h % 2 if pair[0] != pair[1] else 0}"
        return pair[h % 2], part, {"ACT": part, "ROW_SCALE": part}

    def _scores(self, h: int) -> None:
        """Query times keys, for all tokens of the step."""
        b, c, p, a, t = self.b, self.c, self.places, self.config.array, self.config.types
        kv = h // (c.heads // c.kv_heads)
        dim = c.head_dim // self.lanes
        b.part = "scores"
        at, operand, parts = self._operand("q", p.query, h)
        slot = 1 if h % 2 else 3
        b.load(self.in_layer(f"value_scales{kv}"), p.vscale[h % 2], reg(CONTEXT), region=f"values{kv}",
               parts=p.parts(h))
        with self.rows(f"query{h}", act=True):
            source = (SourceA.X, reg(ROW_X, p.qk + h * dim))
            b.vector(len=c.head_dim, a=source[1], reduction=Reduction.ABSMAX, scalar=S_SUM)
            # Scores come out in units of ln 2 and divided by sqrt(head_dim), ready for exp2.
            self.quantise(slot=slot, length=c.head_dim, source=source, bits=t.acts, act=at, parts=parts,
                          factor=math.log2(math.e) / math.sqrt(c.head_dim))
        self._head_matmul(h, operand, tiles=reg(KEY_TILES), steps=self.key.steps, out=p.scores[h % 2], slot=slot,
                          channel_scales=1, order=CodeOrder.COLUMNS, act=at * self.lanes // a.lanes)

    def _stream_keys(self, h: int) -> None:
        self.b.part = "scores"
        kv, beats = h // (self.c.heads // self.c.kv_heads), self.key.tile_beats
        self.b.stream(self.in_layer(f"keys{kv}"), reg(KEY_TILES), beats, beats, f"keys{kv}")

    def _stream_values(self, h: int) -> None:
        c, a = self.c, self.config.array
        self.b.part = "values"
        kv = h // (c.heads // c.kv_heads)
        self.b.stream(self.in_layer(f"values{kv}"), c.head_dim // a.cols, reg(VALUE_BEATS), self.value.tile_beats,
                      f"values{kv}")

    def _values(self, h: int) -> None:
        """Softmax of the scores, and the values weighted with it."""
        b, c, p, a, t = self.b, self.c, self.places, self.config.array, self.config.types
        dim = c.head_dim // self.lanes
        b.part = "values"
        at, operand, parts = self._operand("p", p.probabilities, h)
        ours, slot = p.parts(h), 2 if h % 2 else 0
        with self.rows(f"softmax{h}", act=True):
            b.control(Operation.ADD, rd=T2, ra=POSITION, rb=ROW)
            b.set(T2, 1, T2)
            scores, work, n = reg(ROW_M, p.scores[h % 2]), reg(ROW_X, p.work), reg(T2)
            b.vector(len=n, a_source=SourceA.M, a=scores, reduction=Reduction.MAX, scalar=S_BEST, parts=ours)
            b.vector(len=n, a_source=SourceA.M, a=scores, addend=Factor.SCALAR, addend_scalar=S_BEST,
                     negate_addend=1, function=Function.EXP2, destination=Destination.X, dst=work,
                     reduction=Reduction.SUM, scalar=S_TOTAL, parts=ours)
            b.vector(len=1, a_source=SourceA.SCALAR, a=S_TOTAL, function=Function.RECIP,
                     destination=Destination.SCALAR, dst=S_TOTAL)
            b.vector(len=n, a=work, multiply=Factor.B, b=p.vscale[h % 2], b_source=SourceB.L,
                     destination=Destination.X, dst=work, reduction=Reduction.ABSMAX, scalar=S_SUM, parts=ours)
            self.quantise(slot=slot, length=n, pad=reg(CONTEXT), source=(SourceA.X, work), bits=t.acts,
                          divide_total=True, act=at, parts=parts)
        self._head_matmul(h, operand, tiles=c.head_dim // a.cols, steps=reg(VALUE_STEPS), out=p.heads + h * dim,
                          slot=slot, order=CodeOrder.LANES, act=at * self.lanes // a.lanes)

    def _residual(self) -> None:
        p = self.places
        self.b.vector(len=self.c.width, a=reg(ROW_X, p.x), addend=Factor.B, b_source=SourceB.M,
                      b=reg(ROW_M, 0), destination=Destination.X, dst=reg(ROW_X, p.x))

    def _mlp(self) -> None:
        b, c, p, t = self.b, self.c, self.places, self.config.types
        b.part = "gate_up"
        b.load(self.in_layer("post_attention_layernorm"), p.gamma, c.width)
        self.stream("gate_up")
        with self.rows("norm2", act=True):
            self._residual()
            self.norm(reg(ROW_X, p.x), reg(ROW_X, p.work))
            self.quantise(slot=0, length=c.width, source=(SourceA.X, reg(ROW_X, p.work)), bits=t.acts)
        self.matmul(self.matrices["gate_up"], slot=0, rows=reg(TOKENS))
        self.stream("down")
        with self.rows("silu", act=True):
            gate, up, work = reg(ROW_M, 0), reg(ROW_M, c.ffn // self.lanes), reg(ROW_X, p.work)
            # x * sigmoid(x), sigmoid(x) = 1 / (1 + 2^(-x / ln 2))
            b.vector(len=c.ffn, a_source=SourceA.M, a=gate, multiply=Factor.IMMEDIATE,
                     immediate=-math.log2(math.e), function=Function.EXP2, destination=Destination.X,
                     dst=work)
            b.vector(len=c.ffn, a=work, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP,
                     destination=Destination.X, dst=work)
            b.vector(len=c.ffn, a=work, multiply=Factor.B, b_source=SourceB.M, b=gate,
                     destination=Destination.X, dst=work)
            b.vector(len=c.ffn, a=work, multiply=Factor.B, b_source=SourceB.M, b=up,
                     destination=Destination.X, dst=work, reduction=Reduction.ABSMAX, scalar=S_SUM)
            self.quantise(slot=0, length=c.ffn, source=(SourceA.X, work), bits=t.acts)
        self.matmul(self.matrices["down"], slot=0, rows=reg(TOKENS))
        b.part = "qkv"
        # The next layer's first weights come while this layer ends; behind the last layer, none.
        tiles, beats, stride = self.matrices["qkv"].run()
        b.set(T1, -(c.layers - 1) * self.layer_bytes, LAYER)
        b.control(Operation.SHR, rd=T1, ra=T1, value=31)
        b.control(Operation.SHR, rd=T1, ra=T1, value=31)
        b.control(Operation.ANDI, rd=T1, ra=T1, value=tiles)
        b.stream(self.in_layer("qkv", self.layer_bytes), reg(T1), beats, stride)
        b.part = "down"
        with self.rows("residual2"):
            self._residual()

    def _next_token(self) -> None:
        """Logits of the step's last token, and their argmax as the next token."""
        b, c, p, t = self.b, self.c, self.places, self.config.types
        cols, v = self.config.array.cols, self.lanes
        b.load(self.norm_address, p.gamma, c.width)
        b.set(ROW, -1, TOKENS)
        b.control(Operation.MULI, rd=ROW_X, ra=ROW, value=p.x_row)
        self.norm(reg(ROW_X, p.x), reg(ROW_X, p.work))
        self.quantise(slot=0, length=c.width, source=(SourceA.X, reg(ROW_X, p.work)), bits=t.acts, row=False)
        b.control(Operation.SUB, rd=T1, ra=CONTEXT, rb=PROMPT)
        b.control(Operation.MULI, rd=T1, ra=T1, value=c.vocab)
        b.control(Operation.SHL, rd=T1, ra=T1, value=2)
        beats = self.head.layout.tile_beats
        for first in range(0, self.head.tiles, p.chunk):
            tiles = min(p.chunk, self.head.tiles - first)
            b.stream(self.head_address + first * self.head.layout.tile_bytes, tiles, beats, beats)
            self.matmul(self.head, slot=0, rows=1, tiles=tiles)
            n = min(tiles * cols, c.vocab - first * cols)
            b.vector(len=n, a_source=SourceA.M, a=0, b=first * cols // v, destination=Destination.S, dst=0,
                     reduction=Reduction.ARGMAX, scalar=S_BEST, keep=int(first > 0))
            if self.keep_logits:
                b.store(reg(T1, self.logit_address + 4 * first * cols), 0, n, "logits")
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_TOKEN, destination=Destination.S, dst=0)
        b.control(Operation.SHL, rd=T1, ra=CONTEXT, value=2)
        b.store(reg(T1, self.token_address), 0, 1, "tokens")


class _Rows:
    """Context manager of `LlamaCompiler.rows`."""

    def __init__(self, compiler: LlamaCompiler, name: str, act: bool):
        self.compiler, self.act = compiler, act
        self.loop = compiler.b.loop(name, ROW, TOKENS)

    def __enter__(self) -> None:
        b, p = self.compiler.b, self.compiler.places
        if not self.compiler.looped:
            return
        self.loop.__enter__()
        b.control(Operation.MULI, rd=ROW_M, ra=ROW, value=p.m_row)
        b.control(Operation.MULI, rd=ROW_X, ra=ROW, value=p.x_row)
        if self.act:
            b.control(Operation.SHL, rd=T1, ra=ROW, value=12)

    def __exit__(self, *error: Any) -> None:
        if self.compiler.looped:
            self.loop.__exit__(*error)


def compile_model(model: Model, config: Config, *, context: int = 0, keep_logits: bool = True) -> Program:
    """Compile a Llama-architecture model.

    Parameters
    ----------
    context : int
        Longest sequence; 0 for what the model was trained for.
    keep_logits : bool
        Write the logits of every generated token to DRAM, for comparison.

    Raises
    ------
    CompileError
        The model does not fit the configuration; the message has the numbers.
    """
    return LlamaCompiler(model, config, context=context, keep_logits=keep_logits).compile()


__all__ = ["CompileError", "compile_model"]
