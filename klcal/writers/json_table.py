"""JSON, schema `klcal.table/2`: one document, one line for each tensor, so that line-based diffs are readable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any, TextIO

from klcal.tables.table import Table
from klcal.writers.records import dump, json_text, summary

__all__ = ["as_dict", "write"]


def as_dict(table: Table) -> dict[str, Any]:
    """The document as it is read."""
    out = StringIO()
    write(table, out)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def write(table: Table, out: TextIO) -> None:
    """The whole table as one JSON document, ASCII only."""
    names = table.fields
    of_all = summary(table)
    out.write('{"schema": ' + dump(of_all["schema"]))
    out.write(',\n "tool": ' + dump(of_all["tool"]))
    out.write(',\n "config": ' + dump(of_all["config"]))
    for key, items in (
        *([("findings", ((dump(each),) for each in of_all["findings"]))] if "findings" in of_all else []),
        ("tensors", (json_text(row, names) for row in table.rows)),
        ("errors", ((dump(error),) for error in of_all["errors"])),
        ("warnings", ((dump(warning),) for warning in of_all["warnings"])),
    ):
        out.write(f',\n "{key}": ')
        out.writelines(_array(items))
    out.write("\n}\n")


def _array(items: Iterable[Iterable[str]]) -> Iterator[str]:
    empty = True
    for pieces in items:
        yield "[\n  " if empty else ",\n  "
        yield from pieces
        empty = False
    yield "[]" if empty else "\n ]"
