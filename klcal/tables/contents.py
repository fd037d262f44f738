"""One tensor of a file as plain Python values: what its header says, and what its values are like."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from klcal.tables.status import FAILURES, Cause, Status

__all__ = ["Content"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """A tensor, or several whose names begin alike. What was not counted is None."""

    name: str
    source: str = ""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None  # None where several differ
    status: Status = "ok"  # or "skipped": it is no weight; or why it cannot be read
    reason: str | None = None
    cause: Cause | None = None  # of a failure
    note: str | None = None
    tensors: int = 1
    numel: int | None = None
    nbytes: int | None = None  # of the values, where the size of one is known
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)
    min: float | None = None  # of the finite values, as the next one
    max: float | None = None
    zeros: int | None = None
    nan: int | None = None
    neg_inf: int | None = None
    pos_inf: int | None = None
    outlier: float | None = None  # the largest magnitude, relative to that which 0.1 % of the nonzero values exceed
    histogram: tuple[int, ...] | None = None  # values in bins of one width from min to max

    def __post_init__(self) -> None:
        if self.cause is None and self.status in FAILURES:
            object.__setattr__(self, "cause", "data")

    def to_dict(self) -> dict[str, object]:
        """The fields that the JSON has, as plain Python values."""
        found: dict[str, object] = import_module("klcal.writers.records").as_dict(self)
        return found

    @property
    def failed(self) -> bool:
        """Whether it cannot be read."""
        return self.status in FAILURES
