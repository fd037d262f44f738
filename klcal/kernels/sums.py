"""Sums in a fixed order, and logarithms, to the same bits on every machine, in NumPy and in C.

The C code is in ``source/numbers.h`` and ``source/pieces.h``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, library

__all__ = ["last_axis_sum", "log", "logarithms", "placed_sums", "power_of_two", "unit_sums"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LANES = 8  # independent float64 sums: a register of AVX-512, or two of AVX2
LAST_TERM = 21  # the last odd power in the series of the logarithm: the next term is below the last bit
LN2 = float.fromhex("0x1.62e42fefa39efp-1")
ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
POWER_TERMS = 18  # terms in the series of 2^x for |x| ≤ 1: the next one is below the last bit


def unit_sums(terms: Floats, starts: Integers) -> Floats:
    """The sum of the terms of each unit, (units,). A sum does not depend on the units beside it.

    Term i of a unit is added to lane i mod 8, one after the other. Then the upper half of the lanes is added to the
    lower half, until one is left.

    Args:
        terms: (n,), float64.
        starts: (units + 1,): unit u has the terms starts[u]:starts[u + 1]; it may have none.

    >>> unit_sums(np.arange(10.0), np.array([0, 3, 3, 10])).tolist()
    [3.0, 0.0, 42.0]
    """
    sizes = np.diff(starts)
    lane = np.arange(terms.size) - np.repeat(starts[:-1], sizes)
    lane %= LANES
    lane += np.repeat(np.arange(sizes.size) * LANES, sizes)
    return _joined(placed_sums(lane, terms, sizes.size * LANES).reshape(-1, LANES))


def placed_sums(places: Integers, terms: Floats, size: int) -> Floats:
    """The sum of the terms of each place, (size,), added one after the other.

    Args:
        places: (n,), from 0 to size − 1.
        terms: (n,), float64.
        size: the number of places.
    """
    sums: Any = np.bincount(places, terms, size)
    return sums  # type: ignore[no-any-return]  # NumPy types it as counts


def last_axis_sum(terms: Floats) -> Floats:
    """The sum over the last axis of an array, in the order of ``unit_sums``.

    >>> float(last_axis_sum(np.arange(10.0)))
    45.0
    """
    size = terms.shape[-1]
    room = np.zeros((*terms.shape[:-1], -(-size // LANES) * LANES))
    room[..., :size] = terms
    return _joined(np.add.reduce(room.reshape(*terms.shape[:-1], -1, LANES), axis=-2))


def _joined(lanes: Floats) -> Floats:
    """The sum of the 8 lanes on the last axis: the upper half is added to the lower half, three times."""
    half = lanes[..., :4] + lanes[..., 4:]
    quarter = half[..., :2] + half[..., 2:]
    total: Floats = quarter[..., 0] + quarter[..., 1]
    return total


def log(values: npt.ArrayLike) -> Floats:
    """The natural logarithm of positive normal numbers, of any shape, to the same bits on every machine.

    ln m = 2·artanh((m − 1)/(m + 1)), by its power series, for the mantissa m in [√½, √2); the exponent adds e·ln 2.
    Logarithms of the platforms differ in their last bit, which would change results. The compiled kernel computes the
    same bits in a thirtieth of the time.

    >>> bool(np.abs(log(np.array([1e-300, 0.7, 1.0, 3.0])) - np.log([1e-300, 0.7, 1.0, 3.0])).max() < 1e-13)
    True
    """
    numbers = np.asarray(values, np.float64, order="C")
    kernel = library()
    if kernel is None:
        return _log(numbers)
    found = np.empty(numbers.shape)
    kernel.klcal_logarithms.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    kernel.klcal_logarithms.restype = None
    kernel.klcal_logarithms(address(numbers), numbers.size, address(found))
    return found


def _log(values: Floats) -> Floats:
    """``log`` in NumPy."""
    mantissa, exponent = np.frexp(values)
    is_small = mantissa < ROOT_HALF
    mantissa = np.where(is_small, 2 * mantissa, mantissa)
    part = (mantissa - 1) / (mantissa + 1)
    square = part * part
    series = np.full(part.shape, 1 / LAST_TERM)
    for odd in range(LAST_TERM - 2, 0, -2):
        series = series * square + 1 / odd
    found: Floats = (exponent - is_small) * LN2 + 2 * part * series
    return found


@cache
def logarithms() -> Floats:
    """The logarithms of 1, 2, … 8191, the most frequent counts, at their own index; 0 at index 0. (8192,)."""
    return np.append(0.0, log(np.arange(1.0, 1 << 13)))


def power_of_two(exponents: npt.ArrayLike) -> Floats:
    """2^x for |x| ≤ 1, of any shape, by the power series of exp(x·ln 2), to the same bits on every machine.

    >>> power_of_two([-1, 0, 0.5, 1]).round(12).tolist()
    [0.5, 1.0, 1.414213562373, 2.0]
    """
    nats = np.asarray(exponents, np.float64) * LN2
    found = np.ones(nats.shape)
    for term in range(POWER_TERMS, 0, -1):
        found = 1 + found * nats / term
    return found
