"""What candidates cost on bins of magnitude: tables that many rows share, and the histograms they are multiplied with.

Magnitudes are in units of the scale that covers a row, the full one, and a candidate is a ratio to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scale_formats import FLOAT32_MAX, nearest_scale
from klcal.quantizers.scheme import Scheme
from klcal.search.exact_costs import integral
from klcal.search.one_unit import FEW_LEVELS, MAX_OCTAVES, MAX_UNUSED, STEPS_PER_OCTAVE
from klcal.search.row_law import RowLaw, row_point_errors

__all__ = ["PARTS", "WIDER", "Histogram", "Table", "nearest_scales", "rows_at_once", "table"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BINS_PER_STEP = 16  # of the full scale: the squared error is told apart within half a percent
MIN_BINS, MAX_BINS = 1 << 8, 1 << 12
STARTS = (0, 10, 30, 70, 130, 200, 280)  # of parts, in fine steps: a row of few values needs no more than the first
FEW_LEVELS_STEP = 2  # fine steps between two candidates where there are few levels
PARTS = len(STARTS) - 1 + MAX_OCTAVES - 1  # each other one takes an octave
WIDER = -1  # the number of the part above the full scale
MAX_LATTICE = 256  # ratios count/j in a part: at 16 bits they are denser than the steps
CELLS = 1 << 20  # of histograms at a time: 8 MiB an array
CLIPPED_SHARE = 4  # bins in one where only what is clipped is counted in them
TABLE_BITS = 27  # of the greatest error in a table: sums of integers are exact up to 2²⁶ values a row
POWERS = 8  # scales tried where they are powers of two
FARTHEST = 1e60  # full scales: what a bound may leave outside, squared and added up, stays a float
EPSILON = 1e-9  # by which a range may exceed the span, of a step: rounding


class Table(NamedTuple):
    """Candidates as ratios to the full scale, falling, and their squared error on each bin, in whole ``unit``."""

    ratio: Floats
    errors: Floats  # (bins, candidates)
    unit: float


def _bins(scheme: Scheme) -> tuple[float, int]:
    """The greatest magnitude, in units of the full scale, and how many bins there are up to it."""
    greatest = max(scheme.above[-1], scheme.below[-1])
    return float(greatest), min(MAX_BINS, max(MIN_BINS, BINS_PER_STEP * math.ceil(greatest)))


def nearest_scales(scheme: Scheme, scales: Floats) -> Floats:
    """Scales as their format has them; 0 where they underflow."""
    if scheme.scale_format != "float32":
        return nearest_scale(scales, scheme.scale_format, scheme.global_scale)
    return np.minimum(scales, FLOAT32_MAX).astype(np.float32).astype(np.float64)


def rows_at_once(scheme: Scheme) -> int:
    """How many rows may have histograms at a time."""
    return max(1, CELLS // (2 * _bins(scheme)[1]))


@lru_cache(maxsize=64)
def table(scheme: Scheme, number: int) -> Table:
    """A part of the candidates: from the full scale down, each further than the one before, or ``WIDER``."""
    greatest, bins = _bins(scheme)
    ratio = _ratios(scheme, number)
    edges = np.linspace(0, greatest, bins + 1)[:, None] / ratio
    sides = [scheme.above] if scheme.is_even else [scheme.above, scheme.below]
    levels = [np.append(0.0, side) for side in sides]
    unclipped = None if scheme.is_fixed else np.array(np.inf)
    errors = [np.diff(integral(edges, side, unclipped), axis=0) * ratio**3 * (bins / greatest) for side in levels]
    unit = 2.0 ** (2 * math.ceil(math.log2(greatest)) - TABLE_BITS)
    return Table(ratio, np.rint(np.concatenate(errors) / unit), unit)


def _steps(number: int) -> int:
    """Where a part begins, in fine steps."""
    last = len(STARTS) - 1
    return STARTS[min(number, last)] + max(0, number - last) * STEPS_PER_OCTAVE


def _ratios(scheme: Scheme, number: int) -> Floats:
    if scheme.scale_format == "e8m0":
        wider = [2.0] if scheme.is_float else []
        return np.array(wider) if number == WIDER else np.exp2(-np.arange(float(POWERS)))
    count = scheme.zero if scheme.symmetric else scheme.size - 1
    step = FEW_LEVELS_STEP if scheme.size <= FEW_LEVELS else 1
    octave = np.exp2(np.arange(STEPS_PER_OCTAVE, 0, -step) / STEPS_PER_OCTAVE)
    if number == WIDER and scheme.is_float:
        return octave
    if number == WIDER:
        lattice = count / np.arange(max(1, count - MAX_UNUSED), count)
        return lattice if scheme.scale_format == "float32" else np.sort(np.append(lattice, octave))[::-1]
    first, end = _steps(number), _steps(number + 1)
    fine = np.exp2(-np.arange(first, end, step) / STEPS_PER_OCTAVE)
    least = math.ceil(count * 2 ** (first / STEPS_PER_OCTAVE))
    most = math.ceil(count * 2 ** (end / STEPS_PER_OCTAVE))
    if scheme.is_float or most - least > MAX_LATTICE:
        return fine
    return np.unique(np.append(fine, count / np.arange(least, most)))[::-1]


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values of each row lie in each bin, and what lies beyond the range of the full scale; lazily."""

    law: RowLaw
    scheme: Scheme
    full: Floats  # (rows,): scales
    pointwise: bool  # each piece is looked at under each candidate, which pays where a row has few

    @property
    def _bins(self) -> int:
        """How many there are on a side; what is clipped alone needs fewer."""
        return _bins(self.scheme)[1] // (CLIPPED_SHARE if self.pointwise else 1)

    @cached_property
    def _places(self) -> tuple[Floats, Integers, Bools]:
        """Of each piece its middle, in full scales, its side, and whether it is beyond the range."""
        middle = np.minimum((self.law.inner + self.law.outer) / 2 / self.full[self.law.row], FARTHEST)
        return middle, 2 * self.law.row + self.law.negative, middle > _bins(self.scheme)[0] * (1 + EPSILON)

    @cached_property
    def counts(self) -> Floats:
        """Values in each bin: (rows, sides, bins). Pieces count at their middle."""
        greatest, bins = _bins(self.scheme)[0], self._bins
        middle, side, beyond = self._places
        place = side * bins + np.minimum(middle * (bins / greatest), bins - 1).astype(np.int64)
        inside = np.where(beyond, 0.0, self.law.counts)
        counts = np.bincount(place, weights=inside, minlength=2 * self.law.rows * bins)
        return counts.astype(np.float64).reshape(self.law.rows, 2, bins)

    @cached_property
    def outside(self) -> Floats:
        """Σ1, Σx and Σx² of the magnitudes x beyond: (rows, sides, 3)."""
        middle, side, beyond = self._places
        moments = [
            np.bincount(side[beyond], weights=(self.law.counts * middle**power)[beyond], minlength=2 * self.law.rows)
            for power in range(3)
        ]
        return np.stack(moments, axis=-1).astype(np.float64).reshape(self.law.rows, 2, 3)

    def errors(self, of: Table, low: Floats, high: Floats) -> tuple[Floats, Integers]:
        """Mean squared error and levels below zero, (rows, candidates, options); the span is in full scales.

        Args:
            of: the candidates.
            low: where the span of each row begins.
            high: where it ends.
        """
        total = self._pointwise(of) if self.pointwise else self._binned(of)
        if not self.scheme.is_fixed:
            below = _options(self.scheme, of.ratio, low, high)
            clipped = self._clipped(of.ratio, below)
            return np.maximum(total[:, :, None] + clipped, 0.0) / self.law.size[:, None, None], np.maximum(below, 0)
        mse = total[:, :, None] / self.law.size[:, None, None]
        return mse, np.full(mse.shape, self.scheme.zero)

    def _binned(self, of: Table) -> Floats:
        rows, sides, bins = self.counts.shape
        counts = self.counts.reshape(rows, -1) if of.errors.shape[0] == sides * bins else self.counts.sum(axis=1)
        total = counts @ of.errors * of.unit
        if not self.scheme.is_fixed:
            return total
        for side, level in ((0, self.scheme.above[-1]), (1, self.scheme.below[-1])):
            end = level * of.ratio
            number, first, second = (self.outside[:, side, power, None] for power in range(3))
            total = total + (second - 2 * end * first + end**2 * number)
        return total

    def _pointwise(self, of: Table) -> Floats:
        """Of the scales as deployed; without ends where options will have some."""
        scale = nearest_scales(self.scheme, self.full[:, None] * of.ratio)
        known = np.where(scale > 0, scale, 1.0)
        errors = [row_point_errors(self.law, self.scheme, known[:, i]) for i in range(of.ratio.size)]
        return np.where(scale > 0, np.stack(errors, axis=1) / self.full[:, None] ** 2, np.inf)

    @cached_property
    def _moments(self) -> tuple[Floats, Floats, Floats]:
        """Σ1, Σx and Σx² of the magnitudes from each bin on, for each side of each row: flat."""
        greatest, bins = _bins(self.scheme)[0], self._bins
        middles = (np.arange(bins) + 0.5) * (greatest / bins)
        found = []
        for power in range(3):
            parts = np.concatenate([self.counts * middles**power, self.outside[:, :, power, None]], axis=2)
            found.append(parts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1].ravel())
        return found[0], found[1], found[2]

    def _clipped(self, ratio: Floats, below: Integers) -> Floats:
        """What the ends of each option add to the error of endless levels."""
        greatest, bins = _bins(self.scheme)[0], self._bins
        step = ratio[:, None]
        found = np.where(below >= 0, 0.0, np.inf)
        row = 2 * (bins + 1) * np.arange(len(below))[:, None, None]
        for side, level in ((0, self.scheme.size - 1 - below), (1, below)):
            end = level * step
            first = np.ceil((end + step / 2) * (bins / greatest)).astype(np.int64)
            place = np.clip(first, 0, bins, out=first) + (row + side * (bins + 1))
            number, linear, square = (moment.take(place) for moment in self._moments)
            found += square + end * (end * number - 2 * linear) - number * (step * step / 12)
        return found


def _options(scheme: Scheme, ratio: Floats, low: Floats, high: Floats) -> Integers:
    """Levels below zero that keep no more than the span, and the one nearest to it; −1 fills up."""
    if scheme.symmetric:
        return np.tile(scheme.belows, (low.size, ratio.size, 1))
    size = scheme.size
    under, over = -low[:, None] / ratio, high[:, None] / ratio
    nearest = np.clip(np.rint(under), 0, size - 1).astype(np.int64)
    least = np.maximum(np.ceil(size - 1 - over - 0.5 - EPSILON), 0).astype(np.int64)
    most = np.minimum(np.floor(under + 0.5 + EPSILON), size - 1).astype(np.int64)
    count = max(0, int((most - least).max()) + 1)
    options = least[:, :, None] + np.arange(count)
    options = np.where(options <= most[:, :, None], options, -1)
    return np.concatenate([nearest[:, :, None], options], axis=2)
