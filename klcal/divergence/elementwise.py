"""Two tensors of one shape, compared element by element, and the sketches of both, in one pass.

Products are summed in float32 over short stretches, and the sums of stretches in float64. That is as fast as reading
the values, and keeps six digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.sketches.counting import counter, values_of
from klcal.sketches.numpy_counting import BLOCK
from klcal.sketches.sketch import Sketch

__all__ = ["Elementwise", "SideBySide", "side_by_side"]

STRETCH = 1 << 13  # values whose products are summed in float32: BLAS uses one thread, and the error is below 1e-6

Values = npt.NDArray[np.floating]
Chunk = npt.NDArray[Any]
Stored = Iterable[Chunk]


@dataclass
class Elementwise:
    """Sums over all elements so far, and what follows from them.

    >>> p, q = np.float32([3.0, 4.0]), np.float32([3.0, 3.0])
    >>> found = side_by_side([p], "float32", [q], "float32").elements
    >>> found.mse, found.max_abs_diff, round(found.sqnr_db, 2), round(found.cosine, 4)
    (0.5, 1.0, 13.98, 0.9899)
    """

    numel: int = 0  # the number of elements
    squares_p: float = 0.0  # Σp²
    squares_q: float = 0.0  # Σq²
    products: float = 0.0  # Σpq
    squared_error: float = 0.0  # Σ(p − q)²
    max_abs_diff: float = 0.0  # max |p − q|

    @property
    def mse(self) -> float:
        """The mean of (p − q)²."""
        return self.squared_error / self.numel

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between p and q as vectors, −1 to 1; None if one of them is all zeros."""
        norms = math.sqrt(self.squares_p) * math.sqrt(self.squares_q)
        return min(1.0, max(-1.0, self.products / norms)) if norms > 0 else None

    @property
    def sqnr_db(self) -> float | None:
        """10·log₁₀(Σp² / Σ(p − q)²) in dB: infinite if they are equal, None if both are all zeros."""
        if self.squared_error == 0:
            return math.inf if self.squares_p > 0 else None
        return 10 * math.log10(self.squares_p / self.squared_error) if self.squares_p > 0 else -math.inf


class SideBySide(NamedTuple):
    """The results of one pass over two tensors."""

    p: Sketch  # of the first tensor, as one unit
    q: Sketch  # of the second tensor
    elements: Elementwise


def side_by_side(p: Stored, dtype_p: str, q: Stored, dtype_q: str) -> SideBySide:
    """The sketches of two tensors with equal numbers of values, and sums over pairs of values.

    Args:
        p: the values of one tensor, as flat arrays in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype_p: of the values of p.
        q: the values of the other tensor, in the same order; its arrays may have other lengths.
        dtype_q: of the values of q.
    """
    found = Elementwise()
    of_p, of_q = counter(dtype_p), counter(dtype_q)
    for x, y in _aligned(iter(p), iter(q)):
        for start in range(0, x.size, BLOCK):
            a, b = x[start : start + BLOCK], y[start : start + BLOCK]
            of_p.add(a)
            of_q.add(b)
            _add(found, values_of(a, dtype_p), values_of(b, dtype_q))
    return SideBySide(of_p.sketch(), of_q.sketch(), found)


def _add(found: Elementwise, x: Values, y: Values) -> None:
    """Adds pairs of values, (n,) each, to the sums: in float64 if float32 cannot hold a square."""
    with np.errstate(over="ignore", invalid="ignore"):
        difference = x - y
        sums = [sum(map(float, _products(a, b))) for a, b in ((x, x), (y, y), (x, y), (difference, difference))]
    if not math.isfinite(sum(sums)) and difference.itemsize + x.itemsize < 16:  # squares that float32 does not hold
        _add(found, x.astype(np.float64), y.astype(np.float64))
        return
    found.numel += x.size
    found.squares_p += sums[0]
    found.squares_q += sums[1]
    found.products += sums[2]
    found.squared_error += sums[3]
    found.max_abs_diff = max(found.max_abs_diff, float(difference.max()), -float(difference.min()))


def _products(a: Values, b: Values) -> Iterator[np.floating]:
    """The sums of products over stretches of two arrays (n,)."""
    return (np.dot(a[i : i + STRETCH], b[i : i + STRETCH]) for i in range(0, a.size, STRETCH))


def _aligned(p: Iterator[Chunk], q: Iterator[Chunk]) -> Iterator[tuple[Chunk, Chunk]]:
    """Pairs of flat arrays of equal lengths, cut wherever an array of either side ends."""
    x: Chunk = np.empty(0)
    y: Chunk = np.empty(0)
    while True:
        while not x.size:
            if (chunk := next(p, None)) is None:
                return
            x = chunk
        while not y.size:
            if (chunk := next(q, None)) is None:
                return
            y = chunk
        size = min(x.size, y.size)
        yield x[:size], y[:size]
        x, y = x[size:], y[size:]
