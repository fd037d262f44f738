"""A row as the fields of the schema: what the machine formats share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, TypeAlias

from klcal.quantizers.per_unit import Numbers
from klcal.tables.table import Difference, Row, Table
from klcal.writers.floats import shortest, shortest_of_many
from klcal.writers.text import escape

__all__ = ["Value", "cells", "record", "several_sources", "tool"]

Value: TypeAlias = "str | int | float | list[Any] | None"


def tool() -> dict[str, str]:
    """Who computed the table."""
    return {"name": "klcal", "version": version("klcal")}


def record(row: Row | Difference, names: Sequence[str]) -> dict[str, Value]:
    """The fields of a row as JSON values. Numbers that are not finite are null."""
    found = {name: _value(getattr(row, name)) for name in names}
    if isinstance(row, Row) and row.unit_status is not None:
        found["status"] = list(row.unit_status)
    return found


def _value(value: object) -> Value:
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, Numbers):
        return list(value) if value.whole else shortest_of_many(value)
    if isinstance(value, tuple):
        return list(value)
    assert value is None or isinstance(value, str | int)
    return value


def cells(row: Row | Difference, names: Sequence[str]) -> list[str]:
    """The fields of a row as one-line texts: empty where there is no value, lists as JSON."""
    return [_cell(value) for value in record(row, names).values()]


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    return repr(value)


def several_sources(table: Table) -> bool:
    """Whether a row needs its source to be told from the others."""
    return len({row.source for row in table.rows}) > 1
