"""Scales are those of the formats that run them, and one that its format cannot hold is a status."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.calibration.values import calibrate
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.qparams import Qparams
from klcal.quantizers.rounding import dequantize, quantize
from klcal.quantizers.scale_formats import (
    GREATEST,
    LEAST,
    RELATIVE,
    SCALE_FORMATS,
    at_least,
    at_most,
    global_scale_of,
    held,
    nearest_scale,
)
from klcal.quantizers.scheme import Scheme
from tests.support.strategies import tensors

SCALES = st.floats(2.0**-30, 2.0**15)
NARROW = ("float16", "bfloat16", "e8m0")
ABSOLUTE = [name for name in SCALE_FORMATS if name not in RELATIVE]
FLOAT8 = FLOATS["float8_e4m3fn"]


def stored(scales, scale_format: str):
    """What a real float of that format makes of scales."""
    names = {"e8m0": "float8_e8m0fnu", "bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3fn"}
    numpy_type = getattr(ml_dtypes, names[scale_format]) if scale_format in names else np.dtype(scale_format)
    return np.asarray(scales).astype(numpy_type).astype(np.float64)


# --- the scales next to a number


@pytest.mark.parametrize("scale_format", ABSOLUTE)
@given(scales=st.lists(SCALES, min_size=1, max_size=20))
def test_scales_next_to_a_number_are_neighbours_and_of_the_format(scale_format, scales):
    below, above = at_most(scales, scale_format), at_least(scales, scale_format)
    assert np.array_equal(stored(below, scale_format), below)
    assert np.array_equal(stored(above, scale_format), above)
    assert ((below <= scales) & (scales <= above)).all()
    middle = np.sqrt(np.maximum(below, 1e-300) * above)
    assert (np.isin(at_most(middle, scale_format), [below, above])).all()
    near = nearest_scale(scales, scale_format)
    assert np.array_equal(np.abs(near - scales), np.minimum(np.abs(below - scales), np.abs(above - scales)))


@given(scales=st.lists(st.floats(2.0**-12, 440), min_size=1, max_size=20), power=st.integers(-100, 100))
def test_a_float8_scale_is_a_float8_times_the_global_scale(scales, power):
    """By brute force over all 126 positive float8; powers of two as global scales make it exact."""
    positive = FLOAT8[FLOAT8 > 0]
    unit = 2.0**power
    wanted = np.array(scales) * unit
    below = [max(positive[positive <= scale], default=0) for scale in scales]
    above = [min(positive[positive >= scale]) for scale in scales]
    assert np.array_equal(at_most(wanted, "float8_e4m3fn", unit), np.array(below) * unit)
    assert np.array_equal(at_least(wanted, "float8_e4m3fn", unit), np.array(above) * unit)
    near = nearest_scale(wanted, "float8_e4m3fn", unit) / unit
    assert np.array_equal(near, stored(near, "float8_e4m3fn"))
    assert (np.abs(near - scales) == np.abs(positive[:, None] - scales).min(axis=0))[np.array(below) > 0].all()


def test_each_scale_may_have_a_global_scale_of_its_own():
    units = np.array([0.01, 7.0])
    found = at_most([1.0, 1.0], "float8_e4m3fn", units)
    assert found.tolist() == [at_most(1.0, "float8_e4m3fn", unit).tolist() for unit in units.tolist()]
    assert found == pytest.approx([96 * 0.01, 0.140625 * 7.0])


@given(full=st.floats(1e-30, 1e30))
def test_the_scale_that_covers_the_tensor_becomes_the_largest_float8(full):
    found = global_scale_of(full)
    assert found == np.float32(found)
    assert 448 * found >= full > 448 * float(np.nextafter(np.float32(found), np.float32(0)))
    assert at_least(full, "float8_e4m3fn", found) == 448 * found


# --- scales that a format does not hold


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
def test_a_format_holds_numbers_between_its_smallest_and_its_largest(scale_format):
    least, greatest = LEAST[scale_format], GREATEST[scale_format]
    inside = np.exp2(np.linspace(np.log2(least), np.log2(greatest), 101))
    assert not held([least, greatest, *np.clip(inside, least, greatest)], scale_format).any()
    assert held([least / 2.01, least / 1000, greatest * 2.01, greatest * 1000], scale_format).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
@given(data=st.data())
def test_rounding_to_a_format_moves_a_scale_by_at_most_half_a_step(scale_format, data):
    least, greatest = LEAST[scale_format], GREATEST[scale_format]
    end = data.draw(st.sampled_from([least, greatest]))
    wanted = end * data.draw(st.floats(0.25, 4))
    half_step = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "e8m0": 0.5}.get(scale_format, 2.0**-4)
    off = abs(float(nearest_scale(wanted, scale_format)) - wanted) / wanted
    if not least <= wanted <= greatest and abs(off - half_step) > 1e-9:
        assert (int(held(wanted, scale_format)) == 0) == (off < half_step)


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
def test_the_ends_of_a_format_have_neighbours(scale_format):
    least, greatest = LEAST[scale_format], GREATEST[scale_format]
    second, last_but_one = at_least(least * 1.01, scale_format), at_most(greatest * (1 - 2.0**-25), scale_format)
    assert least < second < last_but_one < greatest


@pytest.mark.parametrize(
    ("value", "scale_format", "status"),
    [
        (1e-20, "float16", "underflow"),
        (1e-9, "float16", "underflow"),
        (1e-3, "float16", "ok"),
        (8e6, "float16", "ok"),
        (9e6, "float16", "overflow"),
        (1e37, "float16", "overflow"),
        (1e-43, "bfloat16", "underflow"),
        (1e37, "bfloat16", "ok"),
        (1e-40, "e8m0", "underflow"),
        (1e37, "e8m0", "ok"),
        (1e-40, "float32", "ok"),
        (1e-44, "float32", "underflow"),
        (3e38, "float32", "ok"),
    ],
)
@pytest.mark.parametrize("method", ["kl", "mse", "kl-classic", "minmax", "percentile:99.9"])
def test_a_scale_that_its_format_cannot_hold_is_a_status_of_tensors_and_of_channels(
    value, scale_format, status, method
):
    values = np.outer([1.0, -0.7, 0.31, 1.0], np.full(4, value)).astype(np.float32).T
    options = {"dtype": "int8", "method": method, "scale_format": scale_format}
    for row in (calibrate(values, **options), calibrate(values, per="channel", **options)):
        assert row.status == status
        scales = [each.scale for each in row.each_unit()]
        assert [scale is None for scale in scales] == [status != "ok"] * len(scales)
        if status != "ok":
            assert row.reason.startswith(
                f"{scale_format} has no scale as {'small' if status == 'underflow' else 'large'}"
            )
            assert row.failed


def test_a_channel_that_has_no_scale_costs_the_others_nothing():
    values = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    alone = calibrate(values, dtype="int8", per="channel", scale_format="float16")
    values[1] *= np.float32(1e-20)
    values[2] *= np.float32(1e20)
    row = calibrate(values, dtype="int8", per="channel", scale_format="float16")
    assert row.units.status.tolist() == ["ok", "underflow", "overflow", "ok"]
    assert row.reason == "of 4 units: 2 ok, 1 underflow, 1 overflow"
    expected = [alone.units.scale[0], np.nan, np.nan, alone.units.scale[3]]
    assert np.array_equal(row.units.scale, expected, equal_nan=True)


def test_if_an_outlier_needs_a_scale_beyond_the_format_the_other_values_are_calibrated():
    """Min-max asks for 78,740, which is beyond float16; the percentile asks for a scale within it."""
    values = np.append(np.linspace(-8e6, 8e6, 10_001), 1e7).astype(np.float32)
    options = {"dtype": "int8", "scale_format": "float16"}
    assert calibrate(values, method="minmax", **options).status == "overflow"
    assert calibrate(values, method="percentile:99.9", **options).status == "ok"


# --- what is printed is what will run


@pytest.mark.parametrize("scale_format", NARROW)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "float8_e4m3fn", "float4_e2m1fn"])
@pytest.mark.parametrize("method", ["kl", "mse", "kl-classic", "percentile:99.9", "minmax"])
@settings(max_examples=4)
@given(values=tensors(200))
def test_what_is_printed_is_what_will_run(scale_format, dtype, method, values):
    row = calibrate(values, dtype=dtype, method=method, scale_format=scale_format)
    if row.status in ("underflow", "overflow"):
        assert scale_format in row.reason
        return
    assert stored([row.scale], scale_format).tolist() == [row.scale]
    restored = dequantize(quantize(values, row, dtype if row.zero_point is None else None), row).astype(float)
    noise = 1e-3 * np.sqrt(np.mean(values.astype(float) ** 2) * row.mse)  # of values spread within a bucket
    assert row.mse == pytest.approx(np.mean((values - restored) ** 2), rel=0.05, abs=noise)
    if method == "minmax" and row.scale < 65504.0:
        assert row.clipped == 0


@pytest.mark.parametrize("scale_format", NARROW)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
@pytest.mark.parametrize("law", ["standard_normal", "laplace", "uniform", "exponential"])
def test_neither_scale_next_to_the_best_has_a_smaller_error(scale_format, dtype, law):
    values = getattr(np.random.default_rng(3), law)(size=1000).astype(np.float16).astype(np.float32)
    row = calibrate(values, dtype=dtype, method="mse", scale_format=scale_format)
    free = calibrate(values, dtype=dtype, method="mse")
    for scale in (float(at_most(free.scale, scale_format)), float(at_least(free.scale, scale_format))):
        errors = [
            np.mean((values - dequantize(quantize(values, by), by).astype(float)) ** 2)
            for by in (Qparams(scale, zero_point, row.qmin, row.qmax) for zero_point in range(row.qmin, row.qmax + 1))
            if dtype == "uint8" or by.zero_point == 0
        ]
        assert row.mse <= 1.01 * min(errors)


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "int4", "uint4"])
@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_scales_of_units_are_float8_times_one_float32(dtype, method):
    """NVFP4: the tensor's extremes alone decide the global scale, so that its greatest unit may have 448."""
    values = np.random.default_rng(0).standard_t(4, (8, 64)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    options = {"dtype": dtype, "method": method, "per": "group:16"}
    row = calibrate(values, scale_format="float8_e4m3fn", **options)
    scheme = Scheme.parse(dtype)
    full = max(-low, high) / scheme.above[-1] if scheme.symmetric else (high - low) / 15
    unit = np.float32(global_scale_of(full))
    assert row.global_scale == unit
    scales = row.units.scale.astype(np.float32)
    codes = stored(scales.astype(float) / unit, "float8_e4m3fn")
    assert np.array_equal(codes.astype(np.float32) * unit, scales)
    assert codes.max() <= 448
    free = calibrate(values, **options)
    if method == "mse":
        assert row.mse <= 1.1 * free.mse
    else:
        assert row.clipped == 0
        assert (scales >= free.units.scale * (1 - 1e-6)).all()


def test_a_group_far_below_the_others_has_no_float8_scale():
    values = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    values[2, :16] *= np.float32(1e-7)
    row = calibrate(values, dtype="float4_e2m1fn", per="group:16", scale_format="float8_e4m3fn")
    assert [i for i, status in enumerate(row.units.status) if status != "ok"] == [4]
    assert row.units.status[4] == "underflow"


def test_a_tensor_with_one_scale_has_no_global_scale_beside_it():
    with pytest.raises(
        UsageError, match="float8_e4m3fn scales are relative to a global scale of their tensor; give its units"
    ):
        calibrate([1.0, 2.0], dtype="int4", scale_format="float8_e4m3fn")
    one_axis = calibrate(np.float32([1, 2, 3.3]), dtype="int4", per="group:2", scale_format="float8_e4m3fn")
    assert one_axis.scale == calibrate(np.float32([1, 2, 3.3]), dtype="int4").scale
