"""Counters by the compiled kernel: the same sketches as NumPy's in ``counting``, to the bit.

Float values are counted whole until there are more than a few, what comes then in a table of their keys. Everything
else follows from the law of sketches: that of all values is the sum of those of the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.counting import (
    FIELDS,
    bucket_counts,
    count_floats,
    count_patterns,
    few_counts,
    float_tables,
    is_few,
    none_seen,
    pattern_counts,
    pattern_table,
)
from klcal.sketches.counted import counted_buckets, counted_patterns, counted_values
from klcal.sketches.patterns import MANTISSA_BITS, PATTERN_BITS, SIGN, Integers, Numbers, Patterns, Resolution
from klcal.sketches.sketch import COUNTERS, Sketch

__all__ = ["CompiledCounter", "LargeFloats", "LargePatterns", "sketch_of_floats"]

SMALL = 1 << 13  # values that are kept, and sorted if no more come: a table is faster from here on (0.3 ms)
FLUSH = 1 << 30  # values of a part: no uint32 count of it can overflow
SHIFT = PATTERN_BITS - MANTISSA_BITS  # bits of a float32 pattern below its key
BELOW_KEY = (1 << SHIFT) - 1

Array = npt.NDArray[Any]


class Part(Protocol):
    """Some values on their way to a sketch, as flat arrays: at most ``FLUSH`` where the kernel counts."""

    def add(self, block: Array) -> None:
        """Count values more."""

    def sketch(self) -> Sketch:
        """What all of them were. Nothing is counted after that."""


class CompiledCounter:
    """A ``Counter`` in parts.

    Args:
        small: begins a part that needs no table: for all of the values, if they are few.
        large: begins a part in the kernel.
    """

    def __init__(self, small: Callable[[], Part], large: Callable[[], Part]) -> None:
        self.small, self.large = small, large
        self.before: Sketch | None = None  # of the parts that are complete
        self._begin()

    def _begin(self) -> None:
        self.held: list[Array] = []
        self.size = 0
        self.part: Part | None = None

    def add(self, block: Array) -> None:
        """Count values more, of any number."""
        for start in range(0, block.size, FLUSH):
            self._add(np.ascontiguousarray(block[start : start + FLUSH]))

    def _add(self, block: Array) -> None:
        if self.size + block.size > FLUSH:
            self.before = self.sketch()
            self._begin()
        self.size += block.size
        if self.size <= SMALL:
            self.held.append(block.copy())  # which is only valid until the next one comes
            return
        if self.part is None:
            self.part = self.large()
        for each in (*self.held, block):
            self.part.add(each)
        self.held.clear()

    def sketch(self) -> Sketch:
        """What all of them were."""
        part = self.part or self.small()
        if self.held:
            part.add(np.concatenate(self.held))
        found = part.sketch()
        return found if self.before is None else self.before + found


class LargeFloats:
    """A part of float32, and of float64 as that."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.tables = float_tables(resolution.few)
        self.seen = none_seen()

    def add(self, block: Array) -> None:
        """Count values more."""
        count_floats(block, self.tables, self.seen)

    def sketch(self) -> Sketch:
        """What all of them were; the tables are empty then, and another part's."""
        if is_few(self.tables):
            return sketch_of_floats(few_counts(self.tables), None, _by_name(self.seen), self.resolution)
        buckets, counts = bucket_counts(self.tables, self.seen)
        return _sketch_of_buckets(buckets, counts, _by_name(self.seen), self.resolution)


def _by_name(seen: Integers) -> dict[str, int]:
    return dict(zip(FIELDS, seen.tolist(), strict=True))


def sketch_of_floats(
    few: tuple[Patterns, Integers],
    buckets: tuple[Integers, Integers] | None,
    seen: dict[str, int],
    resolution: Resolution,
) -> Sketch:
    """The sketch of values of which some were counted whole and the others, if there are any, in buckets.

    Args:
        few: patterns, ascending, and how often each was counted.
        buckets: keys, ascending, and how many values fell into each; None where all values were counted whole.
        seen: the ``klcal.kernels.counting.FIELDS``.
        resolution: of the sketch.
    """
    patterns, counts = few
    whole = counted_patterns(patterns, counts, np.array([0, patterns.size]), resolution)
    if buckets is None:
        return replace(whole, **{name: getattr(whole, name) + seen[name] for name in COUNTERS})
    keys, counts = buckets
    return _sketch_of_buckets(keys.astype(np.uint32) << np.uint32(SHIFT), counts, seen, resolution) + whole


def _sketch_of_buckets(buckets: Patterns, counts: Numbers, seen: dict[str, int], resolution: Resolution) -> Sketch:
    minimum, maximum = _extremes(seen)
    return counted_buckets(
        buckets,
        counts,
        exact=not seen["bits"] & BELOW_KEY,
        resolution=resolution,
        minimum=minimum,
        maximum=maximum,
        **{name: seen[name] for name in COUNTERS},
    )


def _extremes(seen: dict[str, int]) -> tuple[float, float]:
    """The least and the greatest value but 0, of what was seen; (inf, -inf) for none."""
    positive, negative = seen["top"] > 0, seen["bottom"] > SIGN
    if not positive and not negative:
        return np.inf, -np.inf
    least = seen["bottom"] if negative else seen["nearest"]
    greatest = seen["top"] if positive else seen["nearest"] + int(SIGN)
    low, high = np.array([least, greatest], np.uint32).view(np.float32).tolist()
    return low, high


class LargePatterns:
    """A part of 16- or 8-bit floats: their bit patterns; ``values`` is what each of them stands for."""

    def __init__(self, values: npt.NDArray[np.float32], resolution: Resolution) -> None:
        self.values, self.resolution = values, resolution
        self.table = pattern_table(values.size)

    def add(self, block: Array) -> None:
        """Count values more."""
        count_patterns(block, self.table)

    def sketch(self) -> Sketch:
        """What all of them were; the tables are empty then."""
        patterns, counts = pattern_counts(self.table)
        return counted_values(self.values[patterns], counts, self.resolution)
