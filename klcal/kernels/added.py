"""Addition of sketches in C (``source/added.h``): merges the sorted pieces of each unit, without sorting them again.

``klcal.sketches.sketch`` does the same in NumPy.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, library

__all__ = ["Pieces", "Sum", "added"]

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Pieces(NamedTuple):
    """The pieces of a sketch: see ``klcal.sketches.sketch.Sketch``."""

    keys: npt.NDArray[np.uint32]  # (pieces,): ascending within a unit
    counts: npt.NDArray[np.signedinteger[Any]]  # (pieces,): int32 or int64
    starts: Integers  # (units + 1,): unit u has the pieces starts[u]:starts[u + 1]


class Sum(NamedTuple):
    """The sum of the pieces of two sketches."""

    pieces: Pieces
    exact: Bools  # (units,): whether no bit of a value was lost


def added(one: Pieces, other: Pieces, exact: Bools, tops: Integers, kept: tuple[int, int, int]) -> Sum | None:
    """The sum of the pieces of two sketches, in canonical form; None if there is no kernel, or a count exceeds int32.

    Args:
        one: the pieces of a sketch.
        other: the pieces of another sketch, of the same units.
        exact: (units,), whether both sketches are exact.
        tops: (units,), the biased exponent of the largest magnitude of each unit in the sum.
        kept: ``few``, ``mantissa_bits`` and ``least_bits`` of the sketches' ``Resolution``.
    """
    found = library()
    if found is None or not one.counts.dtype == other.counts.dtype == np.int32:
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.klcal_added.argtypes = [*[pointer] * 6, *[integer] * 5, *[pointer] * 5]
    found.klcal_added.restype = integer
    units, room = tops.size, one.keys.size + other.keys.size
    keys, counts = np.empty(room, np.uint32), np.empty(room, np.int32)
    sizes, still_exact = np.empty(units, np.int64), exact.copy()
    inputs = [np.ascontiguousarray(each) for each in (*one, *other)]  # kept alive: the kernel gets addresses only
    exponents = np.ascontiguousarray(tops, np.int64)
    size = found.klcal_added(
        *(address(each) for each in inputs),
        *(0, units, *kept),
        *(address(exponents), address(keys), address(counts), address(sizes), address(still_exact)),
    )
    if size < 0:
        return None
    keys.resize(size, refcheck=False)
    counts.resize(size, refcheck=False)
    return Sum(Pieces(keys, counts, np.append(0, np.cumsum(sizes))), still_exact)
