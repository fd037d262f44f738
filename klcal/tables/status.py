"""Whether a tensor has a scale."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

__all__ = ["FAILURES", "STATUSES", "UNIT_STATUSES", "Cause", "Status", "nonfinite_counts"]

Status = Literal[
    "ok",
    "zero",  # every value is 0: no scale is better than another
    "empty",  # no values
    "skipped",  # integers and bools; what is no weight: optimizer state, the codes and scales of a quantized checkpoint
    "nonfinite",  # NaN or infinity among the values
    "underflow",  # the scale, or every value, is 0 in its format
    "overflow",  # the scale, or a value, is beyond its format
    "unsupported",  # complex, object, sparse, already quantized, …
    "failed",  # damaged or unreadable
    "missing",  # only P has it: of a comparison, as the next one
    "extra",  # only Q has it
]
STATUSES: tuple[Status, ...] = get_args(Status)

UNIT_STATUSES: tuple[Status, ...] = ("ok", "empty", "zero", "nonfinite", "underflow", "overflow")
"""What a unit may be; the last one that any unit is, is the tensor's where no unit is ok."""

FAILURES: frozenset[Status] = frozenset({"nonfinite", "underflow", "overflow", "unsupported", "failed"})

Cause = Literal["data", "bug"]
"""What a failure is to be blamed on."""


class HasCounts(Protocol):
    """A row of the table, or a sketch."""

    @property
    def nan(self) -> int | None: ...
    @property
    def neg_inf(self) -> int | None: ...
    @property
    def pos_inf(self) -> int | None: ...


def nonfinite_counts(of: HasCounts) -> str:
    """How many values of each kind are not finite; empty where all are."""
    counts = {"NaN": of.nan, "-inf": of.neg_inf, "+inf": of.pos_inf}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
