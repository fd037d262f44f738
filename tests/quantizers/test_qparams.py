"""The reference rounding is torch's own and ONNX's, and the table's metrics are those of the real thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.calibration import calibrate
from klcal.quantizers.qparams import Qparams, dequantize, qparams, quantize
from klcal.quantizers.scheme import Scheme
from tests.support.lazy import torch
from tests.support.strategies import FINITE, floats, tensors

INTEGERS = ("int2", "uint3", "int4", "uint4", "int8", "uint8", "int16", "uint16")
SCHEMES = [Scheme(dtype, symmetric) for dtype in INTEGERS for symmetric in (True, False)]
ids = {"ids": lambda scheme: f"{scheme.dtype}-{scheme.name}"}
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


def test_halves_are_rounded_to_even_and_what_is_beyond_is_clipped():
    by = Qparams(1.0, 0, -8, 7)
    assert quantize([0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, np.inf], by).tolist() == [0, 2, 2, 0, -2, 7, -8, 7]


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_zero_is_exact_and_the_ends_are_the_scheme_s(scheme):
    for below in (scheme.size // 2,) if scheme.symmetric else (0, scheme.size // 2, scheme.size - 1):
        by = qparams(0.1, below, scheme)
        assert by.zero_point - by.qmin == below
        assert dequantize(quantize([0.0], by), by).tolist() == [0.0]
        assert by.low == pytest.approx(-below * 0.1)
        assert by.high == pytest.approx((scheme.size - 1 - below) * 0.1)
        assert (by.qmin, by.qmax) == (scheme.integers[0], scheme.integers[-1])


def test_symmetric_formats_are_narrow():
    int8, uint8 = Scheme("int8", True), Scheme("uint8", True)
    assert (int8.integers, qparams(1, 127, int8).zero_point) == (range(-127, 128), 0)
    assert (uint8.integers, qparams(1, 127, uint8).zero_point) == (range(1, 256), 128)
    assert (Scheme("int8", False).integers[0], Scheme("uint8", False).integers[0]) == (-128, 0)


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_the_ends_of_the_range_never_overflow_a_float32(scheme):
    greatest = float(np.finfo(np.float32).max)
    row = calibrate(np.float32([greatest, -greatest]), dtype=scheme.dtype, scheme=scheme.name, method="minmax")
    assert np.isfinite(np.float32([row.low, row.high])).all()
    assert np.isfinite(dequantize([row.qmin, row.qmax], row)).all()


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
@pytest.mark.parametrize("method", ["kl", "minmax", "percentile:95"])
@settings(max_examples=4)
@given(values=tensors(400))
def test_metrics_are_those_of_the_real_rounding(scheme, method, values):
    """To 1 % on 300 float32 values and more up to 8 bits, exactly for values that a bucket holds exactly."""
    exact = (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    row = calibrate(exact, dtype=scheme.dtype, scheme=scheme.name, method=method)
    restored = dequantize(quantize(exact, row), row).astype(float)
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
