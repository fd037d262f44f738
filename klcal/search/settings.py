"""How a tensor is calibrated: what every part of the work is told."""

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
    """What holds for a tensor.

    Raises:
        UsageError: the bounds are no range around zero, or it is not said what becomes of NaN.
    """

    method: Method
    scheme: Scheme
    bounds: tuple[float, float] | None = None  # the widest range that a candidate may keep
    nonfinite: Nonfinite = "fail"  # what becomes of a tensor with NaN or infinity
    detail: Detail = "none"  # how much of the answer is explained
    unit: int | None = None  # the only one that is calibrated and explained, by its number

    def __post_init__(self) -> None:
        if self.bounds is not None:
            check_range(self.bounds)
        if self.nonfinite not in get_args(Nonfinite):
            raise UsageError(f"nonfinite is {self.nonfinite!r}", "use 'fail' or 'ignore'")
        if self.detail not in DETAILS:
            raise UsageError(f"detail is {self.detail!r}", f"use one of {', '.join(DETAILS)}")
