"""Scale and zero point, as they are deployed: the reference rounding.

    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x̂ = (q − zero_point) · scale

in float32, as ONNX QuantizeLinear and DequantizeLinear define it.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS, nearest
from klcal.quantizers.granularity import layout, per_at
from klcal.quantizers.per_unit import Numbers
from klcal.quantizers.scale_formats import FLOAT32_MAX, at_most
from klcal.quantizers.scheme import Scheme

__all__ = [
    "Qparams",
    "deployed_scales",
    "dequantize",
    "level_ends",
    "qparams",
    "quantize",
    "quantized",
    "rounded_scales",
    "zero_points",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]


class HasQparams(Protocol):
    """A ``Qparams``, or a row of a table."""

    @property
    def scale(self) -> float | Numbers | None: ...
    @property
    def zero_point(self) -> float | Numbers | None: ...
    @property
    def qmin(self) -> int | None: ...
    @property
    def qmax(self) -> int | None: ...


@dataclass(frozen=True)
class Qparams:
    """A quantizer as it is deployed. Floating-point formats have a scale only."""

    scale: float
    zero_point: int | None = None
    qmin: int | None = None
    qmax: int | None = None
    low: float = field(default=math.nan, kw_only=True)  # what qmin, or the least value of the format, stands for
    high: float = field(default=math.nan, kw_only=True)


def qparams(scale: float, below: int, scheme: Scheme) -> Qparams:
    """The deployed form of a choice: ``below`` levels lie below zero.

    The scale is that of ``deployed_scales``; ``low`` and ``high`` are in order whatever its sign.

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
    """Magnitudes of the lowest and the highest level in use, in steps, for each number of them below zero."""
    if scheme.is_float:
        return np.full(below.shape, scheme.below[-1]), np.full(below.shape, scheme.above[-1])
    under = below.astype(np.float64)
    return under, scheme.size - 1 - under


def zero_points(below: Integers | Floats, scheme: Scheme) -> npt.NDArray[Any]:
    """The zero point of each option of an integer format; fixed where it is symmetric, whatever the scale's sign."""
    return scheme.integers[0] + (np.maximum(below, scheme.zero) if scheme.symmetric else below)


def rounded_scales(scales: Floats, below: Integers, scheme: Scheme) -> Floats:
    """The magnitudes of ``deployed_scales``: what the search and the figures count with.

    Scales as float32, or in their narrower format, whose range does not overflow float32; 0 where they underflow.
    """
    greatest = np.maximum(*level_ends(below, scheme))
    with np.errstate(over="ignore"):
        single = scales.astype(np.float32).astype(np.float64)
    limit = at_most(FLOAT32_MAX / greatest, scheme.scale_format, scheme.global_scale)
    return np.minimum(single, limit.astype(np.float32))


def deployed_scales(scales: Floats, below: Integers, scheme: Scheme) -> Floats:
    """Scales as they are written down: negative where a signed scheme has the level more above zero.

    There −8..7 times −s are the levels −7s..8s. Equal losses go to the positive sign, by the search, of which it is the
    first option.

    Args:
        scales: as they were chosen, above 0.
        below: how many levels lie below zero, of each.
        scheme: of which ``below`` is an option.
    """
    magnitudes = rounded_scales(scales, below, scheme)
    if scheme.kind != "symmetric-signed":
        return magnitudes
    return np.where(below == scheme.zero, magnitudes, 0.0 - magnitudes)


def quantize(values: Any, by: HasQparams, dtype: str | None = None) -> Any:
    """The integers of an array or torch tensor, as int64 of the same kind and shape.

    Args:
        values: finite or infinite floats; NaN has no integer.
        by: a row of a table, or a ``Qparams``; its scale must not be None. Where channels or groups have a scale each,
            the values must have the shape of the tensor that was calibrated.
        dtype: a floating-point format, which ``by`` is for. What is given back are then not integers but the values of
            that format in units of the scale, as float32: ties go to the even code, what is beyond the ends becomes the
            end.

    Raises:
        UsageError: the row has no scale, or a dtype is missing or superfluous.

    >>> quantize([-1.0, 0.02, 9.0], Qparams(0.01, 128, 0, 255)).tolist()
    [28, 130, 255]
    >>> quantize([0.3, -9.0], Qparams(0.5), "float4_e2m1fn").tolist()
    [0.5, -6.0]
    """
    _check(by, dtype)
    scale, zero_point = _of_each_value(by.scale, by, values), _of_each_value(by.zero_point, by, values)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(values, torch.Tensor):
        return quantized(np.asarray(values, np.float32), scale, zero_point, by, dtype)
    if dtype is not None:
        array = quantize(values.detach().cpu().to(torch.float32).numpy(), by, dtype)
        return torch.from_numpy(array).to(values.device)
    steps = (values.to(torch.float32) / torch.from_numpy(scale).to(values.device)).round()
    return (steps + torch.from_numpy(zero_point).to(values.device)).clamp(by.qmin, by.qmax).to(torch.int64)


def quantized(values: Singles, scale: Singles, zero_point: Singles, by: HasQparams, dtype: str | None) -> Any:
    """``quantize`` of an array, where scales and zero points are known for each value."""
    with np.errstate(over="ignore"):  # what is beyond float32 is beyond qmax as well
        steps = values / scale
    if dtype is not None:
        return nearest(steps, dtype).astype(np.float32)
    return np.clip(np.rint(steps) + zero_point, by.qmin, by.qmax).astype(np.int64)


def _of_each_value(numbers: float | Numbers | None, by: HasQparams, values: Any) -> Singles:
    """Numbers in a shape that goes with the values': themselves, or those of the channel or group of each value."""
    if not isinstance(numbers, Numbers):
        return np.array(numbers or 0, np.float32)
    shape = tuple(np.shape(values))
    units = per_at(getattr(by, "axis", None) or 0, getattr(by, "group_size", None))
    try:
        place = layout(units, shape) if np.prod(shape) else None
    except UsageError:
        place = None
    if place is None or place.rows != len(numbers):
        raise UsageError(f"{len(numbers)} scales per {units} do not fit the shape {list(shape)}", "hand in the tensor")
    each = np.asarray(numbers, np.float32)
    zeros = np.array(getattr(by, "unit_status", None) or "ok") == "zero"
    each[np.isnan(each) & zeros] = 1  # any quantizer represents zeros; 1 is a scale, and a zero point of all formats
    if lacking := int(np.isnan(each).sum()):
        hint = "the row's unit_status says which; nonfinite='ignore' calibrates what is finite of them"
        raise UsageError(f"{lacking} of {len(numbers)} units have no scale", hint)
    begins, unit = place.runs(0, math.prod(shape))
    return np.repeat(each[unit], np.diff(begins, append=math.prod(shape))).reshape(shape)


def dequantize(integers: Any, by: HasQparams) -> Any:
    """What integers, or the values of a floating-point format, stand for: float32 of the same kind and shape.

    Raises:
        UsageError: the row has no scale.

    >>> dequantize([0, 128], Qparams(0.5, 128, 0, 255)).tolist()
    [-64.0, 0.0]
    """
    if by.scale is None:
        raise UsageError("the row has no scale", "calibrate the tensor first; the row's reason says why it has none")
    scale, zero_point = _of_each_value(by.scale, by, integers), _of_each_value(by.zero_point, by, integers)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(integers, torch.Tensor):
        return (np.asarray(integers) - zero_point).astype(np.float32) * scale
    steps = integers if integers.is_floating_point() else integers - torch.from_numpy(zero_point).to(integers.device)
    return steps.to(torch.float32) * torch.from_numpy(scale).to(integers.device)


def _check(by: HasQparams, dtype: str | None) -> None:
    if by.scale is None:
        raise UsageError("the row has no scale", "calibrate the tensor first; the row's reason says why it has none")
    if dtype is not None and dtype not in FLOATS:
        raise UsageError(
            f"{dtype!r} is no floating-point format", f"leave it out for integers; else {', '.join(FLOATS)}"
        )
    if (by.zero_point is None) != (dtype is not None):
        what = "needs" if dtype is None else "does not need"
        raise UsageError(
            f"a quantizer with the zero point {by.zero_point} {what} a dtype", f"one of {', '.join(FLOATS)}"
        )
