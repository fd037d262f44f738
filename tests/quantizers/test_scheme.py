"""Number formats and scale formats are those of the libraries that run them, code point by code point."""

from __future__ import annotations

from statistics import NormalDist

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from klcal.calibration.values import calibrate
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS, nearest
from klcal.quantizers.qparams import Qparams
from klcal.quantizers.rounding import dequantize, quantize
from klcal.quantizers.scheme import DTYPES, KINDS, Scheme
from tests.support.lazy import torch
from tests.support.strategies import FINITE, floats, tensors

PATTERNS = np.arange(256, dtype=np.uint8)
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
    noise = 1e-12 * np.mean(exact.astype(float) ** 2)
    assert row.mse == pytest.approx(float(np.mean((exact - restored.double().numpy()) ** 2)), rel=1e-3, abs=noise)
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
        assert all(len(Scheme.parse(dtype, kind).integers) == 1 << bits for kind in KINDS if kind != "symmetric")
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
        (("int8", "full"), "unknown scheme 'full'; use auto, symmetric, symmetric-full, symmetric-signed or affine"),
        (("nf4", "affine"), "nf4 has no zero point to search; use the scheme symmetric"),
        (("nf4", "symmetric-full"), "nf4 has its own levels on both sides of zero; use the scheme symmetric"),
        (("float8_e4m3fn", "symmetric-signed"), "float8_e4m3fn has its own levels"),
        (("int4", "symmetric-signed", "e8m0"), "e8m0 has no negative scales; use the scheme symmetric-full"),
        (("int8", "auto", "float8"), "unknown scale format 'float8'; use one of float32, float16, bfloat16, e8m0, fl"),
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
    with pytest.raises(UsageError, match="'int8' is not a floating-point format"):
        quantize([1.0], Qparams(1.0), "int8")
    with pytest.raises(UsageError, match="the row has no scale"):
        dequantize([1], calibrate([0.0]))
