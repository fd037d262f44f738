"""Values to integer counts: which these are, or how many fell into each bucket of the float32 bit pattern.

The key of a bucket is the top 19 bits of the pattern: sign, 8 bits of exponent, 10 of mantissa. So a
bucket is an interval of fixed relative width (2⁻¹⁰, 0.1 %), no range has to be known beforehand, and every
bfloat16, float16 and float8 value has a bucket of its own. Only integers and exact extremes come out, so the
result does not depend on how the values were cut, ordered or where they were counted.

NumPy counts here, where the compiled kernel does not: ``counter`` decides. ``device_counting`` gives the same integers
by torch. On a CPU even NumPy is faster than that (add.at on an int32 table: 2.0 ns per value, torch.bincount 2.5,
np.bincount 2.9, measured side by side on one core with 512 KiB of L2), so torch counts nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.threads import spread, threads
from klcal.quantizers.code_points import FLOATS, float8
from klcal.sketches.compiled_counting import CompiledCounter, LargeFloats, LargePatterns
from klcal.sketches.counted import counted_buckets, counted_values
from klcal.sketches.few import Few
from klcal.sketches.patterns import MANTISSA_BITS, SIGN, TENSOR, Resolution
from klcal.sketches.sketch import Sketch

__all__ = [
    "BUCKETS",
    "FLOAT_DTYPES",
    "SIGN_KEY",
    "Counter",
    "count",
    "counter",
    "merge_buckets",
    "values_of",
]

SHIFT = 23 - MANTISSA_BITS  # bits of a float32 pattern below its key
BUCKETS = 1 << (32 - SHIFT)  # keys of all patterns
SIGN_KEY = BUCKETS >> 1  # the key of -0.0; adding it to a magnitude's key makes it negative
BELOW_KEY = np.uint32((1 << SHIFT) - 1)  # the bits of a pattern that its key drops
NEGATIVE_ZERO = SIGN  # its pattern
NAN = np.float32(np.nan)
ONE = np.int32(1)  # a Python int would take add.at off its fast path

BLOCK = 1 << 16  # values counted at a time: their int64 keys (512 KiB) stay in a core's L2 cache
SMALL = 1 << 13  # values up to which sorting keys beats clearing and scanning a 2 MiB table
SHARE = 1 << 20  # values of a long array that one thread counts at least
LONG = 1 << 23  # values from which a second thread, which clears and scans tables of its own, pays: 4 ms of work
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
    "float8_e8m0fnu": np.uint8,
    "float4_e2m1fn": np.uint8,
}
"""What can be counted, and the NumPy type that holds it: bit patterns where NumPy has no such float.

Each has a value of its own: the bits of a float4 are the lower four.
"""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Counter(Protocol):
    """Counts flat arrays that come one after the other, as one unit."""

    def add(self, block: Array) -> None:
        """Count values more, contiguous ones. The more at a time the better, where they are in memory."""

    def sketch(self) -> Sketch:
        """What all of them were."""


def counter(dtype: str, resolution: Resolution = TENSOR) -> Counter:
    """Counts flat arrays of ``FLOAT_DTYPES[dtype]``, in native byte order. float64 is rounded to float32 first."""
    small, large = _parts(dtype, resolution)
    return small() if library() is None else CompiledCounter(small, large)


def _parts(dtype: str, resolution: Resolution) -> tuple[Callable[[], Counter], Callable[[], Counter]]:
    """What begins to count by NumPy, and by the compiled kernel."""
    if dtype in ("float32", "float64"):
        return partial(_FloatCounter, resolution), partial(LargeFloats, resolution)
    values = pattern_values(dtype)
    return partial(_PatternCounter, values, resolution), partial(LargePatterns, values, resolution)


def count(chunks: Iterable[Array], dtype: str, resolution: Resolution = TENSOR) -> Sketch:
    """Counts flat arrays of any size; parts of a long one at once, as their sketches add: see ``counter``."""
    found = counter(dtype, resolution)
    others: list[Sketch] = []
    for chunk in chunks:
        if chunk.size < LONG or threads() == 1:
            found.add(chunk)
        else:
            work = partial(_counted, chunk, dtype, resolution)
            others += spread(work, np.full(-(-chunk.size // SHARE), SHARE), parts=1)
    return sum(others, found.sketch())


def _counted(chunk: Array, dtype: str, resolution: Resolution, first: int, last: int) -> Sketch:
    """The sketch of some shares of a long array."""
    found = counter(dtype, resolution)
    found.add(chunk[first * SHARE : last * SHARE])
    return found.sketch()


def _blocks(values: Array) -> Iterator[Array]:
    return (values[start : start + BLOCK] for start in range(0, values.size, BLOCK))


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
    """A ``Counter`` of float32, and of float64 as that.

    Whole values are counted until there are more than a few; what comes from then on is counted in buckets. The sum of
    both sketches is that of all values.
    """

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution
        self.few = Few(resolution.few)
        self.are_few = True
        self.tally = _Tally(BUCKETS)
        self.keys = np.empty(BLOCK, np.intp)
        self.zeros = np.zeros(3, np.int64)  # positive and negative in the tally, and in blocks of nothing else
        self.nan = self.neg_inf = self.pos_inf = self.overflowed = self.underflowed = 0
        self.minimum, self.maximum, self.exact = np.inf, -np.inf, True  # of what is in the tally

    def add(self, block: Array) -> None:
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
        keys, counts = merge_buckets(*self.tally.buckets(), [0, SIGN_KEY], -self.zeros[:2])
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

    def __init__(self, values: Floats, resolution: Resolution) -> None:
        self.tally = _Tally(values.size)
        self.values = values
        self.resolution = resolution

    def add(self, block: Array) -> None:
        for some in _blocks(block):
            self.tally.add(some.view(f"u{some.itemsize}").astype(np.intp))

    def sketch(self) -> Sketch:
        patterns, counts = self.tally.buckets()
        return counted_values(self.values[patterns], counts, self.resolution)


def values_of(chunk: Array, dtype: str) -> npt.NDArray[np.floating]:
    """The values of a flat array of ``FLOAT_DTYPES[dtype]``: as float32, which holds them, but for float64."""
    if dtype in ("float64", "float32"):
        return chunk
    return pattern_values(dtype).take(chunk.view(f"u{chunk.itemsize}"))


@lru_cache
def pattern_values(dtype: str) -> Floats:
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
        case "float8_e8m0fnu":  # powers of two, neither zero nor sign; the last is NaN (OCP MX, §5.4.1)
            return np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), NAN).astype(np.float32)
        case "float4_e2m1fn":
            magnitudes = FLOATS[dtype][FLOATS[dtype] >= 0]
            return np.resize(np.concatenate([magnitudes, -magnitudes]), 256).astype(np.float32)
    raise KeyError(dtype)
