"""Sketches added by the compiled kernel: the same as NumPy's, to the bit, and as counting all values at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.kernels.added import added
from klcal.sketches import sketch as sketches
from klcal.sketches.patterns import TENSOR, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.sorted_units import sorted_sketch
from tests.support.kernels import IS_COMPILED, both

pytestmark = IS_COMPILED

RESOLUTIONS = st.sampled_from([UNITS, TENSOR, Resolution(least_bits=7, few=0), Resolution(least_bits=8, few=20)])
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, sizes: list[int], resolution: Resolution, octaves: float) -> Sketch:
    """Units of so many values, a third of which meet again and some of which are special."""
    rng = np.random.default_rng(seed)
    size = sum(sizes)
    values = (rng.standard_normal(size) * 2.0 ** (octaves * rng.standard_normal(size))).astype(np.float32)
    values = np.where(rng.random(size) < 0.3, np.rint(values), values)
    values[rng.random(size) < 0.01] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
    return sorted_sketch(values, "float32", np.append(0, np.cumsum(sizes)), resolution)


SIZES = st.lists(st.tuples(*[st.one_of(st.integers(0, 40), st.just(300))] * 2), min_size=1, max_size=20)


@given(SIZES, RESOLUTIONS, st.sampled_from([0, 3]), SEEDS)
def test_sums_are_numpys(sizes, resolution, octaves, seed):
    one = drawn(seed, [a for a, _ in sizes], resolution, octaves)
    other = drawn(seed + 1, [b for _, b in sizes], resolution, octaves)
    compiled, by_numpy = both(lambda: one + other)
    assert compiled == by_numpy
    assert compiled.counts.dtype == by_numpy.counts.dtype


@settings(max_examples=10)
@given(RESOLUTIONS, SEEDS)
def test_sums_of_units_that_become_many_are_numpys(resolution, seed):
    one, other, third = (drawn(seed + k, [2500, 4090, 9000, 0], resolution, k) for k in range(3))
    compiled, by_numpy = both(lambda: (one + other) + third)
    assert compiled == by_numpy
    assert both(lambda: third + (other + one))[0] == compiled


@pytest.mark.parametrize("times", [1 << 29, 1 << 31])
def test_counts_beyond_int32_are_left_to_numpy(times):
    one = drawn(0, [100, 3], UNITS, 0)
    many = one.repeat(times) + one.repeat(times)
    compiled, by_numpy = both(lambda: many + many)
    assert compiled == by_numpy
    assert compiled.counts.dtype == by_numpy.counts.dtype == np.int64


def test_a_sum_that_keeps_too_much_is_noticed(monkeypatch):
    one, other = drawn(0, [3000], UNITS, 1), drawn(1, [3000], UNITS, 1)
    compiled, by_numpy = both(lambda: one + other)
    assert compiled == by_numpy
    monkeypatch.setattr(sketches, "added", lambda *args: added(*args[:-1], (1 << 20, 10, 7)))
    compiled, by_numpy = both(lambda: one + other)
    assert compiled != by_numpy
    assert replace(compiled, keys=by_numpy.keys) != by_numpy
