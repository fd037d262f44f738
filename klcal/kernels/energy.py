"""Sums of squares by column, in integers: they add up exactly, in any order of any batches.

A square is rounded once, to 0.1 %, and then added to the cell of its magnitude. A cell covers 4 octaves of magnitudes
and counts in units of a power of 4, so that its squares are whole numbers.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, library

__all__ = ["CELLS", "WIDTH", "add_energy", "roots"]

BITS = 10  # mantissa bits that are kept behind the leading one: a square is at most 0.1 % off
CELLS = 64  # of 4 octaves each: a square is at most 2²⁸ units of its cell, and 2³⁴ of them add up in an int64
WIDTH = CELLS + 2  # the cells of a column, the number of its infinite values, and that of its NaN
OCTAVES = 4  # of a cell
NONFINITE = 255  # the biased exponent of infinities and NaN
FINEST = -137  # the exponent of the first cell's root: BITS below 2⁻¹²⁶, and one more, where the cell begins
ROWS = 1 << 12  # values of a column that NumPy looks at together, which bounds its scratch memory

Integers = npt.NDArray[np.int64]


def roots() -> npt.NDArray[np.float32]:
    """The square root of the unit of each cell, (CELLS,): n units are the squares of n values of this magnitude."""
    return np.ldexp(1.0, FINEST + OCTAVES * np.arange(CELLS)).astype(np.float32)


def add_energy(values: npt.NDArray[np.float32], energy: Integers) -> None:
    """Adds the squares of values to the cells of their columns.

    Args:
        values: (outer, columns, run), contiguous.
        energy: (columns, WIDTH), changed in place: the units in each cell, then the infinite values and the NaN.
    """
    outer, columns, run = values.shape
    if energy.shape != (columns, WIDTH):
        raise AssertionError("values and energy have not the same columns")
    found = library()
    if found is None:
        rows = max(1, ROWS // max(run, 1))
        for start in range(0, outer, rows):
            _add(values[start : start + rows], energy)
        return
    found.klcal_energy.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    found.klcal_energy.restype = None
    found.klcal_energy(address(values), outer, columns, run, address(energy))


def _add(values: npt.NDArray[np.float32], energy: Integers) -> None:
    """``add_energy`` in NumPy."""
    magnitude = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    exponent = (magnitude >> np.uint32(23)).astype(np.int64)
    mantissa = (magnitude & np.uint32(0x7FFFFF)).astype(np.int64) | np.where(exponent > 0, 1 << 23, 0)
    kept = (mantissa + (1 << (22 - BITS))) >> (23 - BITS)
    octave, finite = np.maximum(exponent, 1), exponent < NONFINITE
    squares = np.where(finite, kept * kept << (octave % OCTAVES * 2), 1)
    cells = np.where(finite, octave // OCTAVES, CELLS + np.isnan(values))
    columns = np.arange(values.shape[1])[:, np.newaxis] * WIDTH
    np.add.at(energy.reshape(-1), (columns + cells).ravel(), squares.ravel())
