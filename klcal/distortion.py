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
from klcal.qparams import Qparams

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


def distortion(law: Law, by: Qparams) -> Distortion:
    """Σ(x − x̂)² and the number of clipped values, values inside a bucket counting as uniform."""
    above = _side(law.positive, by.scale, by.qmax - by.zero_point)
    below = _side(law.negative, by.scale, by.zero_point - by.qmin)
    return Distortion(above[0] + below[0], above[1] + below[1])


def _side(pieces: Pieces, scale: float, levels: int) -> tuple[float, float]:
    """One sign, with ``levels`` levels beyond zero; in units of the scale, x̂ is round(x) up to ``levels``."""
    start, end = pieces.inner / scale, pieces.outer / scale
    width, middle = end - start, (start + end) / 2
    thin = width <= THIN * end
    safe = np.where(thin, 1.0, width)
    broad_error = (_integral(end, levels) - _integral(start, levels)) / safe
    error = np.where(thin, (middle - _rounded(middle, levels)) ** 2, broad_error)
    broad_clipped = np.clip((end - (levels + 0.5)) / safe, 0.0, 1.0)
    clipped = np.where(thin, np.rint(middle) > levels, broad_clipped)
    return scale**2 * float(np.sum(pieces.counts * error)), float(np.sum(pieces.counts * clipped))


def _rounded(steps: Floats, levels: int) -> Floats:
    return np.minimum(np.rint(steps), levels)


def _integral(steps: Floats, levels: int) -> Floats:
    """∫₀ᵘ (t − r(t))² dt = r/12 + (u − r)³/3, with r = min(round(u), levels)."""
    rounded = _rounded(steps, levels)
    return rounded / 12 + (steps - rounded) ** 3 / 3
