"""What a deployed quantizer does to the values of a law: its error and what it clips, for the table.

The search compares thousands of candidates by prefix sums; this looks at one, bucket by bucket, where nothing
cancels, with the scale as printed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.law import Law, Pieces
from klcal.levels import middles
from klcal.scheme import Scheme

__all__ = ["Distortion", "distortion"]

Floats = npt.NDArray[np.float64]

THIN = 1e-6  # relative width of a bucket below which its integral has no digits left: it is a point then


class Distortion(NamedTuple):
    """Sums over the nonzero values."""

    squared_error: float
    clipped: float  # values that round beyond qmin or qmax

    def sqnr_db(self, energy: float) -> float | None:
        """10·log₁₀(Σx² / Σ(x − x̂)²), or None where there is no error."""
        return 10 * math.log10(energy / self.squared_error) if self.squared_error > 0 else None


def distortion(law: Law, scheme: Scheme, scale: float, below: int) -> Distortion:
    """Σ(x − x̂)² and the number of clipped values, values inside a bucket counting as uniform."""
    above, under = (
        _side(pieces, scale, np.append(0.0, levels))
        for pieces, levels in zip((law.positive, law.negative), scheme.sides(below), strict=True)
    )
    return Distortion(above[0] + under[0], above[1] + under[1])


def _side(pieces: Pieces, scale: float, levels: Floats) -> tuple[float, float]:
    """One sign, with levels from zero on; in units of the scale, x̂ is the nearest of them."""
    start, end = pieces.inner / scale, pieces.outer / scale
    width, middle = end - start, (start + end) / 2
    thin = width <= THIN * end
    safe = np.where(thin, 1.0, width)
    edges = middles(levels)
    broad_error = (_integral(end, levels, edges) - _integral(start, levels, edges)) / safe
    error = np.where(thin, (middle - levels[np.searchsorted(edges, middle)]) ** 2, broad_error)
    last = edges.size  # the number of the last level; a tie with the one that would follow goes to the even one
    limit = 2 * levels[-1] - edges[-1] if last else 0.5
    beyond = middle >= limit if last % 2 else middle > limit
    clipped = np.where(thin, beyond, np.clip((end - limit) / safe, 0.0, 1.0))
    return scale**2 * float(np.sum(pieces.counts * error)), float(np.sum(pieces.counts * clipped))


def _integral(steps: Floats, levels: Floats, edges: Floats) -> Floats:
    """∫₀ᵘ (t − r(t))² dt, r(t) being the level nearest to t."""
    starts = np.append(0.0, edges)  # of the cells
    before = (starts - levels) ** 3
    whole = np.append(0.0, ((edges - levels[:-1]) ** 3 - before[:-1]).cumsum())
    cell = np.searchsorted(edges, steps)
    return (whole[cell] + (steps - levels[cell]) ** 3 - before[cell]) / 3
