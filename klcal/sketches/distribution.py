"""The law of a sketch's nonzero values, as prefix sums that answer in constant time.

Every objective of the search is a sum, over the cells of a candidate quantizer, of two functions of a
point e of the line: the mass between zero and e, and the excess E(x − e)₊ beyond it. Both are tabulated at the
edges of the buckets; in between, inside a bucket, values count as uniform, so that mass is linear and
excess quadratic. Each sign has its own tables, which run outward from zero, so that a far outlier of one sign
takes no digits from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klcal.sketches.counting import MANTISSA_BITS, SIGN_KEY
from klcal.sketches.sketch import Sketch

__all__ = ["FLOAT64_MANTISSA_BITS", "LEAST_NORMAL", "Law", "Pieces", "Side", "magnitudes"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FLOAT64_MANTISSA_BITS = 52
FLOAT32_MANTISSA_BITS = 23
LEAST_NORMAL = 2.0**-126  # of float32
LEAST_EDGE = 2.0**-149  # the least float32: where the bucket that begins at zero is tabulated


@dataclass(frozen=True, eq=False)
class Pieces:
    """The occupied buckets of one sign as intervals of magnitudes, ascending; points where inner == outer."""

    inner: Floats
    outer: Floats
    counts: Integers

    @staticmethod
    def of(sketch: Sketch) -> tuple[Pieces, Pieces]:
        """The positive and the negative side.

        The outermost bucket ends at the exact extreme and, where all values have one sign, the innermost begins at
        the other one, so that a constant is a point. Where the sketch is exact, every bucket is the point at its
        inner edge; so are those of subnormal numbers, which are wider than the cells of a table.
        """
        sign = SIGN_KEY >> (MANTISSA_BITS - sketch.mantissa_bits)
        split = int(np.searchsorted(sketch.keys, sign))
        return (
            _pieces(sketch, slice(0, split), 0, sketch.minimum, sketch.maximum),
            _pieces(sketch, slice(split, None), sign, -sketch.maximum, -sketch.minimum),
        )


def _pieces(sketch: Sketch, side: slice, sign: int, least: float, extreme: float) -> Pieces:
    shift = FLOAT32_MANTISSA_BITS - sketch.mantissa_bits
    bits = (sketch.keys[side] - sign) << shift
    inner = magnitudes(bits)
    if sketch.exact:
        return Pieces(inner, inner, sketch.counts[side])
    outer = np.minimum(magnitudes(bits + (1 << shift)), extreme)
    outer[:-1] = np.where(inner < LEAST_NORMAL, inner, outer)[:-1]
    inner[-1:] = np.where(inner < LEAST_NORMAL, outer, inner)[-1:]
    return Pieces(np.maximum(inner, least), np.maximum(outer, least), sketch.counts[side])


def magnitudes(bits: Integers) -> Floats:
    """Float32 patterns as float64; the pattern of infinity, the upper edge of the last bucket, as 2¹²⁸."""
    with np.errstate(over="ignore"):
        return np.minimum(bits.astype(np.uint32).view(np.float32).astype(np.float64), 2.0**128)


@dataclass(frozen=True, eq=False)
class Side:
    """The tables of one sign, over all buckets from the innermost to the outermost occupied one.

    A bucket is found from the bits of a float64, without a search: its leading mantissa bits are those of
    the float32 that the bucket was keyed by. The first bucket of the tables is an empty one, so that a
    point below all values is answered like any other.
    """

    base: int  # key of the first bucket: the leading bits of its edge as float64
    shift: int  # bits of a float64 below a key
    edge: Floats  # where the values of each bucket begin
    excess: tuple[Floats, Floats, Floats]  # coefficients in the distance from the edge
    mass: tuple[Floats, Floats]
    least: float  # the innermost magnitude, where it lies inside its bucket; else 0
    extreme: float  # the outermost; 0 if there are no values
    size: float  # how many values there are

    @staticmethod
    def of(pieces: Pieces, mantissa_bits: int) -> Side:
        """The tables of one sign of a sketch with that many mantissa bits."""
        shift = FLOAT64_MANTISSA_BITS - mantissa_bits
        inner = np.maximum(pieces.inner, LEAST_EDGE)
        keys = inner.view(np.int64) >> shift
        if not keys.size:
            nothing = np.zeros(1)
            return Side(0, shift, nothing, (nothing,) * 3, (nothing,) * 2, 0.0, 0.0, 0.0)
        base = int(keys[0]) - 1
        occupied = keys - base
        width = pieces.outer - pieces.inner
        edge = (np.arange(base, int(keys[-1]) + 2) << shift).view(np.float64)
        edge[1] = inner[0]  # which may lie within its bucket
        counts, density, points = np.zeros((3, edge.size))
        counts[occupied] = pieces.counts
        density[occupied] = np.divide(pieces.counts, width, out=np.zeros(width.size), where=width > 0)
        points[occupied] = np.where(width > 0, 0, pieces.counts)
        beyond = _sums_from_outside(counts)
        spread = beyond[1:] * np.diff(edge)
        spread[occupied] += pieces.counts * width / 2
        within = beyond[0] - beyond[:-1]
        return Side(
            base,
            shift,
            edge[:-1],
            (_sums_from_outside(spread), points[:-1] - beyond[:-1], density[:-1] / 2),
            (within + points[:-1], density[:-1]),
            float(inner[0]) if inner[:1].view(np.int64)[0] & ((1 << shift) - 1) else 0.0,
            float(pieces.outer[-1]),
            float(beyond[0]),
        )

    def _find(self, points: Floats) -> tuple[Integers, Floats]:
        """The bucket of each point and the distance from where its values begin."""
        bucket = (points.view(np.int64) >> self.shift) - self.base
        bucket = np.clip(bucket, 0, self.edge.size - 1, out=bucket)
        if self.least:
            bucket *= points >= self.least
        return bucket, np.minimum(points, self.extreme) - self.edge.take(bucket)

    def excess_beyond(self, points: Floats) -> Floats:
        """Σ (|x| − e)₊ over the values of this sign, for each magnitude e ≥ 0."""
        bucket, distance = self._find(points)
        constant, linear, quadratic = (table.take(bucket) for table in self.excess)
        return constant + distance * (linear + distance * quadratic)

    def mass_within(self, points: Floats) -> Floats:
        """How many values of this sign have a magnitude of at most e, for each e ≥ 0.

        Where no value lies between two points, their masses are equal to the last bit.
        """
        bucket, distance = self._find(points)
        constant, linear = (table.take(bucket) for table in self.mass)
        return np.where(points < self.extreme, constant + distance * linear, self.size)


def _sums_from_outside(values: Floats) -> Floats:
    """For each bucket the sum over it and all beyond it."""
    return values[::-1].cumsum()[::-1]


@dataclass(frozen=True, eq=False)
class Law:
    """The nonzero finite values of a sketch. Exact zeros are an atom that every quantizer represents."""

    positive: Pieces
    negative: Pieces
    mantissa_bits: int

    @staticmethod
    def of(sketch: Sketch) -> Law:
        """The law of a sketch."""
        return Law(*Pieces.of(sketch), sketch.mantissa_bits)

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The tables of the positive and the negative values."""
        return Side.of(self.positive, self.mantissa_bits), Side.of(self.negative, self.mantissa_bits)

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
