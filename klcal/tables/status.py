"""Whether a tensor has a scale, and why not, in words."""

from __future__ import annotations

from typing import Literal, Protocol

__all__ = [
    "FAILURES",
    "STATUSES",
    "UNIT_STATUSES",
    "Cause",
    "Status",
    "nonfinite_counts",
    "nonfinite_reason",
    "overflow_reason",
    "underflow_reason",
    "zero_reason",
]

Status = Literal[
    "ok",
    "zero",  # every value is 0: no scale is better than another
    "empty",  # no values
    "skipped",  # integers and bools are not calibrated
    "nonfinite",  # NaN or infinity among the values
    "underflow",  # the scale, or every value, is 0 in its format
    "overflow",  # the scale, or a value, is beyond its format
    "unsupported",  # complex, object, sparse, already quantized, …
    "failed",  # damaged or unreadable
    "missing",  # only P has it: of a comparison, as the next one
    "extra",  # only Q has it
]
STATUSES: tuple[Status, ...] = Status.__args__  # type: ignore[attr-defined]

UNIT_STATUSES: tuple[Status, ...] = ("ok", "empty", "zero", "nonfinite", "underflow", "overflow")
"""What a unit may be; the last one that any unit is, is the tensor's where no unit is ok."""

FAILURES: frozenset[Status] = frozenset({"nonfinite", "underflow", "overflow", "unsupported", "failed"})

Cause = Literal["data", "bug"]
"""What a failure is to be blamed on."""

FLOAT32 = "float32, in which values are counted"


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


def nonfinite_reason(counts: str, numel: int, has_finite: bool) -> str:
    """Of a tensor that such values keep from being calibrated."""
    if not has_finite:
        return f"no finite value: {counts}; record or save it again"
    return f"{counts} among {numel} values; --nonfinite ignore calibrates the finite ones"


def zero_reason(has_nonfinite: bool) -> str:
    """Of a tensor without a value that is not zero."""
    return f"every {'finite value' if has_nonfinite else 'value'} is 0"


def underflow_reason(scale: float | None, scale_format: str) -> str:
    """Of a tensor whose scale, the largest of its scales, is too small for its format; None if all values are."""
    if scale is None:
        return f"every value is 0 as {FLOAT32}; multiply the tensor by a power of two"
    return f"the scale {scale:.3g} is 0 as {scale_format}; multiply the tensor by a power of two"


def overflow_reason(values: int, numel: int, scale: float, scale_format: str) -> str:
    """Of a tensor of which some values are beyond float32, or else a scale is beyond its format."""
    if values:
        return f"{values} of {numel} values are beyond {FLOAT32}; multiply the tensor by a power of two"
    return f"the scale {scale:.3g} is beyond {scale_format}; multiply the tensor by a power of two"
