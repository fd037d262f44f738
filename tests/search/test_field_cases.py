"""Situations from public reports, with right answers that were derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

import klcal
from tests.support import brute_force, slow
from tests.support.brute_force import Levels, Unit
from tests.support.choices import quantizer

COUNT = 10_000


def normal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(COUNT)


def noisy(*modes: float) -> np.ndarray:
    """Values at some modes, with noise of 1 %."""
    return np.random.default_rng(1).choice(modes, COUNT) * (1 + 0.01 * normal())


def cosines() -> np.ndarray:
    """A table of rotary positions: of 512 positions, 20 frequencies."""
    return np.cos(np.outer(np.arange(512), 10_000.0 ** (-np.arange(20) / 20))).ravel()


def sqnr_db(values, row, dtype: str) -> float:
    """Of the values as quantized, not as reported."""
    unit = Unit.of(np.float32(values))
    scale, levels = quantizer(row, dtype)
    return 10 * math.log10(unit.energy / unit.size / brute_force.error(unit, scale, np.array(levels)))


# --- mass at both ends: scales wider than the full range (model-optimization 858, GPTQModel 3013, brevitas 1491)


@pytest.mark.parametrize(
    ("values", "dtype", "scheme", "least"),
    [
        (np.clip(3 * normal(), -1, 1), "uint8", "affine", 57.8),
        (np.tanh(10 * normal()), "uint8", "affine", 57.5),
        (np.tanh(5 * normal()), "uint8", "affine", 54.4),
        (np.clip(3 * normal(), -1, 1), "int4", "affine", 32.5),
        (cosines(), "uint4", "affine", 27.3),
        (cosines(), "uint8", "affine", 51.2),
        (noisy(-1, 1), "uint4", "affine", 39.9),
        (noisy(1, 0.5), "int4", "symmetric", 37.7),
    ],
    ids=["hardtanh", "tanh 10x", "tanh 5x", "hardtanh in 4 bits", "cosines in 4 bits", "cosines", "signs", "modes"],
)
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_data_with_mass_at_both_ends(values, dtype, scheme, least, per):
    values = np.float32(values)
    shaped = values[None] if per == "channel" else values
    row = klcal.calibrate(shaped, dtype=dtype, scheme=scheme, method="mse", per=per)
    assert sqnr_db(values, row, dtype) >= least
    unit = Unit.of(values)
    dense = brute_force.search(unit, Levels.of(dtype, scheme))
    assert sqnr_db(values, row, dtype) >= 10 * math.log10(unit.energy / unit.size / dense.least) - 0.05


def test_signs_with_noise_leave_levels_unused():
    """Any scale 1/k has the same error: in 4 bits 1/7 is the smallest above the full one, 2/15."""
    row = klcal.calibrate(np.float32(noisy(-1, 1)), dtype="uint4", method="mse")
    steps = 1 / row.scale
    assert steps == pytest.approx(round(steps), rel=2e-3)
    assert round(steps) <= row.zero_point <= 15 - round(steps)


def test_modes_with_noise_leave_levels_unused():
    row = klcal.calibrate(np.float32(noisy(1, 0.5)), dtype="int4", scheme="symmetric", method="mse")
    steps = 0.5 / row.scale
    assert steps == pytest.approx(round(steps), rel=2e-3)


def test_plus_and_minus_one_are_exact():
    row = klcal.calibrate(np.float32([-1, 1] * 50))
    assert (row.scale, row.zero_point, row.mse) == (np.float32(1 / 127), 128, 0)


# --- a scale that its format cannot hold (Paddle 43088, pytorch/ao 4534, ONE 6970)


@pytest.mark.parametrize(
    ("scale_format", "magnitude", "status"),
    [
        ("float16", 1e-20, "underflow"),
        ("float16", 1e37, "overflow"),
        ("bfloat16", 1e-43, "underflow"),
        ("e8m0", 1e-40, "underflow"),
    ],
)
@pytest.mark.parametrize("method", ["kl", "mse", "minmax"])
def test_a_scale_that_its_format_cannot_hold_is_a_status(scale_format, magnitude, status, method):
    values = np.float32(magnitude * np.linspace(-1, 1, 100).reshape(2, 50))
    for per in ("tensor", "channel"):
        row = klcal.calibrate(values, dtype="int8", scale_format=scale_format, method=method, per=per)
        assert row.status == status
        assert row.reason
        assert row.scale is None


# --- percentiles (onnxruntime 10571, 10847; TensorRT 2757)


@pytest.mark.parametrize("percent", ["99", "99.9", "50"])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_every_scheme_clips_at_the_same_percentile(percent, per):
    values = np.float32(np.maximum(normal(), 0))[:4000]
    shaped = values[None] if per == "channel" else values
    threshold = slow.percentile(values, percent)
    for dtype, scheme, steps in (("int8", "symmetric", 127), ("int8", "symmetric-full", 127), ("uint8", "affine", 255)):
        row = klcal.calibrate(shaped, dtype=dtype, scheme=scheme, method=f"percentile:{percent}", per=per)
        assert quantizer(row, dtype)[0] == pytest.approx(threshold / steps, rel=1e-6)


@pytest.mark.parametrize("percent", ["99", "90"])
def test_an_affine_percentile_trims_its_ends_to_the_extremes(percent):
    values = np.float32(np.maximum(normal(), -0.3))[:4000]
    threshold = slow.percentile(values, percent)
    row = klcal.calibrate(values, dtype="uint8", scheme="affine", method=f"percentile:{percent}")
    assert row.scale == pytest.approx((threshold + 0.3) / 255, rel=1e-6)
    assert row.zero_point == round(0.3 / row.scale)


def test_a_percentile_leaves_a_few_far_values_out_in_every_scheme():
    body = np.random.default_rng(2).uniform(0, 1, 100_000 - 12)
    values = np.float32(np.append(body, np.full(12, 370.0)))
    for dtype in ("int8", "uint8"):
        assert klcal.calibrate(values, dtype=dtype, method="percentile:99.98").high == pytest.approx(1.0, abs=2e-3)


# --- figures of values on few atoms


@pytest.mark.parametrize(
    "values",
    [np.arange(-7, 8) * 0.0137, np.repeat([0.1, 0.2, 0.3], 100), np.full(9, -0.3), np.tile([-1.0, 1.0], 40)],
    ids=["15 levels", "tenths", "constant", "signs"],
)
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_what_is_exact_has_no_error(values, per):
    values = np.float32(values)
    row = klcal.calibrate(values[None] if per == "channel" else values, dtype="int8", per=per)
    assert row.mse == 0
    assert row.sqnr_db in (None, math.inf)


def test_the_error_of_few_atoms_is_the_real_one():
    atoms = np.random.default_rng(3).standard_normal(5)
    for values, dtype, most in (
        ([math.pi, -math.e] * 50, "uint8", 8.86e-8),
        (np.tile(atoms, 20), "int8", math.inf),
    ):
        values = np.float32(values)
        row = klcal.calibrate(values, dtype=dtype, method="mse")
        scale, levels = quantizer(row, dtype)
        assert row.mse == pytest.approx(slow.squared_error(values, scale, levels) / values.size, rel=1e-6)
        assert row.mse <= most


def test_a_narrow_band_far_from_zero_is_one_level():
    values = np.float32(np.random.default_rng(4).uniform(1000, 1001, COUNT))
    row = klcal.calibrate(values, dtype="uint8", method="mse")
    assert sqnr_db(values, row, "uint8") >= 70.7
    assert row.sqnr_db == pytest.approx(sqnr_db(values, row, "uint8"), abs=0.1)


# --- float64 beyond float32


def test_what_underflows_as_float32_is_not_zero():
    row = klcal.calibrate(np.array([1e-300, -1e-310, 2e-300]))
    assert row.status == "underflow"
    assert "float32" in row.reason


def test_what_overflows_as_float32_is_not_infinite():
    row = klcal.calibrate(np.array([1e300, 1.0, -2.0]))
    assert (row.pos_inf, row.neg_inf, row.scale) == (0, 0, None)
    assert row.status != "ok"
    assert "float32" in row.reason
