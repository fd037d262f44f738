"""The pieces of two sketches of the same units, added by the compiled kernel; NumPy's way is in the sketch itself."""

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
    """Of some units."""

    keys: npt.NDArray[np.uint32]  # (pieces,): ascending within a unit
    counts: npt.NDArray[np.signedinteger[Any]]
    starts: Integers  # (units + 1,), from 0 on


class Sum(NamedTuple):
    """Of two sketches."""

    pieces: Pieces
    exact: Bools  # (units,)


def added(one: Pieces, other: Pieces, exact: Bools, tops: Integers, kept: tuple[int, int, int]) -> Sum | None:
    """The sum, cut where there are many pieces; None where NumPy has to do it: there is no kernel, or a count is int64.

    Args:
        one: the pieces of a sketch.
        other: those of another one, of the same units.
        exact: (units,), whether nothing was lost in both.
        tops: (units,), the biased exponent of each unit's largest magnitude in the sum.
        kept: more than how many pieces of a unit are cut, and to how many mantissa bits: at its largest magnitude, and
            at least.
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
    inputs = [np.ascontiguousarray(each) for each in (*one, *other)]  # held, for the kernel has only addresses
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
