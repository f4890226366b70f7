"""What the matmul unit computes, in numpy: the specification of `MatmulInstruction`."""

import numpy as np

from wordline.pe.datatypes import AuxKind, WeightKind, decode_table, decode_tables, scale_values
from wordline.rtl import float_ref as ref
from wordline.rtl.layout import TileLayout, unpack, unpack_index


def effective_weights(raw: np.ndarray, layout: TileLayout, kind: WeightKind) -> tuple[np.ndarray, np.ndarray]:
    """float64[N, K] of ``group_scale * (value - zero)``, exact integers, and float32[N] channel scales. What a sparse
    layout leaves out is 0; K ends with the last element that any tile has."""
    codes, scales, aux, channel = unpack(layout, raw)
    group = np.arange(codes.shape[1]) // (layout.group_steps * layout.lanes or codes.shape[1])
    if layout.aux in (AuxKind.SELECT, AuxKind.GAPS):
        values = decode_tables(kind)[aux.astype(np.intp)[:, group] & 15, codes].astype(np.float64)
    else:
        values = decode_table(kind)[codes].astype(np.float64)
        if layout.aux is AuxKind.ZERO:
            values -= aux[:, group]
    weights = values * scale_values(scales, layout.float_scales)[:, group]
    if layout.sparse or layout.kept:
        where = unpack_index(layout, raw)
        dense = np.zeros((len(weights), where.max() + 1))
        np.add.at(dense, (np.arange(len(weights))[:, None], where), weights)
        weights = dense
    return weights, channel


def accumulate(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int64[rows, N]: exact ``x @ weights.T`` for integer x [rows, K] and float64 weights [N, K].

    Double precision is exact while no sum of magnitudes reaches 2^53; beyond, whole numbers are used.
    """
    if _is_exact(x, np.abs(weights).max(initial=0)):
        return (x.astype(np.float64) @ weights.T).astype(np.int64)
    return x.astype(np.int64) @ weights.T.astype(np.int64)


def _is_exact(x: np.ndarray, largest: float) -> bool:
    """No sum of magnitudes of products of a row of `x` and weights up to `largest` reaches 2^53."""
    return bool(np.abs(x).max(initial=0) * float(largest) * max(x.shape[1], 1) < 2.0**53)


def accumulate_float(x: np.ndarray, weights: np.ndarray, largest: float) -> np.ndarray:
    """float32[rows, N]: `accumulate`, then `float_ref.int_to_float`, of weights [N, K] none of which is above
    `largest`. Numbers of double precision that are whole are rounded to float32 as integers are."""
    if _is_exact(x, largest):
        return (x.astype(np.float64, copy=False) @ weights.T).astype(np.float32)
    return ref.int_to_float(accumulate(x, weights))


def matmul(x: np.ndarray, weights: np.ndarray, row_scale: np.ndarray, channel: np.ndarray | None) -> np.ndarray:
    """float32[rows, N]: ``(f32(acc) * row_scale) * channel``, two rounded multiplications."""
    y = ref.mul(ref.int_to_float(accumulate(x, weights)), row_scale[:, None])
    return y if channel is None else ref.mul(y, channel)
