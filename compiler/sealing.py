"""Sealing: a full group of keys, kept as float32 until now, is quantised per channel (KIVI, arXiv 2402.02750).

A step that begins a new group does this first, for every layer and head: the scale of every channel over the tokens of
the group (`Sealing._signed_scale`), then integers in the layout in which the array reads keys. The magnitude of the
largest scale that a channel ever had is kept as well: it bounds what a query can become (`Attention._sealed_scores`).
"""

from typing import Any

from wordline.compiler.blocks import Blocks
from wordline.compiler.builder import reg
from wordline.compiler.operands import (
    CONTEXT,
    KEY_TILES,
    LAYER,
    POSITION,
    ROW,
    ROW_M,
    ROW_X,
    STORED_BITS,
    T1,
    T2,
    TOKENS,
    VALUE_BEATS,
    VALUE_STEPS,
    Vec,
    to_x,
)
from wordline.rtl.isa import (
    Destination,
    Factor,
    Function,
    Join,
    Operation,
    SourceA,
    SourceB,
    StoreMode,
)

# Registers, before the step gives them their meaning: bytes of sealed tiles and of scales before the group's; the
# numbers to be stored if the group is the first; heads and their counter; the head's block of DRAM, from its layer on.
TILE_BYTES, SCALE_BYTES, IF_FIRST, HEADS, HEAD, HEAD_AT = CONTEXT, VALUE_STEPS, KEY_TILES, TOKENS, ROW, ROW_X
TILES, TILE = VALUE_BEATS, ROW_M
#: Added to the difference of what a channel reaches above and below zero, so that it is not zero.
SIGN_OF_ZERO = 1e-30


class Sealing(Blocks):
    """Emits the sealing of the group before POSITION. Banks X, L and S hold nothing else at that time."""

    def seal(self) -> None:
        """If a group has just become full, seal it."""
        b, c, image, group = self.b, self.c, self.image, self.image.sizes.group
        b.part = "seal"
        b.control(Operation.ANDI, rd=T1, ra=POSITION, value=group - 1)
        b.branch(Operation.BNE, T1, 0, "sealed")
        b.branch(Operation.BEQ, POSITION, 0, "sealed")
        b.control(Operation.SHR, rd=T1, ra=POSITION, value=group.bit_length() - 1)
        b.set(T1, -1, T1)
        b.control(Operation.MULI, rd=TILE_BYTES, ra=T1, value=group // self.config.array.cols * image.sealed.tile_bytes)
        b.control(Operation.MULI, rd=SCALE_BYTES, ra=T1, value=4 * c.head_dim)
        b.set(T1, -1, T1)
        b.control(Operation.SHR, rd=T1, ra=T1, value=31)
        b.control(Operation.ANDI, rd=IF_FIRST, ra=T1, value=c.head_dim)
        b.set(HEADS, image.batch * c.kv_heads)
        b.set(TILES, self.places.seal_tokens // self.config.array.cols)
        b.set(LAYER, 0)
        b.label("seal layer")
        b.set(HEAD_AT, 0, LAYER)
        with b.loop("seal head", HEAD, HEADS):
            self._seal_head()
            b.set(HEAD_AT, image.cache_bytes // c.kv_heads, HEAD_AT)
        b.set(LAYER, image.layer_bytes, LAYER)
        b.set(T1, -c.layers * image.layer_bytes, LAYER)
        b.branch(Operation.BLT, T1, 0, "seal layer")
        for register in (ROW, ROW_M, ROW_X):  # as code for one token expects them
            b.set(register, 0)
        b.label("sealed")

    def _in_head(self, name: str, extra: int = 0, base: int = HEAD_AT) -> tuple[int, int]:
        return reg(base, self.image.layer_address + self.image.offsets[f"{name}0"] + extra)

    def _seal_head(self) -> None:
        b, p, n = self.b, self.places, self.c.head_dim
        tokens, words = p.seal_tokens, n // self.lanes
        # Bank X: a part's keys, of which the largest end up in the first words; behind them, of the whole group, the
        # largest and the negative smallest, which become inverse scales and the scales' magnitudes.
        inverse = tokens * words
        high, low, work, scale = (Vec(SourceA.X, at) for at in (inverse, inverse + words, 0, words))
        parts = range(0, self.image.sizes.group, tokens)
        for first in parts:
            self._load_keys(first)
            for sign, largest in ((1.0, inverse), (-1.0, inverse + words)):
                b.vector(len=tokens * n, a_source=SourceA.IMMEDIATE, immediate=sign, multiply=Factor.B, b=0,
                         b_source=SourceB.L, **to_x(0))
                half = tokens // 2
                while half > 1:
                    self._larger(half * n, 0, half * words)
                    half //= 2
                if first > 0:
                    self._larger(n, 0, words)
                    self._larger(n, largest, 0)
                else:
                    b.vector(len=n, **work.a, addend=Factor.B, **scale.b, join=Join.MAX, **to_x(largest))
        self._signed_scale(high, low, work, scale)
        b.vector(len=n, **scale.a, function=Function.RECIP, **to_x(inverse))
        b.vector(len=n, **scale.a, multiply=Factor.IMMEDIATE, immediate=-1.0, addend=Factor.B, **scale.b, join=Join.MAX,
                 **to_x(low.at))
        b.vector(len=n, **low.a, destination=Destination.S, dst=0)
        b.store(self._in_head("channels"), 0, reg(IF_FIRST), "channels")
        b.vector(len=n, **scale.a, destination=Destination.S, dst=0)
        b.control(Operation.ADD, rd=T2, ra=HEAD_AT, rb=SCALE_BYTES)
        b.store(self._in_head("channels", 4 * n, T2), 0, n, "channels")
        b.control(Operation.ADD, rd=T2, ra=HEAD_AT, rb=TILE_BYTES)
        for first in parts:
            if len(parts) > 1:
                self._load_keys(first)
            self._codes(f"seal tile {first}", inverse)
        b.load(self._in_head("channels"), 0, n, region="channels")
        b.vector(len=n, **low.a, addend=Factor.B, b=0, b_source=SourceB.L, join=Join.MAX,
                 destination=Destination.S, dst=0)
        b.store(self._in_head("channels"), 0, n, "channels")

    def _signed_scale(self, high: Vec, low: Vec, work: Vec, scale: Vec) -> None:
        """The scales of channels that lie between ``-low`` and ``high`` (both are used up), for integers that take all
        codes.

        Such integers have one code more below zero than above. The scale's sign turns them so that it lies on the side
        that reaches further: ``+-max(smaller / (top - 1), larger / top)``, with ``top = 2^(bits - 1)``.
        """
        b, n, top = self.b, self.c.head_dim, 1 << (self.image.sizes.kv.bits - 1)

        def part(x: Vec, of: int) -> dict[str, Any]:
            return {"len": n, **x.a, "multiply": Factor.IMMEDIATE, "immediate": 1.0 / of}

        def plus(x: Vec) -> dict[str, Any]:
            return {"addend": Factor.B, **x.b}

        b.vector(**part(low, top), **to_x(work.at))
        b.vector(**part(high, top - 1), **plus(work), join=Join.MAX, **to_x(scale.at))  # the scale, were it positive
        b.vector(**part(high, top), **to_x(work.at))
        b.vector(**part(low, top - 1), **plus(work), join=Join.MAX, **to_x(work.at))  # its magnitude, were it negative
        b.vector(len=n, **scale.a, **plus(work), negate_product=1, negate_addend=1, join=Join.MAX, **to_x(work.at))
        # Work has minus the smaller of the two. Its sign is that of high - low, where zero counts as positive.
        b.vector(len=n, **high.a, **plus(low), negate_addend=1, **to_x(high.at))
        b.vector(len=n, **high.a, addend=Factor.IMMEDIATE, immediate=SIGN_OF_ZERO, **to_x(high.at))
        b.vector(len=n, **high.a, multiply=Factor.IMMEDIATE, immediate=-1.0, **plus(high), join=Join.MAX,
                 function=Function.RECIP, **to_x(low.at))
        b.vector(len=n, **high.a, multiply=Factor.B, **low.b, **to_x(high.at))
        b.vector(len=n, **high.a, multiply=Factor.B, **work.b, **to_x(scale.at))

    def _load_keys(self, first: int) -> None:
        """The keys of `seal_tokens` tokens into bank L."""
        n = self.c.head_dim
        self.b.load(self._in_head("staged", 4 * n * first), 0, self.places.seal_tokens * n)

    def _larger(self, length: int, a: int, b: int) -> None:
        """The larger of two vectors in bank X, element by element, in place of the first."""
        self.b.vector(len=length, a=a, addend=Factor.B, b=b, b_source=SourceB.X, join=Join.MAX, **to_x(a))

    def _codes(self, name: str, inverse: int) -> None:
        """Integers of the keys in bank L, to the tiles from T2 on, which moves on behind them."""
        b, a, image, n = self.b, self.config.array, self.image, self.c.head_dim
        bits, v = image.sizes.kv.bits, self.lanes
        step = a.cols * a.lanes // v  # words in bank S
        places = min(2, self.config.memory.store_floats // v // step)
        b.set(T1, 0)
        with b.loop(name, TILE, TILES):
            for s in range(image.sealed.steps):
                place, parts = s % places * step, {"S": f"step{s % places}"}
                b.vector(len=min(a.lanes, n - s * a.lanes), pad=a.lanes, outer=a.cols - 1, a=inverse + s * a.lanes // v,
                         multiply=Factor.B, b=reg(T1, s * a.lanes // v), b_source=SourceB.L, b_stride=n // v,
                         function=Function.INT, bits=STORED_BITS[bits], destination=Destination.S, dst=place,
                         dst_stride=a.lanes // v, parts=parts)
                b.store(self._in_head("sealed", s * image.sealed.step_bytes, T2), place, a.cols, "sealed", parts=parts,
                        mode=StoreMode.PACKED, bits=bits, piece=a.lanes, run_stride=a.lanes * bits // 8)
            b.set(T1, a.cols * n // v, T1)
            b.set(T2, image.sealed.tile_bytes, T2)
