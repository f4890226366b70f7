"""Attention of a layer: queries, keys and values, the cache in DRAM, scores, softmax, and what the heads give."""

import math
from typing import Any

from wordline.compiler.blocks import Blocks
from wordline.compiler.builder import Operand, Parts, reg
from wordline.compiler.operands import (
    ABSMAX,
    CONTEXT,
    INT_BITS,
    KEY_TILES,
    LAYER,
    POSITION,
    ROW,
    ROW_M,
    ROW_X,
    S_BEST,
    S_INVERSE,
    S_NORM,
    S_SCALE,
    S_SHIFT,
    S_SUM,
    S_TOTAL,
    S_ZERO,
    SEALED,
    STORED_BITS,
    T1,
    T2,
    TOKENS,
    VALUE_BEATS,
    VALUE_STEPS,
    Vec,
    to_x,
)
from wordline.compiler.places import which
from wordline.pe.datatypes import WEIGHT_TYPES, WeightType, act_max
from wordline.rtl.isa import (
    CodeOrder,
    Destination,
    Factor,
    Function,
    Operation,
    Reduction,
    SourceA,
    SourceB,
    StoreMode,
)


class Attention(Blocks):
    """Emits the attention of a layer. Heads are unrolled; they are numbered queries first, then keys, then values."""

    def attention(self) -> None:
        """Attention of a layer. While one group's softmax is computed, the array multiplies the next group's keys, and
        the keys and values of the one after that are rotated, quantised and stored."""
        b, c, p, t = self.b, self.c, self.places, self.config.types
        b.part = "qkv"
        self.load_bias(c.qkv_bias, "qkv", c.qkv)
        with self.rows("norm1", act=True):
            self.norm(Vec(SourceA.X, reg(ROW_X, p.x)), reg(ROW_X, p.work))
            self.quantise(Vec(SourceA.X, reg(ROW_X, p.work)), slot=0, length=c.width, bits=t.acts)
        self.matmul_qkv()
        if self.image.sizes.window and (self.batch > 1 or not self.looped):
            self._slide()
        if c.rope_local_theta:
            self._load_rope()
        if c.qk_norm:
            b.load(self.in_layer("qk_norm"), p.qk_gain, 2 * c.head_dim, parts={"L": "qk_gain"})
        if c.qkv_bias:
            with self.rows("qkv_bias"):
                self.add_bias(Vec(SourceA.M, reg(ROW_M, 0)), reg(ROW_X, p.biased), c.qkv)
        if self.batch > 1:
            self._sequences()
        elif self.places.together:
            self._all_heads()
        else:
            self._heads()
        n = c.attention
        b.part = "o"
        self.load_sub_norm("self_attn.attn_sub_norm", n)
        with self.rows("quantise_o", act=True):
            heads, work = Vec(SourceA.M, reg(ROW_M, p.heads), {"M": "heads"}), reg(ROW_X, p.work)
            if self.image.sizes.zeros:
                b.vector(len=n, **heads.a, addend=Factor.B, b_source=SourceB.X, b=reg(ROW_X, p.offsets), **to_x(work),
                         **ABSMAX, parts=heads.parts)
                heads = Vec(SourceA.X, work)
            if c.sub_norms:
                self.rms_norm(heads, work, n, p.sub_gain, {"L": "sub"})
                heads = Vec(SourceA.X, work)
            elif not self.image.sizes.zeros:
                b.vector(len=n, **heads.a, **ABSMAX, parts=heads.parts)
            self.quantise(heads, slot=0, length=n, bits=t.acts)
        self.matmul(self.image.matrices["o"], slot=0, rows=reg(TOKENS))

    def _sequences(self) -> None:
        """The attention of one sequence of a batch after the other; LAYER leads to the caches of each."""
        b, size = self.b, self.image.cache_bytes
        with self.rows("sequence"):
            self.looped = False
            self._heads()
            self.looped = True
            b.set(LAYER, size, LAYER)
        b.set(LAYER, -self.batch * size, LAYER)
        self.stream("o")

    def _heads(self) -> None:
        """All heads of the step's tokens, or of a batch's sequence."""
        self._store_cache(0)
        per_kv = self.c.heads // self.c.kv_heads
        groups = self.groups()
        # The next group's scores are made before this one's softmax, if both have room.
        ahead = min(len(self.places.scores), len(self.places.vscale), 2) - 1
        for g in range(len(groups) + ahead):
            done = g - ahead
            # Streams first: what they bring lies ready while the vector unit is at work.
            if g < len(groups):
                self._stream_keys(groups[g])
            if done >= 0:
                self._stream_values(groups[done])
            if done == len(groups) - 1 and self.batch == 1:
                self.stream("o")
            if g < len(groups):
                first = groups[g][0]
                if first % per_kv == 0 and first // per_kv + 1 < self.c.kv_heads:
                    self._store_cache(first // per_kv + 1)
                self._scores(g, groups[g])
            if done >= 0:
                self._values(done, groups[done])

    def _all_heads(self) -> None:
        """One token's attention with what is alike for all heads done at once, for memories that hold it. The keys'
        weights come before the queries', so the cache is written by the time its stream begins, and two streams bring
        all of it. Scores of all heads come first, so that the array never waits for a softmax."""
        b, c, p, image = self.b, self.c, self.places, self.image
        heads, beat = range(c.kv_heads), self.config.beat_bytes
        b.part = "cache"
        self._turn(c.heads, c.kv_heads)
        size = sum(self._cache_words()) + 2
        for h in heads:
            self._cache_codes(h, h * size)
        self._cache_stores({h: h * size for h in heads})
        b.set(ROW_M, 0)
        # Everything up to the MLP: what DRAM brings ahead of the array lies in the weight FIFO.
        b.part = "scores"
        b.control(Operation.MULI, rd=T1, ra=KEY_TILES, value=image.key.tile_beats)
        b.stream(self.in_layer("keys0"), c.kv_heads, reg(T1), image.stride("keys") // beat, "keys")
        b.part = "values"
        b.stream(self.in_layer("values0"), c.kv_heads, reg(VALUE_BEATS), image.stride("values") // beat, "values")
        self.stream("o")
        self.stream("gate_up")
        b.part = "values"
        scales = image.stride("value_scales") // 4
        b.load(self.in_layer("value_scales0"), p.vscale[0], c.kv_heads * scales, region="values", parts={"L": "vscale"})
        b.part = "scores"
        self._turn(0, c.heads)
        for h in heads:
            self._scores(h, range(h, h + 1))
        for h in heads:
            self._values(h, range(h, h + 1))

    def groups(self) -> list[range]:
        """Heads that go through the array at once. With one token in a step, those that share keys and values take a
        row of the array each, so that the cache is read once for all of them."""
        c, image = self.c, self.image
        per_kv = c.heads // c.kv_heads
        n = min(self.config.array.rows, per_kv)
        if self.looped or image.sizes.value_dim != c.head_dim:  # a head's padding would lie on the next one
            n = 1
        return [range(h, min(h + n, first + per_kv)) for first in range(0, c.heads, per_kv)
                for h in range(first, first + per_kv, n)]

    # --- How much of the cache a layer sees.

    def context_sizes(self) -> None:
        """KEY_TILES, VALUE_STEPS and VALUE_BEATS, of CONTEXT."""
        b, a, group = self.b, self.config.array, self.image.sizes.group
        if group:
            b.set(T1, -1, CONTEXT)
            b.control(Operation.ANDI, rd=T1, ra=T1, value=group - 1)
            b.set(T1, a.cols, T1)
        else:
            b.set(T1, a.cols - 1, CONTEXT)
        b.control(Operation.SHR, rd=KEY_TILES, ra=T1, value=a.cols.bit_length() - 1)
        b.set(T1, a.lanes - 1, CONTEXT)
        b.control(Operation.SHR, rd=VALUE_STEPS, ra=T1, value=a.lanes.bit_length() - 1)
        if not group:
            self.value_beats(VALUE_BEATS)

    def _slide(self) -> None:
        """What this layer sees in a step of one token. Behind the window its cache is a ring: the token's key and value
        replace those that leave the window, and the softmax does not ask for an order."""
        b, sizes = self.b, self.image.sizes
        if self.c.local_layers:
            b.load_register(T1, self.in_layer("window"))
        else:
            b.set(T1, sizes.window)
        self.whole_context()
        b.control(Operation.MIN, rd=CONTEXT, ra=CONTEXT, rb=T1)
        self.context_sizes()

    def _in_ring(self) -> None:
        """T1, a position, becomes its place in the layer's cache: its remainder, if CONTEXT says that the window has
        been left."""
        b, far = self.b, 1 << 30
        b.control(Operation.SUB, rd=T2, ra=POSITION, rb=CONTEXT)
        b.control(Operation.SHR, rd=T2, ra=T2, value=31)
        b.control(Operation.ANDI, rd=T2, ra=T2, value=far)  # if CONTEXT is above POSITION
        b.control(Operation.ANDI, rd=ROW_M, ra=T1, value=self.image.sizes.window - 1)
        b.control(Operation.ADD, rd=ROW_M, ra=ROW_M, rb=T2)
        b.control(Operation.MIN, rd=T1, ra=T1, rb=ROW_M)

    # --- Where a head's query, key or value lies.

    def _projected(self, head: int) -> Vec:
        """As the matmul gave it, with its bias."""
        at = head * self.c.head_dim // self.lanes
        if self.c.qkv_bias:
            return Vec(SourceA.X, reg(ROW_X, self.places.biased + at))
        return Vec(SourceA.M, reg(ROW_M, at), {"M": "q" if head < self.c.heads else "kv"})

    def _normed(self, head: int) -> Vec:
        """With its norm, if queries and keys have one."""
        c = self.c
        if c.qk_norm and head < c.heads + c.kv_heads:
            return Vec(SourceA.X, reg(ROW_X, self.places.biased + head * c.head_dim // self.lanes))
        return self._projected(head)

    def _turned(self, head: int) -> Vec:
        """As the scores take it."""
        if self.c.positions == "rope":
            return Vec(SourceA.X, reg(ROW_X, self.places.qk + head * self.c.head_dim // self.lanes))
        return self._normed(head)

    # --- Queries and keys.

    def _load_rope(self) -> None:
        """The layer's RoPE table, of two: the row of every token."""
        b, c, p, image = self.b, self.c, self.places, self.image
        b.load_register(T2, self.in_layer("rope_table"))
        with self.rows("rope"):
            self.position(T1)
            b.control(Operation.MULI, rd=T1, ra=T1, value=4 * c.head_dim)
            b.control(Operation.ADD, rd=T1, ra=T1, rb=T2)
            self.rope_words(ROW_M)
            b.load(reg(T1, image.rope_address), reg(ROW_M, p.rope), c.head_dim, parts={"L": "rope"})

    def _turn(self, start: int, n: int) -> None:
        """Norm and RoPE of `n` heads from `start` on, all queries or all keys."""
        if self.c.qk_norm:
            self._head_norm(start, n)
        if self.c.positions == "rope":
            self._rotate(start, n)

    def _head_norm(self, start: int, n: int) -> None:
        """RMSNorm of every head for itself, then the gain, which all queries share, and all keys."""
        b, c = self.b, self.c
        words = c.head_dim // self.lanes
        for head in range(start, start + n):
            x = self._projected(head)
            self.root_mean_square(x, c.head_dim)
            b.vector(len=c.head_dim, **x.a, multiply=Factor.SCALAR, multiply_scalar=S_NORM,
                     **to_x(self._normed(head).at), parts=x.parts)
        gain = self.places.qk_gain + (words if start >= c.heads else 0)
        at = self._normed(start).at
        b.vector(len=c.head_dim, outer=n - 1, a=at, a_stride=words, multiply=Factor.B, b=gain, b_source=SourceB.L,
                 **to_x(at, dst_stride=words), parts={"L": "qk_gain"})

    def _rotate(self, start: int, n: int) -> None:
        """RoPE on `n` of a row's heads, queries first, then keys: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
        b, c, p = self.b, self.c, self.places
        half = c.head_dim // 2 // self.lanes
        self.rope_words(T1)
        cos, sin = reg(T1, p.rope), reg(T1, p.rope + half)
        x = self._normed(start)
        imm, row = x.at if isinstance(x.at, tuple) else (x.at, 0)
        first, second = reg(row, imm), reg(row, imm + half)
        out = p.qk + 2 * half * start
        t1, t2 = reg(ROW_X, p.work), reg(ROW_X, p.work + n * half)

        def product(source: object, table: object, dst: object) -> None:
            b.vector(len=c.head_dim // 2, outer=n - 1, a_source=x.bank, a=source, a_stride=2 * half,
                     multiply=Factor.B, b_source=SourceB.L, b=table, destination=Destination.X, dst=dst,
                     dst_stride=half, parts=x.parts | {"L": "rope"})

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

    # --- The cache.

    def _store_cache(self, h: int) -> None:
        """Rotate key-value head `h` and its queries, quantise key and value, and write them where the array will
        read them."""
        b, c, p = self.b, self.c, self.places
        b.part = "cache"
        per_kv = c.heads // c.kv_heads
        with self.rows(f"cache{h}"):
            self._turn(c.heads + h, 1)
            self._cache_codes(h, 0)
            self._cache_stores({h: 0})
            b.control(Operation.MULI, rd=ROW_M, ra=ROW, value=p.m_row)
            self._turn(h * per_kv, per_kv)

    def _cache_words(self) -> tuple[int, int]:
        """Words of a key and of a value in bank S; a word with its scale is behind each, and with a value's zero point.
        A key that waits for its group comes behind both, as it was."""
        sizes = self.image.sizes
        return sizes.key_dim // self.lanes, sizes.value_dim // self.lanes

    def _cache_codes(self, h: int, place: int) -> None:
        """Key and value of a head as integers into bank S, from word `place` on."""
        b, c, sizes, scalar = self.b, self.c, self.image.sizes, self.scalar
        key_words, value_words = self._cache_words()

        def codes(x: Vec, bits: int, place: int, words: int, part: str, **first: Any) -> None:
            """Integers of one head, their scale into the word behind them. Zeros fill up the last step or tile.
            `first`: fields of the first pass, which otherwise writes nothing."""
            parts = x.parts | {"S": part}
            pad = words * self.lanes
            shift: dict[str, Any] = {}
            if bits < 8:
                self._zero_point(x, bits)
                shift = {"addend": Factor.SCALAR, "addend_scalar": S_SHIFT}
            else:
                b.vector(len=c.head_dim, **x.a, **ABSMAX, parts=parts, **first)
                scalar(S_SCALE, S_SUM, multiply=Factor.IMMEDIATE, immediate=1.0 / act_max(bits))
                scalar(S_INVERSE, S_SCALE, function=Function.RECIP)
            b.vector(len=c.head_dim, pad=pad if pad > c.head_dim else 0, **x.a, multiply=Factor.SCALAR,
                     multiply_scalar=S_INVERSE, **shift, function=Function.INT, bits=STORED_BITS[bits],
                     destination=Destination.S, dst=place, parts=parts)
            for i, behind in enumerate([S_SCALE, S_ZERO] if bits < 8 else [S_SCALE]):
                b.vector(len=1, a_source=SourceA.SCALAR, a=behind, destination=Destination.S, dst=place + words + i,
                         parts=parts)

        value_at = place + key_words + 1
        stage = {"destination": Destination.S, "dst": value_at + value_words + 1 + sizes.zeros} if sizes.group else {}
        codes(self._turned(c.heads + h), 8, place, key_words, f"key{place}", **stage)
        codes(self._projected(c.heads + c.kv_heads + h), sizes.kv.bits, value_at, value_words, f"value{place}")

    def _zero_point(self, x: Vec, bits: int) -> None:
        """What a vector between `low` and `high` is quantised with to all codes of `bits` bits, from -top on: S_INVERSE
        and S_SHIFT to get them, S_SCALE and S_ZERO to get the vector, ``x = scale * code + zero``."""
        b, n, top, scalar = self.b, self.c.head_dim, 1 << (bits - 1), self.scalar
        high, minus_low = S_SHIFT, S_ZERO
        b.vector(len=n, **x.a, reduction=Reduction.MAX, scalar=high, parts=x.parts)
        b.vector(len=n, **x.a, negate_product=1, reduction=Reduction.MAX, scalar=minus_low, parts=x.parts)
        scalar(S_SCALE, high, addend=Factor.SCALAR, addend_scalar=minus_low)
        scalar(S_SCALE, S_SCALE, multiply=Factor.IMMEDIATE, immediate=1.0 / (2 * top - 1))
        scalar(S_INVERSE, S_SCALE, function=Function.RECIP)
        scalar(S_SHIFT, minus_low, multiply=Factor.SCALAR, multiply_scalar=S_INVERSE, addend=Factor.IMMEDIATE,
               immediate=-float(top))
        scalar(S_ZERO, S_SCALE, multiply=Factor.IMMEDIATE, immediate=float(top), addend=Factor.SCALAR,
               addend_scalar=minus_low, negate_addend=1)

    def _cache_stores(self, heads: dict[int, int]) -> None:
        """Codes and scales of heads, by their places in bank S, to DRAM. Kind after kind, so that what is written lies
        together in time."""
        b, c, a, image = self.b, self.c, self.config.array, self.image
        sizes, packed = image.sizes, {"mode": StoreMode.PACKED}
        key_words, value_words = self._cache_words()

        def split(tile: int, tile_bytes: int, within: int) -> None:
            """T2 = (T1 / tile) * tile_bytes + (T1 % tile) * within, on top of the layer's address."""
            b.control(Operation.SHR, rd=T2, ra=T1, value=tile.bit_length() - 1)
            b.control(Operation.MULI, rd=T2, ra=T2, value=tile_bytes)
            b.control(Operation.ANDI, rd=ROW_M, ra=T1, value=tile - 1)
            b.control(Operation.MULI, rd=ROW_M, ra=ROW_M, value=within)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=ROW_M)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)

        self.position(T1)
        if sizes.group:
            b.control(Operation.ANDI, rd=T1, ra=T1, value=sizes.group - 1)
        if sizes.window and not self.looped:
            self._in_ring()
        split(a.cols, image.key.tile_bytes, a.lanes)
        for h, place in heads.items():
            b.store(self._at(f"keys{h}", image.key.header_bytes), place, image.key.steps, f"keys/{h}", piece=a.lanes,
                    run_stride=image.key.step_bytes, parts={"S": f"key{place}"}, bits=8, **packed)
        split(a.cols, image.key.tile_bytes, 4)
        for h, place in heads.items():
            b.store(self._at(f"keys{h}"), place + key_words, 1, f"keys/{h}", parts={"S": f"key{place}"})
        if sizes.group:
            b.control(Operation.MULI, rd=T2, ra=T1, value=4 * c.head_dim)
            b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)
            for h, place in heads.items():
                b.store(self._at(f"staged{h}"), place + key_words + value_words + 2 + sizes.zeros, c.head_dim,
                        f"staged{h}", parts={"S": f"key{place}"})
            self.position(T1)
        split(a.lanes, image.value.step_bytes, a.cols * sizes.kv.bits // 8)
        for h, place in heads.items():
            b.store(self._at(f"values{h}"), place + key_words + 1, sizes.value_dim // a.cols, f"values/{h}",
                    piece=a.cols, run_stride=image.value.tile_bytes, parts={"S": f"value{place}"}, bits=sizes.kv.bits,
                    **packed)
        b.control(Operation.SHL, rd=T2, ra=T1, value=2)
        b.control(Operation.ADD, rd=T2, ra=T2, rb=LAYER)
        for i, kind in enumerate(["value_scales", "value_zeros"] if sizes.zeros else ["value_scales"]):
            for h, place in heads.items():
                b.store(self._at(f"{kind}{h}"), place + key_words + 1 + value_words + i, 1, f"values/{h}",
                        parts={"S": f"value{place}"})

    def _at(self, name: str, extra: int = 0) -> tuple[int, int]:
        """An address in the layer, T2 bytes further on; T2 has the layer's address in it."""
        return reg(T2, self.image.layer_address + self.image.offsets[name] + extra)

    def _stream_keys(self, heads: range) -> None:
        self.b.part = "scores"
        kv, beats = heads[0] // (self.c.heads // self.c.kv_heads), self.image.key.tile_beats
        if self.image.sizes.group:
            sealed = self.image.sealed.tile_beats
            self.b.stream(self.in_layer(f"sealed{kv}"), reg(SEALED), sealed, sealed)
        self.b.stream(self.in_layer(f"keys{kv}"), reg(KEY_TILES), beats, beats, f"keys/{kv}")

    def _stream_values(self, heads: range) -> None:
        c, image = self.c, self.image
        self.b.part = "values"
        kv, beats = heads[0] // (c.heads // c.kv_heads), VALUE_BEATS
        if image.sizes.group:
            beats = T1
            self.value_beats(beats)
        self.b.stream(self.in_layer(f"values{kv}"), image.sizes.value_dim // self.config.array.cols, reg(beats),
                      image.value.tile_beats, f"values/{kv}")

    def value_beats(self, rd: int) -> None:
        """rd = beats of a tile of values that the step needs."""
        b, beat = self.b, self.config.beat_bytes
        b.control(Operation.MULI, rd=rd, ra=VALUE_STEPS, value=self.image.value.step_bytes)
        b.set(rd, beat - 1, rd)
        b.control(Operation.SHR, rd=rd, ra=rd, value=beat.bit_length() - 1)

    # --- Scores and values.

    def _head_matmul(self, g: int, heads: range, operand: str, dtype: WeightType, **fields: Any) -> None:
        """A matmul with keys or values; `operand` names what it takes from the activation buffer."""
        p = self.places
        parts = p.parts(g) | {"ACT": operand, "ROW_SCALE": operand}
        if operand.startswith("p"):
            parts["M"] = "heads"
        self.b.matmul(kind=int(dtype.kind), planes=dtype.bits, groups=1, parts=parts,
                      rows=reg(TOKENS) if self.looped else len(heads), **fields)

    def _operand(self, name: str, pair: tuple[int, int], g: int) -> tuple[int, str, Parts]:
        """A group's place in the activation buffer in words, its name, and the parts that are written with it."""
        if self.places.query == self.places.probabilities:  # no room to tell them apart
            return pair[0], f"{name}x", {}
        part = f"{name}{which(pair, g)}"
        return pair[g % 2], part, {"ACT": part, "ROW_SCALE": part}

    def _scores(self, g: int, heads: range) -> None:
        """Queries times keys, for all tokens of the step."""
        b, c, p, a, t = self.b, self.c, self.places, self.config.array, self.config.types
        kv = heads[0] // (c.heads // c.kv_heads)
        b.part = "scores"
        if self.image.sizes.group:
            self._sealed_scores(g, heads)
        at, operand, parts = self._operand("q", p.query, g)
        slot = 1 if g % 2 else 3
        if not p.together:
            b.load(self.in_layer(f"value_scales{kv}"), p.vscale[g % len(p.vscale)], reg(CONTEXT),
                   region=f"values/{kv}", parts=p.parts(g))
        for i, h in enumerate(heads):
            with self.rows(f"query{h}", act=True):
                query = self._turned(h)
                b.vector(len=c.head_dim, **query.a, **ABSMAX, parts=query.parts)
                # Scores come out in units of ln 2 and scaled, ready for exp2.
                self.quantise(query, slot=slot, length=c.head_dim, bits=t.acts, act=at, array_row=i, parts=parts,
                              factor=math.log2(math.e) * c.score_scale)
        out: Operand = p.scores[g % len(p.scores)]
        if self.image.sizes.group:  # behind those of sealed keys
            b.control(Operation.SHL, rd=T1, ra=SEALED, value=(a.cols // self.lanes).bit_length() - 1)
            out = reg(T1, p.scores[g % len(p.scores)])
        self._head_matmul(g, heads, operand, WEIGHT_TYPES["int8"], tiles=reg(KEY_TILES), steps=self.image.key.steps,
                          out=out, out_stride=p.m_row, slot=slot, channel_scales=1, order=CodeOrder.COLUMNS,
                          act=at * self.lanes // a.lanes)

    def _sealed_scores(self, g: int, heads: range) -> None:
        """Queries times sealed keys. The scales of a group's channels go with the query: it has integers for every
        group, but one scale for all of them, which the largest scale of every channel gives."""
        b, c, p, t, sizes = self.b, self.c, self.places, self.config.types, self.image.sizes
        kv, cols, words = heads[0] // (c.heads // c.kv_heads), self.config.array.cols, c.head_dim // self.lanes
        at, operand, parts = self._operand("f", p.folded, g)
        slot, channels, ours = 4 + g % 2, p.channels[g % 2], {"L": f"channels{which(p.channels, g)}"}
        per_group = (sizes.group // cols).bit_length() - 1
        b.control(Operation.SHR, rd=T1, ra=SEALED, value=per_group)
        b.control(Operation.MULI, rd=T1, ra=T1, value=c.head_dim)
        b.load(self.in_layer(f"channels{kv}"), channels, reg(T1, c.head_dim), parts=ours)
        b.control(Operation.SHL, rd=T2, ra=SEALED, value=16 - per_group)  # groups, as `pad` takes them
        work = reg(ROW_X, p.work)
        for i, h in enumerate(heads):
            with self.rows(f"sealed{h}", act=True):
                query = self._turned(h)
                b.vector(len=c.head_dim, **query.a, multiply=Factor.B, b=channels, b_source=SourceB.L, **ABSMAX,
                         parts=query.parts | ours)
                self.row_scale(slot=slot, bits=t.acts, array_row=i, parts=parts,
                               factor=math.log2(math.e) * c.score_scale)
                b.vector(len=c.head_dim, **query.a, multiply=Factor.SCALAR, multiply_scalar=S_INVERSE, **to_x(work),
                         parts=query.parts)
                b.vector(len=c.head_dim, pad=reg(T2, sizes.key_dim), a=work, multiply=Factor.B, b=channels,
                         b_source=SourceB.L, b_stride=words, function=Function.INT, bits=INT_BITS[t.acts],
                         destination=Destination.ACT, dst=reg(self.act_row, at + (i << 12)),
                         dst_stride=sizes.key_dim // self.lanes, parts=parts | ours)
        self._head_matmul(g, heads, operand, sizes.kv, tiles=reg(SEALED), steps=self.image.sealed.steps,
                          out=p.scores[g % len(p.scores)], out_stride=p.m_row, slot=slot, order=CodeOrder.COLUMNS,
                          act=(at * self.lanes + sizes.key_dim) // self.config.array.lanes,
                          act_tiles=sizes.group // cols)

    def _values(self, g: int, heads: range) -> None:
        """Softmax of the scores, and the values weighted with it."""
        b, c, p, a = self.b, self.c, self.places, self.config.array
        dim = c.head_dim // self.lanes
        b.part = "values"
        at, operand, parts = self._operand("p", p.probabilities, g)
        slot = 2 if g % 2 else 0
        kv = heads[0] // (self.c.heads // self.c.kv_heads)
        if self.image.sizes.zeros:
            b.load(self.in_layer(f"value_zeros{kv}"), p.vzero, reg(CONTEXT), region=f"values/{kv}",
                   parts={"L": "vzero"})
        for i, h in enumerate(heads):
            with self.rows(f"softmax{h}", act=True):
                self._softmax(g, i, h, slot=slot, act=at, parts=parts)
        self._head_matmul(g, heads, operand, self.image.sizes.kv,
                          tiles=self.image.sizes.value_dim // a.cols, steps=reg(VALUE_STEPS),
                          out=p.heads + heads[0] * dim if self.looped else reg(ROW_M, p.heads + heads[0] * dim),
                          out_stride=p.m_row if self.looped else dim, slot=slot,
                          order=CodeOrder.LANES, act=at * self.lanes // a.lanes)

    def _softmax(self, g: int, i: int, head: int, *, slot: int, act: int, parts: Parts) -> None:
        """Probabilities of head `i` of a group, times the values' scales, as activations. What the values' zero points
        add to all of the head's channels goes to its `offsets`."""
        b, p, t = self.b, self.places, self.config.types
        ours = p.parts(g)
        if self.image.sizes.window and not self.looped:
            b.set(T2, 0, CONTEXT)
        else:
            self.position(T2)
            b.set(T2, 1, T2)
        scores = reg(ROW_M if self.looped else 0, p.scores[g % len(p.scores)] + i * p.m_row)
        work, n = reg(ROW_X, p.work), reg(T2)
        b.vector(len=n, a_source=SourceA.M, a=scores, reduction=Reduction.MAX, scalar=S_BEST, parts=ours)
        b.vector(len=n, a_source=SourceA.M, a=scores, addend=Factor.SCALAR, addend_scalar=S_BEST,
                 negate_addend=1, function=Function.EXP2, destination=Destination.X, dst=work,
                 reduction=Reduction.SUM, scalar=S_TOTAL, parts=ours)
        self.scalar(S_TOTAL, S_TOTAL, function=Function.RECIP)
        if self.image.sizes.zeros:
            b.vector(len=n, a=work, multiply=Factor.B, b=p.vzero, b_source=SourceB.L, reduction=Reduction.SUM,
                     scalar=S_ZERO, parts={"L": "vzero"})
            self.scalar(S_ZERO, S_ZERO, multiply=Factor.SCALAR, multiply_scalar=S_TOTAL)
            b.vector(len=self.c.head_dim, a_source=SourceA.SCALAR, a=S_ZERO,
                     **to_x(reg(ROW_X, p.offsets + head * self.c.head_dim // self.lanes)))
        b.vector(len=n, a=work, multiply=Factor.B, b=p.vscale[g % len(p.vscale)], b_source=SourceB.L,
                 destination=Destination.X, dst=work, **ABSMAX, parts=ours)
        self.quantise(Vec(SourceA.X, work), slot=slot, length=n, pad=reg(CONTEXT), bits=t.acts,
                      divide_total=True, act=act, array_row=i, parts=parts)
