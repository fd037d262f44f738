"""How values are distributed, for the eye: in bins of one width, and by octaves. Counts are whole numbers, and exact.

A bucket of a sketch counts as its middle, which is at most 0.4 % from any value in it: far less than a bin is wide.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.patterns import PATTERN_BITS, SIGN, Floats, Integers, Numbers, Patterns
from klcal.sketches.sketch import Sketch

__all__ = ["BINS", "EXPONENTS", "Tally", "binned", "binned_each", "by_exponent"]

BINS = 128  # as many as fit beside an axis on a wide terminal; a power of two, so that neighbours can be merged
EXPONENTS = 256  # of float32: 127 is that of 1
KEPT_BITS = 9  # of mantissa, of values that many units have together: 0.1 % of a value, in 2 MB of counts
DROPPED = np.uint32(PATTERN_BITS - KEPT_BITS)


def binned(found: Sketch, bins: int = BINS) -> Integers:
    """How many finite values of a sketch, of whatever units, lie in each bin from the least to the greatest: (bins,).

    >>> from klcal.sketches.values import sketch
    >>> binned(sketch([0.0, 0.25, 1.0, 4.0]), 4).tolist()
    [2, 1, 0, 1]
    """
    low, high = float(found.min.min(initial=np.inf)), float(found.max.max(initial=-np.inf))
    return _binned(_middles(found), found.counts, int(found.zeros.sum()), (low, high), bins)


def binned_each(found: Sketch, bins: int = BINS) -> Integers:
    """The same of each unit, from its own least to its own greatest value: (units, bins)."""
    ends = found.min, found.max
    place = _places(_middles(found), *ends, bins, found.pieces)
    place += np.repeat(np.arange(found.units) * bins, found.pieces)
    counts = _counted(place, found.counts, found.units * bins).reshape(-1, bins)
    some = np.flatnonzero(found.zeros)
    counts[some, _places(np.zeros(found.units), *ends, bins, 1)[some]] += found.zeros[some]
    return counts


def by_exponent(found: Sketch) -> Integers:
    """How many nonzero finite values have each exponent, as float32 has it: (EXPONENTS,)."""
    return _counted((found.keys & ~SIGN) >> np.uint32(PATTERN_BITS), found.counts, EXPONENTS)


class Tally:
    """Counts the values of many units together, some units at a time; several threads may add at once."""

    def __init__(self) -> None:
        self.counts = np.zeros(1 << (32 - int(DROPPED)), np.int64)
        self.zeros, self.low, self.high = 0, np.inf, -np.inf
        self.lock = Lock()

    def add(self, found: Sketch) -> None:
        """Those of some units more."""
        counts = _counted(found.keys >> DROPPED, found.counts, self.counts.size)
        with self.lock:
            self.counts += counts
            self.zeros += int(found.zeros.sum())
            self.low = min(self.low, float(found.min.min(initial=np.inf)))
            self.high = max(self.high, float(found.max.max(initial=-np.inf)))

    def binned(self, bins: int = BINS) -> Integers:
        """Of all that were added: (bins,)."""
        some = np.flatnonzero(self.counts)
        keys = (some.astype(np.uint32) << DROPPED) + (np.uint32(1) << DROPPED >> np.uint32(1))
        return _binned(_values(keys), self.counts[some], self.zeros, (self.low, self.high), bins)


def _binned(values: Floats, counts: Numbers, zeros: int, ends: tuple[float, float], bins: int) -> Integers:
    if not ends[0] <= ends[1]:
        return np.zeros(bins, np.int64)
    place = _places(np.append(values, 0.0), np.array([ends[0]]), np.array([ends[1]]), bins, values.size + 1)
    return _counted(place, np.append(counts, zeros), bins)


def _places(values: Floats, low: Floats, high: Floats, bins: int, each: Integers | int) -> Integers:
    """The bin of each value, ``each`` of which stand for a unit; a constant is in the middle one."""
    known = low < high
    factor = np.where(known, bins, 0.0) / np.where(known, high - low, 1.0)
    values = values - np.repeat(np.where(known, low, 0.0), each)
    values *= np.repeat(factor, each)
    values += np.repeat(np.where(known, 0.0, bins / 2), each)
    return np.clip(values, 0, bins - 1, out=values).astype(np.int64)


def _counted(places: npt.NDArray[np.integer[Any]], counts: Numbers, size: int) -> Integers:
    """How many there are at each place; float64 sums are exact below 2**53."""
    return np.rint(np.bincount(places, counts, size)).astype(np.int64)


def _middles(found: Sketch) -> Floats:
    """The value of each piece, or the middle of its bucket."""
    exact = found.exact
    if exact.all():
        return _values(found.keys)
    unit = found.unit
    dropped = found.resolution.dropped(found.keys, found.tops[unit])
    return _values(found.keys + np.where(exact[unit], np.uint32(0), np.uint32(1) << dropped >> np.uint32(1)))


def _values(keys: Patterns) -> Floats:
    return keys.view(np.float32).astype(np.float64)
