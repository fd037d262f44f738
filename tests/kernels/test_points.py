"""The kernels of points: sums in one order, levels by the definition, and nothing that padding or a batch changes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from klcal.kernels import points
from klcal.kernels.points import Floats, Integers, Levels, lane_sum, least_squares, rounded, squared_errors
from klcal.search.point_costs import ARITHMETIC
from tests.support import slow
from tests.support.strategies import tensors

ROUNDINGS: dict[str, tuple[points.Rounding, list[float]]] = {
    "int4": (Integers(7.0, 7.0), slow.integers(15, 7)),
    "uint4": (Integers(3.0, 12.0), slow.integers(16, 3)),
    "int8": (Integers(128.0, 127.0), slow.integers(256, 128)),
    "nf4": (Levels(np.array(slow.NF4)), slow.NF4),
    **{name: (rounding, slow.FLOATS[name]) for name, rounding in ARITHMETIC.items()},
}
ALL = pytest.mark.parametrize(("rounding", "levels"), ROUNDINGS.values(), ids=ROUNDINGS)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def terms(size: int, seed: int, units: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((units, size)) * np.exp(3 * rng.standard_normal((units, size)))).astype(np.float32)


def padded(values: np.ndarray, zeros: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((len(values), zeros), values.dtype)], axis=1)


# --- sums


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 99))
def test_neither_padding_nor_a_batch_changes_a_bit_of_a_sum(size, zeros, seed):
    values = terms(size, seed)
    expected = lane_sum(values.copy())
    assert np.array_equal(lane_sum(padded(values, zeros)), expected)
    for unit in range(len(values)):
        assert lane_sum(values[unit : unit + 1].copy())[0] == expected[unit]


def test_numpys_own_sum_is_changed_by_padding():
    """The broken twin: it adds in another order for another length."""
    changed = [np.sum(padded(terms(200, seed), 130), axis=1) != np.sum(terms(200, seed), axis=1) for seed in range(20)]
    assert np.any(changed)


@given(st.integers(1, 4096), st.integers(0, 99))
def test_a_sum_of_4096_float32_is_right_to_a_millionth(size, seed):
    values = np.abs(terms(size, seed))
    assert lane_sum(values.copy()) == pytest.approx([math.fsum(each) for each in values.tolist()], rel=1e-6)


# --- levels


def check_rounded(rounding, levels, dtype, steps) -> None:
    """But for values that lie within rounding of the middle between two levels of nf4, which no format has."""
    steps = np.array(steps, dtype)
    if isinstance(rounding, Levels):
        middles = (np.array(levels)[1:] + np.array(levels)[:-1]) / 2
        steps = steps[np.abs(steps[:, None] - middles).min(axis=1) > 1e-6]
    expected = [slow.rounded(float(step), 1.0, levels) for step in steps]
    assert rounded(steps, rounding).tolist() == pytest.approx(expected, rel=1e-7)
    out = np.empty_like(steps)
    assert rounded(steps, rounding, out) is out
    assert out.tolist() == pytest.approx(expected, rel=1e-7)


@ALL
@DTYPES
@given(data=st.data())
def test_a_step_becomes_the_level_of_the_definition(rounding, levels, dtype, data):
    ends = st.floats(-1, 1, width=32).map(lambda share: 1.125 * levels[-1] * share)
    halves = st.sampled_from(levels).flatmap(lambda level: st.sampled_from([level, level + 0.5, level * 1.125]))
    check_rounded(rounding, levels, dtype, data.draw(st.lists(st.one_of(ends, halves), min_size=1, max_size=20)))


@pytest.mark.parametrize("name", ["int4", "int8", *ARITHMETIC])
@DTYPES
def test_a_tie_becomes_the_even_level_and_a_value_outside_the_last_level(name, dtype):
    rounding, levels = ROUNDINGS[name]
    middles = [(a + b) / 2 for a, b in pairwise(levels)]
    check_rounded(rounding, levels, dtype, [*middles, 1e30, -1e30])


def test_ties_away_from_zero_are_noticed():
    """The broken twin of half-even rounding."""
    rounding, levels = ROUNDINGS["int4"]
    check_rounded(rounding, levels, np.float32, [0.5, 1.5, 2.5])
    away = [math.copysign(math.floor(abs(step) + 0.5), step) for step in (0.5, 1.5, 2.5)]
    assert away != [slow.rounded(step, 1.0, levels) for step in (0.5, 1.5, 2.5)]


# --- costs


def unit_of(values: np.ndarray, dtype) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values and how often each occurs, with magnitudes from 1 to 2 the largest."""
    distinct, counts = np.unique(values[values != 0], return_counts=True)
    power = np.exp2(np.floor(np.log2(np.abs(distinct).max(initial=1.0))))
    return (distinct / power).astype(dtype)[None], counts.astype(dtype)[None]


@ALL
@given(values=tensors(20), seed=st.integers(0, 99))
def test_squared_errors_are_those_of_the_definition(rounding, levels, values, seed):
    distinct, counts = unit_of(values, np.float64)
    assume(distinct.size)
    scales = np.random.default_rng(seed).uniform(0.3, 2, (1, 5)) * np.abs(distinct).max() / max(levels)
    found = squared_errors(distinct, counts, scales, rounding)[0]
    each = np.repeat(distinct[0], counts[0].astype(int))
    for error, scale in zip(found, scales[0], strict=True):
        expected = slow.squared_error(each, scale, levels) / scale**2
        assert error == pytest.approx(expected, rel=1e-6, abs=1e-12)


@ALL
@DTYPES
@given(values=tensors(40), seed=st.integers(0, 99), zeros=st.integers(0, 90))
def test_neither_padding_nor_other_units_nor_candidates_change_a_bit(rounding, levels, dtype, values, seed, zeros):
    distinct, counts = unit_of(values, dtype)
    assume(distinct.size)
    scales = np.random.default_rng(seed).uniform(0.3, 2, (1, 7)) * np.abs(distinct).max() / max(levels)
    twice = [np.concatenate([padded(each, zeros), padded(each[:, ::-1], zeros)]) for each in (distinct, counts)]
    for kernel in (squared_errors, least_squares):
        expected = kernel(distinct, counts, scales, rounding)
        assert np.array_equal(kernel(*twice, np.concatenate([scales, scales]), rounding)[:1], expected)
        for number in range(scales.shape[1]):
            one = kernel(distinct, counts, scales[:, number : number + 1], rounding)
            assert np.array_equal(one, expected[:, number : number + 1])


def test_the_size_of_a_block_does_not_change_a_bit(monkeypatch):
    values, counts = terms(300, 0), np.abs(np.rint(terms(300, 1))) + 1
    scales = np.random.default_rng(2).uniform(0.1, 1, (3, 40))
    rounding = Integers(np.arange(120.0).reshape(3, 40, 1) % 16, 15 - np.arange(120.0).reshape(3, 40, 1) % 16)
    expected = squared_errors(values, counts, scales, rounding)
    monkeypatch.setattr(points, "BLOCK", 1 << 10)
    assert np.array_equal(squared_errors(values, counts, scales, rounding), expected)
    assert not np.array_equal(squared_errors(values, counts, scales, Integers(7.0, 8.0)), expected)


@DTYPES
def test_values_that_each_occur_once_need_no_counts(dtype):
    values, scales = terms(50, 3).astype(dtype), np.full((3, 2), 0.3)
    for kernel in (squared_errors, least_squares):
        ones = kernel(values, np.ones_like(values), scales, Integers(7.0, 7.0))
        assert np.array_equal(kernel(values, None, scales, Integers(7.0, 7.0)), ones)


@ALL
@given(values=tensors(20), seed=st.integers(0, 99))
def test_least_squares_is_the_best_scale_for_the_levels_that_values_have(rounding, levels, values, seed):
    distinct, counts = unit_of(values, np.float64)
    scales = np.random.default_rng(seed).uniform(0.3, 2, (1, 5)) * np.abs(distinct).max() / max(levels)
    found = least_squares(distinct, counts, scales, rounding)[0]
    for best, scale in zip(found, scales[0], strict=True):
        q = rounded(distinct[0] * (1 / scale), rounding)
        squares, products = math.fsum(counts[0] * q * q), math.fsum(counts[0] * q * distinct[0])
        assert best == pytest.approx(products / squares if squares else scale, rel=1e-9, abs=1e-12)

        def error(at: float, q=q) -> float:
            return math.fsum(counts[0] * (distinct[0] - at * q) ** 2)

        assert error(best) <= min(error(best * 1.001), error(best * 0.999), error(scale)) + 1e-12


def test_where_all_levels_are_zero_the_scale_stays():
    values = np.float32([[0.1, -0.2]])
    assert least_squares(values, None, np.array([[1.0, 0.1]]), Integers(7.0, 7.0)).tolist()[0][0] == 1.0


def test_a_scale_that_is_far_too_small_has_an_infinite_error_and_no_warning():
    assert squared_errors(np.float32([[1.0]]), None, np.array([[1e-30]]), Integers(7.0, 7.0)).tolist() == [[math.inf]]
    assert isinstance(ROUNDINGS["float8_e4m3fn"][0], Floats)
