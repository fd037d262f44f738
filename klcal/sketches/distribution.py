"""The distribution of the nonzero values of each unit, which the search works on: pieces, and their counts or weights.

A piece is an interval of magnitudes of one sign, within which values count as uniform; or a point, if the sketch knows
the values of the unit exactly. The pieces of a unit ascend by value: the negative ones come first, by falling
magnitude. (A sketch has the positive ones first.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from klcal.kernels.sums import placed_sums, unit_sums
from klcal.sketches.importance import joined_weights
from klcal.sketches.patterns import SIGN, Bools, Floats, Integers, Patterns
from klcal.sketches.pieces import intervals, negative_pieces, of_pieces, places_by_value
from klcal.sketches.prefix_sums import PrefixSums
from klcal.sketches.sketch import Sketch

__all__ = ["Distribution", "Points"]

OUTERMOST = 32  # pieces at either end that a first look keeps as they are: they decide the cost of clipping
THINNING = 8  # other pieces that a first look joins into one: 4,096 pieces become 576, and the error is known to 4 %


class Points(NamedTuple):
    """The distinct values of some units, and how often each occurs."""

    starts: Integers  # (units + 1,): unit u has the points starts[u]:starts[u + 1]
    values: Floats  # (points,), ascending within a unit
    counts: Floats  # (points,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Distribution:
    """The nonzero finite values of some units. Exact zeros are left out, since every quantizer represents them.

    The outermost intervals end, and the innermost begin, at the exact extremes, so a constant is a point. Subnormal
    numbers are points in the middle of their bucket.

    Attributes:
        sketch: of the same units, whose pieces are used.
        weights: (pieces,), in the order of the sketch: how much each piece counts beside the others of its unit; None
            if each counts as often as it occurs.
        tops: (units,), the biased float32 exponents by which the buckets were cut: see ``Resolution.dropped``.
        unweighted: the same values, each counted as often as it occurs, without those of weight 0; None if there are no
            weights.
    """

    sketch: Sketch
    weights: Floats | None = None
    tops: Integers
    unweighted: Distribution | None = None

    @staticmethod
    def of(sketch: Sketch) -> Distribution:
        """The distribution of each unit of a sketch. Weights are ignored."""
        return Distribution(sketch=sketch, tops=sketch.tops)

    @staticmethod
    def weighted(sketch: Sketch) -> Distribution:
        """The distribution of each unit in which a value counts as much as it weighs; values of weight 0 are left out.

        The weights of a unit are multiplied so that they add up to the number of its values with a weight above 0. If
        an outermost piece then counts less than 1, they are multiplied once more, by a power of two: the search stops
        at the scale where clipping the outermost value, counted once, costs too much. A unit without a weight above 0
        counts as if it had no weights.
        """
        if sketch.weights is None:
            return Distribution.of(sketch)
        mass, numbers = joined_weights(sketch.weights), sketch.weights[2]
        has_some = sketch.weighed > 0
        if not has_some.all():
            mass = np.where(has_some[sketch.unit], mass, sketch.counts)
            numbers = np.where(has_some[sketch.unit], numbers, sketch.counts)
        once = Distribution(sketch=of_pieces(sketch, mass > 0, numbers), tops=sketch.tops)
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
        """(units + 1,): unit u has the pieces starts[u]:starts[u + 1]."""
        return self.sketch.starts

    @property
    def exact(self) -> Bools:
        """(units,): whether all pieces of a unit are points."""
        return self.sketch.exact

    @cached_property
    def min(self) -> Floats:
        """(units,): the lowest value, or 0 if no value is negative."""
        return np.where(self.sketch.minimum < 0, self.sketch.minimum, 0.0)

    @cached_property
    def max(self) -> Floats:
        """(units,): the highest value, or 0 if no value is positive."""
        return np.where(self.sketch.maximum > 0, self.sketch.maximum, 0.0)

    @cached_property
    def number(self) -> Floats:
        """(units,): the number of values, each counted once, whatever it weighs."""
        return self.sketch.nonzero.astype(np.float64)

    @cached_property
    def _ascending(self) -> tuple[Patterns, Floats]:
        """The keys and the counts (or weights) of the pieces, (pieces,) each, by ascending value."""
        target = places_by_value(self.sketch)
        keys, counts = np.empty_like(self.sketch.keys), np.empty(target.size)
        keys[target] = self.sketch.keys
        counts[target] = self.sketch.counts if self.weights is None else self.weights
        return keys, counts

    @cached_property
    def negative(self) -> Bools:
        """(pieces,): whether the values of a piece are negative."""
        return self._ascending[0] >= SIGN

    @property
    def counts(self) -> Floats:
        """(pieces,): the number of values in each piece, or their weight beside the others of the unit."""
        return self._ascending[1]

    @cached_property
    def _intervals(self) -> tuple[Floats, Floats]:
        keys, _ = self._ascending
        if not self.exact.all():
            return intervals(self.sketch, keys, self.negative, self.tops)
        magnitudes = (keys & ~SIGN).view(np.float32).astype(np.float64)
        return magnitudes, magnitudes

    @property
    def inner(self) -> Floats:
        """(pieces,): the magnitude at which each begins."""
        return self._intervals[0]

    @property
    def outer(self) -> Floats:
        """(pieces,): the magnitude at which each ends; for points that at which it begins."""
        return self._intervals[1]

    @property
    def units(self) -> int:
        """The number of units."""
        return self.exact.size

    @property
    def pieces(self) -> Integers:
        """(units,): the number of pieces of each unit."""
        return np.diff(self.starts)

    @cached_property
    def unit(self) -> Integers:
        """(pieces,): the unit of each piece."""
        return np.repeat(np.arange(self.units), self.pieces)

    @cached_property
    def values(self) -> Floats:
        """(pieces,): the middle of each piece, with its sign."""
        return np.where(self.negative, -0.5, 0.5) * (self.inner + self.outer)

    @cached_property
    def size(self) -> Floats:
        """(units,): the number of values of each unit, or the sum of their weights."""
        return self.sums(self.counts)

    @cached_property
    def energy(self) -> Floats:
        """(units,): Σ x². A piece of width w counts as its squared middle and the variance w²/12 of a uniform value."""
        return self.sums(self.counts * ((self.inner + self.outer) ** 2 / 4 + (self.outer - self.inner) ** 2 / 12))

    def sums(self, of_pieces: Floats) -> Floats:
        """(units,): the sums of an array (pieces,) over the pieces of each unit; 0 for a unit without pieces.

        Terms are added in a fixed order within each unit, so a sum does not depend on other units.
        """
        return unit_sums(of_pieces, self.starts)

    def select(self, units: Integers) -> Distribution:
        """The units with these numbers, (n,), in this order."""
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
        """The prefix sums of one unit, by its number. They are computed when they are first asked for, and kept."""
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
        """The middles of all pieces, and their counts."""
        return Points(self.starts, self.values, self.counts)

    def thinned(self) -> Points:
        """Some of the pieces of each unit, for a first look: the outermost ones, and one for each 8 of the others.

        Such a point stands in the middle of 8 neighbours, with the counts of all of them.
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
        """(units,): the smallest magnitude up to which ``rank``, (units,), values of a unit lie; 0 for a rank of 0.

        Values of both signs count, each of them once, and inside an interval they count as uniform. A rank from the
        ``number`` of values on means all of them.
        """
        found, sketch = np.zeros(self.units), self.sketch
        magnitudes = sketch.keys & ~SIGN
        order = np.lexsort((magnitudes, sketch.unit))
        total = np.append(0, sketch.counts[order].cumsum(dtype=np.int64))
        whole = np.ceil(np.minimum(rank, self.number)).astype(np.int64)
        wanted = np.where(rank < self.number, whole, sketch.nonzero)
        place = np.searchsorted(total, total[self.starts[:-1]] + wanted) - 1
        points = (rank > 0) & self.exact
        found[points] = magnitudes[order][place[points]].view(np.float32)
        for unit in np.flatnonzero((rank > 0) & ~self.exact):
            one = Distribution(sketch=sketch[unit : unit + 1], tops=self.tops[unit : unit + 1])
            found[unit] = _quantile(one.inner, one.outer, one.counts, float(rank[unit]))
        return found


def _quantile(inner: Floats, outer: Floats, counts: Floats, rank: float) -> float:
    """``quantiles`` of one unit: the smallest magnitude up to which ``rank`` values lie.

    The pieces of the two signs may overlap, so their densities are added up: between two neighbouring edges the number
    of values is linear in the magnitude, and at a point it jumps. All pieces have values.
    """
    edges = np.unique(np.concatenate([inner, outer]))
    width = outer - inner
    density = np.divide(counts, width, out=np.zeros(width.size), where=width > 0)
    slopes = np.bincount(np.searchsorted(edges, inner), density, edges.size)
    slopes -= np.bincount(np.searchsorted(edges, outer), density, edges.size)
    atoms = np.bincount(np.searchsorted(edges, inner), np.where(width > 0, 0.0, counts), edges.size)
    linear = np.append(0.0, (slopes.cumsum()[:-1] * np.diff(edges)).cumsum())
    within = linear + atoms.cumsum()
    before, reached = within - atoms, within >= rank
    place = int(reached.argmax()) if reached.any() else edges.size - 1  # rounding may leave the last sum below the rank
    if before[place] <= rank:  # as at the first edge, before which there is nothing
        return float(edges[place])
    slope = (edges[place] - edges[place - 1]) / (before[place] - within[place - 1])
    return float(slope * (rank - within[place - 1]) + edges[place - 1])


def _raising(sketch: Sketch, weights: Floats) -> Floats:
    """(units,): a power of two; times it, the outermost piece of either sign has a weight of at least 1.

    Args:
        sketch: of some units.
        weights: (pieces,), in the order of the sketch.
    """
    ends = sketch.starts[1:]
    sides = (
        (sketch.minimum < 0, ends),
        (sketch.maximum > 0, ends - negative_pieces(sketch)),
    )  # where pieces of a sign end
    factor = np.ones(sketch.units)
    for has_end, end in sides:
        has_end = has_end & (sketch.pieces > 0)
        lightest = np.minimum(weights[end[has_end] - 1], 1.0)
        factor[has_end] = np.maximum(factor[has_end], np.ldexp(1.0, 1 - np.frexp(lightest)[1]))
    return factor
