"""The lines of the formats for CI: findings and failures of any table, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.findings import Finding
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Table

__all__ = ["FAILED", "Report", "place", "reports"]

FAILED = "failed"  # the rule of tensors and files that could not be read, calibrated or compared


@dataclass(frozen=True)
class Report:
    """Something to be told of a tensor, or of a file, whose name is empty then."""

    source: str
    name: str
    rule: str
    text: str
    finding: Finding | None = None  # else it failed

    @property
    def whole(self) -> str:
        """The text with the name of the tensor, and with that of its file."""
        return ": ".join(each for each in (self.source, self.name, self.text) if each)


def reports(table: Table) -> Iterator[Report]:
    """All reports: findings in their order, then failures that no finding is about."""
    for each in table.findings:
        yield Report(each.source, each.name, each.rule, each.text, each)
    told = {(each.source, each.name) for each in table.findings if each.rule == "status"}
    for row in table.rows:
        if _has_failed(row) and (row.source, row.name) not in told:
            yield Report(row.source, row.name, FAILED, row.reason or row.status)
    for error in table.errors:
        yield Report(error.source, "", FAILED, error.reason)


def _has_failed(row: Row | Difference | Change | Content) -> bool:
    if not isinstance(row, Change):
        return row.failed
    return row.now is not None and row.now.failed and (row.was is None or not row.was.failed)


def place(table: Table, report: Report) -> str:
    """The file that a report is shown at: the baseline, which is in the repository as no tensors are, or the source."""
    return table.config.baseline if isinstance(table.config, Changes) else report.source
