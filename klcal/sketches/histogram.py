"""Histograms for people: in bins of equal width, and by octaves (powers of two).

All values of a bucket are counted at the middle of the bucket, which is at most 0.4 % from any of them. A bin is far
wider than that. Counts are whole numbers.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.patterns import PATTERN_BITS, SIGN, Floats, Integers, Numbers, Patterns
from klcal.sketches.sketch import Sketch

__all__ = ["BINS", "EXPONENTS", "Tally", "binned", "binned_each", "by_exponent"]

BINS = 128  # they fit beside an axis on a wide terminal; a power of two, so that neighbours can be merged
EXPONENTS = 256  # of float32: 127 is that of 1
KEPT_BITS = 9  # mantissa bits of a ``Tally``: a step of 0.2 % of a value, in 2 MB of counts
DROPPED = np.uint32(PATTERN_BITS - KEPT_BITS)


def binned(found: Sketch, bins: int = BINS) -> Integers:
    """The number of finite values in each bin, over all units of a sketch together: (bins,), int64.

    The bins divide the range from the lowest to the highest value, zeros included. A sketch of equal values has all of
    them in the middle bin; a sketch without finite values has zeros in every bin.

    >>> from klcal.sketches.values import sketch
    >>> binned(sketch([0.0, 0.25, 1.0, 4.0]), 4).tolist()
    [2, 1, 0, 1]
    """
    low, high = float(found.min.min(initial=np.inf)), float(found.max.max(initial=-np.inf))
    return _binned(_middles(found), found.counts, int(found.zeros.sum()), (low, high), bins)


def binned_each(found: Sketch, bins: int = BINS) -> Integers:
    """The number of finite values of each unit in each bin of its own range: (units, bins), int64."""
    ends = found.min, found.max
    place = _places(_middles(found), *ends, bins, found.pieces)
    place += np.repeat(np.arange(found.units) * bins, found.pieces)
    counts = _counted(place, found.counts, found.units * bins).reshape(-1, bins)
    some = np.flatnonzero(found.zeros)
    counts[some, _places(np.zeros(found.units), *ends, bins, 1)[some]] += found.zeros[some]
    return counts


def by_exponent(found: Sketch) -> Integers:
    """The number of nonzero finite values with each biased float32 exponent, over all units: (EXPONENTS,), int64.

    >>> from klcal.sketches.values import sketch
    >>> by_exponent(sketch([0.0, 1.0, -1.5, 2.0]))[126:130].tolist()
    [0, 2, 1, 0]
    """
    return _counted((found.keys & ~SIGN) >> np.uint32(PATTERN_BITS), found.counts, EXPONENTS)


class Tally:
    """The histogram of many sketches together, which are added one by one. Several threads may add at once."""

    def __init__(self) -> None:
        self.counts = np.zeros(1 << (32 - int(DROPPED)), np.int64)
        self.zeros, self.low, self.high = 0, np.inf, -np.inf
        self.lock = Lock()

    def add(self, found: Sketch) -> None:
        """Counts the values of all units of a sketch."""
        counts = _counted(found.keys >> DROPPED, found.counts, self.counts.size)
        with self.lock:
            self.counts += counts
            self.zeros += int(found.zeros.sum())
            self.low = min(self.low, float(found.min.min(initial=np.inf)))
            self.high = max(self.high, float(found.max.max(initial=-np.inf)))

    def binned(self, bins: int = BINS) -> Integers:
        """The number of values in each bin, over all sketches that were added: (bins,), int64. See ``binned``."""
        some = np.flatnonzero(self.counts)
        keys = (some.astype(np.uint32) << DROPPED) + (np.uint32(1) << DROPPED >> np.uint32(1))
        return _binned(_values(keys), self.counts[some], self.zeros, (self.low, self.high), bins)


def _binned(values: Floats, counts: Numbers, zeros: int, ends: tuple[float, float], bins: int) -> Integers:
    """As ``binned``, of values (pieces,) with their counts (pieces,), some zeros, and the lowest and highest value."""
    if not ends[0] <= ends[1]:
        return np.zeros(bins, np.int64)
    place = _places(np.append(values, 0.0), np.array([ends[0]]), np.array([ends[1]]), bins, values.size + 1)
    return _counted(place, np.append(counts, zeros), bins)


def _places(values: Floats, low: Floats, high: Floats, bins: int, each: Integers | int) -> Integers:
    """The bin of each value, (values,), int64.

    Args:
        values: of one unit behind the other.
        low: (units,), where the first bin of each unit begins.
        high: (units,), where the last one ends; if it is ``low``, all values are in the middle bin.
        bins: their number.
        each: the number of values of each unit, (units,), or of all.
    """
    known = low < high
    factor = np.where(known, bins, 0.0) / np.where(known, high - low, 1.0)
    values = values - np.repeat(np.where(known, low, 0.0), each)
    values *= np.repeat(factor, each)
    values += np.repeat(np.where(known, 0.0, bins / 2), each)
    return np.clip(values, 0, bins - 1, out=values).astype(np.int64)


def _counted(places: npt.NDArray[np.integer[Any]], counts: Numbers, size: int) -> Integers:
    """The sum of the counts at each place, (size,): float64 sums of whole numbers are exact below 2⁵³."""
    return np.rint(np.bincount(places, counts, size)).astype(np.int64)


def _middles(found: Sketch) -> Floats:
    """The value of each piece of a sketch, (pieces,), or the middle of its bucket."""
    exact = found.exact
    if exact.all():
        return _values(found.keys)
    unit = found.unit
    dropped = found.resolution.dropped(found.keys, found.tops[unit])
    return _values(found.keys + np.where(exact[unit], np.uint32(0), np.uint32(1) << dropped >> np.uint32(1)))


def _values(keys: Patterns) -> Floats:
    return keys.view(np.float32).astype(np.float64)
