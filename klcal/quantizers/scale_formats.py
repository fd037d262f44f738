"""The formats that hardware wants a scale in: which scales there are next to a given one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["FLOAT32_MAX", "LEAST", "SCALE_FORMATS", "UNSIGNED", "at_least", "at_most", "nearest_scale"]

Floats = npt.NDArray[np.float64]

FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)
BFLOAT16_BELOW = np.uint32(0xFFFF)  # bits of a float32 pattern that a bfloat16 drops
LEAST_EXPONENT, GREATEST_EXPONENT = -127, 127  # of e8m0 (OCP MX, §5.2.1)


def _float16(values: Floats) -> Floats:
    found = np.minimum(values, FLOAT16_MAX).astype(np.float16)
    return np.where(found > values, np.nextafter(found, np.float16(0)), found).astype(np.float64)


def _float32(values: Floats) -> Floats:
    found = np.minimum(values, FLOAT32_MAX).astype(np.float32)
    return np.where(found > values, np.nextafter(found, np.float32(0)), found).astype(np.float64)


def _bfloat16(values: Floats) -> Floats:
    bits = _float32(values).astype(np.float32).view(np.uint32)
    return (bits & ~BFLOAT16_BELOW).view(np.float32).astype(np.float64)


def _e8m0(values: Floats) -> Floats:
    mantissa, exponent = np.frexp(values)  # values = mantissa · 2^exponent, ½ ≤ mantissa < 1
    below = np.ldexp(1.0, np.minimum(exponent - 1, GREATEST_EXPONENT))
    return np.where((mantissa > 0) & (exponent - 1 >= LEAST_EXPONENT), below, 0.0)


SCALE_FORMATS: dict[str, Callable[[Floats], Floats]] = {
    "float32": _float32,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "e8m0": _e8m0,
}
"""For each format, the greatest of its numbers that is at most a value; 0 where the value is below all of them."""

UNSIGNED = frozenset({"e8m0"})
"""Formats without negative numbers."""

ABOVE = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "e8m0": 1.0}
LEAST = {"float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133, "e8m0": 2.0**LEAST_EXPONENT}


def at_most(values: npt.ArrayLike, scale_format: str) -> Floats:
    """The greatest scale of a format that is at most a value, for each; 0 where there is none.

    >>> [float(at_most(1.3, name)) for name in ("float16", "bfloat16", "e8m0")]
    [1.2998046875, 1.296875, 1.0]
    """
    return SCALE_FORMATS[scale_format](np.asarray(values, np.float64))


def at_least(values: npt.ArrayLike, scale_format: str) -> Floats:
    """The least scale of a format that is at least a value, for each; the greatest where there is none."""
    wanted = np.asarray(values, np.float64)
    below = at_most(wanted, scale_format)
    # The next number up: a step of the least one, or less than a binade's first step away, and rounded down to it.
    above = at_most(np.maximum(below * (1 + ABOVE[scale_format]), below + LEAST[scale_format]), scale_format)
    return np.where(below < wanted, above, below)


def nearest_scale(values: npt.ArrayLike, scale_format: str) -> Floats:
    """The scale of a format that is nearest to a value, for each."""
    wanted = np.asarray(values, np.float64)
    below, above = at_most(wanted, scale_format), at_least(wanted, scale_format)
    return np.where(wanted - below <= above - wanted, below, above)
