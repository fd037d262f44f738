"""Values of many units, to the distinct float32 patterns of each and how often each occurs: the compiled kernel's part.

Where there is none, NumPy does the same: ``klcal.sketches.by_unit``.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled
from klcal.kernels.threads import spread

__all__ = ["COUNTERS", "LANES", "MOST_IN_LANES", "TABLE_BITS", "Counted", "counted_units", "unit_weights"]

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Patterns = npt.NDArray[np.uint32]

COUNTERS = ("zeros", "nan", "neg_inf", "pos_inf", "overflowed", "underflowed")
KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}  # as in source/patterns.h
BYTES = 4  # the kind of all values that are one byte
LANES = 16  # units sorted at once
MOST_IN_LANES = 1 << 15  # values of such a unit, as in source/units.h
TABLE_BITS = 5  # of mantissa, at most, of which units are counted in tables, as in source/tables.h
MOST = (1 << 31) - 1  # values of a unit: its counts are int32


@dataclass(frozen=True)
class Counted:
    """What there is in some units."""

    keys: Patterns  # (pieces,): ascending within a unit
    counts: npt.NDArray[np.int32]
    starts: Integers  # (units + 1,)
    counters: dict[str, Integers]  # (units,) each
    minimum: npt.NDArray[np.float64]  # (units,): of finite values that are not zero; inf where there are none
    maximum: npt.NDArray[np.float64]
    exact: npt.NDArray[np.bool_]


def counted_units(
    values: Array,
    dtype: str,
    starts: Integers,
    kept: tuple[int, int, int],
    bytes_as: Patterns | None = None,
    turns: tuple[int, int] = (0, 1),
    *,
    first: int = 0,
) -> Counted:
    """Counts the values of units; the compiled kernel has to be there.

    Args:
        values: flat, in storage form.
        dtype: of them: float32, float64, float16, bfloat16, or any of one byte.
        starts: (units + 1,), where the units begin and end, each at most ``MOST`` values; ascending.
        kept: more than how many distinct values of a unit are cut, and to how many mantissa bits: at its largest
            magnitude, and at least.
        bytes_as: (256,), the pattern that each byte stands for.
        turns: of how many units, all of one size, so many values each take turns in ``values``; of no units where the
            values of each lie together.
        first: the unit in each turn that is the first of those counted.

    Raises:
        MemoryError: there is no room to sort in.
    """
    units, size = starts.size - 1, int(starts[-1] - starts[0])
    keys, counts = np.empty(size, np.uint32), np.empty(size, np.int32)
    numbers, extremes = np.zeros((1 + len(COUNTERS), units), np.int64), np.empty((2, units))
    exact = np.empty(units, bool)
    columns, run = turns
    flat = np.ascontiguousarray(values)
    begins = np.ascontiguousarray(starts - starts[0], np.int64)
    offset = (first * run if columns else int(starts[0])) * flat.itemsize
    function = _klcal_units()

    def count(some: int, last: int) -> slice:
        pieces = function(
            *(address(flat) + offset, KINDS.get(dtype, BYTES), None if bytes_as is None else address(bytes_as)),
            *(address(begins), columns, run, units, some, last, *kept),
            *(address(keys), address(counts), address(numbers), address(extremes), address(exact)),
        )
        if pieces < 0:
            raise MemoryError("no room to sort the values of some units in")
        return slice(begins[some], begins[some] + pieces)

    parts = spread(count, np.diff(begins))
    return Counted(
        _gathered(keys, parts),
        _gathered(counts, parts),
        np.append(0, np.cumsum(numbers[0])),
        dict(zip(COUNTERS, numbers[1:], strict=True)),
        extremes[0],
        extremes[1],
        exact,
    )


def unit_weights(
    values: Array,
    dtype: str,
    starts: Integers,
    weights: Integers,
    found: tuple[Patterns, Integers],
    bytes_as: Patterns | None = None,
) -> Integers:
    """What the values of each key weigh together; the compiled kernel has to be there.

    Args:
        values: flat, in storage form; those of each unit stand together.
        dtype: of them, as for ``counted_units``.
        starts: (units + 1,), from 0 on, where the units begin and end.
        weights: of the values, in their order.
        found: the keys of the units, and where those of each begin and end: (units + 1,).
        bytes_as: (256,), the pattern that each byte stands for.

    Returns:
        (3, pieces): the upper and the lower part of each sum, and how many weights are above 0.

    Raises:
        MemoryError: there is no room for the patterns of a unit.
    """
    keys, begins = found
    flat, each = np.ascontiguousarray(values), np.ascontiguousarray(weights)
    weighed = np.zeros((3, keys.size), np.int64)
    function = _klcal_unit_weights()

    def weigh(some: int, last: int) -> int:
        done: int = function(
            *(address(flat), KINDS.get(dtype, BYTES), None if bytes_as is None else address(bytes_as)),
            *(address(starts), address(each), some, last),
            *(address(keys), address(begins), keys.size, address(weighed)),
        )
        return done

    if sum(spread(weigh, np.diff(starts))) < starts.size - 1:
        raise MemoryError("no room for the patterns of a unit")
    return weighed


def _gathered(pieces: Array, parts: list[slice]) -> Array:
    """Parts of an array behind one another: without a copy where they fill it, or one of them fills most of it."""
    size = sum(part.stop - part.start for part in parts)
    if size == pieces.size:
        return pieces
    if len(parts) == 1 and 2 * size > pieces.size:
        return pieces[parts[0]]
    return np.concatenate([pieces[part] for part in parts])


def _klcal_units() -> Any:
    function = compiled().klcal_units
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, integer, pointer, pointer, *[integer] * 8, *[pointer] * 5]
    function.restype = integer
    return function


def _klcal_unit_weights() -> Any:
    function = compiled().klcal_unit_weights
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, integer, *[pointer] * 3, integer, integer, pointer, pointer, integer, pointer]
    function.restype = integer
    return function
