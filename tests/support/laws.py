"""Probability laws as hypothesis draws them: with zeros, with masses far below rounding, and nearly equal."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

WEIGHTS = st.one_of(
    st.just(0.0), st.floats(0, 1), st.sampled_from([1.0, 2.0]), st.floats(-300, 0).map(lambda power: 10**power)
)
SIZES = st.integers(1, 8)


def normalised(weights):
    weights = np.asarray(weights, float)
    return weights / weights.sum(axis=-1, keepdims=True)


def law(size: int):
    return st.lists(WEIGHTS, min_size=size, max_size=size).filter(lambda w: sum(w) > 1e-3).map(normalised)


@st.composite
def laws(draw, number: int = 2, sizes=SIZES):
    """So many laws of one size; at times the last one is nearly the first."""
    size = draw(sizes)
    drawn = [draw(law(size)) for _ in range(number)]
    if draw(st.integers(0, 4)) == 0:
        step = 10.0 ** draw(st.integers(-12, -1))
        drawn[-1] = normalised(drawn[0] * (1 + step * np.sin(np.arange(size))))
    return tuple(drawn)


@st.composite
def joints(draw):
    """Two laws of pairs, (x, y)."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return tuple(draw(law(rows * columns)).reshape(rows, columns) for _ in range(2))


@st.composite
def merges(draw):
    """Two laws and which bin each of their bins goes into."""
    p, q = draw(laws())
    return p, q, np.array(draw(st.lists(st.integers(0, p.size - 1), min_size=p.size, max_size=p.size)))
