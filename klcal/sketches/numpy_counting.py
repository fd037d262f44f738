"""Counters of one unit in NumPy: the same sketches as by the compiled kernel, to the bit.

Keys are counted in an int32 table by np.add.at. torch counts nothing on a CPU, because NumPy is faster (np.add.at: 2.0
ns per value, torch.bincount 2.5, np.bincount 2.9, measured side by side on one core with 512 KiB of L2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.counted import counted_buckets, counted_values
from klcal.sketches.few import Few
from klcal.sketches.patterns import MANTISSA_BITS, SIGN, Resolution
from klcal.sketches.sketch import Sketch

__all__ = ["BLOCK", "FloatCounter", "PatternCounter"]

SHIFT = 23 - MANTISSA_BITS  # bits of a float32 pattern below its key
BUCKETS = 1 << (32 - SHIFT)  # the number of keys, 2¹⁹
SIGN_KEY = BUCKETS >> 1  # the key of -0.0; adding it to a magnitude's key makes it negative
BELOW_KEY = np.uint32((1 << SHIFT) - 1)  # the bits of a pattern that its key drops
NEGATIVE_ZERO = SIGN  # the pattern of -0.0
ONE = np.int32(1)  # a Python int would take add.at off its fast path

BLOCK = 1 << 16  # values counted at a time: their int64 keys (512 KiB) stay in a core's L2 cache
SMALL = 1 << 13  # values up to which sorting keys beats clearing and scanning a 2 MiB table
FLUSH = 1 << 30  # values after which the int32 table is emptied, before a count in it can overflow

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class FloatCounter:
    """A ``Counter`` of float32, or of float64 rounded to float32, in NumPy.

    Values are counted whole until there are more than a few distinct ones. From then on they are counted by bucket. The
    sketch of all values is the sum of both.
    """

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.few = Few(resolution.few)
        self.are_few = True
        self.tally = _Tally(BUCKETS)
        self.keys = np.empty(BLOCK, np.intp)
        self.zeros = np.zeros(3, np.int64)  # 0.0 and -0.0 in the tally, and zeros of blocks without other values
        self.nan = self.neg_inf = self.pos_inf = self.overflowed = self.underflowed = 0
        self.minimum, self.maximum, self.exact = np.inf, -np.inf, True  # of what is in the tally

    def add(self, block: Array) -> None:
        """Counts the values of a flat array of float32 or float64."""
        for some in _blocks(block):
            self._add(some)

    def _add(self, block: Array) -> None:
        values, low, high = _extremes(block)
        if not np.isfinite(low - high):
            self._count_nonfinite(block)
            values, low, high = _extremes(values[np.isfinite(values)])
        if block.dtype == np.float64:
            self.underflowed += int(np.count_nonzero(block) - np.count_nonzero(values)) - (block.size - values.size)
        if low == high == 0:  # masks and padding: nothing to look up
            self.zeros[2] += values.size
            return
        bits = values.view(np.uint32)
        self.are_few = self.are_few and self.few.add(bits)
        if self.are_few:
            return
        if low == 0 or high == 0:
            low, high = _nonzero_extremes(bits, low, high)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.exact = self.exact and not (bits & BELOW_KEY).any()
        keys = self.keys[: bits.size]
        np.right_shift(bits, SHIFT, out=keys, casting="unsafe")
        if self.tally.add(keys, watched=(0, SIGN_KEY)):
            self.zeros[:2] += np.count_nonzero(bits == 0), np.count_nonzero(bits == NEGATIVE_ZERO)

    def _count_nonfinite(self, block: Array) -> None:
        nan, neg_inf, pos_inf = (int(mask.sum()) for mask in (np.isnan(block), block == -np.inf, block == np.inf))
        finite = int(np.count_nonzero(np.isfinite(_singles(block))))
        self.nan, self.neg_inf, self.pos_inf = self.nan + nan, self.neg_inf + neg_inf, self.pos_inf + pos_inf
        self.overflowed += block.size - finite - nan - neg_inf - pos_inf

    def sketch(self) -> Sketch:
        """The sketch of all values that were added."""
        keys, counts = _merge_buckets(*self.tally.buckets(), [0, SIGN_KEY], -self.zeros[:2])
        in_buckets = counted_buckets(
            keys.astype(np.uint32) << np.uint32(SHIFT),
            counts,
            exact=self.exact,
            resolution=self.resolution,
            minimum=self.minimum,
            maximum=self.maximum,
            zeros=int(self.zeros.sum()),
            nan=self.nan,
            neg_inf=self.neg_inf,
            pos_inf=self.pos_inf,
            overflowed=self.overflowed,
            underflowed=self.underflowed,
        )
        return in_buckets + self.few.sketch(self.resolution)


def _extremes(block: Array) -> tuple[Floats, float, float]:
    """The block as float32 and its extremes: NaN if it holds one, (inf, -inf) if it is empty."""
    values = _singles(block)
    if not values.size:
        return values, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        return values, float(values.min()), float(values.max())


def _singles(block: Array) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return block.astype(np.float32, copy=False)


def _nonzero_extremes(bits: npt.NDArray[np.uint32], low: float, high: float) -> tuple[float, float]:
    """The extremes of the nonzero values among values that have one sign or are zero; (inf, -inf) if all are zero.

    Subtracting 1 from the pattern of a zero wraps around to the largest unsigned number. So the smallest such
    difference belongs to the value nearest to zero.
    """
    first = 1 if low == 0 else int(NEGATIVE_ZERO) + 1  # the pattern of the value next to zero
    nearest = int((bits - np.uint32(first)).min()) + first
    value = float(np.uint32(nearest % (1 << 32)).view(np.float32))
    if value == 0:
        return np.inf, -np.inf
    return (value, high) if low == 0 else (low, value)


class _Tally:
    """Counts keys in a table. A single small block is sorted instead, which is 20 times faster.

    The table is int32, half as large in the cache as int64 would be. It is emptied before a count can overflow.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.table: npt.NDArray[np.int32] | None = None
        self.pending = 0  # values in the table
        self.keys = self.counts = np.empty(0, np.int64)  # of what is no longer there

    def add(self, keys: npt.NDArray[np.intp], watched: tuple[int, ...] = ()) -> bool:
        """Counts the keys, (n,), and returns whether any of them is one of those watched."""
        if self.table is None and not self.keys.size and keys.size <= SMALL:
            self.keys, self.counts = np.unique(keys, return_counts=True)
            return any(key in self.keys for key in watched)
        if self.table is None:
            self.table = np.zeros(self.size, np.int32)
        if self.pending + keys.size > FLUSH:
            self._empty()
        before = [self.table[key] for key in watched]
        np.add.at(self.table, keys, ONE)
        self.pending += keys.size
        return before != [self.table[key] for key in watched]

    def _empty(self) -> None:
        if self.table is not None:
            occupied = np.flatnonzero(self.table)
            self.keys, self.counts = _merge_buckets(self.keys, self.counts, occupied, self.table[occupied])
            self.table[occupied] = 0
            self.pending = 0

    def buckets(self) -> tuple[Integers, Integers]:
        """The keys that occurred, ascending, and how often each did."""
        self._empty()
        return self.keys, self.counts


class PatternCounter:
    """A ``Counter`` of 16- or 8-bit floats in NumPy, which counts their bit patterns.

    Args:
        values: (2¹⁶,) or (256,), the float32 value of each bit pattern.
        resolution: of the sketch.
    """

    def __init__(self, values: Floats, resolution: Resolution) -> None:
        self.tally = _Tally(values.size)
        self.values = values
        self.resolution = resolution

    def add(self, block: Array) -> None:
        """Counts the values of a flat array of two or one bytes each."""
        for some in _blocks(block):
            self.tally.add(some.view(f"u{some.itemsize}").astype(np.intp))

    def sketch(self) -> Sketch:
        """The sketch of all values that were added."""
        patterns, counts = self.tally.buckets()
        return counted_values(self.values[patterns], counts, self.resolution)


def _blocks(values: Array) -> Iterator[Array]:
    return (values[start : start + BLOCK] for start in range(0, values.size, BLOCK))


def _merge_buckets(
    keys: Integers, counts: Integers, more_keys: npt.ArrayLike = (), more_counts: npt.ArrayLike = ()
) -> tuple[Integers, Integers]:
    """The distinct keys of two lists, ascending, and the sums of their counts; sums of 0 are left out.

    Args:
        keys: (n,), in any order.
        counts: (n,), of any sign.
        more_keys: (m,), in any order.
        more_counts: (m,), of any sign.

    >>> _merge_buckets(np.array([4, 2]), np.array([1, 5]), [2, 4], [1, -1])
    (array([2]), array([6]))
    """
    keys = np.concatenate([keys, np.asarray(more_keys, np.int64)])
    counts = np.concatenate([counts, np.asarray(more_counts, np.int64)])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if first.size:
        keys, counts = keys[first], np.add.reduceat(counts, first)
    return keys[counts != 0], counts[counts != 0]
