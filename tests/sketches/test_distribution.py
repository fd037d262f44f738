"""A law answers for the values of its sketch: to rounding where they are points, as if spread evenly where not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.quantizers.scheme import Scheme
from klcal.search.exact_costs import distortion
from klcal.sketches.distribution import Law
from klcal.sketches.sketch import sketch
from tests.support.strategies import FINITE, floats, tensors

POINTS = st.floats(0, 2.0**100)
NORMAL = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


def exact(values):
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def evenly_spread(law_side, point: float) -> tuple[float, float]:
    """The mass within a point and the excess beyond it, bucket by bucket."""
    mass = excess = 0.0
    for inner, outer, count in zip(law_side.inner, law_side.outer, law_side.counts, strict=True):
        if inner == outer:
            mass += count * (inner <= point)
            excess += count * max(inner - point, 0.0)
        else:
            share = min(max((point - inner) / (outer - inner), 0.0), 1.0)
            mass += count * share
            beyond = max(outer - max(point, inner), 0.0)
            excess += count * (beyond / (outer - inner)) * ((max(point, inner) + outer) / 2 - point)
    return mass, excess


@given(floats(NORMAL), st.lists(POINTS, min_size=1, max_size=20))
def test_tables_answer_as_a_loop_over_the_buckets_does(values, points):
    law = Law.of(sketch(values))
    at = np.array([*points, *np.abs(values).astype(float)])
    for side, pieces in zip(law.sides, (law.positive, law.negative), strict=True):
        expected = [evenly_spread(pieces, point) for point in at]
        scale = float(np.sum(pieces.counts * pieces.outer))
        assert side.mass_within(at) == pytest.approx([mass for mass, _ in expected], abs=1e-9)
        assert side.excess_beyond(at) == pytest.approx([excess for _, excess in expected], rel=1e-9, abs=1e-13 * scale)


@given(floats(FINITE))
def test_points_are_the_values_themselves(values):
    values = exact(values)
    law = Law.of(sketch(values))
    assert law.energy == pytest.approx(float(np.sum(values.astype(float) ** 2)), rel=1e-9)
    assert sorted(np.repeat(law.positive.inner, law.positive.counts)) == sorted(values[values > 0].tolist())
    assert law.size == np.count_nonzero(values)


@given(tensors(300))
def test_a_law_keeps_the_extremes_and_nearly_the_moments(values):
    law, wide = Law.of(sketch(values)), values.astype(float)
    assert law.high == max(0.0, float(values.max()))
    assert law.low == min(0.0, float(values.min()))
    assert law.energy == pytest.approx(float(np.sum(wide**2)), rel=2e-3)


@given(tensors(300))
def test_masses_are_equal_where_no_value_lies_between(values):
    """What prefix sums leave behind by rounding would pass for an occupied bin."""
    law = Law.of(sketch(values))
    for side in law.sides:
        beyond = side.extreme * np.array([1.0, 1.0 + 2**-40, 1.5, 1e6]) + (side.extreme == 0)
        assert set(side.mass_within(beyond)) == {side.size}


# --- the traps, one test each


def test_one_huge_outlier_takes_no_digits_from_the_rest():
    """Running sums from the most negative value on would lose the error of the body altogether."""
    body = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * np.float32(1e-3)
    law = Law.of(sketch(np.append(body, np.float32(-1e12))))
    alone = Law.of(sketch(body[body > 0]))
    edges = np.array([1e-4, 1e-3, 2e-3])
    assert law.sides[0].excess_beyond(edges) == pytest.approx(alone.sides[0].excess_beyond(edges), rel=1e-12)


def test_nothing_is_clipped_at_the_full_range_and_a_constant_is_a_point():
    for values in ([3.3, -7.7], [0.1], [-0.1, -0.1], [1e-40], [5.1, 5.2]):
        sketched = sketch(np.float32(values))
        law = Law.of(sketched)
        assert (law.high, -law.low) == (max(0.0, sketched.maximum), max(0.0, -sketched.minimum))
        top = np.array([max(law.high, -law.low)])
        assert sum(side.mass_within(top)[0] for side in law.sides) == len(values)
    point = Law.of(sketch(np.float32([0.1, 0.1])))
    assert point.positive.inner == point.positive.outer == np.float32(0.1)
    below = np.nextafter(np.float64(np.float32(0.1)), 0)
    assert point.sides[0].mass_within(np.array([below])) == 0
    assert point.sides[0].excess_beyond(np.array([0.05]))[0] == pytest.approx(2 * (np.float32(0.1) - 0.05))


def test_values_inside_a_bucket_are_spread_not_heaped_at_its_middle():
    """At 16 bits a bucket of float32 is wider than a cell: all its values at its middle would have another error."""
    values = np.random.default_rng(1).uniform(1, 1 + 2**-10, 10_000).astype(np.float32)
    law = Law.of(sketch(values))
    assert law.positive.counts.tolist() == [10_000]
    middle = float(law.positive.inner[0] + law.positive.outer[0]) / 2
    scale = float(np.float32(middle / 10_000))
    real = np.rint(values / scale) * scale - values.astype(float)
    assert distortion(law, Scheme("int16", "symmetric"), scale, 32767).squared_error == pytest.approx(
        float(np.sum(real**2)), rel=2e-2
    )
    heaped = 10_000 * (middle - round(middle / scale) * scale) ** 2
    assert heaped < 1e-3 * np.sum(real**2), "the broken twin sees no error at all"


def test_lossless_values_are_points_because_of_what_they_are_not_of_their_dtype():
    bfloat16 = exact(np.random.default_rng(2).standard_normal(100).astype(np.float32))
    assert sketch(bfloat16).exact
    assert not sketch(np.append(bfloat16, np.float32(0.1))).exact
    assert Law.of(sketch(np.float64([0.5, 0.25]))).positive.inner.tolist() == [0.25, 0.5]


@given(st.lists(st.integers(-(2**23) + 1, 2**23 - 1), min_size=1, max_size=30))
def test_subnormal_values_are_counted_and_keep_their_extremes(steps):
    values = np.float32(np.array(steps) * 2.0**-149)
    law = Law.of(sketch(values))
    assert (law.high, law.low) == (max(0.0, values.max()), min(0.0, values.min()))
    assert law.size == np.count_nonzero(values) == law.sides[0].size + law.sides[1].size
    wide = np.sort(np.abs(values.astype(float)))
    assert np.sqrt(law.energy) == pytest.approx(np.sqrt(np.sum(wide**2)), rel=0.01, abs=30 * 2.0**-136)


def test_an_empty_law():
    law = Law.of(sketch(np.float32([0.0, -0.0])))
    assert (law.size, law.low, law.high, law.energy) == (0, 0.0, 0.0, 0.0)
    assert law.sides[0].mass_within(np.array([1.0])) == law.sides[1].excess_beyond(np.array([1.0])) == 0
