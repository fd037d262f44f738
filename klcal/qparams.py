"""Scale and zero point: the reference rounding.

    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x̂ = (q − zero_point) · scale

in float32, as ONNX QuantizeLinear and DequantizeLinear define it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from klcal.scheme import Scheme

__all__ = ["Qparams", "dequantize", "qparams", "quantize"]

FLOAT32_MAX = float(np.finfo(np.float32).max)


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
    """A quantizer as it is deployed; the scale is a float32."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @property
    def low(self) -> float:
        """What qmin stands for."""
        return (self.qmin - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """What qmax stands for."""
        return (self.qmax - self.zero_point) * self.scale


def qparams(scale: float, below: int, scheme: Scheme) -> Qparams:
    """The deployed form of a choice: ``below`` levels lie below zero.

    The scale is rounded to float32, and made smaller where an end of the range would overflow float32. It is 0
    where it underflows.
    """
    most = max(below, scheme.levels - 1 - below)
    rounded = np.float32(min(scale, FLOAT32_MAX / most))
    if most * float(rounded) > FLOAT32_MAX:
        rounded = np.nextafter(rounded, np.float32(0))
    return Qparams(float(rounded), scheme.qmin + below, scheme.qmin, scheme.qmax)


def quantize(values: Any, by: HasQparams) -> Any:
    """The integers of an array or torch tensor, as int64 of the same kind and shape.

    Args:
        values: finite or infinite floats; NaN has no integer.
        by: a row of a table, or a ``Qparams``; its scale must not be None.

    >>> quantize([-1.0, 0.02, 9.0], Qparams(0.01, 128, 0, 255)).tolist()
    [28, 130, 255]
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        steps = (values.to(torch.float32) / torch.tensor(by.scale, dtype=torch.float32)).round()
        return (steps + by.zero_point).clamp(by.qmin, by.qmax).to(torch.int64)
    with np.errstate(over="ignore"):  # what is beyond float32 is beyond qmax as well
        steps = np.rint(np.asarray(values, np.float32) / np.float32(by.scale))
    return np.clip(steps + by.zero_point, by.qmin, by.qmax).astype(np.int64)


def dequantize(integers: Any, by: HasQparams) -> Any:
    """What the integers stand for, as float32 of the same kind and shape.

    >>> dequantize([0, 128], Qparams(0.5, 128, 0, 255)).tolist()
    [-64.0, 0.0]
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(integers, torch.Tensor):
        return (integers - by.zero_point).to(torch.float32) * torch.tensor(by.scale, dtype=torch.float32)
    return (np.asarray(integers) - by.zero_point).astype(np.float32) * np.float32(by.scale)
