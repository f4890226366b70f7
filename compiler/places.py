"""Does a model fit a configuration's memories, and where in them does everything lie?"""

from dataclasses import dataclass

from wordline.compiler.activations import SCRATCH
from wordline.compiler.architecture import ModelConfig
from wordline.compiler.builder import Parts
from wordline.compiler.weights import ALIGNMENT, check_accumulator, require, weight_type
from wordline.pe.datatypes import WeightType, act_max
from wordline.rtl.config import Config
from wordline.rtl.layout import ceil_div


@dataclass(frozen=True)
class Sizes:
    """Lengths as the hardware has them, in elements."""

    max_context: int  # a whole number of steps and of tiles
    key_dim: int  # head_dim filled up to whole steps of the array
    value_dim: int  # head_dim filled up to whole tiles
    kv: WeightType  # of values, and of keys in sealed groups
    group: int  # tokens of a sealed group of keys; 0: keys are never sealed
    sealed: int  # most groups that a token can see
    zeros: bool  # values have a zero point besides their scale
    window: int = 0  # positions that layers with a sliding window see, where the context is longer; 0: all

    @property
    def recent(self) -> int:
        """Tokens whose keys have a place at 8 bits."""
        return self.group or self.max_context


@dataclass(frozen=True)
class Places:
    """Word offsets within a row of banks X and M and of the activation buffer, and within banks L and S; strides of
    the rows. What a head needs for itself has a place for each key-value head where the memories have room
    (`together`), else two, for even and odd heads, so that a head's vectors and the next one's matmuls go on side by
    side, else one. What a model does not have takes no room."""

    x: int  # residual
    work: int
    qk: int  # rotated queries and keys
    biased: int  # queries, keys and values, then the MLP's hidden units, behind their bias or norm
    x_row: int
    scores: tuple[int, ...]
    heads: int
    m_row: int
    query: tuple[int, int]
    probabilities: tuple[int, int]
    folded: tuple[int, int]  # queries times the channels' scales of sealed keys: of the largest, then of every group
    shift: int  # bias of a LayerNorm, where an embedding row is before the first layer
    gamma: int
    vscale: tuple[int, ...]
    vzero: int  # values' zero points, of the head whose softmax is computed
    offsets: int  # of all heads in bank X, what the zero points of their values add
    rope: int
    rope_row: int
    bias: int
    qk_gain: int  # of queries, then of keys
    sub_gain: int
    post_gain: int
    acts: tuple[int, ...]  # inputs of i, f and g
    recurrent: int  # words of a vector of the recurrence: i, f and g in bank M, three places from `work` on in bank X
    gains: tuple[int, int]  # the recurrence's vectors and the norms before linear layers come through these in turn
    channels: tuple[int, int]  # the channels' scales of sealed keys
    seal_tokens: int  # whose keys are on the chip at a time when a group is sealed
    chunk: int  # tiles of the output head at a time
    together: bool  # the cache's codes, the value scales and the scores of all heads have room

    def parts(self, h: int) -> Parts:
        """The parts of the banks that head `h` has for itself."""
        return {"M": f"scores{which(self.scores, h)}",
                "L": "vscale" if self.together else f"vscale{which(self.vscale, h)}"}


def which(places: tuple[int, ...], h: int) -> int:
    """Which of some places head `h` has; the only one if they are all the same."""
    return h % len(places) if places[0] != places[-1] else 0


def check(c: ModelConfig, config: Config, context: int) -> Sizes:
    """What must hold whatever the memories.

    Raises
    ------
    CompileError
        It does not; the message names the field.
    """
    a, t, lanes, recurrent = config.array, config.types, config.vector.lanes, c.mixer == "mlgru"
    require(1 <= context <= c.context, f"context = {context}: the model was trained for 1 to {c.context} positions")
    window = c.sliding_window if c.sliding_window < context else 0
    require(t.acts <= a.act_bits, f"types.acts = {t.acts} does not fit array.act_bits = {a.act_bits}")
    head = ("head_dim / 2", c.head_dim // 2) if c.positions == "rope" else ("head_dim", c.head_dim)
    if recurrent:
        head = ("the state", c.attention)
    for what, size in (("width", c.width), head, ("ffn", c.ffn)):
        require(size % lanes == 0, f"{c.name}: {what} = {size} is not a multiple of vector.lanes = {lanes}")
    if recurrent:
        require(4 * c.attention < 1 << 16, f"{c.name}: a state of {c.attention} numbers is longer than 65535 bytes")
        return Sizes(max_context=context, key_dim=0, value_dim=0, kv=weight_type(config, "int8"), group=0, sealed=0,
                     zeros=False)
    whole = max(a.lanes, a.cols)
    weight_type(config, "int8")  # of keys
    group = 0 if t.kv == "int8" or context <= t.kv_group else t.kv_group
    sizes = Sizes(max_context=ceil_div(context, whole) * whole, key_dim=ceil_div(c.head_dim, a.lanes) * a.lanes,
                  value_dim=ceil_div(c.head_dim, a.cols) * a.cols, kv=weight_type(config, t.kv), group=group,
                  sealed=(context - 1) // group if group else 0, zeros=t.kv != "int8", window=window)
    # The cache of such a layer is a ring.
    require(window & (window - 1) == 0,
            f"{c.name}: sliding_window = {window} is no power of two, as it must be for a context above it")
    require(not (window and group), f"{c.name}: types.kv = \"{t.kv}\" seals groups of keys, which a sliding_window = "
                                    f"{window} below the context of {context} does not allow: use \"int8\"")
    if group:
        require(group % a.cols == 0, f"types.kv_group = {group} is not a multiple of array.cols = {a.cols}")
        require(sizes.sealed < 256 and (sizes.sealed + 1) * c.head_dim < 1 << 16,
                f"context {context} has {sizes.sealed} groups of types.kv_group = {group} tokens; at most "
                f"{min(255, (1 << 16) // c.head_dim - 2)} are possible with head_dim = {c.head_dim}: choose larger "
                "groups")
    require(sizes.max_context <= config.memory.act_elements,
            f"context {context} does not fit memory.act_elements = "
            f"{config.memory.act_elements}")
    require(max(sizes.max_context, sizes.key_dim) <= a.group_max,
            f"context {context} is above array.group_max = {a.group_max}")
    check_accumulator(config, "attention", max((1 << (sizes.kv.bits - 1)) * sizes.max_context, act_max(8) * c.head_dim))
    return sizes


def place(c: ModelConfig, config: Config, sizes: Sizes, context: int, *, batch: int = 1) -> Places:
    """Places on the chip.

    Raises
    ------
    CompileError
        A memory is too small; the message names it and the size it must have.
    """
    if c.mixer == "mlgru":
        return _place_recurrence(c, config, context, batch)
    v, rows, memory, align = config.vector.lanes, config.array.rows, config.memory, max(ALIGNMENT, config.beat_bytes)

    def words(elements: int) -> int:
        return ceil_div(elements, v)

    rope = c.positions == "rope"
    width, half, hidden = words(c.width), c.head_dim // 2 // v if rope else 0, len(c.up_parts) * c.ffn
    rotary = (c.heads + c.kv_heads) * half  # words of one half of all queries and keys
    length, after = words(sizes.max_context), words(c.attention)

    def some(first: int, size: int, room: int, most: int = 2) -> tuple[int, ...]:
        """Places behind `first`: `most`, two or one, as `room` has it."""
        n = next((n for n in (most, 2) if first + n * size <= room), 1)
        return tuple(first + i * size for i in range(n))

    def pair(first: int, size: int, room: int) -> tuple[int, int]:
        """Two places, which may be the same."""
        places = some(first, size, room)
        return places[0], places[-1]

    bias = max([0] + [n for has, n in ((c.qkv_bias, c.qkv), (c.o_bias, c.width), (c.mlp_bias, max(hidden, c.width)))
                      if has])
    features = {"bias": words(bias), "qk_gain": words(2 * c.head_dim) if c.qk_norm else 0,
                "sub_gain": words(max(c.attention, c.ffn)) if c.sub_norms else 0,
                "post_gain": width if c.post_norms else 0}
    # All heads at once: each has its scores in bank M, its codes in bank S, its value scales as in DRAM in bank L.
    scale_words = words(ceil_div(4 * sizes.max_context, align) * align // 4)
    store_words = words(sizes.key_dim) + words(sizes.value_dim) + 2 + sizes.zeros
    together = (batch == 1 and rows == 1 and not sizes.zeros and c.heads == c.kv_heads > 1
                and sizes.key_dim == sizes.value_dim == c.head_dim == config.array.cols
                and c.kv_heads * store_words * v <= memory.store_floats
                and c.kv_heads * scale_words * v < 1 << 16
                and (2 * width + c.kv_heads * scale_words + 2 * half + sum(features.values())) * v
                <= memory.load_floats
                and (words(c.qkv) + c.kv_heads * length + after) * v <= memory.matmul_floats)
    # Bank X.
    work = max(words(c.ffn) * SCRATCH.get(c.activation, 1), width, length, 2 * rotary, after)
    biased = width + work + 2 * rotary
    offsets = biased + words(max(c.qkv if c.qkv_bias or c.qk_norm else 0, hidden if c.mlp_bias else 0))
    x_row = offsets + (after if sizes.zeros else 0)
    # Bank M. The last tile of a head's output may be wider than the head.
    spill = words(sizes.value_dim - c.head_dim)
    scores = some(words(c.qkv), length, memory.matmul_floats // v // rows - after - spill,
                  c.kv_heads if together else 2)
    heads = scores[-1] + length
    m_row = max(heads + after + spill, words(hidden), width)
    # Activation buffer.
    act = words(memory.act_elements)
    need = [words(sizes.key_dim), length, (sizes.sealed + 1) * words(sizes.key_dim) if sizes.group else 0]
    spare, start, places = act - sum(need), 0, [(0, 0)] * 3
    if spare >= 0:
        for i, size in enumerate(need):
            places[i] = pair(start, size, start + size + spare)
            spare -= places[i][1] - start
            start = places[i][1] + size
    query, probabilities, folded = places
    # Bank L.
    gamma = width
    channels_size = words((sizes.sealed + 1) * c.head_dim) if sizes.group else 0
    zeros = length if sizes.zeros else 0
    vscale = some(gamma + width, scale_words if together else length,
                  words(memory.load_floats) - rows * 2 * half - sum(features.values()) - channels_size - zeros,
                  c.kv_heads if together else 2)
    rope_at = vscale[-1] + (scale_words if together else length)
    vzero = rope_at + rows * 2 * half
    top = vzero + zeros
    at = {}
    for name, size in features.items():
        at[name], top = top, top + size
    channels = pair(top, channels_size, words(memory.load_floats))
    top = channels[1] + channels_size
    # A group of keys to be sealed, or a part of it, has banks L and X for itself.
    seal = sizes.group
    while seal > config.array.cols and (seal * c.head_dim > memory.load_floats
                                        or (seal + 2) * c.head_dim > memory.vector_floats):
        seal //= 2
    require(seal == sizes.group or 4 * seal * c.head_dim % config.beat_bytes == 0,
            f"{c.name}: keys of {seal} tokens do not end with a beat: memory.load_floats must hold those of "
            f"types.kv_group = {sizes.group}")
    require(seal * c.head_dim < 1 << 16, f"{c.name}: keys of types.kv_group = {seal} tokens are {seal * c.head_dim} "
                                         "numbers, at most 65535 are possible")
    codes = store_words + (words(c.head_dim) if sizes.group else 0)
    floats = {"vector_floats": max(rows * x_row * v, (seal + 2) * c.head_dim if seal else 0),
              "matmul_floats": rows * m_row * v, "load_floats": max(top * v, seal * c.head_dim),
              "store_floats": max(codes * v, config.array.cols * config.array.lanes if seal else 0),
              "act_elements": max(c.width, c.ffn, c.attention)}
    _require_memories(c, config, context, floats)
    return Places(x=0, work=width, qk=width + work, biased=biased, x_row=x_row, scores=scores, heads=heads, m_row=m_row,
                  query=query, probabilities=probabilities, folded=folded, shift=0, gamma=gamma, vscale=vscale,
                  vzero=vzero, offsets=offsets, rope=rope_at, rope_row=2 * half, channels=channels, seal_tokens=seal,
                  chunk=_head_chunk(c, config, m_row, batch), together=together, acts=(), recurrent=0, gains=(0, 0),
                  **at)


def _head_chunk(c: ModelConfig, config: Config, m_row: int, batch: int) -> int:
    """The output head goes in parts that banks M and S hold: tiles of each."""
    v, memory = config.vector.lanes, config.memory
    per_tile = config.array.cols // v
    return min(ceil_div(c.vocab, config.array.cols),
               (m_row if batch > 1 else memory.matmul_floats // v) // per_tile,
               memory.store_floats // v // per_tile)


def _require_memories(c: ModelConfig, config: Config, context: int, floats: dict[str, int]) -> None:
    """Every memory has the elements that it needs, or an error names those that must grow."""
    memory = config.memory
    small = {name: 1 << (size - 1).bit_length() for name, size in floats.items() if size > getattr(memory, name)}
    require(not small, f"{c.name} with context {context} needs " + ", ".join(
        f"memory.{name} = {size}, the configuration has {getattr(memory, name)}" for name, size in small.items())
        + "; the smallest change that fits: " + " ".join(f"--set memory.{name}={size}" for name, size in small.items()))


def _place_recurrence(c: ModelConfig, config: Config, context: int, batch: int) -> Places:
    """Places of a model with a recurrence instead of attention. Only a few of its many vectors are on the chip at a
    time: they come through two places in bank L, of which the first is also where an embedding row is."""
    v, rows, memory, a = config.vector.lanes, config.array.rows, config.memory, config.array
    width, ffn, recurrent = c.width // v, c.ffn // v, max(c.width, c.attention) // v
    hidden = len(c.up_parts) * ffn
    x_row = width + max(3 * recurrent, ffn * SCRATCH.get(c.activation, 1))
    m_row = max(2 * recurrent + ceil_div(c.attention, a.cols) * a.cols // v, hidden, width)
    act = ceil_div(c.width, a.lanes) * a.lanes  # inputs of a matrix are whole steps
    acts = tuple(i * act // v for i in range(3 if 3 * act <= memory.act_elements else 1))
    gamma, sub_gain = recurrent, 2 * recurrent + width
    top = sub_gain + max(c.attention, c.ffn) // v
    _require_memories(c, config, context, {
        "vector_floats": rows * x_row * v, "matmul_floats": rows * m_row * v, "load_floats": top * v,
        "store_floats": 2 * v, "act_elements": max(act, c.ffn, c.attention)})
    none = (0, 0)
    return Places(x=0, work=width, qk=0, biased=0, x_row=x_row, scores=none, heads=0, m_row=m_row, query=none,
                  probabilities=none, folded=none, shift=0, gamma=gamma, vscale=none, vzero=0, offsets=0, rope=0,
                  rope_row=0, bias=0, qk_gain=0, sub_gain=sub_gain, post_gain=0, acts=acts, recurrent=recurrent,
                  gains=(0, gamma + width), channels=none, seal_tokens=0,
                  chunk=_head_chunk(c, config, m_row, batch), together=False)

