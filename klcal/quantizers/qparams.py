"""Scale and zero point, as they are deployed.

A choice of the search is a scale (float64, above 0) and a number of levels below zero. Arrays of choices have any
shape, and results have the same. "In steps" means in units of the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scale_formats import FLOAT32_MAX, GREATEST, at_most
from klcal.quantizers.scheme import Scheme

__all__ = [
    "Qparams",
    "deployed_scales",
    "level_ends",
    "levels_below",
    "qparams",
    "rounded_scales",
    "signed_scales",
    "zero_points",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Qparams:
    """A quantizer as it is deployed. Floating-point formats have a scale only."""

    scale: float
    zero_point: int | None = None
    qmin: int | None = None
    qmax: int | None = None
    low: float = field(default=math.nan, kw_only=True)  # the value of qmin, or of the format's lowest value
    high: float = field(default=math.nan, kw_only=True)


def qparams(scale: float, below: int, scheme: Scheme) -> Qparams:
    """The deployed form of a choice: ``below`` levels lie below zero.

    The scale is that of ``deployed_scales``; ``low`` ≤ ``high`` whatever the sign of the scale.

    >>> qparams(0.125, 8, Scheme("int4", "symmetric-signed"))
    Qparams(scale=0.125, zero_point=0, qmin=-8, qmax=7, low=-1.0, high=0.875)
    >>> qparams(0.125, 7, Scheme("int4", "symmetric-signed"))
    Qparams(scale=-0.125, zero_point=0, qmin=-8, qmax=7, low=-0.875, high=1.0)
    """
    option = np.array(below)
    deployed = float(deployed_scales(np.array(scale), option, scheme))
    under, above = map(float, level_ends(option, scheme))
    low, high = 0.0 - under * abs(deployed), above * abs(deployed)
    if scheme.is_float:
        return Qparams(deployed, low=low, high=high)
    qmin, qmax = scheme.integers[0], scheme.integers[-1]
    return Qparams(deployed, int(zero_points(option, scheme)), qmin, qmax, low=low, high=high)


def level_ends(below: Integers | Floats, scheme: Scheme) -> tuple[Floats, Floats]:
    """Magnitudes of the lowest and the highest level, in steps, for each number of levels below zero.

    >>> level_ends(np.array([8, 7]), Scheme("int4", "affine"))
    (array([8., 7.]), array([7., 8.]))
    """
    if scheme.is_float:
        return np.full(below.shape, scheme.below[-1]), np.full(below.shape, scheme.above[-1])
    under = below.astype(np.float64)
    return under, scheme.size - 1 - under


def zero_points(below: Integers | Floats, scheme: Scheme) -> npt.NDArray[Any]:
    """The zero point of each number of levels below zero, for an integer format; symmetric schemes have a single one.

    >>> zero_points(np.array([0, 3, 15]), Scheme("uint4", "affine")).tolist()
    [0, 3, 15]
    """
    return scheme.integers[0] + (np.maximum(below, scheme.zero) if scheme.symmetric else below)


def levels_below(scales: Floats, points: Floats, scheme: Scheme) -> Floats:
    """The number of levels below zero, from deployed scales and zero points: the inverse of ``zero_points``.

    Zero points that no scheme has, such as those of a foreign table, give numbers below 0 or beyond the last level.

    >>> levels_below(np.array([0.125, -0.125]), np.zeros(2), Scheme("int4", "symmetric-signed"))
    array([8., 7.])
    """
    if scheme.is_float:
        return np.full(scales.shape, float(scheme.zero))
    under = points - scheme.integers[0]
    return np.where(scales < 0, scheme.size - 1 - under, under)


def rounded_scales(scales: Floats, below: Integers, scheme: Scheme) -> Floats:
    """The magnitudes of ``deployed_scales``, which the search and the figures use.

    Scales are rounded to float32 or a narrower format so that no range overflows float32; 0 where they underflow.
    Results are float64 numbers that the format holds exactly.

    >>> rounded_scales(np.array([0.25, 1e-50]), np.array([8, 8]), Scheme("int4", "symmetric-full")).tolist()
    [0.25, 0.0]
    """
    with np.errstate(over="ignore"):
        single = scales.astype(np.float32).astype(np.float64)
    farthest = max(scheme.above[-1], scheme.below[-1])
    held = min(FLOAT32_MAX / farthest, GREATEST[scheme.scale_format] * scheme.global_scale)
    if single.max(initial=0.0) <= held / 2:  # none is limited: rounding down leaves more than half of a limit
        return single
    greatest = np.maximum(*level_ends(below, scheme))
    limit = at_most(FLOAT32_MAX / greatest, scheme.scale_format, scheme.global_scale)
    return np.minimum(single, limit.astype(np.float32))


def deployed_scales(scales: Floats, below: Integers, scheme: Scheme) -> Floats:
    """Scales as they are written down: negative where a signed scheme has its extra level above zero.

    −8..7 times −s are the levels −7s..8s. Of two equal losses the search takes the positive sign, its first option.

    Args:
        scales: as they were chosen, above 0.
        below: the number of levels below zero, for each.
        scheme: one that has the option ``below``.

    Returns:
        float64, of the shape of ``scales``; exact in the scheme's format of scales.
    """
    return signed_scales(rounded_scales(scales, below, scheme), below, scheme)


def signed_scales(magnitudes: Floats, below: Integers, scheme: Scheme) -> Floats:
    """The same of scales that are rounded already."""
    if scheme.kind != "symmetric-signed":
        return magnitudes
    return np.where(below == scheme.zero, magnitudes, 0.0 - magnitudes)
