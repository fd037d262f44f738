"""Weights added up by the compiled kernel: the same as NumPy's, to the bit, whatever the values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.kernels import units
from klcal.kernels.units import unit_weights
from klcal.sketches.importance import HEAVIEST
from klcal.sketches.patterns import UNITS
from klcal.sketches.weighted import _counted
from tests.kernels.test_units import DTYPES, LAWS, RESOLUTIONS, SEEDS, SIZES, same, stored
from tests.support.kernels import IS_COMPILED, both

pytestmark = IS_COMPILED

ONE_KEY = np.ones(1, np.uint32), np.array([0, 1])


def sketched(values, dtype, starts, weights, resolution):
    return _counted(values, weights, dtype, starts, np.ones(starts.size - 1), resolution)


@given(
    DTYPES,
    st.lists(st.sampled_from((*SIZES, 5000)), min_size=1, max_size=6),
    st.sampled_from(list(LAWS)),
    RESOLUTIONS,
    SEEDS,
)
def test_the_kernel_weighs_as_numpy_does(dtype, sizes, law, resolution, seed):
    rng, starts = np.random.default_rng(seed), np.append(0, np.cumsum(sizes))
    weights = np.where(rng.random(starts[-1]) < 0.2, 0, rng.integers(1, int(HEAVIEST) + 1, starts[-1]))
    values = stored(dtype, law, "as drawn", int(starts[-1]), seed)
    compiled, numpy = both(lambda: sketched(values, dtype, starts, weights, resolution))
    assert same(compiled, numpy)
    assert np.array_equal(compiled.weights, numpy.weights)


def test_units_on_several_threads_weigh_as_on_one(monkeypatch):
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal(1 << 17, np.float32), rng.integers(0, 1 << 40, 1 << 17)
    case = values, "float32", np.arange(0, (1 << 17) + 1, 128), weights, UNITS
    several, numpy = both(lambda: sketched(*case))
    monkeypatch.setattr(units, "spread", lambda work, costs: [work(0, costs.size)])
    one, _ = both(lambda: sketched(*case))
    assert one == several == numpy


def test_a_key_that_is_one_place_off_is_noticed():
    values, starts = np.array([1, 1, 2, 3], np.float32), np.array([0, 4])
    keys, begins = np.array([1, 2, 3], np.float32).view(np.uint32), np.array([0, 3])
    weights = np.array([1, 2, 4, 8])
    found = unit_weights(values, "float32", starts, weights, (keys, begins))
    assert found.tolist() == [[0, 0, 0], [3, 4, 8], [2, 1, 1]]
    wrong = unit_weights(values, "float32", starts, weights, (keys + np.uint32(1), begins))
    assert wrong.tolist() != found.tolist()


def test_memory_that_runs_out_is_told(monkeypatch):
    monkeypatch.setattr(units, "_klcal_unit_weights", lambda: lambda *_: -1)
    with pytest.raises(MemoryError, match="no room for the patterns of a unit"):
        unit_weights(np.ones(1, np.float32), "float32", np.array([0, 1]), np.ones(1, np.int64), ONE_KEY)
