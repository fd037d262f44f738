"""How often each float32 key or narrow pattern occurs, in C (``source/counting.h``): functions on arrays.

All that a count needs between two calls is in the arrays that these functions give and take, so several threads may
count at once, each into arrays of its own. Counts are uint32: they are to be taken out before there are 2³² values.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled

__all__ = [
    "FIELDS",
    "FloatTables",
    "bucket_counts",
    "count_floats",
    "count_patterns",
    "few_counts",
    "float_tables",
    "is_few",
    "key_spans",
    "none_seen",
    "pattern_counts",
    "pattern_table",
]

KEYS = 1 << 19  # of all float32 patterns: their top 19 bits
SPARE = 32  # rows of a table after them, where zeros are counted
FLOAT_WAYS, SHORT_WAYS, BYTE_WAYS = 2, 4, 8  # tables side by side
BINS_PER_VALUE = 8  # of few values: of 4,000 in 2¹⁵ bins of two, 5.3 passes; in 2¹⁴ 6.8, in 2¹³ 8.6
ALL_BITS = 1 << 32
KEY_SHIFT = 13  # bits of a float32 pattern below its key
ZEROS = 2  # patterns that are 0: kept beside the few
KEPT = 16  # empty tables, some MB each: one for each thread that counts

FIELDS = (
    "zeros",
    "nan",
    "neg_inf",
    "pos_inf",
    "overflowed",
    "underflowed",
    "top",
    "bottom",
    "nearest",
    "bits",
)
"""What is seen beside the keys. The last four are of finite values that are not among the few: the greatest pattern as
a signed and as an unsigned number, the least magnitude but 0, and all bits that are set in any pattern."""

Array = npt.NDArray[Any]
Table = npt.NDArray[np.uint32]
Patterns = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int64]


def none_seen() -> Integers:
    """The ``FIELDS`` of no values."""
    seen = np.zeros(len(FIELDS), np.int64)
    seen[FIELDS.index("nearest")] = ALL_BITS
    return seen


class FloatTables(NamedTuple):
    """Where float values are counted: of no values, or of some until these are taken out."""

    bins: Table  # of few distinct values, how often each occurs, and where they are
    few: Integers  # log2 of how many bins; how many distinct values at most, and now; whether these are all; places
    table: Table  # of keys. Pages that no value falls into take no memory
    buckets: Patterns  # room for those with values
    counts: npt.NDArray[np.int32]  # of them
    pointers: tuple[ctypes.c_void_p, ...]  # to these five: to find one takes as long as to count 10,000 values


_EMPTY: dict[int, list[FloatTables]] = {}  # by the most distinct values: to clear them costs less than new memory


def float_tables(limit: int) -> FloatTables:
    """Of no values, with room for at most ``limit`` distinct ones kept whole; zeros come on top."""
    with suppress(KeyError, IndexError):
        return _EMPTY[limit].pop()
    number_bits = (BINS_PER_VALUE * limit + 1).bit_length()
    bins = np.zeros((2 << number_bits) * (1 + FLOAT_WAYS) + limit + ZEROS, np.uint32)
    few = np.array([number_bits, limit, 0, 1, 0])
    table = np.zeros((KEYS + SPARE) * FLOAT_WAYS, np.uint32)
    buckets, counts = np.empty(KEYS, np.uint32), np.empty(KEYS, np.int32)
    pointers = tuple(map(_pointer, (bins, few, table, buckets, counts)))
    return FloatTables(bins, few, table, buckets, counts, pointers)


def pattern_table(patterns: int) -> Table:
    """The same, of 2⁸ or 2¹⁶ patterns."""
    return np.zeros(patterns * (BYTE_WAYS if patterns == 1 << 8 else SHORT_WAYS), np.uint32)


def count_floats(values: Array, tables: FloatTables, seen: Integers) -> None:
    """Counts float32 or float64 values, among the few as long as they are; then in a table."""
    _kernel().klcal_count_floats(
        _pointer(values),
        ctypes.c_int64(values.size),
        ctypes.c_int64(values.dtype == np.float64),
        *tables.pointers[:3],
        _pointer(seen),
    )


def is_few(tables: FloatTables) -> bool:
    """Whether all values so far are among the few."""
    return bool(tables.few[3])


def few_counts(tables: FloatTables) -> tuple[Patterns, Integers]:
    """The patterns that were counted, ascending, and how often each was; all were among the few. Empties the tables."""
    pairs = np.empty(int(tables.few[1]) + ZEROS, np.uint64)
    found = _kernel().klcal_take_few(*tables.pointers[:2], _pointer(pairs))
    pairs = pairs[:found]
    pairs.sort()  # in a fifth of the time of an argsort
    _keep(tables)
    return (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32).astype(np.int64)


def bucket_counts(tables: FloatTables, seen: Integers) -> tuple[Patterns, npt.NDArray[np.int32]]:
    """The patterns at which buckets with values begin, ascending, and how many each has. Empties the tables.

    What was counted among the few is in them as well; it and the zeros join what was seen.
    """
    found = _kernel().klcal_take_buckets(*tables.pointers[:3], _pointer(seen), *tables.pointers[3:])
    buckets, counts = tables.buckets[:found].copy(), tables.counts[:found].copy()
    _keep(tables)
    return buckets, counts


def _keep(tables: FloatTables) -> None:
    """For whoever counts next; empty ones."""
    kept = _EMPTY.setdefault(int(tables.few[1]), [])
    if len(kept) < KEPT:
        kept.append(tables)


def key_spans(seen: dict[str, int], shift: int) -> list[tuple[int, int]]:
    """From which key on, and before which one, the values of either sign lie: between the extremes that were seen.

    Args:
        seen: the ``FIELDS``.
        shift: bits of a pattern below its key.
    """
    spans = (seen["nearest"], seen["top"]), (seen["nearest"] + (ALL_BITS >> 1), seen["bottom"])
    return [(low >> shift, (high >> shift) + 1) for low, high in spans if high >= low]


def count_patterns(values: Array, table: Table) -> None:
    """Counts values of one or two bytes by their bits."""
    count = _kernel().klcal_count_bytes if values.itemsize == 1 else _kernel().klcal_count_shorts
    count(_pointer(values), ctypes.c_int64(values.size), _pointer(table))


def pattern_counts(table: Table) -> tuple[Integers, Integers]:
    """The patterns that occur, ascending, and how often each does. The table is emptied."""
    ways = BYTE_WAYS if table.size == BYTE_WAYS << 8 else SHORT_WAYS
    patterns = table.size // ways
    keys, counts = np.empty(patterns, np.int64), np.empty(patterns, np.int64)
    found = _kernel().klcal_take_counts(
        _pointer(table),
        ctypes.c_int64(ways),
        ctypes.c_int64(0),
        ctypes.c_int64(patterns),
        _pointer(keys),
        _pointer(counts),
    )
    return keys[:found].copy(), counts[:found].copy()


@cache
def _kernel() -> Any:
    kernel = compiled()
    for each in (kernel.klcal_take_counts, kernel.klcal_take_few, kernel.klcal_take_buckets):
        each.restype = ctypes.c_int64
    return kernel


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(address(array))
