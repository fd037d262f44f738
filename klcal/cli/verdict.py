"""The verdict: findings, the exit code, and the messages about them on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from klcal.cli.messages import capped, line, of_table, say
from klcal.errors import ExitCode
from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.findings import Finding
from klcal.tables.table import Table

if TYPE_CHECKING:
    from klcal.pipeline.conditions import Condition

__all__ = ["exit_code", "findings", "told"]


def findings(table: Table, conditions: Sequence[Condition]) -> Iterator[Finding]:
    """Findings for every row that meets a condition, may meet it, or has no partner, in the order of the table."""
    for row in table.rows:
        assert not isinstance(row, Change | Content)
        if conditions and row.status in ("missing", "extra"):
            yield Finding(source=row.source, name=row.name, rule=row.status, text=row.reason or row.status)
            continue
        for condition in conditions:
            met = condition.met_by(row)
            if met is not None:
                yield met.finding(row.source, row.name, condition.text)


def exit_code(table: Table, found: Sequence[Finding] = ()) -> ExitCode:
    """The exit code. A bug outweighs a failed tensor, which outweighs a finding. Zeros are an answer, too."""
    if not table.usable:
        return ExitCode.NOTHING_USABLE
    if any(each.cause == "bug" for each in (*table.rows, *table.errors)):
        return ExitCode.BUG
    if table.errors or any(row.failed for row in table.rows):
        return ExitCode.PARTIAL
    return ExitCode.FINDINGS if found else ExitCode.DONE


def told(table: Table, found: Sequence[Finding]) -> ExitCode:
    """Print warnings, failures and findings to stderr, and return the exit code."""
    code = exit_code(table, found)
    say(of_table(table, code))
    say(capped([line(each.source, each.name, text=each.text) for each in found]))
    return code
