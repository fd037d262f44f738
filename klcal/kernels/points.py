"""The squared error and the least-squares scale of candidates, from every value of many units.

``values`` and ``counts`` are (units, values): the distinct values of each unit, ascending, and how often each occurs,
padded with zeros, whose counts are 0. ``counts`` is None if every value occurs once. Both are float32, or float64 for
units of few values, whose error may be too small for float32. The values of each unit are divided by a power of two,
which is exact, so that their magnitudes are near 1.

``scales`` are float64, (units, candidates), positive. To divide values by a scale, they are multiplied by its inverse,
rounded to their type. Results are float64, (units, candidates).

Sums are taken in one fixed order: value i is added to lane i mod 256, one after the other. Then the upper half of the
lanes is added to the lower half, until one lane is left. So a sum has the same bits on every machine, and does not
depend on other units or on the padding. A sum of 4,096 float32 is right to 10⁻⁶.
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

# Maximum inverse of a scale: values are near 1, so smaller scales are useless, and 0 · inf must not occur.
MAX_INVERSE = 1e30
LANES = 256  # independent sums: with fewer, NumPy takes longer to begin a row than to add it
BLOCK = 1 << 16  # values · candidates in one pass: the two scratch arrays, of 256 KiB each, stay in the L2 cache

EXPONENTS: dict[np.dtype[Any], Any] = {
    np.dtype(np.float32): np.int32(0xFF << 23),
    np.dtype(np.float64): np.int64(0x7FF << 52),
}  # the bits of a number's exponent


@dataclass(frozen=True)
class Integers:
    """Whole numbers from ``-low`` to ``high``: scalars, or arrays that broadcast to (units, candidates, 1)."""

    low: float | Values
    high: float | Values


@dataclass(frozen=True)
class Floats:
    """A floating-point format with subnormal numbers, symmetric about 0."""

    mantissa_bits: int  # stored bits, without the leading one
    min_exponent: int  # the exponent of the smallest normal number
    max: float  # the largest number


@dataclass(frozen=True, eq=False)
class Levels:
    """Any levels: a value becomes the nearest one."""

    levels: Values  # (levels,), ascending

    @property
    def middles(self) -> Values:
        """The middles between neighbours, (levels - 1,)."""
        middles: Values = (self.levels[1:] + self.levels[:-1]) / 2
        return middles


Rounding: TypeAlias = Integers | Floats | Levels


def rounded(steps: Values, rounding: Rounding, out: Values | None = None) -> Values:
    """The nearest levels, in the shape and the type of ``steps``. Values beyond an end become the end.

    Ties go to the even integer or mantissa; of ``Levels``, to the lower one.

    Args:
        steps: values divided by a scale: float32 or float64.
        rounding: the levels.
        out: an array for the result, of the shape and the type of ``steps``; None for a new one.

    >>> rounded(np.float32([0.5, 1.5, 9.0]), Integers(7, 7)).tolist()
    [0.0, 2.0, 7.0]
    >>> rounded(np.float32([0.24, 5.1, -100]), Floats(1, 0, 6.0)).tolist()
    [0.0, 6.0, -6.0]
    """
    found: Values = np.empty_like(steps) if out is None else out
    if isinstance(rounding, Levels):  # of nf4: data do not have values at its middles
        found[...] = rounding.levels[np.searchsorted(rounding.middles, steps)]
        return found
    if isinstance(rounding, Integers):
        np.rint(steps, out=found)
        return np.clip(found, np.negative(rounding.low), rounding.high, out=found)
    # Between two powers of two, levels are multiples of a third one: divide by it (exact), round to integers, multiply.
    exponent = EXPONENTS[steps.dtype]
    unit = (steps.view(exponent.dtype) & exponent).view(steps.dtype)
    np.maximum(unit, 2.0**rounding.min_exponent, out=unit)
    unit *= 2.0**-rounding.mantissa_bits
    np.divide(steps, unit, out=found)
    np.rint(found, out=found)
    found *= unit
    return np.clip(found, -rounding.max, rounding.max, out=found)


def squared_errors(values: Values, counts: Values | None, scales: Array, rounding: Rounding) -> Array:
    """Σ c·(x/s − q)² over the values x, with counts c, levels q and scales s: (units, candidates), in squared steps.

    It is inf where it overflows.
    """
    found = np.empty(scales.shape)
    for some, steps, level in _passes(values, scales, rounding):
        steps -= level
        with np.errstate(over="ignore"):  # the scale may be far too small
            steps *= steps
            if counts is not None:
                steps *= counts[:, None, :]
            found[:, some] = lane_sum(steps)
    return found


def least_squares(values: Values, counts: Values | None, scales: Array, rounding: Rounding) -> Array:
    """Σ c·x·q / Σ c·q²: (units, candidates), in units of the values.

    This scale minimises Σ c·(x − s·q)² if every value x keeps its level q (linear least squares). If all levels are 0,
    the result is the given scale.
    """
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
    """For some candidates at a time: their slice, x / s, and the levels q, (units, some, values) each.

    Both arrays are scratch, and the next pass overwrites them. New memory for each pass would take longer than the
    arithmetic, because the system has to clear it.
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
    """The rounding of a slice of the candidates."""
    if isinstance(rounding, Integers) and isinstance(rounding.low, np.ndarray):
        return Integers(rounding.low[:, candidates], rounding.high[:, candidates])  # type: ignore[index]  # arrays both, or neither
    return rounding


def lane_sum(terms: Values) -> Array:
    """The sums over the last axis, float64, in the order of this module. ``terms`` is overwritten.

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
