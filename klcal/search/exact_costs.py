"""What a deployed quantizer does to the values of a law: its error, what it clips, what becomes 0, for the table.

The search compares thousands of candidates by prefix sums; this looks at one, bucket by bucket, where nothing
cancels, with the scale as printed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.code_points import middles
from klcal.quantizers.scheme import Scheme
from klcal.sketches.distribution import Law, Pieces

__all__ = ["Distortion", "distortion", "integral", "piece_clipped", "piece_errors", "piece_zeroed", "point_errors"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

THIN = 1e-6  # relative width of a bucket below which its integral has no digits left: it is a point then


class Distortion(NamedTuple):
    """Sums over the nonzero values."""

    squared_error: float
    clipped: float  # values that round beyond qmin or qmax
    rounded_to_zero: float  # values that become 0


def distortion(law: Law, scheme: Scheme, scale: float, below: int) -> Distortion:
    """Σ(x − x̂)² and the number of clipped values, values inside a bucket counting as uniform."""
    above, under = (
        _side(pieces, scale, np.append(0.0, levels))
        for pieces, levels in zip((law.positive, law.negative), scheme.sides(below), strict=True)
    )
    return Distortion(*(one + other for one, other in zip(above, under, strict=True)))


def _side(pieces: Pieces, scale: float, levels: Floats) -> tuple[float, float, float]:
    start, end = pieces.inner / scale, pieces.outer / scale
    error = piece_errors(start, end, levels)
    error_sum = scale**2 * float(np.sum(pieces.counts * error))
    shares = (each(start, end, levels) for each in (piece_clipped, piece_zeroed))
    clipped, zeroed = (float(np.sum(pieces.counts * share)) for share in shares)
    return error_sum, clipped, zeroed


def piece_errors(start: Floats, end: Floats, levels: Floats, last: Floats | None = None) -> Floats:
    """Mean squared error of magnitudes in [start, end], in units of the scale.

    Args:
        start: inner ends of pieces of one sign.
        end: outer ends; the same for points.
        levels: magnitudes of the levels of that sign from zero on.
        last: the number of the last level in use, where it differs from piece to piece: of integers.
    """
    width = end - start
    thin = width <= THIN * end
    if not thin.any():
        return (integral(end, levels, last) - integral(start, levels, last)) / width
    broad = (integral(end, levels, last) - integral(start, levels, last)) / np.where(thin, 1.0, width)
    return np.where(thin, point_errors(start, end, levels, last), broad)


def point_errors(start: Floats, end: Floats, levels: Floats, last: Floats | None = None) -> Floats:
    """As ``piece_errors``, but of the middles."""
    middle = (start + end) / 2
    cell = _cell(middle, levels, last)
    error = middle - (cell if _are_even(levels) else levels[cell])
    return error * error


def piece_clipped(start: Floats, end: Floats, levels: Floats, last: Floats | None = None) -> Floats:
    """Share of values that round beyond the last level, of the pieces of ``piece_errors``."""
    width, middle = end - start, (start + end) / 2
    thin = width <= THIN * end
    number = np.array(levels.size - 1.0) if last is None else last
    limit = number + 0.5
    if last is None and levels.size > 1:
        limit = levels[-1] + (levels[-1] - levels[-2]) / 2
    beyond = np.where(number % 2 == 1, middle >= limit, middle > limit)  # a tie goes to the even level
    return np.where(thin, beyond, np.clip((end - limit) / np.where(thin, 1.0, width), 0.0, 1.0))


def piece_zeroed(start: Floats, end: Floats, levels: Floats, last: Floats | None = None) -> Floats:
    """Share of values that become 0, of the pieces of ``piece_errors``: all where no level lies on their side."""
    width, middle = end - start, (start + end) / 2
    thin = width <= THIN * end
    number = np.array(levels.size - 1.0) if last is None else last
    limit = np.where(number > 0, levels[1] / 2 if levels.size > 1 else np.inf, np.inf)
    return np.where(thin, middle <= limit, np.clip((limit - start) / np.where(thin, 1.0, width), 0.0, 1.0))


def _are_even(levels: Floats) -> bool:
    return bool(levels[-1] == levels.size - 1)  # they ascend from zero; those of no float format are the integers


def _cell(steps: Floats, levels: Floats, last: Floats | None) -> Floats | Numbers:
    """The number of the level nearest to each of some steps."""
    if _are_even(levels):
        return np.minimum(np.floor(steps + 0.5), levels[-1] if last is None else last)
    return np.searchsorted(middles(levels), steps)


def integral(steps: Floats, levels: Floats, last: Floats | None = None) -> Floats:
    """∫₀ᵘ (t − r(t))² dt, r(t) being the level nearest to t, or the last in use."""
    cell = _cell(steps, levels, last)
    if _are_even(levels):  # every whole cell adds 1/12
        return (cell / 4 + _cube(steps - cell)) / 3
    edges = middles(levels)
    starts = np.append(0.0, edges)  # of the cells
    before = _cube(starts - levels)
    whole = np.append(0.0, (_cube(edges - levels[:-1]) - before[:-1]).cumsum())
    return (whole[cell] + _cube(steps - levels[cell]) - before[cell]) / 3


def _cube(values: Floats) -> Floats:
    return values * values * values  # ten times as fast as a power
