"""JSON Schemas (draft 2020-12) of the files that klcal writes, made from the classes and the meanings of fields.

No schema forbids further fields, so a consumer that validates keeps working when a later version adds a field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from klcal.tables.changes import Change, Kind
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.explanation import Explanation
from klcal.tables.meanings import meaning
from klcal.tables.rows import Row
from klcal.tables.schema import (
    CHANGE_FIELDS,
    CHANGES,
    COMPARISON,
    CONTENTS,
    EXPLANATION,
    OPTIONS,
    SKETCH,
    TABLE,
    UNIT_FIELDS,
)
from klcal.tables.status import UNIT_STATUSES
from klcal.tables.table import Changes, Comparison, Config, Contents, FileError
from klcal.tables.units import PerUnit

__all__ = ["DIALECT", "SCHEMAS", "json_schema", "schema_of_class"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]
COUNTS = (
    *("numel", "zeros", "nan", "neg_inf", "pos_inf", "nbytes", "tensors"),
    *("same", "changed", "missing", "extra"),
)
LIMITS: Mapping[str, Schema] = {
    **{name: {"minimum": 0} for name in (*COUNTS, "kl", "mse", "js", "wasserstein", "max_abs_diff")},
    **{name: {"minimum": 0, "maximum": 1} for name in ("clipped", "rounded_to_zero")},
    "low": {"maximum": 0},
    "high": {"minimum": 0},
}
"""Between what numbers lie, beside their type."""

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NULL: Schema = {"type": "null"}


# --- of a class


def schema_of_class(owner: type, **others: Schema) -> Schema:
    """The schema of an object with the fields of a class.

    Args:
        owner: a dataclass.
        others: the schemas of fields whose types do not tell it.
    """
    hints = get_type_hints(owner)
    known = [each.name for each in fields(owner) if each.compare]  # the others are no fields of the answer
    properties = {name: others.get(name) or _of_type(hints[name]) for name in known}
    return _object(owner.__name__, properties)


def _object(of: str, properties: Mapping[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """The schema of an object; ``required`` are the fields that are always there, by default all of them."""
    described = {
        name: {"description": meaning(of, name), **_limited(name, schema)} for name, schema in properties.items()
    }
    return {"type": "object", "properties": described, "required": list(properties if required is None else required)}


def _limited(name: str, schema: Schema) -> Schema:
    numbers = {"number", "integer"}
    kinds = schema.get("type", ())
    is_number = not numbers.isdisjoint([kinds] if isinstance(kinds, str) else kinds)
    return {**schema, **LIMITS.get(name, {})} if is_number else schema


def _of_type(hint: Any) -> Schema:
    """The schema of the JSON of a Python type.

    >>> _of_type(int | None), _of_type(tuple[int, ...])
    ({'type': ['integer', 'null']}, {'type': 'array', 'items': {'type': 'integer'}})
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (UnionType, Union):
        return _of_union([_of_type(each) for each in arguments])
    if isinstance(hint, type) and is_dataclass(hint):
        return schema_of_class(hint)
    if origin is tuple:
        return {"type": "array", "items": _of_type(arguments[0])}
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}[hint]}


def _of_union(schemas: list[Schema]) -> Schema:
    if all(set(each) == {"type"} for each in schemas):
        return {"type": [each["type"] for each in schemas]}
    others = [each for each in schemas if each != NULL]
    if len(others) == 1 and len(schemas) == 2:
        (one,) = others
        if "enum" in one:
            return {"enum": [*one["enum"], None]}
        if isinstance(one.get("type"), str):
            return {**one, "type": [one["type"], "null"]}
    return {"anyOf": schemas}


# --- rows


def _units() -> Schema:
    def either(*kinds: Schema) -> Schema:
        return {"anyOf": list(kinds)}

    pair: Schema = {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2}
    number: Schema = {"type": "array", "items": {"type": ["number", "null"]}}
    known = {field: either(number, NULL) if field in ("zero_point", "kl") else number for field in UNIT_FIELDS}
    properties: dict[str, Schema] = {
        "per": {"enum": list(get_args(PerUnit))},
        "axis": either(WHOLE, pair),
        "size": either(WHOLE, pair, NULL),
        "shape": {"type": "array", "items": WHOLE},
        **{field: known[field] for field in ("scale", "zero_point", "low", "high")},
        "status": either({"type": "array", "items": {"enum": list(UNIT_STATUSES)}}, NULL),
        **{field: known[field] for field in ("kl", "mse", "sqnr_db", "clipped")},
    }
    return _object("Units", properties)


def _row() -> Schema:
    found = schema_of_class(Row, units={"anyOf": [_units(), NULL]})
    found["required"] = [name for name in found["required"] if name not in ("unit", "units")]
    return {**found, "oneOf": [{"required": ["units"]}, {"required": ["unit"]}]}


def _change() -> Schema:
    row = _row()["properties"]
    side: Schema = {"type": ["object", "null"], "properties": row}
    properties: dict[str, Schema] = {
        "name": TEXT,
        "source": TEXT,
        "status": {"enum": [each for each in get_args(Kind) if each != "same"]},
        "reason": {"type": ["string", "null"]},
        "changed": TEXTS,
        **{f"d.{field}": {"type": ["number", "null"]} for field in CHANGE_FIELDS},
        "unit": {"type": ["integer", "null"]},
        "units_changed": {"type": ["integer", "null"]},
        "was": side,
        "is": side,
    }
    assert set(properties) >= {"status", *Change.__dataclass_fields__} - {"now"}
    return _object("Change", properties)


def _finding() -> Schema:
    told: Schema = {"type": ["number", "string", "null"]}
    place: Schema = {"type": ["integer", "null"]}
    properties = {**dict.fromkeys(("source", "name", "rule", "text"), TEXT), "was": told, "is": told}
    return _object("Finding", {**properties, "unit": place, "units": place})


# --- documents


def _document(schema: str, config: type, row: Schema) -> Schema:
    """A whole answer."""
    tool = {"type": "object", "properties": {"name": {"const": "klcal"}, "version": TEXT}}
    findings = {"findings": {"type": "array", "items": _finding()}} if config is Changes else {}
    properties: dict[str, Schema] = {
        "schema": {"const": schema},
        "tool": {**tool, "required": ["name", "version"]},
        "config": schema_of_class(config),
        **findings,
        "tensors": {"type": "array", "items": row},
        "errors": {"type": "array", "items": schema_of_class(FileError)},
        "warnings": TEXTS,
    }
    return _object("Document", properties)


def _line(document: Schema) -> Schema:
    """A line of JSON lines: a row, or the last one, which has all else."""
    properties = {name: each for name, each in document["properties"].items() if name != "tensors"}
    last = {"type": "object", "properties": properties, "required": list(properties)}
    row = document["properties"]["tensors"]["items"]
    return {"if": {"required": ["schema"]}, "then": last, "else": row}


def _sketch() -> Schema:
    pair: Schema = {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2}
    grid: dict[str, Any] = {
        "per": TEXT,
        "axis": {"anyOf": [WHOLE, pair]},
        "size": {"anyOf": [WHOLE, pair, NULL]},
        "shape": {"type": "array", "items": WHOLE},
        "note": {"type": ["string", "null"]},
    }
    properties: dict[str, Schema] = {
        "name": TEXT,
        "dtype": TEXT,
        "shape": {"type": ["array", "null"], "items": WHOLE},
        "batches": {"type": "integer", "minimum": 1},
        "aliases": TEXTS,
        **dict.fromkeys(("mantissa_bits", "least_bits", "few"), WHOLE),
        "grid": {"type": ["object", "null"], "properties": grid, "required": list(grid)},
    }
    sketches = {"type": "object", "properties": {"sketches": {"type": "array", "items": _object("Sketch", properties)}}}
    return {
        "type": "object",
        "description": "The __metadata__ of a sketch file, with the text of its sketches parsed.",
        "properties": {
            "schema": {"const": SKETCH},
            "inputs": {"type": "string", "pattern": "^([0-9a-f]{32}( [0-9a-f]{32})*)?$"},
            "sketches": {**sketches, "required": ["sketches"]},
        },
        "required": ["schema", "inputs", "sketches"],
    }


def _explanation() -> Schema:
    whole = _document(EXPLANATION, Config, _row())
    properties = whole["properties"]
    of_all = {name: properties[name] for name in ("schema", "tool", "config", "errors", "warnings")}
    own = schema_of_class(Explanation)["properties"]
    return _object("Explanation", {**of_all, "tensor": _row(), **own, "words": TEXTS})


def _options() -> Schema:
    value: Schema = {"type": ["string", "integer", "boolean", "array", "null"], "items": TEXT}
    option = {"option": TEXT, "value": value, "from": TEXT, "commands": {**TEXTS, "minItems": 1}}
    return {
        "type": "object",
        "properties": {
            "schema": {"const": OPTIONS},
            "file": {"type": ["string", "null"]},
            "options": {"type": "array", "items": _object("Option", option)},
        },
        "required": ["schema", "file", "options"],
    }


def _table() -> Schema:
    return _document(TABLE, Config, _row())


def _comparison() -> Schema:
    return _document(COMPARISON, Comparison, schema_of_class(Difference))


def _changes() -> Schema:
    return _document(CHANGES, Changes, _change())


def _contents() -> Schema:
    return _document(CONTENTS, Contents, schema_of_class(Content))


SCHEMAS: Mapping[str, tuple[str, Callable[[], Schema]]] = {
    "table": ("klcal calibrate --format json", _table),
    "table-line": ("a line of klcal calibrate --format jsonl", lambda: _line(_table())),
    "comparison": ("klcal compare --format json", _comparison),
    "comparison-line": ("a line of klcal compare --format jsonl", lambda: _line(_comparison())),
    "changes": ("klcal check and klcal diff --format json", _changes),
    "changes-line": ("a line of klcal check and klcal diff --format jsonl", lambda: _line(_changes())),
    "contents": ("klcal inspect --format json", _contents),
    "contents-line": ("a line of klcal inspect --format jsonl", lambda: _line(_contents())),
    "explanation": ("klcal explain --format json", _explanation),
    "options": ("klcal config --format json", _options),
    "sketch": ("the metadata of a sketch file", _sketch),
}
"""What each is of, and the function that makes it, by their names."""


def json_schema(name: str) -> Schema:
    """The JSON Schema of a document, by its name in ``SCHEMAS``."""
    title, make = SCHEMAS[name]
    return {"$schema": DIALECT, "$id": f"urn:klcal:{name}", "title": title, **make()}
