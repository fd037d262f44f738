"""Counting of one unit in C (``source/counting.h``): how often each float32 key, or each narrow pattern, occurs.

The state of a count is in arrays that the caller holds, so several threads may count at once, each into its own arrays.
Counts are uint32: the caller has to take them out before 2³² values were counted.
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

KEYS = 1 << 19  # keys of float32 patterns: their top 19 bits
SPARE = 32  # rows of a table behind the keys, where zeros are counted
FLOAT_WAYS, SHORT_WAYS, BYTE_WAYS = 2, 4, 8  # tables side by side: equal neighbours are counted in different ones
BINS_PER_VALUE = 8  # bins for each of the few values: 4,000 take 5.3 passes in 2¹⁵ bins of two, 6.8 in 2¹⁴, 8.6 in 2¹³
ALL_BITS = 1 << 32
KEY_SHIFT = 13  # bits of a float32 pattern below its key
ZEROS = 2  # patterns of 0.0 and -0.0, which do not count against the limit of distinct values
KEPT = 16  # empty tables, some MB each, that are kept for the next count: one for each thread

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
"""The numbers that are counted beside the keys. The last four are of the finite values that are counted by key:

- ``top``: the largest pattern as a signed number, that of the highest positive value; 0 if there is none.
- ``bottom``: the largest pattern as an unsigned number, that of the lowest negative value if there is one.
- ``nearest``: the smallest nonzero magnitude, as a pattern; 2³² if there is none.
- ``bits``: the union of all bits that are set.
"""

Array = npt.NDArray[Any]
Table = npt.NDArray[np.uint32]
Patterns = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int64]


def none_seen() -> Integers:
    """The ``FIELDS`` of no values, (FIELDS,), int64."""
    seen = np.zeros(len(FIELDS), np.int64)
    seen[FIELDS.index("nearest")] = ALL_BITS
    return seen


class FloatTables(NamedTuple):
    """The state of a count of floats: a hash table of few distinct values, and a table of keys for more of them."""

    bins: Table  # the hash table: distinct values, how often each occurs, and the list of bins in use
    few: Integers  # (5,): log2 of the bins; limit of distinct values; their number; whether all are few; bins in use
    table: Table  # ((KEYS + SPARE) · FLOAT_WAYS,): the counts of keys. Pages without values take no memory
    buckets: Patterns  # (KEYS,): scratch for the occupied buckets
    counts: npt.NDArray[np.int32]  # (KEYS,): scratch for their counts
    pointers: tuple[ctypes.c_void_p, ...]  # to these five: making one takes as long as counting 10,000 values


_EMPTY: dict[int, list[FloatTables]] = {}  # empty tables by their limit: clearing them is faster than new memory


def float_tables(limit: int) -> FloatTables:
    """The state of a count of no values, in which at most ``limit`` distinct nonzero values are kept whole."""
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
    """The state of a count of no patterns, where ``patterns`` is 2⁸ or 2¹⁶."""
    return np.zeros(patterns * (BYTE_WAYS if patterns == 1 << 8 else SHORT_WAYS), np.uint32)


def count_floats(values: Array, tables: FloatTables, seen: Integers) -> None:
    """Counts values: whole while there are few distinct ones, then by key.

    Args:
        values: (n,), contiguous, float32 or float64, which is rounded to float32.
        tables: the state, changed in place.
        seen: the ``FIELDS``, changed in place.
    """
    _kernel().klcal_count_floats(
        _pointer(values),
        ctypes.c_int64(values.size),
        ctypes.c_int64(values.dtype == np.float64),
        *tables.pointers[:3],
        _pointer(seen),
    )


def is_few(tables: FloatTables) -> bool:
    """Whether all values so far are kept whole."""
    return bool(tables.few[3])


def few_counts(tables: FloatTables) -> tuple[Patterns, Integers]:
    """The distinct patterns so far, (n,), ascending, and how often each occurred, (n,), if ``is_few``.

    The tables are empty afterwards, and belong to the next count.
    """
    pairs = np.empty(int(tables.few[1]) + ZEROS, np.uint64)
    found = _kernel().klcal_take_few(*tables.pointers[:2], _pointer(pairs))
    pairs = pairs[:found]
    pairs.sort()  # in a fifth of the time of an argsort
    _keep(tables)
    return (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32).astype(np.int64)


def bucket_counts(tables: FloatTables, seen: Integers) -> tuple[Patterns, npt.NDArray[np.int32]]:
    """The patterns at which occupied buckets begin, (n,), ascending, and their counts, (n,).

    Values that were kept whole are moved to their buckets, and ``seen`` is changed to include them and the zeros. The
    tables are empty afterwards, and belong to the next count.
    """
    found = _kernel().klcal_take_buckets(*tables.pointers[:3], _pointer(seen), *tables.pointers[3:])
    buckets, counts = tables.buckets[:found].copy(), tables.counts[:found].copy()
    _keep(tables)
    return buckets, counts


def _keep(tables: FloatTables) -> None:
    """Keeps empty tables for the next count."""
    kept = _EMPTY.setdefault(int(tables.few[1]), [])
    if len(kept) < KEPT:
        kept.append(tables)


def key_spans(seen: dict[str, int], shift: int) -> list[tuple[int, int]]:
    """The ranges of keys, first and end, in which the values of either sign lie.

    Args:
        seen: the ``FIELDS``.
        shift: the number of bits of a pattern below its key.
    """
    spans = (seen["nearest"], seen["top"]), (seen["nearest"] + (ALL_BITS >> 1), seen["bottom"])
    return [(low >> shift, (high >> shift) + 1) for low, high in spans if high >= low]


def count_patterns(values: Array, table: Table) -> None:
    """Counts values of one or two bytes by their bit patterns.

    Args:
        values: (n,), contiguous.
        table: the state, from ``pattern_table``; changed in place.
    """
    count = _kernel().klcal_count_bytes if values.itemsize == 1 else _kernel().klcal_count_shorts
    count(_pointer(values), ctypes.c_int64(values.size), _pointer(table))


def pattern_counts(table: Table) -> tuple[Integers, Integers]:
    """The patterns that occurred, (n,), ascending, and how often each did, (n,). The table is empty afterwards."""
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
