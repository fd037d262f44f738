"""JSON, schema ``klcal.table/1``: one document, one tensor per line, so that two runs can be compared by eye."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.records import record, tool

__all__ = ["dump", "write"]


def write(table: Table, out: TextIO) -> None:
    """The whole table as one JSON document, ASCII only."""
    names = table.fields
    out.write('{"schema": ' + dump(table.schema))
    out.write(',\n "tool": ' + dump(tool()))
    out.write(',\n "config": ' + dump(asdict(table.config)))
    for key, items in (
        ("tensors", (record(row, names) for row in table.rows)),
        ("errors", map(asdict, table.errors)),
        ("warnings", iter(table.warnings)),
    ):
        out.write(f',\n "{key}": ')
        out.writelines(_array(items))
    out.write("\n}\n")


def _array(items: Iterator[object]) -> Iterator[str]:
    empty = True
    for item in items:
        yield ("[\n  " if empty else ",\n  ") + dump(item)
        empty = False
    yield "[]" if empty else "\n ]"


def dump(value: object) -> str:
    """One line of ASCII JSON, without the NaN and Infinity that JSON does not know."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
