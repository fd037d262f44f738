"""Counters that use the compiled kernel. Their sketches are those of ``numpy_counting``, to the bit.

Values of float32 and float64 are counted whole until there are more than a few distinct ones. From then on, values are
counted by their bucket, in a table. The sketch of all values is the sum of both, as the law of sketches says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.counting import (
    FIELDS,
    FloatTables,
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

SMALL = 1 << 13  # values up to which they are held and sorted: beyond, a table is faster (0.3 ms)
FLUSH = 1 << 30  # values of one part at most: no uint32 count in it can overflow
SHIFT = PATTERN_BITS - MANTISSA_BITS  # bits of a float32 pattern below its key
BELOW_KEY = (1 << SHIFT) - 1

Array = npt.NDArray[Any]


class Part(Protocol):
    """Counts some of the values of a unit: at most ``FLUSH`` of them, if the kernel counts."""

    def add(self, block: Array) -> None:
        """Counts the values of a flat, contiguous array in storage form."""

    def sketch(self) -> Sketch:
        """The sketch of all values that were added. The part must not be used after that."""


class CompiledCounter:
    """A ``Counter`` of any number of values, which it counts in parts.

    Args:
        small: makes a part that needs no table, for at most ``SMALL`` values in all.
        large: makes a part that counts in the kernel.
    """

    def __init__(self, small: Callable[[], Part], large: Callable[[], Part]) -> None:
        self.small, self.large = small, large
        self.before: Sketch | None = None  # the sum of the parts that are complete
        self._begin()

    def _begin(self) -> None:
        self.held: list[Array] = []
        self.size = 0
        self.part: Part | None = None

    def add(self, block: Array) -> None:
        """Counts the values of a flat array of any size, in storage form."""
        for start in range(0, block.size, FLUSH):
            self._add(np.ascontiguousarray(block[start : start + FLUSH]))

    def _add(self, block: Array) -> None:
        if self.size + block.size > FLUSH:
            self.before = self.sketch()
            self._begin()
        self.size += block.size
        if self.size <= SMALL:
            self.held.append(block.copy())  # the caller may overwrite the array
            return
        if self.part is None:
            self.part = self.large()
        for each in (*self.held, block):
            self.part.add(each)
        self.held.clear()

    def sketch(self) -> Sketch:
        """The sketch of all values that were added."""
        part = self.part or self.small()
        if self.held:
            part.add(np.concatenate(self.held))
        found = part.sketch()
        return found if self.before is None else self.before + found


class LargeFloats:
    """A ``Part`` of float32 values, or of float64 values rounded to float32."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.tables: FloatTables | None = float_tables(resolution.few)
        self.seen = none_seen()

    def add(self, block: Array) -> None:
        """Counts the values of a flat, contiguous array of float32 or float64."""
        assert self.tables is not None
        count_floats(block, self.tables, self.seen)

    def sketch(self) -> Sketch:
        """The sketch of all values that were added. It gives the tables back, for another part to use."""
        tables, self.tables = self.tables, None
        assert tables is not None
        if is_few(tables):
            return sketch_of_floats(few_counts(tables), None, _by_name(self.seen), self.resolution)
        buckets, counts = bucket_counts(tables, self.seen)
        return _sketch_of_buckets(buckets, counts, _by_name(self.seen), self.resolution)


def _by_name(seen: Integers) -> dict[str, int]:
    """What the kernel has seen, (FIELDS,), by the names in ``klcal.kernels.counting.FIELDS``."""
    return dict(zip(FIELDS, seen.tolist(), strict=True))


def sketch_of_floats(
    few: tuple[Patterns, Integers],
    buckets: tuple[Integers, Integers] | None,
    seen: dict[str, int],
    resolution: Resolution,
) -> Sketch:
    """The sketch of one unit, of which the first values were counted whole and any others in buckets.

    Args:
        few: patterns (n,), ascending, and how often each was counted whole, (n,).
        buckets: 19-bit keys (m,), ascending, and the number of other values in each, (m,); None if there are none.
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
    """The sketch of one unit from the patterns at which its buckets begin, (n,), and their counts, (n,)."""
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
    """The lowest and the highest nonzero value that was counted in buckets; (inf, -inf) if there is none."""
    positive, negative = seen["top"] > 0, seen["bottom"] > SIGN
    if not positive and not negative:
        return np.inf, -np.inf
    least = seen["bottom"] if negative else seen["nearest"]
    greatest = seen["top"] if positive else seen["nearest"] + int(SIGN)
    low, high = np.array([least, greatest], np.uint32).view(np.float32).tolist()
    return low, high


class LargePatterns:
    """A ``Part`` of 16- or 8-bit floats, which counts their bit patterns.

    Args:
        values: (2¹⁶,) or (256,), the float32 value of each bit pattern.
        resolution: of the sketch.
    """

    def __init__(self, values: npt.NDArray[np.float32], resolution: Resolution) -> None:
        self.values, self.resolution = values, resolution
        self.table = pattern_table(values.size)

    def add(self, block: Array) -> None:
        """Counts the values of a flat, contiguous array of two or one bytes each."""
        count_patterns(block, self.table)

    def sketch(self) -> Sketch:
        """The sketch of all values that were added. It empties the table."""
        patterns, counts = pattern_counts(self.table)
        return counted_values(self.values[patterns], counts, self.resolution)
