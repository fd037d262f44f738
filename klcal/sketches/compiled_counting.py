"""Counters by the compiled kernel: the same sketches as NumPy's in ``counting``, to the bit.

Float values are counted whole until there are more than a few, what comes then in a table of their keys. Everything
else follows from the law of sketches: that of all values is the sum of those of the parts.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.counting import (
    FIELDS,
    KEYS,
    count_floats,
    count_patterns,
    few_bins,
    few_counts,
    float_table,
    key_counts,
    none_seen,
    pattern_counts,
    pattern_table,
)
from klcal.sketches.counted import counted_buckets, counted_patterns, counted_values
from klcal.sketches.patterns import SIGN, Resolution
from klcal.sketches.sketch import COUNTERS, Sketch

__all__ = ["CompiledFloats", "CompiledPatterns"]

SMALL = 1 << 13  # values up to which sorting keys beats clearing and scanning a table
FLUSH = 1 << 30  # values of a part: no uint32 count in its tables can overflow
SHIFT = 13  # bits of a float32 pattern below its key
BELOW_KEY = (1 << SHIFT) - 1

Array = npt.NDArray[Any]


class Part(Protocol):
    """At most ``FLUSH`` values on their way to a sketch."""

    def add(self, block: Array) -> None:
        """Count values more."""

    def sketch(self) -> Sketch:
        """What all of them were. Nothing is counted after that."""


class _Counter:
    """A ``Counter`` in parts; few values are kept until all of them have come, and need no table then."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.before = Sketch.empty(resolution=resolution)
        self._begin()

    def _begin(self) -> None:
        self.held: list[Array] = []
        self.size = 0
        self.part: Part | None = None

    def _part(self, size: int) -> Part:
        """For ``size`` values."""
        raise NotImplementedError

    def add(self, block: Array) -> None:
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
            self.part = self._part(FLUSH)
            for each in self.held:
                self.part.add(each)
            self.held.clear()
        self.part.add(block)

    def sketch(self) -> Sketch:
        part = self.part or self._part(self.size)
        if self.held:
            part.add(np.concatenate(self.held))
        return self.before + part.sketch()


class CompiledFloats(_Counter):
    """Of float32, and of float64 as that."""

    def _part(self, size: int) -> Part:
        return _Floats(size, self.resolution)


class CompiledPatterns(_Counter):
    """Of 16- and 8-bit floats: of their bit patterns; ``values`` is what each of them stands for."""

    def __init__(self, values: npt.NDArray[np.float32], resolution: Resolution) -> None:
        self.values = values
        super().__init__(resolution)

    def _part(self, size: int) -> Part:
        return _Patterns(self.values, size, self.resolution)


class _Floats:
    def __init__(self, size: int, resolution: Resolution) -> None:
        self.resolution = resolution
        self.bins, self.few = few_bins(resolution.few, size)
        self.table = float_table() if size > SMALL else None
        self.keys = np.empty(0, np.uint32)  # of the only block, where there is no table
        self.seen = none_seen()

    def add(self, block: Array) -> None:
        self.keys = count_floats(block, self.bins, self.few, self.table, self.seen)

    def sketch(self) -> Sketch:
        patterns, counts = few_counts(self.bins, self.few)
        whole = counted_patterns(patterns, counts, np.array([0, patterns.size]), self.resolution)
        return self._in_buckets() + whole

    def _in_buckets(self) -> Sketch:
        seen = dict(zip(FIELDS, self.seen.tolist(), strict=True))
        if self.table is None:
            keys, counts = np.unique(self.keys[self.keys < KEYS].astype(np.int64), return_counts=True)
            zeros = self.keys.size - int(counts.sum())
        else:
            keys, counts, zeros = key_counts(self.table, self.seen)
        seen["zeros"] += zeros
        minimum, maximum = _extremes(seen)
        return counted_buckets(
            keys.astype(np.uint32) << np.uint32(SHIFT),
            counts,
            exact=not seen["bits"] & BELOW_KEY,
            resolution=self.resolution,
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


class _Patterns:
    def __init__(self, values: npt.NDArray[np.float32], size: int, resolution: Resolution) -> None:
        self.values, self.resolution = values, resolution
        self.table = pattern_table(1 if values.size == 1 << 8 else 2) if size > SMALL else None
        self.few: tuple[Array, Array] = np.empty(0, np.uint16), np.empty(0, np.int64)  # where there is no table

    def add(self, block: Array) -> None:
        if self.table is not None:
            count_patterns(block, self.table)
        else:
            self.few = np.unique(block.view(f"u{block.itemsize}"), return_counts=True)

    def sketch(self) -> Sketch:
        patterns, counts = self.few if self.table is None else pattern_counts(self.table)
        return counted_values(self.values[patterns], counts, self.resolution)
