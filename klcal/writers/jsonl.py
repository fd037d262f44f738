"""JSON lines: one tensor a line, as in the JSON; the last line says what the tensors were computed with."""

from __future__ import annotations

from dataclasses import asdict
from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.json_table import dump
from klcal.writers.records import record, tool

__all__ = ["write"]


def write(table: Table, out: TextIO) -> None:
    """A line per tensor, then the summary: the only line with the key "schema"."""
    names = table.fields
    out.writelines(dump(record(row, names)) + "\n" for row in table.rows)
    summary = {
        "schema": table.schema,
        "tool": tool(),
        "config": asdict(table.config),
        "errors": [asdict(error) for error in table.errors],
        "warnings": list(table.warnings),
    }
    out.write(dump(summary) + "\n")
