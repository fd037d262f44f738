"""Choices of quantizers as arrays over units, and the rules that all searches share.

A choice is a positive scale (float64) and the number of levels below zero (int64); ``klcal.quantizers.qparams`` turns
it into a scale and a zero point. The rules: which range a candidate may keep, which quantizer covers a range, which
candidates are valid, and which one is chosen among several of equal loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scale_formats import FLOAT32_MAX, at_least, at_most, nearest_scale
from klcal.quantizers.scheme import Scheme
from klcal.sketches.distribution import Distribution

__all__ = [
    "NO_ERROR",
    "Candidates",
    "Choices",
    "Spans",
    "allowed_belows",
    "full_choices",
    "greatest_scale",
    "joined",
    "least",
    "scales_of",
    "valid",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ROUNDING = 1e-12  # relative difference up to which two losses count as equal
NO_ERROR = 1e-12  # share of the energy Σx²: a squared error up to this is rounding noise of float32 values
FLOAT32_STEP = 2.0**-23  # relative: a scale may exceed its limit by this much, because it is rounded to float32
HALF_STEP = 0.5 + 1e-9  # in steps: a range may exceed the span by this much, because its zero point is rounded


class Spans(NamedTuple):
    """The widest range of each unit that a candidate may keep: (units,) each, in units of the values.

    low ≤ 0 ≤ high, and low < high. Without bounds, it is the range of the values, and a wider one is allowed too.
    """

    low: Floats
    high: Floats
    bounded: Bools  # whether bounds limit the range of this unit: no candidate may be wider

    @staticmethod
    def of(distribution: Distribution, bounds: tuple[float, float] | None) -> Spans:
        """The range of the values of each unit, zero included, within the bounds.

        Args:
            distribution: of units that have nonzero values.
            bounds: (low, high) with low ≤ 0 ≤ high and low < high; None if there are none. They are themselves the
                span of a unit without values between them, other than zero.
        """
        if bounds is None:
            return Spans(distribution.min, distribution.max, np.zeros(distribution.units, bool))
        low, high = np.maximum(distribution.min, bounds[0]), np.minimum(distribution.max, bounds[1])
        empty = low >= high
        low, high = np.where(empty, bounds[0], low), np.where(empty, bounds[1], high)
        return Spans(low, high, (low > distribution.min) | (high < distribution.max) | empty)

    def select(self, units: Integers | slice | Bools) -> Spans:
        """The spans of some units: by their numbers, a slice, or a mask."""
        return Spans(self.low[units], self.high[units], self.bounded[units])


class Choices(NamedTuple):
    """A quantizer for each unit: (units,) each."""

    scale: Floats  # above 0
    below: Integers  # the number of levels below zero

    def select(self, units: Integers | slice | Bools) -> Choices:
        """The choices of some units: by their numbers, a slice, or a mask."""
        return Choices(self.scale[units], self.below[units])


class Candidates(NamedTuple):
    """Several quantizers for each unit, and their squared errors: (units, n) each. The error of invalid ones is inf."""

    scale: Floats  # as the format of scales has it; 0 where it underflows, and the error is then inf
    below: Integers  # the number of levels below zero
    error: Floats  # Σ(x − x̂)² over the values of the unit

    def select(self, units: Integers) -> Candidates:
        """The candidates of the units with these numbers."""
        return Candidates(self.scale[units], self.below[units], self.error[units])

    def take(self, columns: Integers) -> Candidates:
        """Some candidates of each unit, (units, some), by their columns, (units, some)."""
        taken: list[Any] = [np.take_along_axis(column, columns, axis=1) for column in self]
        return Candidates(*taken)


def joined(parts: list[Candidates]) -> Candidates:
    """The candidates of all parts side by side. All parts are of the same units; there is at least one."""
    return Candidates(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def full_choices(scheme: Scheme, spans: Spans) -> Choices:
    """The quantizers that cover the spans (min-max), (units,).

    The scale is the smallest one that does. It is a number of the format, but float32 scales are rounded later, when
    they are deployed. An affine zero point is rounded to the nearest integer, so one end of the span may lie up to
    half a step beyond the range.

    >>> spans = Spans(np.array([-1.0]), np.array([3.0]), np.array([False]))
    >>> full_choices(Scheme("uint2", "affine"), spans)
    Choices(scale=array([1.33333333]), below=array([1]))
    """
    if scheme.kind == "affine":
        scale = (spans.high - spans.low) / (scheme.size - 1)
        if scheme.scale_format != "float32":
            scale = at_least(scale, scheme.scale_format, scheme.global_scale)
        below = np.minimum(np.rint(-spans.low / scale), scheme.size - 1).astype(np.int64)
        return Choices(scale, below)
    scales = []
    for option in scheme.belows:
        under, above = level_ends(np.array(option), scheme)
        scales.append(np.maximum(spans.high / above, -spans.low / under))  # whichever end needs the larger one
    scale, below = scales[0], np.full(scales[0].shape, scheme.belows[0])
    if len(scales) > 1:
        below = scheme.belows[np.argmin(np.stack(scales), axis=0)]  # the first of equal ones: a positive sign
        scale = np.min(np.stack(scales), axis=0)
    if scheme.scale_format != "float32":
        scale = at_least(scale, scheme.scale_format, scheme.global_scale)
    return Choices(scale, below)


def greatest_scale(scheme: Scheme) -> float:
    """The largest scale of the format with which some number of levels below zero keeps the range within float32."""
    least_end = np.maximum(*level_ends(scheme.belows, scheme)).min()
    return float(at_most(FLOAT32_MAX / least_end, scheme.scale_format, scheme.global_scale))


def scales_of(scheme: Scheme, scales: Floats) -> Floats:
    """The nearest scales of the format, float64 of the same shape: at most ``greatest_scale``, 0 where they underflow.

    >>> scales_of(Scheme("int8", "symmetric", "e8m0"), np.array([0.3, 1e-50])).tolist()
    [0.25, 0.0]
    """
    limit = greatest_scale(scheme)
    if scheme.scale_format == "float32":
        return np.minimum(np.minimum(scales, FLOAT32_MAX).astype(np.float32).astype(np.float64), limit)
    return np.minimum(nearest_scale(scales, scheme.scale_format, scheme.global_scale), limit)


def valid(scheme: Scheme, scale: Floats, below: Integers, spans: Spans) -> Bools:
    """Which candidates may be chosen: bool, (units, n).

    A candidate is valid if its scale is above 0 and no end of its range is beyond float32. (Its scale would be made
    smaller when it is deployed, and values would be clipped.) Within bounds it must not keep more than they allow,
    except for the half step by which a zero point is rounded.
    ``scale`` and ``below`` are (units, n), the spans (units,).
    """
    under, above = level_ends(below, scheme)
    known = np.where(scale > 0, scale, 1.0)
    is_valid: Bools = (scale > 0) & (np.maximum(under, above) * known <= FLOAT32_MAX * (1 + FLOAT32_STEP))
    if not spans.bounded.any():
        return is_valid
    within = scale <= full_choices(scheme, spans).scale[:, None] * (1 + FLOAT32_STEP)
    if scheme.kind == "affine":
        first, last = allowed_belows(scheme, known, spans)
        within &= (first <= below) & (below <= last)
    return is_valid & (within | ~spans.bounded[:, None])


def allowed_belows(scheme: Scheme, scale: Floats, spans: Spans) -> tuple[Integers, Integers]:
    """The minimum and the maximum number of levels below zero of an affine scheme, for each scale: (units, n) each.

    No end of the range is beyond float32. Within bounds the range must not exceed them, except for the half step by
    which a zero point is rounded; if no number of levels fulfils that, the one nearest to the low bound is allowed.
    ``scale`` is (units, n) and above 0; the spans are (units,).
    """
    last = scheme.size - 1
    reach = np.minimum(np.floor(FLOAT32_MAX * (1 + FLOAT32_STEP) / scale), last).astype(np.int64)
    lowest, highest = last - reach, reach  # with fewer or more, an end is beyond float32
    if not spans.bounded.any():
        return lowest, highest
    low, high = -spans.low[:, None] / scale, spans.high[:, None] / scale
    most = np.clip(np.floor(low + HALF_STEP), lowest, highest).astype(np.int64)
    fewest = np.clip(np.ceil(last - high - HALF_STEP), lowest, highest).astype(np.int64)
    nearest = np.clip(np.rint(low), lowest, highest).astype(np.int64)
    is_empty, is_free = fewest > most, ~spans.bounded[:, None]
    fewest, most = np.where(is_empty, nearest, fewest), np.where(is_empty, nearest, most)
    return np.where(is_free, lowest, fewest), np.where(is_free, highest, most)


def least(loss: Floats, candidates: Candidates, full: Floats, rounding: float = ROUNDING) -> Choices:
    """The candidate with the smallest loss of each unit, (units,).

    Among equal losses the largest scale up to the full one wins: it clips least. Without such a scale the smallest one
    above it wins. Among equal scales, more levels below zero win.

    Args:
        loss: (units, n), at least 0; inf for invalid candidates.
        candidates: (units, n).
        full: (units,), the scales that cover the range.
        rounding: losses that exceed the smallest by at most this ratio count as equal to it.

    >>> found = Candidates(np.array([[0.5, 1.0, 2.0]]), np.array([[8, 8, 8]]), np.array([[3.0, 3.0, 3.0]]))
    >>> least(found.error, found, np.array([1.0]))
    Choices(scale=array([1.]), below=array([8]))
    """
    scale, below = candidates.scale, candidates.below
    tied = loss <= loss.min(axis=1, keepdims=True) * (1 + rounding)
    narrow = tied & (scale <= full[:, None] * (1 + ROUNDING))  # no wider than the range
    largest = np.where(narrow, scale, -np.inf).max(axis=1)
    smallest = np.where(tied, scale, np.inf).min(axis=1)
    best = np.where(narrow.any(axis=1), largest, smallest)
    return Choices(best, np.where(tied & (scale == best[:, None]), below, -1).max(axis=1))
