"""Number formats and scale formats are those of the libraries that run them, code point by code point."""

from __future__ import annotations

from statistics import NormalDist

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.calibration import calibrate
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS, nearest
from klcal.quantizers.qparams import Qparams, dequantize, quantize
from klcal.quantizers.scale_formats import SCALE_FORMATS, at_least, at_most, nearest_scale
from klcal.quantizers.scheme import DTYPES, Scheme
from tests.support.lazy import torch
from tests.support.strategies import FINITE, floats, tensors

PATTERNS = np.arange(256, dtype=np.uint8)
SCALES = st.floats(2.0**-30, 2.0**15)
NARROW = ("float16", "bfloat16", "e8m0")


def finite(values) -> list[float]:
    values = np.asarray(values, np.float64)
    return np.unique(values[np.isfinite(values)] + 0.0).tolist()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_code_points_of_float8_are_those_of_torch_and_ml_dtypes(dtype):
    of_torch = torch.from_numpy(PATTERNS).view(getattr(torch, dtype)).to(torch.float64)
    of_ml_dtypes = PATTERNS.view(getattr(ml_dtypes, dtype)).astype(np.float64)
    assert FLOATS[dtype].tolist() == finite(of_torch) == finite(of_ml_dtypes)


def test_code_points_of_float4_are_those_of_ml_dtypes():
    codes = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)
    assert FLOATS["float4_e2m1fn"].tolist() == finite(codes.astype(np.float64))


def test_code_points_of_nf4_are_quantiles_of_the_normal_law():
    """Halves of 8 and 7 steps from the quantile that QLoRA chooses, in units of the greatest (its Appendix E)."""
    outermost, inverse = 0.9677083, NormalDist().inv_cdf
    positive = [inverse(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    negative = [-inverse(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    expected = np.array(sorted([*negative, 0.0, *positive])) / max(positive)
    assert FLOATS["nf4"] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@given(values=floats(FINITE))
def test_rounding_to_float8_is_torchs_but_saturates(dtype, values):
    limit = FLOATS[dtype][-1]
    clipped = np.clip(values, -limit, limit)
    expected = torch.from_numpy(clipped).to(getattr(torch, dtype)).to(torch.float64).numpy()
    assert np.array_equal(nearest(values, dtype), expected)


@given(values=floats(FINITE))
def test_rounding_to_float4_is_that_of_ml_dtypes(values):
    expected = np.clip(values, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float64)
    assert np.array_equal(nearest(values, "float4_e2m1fn"), expected)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@settings(max_examples=15)
@given(values=tensors(400))
def test_the_printed_scale_and_torchs_cast_have_the_printed_error(dtype, values):
    exact = (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    row = calibrate(exact, dtype=dtype)
    assert row.zero_point is row.qmin is row.qmax is None
    limit = float(FLOATS[dtype][-1])
    steps = (torch.from_numpy(exact) / torch.tensor(row.scale)).clamp(-limit, limit)
    restored = steps.to(getattr(torch, dtype)).to(torch.float32) * row.scale
    assert torch.equal(torch.from_numpy(dequantize(quantize(exact, row, dtype), row)), restored)
    assert row.mse == pytest.approx(float(np.mean((exact - restored.double().numpy()) ** 2)), rel=1e-3)
    assert row.high == -row.low == pytest.approx(limit * row.scale)


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "nf4"])
@pytest.mark.parametrize("method", ["kl", "mse", "kl-classic", "percentile:99", "minmax"])
def test_four_bit_floats_have_the_printed_error(dtype, method):
    values = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    row = calibrate(values, dtype=dtype, method=method)
    restored = dequantize(quantize(values, row, dtype), row).astype(float)
    assert row.mse == pytest.approx(np.mean((values - restored) ** 2), rel=0.01)
    assert row.clipped == pytest.approx(
        np.mean(np.abs(values) > row.high * {"nf4": 1.139, "float4_e2m1fn": 7 / 6}[dtype]), abs=2e-3
    )
    tensor = quantize(torch.from_numpy(values), row, dtype)
    assert np.array_equal(dequantize(tensor, row).numpy(), dequantize(quantize(values, row, dtype), row))


def test_nf4_is_made_for_normal_weights():
    values = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    sqnr = {dtype: calibrate(values, dtype=dtype, method="minmax").sqnr_db for dtype in ("nf4", "int4")}
    assert sqnr["nf4"] > sqnr["int4"]


@pytest.mark.parametrize("bits", range(2, 17))
def test_integers_of_all_widths(bits):
    for dtype in (f"int{bits}", f"uint{bits}"):
        assert dtype in DTYPES
        assert len(Scheme.parse(dtype, "affine").integers) == 1 << bits
        symmetric = Scheme.parse(dtype, "symmetric")
        assert symmetric.size == (1 << bits) - 1
        assert symmetric.integers[symmetric.zero] == (0 if dtype[0] == "i" else 1 << (bits - 1))
    values = np.random.default_rng(2).standard_normal(500).astype(np.float32)
    row = calibrate(values, dtype=f"int{bits}")
    restored = dequantize(quantize(values, row), row).astype(float)
    assert row.mse == pytest.approx(np.mean((values - restored) ** 2), rel=0.01 if bits <= 8 else 0.3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("int1",), "unknown dtype 'int1'; use int2 to int16, uint2 to uint16, float8_e4m3fn"),
        (("int17",), "unknown dtype 'int17'"),
        (("float8",), "unknown dtype 'float8'"),
        (("nf4", "affine"), "nf4 has no zero point to search; use --scheme symmetric"),
        (("int8", "auto", "float8"), "unknown scale format 'float8'; use one of float32, float16, bfloat16, e8m0"),
    ],
)
def test_words_that_are_no_scheme(words, message):
    with pytest.raises(UsageError) as caught:
        Scheme.parse(*words)
    assert message in str(caught.value)


def test_quantize_wants_to_know_a_floating_point_format():
    with pytest.raises(UsageError, match="needs a dtype"):
        quantize([1.0], Qparams(1.0))
    with pytest.raises(UsageError, match="does not need a dtype"):
        quantize([1.0], Qparams(1.0, 0, -8, 7), "nf4")
    with pytest.raises(UsageError, match="'int8' is no floating-point format"):
        quantize([1.0], Qparams(1.0), "int8")
    with pytest.raises(UsageError, match="the row has no scale"):
        dequantize([1], calibrate([0.0]))


# --- scale formats


def stored(scales, scale_format: str):
    """What a real float of that format makes of scales."""
    if scale_format == "e8m0":
        return np.asarray(scales).astype(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    numpy_type = ml_dtypes.bfloat16 if scale_format == "bfloat16" else np.dtype(scale_format)
    return np.asarray(scales).astype(numpy_type).astype(np.float64)


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
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


@pytest.mark.parametrize("scale_format", NARROW)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "float8_e4m3fn", "float4_e2m1fn"])
@pytest.mark.parametrize("method", ["kl", "mse", "kl-classic", "percentile:99.9", "minmax"])
@settings(max_examples=4)
@given(values=tensors(200))
def test_what_is_printed_is_what_will_run(scale_format, dtype, method, values):
    row = calibrate(values, dtype=dtype, method=method, scale_format=scale_format)
    if row.status == "underflow":
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


def test_a_scale_below_its_format_is_a_status():
    row = calibrate(np.float32([1e-9, -1e-9]), scale_format="float16", dtype="int8")
    assert (row.status, row.scale) in (("underflow", None), ("ok", 2.0**-24))
    assert calibrate(np.float32([3e38]), scale_format="float16", dtype="int8").scale == 65504.0
