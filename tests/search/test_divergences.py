"""D(P‖Q) of points and of buckets is that of the definition, of each unit alone, whatever way it is computed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from klcal.quantizers.scheme import Scheme
from klcal.search import candidate_costs
from klcal.search.divergences import divergences
from klcal.sketches.distribution import Distribution
from klcal.sketches.patterns import Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support import brute_force, slow
from tests.support.brute_force import Levels, Unit
from tests.support.samples import samples
from tests.support.sketches import one_by_one
from tests.support.strategies import tensors

SCHEMES = [("int4", "symmetric-signed"), ("uint3", "affine"), ("nf4", "symmetric"), ("float4_e2m1fn", "symmetric")]
ALL = pytest.mark.parametrize("asked", SCHEMES, ids="-".join)
BUCKETS = Resolution(few=0)
SUB = st.integers(1, 9)
NOISE = 1e-9


def scheme_of(asked: tuple[str, str]) -> Scheme:
    return Scheme.parse(asked[0], "auto" if asked[0] in slow.FLOATS else asked[1])


def quantizers(values, asked, seed: int, number: int = 4):
    """Scales and levels below zero, (1, number) each, and the levels themselves."""
    levels, rng = Levels.of(*asked), np.random.default_rng(seed)
    scale = brute_force.full_scale(Unit.of(values), levels) * 2.0 ** rng.uniform(-3, 1, (1, number))
    below = rng.choice(levels.belows, (1, number))
    return scale, below, [levels.listed(int(each)).tolist() for each in below[0]]


def check_points(values, asked, seed: int, sub: int, found_by) -> None:
    """Within what a hair's breadth of scale makes: on the edge of a sub-bin a value may lie on either side."""
    scale, below, levels = quantizers(values, asked, seed)
    found = found_by(Distribution.of(sketch(values)), scheme_of(asked), scale, below, sub)
    for nats, at, listed in zip(found[0], scale[0], levels, strict=True):
        least, most = brute_force.divergences(Unit.of(values), at, np.array(listed), sub)
        assert least - NOISE <= nats <= most + NOISE
        assert 0 <= nats <= math.log(sub) + NOISE


@ALL
@settings(max_examples=40)
@given(values=tensors(30), seed=st.integers(0, 999), sub=SUB)
def test_of_points_it_is_that_of_the_definition(asked, values, seed, sub):
    check_points(values, asked, seed, sub, divergences)


def by_prefix_sums(distribution, scheme, scale, below, sub):
    sums = distribution.prefix_sums(0)
    return candidate_costs.divergences(sums, scheme, scale[0], below[0], sub)[None]


@ALL
@settings(max_examples=40)
@given(values=tensors(30), seed=st.integers(0, 999), sub=SUB)
def test_of_points_prefix_sums_find_the_same(asked, values, seed, sub):
    check_points(values, asked, seed, sub, by_prefix_sums)


@ALL
@settings(max_examples=40)
@given(values=tensors(12), seed=st.integers(0, 999), sub=SUB)
def test_of_buckets_it_is_that_of_the_definition(asked, values, seed, sub):
    """But where a bucket touches a sub-bin with less than rounding, which may count as occupied or not."""
    found = one_by_one([values.tolist()], BUCKETS)
    scale, below, levels = quantizers(values, asked, seed)
    pieces = slow.pieces_of(found)
    nats = divergences(Distribution.of(found), scheme_of(asked), scale, below, sub)[0]
    for each, at, listed in zip(nats, scale[0], levels, strict=True):
        shares = slow.masses(pieces, at, listed, sub)[0].values()
        assume(min(shares, default=1.0) > 1e-7)
        assert each == pytest.approx(slow.divergence(pieces, at, listed, sub), abs=1e-6)


@ALL
def test_that_of_another_scale_or_of_fewer_sub_bins_is_noticed(asked):
    values = np.random.default_rng(0).laplace(size=300).astype(np.float32)
    check_points(values, asked, 0, 8, divergences)
    for broken in (
        lambda distribution, scheme, scale, below, sub: divergences(distribution, scheme, scale * 1.3, below, sub),
        lambda distribution, scheme, scale, below, sub: divergences(distribution, scheme, scale, below, sub - 1),
    ):
        with pytest.raises(AssertionError):
            check_points(values, asked, 0, 8, broken)


@pytest.mark.parametrize("asked", [("int8", "symmetric"), ("uint4", "affine"), ("nf4", "symmetric")], ids="-".join)
def test_each_unit_has_the_divergences_that_it_has_alone_to_the_bit(asked):
    """Points and buckets side by side."""
    units = [sketch(values) for values in samples(20, seed=1, most=3_000).values()]
    units[::3] = [replace(each.coarsen(10), resolution=units[0].resolution) for each in units[::3]]
    distribution = Distribution.of(Sketch.stack(units))
    assert 0 < np.count_nonzero(distribution.exact) < len(units)
    end = np.maximum(distribution.max, -distribution.min)[:, None]
    scheme = scheme_of(asked)
    scale = end / (scheme.size / 2) * np.array([[0.3, 0.7, 1.1]])
    below = np.full(scale.shape, scheme.zero)
    together = divergences(distribution, scheme, scale, below, 8)
    for number, each in enumerate(units):
        some = slice(number, number + 1)
        alone = divergences(Distribution.of(each), scheme, scale[some], below[some], 8)
        assert np.array_equal(alone[0], together[number])


def test_where_cells_are_not_cut_there_is_no_divergence():
    distribution = Distribution.of(sketch(np.random.default_rng(0).standard_normal(500).astype(np.float32)))
    scale, below = np.array([[0.001, 0.1, 1.0]]), np.array([[7, 7, 7]])
    assert (divergences(distribution, Scheme.parse("int4"), scale, below, 1) < NOISE).all()
