"""The number formats that values are quantized to, and how zero is placed in them.

A format is a sorted array of representable values, its levels, with zero among them; a quantizer multiplies it by a
scale. Integer formats may be shifted by a zero point as well: symmetric schemes fix it, affine ones leave it to the
search. A quantizer is known by its scale, above 0, and by how many levels lie below zero.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import RELATIVE, SCALE_FORMATS, UNSIGNED

__all__ = ["DTYPES", "KINDS", "LEAST_BITS", "MOST_BITS", "Kind", "Scheme", "check_range", "parse_range"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

Kind = Literal["symmetric", "symmetric-full", "symmetric-signed", "affine"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LEAST_BITS, MOST_BITS = 2, 16  # of an integer format: with one bit, zero would be no level of a symmetric one
DTYPES = (
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(LEAST_BITS, MOST_BITS + 1)),
    *FLOATS,
)
"""All formats."""
KNOWN = f"use int2 to int16, uint2 to uint16, {', '.join(FLOATS)}"


@dataclass(frozen=True)
class Scheme:
    """A number format, and which of its integers are used around which zero point.

    symmetric         leaves out the lowest integer, so that both signs have equally many: int8 uses −127..127
                      with zero point 0, uint8 uses 1..255 with zero point 128
    symmetric-full    the same zero point, every integer: int4 uses −8..7
    symmetric-signed  the same integers, and the scale that is deployed may be negative, so that either sign may have
                      the level more: −8..7 times −0.1 is −0.7..0.8
    affine            every integer, and the zero point is a result of the calibration

    Floating-point formats have no zero point; they count as symmetric.

    >>> Scheme("int8", "symmetric").size, Scheme.parse("uint8").kind
    (255, 'affine')
    """

    dtype: str
    kind: Kind
    scale_format: str = "float32"  # the format in which the hardware holds scales
    global_scale: float = 1.0  # of the tensor: float8_e4m3fn scales are multiples of it

    @staticmethod
    def parse(dtype: str, scheme: str = "auto", scale_format: str = "float32") -> Scheme:
        """The scheme of three words; "auto" is affine for unsigned formats and symmetric for all others.

        Raises:
            UsageError: a word is unknown, or they do not go together.
        """
        if dtype not in DTYPES:
            raise UsageError(f"unknown dtype {dtype!r}", KNOWN)
        if scheme not in ("auto", *KINDS):
            raise UsageError(f"unknown scheme {scheme!r}", f"use auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if scheme == "affine" and dtype in FLOATS:
            raise UsageError(f"{dtype} has no zero point to search", "use the scheme symmetric")
        if scheme not in ("auto", "symmetric") and dtype in FLOATS:
            raise UsageError(f"{dtype} has its own levels on both sides of zero", "use the scheme symmetric")
        if scale_format not in [*SCALE_FORMATS]:
            raise UsageError(f"unknown scale format {scale_format!r}", f"use one of {', '.join(SCALE_FORMATS)}")
        if scheme == "symmetric-signed" and scale_format in UNSIGNED:
            raise UsageError(f"{scale_format} has no negative scales", "use the scheme symmetric-full")
        if scheme == "auto":
            scheme = "affine" if dtype.startswith("uint") else "symmetric"
        return Scheme(dtype, cast(Kind, scheme), scale_format)

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed."""
        return self.kind != "affine"

    @property
    def is_relative(self) -> bool:
        """Whether scales are relative to a global scale of the tensor."""
        return self.scale_format in RELATIVE

    @property
    def of_one_unit(self) -> Scheme:
        """The scheme of a tensor with a single scale: a scale relative to itself says nothing, so it is a float32."""
        return replace(self, scale_format="float32") if self.is_relative else self

    def check_units(self, some: bool) -> None:
        """Refuse scales that are relative to a global scale if tensors have a single scale.

        Args:
            some: whether channels, groups or blocks have a scale each.

        Raises:
            UsageError: the scale format is relative, and tensors have a single scale.
        """
        if self.is_relative and not some:
            raise UsageError(
                f"{self.scale_format} scales are relative to a global scale of their tensor",
                "give its units scales, per group:16, channel or block:128,128, or use the scale format float32",
            )

    @property
    def is_float(self) -> bool:
        """Whether the levels are those of a floating-point format: uneven, and without a zero point."""
        return self.dtype in FLOATS

    @property
    def is_fixed(self) -> bool:
        """Whether all candidates have the same levels, so that a scale alone is searched."""
        return self.belows.size == 1

    @cached_property
    def integers(self) -> range:
        """The integers in use, from qmin to qmax; those of a floating-point format number its levels."""
        if self.is_float:
            return range(len(FLOATS[self.dtype]))
        signed = not self.dtype.startswith("u")
        bits = int(re.sub(r"\D", "", self.dtype))
        least = -(1 << (bits - 1)) if signed else 0
        return range(least + (1 if self.kind == "symmetric" else 0), least + (1 << bits))

    @property
    def size(self) -> int:
        """The number of levels."""
        return len(self.integers)

    @cached_property
    def zero(self) -> int:
        """The number of levels below zero if the zero point is fixed and the scale is above 0."""
        return int(np.flatnonzero(FLOATS[self.dtype] == 0)[0]) if self.is_float else self.size // 2

    @cached_property
    def belows(self) -> Integers:
        """The options of the search, (options,): numbers of levels that may lie below zero, the preferred one first.

        >>> Scheme("int4", "symmetric-signed").belows.tolist(), Scheme("uint2", "affine").belows.tolist()
        ([8, 7], [0, 1, 2, 3])
        """
        if self.kind == "affine":
            return np.arange(self.size)
        return np.array([self.zero, self.zero - 1] if self.kind == "symmetric-signed" else [self.zero])

    @cached_property
    def above(self) -> Floats:
        """The levels above zero that any candidate may have, (levels,), ascending, in units of the scale.

        >>> Scheme("int4", "symmetric").above.tolist(), Scheme("float4_e2m1fn", "symmetric").above.tolist()
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        """
        if self.is_float:
            return FLOATS[self.dtype][self.zero + 1 :]
        return np.arange(1.0, self.size - self.belows.min())

    @cached_property
    def below(self) -> Floats:
        """The magnitudes of the levels below zero, (levels,), ascending, in units of the scale."""
        if self.is_float:
            return -FLOATS[self.dtype][: self.zero][::-1]
        return np.arange(1.0, self.belows.max() + 1)

    def sides(self, below: int) -> tuple[Floats, Floats]:
        """The levels above zero, and the magnitudes of the ``below`` levels below zero."""
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
    """Refuse bounds that are not two finite numbers, exclude zero, or have no width.

    Raises:
        UsageError: names the bounds.
    """
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        raise UsageError(f"the range {bounds!r} is not two numbers", "give (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high):
        raise UsageError(f"the range {low:g},{high:g} is not usable", "LO ≤ 0 ≤ HI, finite, and LO < HI")
