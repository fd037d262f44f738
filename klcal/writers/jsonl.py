"""JSON lines: one line for each tensor, with the fields of the JSON. The last line has the configuration."""

from __future__ import annotations

from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.records import dump, json_text, summary

__all__ = ["write"]


def write(table: Table, out: TextIO) -> None:
    """A line per tensor, then the summary: the only line with the key "schema"."""
    names = table.fields
    for row in table.rows:
        out.writelines(json_text(row, names))
        out.write("\n")
    out.write(dump(summary(table)) + "\n")
