"""How a tensor is calibrated: what every part of the work is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from klcal.quantizers.scheme import Scheme
from klcal.search.methods import Method

__all__ = ["Nonfinite", "Settings"]

Nonfinite = Literal["fail", "ignore"]


@dataclass(frozen=True)
class Settings:
    """The same for every tensor."""

    method: Method
    scheme: Scheme
    bounds: tuple[float, float] | None = None  # the widest range that a candidate may keep
    nonfinite: Nonfinite = "fail"  # what becomes of a tensor with NaN or infinity
