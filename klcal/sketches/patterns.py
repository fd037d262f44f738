"""Float32 bit patterns, sorted within each unit: their values, and how many of their bits a sketch keeps.

A pattern is the 32 bits of a float32 (IEEE 754-2019, §3.4) as a uint32: sign, 8 bits of exponent, 23 of mantissa.
Patterns of several units stand one unit behind the other. ``starts``, int64 (units + 1,), has the place where each unit
begins and, last, the number of patterns. Within a unit, patterns ascend: the positive values first, by rising
magnitude, then the negative ones, by rising magnitude too, because the sign is the highest bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FEW",
    "MANTISSA_BITS",
    "MOST",
    "PATTERN_BITS",
    "SIGN",
    "TENSOR",
    "UNITS",
    "Bools",
    "Floats",
    "Integers",
    "Numbers",
    "Patterns",
    "Resolution",
    "Weights",
    "exponents",
    "extremes",
    "is_special",
    "kinds",
    "narrow",
    "runs",
    "summed",
    "summed_weights",
]

FEW = 1 << 12  # distinct values of a unit: a row of an ordinary weight, a lattice of 12 bits; 33 kB of keys and counts
MANTISSA_BITS = 10  # as many as float16 has: lossless for it and for bfloat16
BFLOAT16_BITS = 7  # of mantissa: bfloat16 keeps its own buckets everywhere
PATTERN_BITS = 23  # of mantissa in a float32 pattern
FINE_OCTAVES = 2  # below the largest magnitude, at full precision: a threshold is rarely chosen lower
SIGN = np.uint32(1 << 31)  # the pattern of -0.0
INFINITY = np.uint32(0xFF << PATTERN_BITS)  # the pattern of +inf; those of NaN are larger
MOST = np.iinfo(np.int32).max  # the largest count that an int32 holds

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.signedinteger[Any]]  # int32 where they fit, else int64
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Patterns = npt.NDArray[np.uint32]
Weights = npt.NDArray[np.int64]  # (3, pieces): see Sketch.weights


@dataclass(frozen=True)
class Resolution:
    """How many mantissa bits of its values a sketch keeps.

    A unit with at most ``few`` distinct values keeps all 23 bits. Any other unit keeps ``mantissa_bits`` of the values
    in its top two octaves (powers of two), one bit less in each further octave, and at least ``least_bits``. So the
    bits that are kept depend on two numbers of the unit alone: how many distinct values it has, and their largest
    magnitude. Both can only grow when sketches are added, which is why addition is exact.

    Attributes:
        mantissa_bits: mantissa bits of values in the top two octaves, 0 to 23.
        least_bits: mantissa bits of the smallest values, at most ``mantissa_bits``.
        few: the largest number of distinct nonzero values that are kept whole.
    """

    mantissa_bits: int = MANTISSA_BITS
    least_bits: int = MANTISSA_BITS
    few: int = FEW

    def dropped(self, keys: Patterns, tops: npt.NDArray[Any]) -> Patterns:
        """The number of low mantissa bits that are cut from each pattern of a unit with many distinct values.

        Args:
            keys: (n,), patterns of finite values that are not zero.
            tops: (n,), integers: the biased exponent of the largest magnitude in the unit of each pattern.

        Returns:
            (n,), uint32, from ``23 - mantissa_bits`` to ``23 - least_bits``.

        >>> keys = np.float32([8.0, 4.0, 2.0, 1.0]).view(np.uint32)
        >>> UNITS.dropped(keys, np.full(4, 130)).tolist()
        [13, 13, 14, 15]
        """
        fewest, most = PATTERN_BITS - self.mantissa_bits, PATTERN_BITS - self.least_bits
        if fewest == most:
            return np.full(keys.size, most, np.uint32)
        exponent = (keys << np.uint32(1) >> np.uint32(PATTERN_BITS + 1)).view(np.int32)
        octaves = tops.astype(np.int32, copy=False) - exponent  # below the largest
        dropped: Patterns = np.clip(octaves + (fewest - FINE_OCTAVES + 1), fewest, most).view(np.uint32)
        return dropped


TENSOR = Resolution()
"""The resolution of a tensor that is one unit: 10 mantissa bits for all of its values."""
UNITS = Resolution(least_bits=BFLOAT16_BITS)
"""The resolution of channels and groups: 10 bits at the top, 7 at the bottom. It takes half the memory."""


def exponents(minimum: Floats, maximum: Floats) -> Integers:
    """The biased float32 exponent (0 to 254) of the largest magnitude of each unit.

    Args:
        minimum: (units,), the lowest value; inf for a unit without values.
        maximum: (units,), the highest value; -inf for a unit without values.

    Returns:
        (units,), int64: 127 for magnitudes in [1, 2), and 0 for subnormal magnitudes and for units without values.

    >>> exponents(np.array([-1.0, np.inf]), np.array([0.5, -np.inf])).tolist()
    [127, 0]
    """
    largest = np.maximum(np.where(maximum > -np.inf, maximum, 0), np.where(minimum < np.inf, -minimum, 0))
    return (largest.astype(np.float32).view(np.uint32) >> PATTERN_BITS).astype(np.int64)


def is_special(patterns: Patterns) -> Bools:
    """Whether each pattern is a zero, NaN or infinite: (n,) of bool for (n,) of uint32."""
    special: Bools = (patterns & ~SIGN) - np.uint32(1) >= INFINITY - np.uint32(1)  # 0 wraps around to the largest
    return special


def kinds(patterns: Patterns) -> tuple[Bools, Bools, Bools, Bools]:
    """Four masks, (n,) each, for (n,) patterns: which are zeros, which NaN, which -inf, and which +inf."""
    magnitude = patterns & ~SIGN
    infinite, negative = magnitude == INFINITY, patterns >= SIGN
    return magnitude == 0, magnitude > INFINITY, infinite & negative, infinite & ~negative


def extremes(keys: Patterns, starts: Integers) -> tuple[Floats, Floats]:
    """The lowest and the highest value of each unit.

    Args:
        keys: (patterns,), finite and not zero; ascending within each unit.
        starts: (units + 1,), where the patterns of each unit begin and end.

    Returns:
        Two arrays (units,), float64: the minima and the maxima; (inf, -inf) for a unit without patterns.

    >>> extremes(np.float32([1, 2, -3, -4]).view(np.uint32), np.array([0, 4, 4]))
    (array([-4., inf]), array([  2., -inf]))
    """
    first, end = starts[:-1], starts[1:]
    negative = np.append(keys >= SIGN, True)  # one more, for units without any
    turns = np.append(np.flatnonzero(negative[1:] & ~negative[:-1]) + 1, keys.size)
    split = np.where(negative[first], first, np.minimum(turns[np.searchsorted(turns[:-1], first, side="right")], end))
    values = np.append(keys, SIGN).view(np.float32)
    minimum = np.where(split < end, values[end - 1], values[first]).astype(np.float64)
    maximum = np.where(split > first, values[split - 1], values[split]).astype(np.float64)
    return np.where(end > first, minimum, np.inf), np.where(end > first, maximum, -np.inf)


def narrow(counts: Numbers) -> Numbers:
    """The counts as int32 if all of them fit, else unchanged. Halves the memory of almost every sketch."""
    if counts.dtype == np.int32 or (counts.size and counts.max() > MOST):
        return counts
    return counts.astype(np.int32)


def summed(keys: Patterns, counts: Numbers, starts: Integers) -> tuple[Patterns, Numbers, Integers]:
    """Joins equal keys that stand side by side in a unit, and adds their counts.

    Args:
        keys: (n,), equal ones side by side within each unit.
        counts: (n,), how often each occurs.
        starts: (units + 1,), where the keys of each unit begin and end.

    Returns:
        The distinct keys (m,), their counts (m,), and the new ``starts`` (units + 1,).

    >>> keys, counts, starts = summed(np.uint32([5, 5, 7, 7]), np.int32([1, 2, 3, 4]), np.array([0, 3, 4]))
    >>> keys.tolist(), counts.tolist(), starts.tolist()
    ([5, 7, 7], [3, 3, 4], [0, 2, 3])
    """
    begins = run_begins(keys, starts)
    if begins.size == keys.size:
        return keys, counts, starts
    fits = counts.dtype == np.int32 and counts.sum() <= MOST
    sums: Numbers = np.add.reduceat(counts, begins, dtype=np.int32 if fits else np.int64)
    return keys[begins], narrow(sums), np.searchsorted(begins, starts)


def summed_weights(keys: Patterns, weights: Weights, starts: Integers) -> Weights:
    """The weights, (3, m), of the keys that ``summed`` and ``runs`` make of the same ``keys`` and ``starts``.

    Args:
        keys: (n,), equal ones side by side within each unit.
        weights: (3, n): see ``Sketch.weights``.
        starts: (units + 1,).
    """
    begins = run_begins(keys, starts)
    return weights if begins.size == keys.size else np.add.reduceat(weights, begins, axis=1)


def runs(keys: Patterns, starts: Integers) -> tuple[Patterns, Numbers, Integers]:
    """As ``summed``, for keys that occur once each. There may be at most ``MOST`` keys in all."""
    begins = run_begins(keys, starts)
    counts = np.empty(begins.size, np.int32)
    np.subtract(begins[1:], begins[:-1], out=counts[:-1], casting="unsafe")
    counts[-1:] = keys.size - begins[-1:]
    return keys[begins], counts, np.searchsorted(begins, starts)


def run_begins(keys: Patterns, starts: Integers) -> Integers:
    """The places, (m,), where a unit begins or a key differs from the key before it."""
    begins = np.ones(keys.size + 1, bool)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:-1])
    begins[starts] = True
    return np.flatnonzero(begins[:-1])
