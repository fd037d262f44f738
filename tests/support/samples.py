"""Units as tensors, channels and groups hold them: of many distributions and sizes, the awkward ones included."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Generator = np.random.Generator
MOST = 5_000  # values of a unit

DISTRIBUTIONS: dict[str, Callable[[Generator, int], npt.NDArray[np.floating]]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "student-t": lambda rng, n: rng.standard_t(4, n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 3, n),
    "relu": lambda rng, n: np.maximum(rng.normal(0.3, 1, n), 0),
    "gelu-like": lambda rng, n: np.maximum(rng.normal(0, 2, n), -0.17),
    "bimodal": lambda rng, n: rng.choice([0.5, 1], n) * (1 + 0.01 * rng.standard_normal(n)),
    "hardtanh": lambda rng, n: np.clip(3 * rng.standard_normal(n), -1, 1),
    "tanh": lambda rng, n: np.tanh(10 * rng.standard_normal(n)),
    "signs": lambda rng, n: rng.choice([-1, 1], n) * (1 + 0.01 * rng.standard_normal(n)),
    "lattice": lambda rng, n: rng.integers(-rng.integers(1, 140), rng.integers(1, 140), n, endpoint=True) * 0.0137,
    "constant": lambda rng, n: np.full(n, rng.standard_normal()),
    "atoms": lambda rng, n: rng.choice(rng.standard_normal(int(rng.integers(2, 9))), n),
    "body on atoms": lambda rng, n: np.where(rng.random(n) < 0.5, rng.choice([0.3, -0.7], n), rng.standard_normal(n)),
    "outlier": lambda rng, n: np.append(rng.standard_normal(n - 1), 10 ** rng.uniform(0.5, 3) * rng.choice([-1, 1])),
    "offset": lambda rng, n: 10 + rng.standard_normal(n),
    "tiny": lambda rng, n: 1e-30 * rng.standard_normal(n),
    "huge": lambda rng, n: 1e36 * rng.laplace(size=n),
    "bfloat16": lambda rng, n: rng.standard_normal(n).astype(ml_dtypes.bfloat16).astype(np.float64),
    "integers": lambda rng, n: np.rint(40 * rng.standard_normal(n)),
}


def sample(rng: Generator, name: str, size: int) -> Values:
    """A unit of this size, with a value that is not zero."""
    values = DISTRIBUTIONS[name](rng, size).astype(np.float32)
    return values if values.any() else np.float32([1, *values[1:]])


def cut(values: Values) -> Values:
    """The values with the 8 significant bits of a bfloat16: few of them are distinct, and buckets hold them exactly."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def samples(number: int, seed: int, least: int = 1, most: int = MOST) -> dict[str, Values]:
    """So many units by name, each distribution in its turn; sizes are spread evenly over the octaves."""
    rng = np.random.default_rng(seed)
    names = [list(DISTRIBUTIONS)[i % len(DISTRIBUTIONS)] for i in range(number)]
    sizes = np.exp(rng.uniform(np.log(least), np.log(most + 1), number)).astype(int)
    return {
        f"{name} {size} #{i}": sample(rng, name, int(size))
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    }


def rows_of(units: list[Values]) -> Values:
    """The units as rows of one array: zeros, which change no scale, fill the short ones."""
    rows = np.zeros((len(units), max(map(len, units))), np.float32)
    for row, values in zip(rows, units, strict=True):
        row[: values.size] = values
    return rows
