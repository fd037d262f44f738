"""The reference rounding is torch's own and ONNX's, and the table's metrics are those of the real thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klcal.calibration.values import calibrate
from klcal.quantizers.qparams import Qparams, deployed_scales, level_ends, qparams, rounded_scales, zero_points
from klcal.quantizers.rounding import dequantize, quantize
from klcal.quantizers.scheme import KINDS, Scheme
from tests.support.lazy import torch
from tests.support.strategies import FINITE, floats, tensors

INTEGERS = ("int2", "uint3", "int4", "uint4", "int8", "uint8", "int16", "uint16")
SCHEMES = [Scheme(dtype, kind) for dtype in INTEGERS for kind in KINDS]
ids = {"ids": lambda scheme: f"{scheme.dtype}-{scheme.kind}"}
SCALES = st.floats(2.0**-20, 2.0**20, width=32)


@given(floats(FINITE), SCALES, st.integers(0, 255))
def test_quantize_and_dequantize_are_torchs(values, scale, zero_point):
    """But where torch's own multiplication by 1/scale falls to the other side of a rounding edge."""
    by = Qparams(scale, zero_point, 0, 255)
    values = np.clip(values, -1e9, 1e9)
    expected = torch.fake_quantize_per_tensor_affine(torch.from_numpy(values), scale, zero_point, 0, 255).numpy()
    steps = values.astype(float) / scale
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-3
    assert np.array_equal(dequantize(quantize(values, by), by)[clear], expected[clear])


@given(floats(FINITE), SCALES, st.integers(-8, 7))
def test_arrays_and_tensors_are_quantized_alike(values, scale, zero_point):
    by = Qparams(scale, zero_point, -8, 7)
    for array in (values, values.reshape(1, -1)):
        integers = quantize(array, by)
        assert integers.dtype == np.int64
        assert np.array_equal(quantize(torch.from_numpy(array), by).numpy(), integers)
        assert np.array_equal(dequantize(torch.from_numpy(integers), by).numpy(), dequantize(integers, by))
        assert dequantize(integers, by).dtype == np.float32


def test_ties_are_rounded_to_even_and_values_outside_the_range_are_clipped():
    by = Qparams(1.0, 0, -8, 7)
    assert quantize([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf], by).tolist() == [0, 2, 2, 0, -2, 7, -8, 7]


# --- what is deployed


def options(scheme: Scheme) -> list[int]:
    """All of a few levels, some of many."""
    return sorted({scheme.belows[0], scheme.belows[-1], scheme.belows[scheme.belows.size // 2]})


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_zero_is_exact_and_the_integers_stand_for_the_levels_of_the_choice(scheme):
    for below in options(scheme):
        by = qparams(0.125, below, scheme)
        assert (by.qmin, by.qmax) == (scheme.integers[0], scheme.integers[-1])
        assert dequantize(quantize([0.0], by), by).tolist() == [0.0]
        values = np.sort(dequantize(np.arange(by.qmin, by.qmax + 1), by))
        assert values.tolist() == [0.125 * (level - below) for level in range(scheme.size)]
        assert (by.low, by.high) == (values[0], values[-1])


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
@pytest.mark.parametrize("scale", [0.1, 3e38, 1e-45, 1e-46])
def test_one_scale_and_an_array_of_scales_are_deployed_alike(scheme, scale):
    below = np.array(options(scheme))
    scales = np.full(below.size, scale)
    each = [qparams(scale, int(option), scheme) for option in below]
    assert deployed_scales(scales, below, scheme).tolist() == [by.scale for by in each]
    assert rounded_scales(scales, below, scheme).tolist() == [abs(by.scale) for by in each]
    assert zero_points(below, scheme).tolist() == [by.zero_point for by in each]
    under, above = level_ends(below, scheme)
    assert (under + above == scheme.size - 1).all()
    assert all(by.low <= 0 <= by.high and np.isfinite([by.low, by.high]).all() for by in each)


@pytest.mark.parametrize(
    ("dtype", "kind", "integers", "zero_point", "above", "below"),
    [
        ("int2", "symmetric", range(-1, 2), 0, [1], [1]),
        ("int2", "symmetric-full", range(-2, 2), 0, [1], [1, 2]),
        ("int2", "symmetric-signed", range(-2, 2), 0, [1, 2], [1, 2]),
        ("int2", "affine", range(-2, 2), 0, [1, 2, 3], [1, 2, 3]),
        ("uint2", "symmetric", range(1, 4), 2, [1], [1]),
        ("uint2", "symmetric-full", range(4), 2, [1], [1, 2]),
        ("uint2", "symmetric-signed", range(4), 2, [1, 2], [1, 2]),
        ("int8", "symmetric", range(-127, 128), 0, range(1, 128), range(1, 128)),
        ("int8", "symmetric-full", range(-128, 128), 0, range(1, 128), range(1, 129)),
        ("uint8", "symmetric", range(1, 256), 128, range(1, 128), range(1, 128)),
        ("uint8", "symmetric-full", range(256), 128, range(1, 128), range(1, 129)),
    ],
)
def test_each_scheme_has_its_integers_and_its_levels(dtype, kind, integers, zero_point, above, below):
    scheme = Scheme(dtype, kind)
    assert scheme.integers == integers
    assert qparams(1, scheme.zero, scheme).zero_point == zero_point
    assert (scheme.above.tolist(), scheme.below.tolist()) == (list(above), list(below))
    assert scheme.is_fixed == (kind in ("symmetric", "symmetric-full"))


@pytest.mark.parametrize(
    ("kind", "low", "high", "scale", "ends"),
    [
        ("symmetric", -2.0, 1.75, 2 / 7, (-2.0, 2.0)),
        ("symmetric-full", -2.0, 1.75, 0.25, (-2.0, 1.75)),
        ("symmetric-signed", -2.0, 1.75, 0.25, (-2.0, 1.75)),
        ("symmetric", -1.75, 2.0, 2 / 7, (-2.0, 2.0)),
        ("symmetric-full", -1.75, 2.0, 2 / 7, (-16 / 7, 2.0)),
        ("symmetric-signed", -1.75, 2.0, -0.25, (-1.75, 2.0)),
        ("symmetric-signed", -1.9, 2.0, -1.9 / 7, (-1.9, 15.2 / 7)),  # the other side counts as well
        ("symmetric-signed", -1.0, 1.0, 1 / 7, (-8 / 7, 1.0)),  # a tie goes to the positive sign
        ("symmetric-signed", 0.0, 2.0, -0.25, (-1.75, 2.0)),
        ("symmetric-signed", -2.0, 0.0, 0.25, (-2.0, 1.75)),
    ],
)
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_min_max_of_four_bits_by_hand(kind, low, high, scale, ends, per):
    row = calibrate(np.float32([[low, high]]), dtype="int4", scheme=kind, method="minmax", per=per)
    (unit,) = row.each_unit()
    found = [unit.scale, unit.low, unit.high, unit.zero_point]
    assert found == pytest.approx([scale, *ends, 0], rel=1e-6)
    assert (row.qmin, row.qmax) == (-7 if kind == "symmetric" else -8, 7)


def test_a_negative_scale_represents_the_value_that_a_positive_one_clips():
    values = np.float32([-1.75, -0.5, 0.25, 2.0])
    row = calibrate(values, dtype="int4", scheme="symmetric-signed", method="mse")
    assert (row.scale, row.mse, row.clipped) == (-0.25, 0.0, 0.0)
    assert quantize(values, row).tolist() == [7, 2, -1, -8]
    assert dequantize(quantize(values, row), row).tolist() == values.tolist()
    positive = qparams(0.25, 8, Scheme("int4", "symmetric-signed"))
    assert dequantize(quantize(values, positive), positive).tolist() == [-1.75, -0.5, 0.25, 1.75]


@pytest.mark.parametrize("method", ["kl", "mse", "kl-classic", "minmax", "percentile:95"])
@settings(max_examples=15)
@example(
    np.float32(
        [
            38,
            9,
            28,
            16,
            3,
            -1,
            25,
            16,
            19,
            -8,
            54,
            -14,
            30,
            -15,
            -20,
            -20,
            45,
            35,
            6,
            15,
            25,
            -4,
            29,
            21,
            39,
            7,
            12,
            52,
            31,
            17,
            45,
            -16,
            54,
            46,
            31,
            5,
            0,
            37,
            27,
            7,
            -14,
            17,
            22,
            34,
            -3,
            28,
            44,
            30,
            -17,
            36,
            -13,
            47,
            35,
            39,
            45,
            57,
            27,
        ]
    )
    / 16
)  # the best scale is that of a narrower kind, with the other zero point
@given(values=tensors(100))
def test_mirrored_values_have_the_mirrored_scale(method, values):
    """But where both signs are as good: then it is the positive one."""
    options = {"dtype": "int4", "scheme": "symmetric-signed", "method": method}
    row, mirrored = calibrate(values, **options), calibrate(-values, **options)
    assert abs(row.scale) == abs(mirrored.scale)
    if row.scale == -mirrored.scale:
        assert row.mse == pytest.approx(mirrored.mse, rel=1e-9)
    else:
        assert min(row.scale, mirrored.scale) > 0


def test_each_scheme_of_four_bits_has_less_error_than_the_one_before():
    values = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
    kinds = ("symmetric", "symmetric-full", "symmetric-signed", "affine")
    rows = [calibrate(values, dtype="int4", scheme=kind, method="mse", per="group:128") for kind in kinds]
    losses = [10 * np.log10(np.mean(row.mse)) for row in rows]
    assert losses[0] - losses[1] > 0.15
    assert losses[1] - losses[2] > 0.15
    assert losses[2] >= losses[3]


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_the_ends_of_the_range_never_overflow_a_float32(scheme):
    greatest = float(np.finfo(np.float32).max)
    row = calibrate(np.float32([greatest, -greatest]), dtype=scheme.dtype, scheme=scheme.kind, method="minmax")
    assert np.isfinite(np.float32([row.low, row.high])).all()
    assert np.isfinite(dequantize([row.qmin, row.qmax], row)).all()


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
@pytest.mark.parametrize("method", ["kl", "minmax", "percentile:95"])
@settings(max_examples=4)
@given(values=tensors(400))
def test_metrics_are_those_of_the_real_rounding(scheme, method, values):
    """To 1 % on 300 float32 values and more up to 8 bits, exactly for values that a bucket holds exactly."""
    exact = (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    row = calibrate(exact, dtype=scheme.dtype, scheme=scheme.kind, method=method)
    restored = (
        quantize(exact, row) - row.zero_point
    ) * row.scale  # in float64: a float32 is too coarse for tiny errors
    steps = np.rint(exact.astype(float) / row.scale) + row.zero_point
    real = np.mean((exact - restored) ** 2)
    assert row.mse == pytest.approx(real, rel=1e-3, abs=1e-12 * np.mean(exact.astype(float) ** 2))
    assert row.clipped == np.mean((steps < row.qmin) | (steps > row.qmax))
    if row.sqnr_db is not None and row.sqnr_db < 100:
        assert row.sqnr_db == pytest.approx(
            10 * np.log10(np.sum(exact.astype(float) ** 2) / np.sum((exact - restored) ** 2)), abs=0.01
        )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("law", ["standard_normal", "laplace", "uniform"])
def test_metrics_of_float32_are_within_a_percent(dtype, law):
    values = getattr(np.random.default_rng(3), law)(size=2000).astype(np.float32)
    row = calibrate(values, dtype=dtype)
    restored = dequantize(quantize(values, row), row).astype(float)
    assert row.mse == pytest.approx(np.mean((values - restored) ** 2), rel=0.01)
