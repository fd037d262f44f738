"""The distribution of one unit as prefix sums, which answer in constant time.

Every objective of the search is a sum, over the cells of a candidate quantizer, of two functions of a point e of the
line: the mass between zero and e, and the excess E(x − e)₊ beyond it. Both are tabulated at the edges of the buckets.
In between, inside a bucket, values count as uniform, so that mass is linear and excess quadratic. Each sign has its own
tables, which run outward from zero, so that a far outlier of one sign takes no digits from the other.
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
"""Intervals of magnitudes, points where they have no width, and how many values lie in each: inner, outer, counts."""

SHIFT = 52 - MANTISSA_BITS  # bits of a float64 below the key of its bucket
MIN_EDGE = 2.0**-149  # the least float32: where the bucket that begins at zero is tabulated


class Side(Protocol):
    """The values of one sign, as magnitudes."""

    @property
    def extreme(self) -> float:
        """The outermost; 0 if there are no values."""

    @property
    def size(self) -> float:
        """How many there are."""

    def excess_beyond(self, points: Floats) -> Floats:
        """Σ (|x| − e)₊ over the values of this sign, for each magnitude e ≥ 0."""

    def mass_within(self, points: Floats) -> Floats:
        """How many values of this sign have a magnitude of at most e, for each e ≥ 0.

        Where no value lies between two points, their masses are equal to the last bit.
        """


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefixSums:
    """The nonzero finite values of one unit. Exact zeros are an atom that every quantizer represents."""

    sides: tuple[Side, Side]  # the positive and the negative values
    size: float  # how many values there are
    energy: float  # Σ x²

    @staticmethod
    def of(positive: Pieces, negative: Pieces, size: float, energy: float) -> PrefixSums:
        """Those of the pieces of either sign, ascending by magnitude."""
        return PrefixSums(sides=(_side(*positive), _side(*negative)), size=size, energy=energy)


def _side(inner: Floats, outer: Floats, counts: Floats) -> Side:
    """The tables of one sign: of points that lie within buckets by a search, of buckets by their keys."""
    inner, outer = np.maximum(inner, MIN_EDGE), np.maximum(outer, MIN_EDGE)
    begins_inside = inner.view(np.int64) & ((1 << SHIFT) - 1)
    if np.array_equal(inner, outer) and begins_inside.any():
        return _PointSide.of(inner, counts)
    return _BucketSide.of(inner, outer, counts) if inner.size else _BucketSide.of_nothing()


@dataclass(frozen=True, eq=False, kw_only=True)
class _PointSide:
    """Points, found by a search."""

    magnitudes: Floats  # ascending
    within: Floats  # (n + 1,): how many values lie below each, and all
    beyond: Floats  # (n + 1,): Σ x from each on, and 0

    @staticmethod
    def of(magnitudes: Floats, counts: Floats) -> _PointSide:
        """Those of some ascending magnitudes."""
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
    """The tables of one sign: a row for each occupied bucket, for each gap behind one, and first for what lies before.

    A bucket is found from the bits of a float64, without a search: its leading mantissa bits are those of the float32
    that the bucket was keyed by, and ``row`` says whose it is. A bucket of fewer bits has several such keys.
    """

    base: int  # the first key of ``row``: the leading bits of a float64, before all buckets
    row: npt.NDArray[np.int32]
    edge: Floats  # (rows,), as what follows: where the values of the bucket, or the gap, begin
    excess: tuple[Floats, Floats, Floats]  # coefficients in the distance from the edge
    mass: tuple[Floats, Floats]
    least: float  # the innermost magnitude, where it lies inside its bucket; else 0
    extreme: float
    size: float

    @staticmethod
    def of_nothing() -> _BucketSide:
        """Of no values."""
        none = np.zeros(1)
        row = np.zeros(1, np.int32)
        return _BucketSide(
            base=0, row=row, edge=none, excess=(none,) * 3, mass=(none,) * 2, least=0.0, extreme=0.0, size=0.0
        )

    @staticmethod
    def of(inner: Floats, outer: Floats, counts: Floats) -> _BucketSide:
        """The tables of some ascending buckets."""
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
        """The row of each point and the distance from where it begins."""
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
    """Something of the row before all buckets, of each bucket, and of the gap behind it."""
    rows = np.empty(2 * buckets.size + 1, buckets.dtype)
    rows[0], rows[1::2], rows[2::2] = first, buckets, gaps
    return rows


def _sums_from_outside(values: Floats) -> Floats:
    """For each bucket the sum over it and all beyond it."""
    return values[::-1].cumsum()[::-1]
