"""Datatypes, quantiser and byte layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordline.pe.datatypes import WEIGHT_TYPES, AuxKind, decode_table
from wordline.pe.quantize import dequantize, quantize
from wordline.rtl.layout import TileLayout, pack, unpack


def nmse(name: str, w: np.ndarray) -> float:
    error = dequantize(quantize(w, WEIGHT_TYPES[name], 128)) - w
    return float((error**2).mean() / (w**2).mean())


def test_codebooks_are_those_of_the_paper():
    # BitMoD, Table IV; FP4 doubled.
    fp4, fp3 = WEIGHT_TYPES["bitmod_fp4"], WEIGHT_TYPES["bitmod_fp3"]
    basic = [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12]
    for select, special in enumerate([10, -10, 16, -16]):
        assert list(fp4.codebook(select)[0]) == sorted([*basic, special])
    for select, special in enumerate([3, -3, 6, -6]):
        assert list(fp3.codebook(select)[0]) == sorted([-4, -2, -1, 0, 1, 2, 4, special])
    assert list(WEIGHT_TYPES["int3"].codebook()[0]) == [-3, -2, -1, 0, 1, 2, 3]
    assert list(decode_table(WEIGHT_TYPES["int2"].kind)) == [0, 1, -2, -1]


def test_gaussian_error_agrees_with_the_published_figures():
    # reference/pe_papers.md, section 3, row 6: groups of 128, 8-bit group scales.
    w = np.random.default_rng(0).standard_normal((256, 4096)).astype(np.float32)
    published = {"int3_asym": 0.0465, "bitmod_fp3": 0.0381, "int4_asym": 0.0101, "bitmod_fp4": 0.0096}
    for name, want in published.items():
        assert nmse(name, w) == pytest.approx(want, rel=0.01), name


@pytest.mark.parametrize("name", WEIGHT_TYPES)
def test_rounding_is_to_the_nearest_value_of_the_group(name):
    w = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    dtype = WEIGHT_TYPES[name]
    q = quantize(w, dtype, 64)
    d = dequantize(q)
    for n, k in [(0, 0), (3, 77), (7, 199)]:
        g = k // 64
        aux = 0 if q.aux is None else q.aux[n, g]
        values = dtype.values(np.arange(1 << dtype.bits, dtype=np.uint8), aux).astype(float)
        if dtype.aux is AuxKind.NONE:
            values = values[values >= -values.max()]
        choices = values * float(q.scales[n, g]) * float(q.channel_scale[n])
        assert abs(d[n, k] - w[n, k]) <= np.abs(choices - w[n, k]).min() + 1e-6


def test_zero_groups_and_bad_weights():
    w = np.zeros((2, 128), np.float32)
    w[1, 64:] = 1
    for name, dtype in WEIGHT_TYPES.items():
        d = dequantize(quantize(w, dtype, 64))
        assert (d[w == 0] == 0).all(), name
    w[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"weight \[1, 5\] is nan"):
        quantize(w, WEIGHT_TYPES["int4"], 64)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_layout_round_trip(data):
    name = data.draw(st.sampled_from(sorted(WEIGHT_TYPES)))
    dtype = WEIGHT_TYPES[name]
    cols, lanes = data.draw(st.sampled_from([(8, 8), (16, 8), (8, 16), (32, 32)]))
    bus = data.draw(st.sampled_from([32, 64, 256, 512]))
    n, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 200))
    group_steps = data.draw(st.sampled_from([0, 1, 2, 4]))
    steps = -(-k // lanes)
    transposed = data.draw(st.booleans())
    layout = TileLayout(cols=cols, lanes=lanes, bus_bits=bus, planes=dtype.bits, steps=steps,
                        group_steps=group_steps, aux=dtype.aux, transposed=transposed)
    w = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    q = quantize(w, dtype, group_steps * lanes)
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale)
    assert raw.size == -(-n // cols) * layout.tile_bytes and layout.tile_bytes % (bus // 8) == 0
    codes, scales, aux, channel = unpack(layout, raw)
    assert (codes[:n, :k] == q.codes).all() and not codes[n:].any() and not codes[:, k:].any()
    assert (scales[:n] == q.scales).all() and (channel[:n] == q.channel_scale).all()
    assert q.aux is None or (aux[:n] == q.aux).all()


def test_layout_bit_by_bit():
    layout = TileLayout(cols=8, lanes=16, bus_bits=64, planes=3, steps=2, group_steps=1,
                        aux=AuxKind.SELECT)
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 8, (16, 32)).astype(np.uint8)
    scales = rng.integers(0, 256, (16, 2)).astype(np.uint8)
    aux = rng.integers(0, 4, (16, 2)).astype(np.int8)
    channel = rng.standard_normal(16).astype(np.float32)
    raw = pack(layout, codes, scales, aux, channel)
    tile = raw[layout.tile_bytes :]  # channels 8 to 15
    assert tile[4 * 3 : 4 * 4].tobytes() == channel[8 + 3].tobytes()
    assert tile[32 + 1 * 8 + 5] == scales[8 + 5, 1]
    assert tile[48 + 1 * 2 + 5 * 2 // 8] >> (5 * 2 % 8) & 3 == aux[8 + 5, 1]
    start = 56 + (1 * 3 + 2) * 16  # step 1, plane 2
    bit = 5 * 16 + 9  # column 5, lane 9
    assert tile[start + bit // 8] >> (bit % 8) & 1 == codes[8 + 5, 16 + 9] >> 2 & 1
