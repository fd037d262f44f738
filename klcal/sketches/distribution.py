"""What a sketch knows of the nonzero values of some units: intervals of magnitudes, and how many values lie in each.

A unit that its sketch knows exactly has points: intervals without width. The pieces of a unit ascend by value: the
negative ones first, by falling magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import placed_sums, unit_sums
from klcal.sketches.importance import joined_weights
from klcal.sketches.patterns import Patterns, extremes
from klcal.sketches.prefix_sums import PrefixSums
from klcal.sketches.sketch import Sketch

__all__ = ["Distribution", "Points", "without_outermost"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SIGN = np.uint32(1 << 31)  # of a float32 pattern
MIN_NORMAL = 2.0**-126  # of float32
OUTERMOST = 32  # pieces at either end that a first look sees all of: they decide what clipping costs
THINNING = 8  # other pieces in one of a first look: its error is known to 4 % where 4,096 are 576


class Points(NamedTuple):
    """Values of some units, ascending, and how many each of them stands for."""

    starts: Integers  # (units + 1,)
    values: Floats
    counts: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Distribution:
    """The nonzero finite values of some units. Exact zeros are an atom that every quantizer represents.

    The outermost intervals end, and the innermost begin, at the exact extremes, so that a constant is a point.
    Subnormal numbers are points in the middle of their bucket.
    """

    sketch: Sketch
    weights: Floats | None = None  # of the pieces, in the sketch's order: how much they count beside the others
    tops: Integers  # (units,): the exponents by which the buckets were cut
    unweighted: Distribution | None = None  # where values have weights: those above 0, each counted once

    @staticmethod
    def of(sketch: Sketch) -> Distribution:
        """The distribution of each unit of a sketch."""
        return Distribution(sketch=sketch, tops=sketch.tops)

    @staticmethod
    def weighted(sketch: Sketch) -> Distribution:
        """What decides where values have weights: each counts as much as it weighs, those of weight 0 are absent.

        Counts add up to the number of values that weigh something. Where an outermost value then counts less than one,
        all of its unit are multiplied: the search gives a scale up once clipping that value, counted once, costs too
        much. A unit in which no value weighs anything is as if it had no weights.
        """
        if sketch.weights is None:
            return Distribution.of(sketch)
        mass, numbers = joined_weights(sketch.weights), sketch.weights[2]
        has_some = sketch.weighed > 0
        if not has_some.all():
            mass = np.where(has_some[sketch.unit], mass, sketch.counts)
            numbers = np.where(has_some[sketch.unit], numbers, sketch.counts)
        once = Distribution(sketch=_of_pieces(sketch, mass > 0, numbers), tops=sketch.tops)
        weights = mass[mass > 0]
        total = unit_sums(weights, once.starts)
        share = np.divide(once.number, total, out=np.zeros(total.size), where=total > 0)
        weights *= share[once.unit]
        raising = _raising(once.sketch, weights)
        if (raising != 1).any():
            weights *= raising[once.unit]
        return replace(once, weights=weights, unweighted=once)

    @property
    def starts(self) -> Integers:
        """(units + 1,): unit u owns the pieces starts[u] to starts[u + 1]."""
        return self.sketch.starts

    @property
    def exact(self) -> Bools:
        """(units,): all pieces are points."""
        return self.sketch.exact

    @cached_property
    def min(self) -> Floats:
        """(units,): the least value, or 0 if none is negative."""
        return np.where(self.sketch.minimum < 0, self.sketch.minimum, 0.0)

    @cached_property
    def max(self) -> Floats:
        """(units,): the greatest, or 0 if none is positive."""
        return np.where(self.sketch.maximum > 0, self.sketch.maximum, 0.0)

    @cached_property
    def number(self) -> Floats:
        """(units,): how many values there are, whatever they weigh."""
        return self.sketch.nonzero.astype(np.float64)

    @cached_property
    def _ascending(self) -> tuple[Patterns, Floats]:
        target = _by_value(self.sketch)
        keys, counts = np.empty_like(self.sketch.keys), np.empty(target.size)
        keys[target] = self.sketch.keys
        counts[target] = self.sketch.counts if self.weights is None else self.weights
        return keys, counts

    @cached_property
    def negative(self) -> Bools:
        """(pieces,)."""
        return self._ascending[0] >= SIGN

    @property
    def counts(self) -> Floats:
        """(pieces,): how many values each has, or how much they weigh beside the others of their unit."""
        return self._ascending[1]

    @cached_property
    def _intervals(self) -> tuple[Floats, Floats]:
        keys, _ = self._ascending
        if not self.exact.all():
            return _intervals(self.sketch, keys, self.negative, self.tops)
        magnitudes = (keys & ~SIGN).view(np.float32).astype(np.float64)
        return magnitudes, magnitudes

    @property
    def inner(self) -> Floats:
        """(pieces,): the magnitude at which each begins."""
        return self._intervals[0]

    @property
    def outer(self) -> Floats:
        """(pieces,): and at which it ends; the same for points."""
        return self._intervals[1]

    @property
    def units(self) -> int:
        """How many there are."""
        return self.exact.size

    @property
    def pieces(self) -> Integers:
        """How many each unit has."""
        return np.diff(self.starts)

    @cached_property
    def unit(self) -> Integers:
        """The unit of each piece."""
        return np.repeat(np.arange(self.units), self.pieces)

    @cached_property
    def values(self) -> Floats:
        """The middle of each piece, with its sign."""
        return np.where(self.negative, -0.5, 0.5) * (self.inner + self.outer)

    @cached_property
    def size(self) -> Floats:
        """How many values each unit has."""
        return self.sums(self.counts)

    @cached_property
    def energy(self) -> Floats:
        """Σ x² of each unit: the squared middle of each piece and its variance w²/12."""
        return self.sums(self.counts * ((self.inner + self.outer) ** 2 / 4 + (self.outer - self.inner) ** 2 / 12))

    def sums(self, of_pieces: Floats) -> Floats:
        """The sum over the pieces of each unit, whatever units stand beside it; 0 for a unit without pieces."""
        return unit_sums(of_pieces, self.starts)

    def select(self, units: Integers) -> Distribution:
        """Some units, in the order given."""
        if np.array_equal(units, np.arange(self.units)):
            return self
        weights = self.weights
        if weights is not None:
            sizes = self.pieces[units]
            starts = np.append(0, np.cumsum(sizes))
            weights = weights[np.arange(starts[-1]) + np.repeat(self.starts[units] - starts[:-1], sizes)]
        return Distribution(
            sketch=self.sketch.take(units),
            weights=weights,
            tops=self.tops[units],
            unweighted=None if self.unweighted is None else self.unweighted.select(units),
        )

    def prefix_sums(self, unit: int) -> PrefixSums:
        """The prefix sums of one unit, made once."""
        if unit not in self._made:
            first, end = self.starts[unit : unit + 2]
            split = first + int(np.count_nonzero(self.negative[first:end]))
            arrays = self.inner, self.outer, self.counts
            positive = arrays[0][split:end], arrays[1][split:end], arrays[2][split:end]
            negative = arrays[0][first:split][::-1], arrays[1][first:split][::-1], arrays[2][first:split][::-1]
            self._made[unit] = PrefixSums.of(positive, negative, float(self.size[unit]), float(self.energy[unit]))
        return self._made[unit]

    @cached_property
    def _made(self) -> dict[int, PrefixSums]:
        return {}

    @property
    def points(self) -> Points:
        """The middles of all pieces."""
        return Points(self.starts, self.values, self.counts)

    def thinned(self) -> Points:
        """A tenth of the pieces of each unit, for a first look: the outermost, and every eighth of the others.

        Each of these stands at the middle of itself and its neighbours, for the values of all of them.
        """
        place = np.arange(self.starts[-1]) - self.starts[self.unit]
        from_end = self.pieces[self.unit] - 1 - place
        is_outer = (place < OUTERMOST) | (from_end < OUTERMOST)
        begins = np.flatnonzero(is_outer | ((place - OUTERMOST) % THINNING == 0))
        lengths = np.diff(begins, append=place.size)
        number = np.bincount(self.unit[begins], minlength=self.units)
        counts = placed_sums(np.repeat(np.arange(begins.size), lengths), self.counts, begins.size)
        return Points(np.append(0, number.cumsum()), self.values[begins + lengths // 2], counts)

    def quantiles(self, rank: Floats) -> Floats:
        """The least magnitude within which so many values of each unit lie, of both signs; 0 for none."""
        order = np.lexsort((self.inner, self.unit))
        inner, outer, counts = self.inner[order], self.outer[order], self.counts[order]
        total = counts.cumsum()  # whole numbers below 2⁵³: exact
        place = np.searchsorted(total, np.append(0.0, total)[self.starts[:-1]] + rank)
        inside = np.clip(place, self.starts[:-1], np.maximum(self.starts[1:] - 1, self.starts[:-1]))
        found = np.where(rank > 0, np.append(inner, 0.0)[inside], 0.0)
        for unit in np.flatnonzero((rank > 0) & ~self.exact):
            some = slice(self.starts[unit], self.starts[unit + 1])
            found[unit] = _quantile(inner[some], outer[some], counts[some], float(rank[unit]))
        return found


def _quantile(inner: Floats, outer: Floats, counts: Floats, rank: float) -> float:
    """The least magnitude within which ``rank`` values lie; intervals may overlap."""
    edges = np.unique(np.concatenate([inner, outer]))
    width = outer - inner
    density = np.divide(counts, width, out=np.zeros(width.size), where=width > 0)
    slopes = np.bincount(np.searchsorted(edges, inner), density, edges.size)
    slopes -= np.bincount(np.searchsorted(edges, outer), density, edges.size)
    atoms = np.bincount(np.searchsorted(edges, inner), np.where(width > 0, 0.0, counts), edges.size)
    linear = np.append(0.0, (slopes.cumsum()[:-1] * np.diff(edges)).cumsum())
    before, within = linear + atoms.cumsum() - atoms, linear + atoms.cumsum()
    place = min(int(np.searchsorted(within, rank)), edges.size - 1)
    if place == 0 or before[place] <= rank:
        return float(edges[place])
    return float(np.interp(rank, [within[place - 1], before[place]], edges[place - 1 : place + 1]))


def without_outermost(sketch: Sketch, count: int) -> Sketch:
    """A sketch of one unit without weights, less so many of its nonzero values: those of greatest magnitude."""
    order = np.argsort(sketch.keys & ~SIGN, kind="stable")[::-1]
    counts = sketch.counts[order].astype(np.int64)
    counts -= np.clip(count - (counts.cumsum() - counts), 0, counts)
    left = np.empty_like(counts)
    left[order] = counts
    return _of_pieces(sketch, left > 0, left)


def _raising(sketch: Sketch, weights: Floats) -> Floats:
    """(units,): a power of two by which the outermost piece of either sign weighs at least 1.

    Args:
        sketch: of some units.
        weights: (pieces,), in the order of the sketch.
    """
    ends = sketch.starts[1:]
    sides = (sketch.minimum < 0, ends), (sketch.maximum > 0, ends - _negatives(sketch))  # where pieces of a sign end
    factor = np.ones(sketch.units)
    for has_end, end in sides:
        has_end = has_end & (sketch.pieces > 0)
        lightest = np.minimum(weights[end[has_end] - 1], 1.0)
        factor[has_end] = np.maximum(factor[has_end], np.ldexp(1.0, 1 - np.frexp(lightest)[1]))
    return factor


def _negatives(sketch: Sketch) -> Integers:
    """(units,): how many pieces of each unit are negative. They are its last ones."""
    return np.diff(np.append(0, (sketch.keys >= SIGN).cumsum())[sketch.starts])


def _of_pieces(sketch: Sketch, kept: Bools, counts: Integers) -> Sketch:
    """Some of the pieces, with other counts. Where an outermost one is gone, the next one ends the range."""
    if kept.all():
        return replace(sketch, counts=counts, weights=None)
    keys = sketch.keys[kept]
    starts = np.append(0, kept.cumsum())[sketch.starts]
    low, high = extremes(keys, starts)
    ends = _far_end(sketch, low), _far_end(sketch, high)
    minimum = np.where(sketch.minimum < 0, np.maximum(sketch.minimum, ends[0]), low)
    maximum = np.where(sketch.maximum > 0, np.minimum(sketch.maximum, ends[1]), high)
    return replace(
        sketch,
        keys=keys,
        counts=counts[kept],
        weights=None,
        starts=starts,
        minimum=np.where(low < 0, minimum, np.maximum(low, sketch.minimum)),
        maximum=np.where(high > 0, maximum, np.minimum(high, sketch.maximum)),
    )


def _far_end(sketch: Sketch, begin: Floats) -> Floats:
    """Where the bucket ends that begins at a value of each unit; that value where it is kept whole."""
    known = np.where(np.isfinite(begin), begin, 1.0)
    patterns = known.astype(np.float32).view(np.uint32)
    dropped = np.where(sketch.exact, np.uint32(0), sketch.resolution.dropped(patterns, sketch.tops))
    _, outer = _edges(patterns & ~SIGN, dropped)
    return np.where(np.isfinite(begin), np.where(sketch.exact, known, np.copysign(outer, known)), begin)


def _by_value(sketch: Sketch) -> Integers:
    """The place of each piece by ascending value: a sketch has the positive ones first, and each side by magnitude."""
    negative = sketch.keys >= SIGN
    negatives = _negatives(sketch)
    place = np.arange(sketch.keys.size)
    last = sketch.starts[1:] + sketch.starts[:-1] - 1  # a negative one's place from the end is its place by value
    backward, forward = (np.repeat(each, sketch.pieces) for each in (last, negatives))
    target: Integers = np.where(negative, backward - place, place + forward)
    return target


def _intervals(sketch: Sketch, keys: Patterns, negative: Bools, tops: Integers) -> tuple[Floats, Floats]:
    """Where the pieces begin and end: a value kept whole is a point, a bucket an interval."""
    unit = sketch.unit
    exact = sketch.exact[unit]
    dropped = sketch.resolution.dropped(keys, tops.astype(np.int32)[unit])
    inner, outer = _edges(keys & ~SIGN, np.where(exact, np.uint32(0), dropped))
    least = np.where(negative, -sketch.maximum[unit], sketch.minimum[unit])
    inner = np.maximum(inner, least)
    outer = np.clip(outer, least, np.where(negative, -sketch.minimum[unit], sketch.maximum[unit]))
    outer = np.where(exact, inner, outer)
    is_subnormal = inner < MIN_NORMAL
    middle = (inner + outer) / 2
    return np.where(is_subnormal, middle, inner), np.where(is_subnormal, middle, outer)


def _edges(patterns: npt.NDArray[np.uint32], dropped: npt.NDArray[np.uint32]) -> tuple[Floats, Floats]:
    """Where buckets begin and end; the pattern of infinity, the upper edge of the last one, is 2¹²⁸."""
    inner = patterns.view(np.float32).astype(np.float64)
    outer = (patterns + (np.uint32(1) << dropped)).view(np.float32).astype(np.float64)
    return inner, np.minimum(outer, 2.0**128)
