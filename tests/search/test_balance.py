"""The zero points with which clipping costs least, against sums over all values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.search.balance import Balance

ROUNDING = 1e-5  # of a step: the table is float32, so both numbers are right where two sums are as close as that

VALUES = st.lists(
    st.floats(-2, 2, width=32).filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=40, unique=True
)


def excess(values: np.ndarray, counts: np.ndarray, size: int, step: float, below: int) -> tuple[float, float]:
    """What is cut off above and below, to half a step beyond the outermost levels."""
    high, low = (size - 1 - below + 0.5) * step, (below + 0.5) * step
    return (counts * np.maximum(values - high, 0)).sum(), (counts * np.maximum(-values - low, 0)).sum()


def most_balanced(values: np.ndarray, counts: np.ndarray, size: int, step: float, shift: float = 0) -> int:
    """The most levels below zero with which no more is cut off above than below. ``shift`` moves values, in steps."""
    fine = [0]
    for below in range(size):
        above, under = excess(values + shift * step, counts, size, step, below)
        fine += [below] if above <= under else []
    return max(fine)


@given(VALUES, st.integers(0, 99), st.sampled_from([4, 16, 256]), st.floats(0.05, 3), st.booleans())
def test_no_more_is_cut_off_above_than_below(values, seed, size, share, is_counted):
    values = np.sort(np.float32(values))
    counts = np.random.default_rng(seed).integers(1, 9, values.size) if is_counted else np.ones(values.size)
    step = share * max(np.ptp(np.append(values, 0)), 0.1) / (size - 1)
    padded = np.append(values, np.float32([0, 0]))[None], np.append(counts, [0, 0]).astype(np.float32)[None]
    found = int(Balance.of(padded[0], padded[1] if is_counted else None).belows(size, np.array([[step]]))[0, 0])
    near = {
        most_balanced(values.astype(float), counts, size, step, shift)
        for shift in (-ROUNDING * size, 0, ROUNDING * size)
    }
    assert min(near) <= found <= max(near)


def test_a_range_of_all_values_ends_at_the_highest():
    balance = Balance.of(np.float32([[-1, -0.5, 2]]), None)
    assert balance.belows(16, np.array([[0.3, 0.25, 0.2, 1.0]])).tolist() == [[8, 7, 5, 13]]


@pytest.mark.parametrize(("values", "below"), [([0.5, 1, 2], 0), ([-2, -1, -0.5], 15)])
def test_values_of_one_sign_leave_no_level_to_the_other(values, below):
    found = Balance.of(np.float32([values]), None).belows(16, np.array([[2 / 15, 0.1, 0.02]]))
    assert found.tolist() == [[below] * 3]


def test_units_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    values, steps = np.sort(rng.standard_t(3, (20, 50)).astype(np.float32)), rng.uniform(0.05, 1, (20, 30))
    together = Balance.of(values, None).belows(16, steps)
    alone = [Balance.of(each[None], None).belows(16, step[None])[0] for each, step in zip(values, steps, strict=True)]
    assert (together == np.stack(alone)).all()
