"""How often each float32 key or narrow pattern occurs, in C (``source/counting.h``): functions on arrays.

All that a count needs between two calls is in the arrays that these functions give and take, so several threads may
count at once, each into arrays of its own. Counts are uint32: a table takes 2³² − 1 values, and is emptied before.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, library

__all__ = [
    "FIELDS",
    "KEYS",
    "count_floats",
    "count_patterns",
    "few_bins",
    "few_counts",
    "float_table",
    "key_counts",
    "none_seen",
    "pattern_counts",
    "pattern_table",
]

KEYS = 1 << 19  # of all float32 patterns: their top 19 bits
SPARE = 32  # rows of a table after them, where zeros are counted
FLOAT_WAYS, SHORT_WAYS, BYTE_WAYS = 2, 4, 8  # tables side by side
BINS_PER_VALUE = 8  # of few values: of 4,000 in 2¹⁵ bins of two, 5.3 passes; in 2¹⁴ 6.8, in 2¹³ 8.6
ALL_BITS = 1 << 32

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


def few_bins(limit: int, size: int) -> tuple[Table, Integers]:
    """Room for at most ``limit`` distinct values of ``size``, and the numbers that describe it; zeros come on top."""
    number_bits = max(1, (min(BINS_PER_VALUE * limit, size) + 1).bit_length())
    return np.zeros((2 << number_bits) * (1 + FLOAT_WAYS), np.uint32), np.array([number_bits, limit, 0, 1])


def float_table() -> Table:
    """Of no values. Pages that no value falls into take no memory."""
    return np.zeros((KEYS + SPARE) * FLOAT_WAYS, np.uint32)


def pattern_table(itemsize: int) -> Table:
    """The same, of patterns of one or two bytes."""
    return np.zeros(BYTE_WAYS << 8 if itemsize == 1 else SHORT_WAYS << 16, np.uint32)


def count_floats(
    values: Array, bins: Table, few: Integers, table: Table | None, seen: Integers
) -> npt.NDArray[np.uint32]:
    """Counts float32 or float64 values, among the few as long as they are; then in a table.

    Without a table their keys are given, and ``KEYS`` or more for zeros.
    """
    keys = np.empty(values.size if table is None else 0, np.uint32)
    written = _kernel().klcal_count_floats(
        _pointer(values),
        ctypes.c_int64(values.size),
        ctypes.c_int64(values.dtype == np.float64),
        _pointer(bins),
        _pointer(few),
        None if table is None else _pointer(table),
        _pointer(keys),
        _pointer(seen),
    )
    return keys[:written]


def few_counts(bins: Table, few: Integers) -> tuple[npt.NDArray[np.uint32], Integers]:
    """The patterns that were counted among the few, ascending, and how often each was."""
    inverted, counts = np.split(bins, [2 << int(few[0])])
    places = np.flatnonzero(inverted)
    patterns = ~inverted[places]
    order = np.argsort(patterns)
    return patterns[order], counts.reshape(-1, FLOAT_WAYS)[places[order]].sum(axis=1, dtype=np.int64)


def key_counts(table: Table, seen: Integers) -> tuple[Integers, Integers, int]:
    """The keys that occur, ascending, and how often each does; and how many zeros there were. The table is emptied."""
    top, bottom, nearest = (int(seen[FIELDS.index(name)]) for name in ("top", "bottom", "nearest"))
    sign = ALL_BITS >> 1
    spans = [(nearest, top), (nearest + sign, bottom)]  # between the extremes of either sign
    found = [_taken(table, FLOAT_WAYS, low >> 13, (high >> 13) + 1) for low, high in spans if high >= low]
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
    kernel = library()
    assert kernel is not None  # who calls has asked
    kernel.klcal_count_floats.restype = kernel.klcal_take_counts.restype = ctypes.c_int64
    return kernel


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(address(array))
