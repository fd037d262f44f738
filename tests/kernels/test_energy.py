"""Squares add up by columns, exactly and in any order; the kernel and NumPy to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klcal.kernels import energy
from klcal.kernels.energy import CELLS, WIDTH, add_energy, roots
from klcal.kernels.library import library

ELEMENTS = st.floats(width=32, allow_nan=True, allow_infinity=True)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(0, 8), st.integers(1, 4)), elements=ELEMENTS)


def added(values, way=add_energy):
    """Of rows and columns, or of turns, columns and runs."""
    found = np.zeros((values.shape[1], WIDTH), np.int64)
    way(np.ascontiguousarray(values.reshape(*values.shape, 1) if values.ndim == 2 else values), found)
    return found


def sums(found):
    return (found[:, :CELLS] * roots().astype(np.float64) ** 2).sum(axis=1)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (40, 16, 1), (31, 37, 1), (3, 5, 16), (2, 3, 300), (7, 40, 2), (2, 4, 49), (0, 3, 5), (2, 2, 5000)],
)
@pytest.mark.parametrize("kind", ["normal", "half zeros", "all octaves", "special", "subnormal"])
def test_the_kernel_does_as_numpy_whatever_the_shape(shape, kind):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "half zeros":
        values = np.maximum(values, 0)
    elif kind == "all octaves":
        values = rng.integers(0, 1 << 32, shape, np.uint32).view(np.float32)
    elif kind == "special":
        values[rng.random(shape) < 0.01] = np.inf
        values[rng.random(shape) < 0.01] = np.nan
    elif kind == "subnormal":
        values *= np.float32(1e-40)
    assert library() is None or np.array_equal(added(values), added(values, energy._add))
    rows = np.moveaxis(values, 1, 2).reshape(-1, shape[1])
    assert np.array_equal(added(values), added(rows))
    assert added(values)[:, CELLS:].sum() == np.count_nonzero(~np.isfinite(values))


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
        add_energy(np.zeros((2, 3, 1), np.float32), np.zeros((2, WIDTH), np.int64))
