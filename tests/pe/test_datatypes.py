"""Datatypes, quantiser and byte layout."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordline.pe.datatypes import (
    POWER_BYTES,
    WEIGHT_TYPES,
    AuxKind,
    act_max,
    decode_table,
    scale_values,
)
from wordline.pe.quantize import dequantize, quantize
from wordline.rtl.isa import CodeOrder
from wordline.rtl.layout import TileLayout, pack, unpack
from wordline.rtl.matmul_ref import effective_weights
from wordline.rtl.trits import pack_trits, unpack_trits


def usable(dtype, values: np.ndarray) -> np.ndarray:
    """Values of a group that the quantiser uses."""
    if dtype.aux is AuxKind.NONE:
        values = values[values >= -values.max()] if dtype.name.startswith("int") else dtype.codebook()[0]
    return values


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


def test_stored_asymmetric_codes_mean_q_minus_z():
    for bits in range(2, 9):
        dtype, half = WEIGHT_TYPES[f"int{bits}_asym"], 1 << (bits - 1)
        assert dtype.kind == WEIGHT_TYPES[f"int{bits}"].kind
        q, z = np.meshgrid(np.arange(1 << bits), np.arange(1 << bits))
        codes = (q - half & (1 << bits) - 1).astype(np.uint8)
        assert (dtype.decode(codes, z - half) == q - half).all()
        assert (dtype.values(codes, z - half) == q - z).all()


def test_largest_magnitudes():
    largest = {f"int{b}": 2 ** (b - 1) - 1 for b in range(2, 9)} | {"int1": 1, "ternary": 1}
    largest |= {"bitmod_fp4": 16, "bitmod_fp3": 6, "mxfp4": 12, "nvfp4": 12, "pow2x2": 9, "pow2x3": 73}
    largest |= {f"int{b}_asym": 2**b - 1 for b in range(2, 9)}
    assert {name: t.max_abs for name, t in WEIGHT_TYPES.items()} == largest
    assert [act_max(bits) for bits in (4, 8, 16)] == [7, 127, 32767]


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
        values = usable(dtype, values)
        choices = values * float(scale_values(q.scales[n, g], dtype.float_scales)) * float(q.channel_scale[n])
        assert abs(d[n, k] - w[n, k]) <= np.abs(choices - w[n, k]).min() + 1e-6


@pytest.mark.parametrize("name", WEIGHT_TYPES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 90), group=st.sampled_from([0, 8, 32]),
       magnitude=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), shift=st.sampled_from([0.0, 2.0]))
def test_error_is_at_most_half_the_widest_gap(name, seed, k, group, magnitude, shift):
    """Nothing lands beyond half a gap of its codebook, but for what rounding a scale or zero point moves."""
    dtype = WEIGHT_TYPES[name]
    rng = np.random.default_rng(seed)
    w = ((rng.standard_normal((3, k)) + shift) * magnitude).astype(np.float32)
    q = quantize(w, dtype, group)
    of = np.arange(k) // q.group_size
    step = scale_values(q.scales, dtype.float_scales)[:, of] * q.channel_scale[:, None].astype(np.float64)
    aux = np.zeros_like(q.scales, np.int8) if q.aux is None else q.aux
    low, high, gap = np.empty((3, k)), np.empty((3, k)), np.empty((3, k))
    for n in range(3):
        for i in range(k):
            values = np.sort(dtype.values(np.arange(1 << dtype.bits, dtype=np.uint8), aux[n, of[i]]))
            values = usable(dtype, values)
            low[n, i], high[n, i], gap[n, i] = values[0], values[-1], np.diff(values).max()
    outside = np.maximum(np.maximum(low * step - w, w - high * step), 0)
    error = np.abs(dequantize(q).astype(np.float64) - w)
    rounding = np.abs(w) * 2.0**-23  # of float32 results
    assert (error <= np.maximum(gap / 2 * step, outside) + rounding).all()
    # A scale is rounded by at most half of channel_scale, and a zero point, if there is one, by half a
    # step; with a zero point all of it may end up on one side.
    if dtype.aux is AuxKind.ZERO:
        most = (high - low) * q.channel_scale[:, None] / 2 + step / 2
    else:
        most = high * q.channel_scale[:, None] / 2
    # One special value leaves the other side of zero to saturate, and one magnitude is the mean of all.
    # What a float scale rounds away, other tests say.
    if dtype.aux is not AuxKind.SELECT and dtype.max_abs > 1 and not dtype.float_scales:
        assert (outside <= most + rounding).all()


@pytest.mark.parametrize("name", [n for n, t in WEIGHT_TYPES.items() if t.aux is not AuxKind.SELECT
                                  and not t.float_scales])
def test_a_grid_is_reproduced_exactly(name):
    """Weights that are values of the type times a power of two come back bit for bit."""
    dtype = WEIGHT_TYPES[name]
    rng = np.random.default_rng(3)
    top = (1 << dtype.bits) - 1 if dtype.aux else dtype.max_abs
    w = rng.integers(0 if dtype.aux else -top, top + 1, (6, 128)).astype(np.float32)
    if name == "int1":
        w[w == 0] = -1
    if dtype.aux:
        w -= rng.integers(0, top + 1, (6, 1))
        w[:, ::64], w[:, 1::64] = w.min(1, keepdims=True), w.min(1, keepdims=True)
        lowest = np.minimum(w.min(1, keepdims=True), 0)
        w[:, ::64], w[:, 1::64] = lowest, lowest + top
    else:
        w[:, ::64] = top
    w *= 255 * 2.0**-12  # channel_scale = 2^-12, group scale 255
    q = quantize(w, dtype, 64)
    assert (q.channel_scale == 2.0**-12).all() and (q.scales == 255).all()
    assert (dequantize(q) == w).all()


def test_three_bit_bitmod_beats_three_bit_integers_on_any_seed():
    for seed in range(3):
        w = np.random.default_rng(seed).standard_normal((16, 2048)).astype(np.float32)
        assert nmse("bitmod_fp3", w) < nmse("int3_asym", w) < nmse("int3", w)
        assert nmse("bitmod_fp4", w) < nmse("int4_asym", w) < nmse("int4", w)


@pytest.mark.parametrize("name", WEIGHT_TYPES)
def test_tiny_weights_keep_a_normal_channel_scale(name):
    # The hardware would read a subnormal scale as zero.
    for size in (1e-40, 1.4e-45, 2.0**-126):
        q = quantize(np.full((2, 16), size, np.float32), WEIGHT_TYPES[name], 8)
        assert (q.channel_scale >= np.finfo(np.float32).tiny).all()
        assert (q.scales >= 1).all() or WEIGHT_TYPES[name].float_scales
        assert (np.abs(dequantize(q) - np.float32(size)) <= 2.0**-126).all()


def test_what_cannot_be_quantised_is_refused():
    int4 = WEIGHT_TYPES["int4"]
    with pytest.raises(ValueError, match=r"matrix with elements, not of shape \(0, 4\)"):
        quantize(np.zeros((0, 4)), int4)
    with pytest.raises(ValueError, match=r"not of shape \(4,\)"):
        quantize(np.zeros(4), int4)
    with pytest.raises(ValueError, match="group_size must be None or at least 0, not -1"):
        quantize(np.zeros((2, 4)), int4, -1)
    with pytest.raises(ValueError, match=r"weight \[0, 3\] is inf"):
        quantize(np.array([[0, 1, 2, np.inf]]), int4)
    assert quantize(np.ones((2, 6)), int4).scales.shape == (2, 1)


def test_zero_groups_and_bad_weights():
    w = np.zeros((2, 128), np.float32)
    w[1, 64:] = 1
    for name, dtype in WEIGHT_TYPES.items():
        d = dequantize(quantize(w, dtype, 64))
        assert (d[w == 0] == 0).all(), name
    w[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"weight \[1, 5\] is nan"):
        quantize(w, WEIGHT_TYPES["int4"], 64)


def test_float_scales_are_e4m3():
    bytes_ = np.arange(0x7F, dtype=np.uint8)
    assert (scale_values(bytes_, True) == bytes_.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * 512).all()
    assert list(scale_values(POWER_BYTES, True)) == [2**i for i in range(18)]


def test_nvfp4_is_the_format():
    """The same elements, block scales and tensor scale as casts to the formats themselves give."""
    w = np.random.default_rng(5).standard_normal((6, 64)).astype(np.float32)
    w[3] *= 1e-3  # blocks whose scale is subnormal
    q = quantize(w, WEIGHT_TYPES["nvfp4"], 16)
    tensor = np.float32(np.abs(w).max() / (6 * 448))
    blocks = w.reshape(6, 4, 16).astype(np.float64)
    scale = (np.abs(blocks).max(-1) / 6 / tensor).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    assert (scale.view(np.uint8) == q.scales).all()
    scale = scale.astype(np.float64)[..., None] * tensor
    elements = np.clip(blocks / scale, -6, 6).astype(np.float32).astype(ml_dtypes.float4_e2m1fn).astype(np.float64)
    assert np.allclose(dequantize(q), (elements * scale).reshape(w.shape), rtol=1e-6, atol=0)


def test_mxfp4_is_the_format_within_its_window():
    w = np.random.default_rng(6).standard_normal((4, 128)).astype(np.float32)
    w[:, 32:64] *= 2.0**-12
    w[:, 64:96] *= 2.0**-17
    w[:, 96:] *= 2.0**-24
    q = quantize(w, WEIGHT_TYPES["mxfp4"], 32)
    blocks = w.reshape(4, 4, 32).astype(np.float64)
    exponent = np.floor(np.log2(np.abs(blocks).max(-1, keepdims=True))) - 2  # OCP MX v1.0, section 6.3
    elements = np.clip(blocks / 2**exponent, -6, 6).astype(np.float32).astype(ml_dtypes.float4_e2m1fn)
    want = elements.astype(np.float64) * 2**exponent
    kept = exponent >= exponent.max(1, keepdims=True) - 17
    assert kept[:, :2].all() and not kept[:, 3].any()
    assert (dequantize(q).reshape(blocks.shape) == np.where(kept, want, 0)).all()


@pytest.mark.parametrize(("name", "planes"), [("pow2x2", 2), ("pow2x3", 3)])
def test_planes_with_powers_of_two_come_back(name, planes):
    """Weights that are such sums are reproduced; every coefficient of what is not is a power of two."""
    dtype, rng = WEIGHT_TYPES[name], np.random.default_rng(7)
    gaps = rng.integers(0, 4, (8, 4, planes - 1))
    shifts = np.concatenate([np.zeros((8, 4, 1), int), gaps.cumsum(-1)], -1) + rng.integers(-6, 5, (8, 4, 1))
    signs = np.array(list(np.ndindex(*(2,) * planes))) * 2 - 1
    signs = np.tile(signs, (64 >> planes, 1))  # every combination is there
    w = (signs * 2.0 ** shifts[:, :, None]).sum(-1).astype(np.float32).reshape(8, 256)
    assert (dequantize(quantize(w, dtype, 64)) == w).all()
    q = quantize(rng.standard_normal((4, 128)).astype(np.float32), dtype, 64)
    assert np.isin(np.abs(np.log2(q.channel_scale)) % 1, 0).all() and np.isin(q.scales, POWER_BYTES).all()
    for select in range(4 ** (planes - 1)):
        shift = np.cumsum([0] + [select >> 2 * i & 3 for i in range(planes - 1)])
        top = int((1 << shift).sum())
        assert dtype.codebook(select)[0].max() == top == -dtype.codebook(select)[0].min()


def test_planes_beat_integers_of_their_width():
    w = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    assert nmse("pow2x3", w) < nmse("int3", w) and nmse("pow2x2", w) < nmse("int2", w)


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
    order = data.draw(st.sampled_from(
        [CodeOrder.PLANES, CodeOrder.COLUMNS, CodeOrder.LANES] if dtype.bits in (4, 8) else
        [CodeOrder.PLANES, *([CodeOrder.TRITS] if dtype.trits else [])]))
    layout = TileLayout(cols=cols, lanes=lanes, bus_bits=bus, planes=dtype.bits, steps=steps,
                        group_steps=group_steps, aux=dtype.aux, order=order)
    w = np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32)
    q = quantize(w, dtype, group_steps * lanes)
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale)
    assert raw.size == layout.matrix_bytes(n) == -(-n // cols) * layout.tile_bytes
    assert layout.tile_bytes % (bus // 8) == 0
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


def test_layout_of_whole_codes_bit_by_bit():
    layout = TileLayout(cols=8, lanes=16, bus_bits=512, planes=4, steps=3, group_scales=False,
                        channel_scales=False, order=CodeOrder.LANES)
    codes = np.random.default_rng(4).integers(0, 16, (8, 48)).astype(np.uint8)
    raw = pack(layout, codes)
    assert layout.header_bytes == 0 and raw.size == 192  # 3 steps of 128 codes fill 3 beats of 64
    at = 2 * 128 + 9 * 8 + 5  # step 2, lane 9, column 5
    assert raw[at // 2] >> (at % 2 * 4) & 15 == codes[5, 32 + 9]
    assert (unpack(layout, raw)[0] == codes).all()
    columns = replace(layout, order=CodeOrder.COLUMNS)
    raw = pack(columns, codes)
    at = 2 * 128 + 5 * 16 + 9
    assert raw[at // 2] >> (at % 2 * 4) & 15 == codes[5, 32 + 9]
    assert (unpack(columns, raw)[0] == codes).all()


@given(st.lists(st.integers(-1, 1), max_size=99))
def test_five_trits_lie_in_a_byte(values):
    raw = pack_trits(np.array(values, np.int64))
    assert raw.size == -(-len(values) // 5)
    assert list(unpack_trits(raw)) == values + [0] * (-len(values) % 5)


def test_trits_are_packed_as_in_gguf():
    # TQ1_0 of llama.cpp: (81*a + 27*b + 9*c + 3*d + e) * 256 / 243, rounded up, digits 0 to 2.
    assert list(pack_trits(np.array([-1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 0, 1, -1, 0, 1]))) == [0, 255, 148]


@pytest.mark.parametrize("change, message", [
    ({"cols": 6}, "cols must be a positive multiple of 4, not 6"),
    ({"lanes": 24, "bus_bits": 256}, "a plane of cols.lanes = 192 bits must divide the bus of 256 bits"),
    ({"planes": 9}, "planes must be 1 to 8, not 9"),
    ({"steps": 0}, "steps must be at least 1"),
])
def test_impossible_layouts_are_refused(change, message):
    possible = {"cols": 8, "lanes": 8, "bus_bits": 64, "planes": 4, "steps": 4}
    with pytest.raises(ValueError, match=message):
        TileLayout(**possible | change)


def test_more_weights_than_the_layout_holds_are_refused():
    layout = TileLayout(cols=8, lanes=8, bus_bits=64, planes=4, steps=2, channel_scales=False,
                        group_scales=False)
    with pytest.raises(ValueError, match="K = 17 is longer than 2 steps of 8 lanes"):
        pack(layout, np.zeros((8, 17), np.uint8))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_sparse_layout_holds_the_groups_of_its_index(data):
    dtype = WEIGHT_TYPES[data.draw(st.sampled_from(["int4", "int4_asym", "bitmod_fp3", "ternary", "pow2x3", "nvfp4"]))]
    groups, group_steps = data.draw(st.integers(2, 12)), data.draw(st.sampled_from([1, 2, 4]))
    kept, n = data.draw(st.integers(1, groups)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(n * kept)
    q = quantize(rng.standard_normal((n, groups * group_steps * 8)).astype(np.float32), dtype, group_steps * 8)
    layout = TileLayout(cols=16, lanes=8, bus_bits=data.draw(st.sampled_from([32, 64, 256])), planes=dtype.bits,
                        steps=kept * group_steps, group_steps=group_steps, aux=dtype.aux, sparse=True,
                        float_scales=dtype.float_scales, order=CodeOrder.TRITS if dtype.trits else CodeOrder.PLANES)
    chosen = np.stack([np.sort(rng.permutation(groups)[:kept]) for _ in range(-(-n // 16))])
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale, chosen * group_steps)
    assert raw.size == layout.matrix_bytes(n)
    weights, _ = effective_weights(raw, layout, dtype.kind)
    mask = np.zeros((n, groups), bool)
    np.put_along_axis(mask, chosen[np.arange(n) // 16], True, 1)
    dense = q.integers() * np.repeat(mask, group_steps * 8, 1)
    width = weights.shape[1]
    assert (weights[:n] == dense[:, :width]).all() and not dense[:, width:].any() and not weights[n:].any()


def test_a_sparse_layout_has_whole_groups():
    with pytest.raises(ValueError, match="a sparse tile has whole groups, not 3 steps in groups of 2"):
        TileLayout(cols=8, lanes=8, bus_bits=64, planes=4, steps=3, group_steps=2, sparse=True)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_an_n_of_m_layout_holds_the_weights_of_its_picks(data):
    dtype = WEIGHT_TYPES[data.draw(st.sampled_from(["int4", "int4_asym", "bitmod_fp3", "ternary", "pow2x3", "nvfp4"]))]
    window, windows = data.draw(st.sampled_from([2, 4, 8, 16])), data.draw(st.integers(1, 6))
    kept, n = data.draw(st.integers(1, window)), data.draw(st.integers(1, 40))
    per_group = data.draw(st.sampled_from([1, 2]))
    rng, tiles = np.random.default_rng(n * kept), -(-n // 16)
    q = quantize(rng.standard_normal((n, windows * window * 8)).astype(np.float32), dtype, per_group * window * 8)
    layout = TileLayout(cols=16, lanes=8, bus_bits=data.draw(st.sampled_from([32, 64, 256])), planes=dtype.bits,
                        steps=windows * kept, group_steps=per_group * kept, aux=dtype.aux, window=window, kept=kept,
                        float_scales=dtype.float_scales, order=CodeOrder.TRITS if dtype.trits else CodeOrder.PLANES)
    chosen = rng.permuted(np.tile(np.arange(window, dtype=np.uint8), (tiles, windows, 8, 1)), axis=-1)[..., :kept]
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale,
               chosen.swapaxes(2, 3).reshape(tiles, windows * kept, 8))
    assert raw.size == layout.matrix_bytes(n)
    weights, _ = effective_weights(raw, layout, dtype.kind)
    mask = np.zeros((tiles, windows, window, 8), bool)
    np.put_along_axis(mask, chosen.swapaxes(2, 3).astype(np.intp), True, 2)
    dense = np.where(np.repeat(mask.reshape(tiles, -1), 16, 0)[:n], q.integers(), 0)
    width = weights.shape[1]
    assert (weights[:n] == dense[:, :width]).all() and not dense[:, width:].any() and not weights[n:].any()


def test_an_n_of_m_layout_has_whole_windows():
    about = {"cols": 8, "lanes": 8, "bus_bits": 64, "planes": 4, "window": 4}
    with pytest.raises(ValueError, match="not 3 steps in groups of 0, 2 of them in a window"):
        TileLayout(steps=3, kept=2, **about)
    with pytest.raises(ValueError, match="not 6 steps in groups of 3, 2 of them in a window"):
        TileLayout(steps=6, kept=2, group_steps=3, **about)
    with pytest.raises(ValueError, match="of a window of 4 steps 5 cannot be kept"):
        TileLayout(steps=5, kept=5, **about)


def test_types_without_zero():
    assert [name for name, dtype in WEIGHT_TYPES.items() if not dtype.has_zero] == ["int1", "pow2x2", "pow2x3"]
