"""Choices as arrays over units: the range that may be kept, the quantizer that covers it, and which of many is best.

A choice is a scale, always positive, and how many levels lie below zero; ``klcal.quantizers.qparams`` deploys it.
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

ROUNDING = 1e-12  # relative difference of two losses below which they are the same
NO_ERROR = 1e-12  # of the energy: a squared error at or below this is rounding noise of float32 values
FLOAT32_STEP = 2.0**-23  # by which a scale may exceed the full one: it is rounded to float32
HALF_STEP = 0.5 + 1e-9  # by which a range may exceed the span: the full range rounds its zero point by up to ½


class Spans(NamedTuple):
    """The widest range of each unit that a candidate may keep: low ≤ 0 ≤ high, low < high; (units,)."""

    low: Floats
    high: Floats
    bounded: Bools  # a range was asked for: no candidate may be wider

    @staticmethod
    def of(distribution: Distribution, bounds: tuple[float, float] | None) -> Spans:
        """The range of each unit and zero, within the bounds; the bounds themselves if nothing lies within."""
        if bounds is None:
            return Spans(distribution.min, distribution.max, np.zeros(distribution.units, bool))
        low, high = np.maximum(distribution.min, bounds[0]), np.minimum(distribution.max, bounds[1])
        empty = low >= high
        low, high = np.where(empty, bounds[0], low), np.where(empty, bounds[1], high)
        return Spans(low, high, (low > distribution.min) | (high < distribution.max) | empty)

    def select(self, units: Integers | slice | Bools) -> Spans:
        """Those of some units."""
        return Spans(self.low[units], self.high[units], self.bounded[units])


class Choices(NamedTuple):
    """A quantizer for each unit: (units,)."""

    scale: Floats
    below: Integers

    def select(self, units: Integers | slice | Bools) -> Choices:
        """Those of some units."""
        return Choices(self.scale[units], self.below[units])


class Candidates(NamedTuple):
    """Quantizers of each unit, as deployed, and Σ(x − x̂)² of its values; infinite where there is none: (units, n)."""

    scale: Floats
    below: Integers
    error: Floats

    def select(self, units: Integers) -> Candidates:
        """Those of some units."""
        return Candidates(self.scale[units], self.below[units], self.error[units])

    def take(self, columns: Integers) -> Candidates:
        """Some of each unit: (units, some)."""
        taken: list[Any] = [np.take_along_axis(column, columns, axis=1) for column in self]
        return Candidates(*taken)


def joined(parts: list[Candidates]) -> Candidates:
    """The candidates of all parts, of the same units."""
    return Candidates(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def full_choices(scheme: Scheme, spans: Spans) -> Choices:
    """The quantizers that cover the spans: min-max. The scale is the least of its format that does."""
    if scheme.kind == "affine":
        scale = (spans.high - spans.low) / (scheme.size - 1)
        if scheme.scale_format != "float32":
            scale = at_least(scale, scheme.scale_format, scheme.global_scale)
        below = np.minimum(np.rint(-spans.low / scale), scheme.size - 1).astype(np.int64)
        return Choices(scale, below)
    scales = []
    for option in scheme.belows:
        under, above = level_ends(np.array(option), scheme)
        scales.append(np.maximum(spans.high / above, -spans.low / under))
    scale, below = scales[0], np.full(scales[0].shape, scheme.belows[0])
    if len(scales) > 1:
        below = scheme.belows[np.argmin(np.stack(scales), axis=0)]  # of equal ones the first: the positive sign
        scale = np.min(np.stack(scales), axis=0)
    if scheme.scale_format != "float32":
        scale = at_least(scale, scheme.scale_format, scheme.global_scale)
    return Choices(scale, below)


def greatest_scale(scheme: Scheme) -> float:
    """The greatest scale that does not put both ends of the range beyond float32."""
    least_end = np.maximum(*level_ends(scheme.belows, scheme)).min()
    return float(at_most(FLOAT32_MAX / least_end, scheme.scale_format, scheme.global_scale))


def scales_of(scheme: Scheme, scales: Floats) -> Floats:
    """Scales as their format has them: the nearest, none with both ends beyond float32; 0 where they underflow."""
    limit = greatest_scale(scheme)
    if scheme.scale_format == "float32":
        return np.minimum(np.minimum(scales, FLOAT32_MAX).astype(np.float32).astype(np.float64), limit)
    return np.minimum(nearest_scale(scales, scheme.scale_format, scheme.global_scale), limit)


def valid(scheme: Scheme, scale: Floats, below: Integers, spans: Spans) -> Bools:
    """Which candidates (units, n) may be chosen.

    Where a range was asked for, those that keep no more than it, but for the half step that rounding a zero point
    costs. And none with an end beyond float32: its scale would be made smaller when it is deployed, and values clipped.
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
    """The fewest and the most levels below zero of an affine scheme, for each scale, (units, n).

    Where a range was asked for, those that keep no more than it, but for the half step that rounding a zero point
    costs; where no number does, the one nearest to its low end. None has an end beyond float32.
    """
    last = scheme.size - 1
    reach = np.minimum(np.floor(FLOAT32_MAX * (1 + FLOAT32_STEP) / scale), last).astype(np.int64)
    lowest, highest = last - reach, reach  # beyond, an end is beyond float32
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
    """The candidate of least loss of each unit, (units, n).

    Losses that are equal within rounding, a ratio, go to the largest scale up to the full one, else to the smallest
    above it, then to more levels below zero.
    """
    scale, below = candidates.scale, candidates.below
    tied = loss <= loss.min(axis=1, keepdims=True) * (1 + rounding)
    narrow = tied & (scale <= full[:, None] * (1 + ROUNDING))
    largest = np.where(narrow, scale, -np.inf).max(axis=1)
    smallest = np.where(tied, scale, np.inf).min(axis=1)
    best = np.where(narrow.any(axis=1), largest, smallest)
    return Choices(best, np.where(tied & (scale == best[:, None]), below, -1).max(axis=1))
