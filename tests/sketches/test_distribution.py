"""A distribution is what its sketch knows: points or intervals of the values of each unit, cut at the extremes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.kernels.sums import unit_sums
from klcal.quantizers.scheme import Scheme
from klcal.search.exact_costs import exact_costs
from klcal.sketches.distribution import OUTERMOST, Distribution, Points
from klcal.sketches.patterns import UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support import slow
from tests.support.samples import cut
from tests.support.sketches import GREATEST, RESOLUTIONS, one_by_one
from tests.support.strategies import FINITE

NUMBERS = st.one_of(
    FINITE, st.floats(-4, 4, width=32), st.sampled_from([0.0, 1.0, -1.0, 2.0**-149, GREATEST, 2.0**-133])
)
VALUES = st.lists(st.lists(NUMBERS, max_size=12), min_size=1, max_size=4)
FULL = VALUES.map(lambda units: [[*each, 1.0] for each in units])  # units that have a value
SKETCHES = st.builds(one_by_one, VALUES, RESOLUTIONS)
CUT = Resolution(least_bits=7, few=0)  # however few the values are


def pieces(distribution: Distribution, unit: int) -> list[tuple[float, float, float]]:
    """(low, high, count) of each piece of a unit, in its order."""
    some = slice(*distribution.starts[unit : unit + 2])
    columns = (getattr(distribution, name)[some].tolist() for name in ("negative", "inner", "outer", "counts"))
    return [
        (-outer, -inner, count) if negative else (inner, outer, count)
        for negative, inner, outer, count in zip(*columns, strict=True)
    ]


def middles(points: Points, unit: int) -> list[tuple[float, float]]:
    """(value, count) of each point of a unit."""
    some = slice(*points.starts[unit : unit + 2])
    return list(zip(points.values[some].tolist(), points.counts[some].tolist(), strict=True))


def check_pieces(distribution: Distribution, of: Sketch) -> None:
    assert distribution.units == of.units
    for unit in range(of.units):
        assert pieces(distribution, unit) == slow.pieces_of(of, unit)


def normal(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


# --- pieces


@given(SKETCHES)
def test_pieces_are_those_of_the_definition_and_ascend(found):
    check_pieces(Distribution.of(found), found)


def test_pieces_of_many_values_are_those_of_the_definition():
    found = Sketch.stack([sketch(normal(20_000, 1)), sketch(normal(9_000, 2)), sketch([]), sketch([3.0, 1e30])])
    check_pieces(Distribution.of(found), found)
    check_pieces(Distribution.of(one_by_one([normal(6_000).tolist()], UNITS)), one_by_one([normal(6_000)], UNITS))


def test_pieces_in_the_order_of_keys_or_beyond_the_extremes_are_noticed():
    found = one_by_one([[-3.0, -0.3, 0.7, 5.1]], CUT)
    distribution = Distribution.of(found)
    check_pieces(distribution, found)
    for broken in (replace(found, keys=found.keys[[1, 0, 2, 3]]), replace(found, maximum=np.array([5.125]))):
        with pytest.raises(AssertionError):
            check_pieces(Distribution.of(broken), found)


@given(VALUES)
def test_exact_units_are_points_the_values_themselves(values):
    distribution = Distribution.of(Sketch.stack([sketch(np.float32(each)) for each in values]))
    for unit, each in enumerate(values):
        assert [(low, count) for low, _, count in pieces(distribution, unit)] == [
            (low, count) for low, _, count in slow.points(each)
        ]
    assert np.array_equal(distribution.inner, distribution.outer)
    assert distribution.exact.all()


@given(VALUES)
def test_the_extremes_are_those_of_the_values_and_zero(values):
    distribution = Distribution.of(one_by_one(values, CUT))
    for unit, each in enumerate(values):
        nonzero = [float(np.float32(x)) for x in each if x]
        assert distribution.min[unit] == min([*nonzero, 0.0])
        assert distribution.max[unit] == max([*nonzero, 0.0])
        found = pieces(distribution, unit)
        assert sum(count for _, _, count in found) == distribution.size[unit] == len(nonzero)
        if nonzero and min(map(abs, nonzero)) >= slow.LEAST_NORMAL:
            assert (found[0][0], found[-1][1]) == (min(nonzero), max(nonzero))
            assert all(any(low <= x <= high for low, high, _ in found) for x in nonzero)


def test_a_constant_is_a_point():
    for value in (0.1, -0.1, 5.1, 3.4e38):
        found = pieces(Distribution.of(one_by_one([[value, value]], CUT)), 0)
        assert found == [(np.float32(value), np.float32(value), 2)]


def test_lossless_values_are_points_because_of_what_they_are_not_of_their_dtype():
    bfloat16 = cut(normal(100))
    assert Distribution.of(sketch(bfloat16).coarsen(10)).exact
    assert not Distribution.of(sketch(np.append(bfloat16, np.float32(0.1))).coarsen(10)).exact
    assert Distribution.of(sketch(np.append(bfloat16, np.float32(0.1)))).exact, "few values are points"


@given(st.lists(st.integers(-(2**23) + 1, 2**23 - 1), min_size=1, max_size=30))
def test_subnormal_values_are_points_in_the_middle_of_their_bucket(steps):
    values = np.float32(np.array(steps) * 2.0**-149)
    distribution = Distribution.of(sketch(values).coarsen(10))
    assert np.array_equal(distribution.inner, distribution.outer)
    assert (distribution.max[0], distribution.min[0]) == (max(0.0, values.max()), min(0.0, values.min()))
    off = np.abs(values[values != 0, None].astype(float)) - distribution.inner
    assert (np.abs(off).min(axis=1, initial=np.inf) <= 2.0**-137).all(), "half of 2¹³ steps of 2⁻¹⁴⁹"


# --- sums


@given(SKETCHES)
def test_size_and_energy_are_those_of_the_pieces_whatever_units_stand_beside(found):
    distribution = Distribution.of(found)
    for unit in range(found.units):
        each = slow.pieces_of(found, unit)
        energy = sum(count * (low * low + low * high + high * high) / 3 for low, high, count in each)
        assert distribution.size[unit] == sum(count for _, _, count in each)
        assert distribution.energy[unit] == pytest.approx(energy, rel=1e-12)
        alone = Distribution.of(found[unit : unit + 1])
        assert (alone.size[0], alone.energy[0]) == (distribution.size[unit], distribution.energy[unit])


def test_values_inside_a_bucket_are_spread_not_heaped_at_its_middle():
    """At 16 bits a bucket of float32 is wider than a cell: all its values at its middle would have another error."""
    values = np.random.default_rng(1).uniform(1, 1 + 2**-10, 10_000).astype(np.float32)
    distribution = Distribution.of(sketch(values))
    assert distribution.counts.tolist() == [10_000]
    middle = float(distribution.inner[0] + distribution.outer[0]) / 2
    scale = float(np.float32(middle / 10_000))
    real = np.sum((np.rint(values / scale) * scale - values.astype(float)) ** 2)
    spread = exact_costs(distribution, Scheme.parse("int16"), np.array([scale]), np.array([32767])).squared_error[0]
    assert spread == pytest.approx(real, rel=2e-2)
    assert 10_000 * (middle - round(middle / scale) * scale) ** 2 < 1e-3 * real, "the broken twin sees no error at all"


# --- quantiles


@given(FULL, st.floats(0, 1))
def test_quantiles_of_points_are_those_of_sorted_values(values, share):
    distribution = Distribution.of(Sketch.stack([sketch(np.float32(each)) for each in values]))
    rank = np.round(share * distribution.size * 4) / 4
    found = distribution.quantiles(rank)
    for unit, each in enumerate(values):
        magnitudes = sorted(abs(float(np.float32(x))) for x in each if x)
        wanted = magnitudes[int(np.ceil(rank[unit])) - 1] if rank[unit] else 0.0
        assert found[unit] == wanted


@given(FULL, st.floats(0.01, 1))
def test_a_quantile_of_intervals_is_the_smallest_magnitude_that_keeps_its_share(values, share):
    found = one_by_one(values, CUT)
    distribution = Distribution.of(found)
    rank = share * distribution.size
    quantile = distribution.quantiles(rank)
    for unit in range(found.units):
        check_quantile(slow.pieces_of(found, unit), float(quantile[unit]), float(rank[unit]))


def test_a_quantile_depends_on_no_unit_beside_it_and_on_every_value():
    """The sums of all units before it round a rank just above 3, and counts beyond 2⁵³ round each other."""
    row = sketch(np.float32([1, 2, 3, 4, 5]))
    beside = Sketch.stack([sketch(np.arange(1, 4097, dtype=np.float32)), row])
    just_above = np.nextafter(3.0, 4.0)
    assert Distribution.of(beside).quantiles(np.array([1.0, just_above])).tolist() == [1.0, 4.0]
    many = row.repeat(1 << 60)
    assert Distribution.of(many + sketch(np.float32([0.5]))).quantiles(np.array([2.0**60])).tolist() == [1.0]
    most = Distribution.of(many + sketch(np.float32([6.0] * 3)))
    assert most.quantiles(most.number).tolist() == [6.0], "the number of values rounds down"


def check_quantile(each, quantile: float, rank: float) -> None:
    assert mass_within(each, quantile * (1 + 1e-9)) >= rank - 1e-6
    assert mass_within(each, quantile * (1 - 1e-9)) <= rank + 1e-6


def mass_within(each, end: float) -> float:
    """How many values have at most this magnitude, piece by piece."""
    mass = 0.0
    for low, high, count in each:
        inner, outer = sorted((abs(low), abs(high)))
        share = float(inner <= end) if inner == outer else min(max((end - inner) / (outer - inner), 0.0), 1.0)
        mass += count * share
    return mass


def test_a_quantile_of_one_sign_or_at_the_end_of_a_bucket_is_noticed():
    found = one_by_one([[-1.00001, -1.0009, 1.5, 1.0002, 3.0]], CUT)
    each = slow.pieces_of(found)
    quantile = float(Distribution.of(found).quantiles(np.array([2.0]))[0])
    check_quantile(each, quantile, 2.0)
    for broken in (1.5, max(abs(low) for low, _, _ in each[:1]) + 0.1, 1.0):
        with pytest.raises(AssertionError):
            check_quantile(each, broken, 2.0)


# --- some units, some pieces


@given(SKETCHES, st.randoms(use_true_random=False))
def test_selected_units_are_those_of_a_sketch_of_them(found, random):
    distribution = Distribution.of(found)
    units = np.array([random.randrange(found.units) for _ in range(random.randrange(5))], np.int64)
    chosen = distribution.select(units)
    check_pieces(chosen, found.take(units))
    for name in ("exact", "min", "max"):
        assert np.array_equal(getattr(chosen, name), getattr(distribution, name)[units])


@pytest.mark.parametrize("coarsened", [False, True])
def test_a_first_look_sees_all_values_and_nearly_their_energy(coarsened):
    """A fifteenth of 4,000 pieces, the outermost themselves, in each unit of its own."""
    sketches = [sketch(normal(size, size)) for size in (3, 60, 64, 65, 700, 4_000)]
    if coarsened:
        sketches = [each.coarsen(10) for each in sketches]
    distribution = Distribution.of(Sketch.stack(sketches))
    thin = distribution.thinned()
    assert np.array_equal(unit_sums(thin.counts, thin.starts), distribution.size)
    assert unit_sums(thin.counts * thin.values**2, thin.starts) == pytest.approx(distribution.energy, rel=2e-3)
    for unit, before in enumerate(distribution.pieces):
        whole, some = middles(distribution.points, unit), middles(thin, unit)
        assert some[:OUTERMOST] == whole[:OUTERMOST]
        assert some[-OUTERMOST:] == whole[-OUTERMOST:]
        assert (some == whole) == (before <= 2 * OUTERMOST + 1)
        assert before <= 1000 or len(some) < before / 6
    alone = Distribution.of(sketches[-1]).thinned()
    assert middles(alone, 0) == middles(thin, len(sketches) - 1)


def test_a_distribution_of_nothing():
    distribution = Distribution.of(sketch(np.float32([0.0, -0.0])))
    for name in ("size", "energy", "min", "max", "pieces"):
        assert getattr(distribution, name).tolist() == [0]
