"""The status of a row: whether the tensor has a scale."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

__all__ = ["FAILURES", "STATUSES", "UNIT_STATUSES", "Cause", "Status", "nonfinite_counts"]

Status = Literal[
    "ok",
    "zero",  # every value is 0: no scale is better than another
    "empty",  # no values
    "skipped",  # integers and bools; not weights: optimizer state, codes and scales of a quantized checkpoint
    "nonfinite",  # NaN or infinity among the values
    "underflow",  # the scale, or every value, is 0 in its format
    "overflow",  # the scale, or a value, is beyond its format
    "unsupported",  # complex, object, sparse, already quantized, …
    "failed",  # damaged or unreadable
    "missing",  # of a comparison: only P has it
    "extra",  # of a comparison: only Q has it
]
STATUSES: tuple[Status, ...] = get_args(Status)

UNIT_STATUSES: tuple[Status, ...] = ("ok", "empty", "zero", "nonfinite", "underflow", "overflow")
"""The statuses of a unit. Where no unit is ok, the tensor has the last of these that one of its units has."""

FAILURES: frozenset[Status] = frozenset({"nonfinite", "underflow", "overflow", "unsupported", "failed"})

Cause = Literal["data", "bug"]
"""The cause of a failure: the data, or a bug in klcal."""


class HasCounts(Protocol):
    """A row of the table, or a sketch."""

    @property
    def nan(self) -> int | None: ...
    @property
    def neg_inf(self) -> int | None: ...
    @property
    def pos_inf(self) -> int | None: ...


def nonfinite_counts(of: HasCounts) -> str:
    """The numbers of NaN and infinite values, in words; empty where all values are finite."""
    counts = {"NaN": of.nan, "-inf": of.neg_inf, "+inf": of.pos_inf}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
