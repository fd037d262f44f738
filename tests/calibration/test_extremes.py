"""Values and formats at the ends of what floats hold: no method is worse than the range, no row contradicts itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import klcal
from tests.support.choices import units

FLOAT32_MAX = float(np.finfo(np.float32).max)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "int8", "int4"])
def test_scales_relative_to_the_tensor_reach_every_unit(dtype):
    """Where a wider scale than the largest would do better, the largest is taken: it covers the range."""
    for seed in range(20):
        asked = {"dtype": dtype, "per": "group:16", "scale_format": "float8_e4m3fn"}
        row = klcal.calibrate(normal(32, 128, seed=seed), **asked)
        assert (row.status, row.units.status) == ("ok", None)


@pytest.mark.parametrize("method", ["mse", "kl", "minmax", "percentile:99", "kl-classic"])
def test_scales_relative_to_the_tensor_are_float8_times_its_scale(method):
    row = klcal.calibrate(normal(8, 64), dtype="int4", per="channel", scale_format="float8_e4m3fn", method=method)
    steps = row.units.scale / row.global_scale
    mantissa, _ = np.frexp(steps)
    assert mantissa * 16 == pytest.approx(np.rint(mantissa * 16), abs=1e-5)  # four bits: the first and three more


@pytest.mark.parametrize("scheme", ["symmetric", "symmetric-full", "symmetric-signed", "affine"])
@pytest.mark.parametrize("magnitude", [1e3, 1e10, 1e17, 1e30])
def test_bounds_far_within_the_data_are_the_range(scheme, magnitude):
    row = klcal.calibrate(normal(20) * np.float32(magnitude), dtype="int8", scheme=scheme, bounds=(-1.0, 1.0))
    assert row.low == pytest.approx(-1, abs=0.01)
    assert row.high == pytest.approx(1, abs=0.01)
    ends = sorted((q - row.zero_point) * row.scale for q in (row.qmin, row.qmax))
    assert [row.low, row.high] == pytest.approx(ends)


@pytest.mark.parametrize("scheme", ["symmetric", "symmetric-full", "symmetric-signed", "affine"])
@pytest.mark.parametrize("scale_format", ["float32", "bfloat16"])
@pytest.mark.parametrize("values", [[FLOAT32_MAX, 1.0], [-FLOAT32_MAX, 0.5], [FLOAT32_MAX, -FLOAT32_MAX]], ids=str)
def test_near_the_end_of_float32_mse_is_no_worse_than_the_range(values, scheme, scale_format):
    asked = {"dtype": "int8", "scheme": scheme, "scale_format": scale_format}
    mse, whole = (klcal.calibrate(np.float32(values), method=method, **asked) for method in ("mse", "minmax"))
    assert mse.mse <= whole.mse * (1 + 1e-6)


def test_values_far_beyond_a_scale_format_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(8):
            rng = np.random.default_rng(seed)
            values = (rng.standard_normal(74) * 10.0 ** rng.uniform(-29, 29, 74)).astype(np.float32)
            row = klcal.calibrate(values, dtype="uint7", scheme="symmetric", scale_format="float16")
            assert row.status == "overflow"


def test_a_scale_outside_its_format_is_distinguished_from_a_wish_for_a_wider_scale():
    values = np.stack([normal(64), normal(64) * np.float32(1e10)])
    row = klcal.calibrate(values, dtype="int8", per="channel", scale_format="float16")
    assert row.units.status.tolist() == ["ok", "overflow"]
    assert np.isnan(units(row).scale).tolist() == [False, True]
