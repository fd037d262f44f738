"""The settings by which a tensor is calibrated. Every part of the work gets them as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from klcal.errors import UsageError
from klcal.quantizers.scheme import Scheme, check_range
from klcal.search.methods import Method
from klcal.tables.explanation import DETAILS, Detail

__all__ = ["Nonfinite", "Settings"]

Nonfinite = Literal["fail", "ignore"]


@dataclass(frozen=True)
class Settings:
    """The settings of a tensor.

    Attributes:
        method: chooses the quantizers.
        scheme: the number format, the kind of zero point, and the format of the scales.
        bounds: the widest range, (low, high) around zero, that a quantizer may cover; None for no limit.
        nonfinite: "fail" to give a tensor with NaN or infinities no scale, "ignore" to leave these values out.
        detail: how much of the answer is explained.
        unit: the number of the only unit to calibrate and explain; None for all units.

    Raises:
        UsageError: the bounds do not contain zero, or another setting has no such value.
    """

    method: Method
    scheme: Scheme
    bounds: tuple[float, float] | None = None
    nonfinite: Nonfinite = "fail"
    detail: Detail = "none"
    unit: int | None = None

    def __post_init__(self) -> None:
        if self.bounds is not None:
            check_range(self.bounds)
            object.__setattr__(self, "bounds", tuple(self.bounds))  # JSON has lists, which no cache takes for a key
        if self.nonfinite not in get_args(Nonfinite):
            raise UsageError(f"nonfinite is {self.nonfinite!r}", "use 'fail' or 'ignore'")
        if self.detail not in DETAILS:
            raise UsageError(f"detail is {self.detail!r}", f"use one of {', '.join(DETAILS)}")
