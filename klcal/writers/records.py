"""A row as a mapping of the schema's fields, which all formats for machines share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeAlias

from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.findings import Finding
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Table
from klcal.tables.units import Units
from klcal.writers.floats import printed, shortest
from klcal.writers.text import escape

__all__ = ["Value", "as_dict", "cells", "dump", "json_text", "left_out", "record", "several_sources", "summary"]

Value: TypeAlias = "str | int | float | list[Any] | dict[str, Any] | None"

UNITS_AT_ONCE = 1 << 14  # turned to text together: each is an object for a moment


def summary(table: Table) -> dict[str, Any]:
    """The parts of a table besides its rows, by their keys in the JSON."""
    from importlib.metadata import version  # 15 ms, which other formats do without

    return {
        "schema": table.schema,
        "tool": {"name": "klcal", "version": version("klcal")},
        "config": asdict(table.config),
        "errors": [asdict(error) for error in table.errors],
        "warnings": [*table.warnings, *left_out(table)],
        **({"findings": list(map(_finding, table.findings))} if isinstance(table.config, Changes) else {}),
    }


def _finding(found: Finding) -> dict[str, Value]:
    values = {"source": found.source, "name": found.name, "rule": found.rule, "text": found.text}
    numbers = {"was": found.was, "is": found.now, "unit": found.unit, "units": found.units}
    return {name: _value(value) for name, value in (*values.items(), *numbers.items())}


def left_out(table: Table) -> list[str]:
    """A remark where some rows were left out."""
    count = len(table.rows)
    return [f"only the first {count} of {count + table.left_out} rows are here"] if table.left_out else []


def dump(value: object) -> str:
    """One line of ASCII JSON, without the NaN and Infinity that JSON does not know."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def record(row: Row | Difference | Change | Content, names: Sequence[str]) -> dict[str, Value]:
    """The fields of a row as JSON values, without its units. Numbers that are not finite are null."""
    if isinstance(row, Change):
        found = row.values()
        return {name: _value(found[name]) for name in names}
    return {name: _value(getattr(row, name)) for name in names if name != "units"}


def _value(value: object) -> Value:
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, dict):
        return {name: _value(each) for name, each in value.items()}
    assert value is None or isinstance(value, str | int)
    return value


def json_text(row: Row | Difference | Change | Content, names: Sequence[str]) -> Iterator[str]:
    """A row as one line of JSON, in pieces: those of its units may be very many."""
    text = dump(record(row, names))
    if "units" not in names:
        yield text
        return
    assert isinstance(row, Row)
    assert names[-1] == "units"
    yield text[:-1] + ', "units": '
    yield from ("null",) if row.units is None else _units(row.units)
    yield "}"


def as_dict(row: Row | Difference | Content) -> dict[str, Any]:
    """A row as its JSON is read."""
    hidden = "unit" if getattr(row, "unit", None) is None else "units"
    names = [field.name for field in fields(row) if field.name != hidden and field.compare]
    found: dict[str, Any] = json.loads("".join(json_text(row, names)))
    return found


def _units(units: Units) -> Iterator[str]:
    before = "{"
    for name in (field.name for field in fields(units)):
        yield f'{before}"{name}": '
        value = getattr(units, name)
        if hasattr(value, "dtype"):
            yield from _array(name, value)
        else:
            yield dump(value)
        before = ", "
    yield "}"


def _array(name: str, values: Any) -> Iterator[str]:
    before = "["
    for start in range(0, len(values), UNITS_AT_ONCE):
        some = values[start : start + UNITS_AT_ONCE]
        items = some.tolist() if name == "status" else [_item(name, each) for each in printed(some).tolist()]
        yield before + dump(items)[1:-1]
        before = ", "
    yield "]" if len(values) else "[]"


def _item(name: str, value: float) -> float | None:
    if math.isnan(value):
        return None
    return int(value) if name == "zero_point" else value


def cells(row: Row | Difference | Change | Content, names: Sequence[str]) -> list[str]:
    """The fields of a row as one-line texts: empty where there is no value, lists and units as JSON."""
    found = [_cell(value) for value in record(row, names).values()]
    if "units" in names:
        assert isinstance(row, Row)
        found.append("" if row.units is None else "".join(_units(row.units)))
    return found


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list | dict | bool):
        return json.dumps(value, separators=(",", ":"))
    return repr(value)


def several_sources(table: Table) -> bool:
    """Whether a row needs its source to be told from the others."""
    return len({row.source for row in table.rows}) > 1
