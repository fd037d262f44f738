"""Why a tensor has no scale, in words."""

from __future__ import annotations

from typing import Protocol

from klcal.quantizers.scale_formats import RELATIVE
from klcal.tables.table import Row

__all__ = ["nonfinite_counts", "nonfinite_reason", "overflow_reason", "underflow_reason", "zero_reason"]


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


def nonfinite_reason(row: Row) -> str:
    """Of a tensor that such values keep from being calibrated."""
    if row.min is None:
        return f"no finite value: {nonfinite_counts(row)}; record or save it again"
    return f"{nonfinite_counts(row)} among {row.numel} values; --nonfinite ignore calibrates the finite ones"


def zero_reason(row: Row) -> str:
    """Of a tensor without a value that is not zero."""
    return f"every {'finite value' if nonfinite_counts(row) else 'value'} is 0"


def underflow_reason(scale: float, scale_format: str) -> str:
    """Of a tensor whose scale, the greatest of its scales, is too small for its format."""
    return f"{scale_format} has no scale as small as {scale:.3g}; {_advice('multiply', scale_format)}"


def overflow_reason(scale: float, scale_format: str) -> str:
    """Of a tensor whose scale, the smallest of its scales, is too great for its format."""
    return f"{scale_format} has no scale as great as {scale:.3g}; {_advice('divide', scale_format)}"


def _advice(verb: str, scale_format: str) -> str:
    powers, wider = f"{verb} the tensor by a power of two", "use --scale-format float32"
    if scale_format in RELATIVE:
        return wider  # whatever the tensor is multiplied by, so is its global scale
    return powers if scale_format == "float32" else f"{powers}, or {wider}"
