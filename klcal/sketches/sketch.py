"""The sketch: all that calibration knows of streams of values, a summary of each unit that merges exactly.

One pass, integers and exact extremes only. So sketches form a commutative monoid under ``+``, and a result is
the same to the bit for any batch split, file order, number of workers, and on any device.

A unit is what gets a scale of its own: a tensor, a channel, a group. As long as it has few distinct values, a sketch
keeps them whole; beyond, how many fell into each bucket of the float32 bit pattern, which is an interval of fixed
relative width. The distinct values of a union only grow in number, and its largest magnitude too: so both states merge
exactly, in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.kernels.added import Pieces, added
from klcal.quantizers.granularity import Grid
from klcal.sketches.patterns import (
    MOST,
    TENSOR,
    Bools,
    Floats,
    Integers,
    Numbers,
    Patterns,
    Resolution,
    Weights,
    exponents,
    narrow,
    summed,
    summed_weights,
)

__all__ = ["COUNTERS", "Sketch", "settled"]

SAME_IMPORTANCE = "sketch both with the same importance"

ADDED_AT_ONCE = 1 << 18  # pieces: what adding needs beside its result is some 20 MB

COUNTERS = ("zeros", "nan", "neg_inf", "pos_inf", "overflowed", "underflowed")
PER_UNIT = (*COUNTERS, "heaviest", "minimum", "maximum", "exact")


@dataclass(frozen=True, eq=False, kw_only=True)
class Sketch:
    """How often each value, or bucket of values, occurs in each unit; other values have counters of their own.

    Laws, exact, on every device (a ++ b is concatenation, unit by unit):

        sketch(a ++ b) == sketch(a) + sketch(b)
        (a + b) + c == a + (b + c);  a + b == b + a;  a + Sketch.empty() == a
        (a + b).coarsen(k) == a.coarsen(k) + b.coarsen(k)
        (a + b)[i:j] == a[i:j] + b[i:j]

    Zeros, NaN and infinities have counters of their own and are in no bucket. float64 values are rounded to float32
    first. A unit of P pieces takes 8 P bytes (12 P where a count exceeds int32): at most 33 kB while its values are
    few; beyond, some 80 kB for a million values of a bell-shaped distribution. Adding needs the result and a little
    beside it.

    Values with an importance have weights: integers relative to the largest weight of their unit, so weights add up
    exactly as well (``klcal.sketches.importance``). A piece takes 24 bytes more. Two sketches add, by the same laws, if
    the largest weight of each unit is the same in both, or if neither has weights.

    >>> from klcal.sketches.values import sketch
    >>> s = sketch([0.5, -2.0, 0.0]) + sketch([0.5])
    >>> s.keys.view(np.float32).tolist(), s.counts.tolist(), s.zeros.tolist(), s.minimum.tolist(), s.maximum.tolist()
    ([0.5, -2.0], [2, 1], [1], [-2.0], [0.5])
    """

    keys: Patterns  # (pieces,): the float32 pattern of a value, or where its bucket begins; ascending within a unit
    counts: Numbers  # (pieces,): int32 where every count fits, else int64
    weights: Weights | None = None  # (3, pieces): what values weigh together, in units of 2²⁰ and the rest; how many do
    starts: Integers  # (units + 1,): unit u has the pieces starts[u]:starts[u + 1]
    zeros: Integers  # (units,), as all below
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    overflowed: Integers  # finite float64 values beyond float32: in no bucket, and not infinite
    underflowed: Integers  # float64 values that round to 0 as float32; they are counted in zeros too
    heaviest: Floats  # the largest importance of the unit, which a weight of 2⁴⁰ stands for; 0 without
    minimum: Floats  # of the finite values that are not zero; inf where there are none
    maximum: Floats  # the same; -inf
    exact: Bools  # every key is the pattern of its values themselves: nothing was lost
    resolution: Resolution
    grid: Grid | None = None  # which units these are, of what; None for a tensor, and for parts of a sketch

    @staticmethod
    def empty(units: int = 1, resolution: Resolution = TENSOR, grid: Grid | None = None) -> Sketch:
        """The sketch of no values."""
        none = {name: np.zeros(units, np.int64) for name in COUNTERS}
        return Sketch(
            keys=np.empty(0, np.uint32),
            counts=np.empty(0, np.int32),
            starts=np.zeros(units + 1, np.int64),
            **none,
            heaviest=np.zeros(units),
            minimum=np.full(units, np.inf),
            maximum=np.full(units, -np.inf),
            exact=np.ones(units, bool),
            resolution=resolution,
            grid=grid,
        )

    @staticmethod
    def stack(sketches: Iterable[Sketch], grid: Grid | None = None) -> Sketch:
        """The units of several sketches (at least one), concatenated.

        Raises:
            UsageError: their resolutions differ, or only some have weights.
        """
        parts = list(sketches)
        for each in parts[1:]:
            _check_resolutions(parts[0], each)
            _check_weights(parts[0], each)
        return _laid_out(parts, sum(each.keys.size for each in parts), grid)

    def save(self, path: str | os.PathLike[str], name: str = "tensor", dtype: str = "float32") -> None:
        """Write the sketch to a sketch file, as the tensor ``name``; ``klcal.save_sketches`` takes several sketches.

        Raises:
            UsageError: there can be no such file; it has several units and no grid.
            OutputError: it could not be written after all.
        """
        import_module("klcal.sketching").save_sketches(path, {name: self}, dtype)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Sketch:
        """The sketch of a file with a single one; ``klcal.load_sketches`` is for several.

        Raises:
            InputError: it is not a sketch file, is damaged, or has several sketches.
        """
        found: dict[str, Sketch] = import_module("klcal.sketching").load_sketches(path)
        if len(found) != 1:
            raise InputError(f"the file has {len(found)} sketches, not one", "use klcal.load_sketches(path)[name]")
        return next(iter(found.values()))

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
            fits = self.counts.dtype == np.int32 and self.counts.sum() <= MOST  # then without a cast, in half the time
            total[occupied] = np.add.reduceat(
                self.counts, self.starts[:-1][occupied], dtype=np.int32 if fits else np.int64
            )
        return total

    @property
    def weighed(self) -> Integers:
        """The number of these with a weight above 0, (units,); 0 without importance."""
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

    def __add__(self, other: Sketch) -> Sketch:
        if not isinstance(other, Sketch):
            return NotImplemented
        _check_resolutions(self, other)
        if self.grid != other.grid or self.units != other.units:
            raise UsageError(
                f"sketches of {_units_in_words(self)} and of {_units_in_words(other)} cannot be added",
                "sketch both per the same channels or groups",
            )
        _check_weights(self, other)
        if ((self.heaviest != other.heaviest) & (self.heaviest > 0) & (other.heaviest > 0)).any():
            raise UsageError("sketches whose weights are relative to different ones cannot be added", SAME_IMPORTANCE)
        if self.weights is None and other.weights is None:
            found = _compiled_sum(self, other)
            if found is not None:
                return replace(found, grid=self.grid)
        return _laid_out(_sums(self, other), self.keys.size + other.keys.size, self.grid)

    def __radd__(self, other: int) -> Sketch:
        return self if other == 0 else NotImplemented  # so that sum() works

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    def __getitem__(self, some: slice) -> Sketch:
        """A slice of the units."""
        first, last, step = some.indices(self.units)
        if step != 1:
            raise UsageError("units are taken one after the other", "use take() for others")
        starts = self.starts[first : max(first, last) + 1]
        pieces = slice(starts[0], starts[-1])
        per_unit = {name: getattr(self, name)[first:last] for name in PER_UNIT}
        return Sketch(
            keys=self.keys[pieces],
            counts=self.counts[pieces],
            weights=None if self.weights is None else self.weights[:, pieces],
            starts=starts - starts[0],
            **per_unit,
            resolution=self.resolution,
        )

    def take(self, units: npt.ArrayLike, grid: Grid | None = None) -> Sketch:
        """The units with these numbers, in this order."""
        wanted = np.asarray(units, np.int64)
        if grid is None and np.array_equal(wanted, np.arange(self.units)):
            return replace(self, grid=None)
        sizes = self.pieces[wanted]
        starts = np.append(0, np.cumsum(sizes))
        pieces = np.arange(starts[-1]) + np.repeat(self.starts[wanted] - starts[:-1], sizes)
        per_unit = {name: getattr(self, name)[wanted] for name in PER_UNIT}
        return Sketch(
            keys=self.keys[pieces],
            counts=self.counts[pieces],
            weights=None if self.weights is None else self.weights[:, pieces],
            starts=starts,
            **per_unit,
            resolution=self.resolution,
            grid=grid,
        )

    def select(self, wanted: Bools) -> Sketch:
        """The units where a mask, (units,), is True."""
        return self if wanted.all() else self.take(np.flatnonzero(wanted))

    def repeat(self, times: int) -> Sketch:
        """The sum of ``times`` copies: an expanded view holds each value that often."""
        if times == 1:
            return self
        if not times:
            return Sketch.empty(self.units, self.resolution, self.grid)
        counters = {name: getattr(self, name) * times for name in COUNTERS}
        weights = None if self.weights is None else self.weights * times
        return replace(self, counts=narrow(self.counts.astype(np.int64) * times), weights=weights, **counters)

    def coarsen(self, mantissa_bits: int) -> Sketch:
        """The sketch that counting with fewer mantissa bits would give, even if distinct values are few.

        ``exact`` is then False unless no bit that was dropped is set.

        Raises:
            UsageError: the sketch has fewer bits, or the number is negative.
        """
        if not 0 <= mantissa_bits <= self.resolution.mantissa_bits:
            raise UsageError(
                f"a sketch with {self.resolution.mantissa_bits} mantissa bits has no {mantissa_bits}",
                f"use 0 to {self.resolution.mantissa_bits}",
            )
        coarse = Resolution(mantissa_bits, min(mantissa_bits, self.resolution.least_bits), few=0)
        return settled(replace(self, resolution=coarse))


def _check_resolutions(one: Sketch, other: Sketch) -> None:
    mine, theirs = one.resolution, other.resolution
    if mine.mantissa_bits != theirs.mantissa_bits:
        what = f"sketches with {mine.mantissa_bits} and {theirs.mantissa_bits} mantissa bits cannot be added"
        raise UsageError(what, "coarsen the finer one first")
    if mine != theirs:
        what = "sketches of different resolutions cannot be added: of a tensor and of channels, or one is coarsened"
        raise UsageError(what, "coarsen both to the same mantissa bits, or sketch both alike")


def _check_weights(one: Sketch, other: Sketch) -> None:
    if any(a.weights is None and a.keys.size and b.weights is not None for a, b in ((one, other), (other, one))):
        raise UsageError("a sketch with weights and one without cannot be added", SAME_IMPORTANCE)


def _units_in_words(of: Sketch) -> str:
    return f"{of.units} units" if of.grid is None else f"{of.units} units ({of.grid.per})"


def settled(found: Sketch) -> Sketch:
    """The same, the keys of every unit that has more than a few distinct values cut to its resolution."""
    many = ~found.whole
    if not many.any():
        return found
    dropped = found.resolution.dropped(found.keys, np.repeat(found.tops.astype(np.int32), found.pieces))
    if not many.all():
        dropped *= np.repeat(many, found.pieces)
    cut = found.keys >> dropped << dropped
    occupied = found.pieces > 0
    exact = found.exact.copy()
    exact[occupied] &= ~np.logical_or.reduceat(cut != found.keys, found.starts[:-1][occupied])
    weights = None if found.weights is None else summed_weights(cut, found.weights, found.starts)
    keys, counts, starts = summed(cut, found.counts, found.starts)
    return replace(found, keys=keys, counts=counts, weights=weights, starts=starts, exact=exact)


def _compiled_sum(one: Sketch, other: Sketch) -> Sketch | None:
    """The sum by the compiled kernel; None where it cannot."""
    numbers = _added_numbers(one, other)
    tops = exponents(numbers["minimum"], numbers["maximum"])
    kept = one.resolution.few, one.resolution.mantissa_bits, one.resolution.least_bits
    found = added(
        Pieces(one.keys, one.counts, one.starts),
        Pieces(other.keys, other.counts, other.starts),
        numbers.pop("exact"),
        tops,
        kept,
    )
    if found is None:
        return None
    return Sketch(**found.pieces._asdict(), **numbers, exact=found.exact, resolution=one.resolution)


def _added_numbers(one: Sketch, other: Sketch) -> dict[str, Any]:
    """Of each unit of a sum, but for what is cut."""
    return {
        **{name: getattr(one, name) + getattr(other, name) for name in COUNTERS},
        "heaviest": np.maximum(one.heaviest, other.heaviest),
        "minimum": np.minimum(one.minimum, other.minimum),
        "maximum": np.maximum(one.maximum, other.maximum),
        "exact": one.exact & other.exact,
    }


def _sums(one: Sketch, other: Sketch) -> Iterator[Sketch]:
    """The sum of two sketches of the same units, a stretch of units at a time."""
    ends = one.starts + other.starts
    first = 0
    while True:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + ADDED_AT_ONCE, side="right")) - 1)
        yield _sum(one[first:last], other[first:last])
        if last >= one.units:
            return
        first = last


def _sum(one: Sketch, other: Sketch) -> Sketch:
    keys, counts = np.concatenate([one.keys, other.keys]), np.concatenate([one.counts, other.counts])
    weights = _side_by_side([one.weights, other.weights])
    if one.keys.size and other.keys.size:
        places = keys if one.units == 1 else (np.concatenate([one.unit, other.unit]) << 32) + keys
        order = np.argsort(places, kind="stable")  # which merges two ascending runs
        keys, counts = keys[order], counts[order]
        weights = None if weights is None else weights[:, order]
    starts = one.starts + other.starts
    weights = None if weights is None else summed_weights(keys, weights, starts)
    keys, counts, starts = summed(keys, counts, starts)
    return settled(
        Sketch(
            keys=keys,
            counts=counts,
            weights=weights,
            starts=starts,
            **_added_numbers(one, other),
            resolution=one.resolution,
        )
    )


def _side_by_side(parts: Sequence[Weights | None]) -> Weights | None:
    """The weights of some sketches behind one another; those without any have no pieces, or all are without."""
    if all(each is None for each in parts):
        return None
    return np.concatenate([np.empty((3, 0), np.int64) if each is None else each for each in parts], axis=1)


def _laid_out(parts: Iterable[Sketch], room: int, grid: Grid | None) -> Sketch:
    """Sketches behind one another, in arrays for so many pieces that are made once: parts may come one by one."""
    keys, counts = np.empty(room, np.uint32), np.empty(room, np.int32)
    sizes: list[Integers] = []
    weights: list[Weights | None] = []
    per_unit: list[dict[str, Any]] = []
    end = 0
    for part in parts:
        counts = counts if part.counts.dtype == np.int32 else counts.astype(np.int64, copy=False)
        keys[end : end + part.keys.size] = part.keys
        counts[end : end + part.keys.size] = part.counts
        end += part.keys.size
        weights.append(part.weights)
        sizes.append(part.pieces)
        per_unit.append({name: getattr(part, name) for name in PER_UNIT})
        resolution = part.resolution
    keys.resize(end, refcheck=False)
    counts.resize(end, refcheck=False)
    return Sketch(
        keys=keys,
        counts=counts,
        weights=_side_by_side(weights),
        starts=np.append(0, np.cumsum(np.concatenate(sizes))),
        **{name: np.concatenate([each[name] for each in per_unit]) for name in PER_UNIT},
        resolution=resolution,
        grid=grid,
    )
