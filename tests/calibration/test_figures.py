"""What the table says of a choice is what a quantize-dequantize of the values gives, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

import klcal
from tests.support import brute_force, slow
from tests.support.brute_force import Unit
from tests.support.choices import quantizer, units
from tests.support.samples import Values, cut, rows_of, sample, samples

SCHEMES = [
    *(("int4", kind) for kind in slow.KINDS),
    *((dtype, "affine") for dtype in ("uint2", "uint8", "int12")),
    ("int8", "symmetric"),
    ("nf4", "symmetric"),
    ("float8_e4m3fn", "symmetric"),
]
METHODS = ("kl", "minmax", "percentile:95")
EDGE = 1e-6  # of a step: values so near to the edge of a cell may be rounded either way in float32
ids = {"ids": "-".join}


class Real:
    """What a quantizer does to the values of one unit, each of them looked at."""

    def __init__(self, values: Values, scale: float, levels: list[float]) -> None:
        x, self.levels = values.astype(np.float64), np.array(levels)
        self.steps, self.x = x / scale, x
        self.middles = (self.levels[1:] + self.levels[:-1]) / 2
        restored = self.levels[np.searchsorted(self.middles, self.steps)] * scale
        self.squared_error = float(((x - restored) ** 2).sum())
        self.energy = float((x**2).sum())

    def clipped(self) -> tuple[int, int]:
        """How many at least, and at most: within a hair's breadth of the edge it may be either."""
        low, high = 2 * self.levels[0] - self.middles[0], 2 * self.levels[-1] - self.middles[-1]
        return tuple(int(np.sum((self.steps > high + edge) | (self.steps < low - edge))) for edge in (EDGE, -EDGE))

    def rounded_to_zero(self) -> tuple[int, int]:
        zero = int(np.flatnonzero(self.levels == 0)[0])
        low = self.middles[zero - 1] if zero else -math.inf
        high = self.middles[zero] if zero < self.middles.size else math.inf
        inside = [(self.steps > low + edge) & (self.steps < high - edge) & (self.x != 0) for edge in (EDGE, -EDGE)]
        return tuple(int(each.sum()) for each in inside)


def calibrated(rows: Values, scheme: tuple[str, str], method: str, per: str = "channel"):
    dtype, kind = scheme
    return klcal.calibrate(rows, dtype=dtype, scheme="auto" if dtype in slow.FLOATS else kind, method=method, per=per)


def reals(row, rows: Values, dtype: str) -> list[Real]:
    return [Real(values, *quantizer(row, dtype, number)) for number, values in enumerate(rows)]


def is_share(found: float, counts: tuple[int, int], size: int) -> bool:
    return counts[0] / size * (1 - 1e-12) <= found <= counts[1] / size * (1 + 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_figures_of_units_are_those_of_their_values(scheme, method):
    """With at most 4,096 distinct values: within 1e-6, or 1e-12 of the energy."""
    rows = rows_of([*samples(60, seed=31, most=4_000).values()])
    row = calibrated(rows, scheme, method)
    found, size = units(row), rows.shape[1]
    for number, real in enumerate(reals(row, rows, scheme[0])):
        mse = real.squared_error / size
        assert found.mse[number] == pytest.approx(mse, rel=1e-6, abs=1e-12 * real.energy / size)
        if real.squared_error > 1e-6 * real.energy:
            assert found.sqnr_db[number] == pytest.approx(10 * math.log10(real.energy / real.squared_error), abs=1e-5)
        assert is_share(found.clipped[number], real.clipped(), size)


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_figures_of_the_tensor_are_those_of_all_its_values(scheme):
    units_ = samples(60, seed=32, most=4_000).items()
    rows = rows_of([values for name, values in units_ if "huge" not in name])  # which would be all of the error
    row = calibrated(rows, scheme, "mse")
    all_of, nonzero = reals(row, rows, scheme[0]), np.count_nonzero(rows, axis=1)
    error, energy = (math.fsum(getattr(real, name) for real in all_of) for name in ("squared_error", "energy"))
    assert row.mse == pytest.approx(error / rows.size, rel=1e-6, abs=1e-12 * energy / rows.size)
    assert row.sqnr_db == pytest.approx(10 * math.log10(energy / error), abs=1e-5)
    clipped, lost = (
        np.sum([getattr(real, name)() for real in all_of], axis=0) for name in ("clipped", "rounded_to_zero")
    )
    assert is_share(row.clipped, tuple(clipped), rows.size)
    assert is_share(row.rounded_to_zero, tuple(lost), int(nonzero.sum()))
    if scheme[0] != "int12":
        assert row.kl == pytest.approx(float(nonzero @ units(row).kl) / nonzero.sum(), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_figures_of_tensors_are_those_of_their_values(scheme, method):
    rng = np.random.default_rng(33)
    lossless = [cut(sample(rng, name, 20_000)) for name in ("laplace", "relu", "outlier")]
    for values in [*samples(20, seed=33, most=4_000).values(), *lossless]:
        row = calibrated(values, scheme, method, "tensor")
        real = Real(values, *quantizer(row, scheme[0]))
        mse, share = real.squared_error / values.size, 1 / values.size
        assert row.mse == pytest.approx(mse, rel=1e-6, abs=1e-12 * real.energy * share)
        assert is_share(row.clipped, real.clipped(), values.size)
        assert is_share(row.rounded_to_zero, real.rounded_to_zero(), np.count_nonzero(values))


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme[0] != "int12"], **ids)
def test_figures_of_buckets_are_within_a_percent(scheme, per):
    rng = np.random.default_rng(34)
    for name in ("normal", "laplace", "uniform", "student-t"):
        values = sample(rng, name, 30_000)
        row = calibrated(values[None] if per == "channel" else values, scheme, "mse", per)
        real = Real(values, *quantizer(row, scheme[0]))
        assert units(row).mse[0] == pytest.approx(real.squared_error / values.size, rel=0.01)
        assert units(row).clipped[0] == pytest.approx(real.clipped()[0] / values.size, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme[0] != "int12"], **ids)
def test_the_divergence_is_that_of_the_definition(scheme, method):
    """On the sub-bins of the default, whatever the method, and however few the values are."""
    rows = rows_of([*samples(60, seed=35, most=4_000).values()])
    row = calibrated(rows, scheme, method)
    for number, values in enumerate(rows):
        scale, levels = quantizer(row, scheme[0], number)
        sub = slow.sub_bins(2048, len(levels))
        least, most = brute_force.divergences(Unit.of(values), scale, np.array(levels), sub)
        assert least - 1e-6 <= units(row).kl[number] <= most + 1e-6


def test_where_no_cell_is_cut_there_is_no_divergence():
    rows = rows_of([*samples(20, seed=36, most=500).values()])
    assert np.isnan(units(calibrated(rows, ("int12", "affine"), "kl")).kl).all()


def test_figures_of_another_scale_are_noticed():
    """The broken twin: figures of a scale that is a thousandth beside the one in the row."""
    values = sample(np.random.default_rng(37), "laplace", 1_000)
    row = calibrated(values, ("int4", "symmetric"), "mse", "tensor")
    scale, levels = quantizer(row, "int4")
    assert row.mse == pytest.approx(Real(values, scale, levels).squared_error / values.size, rel=5e-3)
    assert row.mse != pytest.approx(Real(values, 1.001 * scale, levels).squared_error / values.size, rel=1e-6)
    assert not is_share(row.clipped + 0.01, Real(values, scale, levels).clipped(), values.size)
