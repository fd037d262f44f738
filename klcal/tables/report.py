"""A report as plain values: a table of scales, its summary, and the changes since another table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from klcal.tables.changes import Change
from klcal.tables.rows import Row
from klcal.tables.table import Table

__all__ = ["Report", "Sizes", "Summary"]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the tensors that have scales: of their values before, and of codes and scales after quantization."""

    values: int
    bits_before: int
    bits_after: int


@dataclass(frozen=True)
class Summary:
    """The summary, which comes first on the page."""

    statuses: Mapping[str, int]  # how many tensors there are of each
    worst: Row | None
    median_db: float | None
    sizes: Sizes
    sqnr_first: int  # where the first bin begins, in dB
    sqnr_step: int
    sqnr_bins: tuple[int, ...]  # how many tensors lie in each


@dataclass(frozen=True)
class Report:
    """The rows are sorted worst first."""

    table: Table
    summary: Summary
    baseline: str | None = None  # the name of the table that it was compared with
    changes: Mapping[tuple[str, str], Change] = field(default_factory=dict)  # of rows, by source and name
    missing: tuple[Change, ...] = ()  # of tensors that only the baseline has
