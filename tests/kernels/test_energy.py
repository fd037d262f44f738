"""Squares add up by columns, exactly and in any order; the kernel and NumPy to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klcal.kernels import energy
from klcal.kernels.energy import CELLS, add_energy, roots
from klcal.kernels.library import library

ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 8), st.integers(1, 4)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


def added(values, way=add_energy):
    found = np.zeros((values.shape[1], CELLS), np.int64)
    way(np.ascontiguousarray(values), found)
    return found


def sums(found):
    return (found * roots().astype(np.float64) ** 2).sum(axis=1)


@given(ROWS)
def test_the_kernel_does_as_numpy(values):
    assert library() is None or np.array_equal(added(values), added(values, energy._add))


@given(ROWS, st.randoms())
def test_no_order_and_no_cut_changes_a_sum(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    cut = random.randint(0, len(values))
    shuffled = values[order]
    assert np.array_equal(added(values), added(shuffled[:cut]) + added(shuffled[cut:]))


@given(ROWS)
def test_a_sum_is_a_thousandth_off_at_most(values):
    exact = np.where(np.isfinite(values), values, 0).astype(np.float64)
    normal = np.where(np.abs(exact) < 2.0**-126, 0, exact)  # subnormal numbers have fewer bits
    low, high = (normal**2).sum(axis=0), (exact**2).sum(axis=0) + len(values) * 2.0**-252
    assert (sums(added(values)) >= low * (1 - 1e-3)).all()
    assert (sums(added(values)) <= high * (1 + 1e-3)).all()


def test_many_of_the_largest_fit():
    most = int(added(np.full((1, 1), np.nextafter(np.float32(2.0**-123), np.float32(0)))).max())
    assert most == 1 << 28
    assert np.iinfo(np.int64).max // most >= 1 << 34  # values of a column


def test_columns_that_differ_are_refused():
    with pytest.raises(AssertionError, match="not the same columns"):
        add_energy(np.zeros((2, 3), np.float32), np.zeros((2, CELLS), np.int64))
