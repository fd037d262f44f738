"""Values to integer counts: how many fell into each bucket of the float32 bit pattern.

The key of a bucket is the top 19 bits of the pattern: sign, 8 bits of exponent, 10 of mantissa. So a
bucket is an interval of fixed relative width (2⁻¹⁰, 0.1 %), no range has to be known beforehand, and every
bfloat16, float16 and float8 value has a bucket of its own. Only integers and exact extremes come out, so the
result does not depend on how the values were cut, ordered or where they were counted.

NumPy counts here; ``device_counting`` gives the same integers by torch. On a CPU NumPy is the faster one (add.at on
an int32 table: 2.0 ns per value, torch.bincount 2.5, np.bincount 2.9, measured side by side on one core with 512 KiB of
L2), so torch counts nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.quantizers.code_points import float8

__all__ = [
    "BUCKETS",
    "FLOAT_DTYPES",
    "MANTISSA_BITS",
    "SIGN_KEY",
    "Counter",
    "Counts",
    "count",
    "counter",
    "merge_buckets",
    "values_of",
]

MANTISSA_BITS = 10  # as many as float16 has: lossless for it and for bfloat16
SHIFT = 23 - MANTISSA_BITS  # bits of a float32 pattern below its key
BUCKETS = 1 << (32 - SHIFT)  # keys of all patterns
SIGN_KEY = BUCKETS >> 1  # the key of -0.0; adding it to a magnitude's key makes it negative
BELOW_KEY = np.uint32((1 << SHIFT) - 1)  # the bits of a pattern that its key drops
NEGATIVE_ZERO = np.uint32(1 << 31)  # pattern of -0.0
NAN = np.float32(np.nan)
ONE = np.int32(1)  # a Python int would take add.at off its fast path

BLOCK = 1 << 16  # values counted at a time: their int64 keys (512 KiB) stay in a core's L2 cache
SMALL = 1 << 13  # values up to which sorting keys beats clearing and scanning a 2 MiB table
FLUSH = 1 << 30  # values after which the int32 table is emptied: no count in it can overflow

FLOAT_DTYPES: dict[str, type[np.generic]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
    "float8_e4m3fnuz": np.uint8,
    "float8_e5m2fnuz": np.uint8,
}
"""What can be counted, and the NumPy type that holds it: bit patterns where NumPy has no such float."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Counts:
    """What one pass over some values found. All of it merges exactly."""

    keys: Integers = field(default_factory=lambda: np.empty(0, np.int64))  # of the occupied buckets, ascending
    counts: Integers = field(default_factory=lambda: np.empty(0, np.int64))  # nonzero values in each
    zeros: int = 0
    nan: int = 0
    neg_inf: int = 0
    pos_inf: int = 0
    minimum: float = np.inf  # of the finite values that are not zero
    maximum: float = -np.inf  # (inf, -inf) where there are none
    exact: bool = True  # every value is the edge of its bucket nearest to zero: nothing was rounded


class Counter(Protocol):
    """Counts flat arrays that come one after the other."""

    def add(self, block: Array) -> None:
        """Count at most ``BLOCK`` values more."""

    def counts(self) -> Counts:
        """What all of them were."""


def counter(dtype: str) -> Counter:
    """Counts flat arrays of ``FLOAT_DTYPES[dtype]``, in native byte order.

    float64 is rounded to float32 first; what overflows is counted as infinite.
    """
    return _FloatCounter() if dtype in ("float32", "float64") else _PatternCounter(_pattern_values(dtype))


def count(chunks: Iterable[Array], dtype: str) -> Counts:
    """Counts flat arrays of any size: see ``counter``."""
    found = counter(dtype)
    for chunk in chunks:
        for start in range(0, chunk.size, BLOCK):
            found.add(chunk[start : start + BLOCK])
    return found.counts()


def merge_buckets(
    keys: Integers, counts: Integers, more_keys: npt.ArrayLike = (), more_counts: npt.ArrayLike = ()
) -> tuple[Integers, Integers]:
    """Sorts keys, adds the counts of equal ones, and leaves out those that come to nothing."""
    keys = np.concatenate([keys, np.asarray(more_keys, np.int64)])
    counts = np.concatenate([counts, np.asarray(more_counts, np.int64)])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    if first.size:
        keys, counts = keys[first], np.add.reduceat(counts, first)
    return keys[counts != 0], counts[counts != 0]


class _FloatCounter:
    """A ``Counter`` of float32, and of what is rounded to it."""

    def __init__(self) -> None:
        self.tally = _Tally(BUCKETS)
        self.keys = np.empty(BLOCK, np.intp)
        self.zeros = np.zeros(3, np.int64)  # positive, negative, and in blocks of nothing else
        self.nan = self.neg_inf = self.pos_inf = 0
        self.minimum, self.maximum, self.exact = np.inf, -np.inf, True

    def add(self, block: Array) -> None:
        values, low, high = _extremes(block)
        if not np.isfinite(low - high):
            self.nan += int(np.count_nonzero(np.isnan(values)))
            self.neg_inf += int(np.count_nonzero(values == -np.inf))
            self.pos_inf += int(np.count_nonzero(values == np.inf))
            values, low, high = _extremes(values[np.isfinite(values)])
        if low == high == 0:  # masks and padding: nothing to look up
            self.zeros[2] += values.size
            return
        bits = values.view(np.uint32)
        if low == 0 or high == 0:
            low, high = _nonzero_extremes(bits, low, high)
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.exact = self.exact and not (bits & BELOW_KEY).any()
        keys = self.keys[: bits.size]
        np.right_shift(bits, SHIFT, out=keys, casting="unsafe")
        if self.tally.add(keys, watched=(0, SIGN_KEY)):
            self.zeros[:2] += np.count_nonzero(bits == 0), np.count_nonzero(bits == NEGATIVE_ZERO)

    def counts(self) -> Counts:
        keys, counts = merge_buckets(*self.tally.buckets(), [0, SIGN_KEY], -self.zeros[:2])
        zeros = int(self.zeros.sum())
        extremes = self.minimum, self.maximum
        return Counts(keys, counts, zeros, self.nan, self.neg_inf, self.pos_inf, *extremes, self.exact)


def _extremes(block: Array) -> tuple[Floats, float, float]:
    """The block as float32 and its extremes: NaN if it holds one, (inf, -inf) if it is empty."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = block.astype(np.float32, copy=False)
        if not values.size:
            return values, np.inf, -np.inf
        return values, float(values.min()), float(values.max())


def _nonzero_extremes(bits: npt.NDArray[np.uint32], low: float, high: float) -> tuple[float, float]:
    """The extremes without the zeros, of values that are all of one sign, or zero.

    One below the pattern of a zero is the greatest unsigned number, so the least of such numbers belongs to the value
    nearest to zero.
    """
    first = 1 if low == 0 else int(NEGATIVE_ZERO) + 1  # the pattern of the value next to zero
    nearest = int((bits - np.uint32(first)).min()) + first
    value = float(np.uint32(nearest % (1 << 32)).view(np.float32))
    if value == 0:
        return np.inf, -np.inf
    return (value, high) if low == 0 else (low, value)


class _Tally:
    """Adds keys up in a table; where one small block is all there is, by sorting it, 20 times faster.

    The table is of int32, because half as much of it has to stay in the cache; it is emptied in time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.table: npt.NDArray[np.int32] | None = None
        self.pending = 0  # values in the table
        self.keys = self.counts = np.empty(0, np.int64)  # of what is no longer there

    def add(self, keys: npt.NDArray[np.intp], watched: tuple[int, ...] = ()) -> bool:
        """Counts the keys; whether any of them is one of those watched."""
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
            self.keys, self.counts = merge_buckets(self.keys, self.counts, occupied, self.table[occupied])
            self.table[occupied] = 0
            self.pending = 0

    def buckets(self) -> tuple[Integers, Integers]:
        """The keys that occurred, ascending, and how often each did."""
        self._empty()
        return self.keys, self.counts


class _PatternCounter:
    """A ``Counter`` of 16- and 8-bit floats: of their bit patterns; ``values`` is what each of them stands for."""

    def __init__(self, values: Floats) -> None:
        self.tally = _Tally(values.size)
        self.values = values

    def add(self, block: Array) -> None:
        self.tally.add(block.view(f"u{block.itemsize}").astype(np.intp))

    def counts(self) -> Counts:
        patterns, counts = self.tally.buckets()
        return _weighted(self.values[patterns], counts)


def _weighted(values: Floats, counts: Integers) -> Counts:
    """Counts of distinct float32 values, each standing as often as its count says."""
    finite = np.isfinite(values)
    nonzero = finite & (values != 0)
    bits = values[nonzero].view(np.uint32)
    keys, bucket_counts = merge_buckets((bits >> np.uint32(SHIFT)).astype(np.int64), counts[nonzero])
    _, low, high = _extremes(values[nonzero])
    return Counts(
        keys,
        bucket_counts,
        zeros=int(counts[values == 0].sum()),
        nan=int(counts[np.isnan(values)].sum()),
        neg_inf=int(counts[values == -np.inf].sum()),
        pos_inf=int(counts[values == np.inf].sum()),
        minimum=low,
        maximum=high,
        exact=not (bits & BELOW_KEY).any(),
    )


def values_of(chunk: Array, dtype: str) -> npt.NDArray[np.floating]:
    """The values of a flat array of ``FLOAT_DTYPES[dtype]``: as float32, which holds them, but for float64."""
    if dtype in ("float64", "float32"):
        return chunk
    return _pattern_values(dtype).take(chunk.view(f"u{chunk.itemsize}"))


@lru_cache
def _pattern_values(dtype: str) -> Floats:
    """What each bit pattern of a 16- or 8-bit float stands for, as float32 (exact)."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    match dtype:
        case "float16":
            return patterns.view(np.float16).astype(np.float32)
        case "bfloat16":
            return (patterns.astype(np.uint32) << 16).view(np.float32)
        case "float8_e5m2":  # the upper byte of a float16
            return (patterns[:256] << 8).view(np.float16).astype(np.float32)
        case "float8_e4m3fn":  # no infinities, NaN where all bits but the sign are set
            return np.where(patterns[:256] % 128 == 127, NAN, float8(3, bias=7)).astype(np.float32)
        case "float8_e4m3fnuz":  # no infinities, no -0: its pattern is the only NaN
            return np.where(patterns[:256] == 128, NAN, float8(3, bias=8)).astype(np.float32)
        case "float8_e5m2fnuz":
            return np.where(patterns[:256] == 128, NAN, float8(2, bias=16)).astype(np.float32)
    raise KeyError(dtype)
