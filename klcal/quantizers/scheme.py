"""The number formats that values are quantized to, and how zero is placed in them.

A format is a sorted array of representable values, its levels, with zero among them; a quantizer multiplies it by a
scale. Integer formats may be shifted by a zero point as well: symmetric schemes fix it, affine ones leave it to the
search.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS

__all__ = ["DTYPES", "Scheme", "check_range", "parse_range"]

Floats = npt.NDArray[np.float64]

LEAST_BITS, MOST_BITS = 2, 16  # of an integer format: with one bit, zero would be no level of a symmetric one
DTYPES = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(LEAST_BITS, MOST_BITS + 1)),
    *FLOATS,
)
"""All formats."""
KNOWN = f"use int2 to int16, uint2 to uint16, {', '.join(FLOATS)}"


@dataclass(frozen=True)
class Scheme:
    """A number format, symmetric or affine.

    Symmetric leaves out the least integer, so that both signs have equally many levels: int8 uses
    −127..127 with zero point 0, uint8 uses 1..255 with zero point 128. Affine uses every integer, and its
    zero point is a result of the calibration. Floating-point formats have no zero point; they count as symmetric.

    >>> Scheme("int8", symmetric=True).size, Scheme.parse("uint8").name
    (255, 'affine')
    """

    dtype: str
    symmetric: bool
    scale_format: str = "float32"  # what the hardware wants the scale in

    @staticmethod
    def parse(dtype: str, scheme: str = "auto", scale_format: str = "float32") -> Scheme:
        """The scheme of three words; "auto" is affine for unsigned formats and symmetric for all others.

        Raises:
            UsageError: a word is unknown, or they do not go together.
        """
        if dtype not in DTYPES:
            raise UsageError(f"unknown dtype {dtype!r}", KNOWN)
        if scheme not in ("auto", "symmetric", "affine"):
            raise UsageError(f"unknown scheme {scheme!r}", "use auto, symmetric or affine")
        if scheme == "affine" and dtype in FLOATS:
            raise UsageError(f"{dtype} has no zero point to search", "use --scheme symmetric")
        if scale_format not in SCALE_FORMATS:
            raise UsageError(f"unknown scale format {scale_format!r}", f"use one of {', '.join(SCALE_FORMATS)}")
        symmetric = scheme == "symmetric" or (scheme == "auto" and not dtype.startswith("uint"))
        return Scheme(dtype, symmetric, scale_format)

    @property
    def name(self) -> str:
        """Either "symmetric" or "affine"."""
        return "symmetric" if self.symmetric else "affine"

    @property
    def is_float(self) -> bool:
        """Whether the levels are those of a floating-point format: uneven, and without a zero point."""
        return self.dtype in FLOATS

    @property
    def is_even(self) -> bool:
        """Whether the levels below zero mirror those above."""
        return not self.is_float or bool(np.array_equal(self.above, self.below))

    @cached_property
    def integers(self) -> range:
        """The integers in use, from qmin to qmax; those of a floating-point format number its levels."""
        if self.is_float:
            return range(len(FLOATS[self.dtype]))
        signed = not self.dtype.startswith("u")
        bits = int(re.sub(r"\D", "", self.dtype))
        least = -(1 << (bits - 1)) if signed else 0
        return range(least + self.symmetric, least + (1 << bits))

    @property
    def size(self) -> int:
        """How many levels there are."""
        return len(self.integers)

    @cached_property
    def zero(self) -> int:
        """How many levels lie below zero, where that is fixed: in a symmetric scheme."""
        return int(np.flatnonzero(FLOATS[self.dtype] == 0)[0]) if self.is_float else self.size // 2

    @cached_property
    def above(self) -> Floats:
        """The levels above zero that any candidate may have, ascending, in units of the scale."""
        if self.is_float:
            return FLOATS[self.dtype][self.zero + 1 :]
        return np.arange(1.0, self.size - self.zero if self.symmetric else self.size)

    @cached_property
    def below(self) -> Floats:
        """The magnitudes of the levels below zero, ascending, in units of the scale."""
        return -FLOATS[self.dtype][: self.zero][::-1] if self.is_float else self.above

    def sides(self, below: int) -> tuple[Floats, Floats]:
        """The levels above zero, and the magnitudes of those below, where ``below`` of them lie there."""
        return self.above[: self.size - 1 - below], self.below[:below]


def parse_range(text: str) -> tuple[float, float]:
    """The bounds of "LO,HI", with LO ≤ 0 ≤ HI, because zero is always representable.

    Raises:
        UsageError: the text is not such a pair.

    >>> parse_range("-1,2.5")
    (-1.0, 2.5)
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"range {text!r} is not two numbers", "write it as LO,HI: --range=-1,2.5") from None
    check_range((low, high))
    return low, high


def check_range(bounds: tuple[float, float]) -> None:
    """Refuses bounds that are not two finite numbers, hold no zero, or have no width.

    Raises:
        UsageError: names the bounds.
    """
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        raise UsageError(f"the range {bounds!r} is not two numbers", "give (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high):
        raise UsageError(f"the range {low:g},{high:g} is not usable", "LO ≤ 0 ≤ HI, finite, and LO < HI")
