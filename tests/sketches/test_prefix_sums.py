"""Prefix sums answer as a loop over the pieces does: of points, of buckets, and of wide buckets that are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.sketches.distribution import Distribution
from klcal.sketches.patterns import Resolution
from klcal.sketches.prefix_sums import Side
from klcal.sketches.values import sketch
from tests.support import slow
from tests.support.sketches import one_by_one
from tests.support.strategies import tensors

NORMAL = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
NEAR = st.integers(1, 40).map(lambda step: 1.0 + step * 2.0**-23)  # closer to one another than buckets are wide
NUMBERS = st.one_of(NORMAL, NEAR, NEAR.map(lambda x: -x), st.floats(-4, 4, width=32, allow_subnormal=False))
VALUES = st.lists(NUMBERS, max_size=30)
POINTS = st.lists(st.one_of(st.floats(0, 2.0**100), NEAR, st.floats(0, 5)), min_size=1, max_size=20)
RESOLUTIONS = {
    "points": Resolution(),
    "buckets": Resolution(few=0),
    "wide buckets": Resolution(least_bits=7, few=0),
    "very wide buckets": Resolution(mantissa_bits=2, least_bits=2, few=0),
}
ALL = pytest.mark.parametrize("resolution", RESOLUTIONS.values(), ids=RESOLUTIONS)


def of_side(pieces, sign: int) -> list[tuple[float, float, int]]:
    """The pieces of one sign as magnitudes."""
    return [(*sorted((abs(low), abs(high))), count) for low, high, count in pieces if low * sign > 0]


def mass_within(pieces, point: float) -> float:
    """Where no value lies, a value is within: ends belong to it."""
    mass = 0.0
    for inner, outer, count in pieces:
        share = float(inner <= point) if inner == outer else min(max((point - inner) / (outer - inner), 0.0), 1.0)
        mass += count * share
    return mass


def excess_beyond(pieces, point: float) -> float:
    excess = 0.0
    for inner, outer, count in pieces:
        if inner == outer:
            excess += count * max(inner - point, 0.0)
        elif outer > point:
            start = max(point, inner)
            excess += count * (outer - start) / (outer - inner) * ((start + outer) / 2 - point)
    return excess


def check_side(side: Side, pieces, points) -> None:
    ends = [end for inner, outer, _ in pieces for end in (inner, (inner + outer) / 2, outer)]
    at = np.array([*points, *ends])
    noise = 1e-12 * sum(outer * count for _, outer, count in pieces)
    mass, excess = ([slow_sum(pieces, x) for x in at] for slow_sum in (mass_within, excess_beyond))
    assert side.size == pytest.approx(sum(count for _, _, count in pieces))
    assert side.extreme == max((outer for _, outer, _ in pieces), default=0.0)
    assert side.mass_within(at) == pytest.approx(mass, rel=1e-9, abs=1e-9)
    assert side.excess_beyond(at) == pytest.approx(excess, rel=1e-9, abs=noise)


def sums_and_pieces(values, resolution):
    found = one_by_one([values], resolution)
    return Distribution.of(found).prefix_sums(0), slow.pieces_of(found)


@ALL
@given(values=VALUES, points=POINTS)
def test_sums_are_those_of_a_loop_over_the_pieces(resolution, values, points):
    sums, pieces = sums_and_pieces(values, resolution)
    for side, sign in zip(sums.sides, (1, -1), strict=True):
        check_side(side, of_side(pieces, sign), points)
    assert sums.size == len([x for x in values if x])
    energy = sum(count * (low * low + low * high + high * high) / 3 for low, high, count in pieces)
    assert sums.energy == pytest.approx(energy, rel=1e-12)


@ALL
def test_sums_of_one_unit_among_several(resolution):
    units = [[1.5, -2.0], [], [-1.0001, -1.0002, 3.0], [7.0]]
    distribution = Distribution.of(one_by_one(units, resolution))
    for unit, values in enumerate(units):
        sums, pieces = distribution.prefix_sums(unit), slow.pieces_of(one_by_one([values], resolution))
        for side, sign in zip(sums.sides, (1, -1), strict=True):
            check_side(side, of_side(pieces, sign), [0.0, 1.0, 2.5])


def test_values_heaped_at_one_end_of_their_bucket_or_in_a_neighbour_are_noticed():
    values = [1.3, 1.9, 2.7, 2.8]
    sums, pieces = sums_and_pieces(values, RESOLUTIONS["very wide buckets"])
    check_side(sums.sides[0], of_side(pieces, 1), [1.0, 2.0])
    for broken in ([(low, low, n) for low, _, n in pieces], [(low, high + 0.1, n) for low, high, n in pieces]):
        with pytest.raises(AssertionError):
            check_side(sums.sides[0], broken, [1.0, 2.0])


def test_points_closer_than_buckets_are_told_apart():
    """The broken twin: points keyed by their bucket would all be found at once."""
    near = [1.0 + step * 2.0**-23 for step in range(5)]
    sums, _ = sums_and_pieces([*near, 4.0], RESOLUTIONS["points"])
    assert sums.sides[0].mass_within(np.array(near)).tolist() == [1, 2, 3, 4, 5]
    broken, _ = sums_and_pieces([*near, 4.0], RESOLUTIONS["buckets"])
    assert broken.sides[0].mass_within(np.array(near)).tolist() != [1, 2, 3, 4, 5]


@ALL
@given(values=tensors(100))
def test_masses_are_equal_to_the_bit_where_no_value_lies_between(resolution, values):
    """What sums leave behind by rounding would pass for an occupied bin."""
    sums, pieces = sums_and_pieces(values.tolist(), resolution)
    for side, sign in zip(sums.sides, (1, -1), strict=True):
        beyond = side.extreme * np.array([1.0, 1.0 + 2**-40, 1.5, 1e6]) + (side.extreme == 0)
        assert set(side.mass_within(beyond)) == {side.size}
        magnitudes = sorted(of_side(pieces, sign))
        for (_, end, _), (start, _, _) in pairwise(magnitudes):
            if end < start:
                between = end + (start - end) * np.array([0.0, 0.25, 0.5, 0.75])
                assert len(set(side.mass_within(between))) == 1


@pytest.mark.parametrize("resolution", [RESOLUTIONS["points"], RESOLUTIONS["buckets"]], ids=["points", "buckets"])
def test_one_huge_outlier_of_the_other_sign_takes_no_digits_from_the_rest(resolution):
    """Running sums from the most negative value on would lose the error of the body altogether."""
    body = (np.random.default_rng(0).standard_normal(1000).astype(np.float32) * np.float32(1e-3)).tolist()
    edges = np.array([1e-4, 1e-3, 2e-3])
    sums, _ = sums_and_pieces([*body, -1e12], resolution)
    alone, _ = sums_and_pieces([x for x in body if x > 0], resolution)
    excess = alone.sides[0].excess_beyond(edges)
    assert sums.sides[0].excess_beyond(edges) == pytest.approx(excess, rel=1e-12)
    from_the_far_end = (1e12 + sum(body)) - (1e12 + sum(body) - excess)
    assert from_the_far_end != pytest.approx(excess, rel=1e-3), "the broken twin"


@ALL
def test_sums_of_nothing(resolution):
    sums, _ = sums_and_pieces([0.0], resolution)
    assert (sums.size, sums.energy) == (0, 0)
    for side in sums.sides:
        assert (side.size, side.extreme) == (0, 0)
        assert side.mass_within(np.array([0.0, 1.0])).tolist() == [0, 0]
        assert side.excess_beyond(np.array([0.0, 1.0])).tolist() == [0, 0]


def test_sums_of_many_values_are_nearly_those_of_the_values():
    values = np.random.default_rng(3).laplace(size=50_000).astype(np.float32)
    sums = Distribution.of(sketch(values)).prefix_sums(0)
    wide = values[values > 0].astype(float)
    at = np.array([0.01, 0.3, 1.0, 4.0])
    within = [np.count_nonzero(wide <= x) for x in at]
    most = [np.count_nonzero(np.abs(wide - x) <= x * 2.0**-10) for x in at]  # in the bucket of a point
    excess = [np.maximum(wide - x, 0).sum() for x in at]
    assert (np.abs(sums.sides[0].mass_within(at) - within) <= most).all()
    assert sums.sides[0].excess_beyond(at) == pytest.approx(excess, rel=5e-4)
    assert sums.sides[1].excess_beyond(at) != pytest.approx(excess, rel=5e-4), "those of the other sign"
