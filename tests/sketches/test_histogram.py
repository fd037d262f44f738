"""Histograms are NumPy's, of whatever units and however they were counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.sketches.histogram import BINS, Tally, binned, binned_each, by_exponent
from klcal.sketches.values import sketch
from tests.support.strategies import FINITE, SMALL, floats


def by_numpy(values, bins: int = BINS):
    """Bins from the least to the greatest value; a constant lies in the middle one."""
    return np.histogram(values.astype(np.float64), bins, (values.min(), values.max()))[0].tolist()


@given(floats(SMALL), st.sampled_from([1, 16, 128]))
def test_bins_are_those_of_numpy(values, bins):
    if not values.size:
        assert not binned(sketch(values), bins).any()
        return
    assert np.abs(np.cumsum(binned(sketch(values), bins)) - np.cumsum(by_numpy(values, bins))).max() <= np.sum(
        np.isin(values, np.linspace(values.min(), values.max(), bins + 1))
    ), "only a value on an edge may lie on its other side"


@given(floats(FINITE))
def test_no_finite_value_is_lost(values):
    found = sketch(values)
    assert binned(found).sum() == values.size
    assert by_exponent(found).sum() == np.count_nonzero(values)


def test_nan_and_infinities_are_not_counted():
    found = sketch(np.array([np.nan, np.inf, -np.inf, 1, 2], np.float32))
    assert binned(found, 2).tolist() == [1, 1]


@given(st.lists(floats(SMALL), min_size=1, max_size=5))
def test_each_unit_has_the_histogram_that_it_has_alone(units):
    width = max(each.size for each in units)
    if not width:
        return
    table = np.full((len(units), width), np.nan, np.float32)  # NaN is in no bin
    for row, each in zip(table, units, strict=True):
        row[: each.size] = each
    together = binned_each(sketch(table, per="channel"))
    for row, counts in zip(table, together, strict=True):
        assert counts.tolist() == binned(sketch(row)).tolist()


@pytest.mark.parametrize("law", ["normal", "lattice", "few"])
def test_units_added_one_by_one_have_the_histogram_of_the_tensor(law):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 20_000)).astype(np.float32)
    values = {"normal": values, "lattice": np.round(values * 16) / 16, "few": np.sign(values)}[law]
    found, tally = sketch(values, per="channel"), Tally()
    for unit in range(8):
        tally.add(found[unit : unit + 1])
    assert tally.binned().sum() == values.size
    aside = np.abs(np.cumsum(tally.binned()) - np.cumsum(by_numpy(values))).max()
    assert aside <= 0.003 * values.size  # buckets of 0.4 %, counted at their middle


def test_octaves_are_those_of_the_magnitudes():
    values = np.array([0.0, 0.5, -0.75, 1.0, 3.0, -4.0, 1e-40], np.float32)
    counts = by_exponent(sketch(values))
    assert {number - 127: count for number, count in enumerate(counts.tolist()) if count} == {
        -127: 1,  # the subnormal one
        -1: 2,
        0: 1,
        1: 1,
        2: 1,
    }
