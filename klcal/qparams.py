"""Scale and zero point: the reference rounding.

    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x̂ = (q − zero_point) · scale

in float32, as ONNX QuantizeLinear and DequantizeLinear define it.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from klcal.errors import UsageError
from klcal.levels import FLOATS, nearest
from klcal.scales import FLOAT32_MAX, at_most
from klcal.scheme import Scheme

__all__ = ["Qparams", "dequantize", "qparams", "quantize"]


class HasQparams(Protocol):
    """A ``Qparams``, or a row of a table."""

    @property
    def scale(self) -> float | None: ...
    @property
    def zero_point(self) -> int | None: ...
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

    The scale is rounded to a float32 if its format is not narrower anyway, and made smaller where an end of the range
    would overflow float32. It is 0 where it underflows.
    """
    above, under = (side.max(initial=0.0) for side in scheme.sides(below))
    limit = float(at_most(FLOAT32_MAX / max(above, under), scheme.scale_format))
    rounded = min(float(np.float32(scale)), limit)
    low, high = float(-under * rounded), float(above * rounded)
    if scheme.is_float:
        return Qparams(rounded, low=low, high=high)
    qmin, qmax = scheme.integers[0], scheme.integers[-1]
    return Qparams(rounded, qmin + below, qmin, qmax, low=low, high=high)


def quantize(values: Any, by: HasQparams, dtype: str | None = None) -> Any:
    """The integers of an array or torch tensor, as int64 of the same kind and shape.

    Args:
        values: finite or infinite floats; NaN has no integer.
        by: a row of a table, or a ``Qparams``; its scale must not be None.
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
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        if dtype is not None:
            array = quantize(values.detach().cpu().to(torch.float32).numpy(), by, dtype)
            return torch.from_numpy(array).to(values.device)
        steps = (values.to(torch.float32) / torch.tensor(by.scale, dtype=torch.float32)).round()
        return (steps + by.zero_point).clamp(by.qmin, by.qmax).to(torch.int64)
    with np.errstate(over="ignore"):  # what is beyond float32 is beyond qmax as well
        steps = np.asarray(values, np.float32) / np.float32(by.scale)
    if dtype is not None:
        return nearest(steps, dtype).astype(np.float32)
    return np.clip(np.rint(steps) + by.zero_point, by.qmin, by.qmax).astype(np.int64)


def dequantize(integers: Any, by: HasQparams) -> Any:
    """What integers, or the values of a floating-point format, stand for: float32 of the same kind and shape.

    Raises:
        UsageError: the row has no scale.

    >>> dequantize([0, 128], Qparams(0.5, 128, 0, 255)).tolist()
    [-64.0, 0.0]
    """
    if by.scale is None:
        raise UsageError("the row has no scale", "calibrate the tensor first; the row's reason says why it has none")
    zero_point = by.zero_point or 0
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(integers, torch.Tensor):
        steps = integers if integers.is_floating_point() else integers - zero_point
        return steps.to(torch.float32) * torch.tensor(by.scale, dtype=torch.float32)
    return (np.asarray(integers) - zero_point).astype(np.float32) * np.float32(by.scale)


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
