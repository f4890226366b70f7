"""The recurrence that MatMul-free LM has in the place of attention (Zhu et al., arXiv 2406.02528, section 3.3): MLGRU.

Of a layer's normed input x there are three projections, each behind an RMSNorm of its own. Elementwise,
``f = sigmoid(W_f x)``, but not below the layer's lower bound; ``h_t = f * h_(t-1) + (1 - f) * silu(W_i x)``; and what o
takes is ``RMSNorm(W_g x) * silu(h_t)``. So the norm is that of the gate, and the state passes a SiLU: that is how the
released models (``hgrn_bit``) compute it; the paper writes the gate as a sigmoid.

The state is in DRAM, float32. Every token, a row of the step, reads it and writes it, one after the other, so a
prompt gives the same bits whatever the number of rows. Of a batch every row has its own.
"""

import math

from wordline.compiler.activations import activate
from wordline.compiler.blocks import Blocks
from wordline.compiler.builder import Operand, reg
from wordline.compiler.operands import (
    ABSMAX,
    LAYER,
    POSITION,
    ROW,
    ROW_M,
    ROW_X,
    S_NORM,
    T1,
    T2,
    TOKENS,
    Vec,
    to_x,
)
from wordline.rtl.isa import Destination, Factor, Function, Operation, SourceA, SourceB


class Recurrence(Blocks):
    """Emits the recurrence of a layer. Its vectors come through two places in bank L in turn."""

    def clear_state(self, begin: str) -> None:
        """All states are zero before position 0; a program that starts behind it finds them in DRAM. `begin` is the
        label of the first step."""
        b, image = self.b, self.image
        b.branch(Operation.BNE, POSITION, 0, begin)
        b.set(LAYER, 0)
        b.label("clear")
        size = min(self.c.attention, self.config.memory.store_floats)
        b.vector(len=size, a_source=SourceA.IMMEDIATE, immediate=0.0, destination=Destination.S, dst=0)
        for sequence in range(self.batch):
            for first in range(0, self.c.attention, size):
                b.store(self.in_layer("state", sequence * image.cache_bytes + 4 * first), 0,
                        min(size, self.c.attention - first), "state")
        b.set(LAYER, image.layer_bytes, LAYER)
        b.set(T1, -self.c.layers * image.layer_bytes, LAYER)
        b.branch(Operation.BLT, T1, 0, "clear")

    def recurrence(self) -> None:
        """All of a layer between its first norm and the residual."""
        b, c, p, t, image = self.b, self.c, self.places, self.config.types, self.image
        b.part = "i"
        self.load_gain("self_attn.i_proj.norm", 0, c.width)
        self.stream("f")
        self.stream("g")
        b.part = "i"
        work = Vec(SourceA.X, reg(ROW_X, p.work))
        with self.rows("norm1"):
            self.norm(Vec(SourceA.X, reg(ROW_X, p.x)), work.at)
            # The three norms differ only in their gains.
            self.root_mean_square(work, c.width)
            b.vector(len=c.width, **work.a, multiply=Factor.SCALAR, multiply_scalar=S_NORM, **to_x(work.at))
        for j, name in enumerate("ifg"):
            b.part = name
            if j:
                self.load_gain(f"self_attn.{name}_proj.norm", j % 2, c.width)
            self._project(name, j % 2, p.acts[j % len(p.acts)], j * p.recurrent, slot=j)
        self.stream("o")
        if not self.looped:
            b.part = "state"
            self._load_vectors()
        b.part = "o"
        self.load_sub_norm("self_attn.attn_sub_norm", c.attention)
        with self.rows("state", act=True):
            b.part = "state"
            self._state_address()
            if self.looped:
                self._load_vectors()
            mixed = self._mix()
            b.part = "o"
            self.rms_norm(mixed, mixed.at, c.attention, p.sub_gain, {"L": "sub"})
            self.quantise(mixed, slot=0, length=c.attention, bits=t.acts)
        self.matmul(image.matrices["o"], slot=0, rows=reg(TOKENS))

    def _project(self, name: str, place: int, act: int, out: int, *, slot: int) -> None:
        """One of the three projections, of the normed input times its gain."""
        b, c, p = self.b, self.c, self.places
        scaled = Vec(SourceA.X, reg(ROW_X, p.work + p.recurrent))
        parts = {"ACT": name, "ROW_SCALE": name} if len(p.acts) == 3 else {}
        with self.rows(f"input_{name}", act=True):
            b.vector(len=c.width, a=reg(ROW_X, p.work), multiply=Factor.B, b=p.gains[place], b_source=SourceB.L,
                     **to_x(scaled.at), **ABSMAX, parts={"L": f"gain{place}"})
            self.quantise(scaled, slot=slot, length=c.width, bits=self.config.types.acts, act=act, parts=parts)
        self.matmul(self.image.matrices[name], slot=slot, rows=reg(TOKENS), act=act, out=out, parts=parts | {"M": name})

    def _state_address(self) -> None:
        """Of a batch, T2 leads to the state of the row's sequence, behind the layer's address."""
        if self.batch > 1:
            self.b.control(Operation.MULI, rd=T2, ra=ROW, value=self.image.cache_bytes)
            self.b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)

    def _state(self, extra: int = 0) -> tuple[int, int]:
        return self.in_layer("state", extra, T2 if self.batch > 1 else LAYER)

    def _load_vectors(self) -> None:
        if self.c.lower_bounds:
            self.load_gain("open", 1, self.c.attention)
        self.b.load(self._state(), self.places.gains[0], self.c.attention, region="state", parts={"L": "gain0"})

    def _mix(self) -> Vec:
        """A row's new state, and what comes of it."""
        b, c, p = self.b, self.c, self.places
        n, words = c.attention, c.attention // self.lanes

        def place(i: int, word: int = 0) -> Operand:
            return reg(ROW_X, p.work + i * p.recurrent + word)

        def projected(name: str) -> Vec:
            return Vec(SourceA.M, reg(ROW_M, "ifg".index(name) * p.recurrent), {"M": name})

        new, gate, state = place(0), place(1), place(2)
        activate(b, "silu", projected("i"), p.work, n, words, {})
        # 1 - f is sigmoid(-W_f x) times what the bound leaves open.
        forget = projected("f")
        b.vector(len=n, **forget.a, multiply=Factor.IMMEDIATE, immediate=math.log2(math.e), function=Function.EXP2,
                 **to_x(gate), parts=forget.parts)
        b.vector(len=n, a=gate, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP, **to_x(gate))
        if c.lower_bounds:
            b.vector(len=n, a=gate, multiply=Factor.B, b=p.gains[1], b_source=SourceB.L, **to_x(gate),
                     parts={"L": "gain1"})
        b.vector(len=n, a=new, multiply=Factor.B, b=gate, **to_x(new))
        b.vector(len=n, a=gate, negate_product=1, addend=Factor.IMMEDIATE, immediate=1.0, **to_x(gate))
        b.vector(len=n, a=gate, multiply=Factor.B, b=p.gains[0], b_source=SourceB.L, **to_x(gate), parts={"L": "gain0"})
        self.load_gain("self_attn.g_norm", 1, n)
        # Two halves of bank S, so that one is filled while the other is written to DRAM.
        half = self.config.memory.store_floats // 2
        for i, first in enumerate(range(0, n, half)):
            size, at, part = min(half, n - first), i % 2 * half // self.lanes, {"S": f"state{i % 2}"}
            behind = first // self.lanes
            b.vector(len=size, a=place(0, behind), addend=Factor.B, b=place(1, behind),
                     destination=Destination.S, dst=at, parts=part)
            b.store(self._state(4 * first), at, size, "state", parts=part)
        b.vector(len=n, a=new, addend=Factor.B, b=gate, **to_x(state))
        activate(b, "silu", Vec(SourceA.X, state), p.work, n, words, {})
        out, g = Vec(SourceA.X, gate), projected("g")
        self.root_mean_square(g, n)
        b.vector(len=n, **g.a, multiply=Factor.SCALAR, multiply_scalar=S_NORM, **to_x(out.at), parts=g.parts)
        b.vector(len=n, **out.a, multiply=Factor.B, b=p.gains[1], b_source=SourceB.L, **to_x(out.at),
                 parts={"L": "gain1"})
        b.vector(len=n, **out.a, multiply=Factor.B, b=new, **to_x(out.at))
        return out
