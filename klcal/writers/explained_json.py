"""An explanation as JSON: every number of the plots, and the sentences."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TextIO

from klcal.tables.explanation import Explanation
from klcal.tables.rows import Row
from klcal.tables.schema import EXPLANATION
from klcal.tables.table import Table
from klcal.writers.floats import shortest
from klcal.writers.records import dump, json_text, summary
from klcal.writers.words import sentences

__all__ = ["as_dict", "write"]


def write(table: Table, out: TextIO) -> None:
    """One document of ASCII: the row as in a table, its explanation beside it."""
    of_all = summary(table) | {"schema": EXPLANATION}
    out.write("{" + ",\n ".join(f'"{key}": {dump(of_all[key])}' for key in ("schema", "tool", "config")))
    names = table.fields
    for row in table.rows:
        assert isinstance(row, Row)
        out.write(',\n "tensor": ')
        out.writelines(json_text(row, names))
        found = as_dict(row.explanation or Explanation())
        found["words"] = sentences(row)
        out.writelines(f',\n "{key}": {dump(value)}' for key, value in found.items())
    out.write("".join(f',\n "{key}": {dump(of_all[key])}' for key in ("errors", "warnings")) + "\n}\n")


def as_dict(of: Any) -> dict[str, Any]:
    """The fields of an explanation, or of a part of it: floats are the shortest text that gives the same float32."""
    return {field.name: _plain(getattr(of, field.name)) for field in fields(of)}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, tuple):
        return list(value) if value and isinstance(value[0], int) else [_plain(each) for each in value]
    return as_dict(value) if is_dataclass(value) else value
