"""From values to a row: each case has its status, and nothing is made up."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.calibration.published import kl_divergence_calibration
from klcal.calibration.values import calibrate
from klcal.errors import InputError, UsageError
from klcal.quantizers.rounding import dequantize, quantize
from klcal.search.methods import KL
from klcal.sketches.values import sketch
from klcal.tables.schema import NUMERIC_FIELDS
from tests.support.kernels import differing
from tests.support.lazy import torch
from tests.support.strategies import FLOATS, floats, tensors

INTEGERS = ("int4", "uint4", "int8", "uint8", "int16", "uint16")
METHODS = ["kl", "kl-classic", "mse", "minmax", "percentile:99.9"]
LEAST, GREATEST = 2.0**-149, float(np.finfo(np.float32).max)


def status_of(values, **options):
    row = calibrate(np.float32(values), **options)
    if row.status != "ok":
        assert row.reason
        assert row.scale is row.zero_point is row.qmin is row.low is row.kl is row.mse is None
    return row.status


@settings(max_examples=150)
@given(floats(FLOATS), st.sampled_from(METHODS), st.sampled_from(INTEGERS), st.sampled_from(["fail", "ignore"]))
def test_any_values_have_a_status_and_finite_numbers(values, method, dtype, nonfinite):
    row = calibrate(values, method=method, dtype=dtype, nonfinite=nonfinite)
    assert row.numel == values.size
    assert (row.nan, row.pos_inf) == (np.isnan(values).sum(), (values == np.inf).sum())
    if row.status == "ok":
        assert 0 < row.scale == np.float32(row.scale) < np.inf
        assert row.qmin <= row.zero_point <= row.qmax
        assert all(math.isfinite(getattr(row, name)) for name in NUMERIC_FIELDS if getattr(row, name) is not None)
        assert 0 <= row.clipped <= 1
        assert row.mse >= 0
        assert np.isfinite(dequantize(quantize(values[np.isfinite(values)], row), row)).all()


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], "empty"),
        ([0.0, -0.0, 0.0], "zero"),
        ([1.0, math.nan], "nonfinite"),
        ([1.0, math.inf, -math.inf], "nonfinite"),
        ([math.nan], "nonfinite"),
        ([LEAST, -LEAST], "underflow"),
        ([1e-44], "underflow"),
        ([0.5], "ok"),
        ([-3.0, -3.0], "ok"),
        ([1e-38], "ok"),
        ([GREATEST, -GREATEST], "ok"),
        ([1e30, *[1e-3] * 100], "ok"),
        ([0.0, 1e-3], "ok"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_statuses(values, status, method):
    for dtype in ("int8", "uint8"):
        assert status_of(values, method=method, dtype=dtype) == status


def test_reasons_say_what_and_what_to_do():
    reason = calibrate(np.float32([1, math.nan, math.nan, -math.inf])).reason
    assert reason == "2 NaN, 1 -inf among 4 values; --nonfinite ignore calibrates the finite ones"
    assert (
        calibrate(np.float32([math.nan]), nonfinite="ignore").reason
        == "no finite value: 1 NaN; record or save it again"
    )
    reason = calibrate(np.float32([1e-44])).reason
    assert reason == "float32 has no scale as small as 7.72e-47; multiply the tensor by a power of two"


def test_ignoring_what_is_not_finite_is_calibrating_the_rest():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    with_nan = np.append(values, np.float32([math.nan, math.inf]))
    row, rest = calibrate(with_nan, nonfinite="ignore"), calibrate(values)
    assert (row.scale, row.zero_point, row.mse, row.numel) == (rest.scale, rest.zero_point, rest.mse, 1002)
    assert (row.nan, row.pos_inf) == (1, 1)


@pytest.mark.parametrize("value", [0.1, -0.1, 3.0, 1e-30, -7e30])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_constant_is_represented(value, dtype, method):
    row = calibrate(np.full(50, value, np.float32), dtype=dtype, method=method)
    assert row.status == "ok"
    assert dequantize(quantize([value], row), row) == pytest.approx([value], rel=1e-6)
    assert row.sqnr_db is None or row.sqnr_db > 120
    assert row.clipped == 0


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("method", ["kl", "mse", "minmax"])
def test_the_ends_of_float32_are_represented_as_any_other_range(dtype, scheme, method):
    """A range that float32 cannot hold was cut when it was deployed, and half of the values clipped."""
    values = np.float32([GREATEST, -GREATEST])
    small = calibrate(values / np.float32(2**100), dtype=dtype, scheme=scheme, method=method)
    row = calibrate(values, dtype=dtype, scheme=scheme, method=method)
    assert np.isfinite([row.scale, row.low, row.high]).all()
    found, alike = (math.inf if each.sqnr_db is None else each.sqnr_db for each in (row, small))  # None: no error
    assert found > min(40.0, alike - 6.0)


def test_a_mask_of_zeros_and_ones_is_represented():
    row = calibrate(np.float32([0, 1, 1, 0]), dtype="uint4")
    assert dequantize(quantize([0.0, 1.0], row), row).tolist() == [0.0, 1.0]
    assert (row.zeros, row.mse) == (2, pytest.approx(0, abs=1e-14))


@settings(max_examples=40)
@given(tensors(60), st.integers(1, 10**6), st.sampled_from(METHODS), st.sampled_from(["int8", "uint8", "int4"]))
def test_exact_zeros_change_no_scale_and_share_the_metrics(values, zeros, method, dtype):
    found = sketch(values)
    row, more = (calibrate(s, method=method, dtype=dtype) for s in (found, found + sketch([0.0]).repeat(zeros)))
    assert (more.scale, more.zero_point, more.kl, more.sqnr_db) == (row.scale, row.zero_point, row.kl, row.sqnr_db)
    assert more.mse * more.numel == pytest.approx(row.mse * row.numel)


def test_the_divergence_is_that_of_the_search_at_the_method_s_own_bins():
    values = np.random.default_rng(1).laplace(size=10_000).astype(np.float32)
    assert calibrate(values, method=KL(bins=1024)).kl < calibrate(values, method=KL(bins=2048)).kl
    assert calibrate(values, dtype="int16").kl is None
    assert calibrate(values, method="mse").kl > 0


def test_at_16_bits_kl_is_mse():
    values = np.random.default_rng(2).laplace(size=2000).astype(np.float32)
    for dtype in ("int16", "uint16"):
        by_mse = calibrate(values, dtype=dtype, method="mse")
        assert calibrate(values, dtype=dtype) == replace(by_mse, method=str(KL()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "int7x"},
            "unknown dtype 'int7x'; use int2 to int16, uint2 to uint16, float8_e4m3fn, float8_e5m2, float4_e2m1fn, nf4",
        ),
        ({"scheme": "odd"}, "unknown scheme 'odd'; use auto, symmetric, symmetric-full, symmetric-signed or affine"),
        ({"method": "kll"}, "unknown method"),
        ({"bounds": (1.0, 2.0)}, "the range 1,2 is not usable"),
        ({"bounds": (-1, 0, 1)}, "the range (-1, 0, 1) is not two numbers"),
        ({"bounds": (None, 1)}, "is not two numbers"),
        ({"method": KL}, "use its name, or a value such as klcal.KL(weight=1)"),
        ({"method": 3}, "the method is 3"),
        ({"nonfinite": "skip"}, "nonfinite is 'skip'"),
    ],
)
def test_arguments_that_are_not_understood(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        calibrate([1.0], **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("model.pt", "klcal.read gives the tensors of a file"),
        ([[1.0], [1.0, 2.0]], "their lengths differ"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), "hand in values.compressed()"),
        ([1, 2], "int64 values are not calibrated"),
    ],
)
def test_arrays_that_are_not_floats_are_refused(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        calibrate(values)


def test_tensors_that_are_not_dense_are_refused():
    with pytest.raises(UsageError, match=r"of the layout torch\.sparse_coo; hand in a dense one"):
        calibrate(torch.eye(3).to_sparse())
    with pytest.raises(UsageError, match="a meta tensor, without values"):
        calibrate(torch.empty(3, device="meta"))


def test_zeros_among_nan_are_told_apart_from_zeros():
    row = calibrate(np.float32([0, math.nan]), nonfinite="ignore")
    assert (row.status, row.reason) == ("zero", "every finite value is 0")
    assert klcal.sketch(klcal.sketch([1.0])) == klcal.sketch([1.0])
    assert klcal.__version__


# --- the published example, made right


def naive_divergences(values: np.ndarray, scales: np.ndarray, zero_point: int = 128, bins: int = 2048) -> list[float]:
    """The example as published: KL between the histograms of a tensor and of its dequantized copy."""
    low, high = values.min(), values.max()
    p = np.histogram(values, bins, (low, high))[0] / values.size
    found = []
    for scale in scales:
        restored = (np.clip(np.round(values / scale) + zero_point, 0, 255) - zero_point) * scale
        counts = np.histogram(restored, bins, (low, high))[0]
        q = counts / max(1, counts.sum())
        with np.errstate(divide="ignore"):
            found.append(float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))))
    return found


def test_why_the_naive_form_is_infinite():
    """255 levels fill at most 255 of 2048 bins: wherever P has mass and Q has none, the divergence is infinite."""
    values = torch.manual_seed(0) and torch.randn(100, 100).numpy()
    assert set(naive_divergences(values, np.linspace(0.01, 1, 1000)[::20])) == {math.inf}


@pytest.mark.parametrize("seed", range(3))
def test_the_published_example_made_right(seed):
    torch.manual_seed(seed)
    tensor = torch.randn(100, 100)
    scale, zero_point = kl_divergence_calibration(tensor)
    assert scale == pytest.approx(calibrate(tensor, method="mse").scale, rel=0.25)
    assert 0 <= calibrate(tensor).kl < math.log(8)
    assert 100 < zero_point < 156
    shifted = [kl_divergence_calibration(tensor + shift)[1] for shift in (-2.0, 0.0, 2.0, 10.0)]
    assert shifted == sorted(shifted, reverse=True)
    assert len(set(shifted)) == 4
    assert shifted[-1] == 0
    assert (scale, zero_point) == kl_divergence_calibration(tensor.numpy())


def test_the_published_example_s_bounds():
    tensor = torch.linspace(-1, 1, 10_001)
    assert kl_divergence_calibration(tensor, min_val=-0.5, max_val=0.5)[0] == pytest.approx(1 / 255, rel=0.02)
    scale, zero_point = kl_divergence_calibration(tensor, max_val=0.0)
    assert (scale * zero_point, zero_point) == (pytest.approx(1, rel=0.02), 255)
    assert kl_divergence_calibration(tensor, 512) != kl_divergence_calibration(torch.randn(1000), 512)
    with pytest.raises(UsageError, match=r"the range 0\.5,1 is not usable"):
        kl_divergence_calibration(tensor, min_val=0.5)
    for hopeless in (torch.zeros(3), torch.empty(0), torch.tensor([math.nan])):
        with pytest.raises(InputError, match="the tensor has no scale"):
            kl_divergence_calibration(hopeless)


# --- the library as a whole


def test_all_public_names_are_there():
    assert all(getattr(klcal, name) is not None for name in klcal.__all__)
    assert dir(klcal) == sorted(klcal.__all__)
    assert callable(klcal.sketch)
    with pytest.raises(AttributeError, match="no attribute 'calibrte'"):
        _ = klcal.calibrte


def test_a_file_is_read_sketched_and_calibrated(tmp_path):
    state = {"w": torch.randn(30, 40), "h": torch.randn(8).bfloat16(), "n": torch.tensor(3)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "m.pt")
    tensors = klcal.read(tmp_path / "m.pt")
    assert list(tensors) == ["model.w", "model.h", "model.n"]
    assert klcal.sketch(tensors["model.w"]) == klcal.sketch(state["w"])
    assert klcal.sketch(tensors["model.h"]) == klcal.sketch(state["h"])
    row = klcal.calibrate(tensors["model.w"], dtype="int8")
    assert (row.name, row.dtype, row.shape) == ("model.w", "float32", (30, 40))
    assert row == replace(klcal.calibrate(state["w"], dtype="int8"), name=row.name, dtype=row.dtype, shape=row.shape)
    counter = klcal.calibrate(tensors["model.n"])
    assert (counter.status, counter.scale) == ("skipped", None)
    with pytest.raises(InputError, match="int64 values are not calibrated"):
        klcal.sketch(tensors["model.n"])


def test_a_directory_is_read_under_names_with_the_file_in_front(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.ones(2, np.float32))
    assert list(klcal.read(tmp_path)) == ["a.npy: a", "b.npy: b"]
    with pytest.raises(InputError, match="there is no such file"):
        klcal.read(tmp_path / "c.npy")


def test_bounds_may_be_a_list_as_json_has_them():
    values = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    for per in ("tensor", "channel"):
        asked = {"per": per, "dtype": "int8", "method": "minmax"}
        assert not differing(
            klcal.calibrate(values, bounds=[-1.0, 0.5], **asked), klcal.calibrate(values, bounds=(-1.0, 0.5), **asked)
        )
