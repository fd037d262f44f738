"""Float32 bit patterns, sorted within each of some units: what they stand for, and how much of them is kept."""

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
INFINITY = np.uint32(0xFF << PATTERN_BITS)  # the pattern of +inf; those of NaN are greater
MOST = np.iinfo(np.int32).max  # counts of the narrow kind

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.signedinteger[Any]]  # int32 where they fit, else int64
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Patterns = npt.NDArray[np.uint32]
Weights = npt.NDArray[np.int64]  # (3, pieces): see Sketch.weights


@dataclass(frozen=True)
class Resolution:
    """How much a sketch keeps of a value, by the largest magnitude of its unit and the number of distinct values alone.

    A unit with more than ``few`` distinct values keeps ``mantissa_bits`` of each in the octave of its largest magnitude
    and the one below, a bit less in each further octave, and never fewer than ``least_bits``.
    """

    mantissa_bits: int = MANTISSA_BITS
    least_bits: int = MANTISSA_BITS
    few: int = FEW

    def dropped(self, keys: Patterns, tops: npt.NDArray[Any]) -> Patterns:
        """How many bits the buckets of some patterns lack, ``tops`` being the exponents of their units' maxima."""
        fewest, most = PATTERN_BITS - self.mantissa_bits, PATTERN_BITS - self.least_bits
        if fewest == most:
            return np.full(keys.size, most, np.uint32)
        exponent = (keys << np.uint32(1) >> np.uint32(PATTERN_BITS + 1)).view(np.int32)
        octaves = tops.astype(np.int32, copy=False) - exponent  # below the largest
        dropped: Patterns = np.clip(octaves + (fewest - FINE_OCTAVES + 1), fewest, most).view(np.uint32)
        return dropped


TENSOR = Resolution()
"""Of a tensor as one unit."""
UNITS = Resolution(least_bits=BFLOAT16_BITS)
"""Of channels and groups: half the memory."""


def exponents(minimum: Floats, maximum: Floats) -> Integers:
    """Of the larger magnitude of each pair of extremes, biased as float32 has it; 0 for (inf, -inf)."""
    largest = np.maximum(np.where(maximum > -np.inf, maximum, 0), np.where(minimum < np.inf, -minimum, 0))
    return (largest.astype(np.float32).view(np.uint32) >> PATTERN_BITS).astype(np.int64)


def is_special(patterns: Patterns) -> Bools:
    """Which are zeros, NaN or infinite."""
    special: Bools = (patterns & ~SIGN) - np.uint32(1) >= INFINITY - np.uint32(1)  # 0 becomes the greatest of all
    return special


def kinds(patterns: Patterns) -> tuple[Bools, Bools, Bools, Bools]:
    """Which are zeros, NaN, -inf, +inf."""
    magnitude = patterns & ~SIGN
    infinite, negative = magnitude == INFINITY, patterns >= SIGN
    return magnitude == 0, magnitude > INFINITY, infinite & negative, infinite & ~negative


def extremes(keys: Patterns, starts: Integers) -> tuple[Floats, Floats]:
    """The least and the greatest of the values of each unit; (inf, -inf) for none.

    Patterns of negative values lie behind those of positive ones, and ascend in magnitude as these do.
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
    """The same as int32, where they fit."""
    if counts.dtype == np.int32 or (counts.size and counts.max() > MOST):
        return counts
    return counts.astype(np.int32)


def summed(keys: Patterns, counts: Numbers, starts: Integers) -> tuple[Patterns, Numbers, Integers]:
    """Equal keys that stand side by side in a unit become one: keys, counts, and where those of each unit begin."""
    begins = run_begins(keys, starts)
    if begins.size == keys.size:
        return keys, counts, starts
    fits = counts.dtype == np.int32 and counts.sum() <= MOST
    sums: Numbers = np.add.reduceat(counts, begins, dtype=np.int32 if fits else np.int64)
    return keys[begins], narrow(sums), np.searchsorted(begins, starts)


def summed_weights(keys: Patterns, weights: Weights, starts: Integers) -> Weights:
    """The weights of the keys that ``summed`` and ``runs`` leave."""
    begins = run_begins(keys, starts)
    return weights if begins.size == keys.size else np.add.reduceat(weights, begins, axis=1)


def runs(keys: Patterns, starts: Integers) -> tuple[Patterns, Numbers, Integers]:
    """The same of keys that count once each, at most ``MOST`` of them."""
    begins = run_begins(keys, starts)
    counts = np.empty(begins.size, np.int32)
    np.subtract(begins[1:], begins[:-1], out=counts[:-1], casting="unsafe")
    counts[-1:] = keys.size - begins[-1:]
    return keys[begins], counts, np.searchsorted(begins, starts)


def run_begins(keys: Patterns, starts: Integers) -> Integers:
    """Where, in units that stand one behind the other, a key differs from the one before it."""
    begins = np.ones(keys.size + 1, bool)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:-1])
    begins[starts] = True
    return np.flatnonzero(begins[:-1])
