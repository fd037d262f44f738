"""The law of a sketch's nonzero values, as prefix sums.

Every objective of the search is a sum, over the cells of a candidate quantizer, of two functions of a
point e of the line: the mass between zero and e, and the excess E(x − e)₊ beyond it. Both are tabulated where
the pieces of the sketch begin; inside a bucket values count as uniform, so that mass is linear and
excess quadratic. Each sign has its own tables, which run outward from zero, so that a far outlier of one sign
takes no digits from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.sketches.patterns import SIGN, Numbers, Patterns
from klcal.sketches.sketch import Sketch

__all__ = ["Law", "Pieces", "Side", "intervals"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST_NORMAL = 2.0**-126  # of float32
LEAST = 2.0**-149  # the least float32: where the bucket that begins at zero does


def intervals(sketch: Sketch) -> tuple[Floats, Floats]:
    """The magnitudes at which each piece of a sketch begins and ends; points, where both are equal.

    The outermost bucket of a unit ends at the exact extreme and, where all values have one sign, the innermost begins
    at the other one, so that a constant is a point. What is exact is a point at its key; so are the buckets of
    subnormal numbers, which are wider than the cells of a table.
    """
    unit, negative = sketch.unit, sketch.keys >= SIGN
    exact = sketch.exact[unit]
    bits = sketch.keys & ~SIGN
    width = np.where(exact, np.uint32(0), np.uint32(1) << sketch.resolution.dropped(sketch.keys, sketch.tops[unit]))
    inner, outer = _magnitudes(bits), _magnitudes(bits + width)
    least = np.maximum(np.where(negative, -sketch.maximum[unit], sketch.minimum[unit]), LEAST)
    extreme = np.where(negative, -sketch.minimum[unit], sketch.maximum[unit])
    outer = np.where(exact, inner, np.minimum(outer, extreme))
    inner = np.where((inner < LEAST_NORMAL) & (outer == extreme), outer, inner)
    outer = np.where(inner < LEAST_NORMAL, inner, outer)
    return np.maximum(inner, least), np.maximum(outer, least)


def _magnitudes(bits: Patterns) -> Floats:
    """Float32 patterns as float64; the pattern of infinity, the upper edge of the last bucket, as 2¹²⁸."""
    with np.errstate(over="ignore"):
        return np.minimum(bits.view(np.float32).astype(np.float64), 2.0**128)


@dataclass(frozen=True, eq=False)
class Pieces:
    """The occupied buckets of one sign as intervals of magnitudes, ascending; points where inner == outer."""

    inner: Floats
    outer: Floats
    counts: Numbers | Floats

    @staticmethod
    def of(sketch: Sketch) -> tuple[Pieces, Pieces]:
        """The positive and the negative side of a sketch of one unit: see ``intervals``."""
        if sketch.units != 1:
            raise UsageError(f"{sketch.units} units have no law together", "take one of them, as in sketch[0:1]")
        inner, outer = intervals(sketch)
        split = int(np.searchsorted(sketch.keys, SIGN))
        sides = slice(0, split), slice(split, None)
        positive, negative = (Pieces(inner[side], outer[side], sketch.counts[side]) for side in sides)
        return positive, negative


@dataclass(frozen=True, eq=False)
class Side:
    """The tables of one sign: for each piece, and before them for an empty one that begins at zero."""

    edge: Floats  # where each piece begins
    width: Floats  # how far its values reach from there
    counts: Floats  # how many it has
    within: Floats  # values before each
    beyond: Floats  # values behind each
    excess: Floats  # beyond the edge of each
    size: float  # how many values there are
    extreme: float  # the outermost; 0 if there are no values

    @staticmethod
    def of(pieces: Pieces) -> Side:
        """The tables of one sign of a sketch."""
        edge, width = np.append(0.0, pieces.inner), np.append(0.0, pieces.outer - pieces.inner)
        counts = np.append(0.0, pieces.counts)
        total = _sums_from_outside(np.append(counts, 0.0))
        beyond = total[1:]
        spread = beyond * np.diff(edge, append=edge[-1]) + counts * width / 2
        extreme = float(edge[-1] + width[-1])
        size = float(total[0])
        return Side(edge, width, counts, size - total[:-1], beyond, _sums_from_outside(spread), size, extreme)

    def _find(self, points: Floats) -> tuple[Integers, Floats, Floats]:
        """The piece that begins last before each point, how far the point lies beyond, and what share of it before."""
        piece = np.searchsorted(self.edge, points, side="right") - 1
        distance, width = points - self.edge[piece], self.width[piece]
        return piece, distance, np.divide(np.minimum(distance, width), width, out=np.ones(width.shape), where=width > 0)

    def excess_beyond(self, points: Floats) -> Floats:
        """Σ (|x| − e)₊ over the values of this sign, for each magnitude e ≥ 0."""
        piece, distance, share = self._find(points)
        passed = self.counts[piece] * self.width[piece] * share * (1 - share / 2)
        return self.excess[piece] - self.beyond[piece] * distance - passed

    def mass_within(self, points: Floats) -> Floats:
        """How many values of this sign have a magnitude of at most e, for each e ≥ 0.

        Where no value lies between two points, their masses are equal to the last bit.
        """
        piece, _, share = self._find(points)
        return self.within[piece] + self.counts[piece] * share


def _sums_from_outside(values: Floats) -> Floats:
    """For each bucket the sum over it and all beyond it."""
    return values[::-1].cumsum()[::-1]


@dataclass(frozen=True, eq=False)
class Law:
    """The nonzero finite values of a sketch. Exact zeros are an atom that every quantizer represents."""

    positive: Pieces
    negative: Pieces

    @staticmethod
    def of(sketch: Sketch) -> Law:
        """The law of a sketch of one unit."""
        return Law(*Pieces.of(sketch))

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The tables of the positive and the negative values."""
        return Side.of(self.positive), Side.of(self.negative)

    @cached_property
    def size(self) -> int:
        """How many values there are."""
        return int(self.positive.counts.sum() + self.negative.counts.sum())

    @cached_property
    def energy(self) -> float:
        """Σ x²: the squared midpoint of each bucket and its variance w²/12."""
        return sum(
            float(np.sum(side.counts * ((side.inner + side.outer) ** 2 / 4 + (side.outer - side.inner) ** 2 / 12)))
            for side in (self.positive, self.negative)
        )

    @property
    def high(self) -> float:
        """The greatest value, or 0 if none is positive."""
        return float(self.positive.outer[-1]) if self.positive.outer.size else 0.0

    @property
    def low(self) -> float:
        """The least value, or 0 if none is negative."""
        return -float(self.negative.outer[-1]) if self.negative.outer.size else 0.0
