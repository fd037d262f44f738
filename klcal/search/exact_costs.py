"""The exact costs of one quantizer for each unit, for the table: squared error, clipped values, values that become 0.

The search computes the error of many candidates as the difference of large sums. Here it is added up piece by piece, so
that no digits cancel, and with the scale as it is printed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.code_points import middles
from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scheme import Scheme
from klcal.sketches.distribution import Distribution

__all__ = ["ExactCosts", "exact_costs", "integral"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

THIN = 1e-6  # relative width of a piece below which its integral has no digits left: it counts as a point


class ExactCosts(NamedTuple):
    """Sums over the nonzero values of each unit: (units,) each."""

    squared_error: Floats  # Σ(x − x̂)²
    clipped: Floats  # the number of values that round beyond the lowest or the highest level
    rounded_to_zero: Floats  # the number of values that become 0


def exact_costs(distribution: Distribution, scheme: Scheme, scale: Floats, below: Integers) -> ExactCosts:
    """The costs of one quantizer for each unit. Values inside an interval count as uniform.

    Args:
        distribution: of the units.
        scheme: what they are quantized to.
        scale: (units,), positive.
        below: (units,), the number of levels below zero.
    """
    under, above = level_ends(below, scheme)
    if distribution.exact.all() and not scheme.is_float:
        return _of_points(distribution, scale, under, above)
    unit = distribution.unit
    start, end = distribution.inner / scale[unit], distribution.outer / scale[unit]
    costs = np.empty((3, unit.size))
    for some, last, levels in (
        (~distribution.negative, above, scheme.above),
        (distribution.negative, under, scheme.below),
    ):
        if some.any():
            costs[:, some] = _side(start[some], end[some], np.append(0.0, levels), last[unit[some]])
    error, clipped, zero = (distribution.sums(distribution.counts * each) for each in costs)
    return ExactCosts(error * scale**2, clipped, zero)


def _of_points(distribution: Distribution, scale: Floats, under: Floats, above: Floats) -> ExactCosts:
    """``exact_costs`` for integers and units whose values are known exactly."""
    each = distribution.pieces
    steps = distribution.values / np.repeat(scale, each)
    level = np.rint(steps)
    last = np.clip(level, np.repeat(-under, each), np.repeat(above, each))
    clipped, lost = (distribution.sums(distribution.counts * mask) for mask in (level != last, last == 0))
    steps -= last
    steps *= steps
    return ExactCosts(distribution.sums(distribution.counts * steps) * scale**2, clipped, lost)


def _side(start: Floats, end: Floats, levels: Floats, last: Floats) -> tuple[Floats, Floats, Floats]:
    """For each piece: the mean squared error in squared steps, the clipped share, and the share that becomes 0.

    Args:
        start: (pieces,), inner ends of pieces of one sign, in steps (units of the scale).
        end: (pieces,), outer ends, in steps; equal to ``start`` for points.
        levels: (levels,), magnitudes of the levels of that sign, ascending from 0, in steps.
        last: (pieces,), the largest level in use.
    """
    is_point = end - start <= THIN * end
    if not is_point.any():
        return _intervals(start, end, levels, last)
    found = np.empty((3, start.size))
    found[:, is_point] = _points((start[is_point] + end[is_point]) / 2, levels, last[is_point])
    if not is_point.all():
        broad = ~is_point
        found[:, broad] = _intervals(start[broad], end[broad], levels, last[broad])
    return found[0], found[1], found[2]


def _points(steps: Floats, levels: Floats, last: Floats) -> tuple[Floats, Bools, Bools]:
    """``_side`` of points, (pieces,). Ties go to the even level."""
    if _are_even(levels):
        level = np.rint(steps)
        beyond: Bools = level > last
        level = np.minimum(level, last)
    else:
        number = np.searchsorted(middles(levels), steps)
        level = levels[number]
        beyond = _is_beyond(steps, levels)
    error = steps - level
    return error * error, beyond, level == 0


def _is_beyond(steps: Floats, levels: Floats) -> Bools:
    """Whether values would round beyond the last level, if another one followed at the same distance as the last."""
    limit = levels[-1] + (levels[-1] - levels[-2]) / 2
    beyond: Bools = steps >= limit if levels.size % 2 == 0 else steps > limit
    return beyond


def _intervals(start: Floats, end: Floats, levels: Floats, last: Floats) -> tuple[Floats, Floats, Floats]:
    """``_side`` of intervals, over which values are spread evenly."""
    width = end - start
    limit = last + (0.5 if _are_even(levels) else (levels[-1] - levels[-2]) / 2)
    error = (integral(end, levels, last) - integral(start, levels, last)) / width
    clipped = np.clip((end - limit) / width, 0.0, 1.0)
    lost = np.where(last > 0, np.clip((levels[1] / 2 - start) / width, 0.0, 1.0), 1.0)
    return error, clipped, lost


def _are_even(levels: Floats) -> bool:
    """Whether levels that ascend from 0 are the integers 0, 1, 2, …; those of float formats never are."""
    return bool(levels[-1] == levels.size - 1)


def integral(steps: Floats, levels: Floats, last: Floats) -> Floats:
    """∫₀ᵘ (t − r(t))² dt for each u, where r(t) is the level nearest to t, or the last level in use.

    Args:
        steps: (n,), the upper ends u.
        levels: (levels,), ascending from 0.
        last: (n,), the largest level in use; float formats use all of them.

    >>> integral(np.array([0.5, 2.0]), np.arange(3.0), np.array([2.0, 1.0])).round(6).tolist()
    [0.041667, 0.416667]
    """
    if _are_even(levels):  # every whole cell adds 1/12
        cell = np.minimum(np.floor(steps + 0.5), last)
        return (cell / 4 + _cube(steps - cell)) / 3
    edges = middles(levels)
    number = np.searchsorted(edges, steps)
    starts = np.append(0.0, edges)  # of the cells
    before = _cube(starts - levels)
    whole = np.append(0.0, (_cube(edges - levels[:-1]) - before[:-1]).cumsum())
    return (whole[number] + _cube(steps - levels[number]) - before[number]) / 3


def _cube(values: Floats) -> Floats:
    return values * values * values  # ten times as fast as a power
