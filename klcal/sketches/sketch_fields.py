"""The fields of a sketch, the numbers that follow from them, and whether two sketches can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from klcal.errors import UsageError
from klcal.quantizers.granularity import Grid
from klcal.sketches.patterns import (
    MOST,
    Bools,
    Floats,
    Integers,
    Numbers,
    Patterns,
    Resolution,
    Weights,
    exponents,
)

__all__ = [
    "COUNTERS",
    "PER_UNIT",
    "SketchFields",
    "added_numbers",
    "check_addable",
    "check_resolutions",
    "check_weights",
    "side_by_side",
]

SAME_IMPORTANCE = "sketch both with the same importance"

COUNTERS = ("zeros", "nan", "neg_inf", "pos_inf", "overflowed", "underflowed")
"""The fields that count values, int64 (units,): their sum is that of the parts."""
PER_UNIT = (*COUNTERS, "heaviest", "minimum", "maximum", "exact")
"""All fields of shape (units,)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SketchFields:
    """The fields of a ``Sketch``, and the numbers that follow from them."""

    keys: Patterns  # (pieces,): the float32 pattern of a value, or where its bucket begins; ascending within a unit
    counts: Numbers  # (pieces,): int32 where every count fits, else int64
    weights: Weights | None = None  # (3, pieces): weight // 2²⁰, weight % 2²⁰, and the number of values that weigh > 0
    starts: Integers  # (units + 1,): unit u has the pieces starts[u]:starts[u + 1]
    zeros: Integers  # (units,): the number of exact zeros, 0.0 and -0.0
    nan: Integers  # (units,)
    neg_inf: Integers  # (units,)
    pos_inf: Integers  # (units,)
    overflowed: Integers  # (units,): finite float64 values beyond float32. They are in no piece, and in no infinity
    underflowed: Integers  # (units,): nonzero float64 values that round to 0 as float32. They are in zeros, too
    heaviest: Floats  # (units,): the largest importance of the unit, which has the weight 2⁴⁰; 0 without importance
    minimum: Floats  # (units,): the lowest finite value that is not zero; inf if there is none
    maximum: Floats  # (units,): the highest one; -inf if there is none
    exact: Bools  # (units,): whether every key is the pattern of its values, so that nothing was lost
    resolution: Resolution  # how many bits of a value are kept
    grid: Grid | None = None  # the units as channels, groups or blocks of a shape; None for a tensor, and for slices

    @property
    def units(self) -> int:
        """The number of units."""
        return self.zeros.size

    @property
    def pieces(self) -> Integers:
        """The number of keys of each unit, (units,)."""
        return np.diff(self.starts)

    @property
    def unit(self) -> Integers:
        """The unit of each piece, (pieces,)."""
        return np.repeat(np.arange(self.units), self.pieces)

    @property
    def tops(self) -> Integers:
        """The biased float32 exponent of each unit's largest magnitude, (units,); 0 for a unit without values."""
        return exponents(self.minimum, self.maximum)

    @property
    def whole(self) -> Bools:
        """Whether each unit has so few distinct values that all are kept whole, (units,)."""
        is_whole: Bools = self.exact & (self.pieces <= self.resolution.few)
        return is_whole

    @cached_property
    def nonzero(self) -> Integers:
        """The number of finite nonzero values of each unit, (units,)."""
        total = np.zeros(self.units, np.int64)
        occupied = self.starts[1:] > self.starts[:-1]
        if occupied.any():
            most = int(self.counts.max()) * int(self.pieces.max())  # known in a fifth of the time that a sum takes
            fits = self.counts.dtype == np.int32 and most <= MOST  # then without a cast, in half the time
            total[occupied] = np.add.reduceat(
                self.counts, self.starts[:-1][occupied], dtype=np.int32 if fits else np.int64
            )
        return total

    @property
    def weighed(self) -> Integers:
        """The number of finite nonzero values with a weight above 0, (units,); 0 without importance."""
        if self.weights is None:
            return np.zeros(self.units, np.int64)
        return np.diff(np.append(0, np.cumsum(self.weights[2]))[self.starts])

    @property
    def finite(self) -> Integers:
        """The number of values of each unit that are finite as float32, zeros included, (units,)."""
        return self.nonzero + self.zeros

    @property
    def nonfinite(self) -> Integers:
        """The number of NaN and infinite values of each unit, (units,)."""
        return self.nan + self.neg_inf + self.pos_inf

    @property
    def numel(self) -> Integers:
        """The number of values of each unit, (units,)."""
        return self.finite + self.nonfinite + self.overflowed

    @property
    def min(self) -> Floats:
        """The lowest finite value of each unit, zeros included, (units,); inf for a unit without one."""
        return np.minimum(self.minimum, np.where(self.zeros > 0, 0.0, np.inf))

    @property
    def max(self) -> Floats:
        """The highest finite value of each unit, zeros included, (units,); -inf for a unit without one."""
        return np.maximum(self.maximum, np.where(self.zeros > 0, 0.0, -np.inf))


def check_addable(one: SketchFields, other: SketchFields) -> None:
    """Raises UsageError unless two sketches are of the same units, in the same resolution, with weights alike."""
    check_resolutions(one, other)
    if one.grid != other.grid or one.units != other.units:
        raise UsageError(
            f"sketches of {_units_in_words(one)} and of {_units_in_words(other)} cannot be added",
            "sketch both per the same channels or groups",
        )
    check_weights(one, other)
    if ((one.heaviest != other.heaviest) & (one.heaviest > 0) & (other.heaviest > 0)).any():
        raise UsageError("sketches whose weights are relative to different ones cannot be added", SAME_IMPORTANCE)


def check_resolutions(one: SketchFields, other: SketchFields) -> None:
    """Raises UsageError if the resolutions of two sketches differ."""
    mine, theirs = one.resolution, other.resolution
    if mine.mantissa_bits != theirs.mantissa_bits:
        what = f"sketches with {mine.mantissa_bits} and {theirs.mantissa_bits} mantissa bits cannot be added"
        raise UsageError(what, "coarsen the finer one first")
    if mine != theirs:
        what = "sketches of different resolutions cannot be added: of a tensor and of channels, or one is coarsened"
        raise UsageError(what, "coarsen both to the same mantissa bits, or sketch both alike")


def check_weights(one: SketchFields, other: SketchFields) -> None:
    """Raises UsageError if only one of two sketches has weights. One without pieces fits both."""
    if any(a.weights is None and a.keys.size and b.weights is not None for a, b in ((one, other), (other, one))):
        raise UsageError("a sketch with weights and one without cannot be added", SAME_IMPORTANCE)


def _units_in_words(of: SketchFields) -> str:
    return f"{of.units} units" if of.grid is None else f"{of.units} units ({of.grid.per})"


def added_numbers(one: SketchFields, other: SketchFields) -> dict[str, Any]:
    """The fields ``PER_UNIT`` of the sum of two sketches. ``exact`` is that before keys are cut."""
    return {
        **{name: getattr(one, name) + getattr(other, name) for name in COUNTERS},
        "heaviest": np.maximum(one.heaviest, other.heaviest),
        "minimum": np.minimum(one.minimum, other.minimum),
        "maximum": np.maximum(one.maximum, other.maximum),
        "exact": one.exact & other.exact,
    }


def side_by_side(parts: Sequence[Weights | None]) -> Weights | None:
    """The weights of several sketches, concatenated; None if none has weights. One without weights has no pieces."""
    if all(each is None for each in parts):
        return None
    return np.concatenate([np.empty((3, 0), np.int64) if each is None else each for each in parts], axis=1)
