"""The code points of floating-point formats, and the nearest one to a value: one copy for readers and quantizers.

All arrays are float64, which holds every code point exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["FLOATS", "PATTERNS", "float8", "middles", "nearest", "nearest_places"]

Values = npt.NDArray[np.float64]


def float8(mantissa_bits: int, bias: int) -> Values:
    """Sign · 2^(exponent − bias) · 1.mantissa for all 256 patterns, subnormals included (OCP FP8, §5).

    Patterns reserved for NaN and infinities get the value that they would have otherwise.
    """
    patterns = np.arange(256)
    exponent = patterns % 128 >> mantissa_bits
    fraction = patterns % (1 << mantissa_bits) / (1 << mantissa_bits)
    magnitude = np.ldexp(fraction + (exponent > 0), np.maximum(exponent, 1) - bias)
    values: Values = np.where(patterns < 128, magnitude, -magnitude)
    return values


def _both_signs(magnitudes: Values) -> Values:
    both = np.concatenate([-magnitudes, magnitudes]) + 0.0
    return np.array(sorted(set(both.tolist())))  # np.unique imports masked arrays: 10 ms


# fmt: off
NF4 = np.array([
    -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
], np.float64)
# fmt: on
"""4-bit NormalFloat: quantiles of a normal distribution, and zero (Dettmers et al., QLoRA, 2023, Appendix E)."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])

FLOATS: dict[str, Values] = {
    "float8_e4m3fn": _both_signs(float8(3, bias=7)[:127]),  # no infinities; 0x7f is NaN
    "float8_e5m2": _both_signs(float8(2, bias=15)[:124]),  # infinity and NaN from 0x7c on
    "float4_e2m1fn": _both_signs(E2M1),  # OCP MX, §5.3.3
    "nf4": NF4,
}
"""The finite values of each format, ascending."""


def _patterns(dtype: str, decoded: Values) -> npt.NDArray[np.uint8]:
    """The pattern of each value of a format, given the values of all patterns; for zero, the positive one."""
    first = {value: pattern for pattern, value in reversed([*enumerate(decoded.tolist())])}
    return np.array([first[value] for value in FLOATS[dtype].tolist()], np.uint8)


PATTERNS: dict[str, npt.NDArray[np.uint8]] = {
    "float8_e4m3fn": _patterns("float8_e4m3fn", float8(3, bias=7)),
    "float8_e5m2": _patterns("float8_e5m2", float8(2, bias=15)),
    "float4_e2m1fn": _patterns("float4_e2m1fn", np.concatenate([E2M1, -E2M1])),
    "nf4": np.arange(16, dtype=np.uint8),
}
"""The bits of each value. Four bits are the lower half of a byte; the bits of an nf4 value are its place."""


def middles(levels: Values) -> Values:
    """The middles between n ascending levels, (n − 1,), at which the nearest level changes."""
    return (levels[1:] + levels[:-1]) / 2


def nearest(steps: npt.NDArray[np.floating], dtype: str) -> Values:
    """The nearest value of a format, ties to the even code; values beyond the ends become the end (no infinities).

    >>> nearest(np.float64([0.24, 0.25, 0.75, 5.1, -100]), "float4_e2m1fn").tolist()
    [0.0, 0.0, 1.0, 6.0, -6.0]
    """
    values: Values = FLOATS[dtype][nearest_places(steps, dtype)]
    return values


def nearest_places(steps: npt.NDArray[np.floating], dtype: str) -> npt.NDArray[np.intp]:
    """As ``nearest``, but the indices of the values in ``FLOATS[dtype]``."""
    levels = FLOATS[dtype]
    between = middles(levels)
    found = np.searchsorted(between, steps)  # the lower one of a tie
    tied = np.append(between, np.nan)[found] == steps
    codes = found - int(np.flatnonzero(levels == 0)[0])
    places: npt.NDArray[np.intp] = found + (tied & (codes % 2 == 1))
    return places
