"""Values as hypothesis draws them: float32 from all corners, and data as tensors hold them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

FLOATS = st.floats(width=32)  # NaN, infinities, subnormals and both zeros included
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = st.floats(-8, 8, width=16)  # values that meet again, and all exact at 10 mantissa bits


def floats(elements=FLOATS, max_size: int = 60):
    return arrays.arrays(np.float32, st.integers(0, max_size), elements=elements)


@st.composite
def tensors(draw, max_size: int = 40):
    """A few numbers as a tensor holds them: a law, a size, a power of two, perhaps an outlier, perhaps one sign."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(2, max_size))
    law = draw(st.sampled_from(["normal", "laplace", "t", "uniform", "lattice", "lognormal"]))
    values = {
        "normal": lambda: rng.standard_normal(size),
        "laplace": lambda: rng.laplace(size=size),
        "t": lambda: rng.standard_t(2, size=size),
        "uniform": lambda: rng.uniform(-1, 3, size=size),
        "lattice": lambda: rng.integers(-20, 60, size=size) / 16,
        "lognormal": lambda: rng.lognormal(0, 1.5, size=size),
    }[law]()
    if draw(st.booleans()):
        values[0] *= 30
    if draw(st.booleans()):
        values = np.abs(values)
    return (values * 2.0 ** draw(st.integers(-20, 20))).astype(np.float32)
