"""The distribution of one unit as prefix sums: the values within or beyond any magnitude, without a loop over them.

Every objective of the search is a sum over the cells of a candidate quantizer, and needs two functions of a magnitude
e: the number of values up to e, and the excess Σ (|x| − e)₊ of the values beyond it. Both are tabulated at the edges of
the buckets. Values inside a bucket count as uniform, so between two edges the number is linear in e and the excess
quadratic. Each sign has its own tables, which run outward from zero: so a far outlier of one sign does not cost the
other sign digits. ``klcal.search.candidate_costs`` has the formulas of the objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.sketches.patterns import MANTISSA_BITS

__all__ = ["Pieces", "PrefixSums", "Side"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Pieces: TypeAlias = "tuple[Floats, Floats, Floats]"
"""The pieces of one sign, ascending by magnitude: where each begins, where it ends, and how many values it has.

Three arrays (pieces,): inner, outer, counts. A piece with inner == outer is a point.
"""

SHIFT = 52 - MANTISSA_BITS  # bits of a float64 below the key of its bucket
MIN_EDGE = 2.0**-149  # the smallest float32 above 0: where the bucket that begins at zero is tabulated


class Side(Protocol):
    """The values of one sign, as magnitudes."""

    @property
    def extreme(self) -> float:
        """The largest magnitude; 0 if there are no values."""

    @property
    def size(self) -> float:
        """The number of values."""

    def excess_beyond(self, points: Floats) -> Floats:
        """Σ (|x| − e)₊ over the values of this sign, for each magnitude e ≥ 0 of ``points``, of any shape."""

    def mass_within(self, points: Floats) -> Floats:
        """The number of values of this sign up to each magnitude e ≥ 0 of ``points``, of any shape.

        Where no value lies between two points, their results are equal to the last bit.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefixSums:
    """The nonzero finite values of one unit. Exact zeros are an atom that every quantizer represents."""

    sides: tuple[Side, Side]  # the positive and the negative values
    size: float  # the number of values
    energy: float  # Σ x²

    @staticmethod
    def of(positive: Pieces, negative: Pieces, size: float, energy: float) -> PrefixSums:
        """The prefix sums of a unit, from its pieces: three arrays for either sign, ascending by magnitude."""
        return PrefixSums(sides=(_side(*positive), _side(*negative)), size=size, energy=energy)


def _side(inner: Floats, outer: Floats, counts: Floats) -> Side:
    """The tables of one sign: by bisection if some point lies inside a bucket, else by bits, which is faster."""
    inner, outer = np.maximum(inner, MIN_EDGE), np.maximum(outer, MIN_EDGE)
    begins_inside = inner.view(np.int64) & ((1 << SHIFT) - 1)
    if np.array_equal(inner, outer) and begins_inside.any():
        return _PointSide.of(inner, counts)
    return _BucketSide.of(inner, outer, counts) if inner.size else _BucketSide.of_nothing()


@dataclass(frozen=True, eq=False, kw_only=True)
class _PointSide:
    """The values of one sign as n points."""

    magnitudes: Floats  # (n,), ascending
    within: Floats  # (n + 1,): the number of values before each point; last, of all
    beyond: Floats  # (n + 1,): Σ |x| over each point and all behind it; last, 0

    @staticmethod
    def of(magnitudes: Floats, counts: Floats) -> _PointSide:
        """The tables of n ascending magnitudes and how often each occurs."""
        beyond = np.append(_sums_from_outside(counts * magnitudes), 0.0)
        return _PointSide(magnitudes=magnitudes, within=np.append(0.0, counts.cumsum()), beyond=beyond)

    @property
    def extreme(self) -> float:
        return float(self.magnitudes[-1])

    @property
    def size(self) -> float:
        return float(self.within[-1])

    def excess_beyond(self, points: Floats) -> Floats:
        place = np.searchsorted(self.magnitudes, points, side="right")
        excess: Floats = self.beyond.take(place) - points * (self.size - self.within.take(place))
        return np.maximum(excess, 0.0)

    def mass_within(self, points: Floats) -> Floats:
        return self.within.take(np.searchsorted(self.magnitudes, points, side="right"))


@dataclass(frozen=True, eq=False, kw_only=True)
class _BucketSide:
    """The values of one sign as n buckets: tables of 2n + 1 rows.

    Row 0 is the stretch before the first bucket, row 2i − 1 is bucket i, row 2i the gap behind it. A row is found
    without a search: the leading bits of a float64 are an index of ``row``, because a bucket consists of all numbers
    with the same leading mantissa bits. A bucket that is keyed by fewer bits has several such indices.
    """

    base: int  # the leading bits that ``row`` starts at, just before those of the first bucket
    row: npt.NDArray[np.int32]  # the row of each index
    edge: Floats  # (rows,): the magnitude at which the bucket or the gap begins
    excess: tuple[Floats, Floats, Floats]  # (rows,) each: the excess is c₀ + c₁d + c₂d² at a distance d from the edge
    mass: tuple[Floats, Floats]  # (rows,) each: the number of values is c₀ + c₁d
    least: float  # the smallest magnitude, if it lies inside its bucket; else 0
    extreme: float  # the largest magnitude
    size: float  # the number of values

    @staticmethod
    def of_nothing() -> _BucketSide:
        """The tables of no values."""
        none = np.zeros(1)
        row = np.zeros(1, np.int32)
        return _BucketSide(
            base=0, row=row, edge=none, excess=(none,) * 3, mass=(none,) * 2, least=0.0, extreme=0.0, size=0.0
        )

    @staticmethod
    def of(inner: Floats, outer: Floats, counts: Floats) -> _BucketSide:
        """The tables of n ≥ 1 buckets that ascend: arrays (n,), as ``Pieces``."""
        first = inner.view(np.int64) >> SHIFT
        last = np.maximum(first, (outer.view(np.int64) - 1) >> SHIFT)
        base = int(first[0]) - 1
        keys = _interleaved(1, last - first + 1, np.maximum(np.append(first[1:], last[-1] + 1) - last - 1, 0))
        width, gap = outer - inner, np.append(inner[1:] - outer[:-1], 0.0)
        beyond = _sums_from_outside(counts)
        behind = np.append(beyond[1:], 0.0)
        before = (base << SHIFT, int(inner[:1].view(np.int64)[0]))
        edge = np.array(before[0], np.int64).view(np.float64).item()
        spread = _interleaved(beyond[0] * (inner[0] - edge), behind * width + counts * width / 2, behind * gap)
        density = np.divide(counts, width, out=np.zeros(width.size), where=width > 0)
        is_point = width == 0
        nothing = np.zeros(width.size)
        return _BucketSide(
            base=base,
            row=np.repeat(np.arange(keys.size, dtype=np.int32), keys),
            edge=_interleaved(edge, inner, outer),
            excess=(
                _sums_from_outside(spread),
                -_interleaved(beyond[0], np.where(is_point, behind, beyond), behind),
                _interleaved(0.0, density / 2, nothing),
            ),
            mass=(
                _interleaved(0.0, beyond[0] - np.where(is_point, behind, beyond), beyond[0] - behind),
                _interleaved(0.0, density, nothing),
            ),
            least=float(inner[0]) if before[1] & ((1 << SHIFT) - 1) else 0.0,
            extreme=float(outer[-1]),
            size=float(beyond[0]),
        )

    def _find(self, points: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
        """The row of each point, and the distance of the point from the edge of its row."""
        key = (points.view(np.int64) >> SHIFT) - self.base
        row = self.row.take(np.clip(key, 0, self.row.size - 1, out=key))
        if self.least:
            row *= points >= self.least
        return row, np.minimum(points, self.extreme) - self.edge.take(row)

    def excess_beyond(self, points: Floats) -> Floats:
        row, distance = self._find(points)
        constant, linear, quadratic = (table.take(row) for table in self.excess)
        return constant + distance * (linear + distance * quadratic)

    def mass_within(self, points: Floats) -> Floats:
        row, distance = self._find(points)
        constant, linear = (table.take(row) for table in self.mass)
        return np.where(points < self.extreme, constant + distance * linear, self.size)


def _interleaved(first: float, buckets: npt.NDArray[Any], gaps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of the tables, (2n + 1,): the entry of row 0, then those of each bucket and of the gap behind it."""
    rows = np.empty(2 * buckets.size + 1, buckets.dtype)
    rows[0], rows[1::2], rows[2::2] = first, buckets, gaps
    return rows


def _sums_from_outside(values: Floats) -> Floats:
    """For each value the sum of it and all behind it. The largest magnitudes, the rarest values, are added first."""
    return values[::-1].cumsum()[::-1]
