"""What quantizing costs the values of many units, under many candidates: one pass over all of them for each function.

Values are float32, or float64 where a few are fitted so well that float32 cannot tell how well. ``values`` and
``counts`` are (units, values): the distinct values of each unit in ascending order and how often each occurs, padded
with zeros that occur 0 times; ``counts`` is None where every value occurs once. Values are of a magnitude near 1: each
unit's are multiplied by a power of two, which is exact.
``scales`` are float64, (units, candidates), positive. A value is divided by a scale by multiplying with its inverse,
rounded to the type of the values. Results are float64.

Sums are taken in one fixed order, so that they are the same to the bit wherever they are computed, whatever stands
beside a unit and however far it is padded: value i is added to lane i mod 256, one after the other, and then the upper
half of the lanes to the lower one, until one is left. Such a sum of 4,096 float32 is right to 10⁻⁶.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK",
    "Floats",
    "Integers",
    "Levels",
    "Rounding",
    "lane_sum",
    "least_squares",
    "rounded",
    "squared_errors",
]

Array = npt.NDArray[np.float64]
Values = npt.NDArray[np.floating[Any]]

MAX_INVERSE = 1e30  # of a scale: values are near 1, so a smaller one is of no use, and 0 times infinity is none
LANES = 256  # independent sums: a row of fewer costs NumPy more to begin than to add
BLOCK = 1 << 16  # values · candidates looked at together: their two arrays of 256 KiB stay in a core's L2 cache

EXPONENTS: dict[np.dtype[Any], Any] = {
    np.dtype(np.float32): np.int32(0xFF << 23),
    np.dtype(np.float64): np.int64(0x7FF << 52),
}  # the bits of a number's exponent


@dataclass(frozen=True)
class Integers:
    """Whole steps from ``-low`` to ``high``: scalars, or arrays that broadcast to (units, candidates, 1)."""

    low: float | Values
    high: float | Values


@dataclass(frozen=True)
class Floats:
    """A floating-point format: the bits of its mantissa, the exponent of its least normal number, its maximum."""

    mantissa_bits: int
    min_exponent: int
    max: float


@dataclass(frozen=True, eq=False)
class Levels:
    """Any ascending levels; the nearest one changes at their middles."""

    levels: Values

    @property
    def middles(self) -> Values:
        """Between each two neighbours."""
        middles: Values = (self.levels[1:] + self.levels[:-1]) / 2
        return middles


Rounding: TypeAlias = Integers | Floats | Levels


def rounded(steps: Values, rounding: Rounding, out: Values | None = None) -> Values:
    """The nearest levels; ties to the even integer or code, what is beyond the ends becomes the end.

    >>> rounded(np.float32([0.5, 1.5, 9.0]), Integers(7, 7)).tolist()
    [0.0, 2.0, 7.0]
    >>> rounded(np.float32([0.24, 5.1, -100]), Floats(1, 0, 6.0)).tolist()
    [0.0, 6.0, -6.0]
    """
    found: Values = np.empty_like(steps) if out is None else out
    if isinstance(rounding, Levels):  # of nf4: no two middles are float64 values that data have
        found[...] = rounding.levels[np.searchsorted(rounding.middles, steps)]
        return found
    if isinstance(rounding, Integers):
        np.rint(steps, out=found)
        return np.clip(found, np.negative(rounding.low), rounding.high, out=found)
    exponent = EXPONENTS[steps.dtype]
    unit = (steps.view(exponent.dtype) & exponent).view(steps.dtype)
    np.maximum(unit, 2.0**rounding.min_exponent, out=unit)
    unit *= 2.0**-rounding.mantissa_bits
    np.divide(steps, unit, out=found)
    np.rint(found, out=found)
    found *= unit
    return np.clip(found, -rounding.max, rounding.max, out=found)


def squared_errors(values: Values, counts: Values | None, scales: Array, rounding: Rounding) -> Array:
    """Σ c·(x/s − q)², in squared steps: (units, candidates)."""
    found = np.empty(scales.shape)
    for some, steps, level in _passes(values, scales, rounding):
        steps -= level
        with np.errstate(over="ignore"):  # of a scale that is far too small, the error may be infinite
            steps *= steps
            if counts is not None:
                steps *= counts[:, None, :]
            found[:, some] = lane_sum(steps)
    return found


def least_squares(values: Values, counts: Values | None, scales: Array, rounding: Rounding) -> Array:
    """Σ c·x·q / Σ c·q²: the scale of least error where values keep their levels q; the scale itself if all are 0."""
    found = np.empty(scales.shape)
    for some, steps, level in _passes(values, scales, rounding):
        np.multiply(level, level, out=steps)
        level *= values[:, None, :]
        if counts is not None:
            steps *= counts[:, None, :]
            level *= counts[:, None, :]
        squares, products = lane_sum(steps), lane_sum(level)
        found[:, some] = np.where(squares > 0, products / np.where(squares > 0, squares, 1.0), scales[:, some])
    return found


def _passes(values: Values, scales: Array, rounding: Rounding) -> Iterator[tuple[slice, Values, Values]]:
    """Some candidates after the others: x / s, and the levels that these are rounded to, (units, some, values).

    Both are scratch: new memory for each would cost more than the arithmetic, for the kernel has to clear it.
    """
    units, candidates = scales.shape
    inverse = np.minimum(1 / scales, MAX_INVERSE).astype(values.dtype)[:, :, None]
    together = max(1, min(candidates, BLOCK // values.size))
    scratch = np.empty((2, units * together * values.shape[1]), values.dtype)
    for first in range(0, candidates, together):
        some = slice(first, min(first + together, candidates))
        shape = units, some.stop - first, values.shape[1]
        steps, level = (part[: shape[0] * shape[1] * shape[2]].reshape(shape) for part in scratch)
        np.multiply(values[:, None, :], inverse[:, some], out=steps)
        yield some, steps, rounded(steps, _some(rounding, some), level)


def _some(rounding: Rounding, candidates: slice) -> Rounding:
    """The rounding of some candidates."""
    if isinstance(rounding, Integers) and isinstance(rounding.low, np.ndarray):
        return Integers(rounding.low[:, candidates], rounding.high[:, candidates])  # type: ignore[index]  # arrays both, or neither
    return rounding


def lane_sum(terms: Values) -> Array:
    """The sum over the last axis, in the order that this module says; the terms are used up.

    >>> float(lane_sum(np.arange(200, dtype=np.float32)[None])[0])
    19900.0
    """
    size = terms.shape[-1]
    if size > LANES:
        whole = size // LANES * LANES
        lanes = terms[..., :whole].reshape(*terms.shape[:-1], -1, LANES).sum(axis=-2)
        lanes[..., : size - whole] += terms[..., whole:]
        terms, size = lanes, LANES
    while size > 1:
        half = 1 << ((size - 1).bit_length() - 1)
        terms[..., : size - half] += terms[..., half:size]
        size = half
    total: Array = terms[..., 0].astype(np.float64)
    return total
