"""The sketch: a summary of the values of each unit, made in one pass, from which all else is computed. It adds exactly.

A sketch holds integer counts and exact extremes, and no sums of floats. So sketches form a commutative monoid under
``+``, and a result is the same to the bit for any split into batches, any order of files, any number of workers, and on
any device.

A unit is the part of a tensor that gets one scale: the tensor, a channel, a group, a block. While a unit has few
distinct values, its sketch keeps them whole. Otherwise it counts how many values fall into each bucket of the float32
bit pattern, an interval of fixed relative width. Adding values never lowers the number of distinct values or the
largest magnitude, so both forms merge exactly, in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.kernels.added import Pieces, added
from klcal.quantizers.granularity import Grid
from klcal.sketches.patterns import (
    TENSOR,
    Bools,
    Integers,
    Resolution,
    Weights,
    exponents,
    narrow,
    summed,
    summed_weights,
)
from klcal.sketches.sketch_fields import (
    COUNTERS,
    PER_UNIT,
    SketchFields,
    added_numbers,
    check_addable,
    check_resolutions,
    check_weights,
    side_by_side,
)

__all__ = ["COUNTERS", "Sketch", "settled"]

ADDED_AT_ONCE = 1 << 18  # pieces that are added at a time: scratch memory stays at some 20 MB


@dataclass(frozen=True, eq=False, kw_only=True)
class Sketch(SketchFields):
    """How often each value, or bucket of values, occurs in each unit. Zeros, NaN and infinities are counted apart.

    Laws, exact, on every device (a ++ b is concatenation, unit by unit):

        sketch(a ++ b) == sketch(a) + sketch(b)
        (a + b) + c == a + (b + c);  a + b == b + a;  a + Sketch.empty() == a
        (a + b).coarsen(k) == a.coarsen(k) + b.coarsen(k)
        (a + b)[i:j] == a[i:j] + b[i:j]

    A piece is a distinct value, or a bucket of values. Zeros, NaN and infinities are in no piece. float64 values are
    rounded to float32 first. A unit of P pieces takes 8 P bytes (12 P if a count exceeds int32): at most 33 kB while
    its values are few, some 80 kB for a million values of a bell-shaped distribution. Addition needs memory for its
    result and some 20 MB.

    Values with an importance have weights: integers relative to the largest weight of their unit, so weights add up
    exactly as well (``klcal.sketches.importance``). Each piece takes 24 bytes more. Two sketches with weights add, by
    the same laws, if the largest weight of each unit is the same in both.

    >>> from klcal.sketches.values import sketch
    >>> s = sketch([0.5, -2.0, 0.0]) + sketch([0.5])
    >>> s.keys.view(np.float32).tolist(), s.counts.tolist(), s.zeros.tolist(), s.minimum.tolist(), s.maximum.tolist()
    ([0.5, -2.0], [2, 1], [1], [-2.0], [0.5])
    """

    @staticmethod
    def empty(units: int = 1, resolution: Resolution = TENSOR, grid: Grid | None = None) -> Sketch:
        """The sketch of ``units`` units without values, which changes nothing when it is added."""
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
        """The units of several sketches (at least one), one sketch's units behind the other's.

        Args:
            sketches: of any numbers of units. All are held at once.
            grid: of the result.

        Raises:
            UsageError: their resolutions differ, or only some have weights.
        """
        parts = list(sketches)
        for each in parts[1:]:
            check_resolutions(parts[0], each)
            check_weights(parts[0], each)
        return _laid_out(parts, sum(each.keys.size for each in parts), grid)

    def save(self, path: str | os.PathLike[str], name: str = "tensor", dtype: str = "float32") -> None:
        """Write the sketch to a sketch file, as the tensor ``name``. ``klcal.save_sketches`` writes several sketches.

        Raises:
            UsageError: the path cannot be written to, or the sketch has several units and no grid.
            OutputError: writing failed.
        """
        import_module("klcal.api.sketch_files").save_sketches(path, {name: self}, dtype)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Sketch:
        """The sketch in a file that has a single one. ``klcal.load_sketches`` reads several.

        Raises:
            InputError: the file is not a sketch file, is damaged, or has several sketches.
        """
        found: dict[str, Sketch] = import_module("klcal.api.sketch_files").load_sketches(path)
        if len(found) != 1:
            raise InputError(f"the file has {len(found)} sketches, not one", "use klcal.load_sketches(path)[name]")
        return next(iter(found.values()))

    def __add__(self, other: Sketch) -> Sketch:
        if not isinstance(other, Sketch):
            return NotImplemented
        check_addable(self, other)
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
        """A slice of the units, without a grid. Pieces are views of the same memory."""
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
        """The units with these numbers, (n,), in this order; the result has the grid that is given."""
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
        """The sum of ``times`` copies of the sketch: that of a tensor in which each value occurs ``times`` as often."""
        if times == 1:
            return self
        if not times:
            return Sketch.empty(self.units, self.resolution, self.grid)
        counters = {name: getattr(self, name) * times for name in COUNTERS}
        weights = None if self.weights is None else self.weights * times
        return replace(self, counts=narrow(self.counts.astype(np.int64) * times), weights=weights, **counters)

    def coarsen(self, mantissa_bits: int) -> Sketch:
        """The sketch that counting with fewer mantissa bits would give. Few distinct values are cut as well.

        ``exact`` stays True for a unit if none of its keys loses a bit that is set.

        Raises:
            UsageError: the sketch has fewer mantissa bits than that, or the number is negative.
        """
        if not 0 <= mantissa_bits <= self.resolution.mantissa_bits:
            raise UsageError(
                f"a sketch with {self.resolution.mantissa_bits} mantissa bits has no {mantissa_bits}",
                f"use 0 to {self.resolution.mantissa_bits}",
            )
        coarse = Resolution(mantissa_bits, min(mantissa_bits, self.resolution.least_bits), few=0)
        return settled(replace(self, resolution=coarse))


def settled(found: Sketch) -> Sketch:
    """The canonical form of a sketch: units with more than a few distinct values are cut to its resolution.

    Args:
        found: a sketch whose keys may have more bits than its resolution keeps.

    Returns:
        The same units. Keys that become equal are one piece, whose counts and weights are added; ``exact`` is False for
        a unit that lost a bit. A sketch that is canonical already is returned as it is.
    """
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
    """The sum, without its grid, by the compiled kernel; None if there is no kernel, or if a count exceeds int32."""
    numbers = added_numbers(one, other)
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


def _sums(one: Sketch, other: Sketch) -> Iterator[Sketch]:
    """The sum of two sketches of the same units, in parts: consecutive units of some ``ADDED_AT_ONCE`` pieces each."""
    ends = one.starts + other.starts
    first = 0
    while True:
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + ADDED_AT_ONCE, side="right")) - 1)
        yield _sum(one[first:last], other[first:last])
        if last >= one.units:
            return
        first = last


def _sum(one: Sketch, other: Sketch) -> Sketch:
    """The sum of two sketches of the same units by NumPy: pieces are sorted by unit and key, and equal keys joined."""
    keys, counts = np.concatenate([one.keys, other.keys]), np.concatenate([one.counts, other.counts])
    weights = side_by_side([one.weights, other.weights])
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
            **added_numbers(one, other),
            resolution=one.resolution,
        )
    )


def _laid_out(parts: Iterable[Sketch], room: int, grid: Grid | None) -> Sketch:
    """The concatenation of sketches that come one by one, so that they need not be held at once.

    Args:
        parts: at least one sketch.
        room: the largest number of pieces that they may have together. The arrays are made once, and cut at the end.
        grid: of the result.
    """
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
        weights=side_by_side(weights),
        starts=np.append(0, np.cumsum(np.concatenate(sizes))),
        **{name: np.concatenate([each[name] for each in per_unit]) for name in PER_UNIT},
        resolution=resolution,
        grid=grid,
    )
