"""Quantised weights of a model and where everything lies in DRAM."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wordline.compiler.model import Model
from wordline.compiler.program import Symbol
from wordline.pe.datatypes import WEIGHT_TYPES, AuxKind, WeightType, act_max
from wordline.pe.prune import kept_of, prune, prune_nm, words_kept
from wordline.pe.quantize import QuantTensor, quantize
from wordline.rtl.config import Config, TypesConfig
from wordline.rtl.isa import CodeOrder
from wordline.rtl.layout import TileLayout, ceil_div, pack

ALIGNMENT = 128  # of every region, or a beat if that is wider


class CompileError(ValueError):
    """A model that does not fit a configuration; says what is needed and what there is."""


def require(ok: bool, message: str) -> None:
    if not ok:
        raise CompileError(message)


@dataclass
class MemoryMap:
    """Hands out DRAM from address 0 and collects the initial image."""

    alignment: int = ALIGNMENT
    top: int = 0
    segments: dict[int, np.ndarray] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)

    def take(self, name: str, size: int, dtype: str = "bytes", shape: tuple[int, ...] = (),
             layout: str = "linear") -> int:
        address = self.top
        self.top += ceil_div(size, self.alignment) * self.alignment
        self.symbols[name] = Symbol(name, address, size, dtype, tuple(shape) or (size,), layout)
        return address

    def put(self, name: str, data: np.ndarray, dtype: str = "bytes", shape: tuple[int, ...] = (),
            layout: str = "linear") -> int:
        raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        address = self.take(name, raw.size, dtype, shape, layout)
        self.segments[address] = raw
        return address


@dataclass(frozen=True)
class Kept:
    """What tiles hold of a pruned matrix: so many of its `groups`, or so many `words` of every window of the array."""

    groups: int = 0
    words: int = 0


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as the array consumes it: its datatype, layout, tiles and bytes."""

    dtype: WeightType
    layout: TileLayout
    tiles: int
    raw: np.ndarray | None  # None: of a model whose shape alone is known

    @property
    def size(self) -> int:
        """Bytes."""
        return self.tiles * self.layout.tile_bytes

    def run(self) -> tuple[int, int, int]:
        """All tiles as runs, beats and stride of a STREAM instruction."""
        beats = self.layout.tile_beats
        return self.tiles, beats, beats

    def matmul_fields(self) -> dict[str, Any]:
        lay = self.layout
        return {"kind": int(self.dtype.kind), "planes": lay.planes, "steps": lay.steps,
                "group_steps": lay.group_steps, "groups": lay.groups, "aux": int(lay.aux),
                "channel_scales": int(lay.channel_scales), "group_scales": int(lay.group_scales),
                "float_scales": int(lay.float_scales), "sparse": int(lay.sparse),
                "kept": lay.kept, "order": int(lay.order)}


def weight_type(config: Config, name: str) -> WeightType:
    require(name in config.array.weights,
            f"types: the array of {config.name!r} does not decode {name!r}; it decodes "
            f"{', '.join(config.array.weights)}: add it to array.weights, or choose another type")
    return WEIGHT_TYPES[name]


def quantised(model: Model, name: str, tensors: list[str], dtype: str, types: TypesConfig, *,
              prunes: bool = True, scale_bits: int = 8) -> QuantTensor:
    """The rows of some tensors, one below the other, as one matrix of a weight type: as a quantiser has rounded them,
    or else to the nearest, pruned before that if the types say so and it `prunes`. `name` is "layer 3 qkv", "output
    head". `scale_bits` as for `quantize`.

    Raises
    ------
    CompileError
        A quantiser has rounded them for other types, or without pruning them; the type has no zero for single weights
        that are pruned.
    """
    group_size = WEIGHT_TYPES[dtype].group(types.group_size)
    prunes = prunes and types.prunes
    require(not (prunes and types.nm) or WEIGHT_TYPES[dtype].has_zero,
            f"{name}: types.nm = {types.nm} leaves out single weights, and {dtype} has no zero: choose another type")
    q = model.quantised.get(name)
    if q is None:
        weights = [model.tensors[tensor] for tensor in tensors]
        matrix = weights[0] if len(weights) == 1 else np.concatenate(weights)
        if prunes:
            matrix = pruned(types, group_size, matrix)
        return quantize(matrix, WEIGHT_TYPES[dtype], group_size, scale_bits=scale_bits)
    require(not prunes, f"{name} was rounded by a quantiser, which does not prune: "
                        f"{f'types.nm = {types.nm}' if types.nm else f'types.keep = {types.keep:g}'}")
    require(q.dtype.name == dtype and q.group_size == (group_size or q.shape[1]),
            f"{name} was rounded to {q.dtype.name} in groups of {q.group_size}, not to {dtype} of {group_size}")
    return q


def make_matrix(config: Config, name: str, q: QuantTensor, kept: Kept | None = None) -> Matrix:
    """Pack W[N, K] and check that the array can take it. What a tile holds of a pruned matrix beside what its channels
    keep are zeros.

    Raises
    ------
    CompileError
        The group does not suit the array, a header or K does not fit its memory, or an accumulator
        could overflow.
    """
    layout = matrix_layout(config, name, q.shape[1], q.dtype, kept)
    index = None
    if layout.sparse:
        there = tile_groups(q.scales != 0, config.array.cols)
        index = np.sort(np.argsort(~there, axis=1, kind="stable")[:, : layout.groups], axis=1) * layout.group_steps
    integers = q.integers()
    if layout.kept:
        index = picks(layout, integers != 0)
    check_accumulator(config, name, int(np.abs(integers).sum(1, dtype=np.int64).max()))
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale, index)
    return Matrix(q.dtype, layout, ceil_div(q.shape[0], config.array.cols), raw)


def picks(layout: TileLayout, there: np.ndarray) -> np.ndarray:
    """uint8[tiles, steps, lanes]: the words of its window that each lane needs for the elements which are `there`
    (bool[N, K]) for any of a tile's channels, in increasing order, filled up with others."""
    n, k = there.shape
    tiles = ceil_div(n, layout.cols)
    padded = np.zeros((tiles * layout.cols, k), bool)
    padded[:n] = there
    wanted = padded.reshape(tiles, layout.cols, -1, layout.window, layout.lanes).any(1)
    assert wanted.sum(2).max() <= layout.kept, "more weights than `words_kept` promises"
    chosen = np.sort(np.argsort(~wanted, axis=2, kind="stable")[:, :, : layout.kept], axis=2)
    return chosen.astype(np.uint8).reshape(tiles, layout.steps, layout.lanes)


def kept_words(config: Config, name: str, dtype: WeightType, shape: tuple[int, int]) -> Kept | None:
    """Words in every window of a matrix's tiles with single weights pruned; None if there is none to leave out.

    They follow from the types alone, so that time does not depend on data.

    Raises
    ------
    CompileError
        Groups, or rows, are not whole windows.
    """
    a, types, k = config.array, config.types, shape[1]
    if not (types.nm and a.window):
        return None
    per, across = types.keep_channels, a.cols
    # A tile's channels lie in so many blocks that each have a pattern.
    patterns = 1 if per % across == 0 else across // per if across % per == 0 else (across - 2) // per + 2
    words = words_kept(*types.n_of_m, types.nm_stride, lanes=a.lanes, window=a.window, patterns=patterns)
    if words == a.window:
        return None
    group, whole = dtype.group(types.group_size) or k, a.window * a.lanes
    require(k % whole == 0 and group % whole == 0,
            f"{name}: an array that leaves out single weights takes rows and groups of whole windows, array.window x "
            f"array.lanes = {whole} elements of K; K = {k}, types.group_size = {group}")
    return Kept(words=words)


def tile_groups(kept: np.ndarray, cols: int) -> np.ndarray:
    """bool[tiles, groups]: which groups any of a tile's `cols` channels keeps, of bool[N, groups]."""
    n, groups = kept.shape
    padded = np.zeros((ceil_div(n, cols) * cols, groups), bool)
    padded[:n] = kept
    return np.asarray(padded.reshape(-1, cols, groups).any(1))


def kept_in_tiles(config: Config, model: Model, name: str, tensors: list[list[str]], dtype: WeightType,
                  shape: tuple[int, int]) -> Kept | None:
    """What the tiles of matrices of one shape hold, all layers' alike; None if there is nothing to leave out.

    Single weights: `kept_words`. Of groups all tiles have as many as the fullest, so that time does not depend on
    data and one loop serves all layers. Of a model whose shape alone is known, the channels of a tile are taken to keep
    all groups among them unless they keep the same.

    Raises
    ------
    CompileError
        Rows are not whole groups; as `kept_words`.
    """
    types, cols = config.types, config.array.cols
    if types.nm:
        return kept_words(config, name, dtype, shape)
    if types.keep == 1 or not config.array.sparse:
        return None
    n, k = shape
    group = dtype.group(types.group_size)
    require(group > 0 and k % group == 0,
            f"{name}: a sparse array takes rows of whole groups; K = {k}, types.group_size = {group}")
    if model.shape_only:
        most = kept_of(k // group, types.keep, types.keep_window) if types.keep_channels % cols == 0 else k // group
    else:
        most = 1
        for parts in tensors:
            weights = pruned(types, group, np.concatenate([model.tensors[tensor] for tensor in parts]))
            kept = np.asarray(weights.reshape(n, k // group, group).any(-1))
            most = max(most, int(tile_groups(kept, cols).sum(1).max()))
    return Kept(groups=most) if most < k // group else None


def pruned(types: TypesConfig, group: int, weights: np.ndarray) -> np.ndarray:
    """W as the types prune it: single weights, or groups."""
    if types.nm:
        return prune_nm(weights, *types.n_of_m, stride=types.nm_stride, channels=types.keep_channels)
    return prune(weights, group, types.keep, channels=types.keep_channels, window=types.keep_window)


def shape_matrix(config: Config, name: str, shape: tuple[int, int], dtype: WeightType, *,
                 bounded: bool = True, kept: Kept | None = None) -> Matrix:
    """As `make_matrix` for a matrix of which only the shape [N, K] is known. Not `bounded`: its accumulators are
    somebody else's care.

    Raises
    ------
    CompileError
        As `make_matrix`; an accumulator could overflow with the largest weights the type has.
    """
    layout = matrix_layout(config, name, shape[1], dtype, kept)
    if bounded:
        check_accumulator(config, name, shape[1] * dtype.max_scale * dtype.max_abs)
    return Matrix(dtype, layout, ceil_div(shape[0], config.array.cols), None)


def matrix_layout(config: Config, name: str, k: int, dtype: WeightType, kept: Kept | None = None) -> TileLayout:
    """The tiles of a matrix with rows of `k`, if the array can take them; with what is `kept`, if anything is
    missing."""
    a, m = config.array, config.memory
    group = dtype.group(config.types.group_size)
    require(group == 0 or group % a.lanes == 0,
            f"{name}: groups of {group} cannot be cut into steps of array.lanes = {a.lanes}")
    require(group == 0 or group >= a.group_min,
            f"{name}: groups of {group} are below array.group_min = {a.group_min}")
    steps = ceil_div(k, a.lanes)
    require(steps * a.lanes <= m.act_elements,
            f"{name}: K = {k} does not fit memory.act_elements = {m.act_elements}")
    require((group or steps * a.lanes) <= a.group_max,
            f"{name}: groups of {group or k} are above array.group_max = {a.group_max}")
    kept = kept or Kept()
    group_steps = group // a.lanes
    if kept.groups:
        steps = kept.groups * group_steps
    elif kept.words:
        steps, group_steps = (s // a.window * kept.words for s in (steps, group_steps))
    layout = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits, planes=dtype.bits,
                        steps=steps, group_steps=group_steps, sparse=kept.groups > 0,
                        window=a.window, kept=kept.words, aux=AuxKind(dtype.aux),
                        float_scales=dtype.float_scales,
                        order=CodeOrder.TRITS if dtype.trits else CodeOrder.PLANES)
    for what, size in (("group scales", layout.scale_bytes), ("selects or zero points", layout.aux_bytes)):
        require(size // config.beat_bytes <= m.meta_beats,
                f"{name}: the {what} of a tile take {size // config.beat_bytes} beats, "
                f"memory.meta_beats = {m.meta_beats}")
    return layout


def check_accumulator(config: Config, name: str, weight_sum: int) -> None:
    """No sum of products can leave the accumulator, whatever the activations."""
    bound = weight_sum * act_max(config.types.acts)
    require(bound < 1 << (config.array.acc_bits - 1),
            f"{name}: an accumulator could reach {bound}, which needs {bound.bit_length() + 1} bits; "
            f"array.acc_bits = {config.array.acc_bits}")


def embedding_row(width: int, beat_bytes: int) -> int:
    """Bytes of a row of `int8_embedding`."""
    return beat_bytes + ceil_div(width, beat_bytes) * beat_bytes


def int8_embedding(model: Model, beat_bytes: int) -> np.ndarray:
    """uint8[vocab, row]: per token a beat that begins with its float32 scale, then int8 codes. What the architecture
    multiplies embeddings with is in the scale."""
    table = model.embedding
    scale = np.abs(table).max(1) / np.float32(127)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    codes = np.clip(np.rint(table / scale[:, None]), -127, 127).astype(np.int8)
    scale = scale * np.float32(model.config.embedding_scale)
    out = np.zeros((len(table), embedding_row(table.shape[1], beat_bytes)), np.uint8)
    out[:, :4] = scale[:, None].view(np.uint8)
    out[:, beat_bytes : beat_bytes + table.shape[1]] = codes.view(np.uint8)
    return out
