"""One tensor of a file as plain Python values: the fields of its header, and statistics of its values."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from klcal.tables.status import FAILURES, Cause, Status

__all__ = ["Content"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """A tensor, or several whose names begin alike. Numbers that were not counted are None."""

    name: str
    source: str = ""
    dtype: str | None = None
    shape: tuple[int, ...] | None = None  # None if several tensors differ
    status: Status = "ok"  # or "skipped": not a weight; or why it cannot be read
    reason: str | None = None
    cause: Cause | None = None  # of a failure
    note: str | None = None
    tensors: int = 1
    numel: int | None = None
    nbytes: int | None = None  # of the values, if the size of one is known
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)
    min: float | None = None  # of the finite values
    max: float | None = None
    zeros: int | None = None
    nan: int | None = None
    neg_inf: int | None = None
    pos_inf: int | None = None
    outlier: float | None = None  # the largest magnitude over the magnitude that 0.1 % of the nonzero values exceed
    histogram: tuple[int, ...] | None = None  # values in bins of one width from min to max

    def __post_init__(self) -> None:
        if self.cause is None and self.status in FAILURES:
            object.__setattr__(self, "cause", "data")

    def to_dict(self) -> dict[str, object]:
        """The fields of the JSON as plain Python values."""
        found: dict[str, object] = import_module("klcal.writers.records").as_dict(self)
        return found

    @property
    def failed(self) -> bool:
        """Whether the tensor cannot be read."""
        return self.status in FAILURES
