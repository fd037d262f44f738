"""The integer grids that values are quantized to.

A scheme is a number format and how zero is placed in it. Symmetric schemes fix the zero point, affine ones
leave it to the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from klcal.errors import UsageError

__all__ = ["INTEGERS", "Scheme", "parse_range"]

INTEGERS: dict[str, tuple[int, int]] = {
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
"""Least and greatest integer of each format."""


@dataclass(frozen=True)
class Scheme:
    """A number format, symmetric or affine.

    Symmetric leaves out the least integer, so that both signs have equally many levels: int8 uses
    −127..127 with zero point 0, uint8 uses 1..255 with zero point 128. Affine uses every integer, and its
    zero point is a result of the calibration.

    >>> Scheme("int8", symmetric=True).levels, Scheme.parse("uint8").name
    (255, 'affine')
    """

    dtype: str
    symmetric: bool

    @staticmethod
    def parse(dtype: str, scheme: str = "auto") -> Scheme:
        """The scheme of two words; "auto" is affine for unsigned formats and symmetric for signed ones.

        Raises:
            UsageError: either word is unknown; the message lists those that are not.
        """
        if dtype not in INTEGERS:
            raise UsageError(f"unknown dtype {dtype!r}", f"use one of {', '.join(INTEGERS)}")
        if scheme not in ("auto", "symmetric", "affine"):
            raise UsageError(f"unknown scheme {scheme!r}", "use auto, symmetric or affine")
        signed = INTEGERS[dtype][0] < 0
        return Scheme(dtype, symmetric=scheme == "symmetric" or (scheme == "auto" and signed))

    @property
    def name(self) -> str:
        """Either "symmetric" or "affine"."""
        return "symmetric" if self.symmetric else "affine"

    @property
    def qmin(self) -> int:
        """The least integer in use."""
        return INTEGERS[self.dtype][0] + self.symmetric

    @property
    def qmax(self) -> int:
        """The greatest integer in use."""
        return INTEGERS[self.dtype][1]

    @property
    def levels(self) -> int:
        """How many integers are in use."""
        return self.qmax - self.qmin + 1


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
    check_range(low, high)
    return low, high


def check_range(low: float, high: float) -> None:
    """Refuses bounds that are not finite, hold no zero, or have no width.

    Raises:
        UsageError: names the bounds.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high):
        raise UsageError(f"the range {low:g},{high:g} is not usable", "LO ≤ 0 ≤ HI, finite, and LO < HI")
