"""The compiled kernel's part of sketching units: the distinct float32 patterns of each, and their numbers.

A pattern has the bits of a float32 as a uint32: positive values ascend, then negative ones by magnitude. These
functions need the compiled kernel. Without it NumPy does the same: ``klcal.sketches.sorted_units``, and with importance
``klcal.sketches.weighted``.
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
BYTES = 4  # the kind of all dtypes of one byte
LANES = 16  # the number of units that are sorted at once, as in source/lanes.h
MOST_IN_LANES = 1 << 15  # the maximum number of values of such a unit, as in source/units.h
TABLE_BITS = 5  # the maximum number of mantissa bits for which units are counted in tables, as in source/tables.h
MOST = (1 << 31) - 1  # the maximum number of values of a unit, because counts are int32
NEARLY_FULL = 0.75  # share of an array from which its parts are moved within it: a new array takes 3 times as long


@dataclass(frozen=True)
class Counted:
    """The pieces and the numbers of some units: the fields of a ``klcal.sketches.sketch.Sketch``."""

    keys: Patterns  # (pieces,): the patterns, or those of buckets, ascending within a unit
    counts: npt.NDArray[np.int32]  # (pieces,): how often each occurs
    starts: Integers  # (units + 1,): unit u has the pieces starts[u]:starts[u + 1]
    counters: dict[str, Integers]  # the counters ``COUNTERS`` by name, (units,) each
    minimum: npt.NDArray[np.float64]  # (units,): of finite nonzero values; inf if there are none
    maximum: npt.NDArray[np.float64]  # (units,): of the same; -inf if there are none
    exact: npt.NDArray[np.bool_]  # (units,): whether no pattern was cut


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
    """Counts the values of units, by the compiled kernel.

    Args:
        values: (n,), in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values: float32, float64, float16, bfloat16, or any dtype of one byte.
        starts: (units + 1,), int64, ascending: where the units begin and end. A unit has at most ``MOST`` values.
        kept: the fields of ``klcal.sketches.patterns.Resolution``: the maximum number of distinct values that are kept
            whole; the mantissa bits of others near the largest magnitude of the unit; and the minimum of these bits.
        bytes_as: (256,), the pattern of the value of each byte; for dtypes of one byte only.
        turns: (columns, run): ``columns`` units of one size take turns in ``values``, with ``run`` values of each in a
            turn. (0, 1) if the values of each unit lie together.
        first: the number, in a turn, of the first unit that is counted.

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
    # In bytes. With turns, the kernel finds the values by columns and run, and uses ``begins`` for sizes alone.
    offset = (first * run if columns else int(starts[0])) * flat.itemsize
    function = _klcal_units()

    def count(some: int, last: int) -> slice:
        """The pieces of the units ``some`` to ``last``: they stand at the place of the first value, without gaps."""
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
    """The sums of the weights of the values of each key, by the compiled kernel.

    Args:
        values: (n,), in storage form; the values of each unit lie together.
        dtype: of the values, as for ``counted_units``.
        starts: (units + 1,), int64, contiguous, from 0 on: where the units begin and end.
        weights: (n,), int64, the weight of each value, at least 0.
        found: the keys, (pieces,), and where those of each unit begin and end, (units + 1,).
        bytes_as: (256,), the pattern of the value of each byte; for dtypes of one byte only.

    Returns:
        (3, pieces), int64: the upper and the lower part of each sum (``klcal.sketches.importance.joined_weights`` joins
        them), and the number of weights above 0.

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
    """Parts of an array behind one another. They are moved within it if they nearly fill it, else copied to a new one.

    Parts ascend and do not overlap, so moving one to the left overwrites none that is still to be moved.
    """
    size = sum(part.stop - part.start for part in parts)
    if size < NEARLY_FULL * pieces.size:
        return np.concatenate([pieces[part] for part in parts])
    place, width = address(pieces), pieces.itemsize
    for part in parts:
        bytes_ = int(part.stop - part.start) * width
        ctypes.memmove(place, address(pieces) + int(part.start) * width, bytes_)
        place += bytes_
    return pieces[:size]


def _klcal_units() -> Any:
    """The C function of ``counted_units``, with the types of its arguments."""
    function = compiled().klcal_units
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, integer, pointer, pointer, *[integer] * 8, *[pointer] * 5]
    function.restype = integer
    return function


def _klcal_unit_weights() -> Any:
    """The C function of ``unit_weights``, with the types of its arguments."""
    function = compiled().klcal_unit_weights
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer, integer, *[pointer] * 3, integer, integer, pointer, pointer, integer, pointer]
    function.restype = integer
    return function
