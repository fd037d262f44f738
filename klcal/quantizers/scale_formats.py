"""The number formats of scales: the nearest scale of a format to a given number, and whether the format holds it.

A float8_e4m3fn is too narrow to hold a scale: it reaches from 0.002 to 448. Scales in it are therefore relative to one
float32 of the tensor, its global scale, as in NVFP4. Every function takes it; it is 1 for the other formats.

Arrays have any shape, and results have the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klcal.quantizers.code_points import FLOATS

__all__ = [
    "FLOAT32_MAX",
    "GREATEST",
    "LEAST",
    "MANTISSA",
    "RELATIVE",
    "SCALE_FORMATS",
    "UNSIGNED",
    "at_least",
    "at_most",
    "global_scale_of",
    "held",
    "nearest_scale",
]

Floats = npt.NDArray[np.float64]
Fits = npt.NDArray[np.int8]

FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)
BFLOAT16_BELOW = np.uint32(0xFFFF)  # bits of a float32 pattern that a bfloat16 drops
LEAST_EXPONENT, GREATEST_EXPONENT = -127, 127  # of e8m0 (OCP MX, §5.4.1)


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


_FLOAT8 = FLOATS["float8_e4m3fn"][FLOATS["float8_e4m3fn"] >= 0]


def _float8(values: Floats) -> Floats:
    found: Floats = _FLOAT8[np.searchsorted(_FLOAT8, values, side="right") - 1]
    return found


SCALE_FORMATS: dict[str, Callable[[Floats], Floats]] = {
    "float32": _float32,
    "float16": _float16,
    "bfloat16": _bfloat16,
    "e8m0": _e8m0,
    "float8_e4m3fn": _float8,
}
"""For each format, a function to the largest of its numbers that is at most a value; 0 if the value is below all."""

UNSIGNED = frozenset({"e8m0"})
"""Formats without negative numbers."""
RELATIVE = frozenset({"float8_e4m3fn"})
"""Formats whose scales are relative to a global scale."""

ABOVE = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "e8m0": 1.0, "float8_e4m3fn": 2.0**-3}
"""The relative step from a power of two to the next number, among normal numbers."""
MANTISSA = {
    "float32": (23, -126),
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "e8m0": (0, -127),
    "float8_e4m3fn": (3, -6),
}
"""The mantissa bits of each format, and the lowest exponent of its normal numbers."""
LEAST = {
    "float32": 2.0**-149,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "e8m0": 2.0**LEAST_EXPONENT,
    "float8_e4m3fn": 2.0**-9,
}
"""The smallest number above 0."""
GREATEST = {name: float(at_most(np.array(FLOAT32_MAX))) for name, at_most in SCALE_FORMATS.items()}


def at_most(values: npt.ArrayLike, scale_format: str, global_scale: float | Floats = 1.0) -> Floats:
    """For each value, the largest scale of a format that does not exceed it; 0 if there is none.

    >>> [float(at_most(1.3, name)) for name in ("float16", "bfloat16", "e8m0")]
    [1.2998046875, 1.296875, 1.0]
    """
    found: Floats = SCALE_FORMATS[scale_format](_relative(values, global_scale)) * global_scale
    return found


def at_least(values: npt.ArrayLike, scale_format: str, global_scale: float | Floats = 1.0) -> Floats:
    """For each value, the smallest scale of a format that is not below it; the largest scale if there is none.

    >>> [float(at_least(1.3, name)) for name in ("float16", "bfloat16", "e8m0")]
    [1.30078125, 1.3046875, 2.0]
    """
    wanted = _relative(values, global_scale)
    below = at_most(wanted, scale_format)
    # Go up by the smallest number, or by the first step of a binade, and round down: that is the next number.
    above = at_most(np.maximum(below * (1 + ABOVE[scale_format]), below + LEAST[scale_format]), scale_format)
    return np.where(below < wanted, above, below) * global_scale


def nearest_scale(values: npt.ArrayLike, scale_format: str, global_scale: float | Floats = 1.0) -> Floats:
    """For each value, the nearest scale of a format; of two equally near ones, the smaller.

    >>> [float(nearest_scale(1.3, name)) for name in ("float16", "bfloat16", "e8m0")]
    [1.2998046875, 1.296875, 1.0]
    """
    wanted = _relative(values, global_scale)
    below, above = at_most(wanted, scale_format), at_least(wanted, scale_format)
    return np.where(wanted - below <= above - wanted, below, above) * global_scale


def _relative(values: npt.ArrayLike, global_scale: float | Floats) -> Floats:
    """Values in units of a global scale; infinite where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative: Floats = np.asarray(values, np.float64) / global_scale
    return relative


def held(wanted: npt.ArrayLike, scale_format: str, global_scale: float | Floats = 1.0) -> Fits:
    """Whether a format holds each scale: 0 if it does, −1 if the scale is too small (underflow), 1 if it is too large.

    A scale between the smallest and the largest number of the format is held. A scale beyond them is held if rounding
    to the end moves it by at most half a step, relative to the scale. Pass the scale that would be chosen among all
    float32 numbers: one that was chosen within the format is held by construction.

    >>> held([1e-20, 6e-8, 65510, 1e34], "float16").tolist()
    [-1, 0, 0, 1]
    """
    relative, half_step = _relative(wanted, global_scale), ABOVE[scale_format] / 2
    too_small = relative < LEAST[scale_format] / (1 + half_step)
    too_great = relative > GREATEST[scale_format] / (1 - half_step)
    return too_great.astype(np.int8) - too_small.astype(np.int8)


def global_scale_of(full: float) -> float:
    """The global scale of a tensor: its largest unit gets the largest float8, 448.

    It is the smallest float32 such that 448 times it covers the range of the tensor. The range is known before anything
    is searched, and no unit needs a larger scale to cover its own range.

    Args:
        full: the scale that covers the range of the whole tensor.

    >>> global_scale_of(448.0), global_scale_of(6.0) * 448 >= 6.0
    (1.0, True)
    """
    return float(at_least(full / GREATEST["float8_e4m3fn"], "float32"))
