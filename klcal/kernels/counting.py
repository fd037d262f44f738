"""How often each float32 key or narrow pattern occurs, in C (``source/counting.h``): functions on arrays.

All that a count needs between two calls is in the arrays that these functions give and take, so several threads may
count at once, each into arrays of its own. Counts are uint32: they are to be taken out before there are 2³² values.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled

__all__ = [
    "FIELDS",
    "count_floats",
    "count_patterns",
    "few_bins",
    "few_counts",
    "float_table",
    "is_few",
    "key_counts",
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
Integers = npt.NDArray[np.int64]


def none_seen() -> Integers:
    """The ``FIELDS`` of no values."""
    seen = np.zeros(len(FIELDS), np.int64)
    seen[FIELDS.index("nearest")] = ALL_BITS
    return seen


def few_bins(limit: int) -> tuple[Table, Integers]:
    """Room for at most ``limit`` distinct values, and the numbers that describe it; zeros come on top."""
    number_bits = (BINS_PER_VALUE * limit + 1).bit_length()
    return np.zeros((2 << number_bits) * (1 + FLOAT_WAYS), np.uint32), np.array([number_bits, limit, 0, 1])


def float_table() -> Table:
    """Of no values. Pages that no value falls into take no memory."""
    return np.zeros((KEYS + SPARE) * FLOAT_WAYS, np.uint32)


def pattern_table(patterns: int) -> Table:
    """The same, of 2⁸ or 2¹⁶ patterns."""
    return np.zeros(patterns * (BYTE_WAYS if patterns == 1 << 8 else SHORT_WAYS), np.uint32)


def count_floats(values: Array, bins: Table, few: Integers, table: Table, seen: Integers) -> None:
    """Counts float32 or float64 values, among the few as long as they are; then in a table."""
    _kernel().klcal_count_floats(
        _pointer(values),
        ctypes.c_int64(values.size),
        ctypes.c_int64(values.dtype == np.float64),
        _pointer(bins),
        _pointer(few),
        _pointer(table),
        _pointer(seen),
    )


def is_few(few: Integers) -> bool:
    """Whether all values so far are among the few."""
    return bool(few[3])


def few_counts(bins: Table, few: Integers) -> tuple[npt.NDArray[np.uint32], Integers]:
    """The patterns that were counted among the few, ascending, and how often each was."""
    inverted, counts = np.split(bins, [2 << int(few[0])])
    places = np.flatnonzero(inverted)
    sums = counts.reshape(-1, FLOAT_WAYS)[places].sum(axis=1, dtype=np.uint64)
    pairs = (~inverted[places]).astype(np.uint64) << np.uint64(32) | sums
    pairs.sort()  # in a fifth of the time of an argsort
    return (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32).astype(np.int64)


def key_spans(seen: dict[str, int], shift: int) -> list[tuple[int, int]]:
    """From which key on, and before which one, the values of either sign lie: between the extremes that were seen.

    Args:
        seen: the ``FIELDS``.
        shift: bits of a pattern below its key.
    """
    spans = (seen["nearest"], seen["top"]), (seen["nearest"] + (ALL_BITS >> 1), seen["bottom"])
    return [(low >> shift, (high >> shift) + 1) for low, high in spans if high >= low]


def key_counts(table: Table, seen: Integers) -> tuple[Integers, Integers, int]:
    """The keys that occur, ascending, and how often each does; and how many zeros there were. The table is emptied."""
    known = dict(zip(FIELDS, seen.tolist(), strict=True))
    found = [_taken(table, FLOAT_WAYS, first, last) for first, last in key_spans(known, KEY_SHIFT)]
    zeros = _taken(table, FLOAT_WAYS, KEYS, KEYS + SPARE)[1]
    none = np.empty(0, np.int64)
    keys, counts = (np.concatenate([none, *(each[part] for each in found)]) for part in (0, 1))
    return keys, counts, int(zeros.sum())


def count_patterns(values: Array, table: Table) -> None:
    """Counts values of one or two bytes by their bits."""
    count = _kernel().klcal_count_bytes if values.itemsize == 1 else _kernel().klcal_count_shorts
    count(_pointer(values), ctypes.c_int64(values.size), _pointer(table))


def pattern_counts(table: Table) -> tuple[Integers, Integers]:
    """The patterns that occur, ascending, and how often each does. The table is emptied."""
    ways = BYTE_WAYS if table.size == BYTE_WAYS << 8 else SHORT_WAYS
    return _taken(table, ways, 0, table.size // ways)


def _taken(table: Table, ways: int, first: int, last: int) -> tuple[Integers, Integers]:
    keys, counts = np.empty(last - first, np.int64), np.empty(last - first, np.int64)
    found = _kernel().klcal_take_counts(
        _pointer(table),
        ctypes.c_int64(ways),
        ctypes.c_int64(first),
        ctypes.c_int64(last),
        _pointer(keys),
        _pointer(counts),
    )
    return keys[:found].copy(), counts[:found].copy()


def _kernel() -> Any:
    kernel = compiled()
    kernel.klcal_take_counts.restype = ctypes.c_int64
    return kernel


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(address(array))
