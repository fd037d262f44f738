"""Squares of values, added up by columns as integers: exactly, in any order of any batches."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, library

__all__ = ["CELLS", "add_energy", "roots"]

BITS = 10  # of a mantissa, behind the leading one: a square is 0.1 % off at most
CELLS = 64  # of 4 octaves each: a square is at most 2²⁸ units of its cell, and 2³⁴ of them add up in an int64
OCTAVES = 4
FINEST = -137  # of the first cell, as a power of 2: below 2⁻¹²⁶ are BITS bits, and the cell begins an octave lower
ROWS = 1 << 12  # looked at together by NumPy: what each row takes is some arrays of a piece of it

Integers = npt.NDArray[np.int64]


def roots() -> npt.NDArray[np.float32]:
    """Of the units of each cell, (CELLS,): a cell with the number n stands for n values of this magnitude."""
    return np.ldexp(1.0, FINEST + OCTAVES * np.arange(CELLS)).astype(np.float32)


def add_energy(values: npt.NDArray[np.float32], energy: Integers) -> None:
    """Adds the squares of rows of values to their columns; NaN and infinities are left out.

    Args:
        values: (rows, columns), contiguous.
        energy: (columns, CELLS), changed in place.
    """
    if values.shape[1] != energy.shape[0] or energy.shape[1] != CELLS:
        raise AssertionError("values and energy have not the same columns")
    found = library()
    if found is None:
        for start in range(0, len(values), ROWS):
            _add(values[start : start + ROWS], energy)
        return
    found.klcal_energy.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    found.klcal_energy.restype = None
    found.klcal_energy(address(values), *values.shape, address(energy))


def _add(values: npt.NDArray[np.float32], energy: Integers) -> None:
    magnitude = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    exponent = (magnitude >> np.uint32(23)).astype(np.int64)
    mantissa = (magnitude & np.uint32(0x7FFFFF)).astype(np.int64) | np.where(exponent > 0, 1 << 23, 0)
    kept = (mantissa + (1 << (22 - BITS))) >> (23 - BITS)
    places = np.maximum(exponent, 1)
    squares = np.where(exponent < 255, kept * kept << (places % OCTAVES * 2), 0)
    cells = np.arange(values.shape[1]) * CELLS + places // OCTAVES
    np.add.at(energy.reshape(-1), cells.ravel(), squares.ravel())
