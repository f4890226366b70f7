"""The byte layout of a weight matrix in DRAM: the exact order in which the array consumes it.

W[N, K] is cut into tiles of `cols` output channels. A tile holds, each section filled up to a whole
beat: float32 channel scales; 8-bit group scales, group after group; special-value selects (2 bits), gaps (4 bits)
or zero points (8 bits), group after group; if groups are left out, for each that is there the step of the row with
which it begins (16 bits), if single weights are, for each step and lane its pick (`pick_bits`), both the same for all
channels of the tile; then the codes, step after step of `lanes` elements of K, in one of the orders of `isa.CodeOrder`:
as bit planes of `cols*lanes` bits, or as whole codes, which single elements can be written to (the KV cache).
"""

from dataclasses import dataclass

import numpy as np

from wordline.pe.datatypes import AUX_BITS, AuxKind
from wordline.rtl.isa import CodeOrder
from wordline.rtl.trits import PER_BYTE, pack_trits, unpack_trits


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def pick_bits(window: int) -> int:
    """Bits of a pick, the word out of `window` that a lane takes: 1, 2 or 4, so that a beat has a whole number."""
    return {2: 1, 4: 2, 8: 4, 16: 4}[window]


@dataclass(frozen=True, kw_only=True)
class TileLayout:
    """Sizes and offsets within one tile, in bytes unless named otherwise.

    `steps` of `lanes` elements of K; `group_steps` steps in a group (0: the whole row). `planes` is the bits
    of a code; `float_scales` says how the bytes of group scales are meant. A `sparse` tile has an index of its groups,
    and `steps` counts those of the groups that are there. With `kept` a lane's elements come in windows of `window`
    steps of the row of which `kept` are there, which every step and lane has a pick for; `steps` and `group_steps`
    count what is there.

    Raises
    ------
    ValueError
        The array's width does not suit bytes or the bus.
    """

    cols: int
    lanes: int
    bus_bits: int
    planes: int
    steps: int
    group_steps: int = 0
    aux: AuxKind = AuxKind.NONE
    channel_scales: bool = True
    group_scales: bool = True
    float_scales: bool = False
    sparse: bool = False
    window: int = 0
    kept: int = 0
    order: CodeOrder = CodeOrder.PLANES

    def __post_init__(self) -> None:
        for name in ("cols", "lanes", "bus_bits"):
            value = getattr(self, name)
            if value < 4 or value % 4:
                raise ValueError(f"{name} must be a positive multiple of 4, not {value}")
        plane = self.cols * self.lanes
        if plane % self.bus_bits and self.bus_bits % plane:
            raise ValueError(f"a plane of cols*lanes = {plane} bits must divide the bus of {self.bus_bits} "
                             "bits or be a multiple of it")
        if not 1 <= self.planes <= 8:
            raise ValueError(f"planes must be 1 to 8, not {self.planes}")
        if self.order in (CodeOrder.COLUMNS, CodeOrder.LANES) and self.planes not in (2, 4, 8):
            raise ValueError(f"whole codes have 2, 4 or 8 bits, not {self.planes}")
        if self.order == CodeOrder.TRITS and self.planes != 2:
            raise ValueError(f"ternary codes have 2 bits, not {self.planes}")
        if self.steps < 1 or self.group_steps < 0:
            raise ValueError(f"steps must be at least 1 and group_steps at least 0, not {self.steps} and "
                             f"{self.group_steps}")

        if self.sparse and (self.group_steps == 0 or self.steps % self.group_steps):
            raise ValueError(f"a sparse tile has whole groups, not {self.steps} steps in groups of {self.group_steps}")
        if self.kept:
            if not self.kept <= self.window:
                raise ValueError(f"of a window of {self.window} steps {self.kept} cannot be kept")
            if self.sparse or self.steps % self.kept or self.group_steps % self.kept:
                raise ValueError(f"an N:M tile has whole windows and no missing groups, not {self.steps} steps in "
                                 f"groups of {self.group_steps}, {self.kept} of them in a window")

    def _padded(self, size: int) -> int:
        beat = self.bus_bits // 8
        return ceil_div(size, beat) * beat

    @property
    def groups(self) -> int:
        return ceil_div(self.steps, self.group_steps) if self.group_steps else 1

    @property
    def plane_bytes(self) -> int:
        return self.cols * self.lanes // 8

    @property
    def step_bytes(self) -> int:
        return self.planes * self.plane_bytes

    @property
    def channel_bytes(self) -> int:
        return self._padded(4 * self.cols) if self.channel_scales else 0

    @property
    def scale_bytes(self) -> int:
        return self._padded(self.groups * self.cols) if self.group_scales else 0

    @property
    def aux_bytes(self) -> int:
        return self._padded(self.groups * self.cols * AUX_BITS[self.aux] // 8)

    @property
    def index_bytes(self) -> int:
        """Of the groups' begins, or of the picks."""
        if self.kept:
            return self._padded(self.steps * self.lanes * pick_bits(self.window) // 8)
        return self._padded(2 * self.groups) if self.sparse else 0

    @property
    def header_bytes(self) -> int:
        return self.channel_bytes + self.scale_bytes + self.aux_bytes + self.index_bytes

    @property
    def code_bytes(self) -> int:
        if self.order == CodeOrder.TRITS:
            return self._padded(ceil_div(self.steps * self.cols * self.lanes, PER_BYTE))
        return self._padded(self.steps * self.step_bytes)

    @property
    def tile_bytes(self) -> int:
        return self.header_bytes + self.code_bytes

    def matrix_bytes(self, channels: int) -> int:
        """All tiles of a matrix of `channels` output channels."""
        return ceil_div(channels, self.cols) * self.tile_bytes

    @property
    def tile_beats(self) -> int:
        return self.tile_bytes * 8 // self.bus_bits


def pack(layout: TileLayout, codes: np.ndarray, scales: np.ndarray | None = None,
         aux: np.ndarray | None = None, channel_scale: np.ndarray | None = None,
         index: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a matrix.

    Parameters
    ----------
    codes : uint8[N, K]
        K at most ``steps*lanes``; missing elements are zero codes, missing channels zeros throughout.
    scales : uint8[N, groups]; aux : int8[N, groups]; channel_scale : float32[N]
    index : uint16[tiles, layout.groups] or uint8[tiles, layout.steps, lanes]
        Of a sparse layout, the steps with which each tile's groups begin, whose codes, scales and aux it picks; with
        `kept`, which word of its window each step and lane takes.

    Returns
    -------
    uint8[layout.matrix_bytes(N)]

    Raises
    ------
    ValueError
        K is longer than the layout's steps.
    """
    c, lanes = layout.cols, layout.lanes
    if layout.sparse:
        assert index is not None
        of_channel = index[np.arange(len(codes)) // c].astype(np.intp)
        groups = of_channel // layout.group_steps
        codes = np.take_along_axis(codes, _elements(layout, of_channel), 1)
        scales, aux = (None if a is None else np.take_along_axis(a, groups, 1) for a in (scales, aux))
    elif layout.kept:
        assert index is not None
        codes = np.take_along_axis(codes, picked(layout, index)[np.arange(len(codes)) // c], 1)
    n, k = codes.shape
    if k > layout.steps * lanes:
        raise ValueError(f"K = {k} is longer than {layout.steps} steps of {lanes} lanes")
    tiles = ceil_div(n, c)

    def tiled(a: np.ndarray, width: int) -> np.ndarray:
        """[N, x] -> [tiles, cols, width], filled up with zeros."""
        full = np.zeros((tiles * c, width), a.dtype)
        full[:n, : a.shape[1]] = a
        return full.reshape(tiles, c, width)

    out = np.zeros((tiles, layout.tile_bytes), np.uint8)

    def section(start: int, data: np.ndarray) -> None:
        out[:, start : start + data.shape[1]] = data

    if layout.channel_scales:
        assert channel_scale is not None
        f32 = tiled(channel_scale.astype("<f4")[:, None], 1)
        section(0, np.ascontiguousarray(f32).view(np.uint8).reshape(tiles, -1))
    at = layout.channel_bytes
    if layout.group_scales:
        assert scales is not None
        section(at, tiled(scales, layout.groups).transpose(0, 2, 1).reshape(tiles, -1))
    at += layout.scale_bytes
    if layout.aux:
        assert aux is not None
        bits = AUX_BITS[layout.aux]
        raw = tiled(aux.view(np.uint8), layout.groups).transpose(0, 2, 1)[..., None]
        section(at, np.packbits(raw >> np.arange(bits, dtype=np.uint8) & 1, bitorder="little",
                                axis=None).reshape(tiles, -1))
    if layout.sparse:
        assert index is not None
        section(at + layout.aux_bytes, index.astype("<u2").view(np.uint8))
    elif layout.kept:
        assert index is not None
        bits = np.arange(pick_bits(layout.window), dtype=np.uint8)
        section(at + layout.aux_bytes, np.packbits(index.reshape(tiles, -1, 1) >> bits & 1, bitorder="little",
                                                   axis=None).reshape(tiles, -1))
    blocks = tiled(codes, layout.steps * lanes).reshape(tiles, c, layout.steps, lanes)
    order = (0, 2, 3, 1) if layout.order == CodeOrder.LANES else (0, 2, 1, 3)
    blocks = blocks.transpose(order).reshape(tiles, layout.steps, 1, c * lanes)
    planes = np.arange(layout.planes, dtype=np.uint8)[:, None]
    for t in range(tiles):  # one tile at a time: a bit per byte is eight times the memory
        if layout.order == CodeOrder.TRITS:
            trits = pack_trits((blocks[t].reshape(-1) ^ 2).astype(np.int64) - 2)
            out[t, layout.header_bytes : layout.header_bytes + trits.size] = trits
            continue
        bits = blocks[t] >> planes & 1
        if layout.order != CodeOrder.PLANES:
            bits = bits.transpose(0, 2, 1)
        bits_ = np.packbits(bits.reshape(layout.steps, -1), axis=-1, bitorder="little").reshape(-1)
        out[t, layout.header_bytes : layout.header_bytes + bits_.size] = bits_
    return out.reshape(-1)


def _elements(layout: TileLayout, starts: np.ndarray) -> np.ndarray:
    """Elements of K in groups that begin with steps `starts` [..., groups]: [..., groups * elements of a group]."""
    within = np.arange(layout.group_steps * layout.lanes)
    return (starts[..., None] * layout.lanes + within).reshape(*starts.shape[:-1], -1)


def picked(layout: TileLayout, picks: np.ndarray) -> np.ndarray:
    """intp[tiles, steps * lanes]: the elements of K that `picks` [tiles, steps, lanes] take."""
    window = np.arange(layout.steps)[:, None] // layout.kept
    words = window * layout.window + picks.astype(np.intp)
    return (words * layout.lanes + np.arange(layout.lanes)).reshape(len(picks), -1)


def unpack_index(layout: TileLayout, raw: np.ndarray) -> np.ndarray:
    """intp[N, steps * lanes]: where in its row each of the elements that `unpack` gives belongs."""
    tiles = raw.size // layout.tile_bytes
    raw = raw[: tiles * layout.tile_bytes].reshape(tiles, layout.tile_bytes)
    at = layout.channel_bytes + layout.scale_bytes + layout.aux_bytes
    if layout.kept:
        flat = np.unpackbits(raw[:, at : at + layout.index_bytes], axis=1, bitorder="little")
        bits = pick_bits(layout.window)
        flat = flat[:, : layout.steps * layout.lanes * bits].reshape(tiles, layout.steps, layout.lanes, bits)
        picks = (flat << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8) & (layout.window - 1)
        return np.repeat(picked(layout, picks), layout.cols, 0)
    starts = np.ascontiguousarray(raw[:, at : at + 2 * layout.groups]).view("<u2").astype(np.intp)
    return np.repeat(_elements(layout, starts), layout.cols, 0)


def unpack(layout: TileLayout, raw: np.ndarray) -> tuple[np.ndarray, ...]:
    """The inverse of `pack`: codes uint8[N, K], scales uint8[N, groups], aux int8[N, groups],
    channel_scale float32[N], with N and K as padded. Absent sections read as scale 1, aux 0."""
    c, lanes = layout.cols, layout.lanes
    tiles = raw.size // layout.tile_bytes
    raw = raw[: tiles * layout.tile_bytes].reshape(tiles, layout.tile_bytes)
    n, groups = tiles * c, layout.groups
    channel = np.ones(n, np.float32)
    if layout.channel_scales:
        channel = np.ascontiguousarray(raw[:, : 4 * c]).view("<f4").reshape(n)
    at = layout.channel_bytes
    scales = np.ones((n, groups), np.uint8)
    if layout.group_scales:
        part = raw[:, at : at + groups * c].reshape(tiles, groups, c)
        scales = part.transpose(0, 2, 1).reshape(n, groups)
    at += layout.scale_bytes
    aux = np.zeros((n, groups), np.int8)
    if layout.aux:
        bits = AUX_BITS[layout.aux]
        flat = np.unpackbits(raw[:, at : at + layout.aux_bytes], axis=1, bitorder="little")
        flat = flat[:, : groups * c * bits].reshape(tiles, groups, c, bits)
        weights = 1 << np.arange(bits, dtype=np.uint8)
        aux = (flat * weights).sum(-1, dtype=np.uint8).transpose(0, 2, 1).reshape(n, groups).view(np.int8)
    start = layout.header_bytes
    codes = np.empty((tiles, c, layout.steps, lanes), np.uint8)
    planes = (1 << np.arange(layout.planes, dtype=np.uint8))[:, None]
    shape = (lanes, c) if layout.order == CodeOrder.LANES else (c, lanes)
    for t in range(tiles):
        if layout.order == CodeOrder.TRITS:
            values = unpack_trits(raw[t, start:])[: layout.steps * c * lanes].reshape(layout.steps, c, lanes)
            codes[t] = (values & 3).transpose(1, 0, 2)
            continue
        part = raw[t, start : start + layout.steps * layout.step_bytes]
        bits_ = np.unpackbits(part, bitorder="little").reshape(layout.steps, -1)
        if layout.order == CodeOrder.PLANES:
            bits_ = bits_.reshape(layout.steps, layout.planes, c * lanes)
        else:
            bits_ = bits_.reshape(layout.steps, c * lanes, layout.planes).transpose(0, 2, 1)
        step = (bits_ * planes).sum(1, dtype=np.uint8).reshape(layout.steps, *shape)
        codes[t] = step.transpose(2, 0, 1) if layout.order == CodeOrder.LANES else step.transpose(1, 0, 2)
    return codes.reshape(n, -1), scales, aux, channel
