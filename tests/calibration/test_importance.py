"""What an importance does to the choice, and that it does nothing to the figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.quantizers.scheme import Scheme
from klcal.search.classic import classic_divergences
from klcal.sketches import distribution
from klcal.sketches.distribution import Distribution
from tests.support import brute_force
from tests.support.brute_force import Levels, Unit
from tests.support.choices import quantizer
from tests.support.kernels import kernel
from tests.support.lazy import torch
from tests.support.samples import samples
from tests.support.strategies import tensors

ROUNDING = 2e-6  # of a loss: less is a tie, for the search adds up float32
NOISE = 1e-12  # of the energy: less is rounding
METHODS = ("kl", "mse", "kl-classic")
PERS = ("tensor", "channel", "channel:1", "group:7", "block:2,5")
SCHEMES = (
    *(("int4", kind) for kind in ("symmetric", "symmetric-full", "symmetric-signed", "affine")),
    *(("int8", "symmetric"), ("uint8", "affine"), ("float4_e2m1fn", "auto"), ("nf4", "auto")),
)


def matrix(rows: int = 6, columns: int = 20, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, columns)) * np.exp(rng.standard_normal((rows, 1)))).astype(np.float32)


def energies(size, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1.5, size)


def weights_for(values: np.ndarray):
    """Weights above 0, of which some are nearly nothing."""
    each = st.one_of(st.floats(1e-3, 1), st.sampled_from([1.0, 1e-9, 1e-12]))
    return st.lists(each, min_size=values.size, max_size=values.size).map(np.array)


def choice(row):
    """What was chosen, of the tensor and its units."""
    units = [] if row.units is None else [row.units.scale, row.units.zero_point]
    return row.scale, row.zero_point, row.global_scale, *(None if each is None else each.tolist() for each in units)


def weighted_error(values, row, weights) -> float:
    """In float64: the rounding of restored values to float32 is no matter of the choice."""
    restored = klcal.dequantize(klcal.quantize(values, row), row)
    if row.zero_point is not None:
        restored = (klcal.quantize(values, row).astype(float) - row.zero_point) * row.scale
    return float((weights * (values.astype(float) - restored) ** 2).sum())


# --- what changes nothing


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per", PERS)
@pytest.mark.parametrize(
    ("dtype", "scheme"), [("int4", "symmetric-full"), ("uint4", "affine"), ("float4_e2m1fn", "auto")]
)
def test_equal_weights_change_nothing(method, per, dtype, scheme):
    values = matrix()
    options = {"dtype": dtype, "scheme": scheme, "method": method, "per": per}
    row = klcal.calibrate(values, **options)
    for weights in (np.ones(20), np.full(20, 3.7), np.ones(values.shape)):
        found = klcal.calibrate(values, importance=weights, **options)
        assert found.importance
        assert replace(found, importance=False) == row
    assert choice(klcal.calibrate(values, importance=energies(values.shape), **options)) != choice(row)


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_change_nothing_where_a_sketch_has_buckets(method):
    values = np.random.default_rng(0).standard_t(4, (2, 20_000)).astype(np.float32)
    for per in ("tensor", "channel"):
        options = {"dtype": "int8", "per": per, "method": method}
        found = klcal.calibrate(values, importance=np.ones(20_000), **options)
        assert replace(found, importance=False) == klcal.calibrate(values, **options)
        weights = energies(20_000)
        assert choice(klcal.calibrate(values, importance=weights, **options)) != choice(found)


@settings(max_examples=30)
@given(tensors(), st.integers(-60, 60), st.sampled_from(SCHEMES), st.data())
def test_only_ratios_matter(values, power, scheme, data):
    weights = data.draw(weights_for(values))
    options = {"dtype": scheme[0], "scheme": scheme[1], "method": "mse"}
    row = klcal.calibrate(values, importance=weights, **options)
    assert klcal.calibrate(values, importance=weights * 2.0**power, **options) == row


@pytest.mark.parametrize("per", PERS)
def test_a_weight_for_each_column_is_the_same_for_all_its_values(per):
    values, weights = matrix(), energies(20)
    expected = klcal.calibrate(values, dtype="int4", per=per, importance=weights)
    assert klcal.calibrate(values, dtype="int4", per=per, importance=np.tile(weights, (6, 1))) == expected
    tensor = torch.from_numpy(values)
    assert klcal.calibrate(tensor, dtype="int4", per=per, importance=torch.from_numpy(weights)) == expected
    finished = klcal.calibrate(klcal.sketch(values, per=per, importance=weights), dtype="int4")
    assert replace(finished, shape=expected.shape) == expected


def test_figures_are_those_of_all_values_alike():
    values, weights = matrix(), energies(20)
    weights[np.abs(values).max(axis=0) > 3] = 0
    row = klcal.calibrate(values, dtype="int4", method="mse", importance=weights)
    """In float64: the rounding of restored values to float32 is no matter of the choice."""
    restored = klcal.dequantize(klcal.quantize(values, row), row)
    if row.zero_point is not None:
        restored = (klcal.quantize(values, row).astype(float) - row.zero_point) * row.scale
    error = ((values.astype(float) - restored) ** 2).mean()
    assert row.mse == pytest.approx(error, rel=1e-6)
    assert row.sqnr_db == pytest.approx(10 * np.log10((values.astype(float) ** 2).mean() / error), rel=1e-6)
    assert (row.min, row.max, row.numel) == (values.min(), values.max(), values.size)
    assert row.clipped == (np.abs(np.rint(values / row.scale)) > 7).mean() > 0


# --- what does


def check_without(values, weights, row, **options):
    """Values of weight 0 leave no trace in the choice."""
    left = weights > 0
    alone = klcal.calibrate(values[left], importance=weights[left], **options)
    assert choice(row) == choice(alone)


@settings(max_examples=60)
@given(tensors(), st.sampled_from(SCHEMES), st.sampled_from(METHODS), st.data())
def test_a_weight_of_0_removes_a_value_from_the_choice(values, scheme, method, data):
    weights = data.draw(weights_for(values)) * data.draw(
        st.lists(st.booleans(), min_size=values.size, max_size=values.size).map(np.array)
    )
    assume((values[weights > 0] != 0).any())
    options = {"dtype": scheme[0], "scheme": scheme[1], "method": method}
    check_without(values, weights, klcal.calibrate(values, importance=weights, **options), **options)


def test_a_value_that_keeps_a_trace_is_noticed():
    values, weights = np.float32([1, 2, 3, 100]), np.array([1, 1, 1, 0.0])
    options = {"dtype": "int4", "method": "mse"}
    check_without(values, weights, klcal.calibrate(values, importance=weights, **options), **options)
    for trace in (weights + 1e-3, np.ones(4)):
        with pytest.raises(AssertionError):
            check_without(values, weights, klcal.calibrate(values, importance=trace, **options), **options)


def test_units_without_their_values_of_weight_0_are_those_of_the_rest():
    values, weights = matrix(), energies(20)
    values[:, 13:] *= 50
    weights[13:] = 0
    for per in ("channel", "group:13"):
        row = klcal.calibrate(values, dtype="uint4", per=per, method="mse", importance=weights)
        rest = klcal.calibrate(values[:, :13], dtype="uint4", per=per, method="mse", importance=weights[:13])
        some = slice(None) if per == "channel" else slice(None, None, 2)
        assert np.array_equal(row.units.scale[some], rest.units.scale)
        assert np.array_equal(row.units.zero_point[some], rest.units.zero_point)


def test_a_value_of_weight_0_is_absent_from_the_range_and_the_global_scale():
    values, weights = matrix(4, 32), np.ones(32)
    values[:, 5], weights[5] = 1e4, 0
    nvfp4 = {"dtype": "float4_e2m1fn", "per": "group:16", "scale_format": "float8_e4m3fn", "method": "mse"}
    row = klcal.calibrate(values, importance=weights, **nvfp4)
    assert row.global_scale == klcal.calibrate(np.where(weights, values, 0), **nvfp4).global_scale
    assert row.global_scale < klcal.calibrate(values, **nvfp4).global_scale / 100
    assert row.max == 1e4
    bounded = klcal.calibrate(values, dtype="int8", method="mse", importance=weights, bounds=(-1e3, 1e3))
    assert bounded.high < 100


def check_no_worse(values, weights, row, other):
    energy = float((weights * values.astype(float) ** 2).sum())
    least = weighted_error(values, other, weights)
    assert weighted_error(values, row, weights) <= least * (1 + ROUNDING) + NOISE * energy


@settings(max_examples=60)
@given(tensors(), st.sampled_from(SCHEMES), st.data())
def test_the_weighted_error_is_no_greater_than_without_importance(values, scheme, data):
    weights = data.draw(weights_for(values))
    options = {"dtype": scheme[0], "scheme": scheme[1], "method": "mse"}
    row, other = klcal.calibrate(values, importance=weights, **options), klcal.calibrate(values, **options)
    assume(row.status == other.status == "ok")
    check_no_worse(values, weights, row, other)


def test_the_weighted_error_of_units_of_any_size_is_no_greater_than_without_importance():
    for name, values in samples(40, seed=3, least=2, most=4_000).items():
        weights = energies(values.size)
        for dtype, scheme in (("int4", "symmetric"), ("uint4", "affine"), ("int8", "symmetric")):
            options = {"dtype": dtype, "scheme": scheme, "method": "mse"}
            row, other = klcal.calibrate(values, importance=weights, **options), klcal.calibrate(values, **options)
            assert row.status == "ok", name
            check_no_worse(values, weights, row, other)


def test_a_choice_for_other_weights_is_noticed():
    values, weights = matrix().ravel(), energies(120)
    plain = klcal.calibrate(values, dtype="int4", method="mse")
    with pytest.raises(AssertionError):
        check_no_worse(
            values, weights, klcal.calibrate(values, dtype="int4", method="mse", importance=1 / weights), plain
        )


@settings(max_examples=40)
@given(tensors(), st.data())
def test_a_wider_scheme_has_no_greater_weighted_error(values, data):
    weights = data.draw(weights_for(values))
    rows = [
        klcal.calibrate(values, dtype="int4", scheme=kind, method="mse", importance=weights)
        for kind in ("symmetric", "symmetric-full", "affine")
    ]
    assume(all(row.status == "ok" for row in rows))
    for narrow, wide in pairwise(rows):
        check_no_worse(values, weights, wide, narrow)


def test_the_weighted_error_is_near_the_smallest_of_a_dense_search():
    excess = []
    for values in samples(40, seed=5, least=16, most=2_000).values():
        weights = energies(values.size)
        for dtype, kind in (("int4", "symmetric"), ("uint4", "affine")):
            row = klcal.calibrate(values, dtype=dtype, scheme=kind, method="mse", importance=weights)
            unit = _unit(values, weights)
            scale, levels = quantizer(row, dtype)
            least = brute_force.search(unit, Levels.of(dtype, kind)).least
            mine = brute_force.error(unit, scale, np.array(levels))
            if least > NOISE * unit.energy / unit.counts.sum():
                excess.append(mine / least - 1)
    assert len(excess) > 60
    assert max(excess) < 0.05
    assert np.mean(excess) < 0.002


def _unit(values, weights) -> Unit:
    """Distinct values, and what those of each weigh; on the whole one each."""
    distinct, of = np.unique(values.astype(float), return_inverse=True)
    counts = np.bincount(of, weights) * values.size / weights.sum()
    return Unit(distinct[distinct != 0], counts[distinct != 0])


def test_an_outlier_that_weighs_next_to_nothing_is_clipped():
    values = np.append(matrix(1, 600).ravel(), np.float32(500))
    weights = np.append(np.ones(600), 1e-9)
    for dtype, scheme in (("int4", "symmetric"), ("uint4", "affine"), ("int8", "symmetric")):
        options = {"dtype": dtype, "scheme": scheme, "method": "mse"}
        row = klcal.calibrate(values, importance=weights, **options)
        alone = klcal.calibrate(values[:-1], **options)
        assert row.scale < 2 * alone.scale
        assert weighted_error(values[:-1], row, 1.0) < 1.02 * weighted_error(values[:-1], alone, 1.0)


def test_a_search_that_stops_at_such_an_outlier_is_noticed(monkeypatch):
    monkeypatch.setattr(distribution, "_raising", lambda sketch, _: np.ones(sketch.units))
    with kernel("numpy"), pytest.raises(AssertionError):
        test_an_outlier_that_weighs_next_to_nothing_is_clipped()


def test_kl_weighs_the_law_of_the_values():
    """With enough values for D to decide: the choice is that of as many copies as the weights say."""
    values = np.random.default_rng(0).standard_t(3, 3_000).astype(np.float32)
    copies = np.random.default_rng(1).integers(1, 6, values.size)
    for method in METHODS:
        weighed = klcal.calibrate(values, dtype="int4", method=method, importance=copies)
        repeated = klcal.calibrate(np.repeat(values, copies), dtype="int4", method=method)
        assert weighed.scale == pytest.approx(repeated.scale, rel=0.02)
    sums = Distribution.weighted(klcal.sketch(values, importance=copies)).prefix_sums(0)
    rows = [klcal.calibrate(values, dtype="int4", method="kl-classic", importance=each) for each in (copies, None)]
    losses = [
        classic_divergences(sums, Scheme.parse("int4", "auto", "float32"), np.array([row.scale]), np.array([7]), 137)[0]
        for row in rows
    ]
    assert losses[0] <= losses[1]


def test_d_decides_where_enough_values_weigh_something():
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    weights = np.where(np.arange(20_000) < 9_000, energies(20_000), 0)
    assert klcal.calibrate(values, dtype="int4", importance=weights).note is None
    weights[100:] = 0
    row = klcal.calibrate(values, dtype="int4", importance=weights)
    assert row.note == "chosen by mse: fewer than 8,220 nonzero values"
    assert choice(row) == choice(klcal.calibrate(values, dtype="int4", importance=weights, method="mse"))


# --- units without weights


def test_a_unit_without_weights_is_chosen_without_importance_and_said():
    values, weights = matrix(4, 20), np.zeros((4, 20))
    weights[1] = energies(20)
    row = klcal.calibrate(values, dtype="int4", method="mse", per="channel", importance=weights)
    plain = klcal.calibrate(values, dtype="int4", method="mse", per="channel")
    assert (row.units.scale == plain.units.scale).tolist() == [True, False, True, True]
    assert row.note == "chosen without importance, which is 0 for all nonzero values in 3 of 4 units"
    assert [each.importance for each in row.each_unit()] == [True] * 4


@example([0.0, 0.0, 0.0, 0.0])
@example([0.0, 1.0, 0.0, 2.0])  # of values that are 0, which no quantizer loses
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4))
def test_a_tensor_without_weights_is_chosen_without_importance_and_said(weights):
    values = np.float32([1.5, 0, -2.7, 0])
    row = klcal.calibrate(values, dtype="int4", method="mse", importance=weights)
    has_none = not (np.array(weights)[values != 0]).any()
    assert (row.note == "chosen without importance, which is 0 for all nonzero values") == has_none
    if has_none:
        assert choice(row) == choice(klcal.calibrate(values, dtype="int4", method="mse"))


def test_rows_without_a_scale_are_what_they_are():
    for values, status in (([0.0, 0.0], "zero"), ([1.0, np.nan], "nonfinite"), ([1e39, 1.0], "overflow")):
        row = klcal.calibrate(np.array(values), importance=[1.0, 2.0])
        assert replace(row, importance=False) == klcal.calibrate(np.array(values))
        assert row.status == status


# --- what is refused


@pytest.mark.parametrize("method", ["minmax", "percentile:99.9"])
def test_a_method_without_a_cost_has_no_importance(method):
    with pytest.raises(UsageError, match=rf"importance changes nothing for the method {method}; use kl, mse or"):
        klcal.calibrate([1.0, 2.0], method=method, importance=[1.0, 2.0])
    finished = klcal.sketch([1.0, 2.0], importance=[1.0, 2.0])
    with pytest.raises(UsageError, match="importance changes nothing"):
        klcal.calibrate(finished, method=method)


def test_a_method_of_ones_own_weighs():
    def mine(distribution, scheme, spans):
        return klcal.MSE()(distribution, scheme, spans)

    values, weights = matrix(), energies(20)
    assert klcal.calibrate(values, method=mine, importance=weights).scale == (
        klcal.calibrate(values, method="mse", importance=weights).scale
    )


def test_an_importance_that_does_not_fit_is_an_error():
    with pytest.raises(UsageError, match="the importance has the shape"):
        klcal.calibrate(matrix(), importance=np.ones(6))
    with pytest.raises(UsageError, match="a sketch has no columns to weigh"):
        klcal.calibrate(klcal.sketch([1.0]), importance=[1.0])
