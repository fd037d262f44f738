"""CSV for spreadsheets: a name that a spreadsheet would run as a formula gets a leading apostrophe."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TextIO

from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.records import cells, record

__all__ = ["write"]

ACTIVE = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "'")
"""Characters that start a formula, in either width. TAB and CR do not: they are escaped. The apostrophe itself is
there so that a reader who strips one gets every name back."""


def write(table: Table, out: TextIO) -> None:
    """The columns of the plain format; one line per row, because control characters are escaped."""
    names = table.fields
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(_inert(row, names) for row in table.rows)


def _inert(row: Row | Difference | Change | Content, names: Sequence[str]) -> list[str]:
    found = record(row, names)
    return [
        f"'{cell}" if isinstance(found.get(name), str) and cell.startswith(ACTIVE) else cell
        for name, cell in zip(names, cells(row, names), strict=True)
    ]
