"""Tables in files: JSON of versions 2 and 1, and the binary form.

The files may come from strangers: they are read strictly, and nothing in them is run. They need about as much memory as
the file is long: the numbers of units become arrays before the JSON around them is parsed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.readers import strict_json
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, open_regular
from klcal.readers.safetensors_file import LENGTH_BYTES, Entry, checked_entries, header_length
from klcal.readers.table_rows import row_1, row_2
from klcal.tables.schema import DOCUMENT, MAX_HEADER_BYTES, TABLE, TABLE_1, UNIT_FIELDS, unit_key
from klcal.tables.status import UNIT_STATUSES
from klcal.tables.table import Config, FileError, Table

__all__ = ["is_binary", "is_binary_table", "parse_table", "read_table", "schema_in", "schema_of"]

HINT = "write one with klcal calibrate --output table.json"

MAX_HEADER_VALUES = 20_000_000  # the maximum in a header of that length that klcal wrote

SCHEMA = re.compile(rb'"schema"\s*:\s*"(klcal\.[^"]*)"')  # in a text the quotes have a backslash before them
NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
STATUS = rb'"(?:%s)"' % b"|".join(name.encode() for name in UNIT_STATUSES)
PIECE = re.compile(
    rb'(?:"[^"\\]*+"[^"\[NI]*+)++'  # plain texts, and everything between them
    rb'|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'  # a text, which may contain anything, or a part of one at the end
    rb"|\[\s*+(?:%(item)s)(?:\s*+,\s*+(?:%(item)s))*+\s*+\]"
    rb"|\[\s*+%(status)s(?:\s*+,\s*+%(status)s)*+\s*+\]"
    rb"|NaN|Infinity" % {b"item": NUMBER + rb"|null", b"status": STATUS},
    re.DOTALL,
)
"""The pieces of a table's JSON: texts, arrays of numbers, arrays of statuses. Each byte is looked at once."""


def read_table(path: str | os.PathLike[str]) -> Table:
    """A table that ``klcal calibrate`` wrote, as JSON or binary. One of version 1 has fewer fields.

    Raises:
        InputError: the file is not a table, or is damaged.
    """
    file = open_regular(os.fspath(path))
    if is_binary(file):
        return _binary_table(file)
    return parse_table(file.read(0, file.size))


def is_binary_table(path: str) -> bool:
    """Whether a file exists and says that it is a binary table."""
    return schema_of(path) == TABLE


def schema_of(path: str) -> str | None:
    """The schema in a .safetensors file that klcal wrote; None for any other file, or if there is no file."""
    try:
        file = open_regular(path)
        return _header(file)[1].get("schema") if is_binary(file) else None
    except InputError:
        return None


def schema_in(text: bytes) -> str | None:
    """The schema of a document of klcal's; None if it says none."""
    match = SCHEMA.search(text)
    return None if match is None else match[1].decode("ascii", "replace")


def parse_table(text: bytes) -> Table:
    """A table from its JSON.

    Raises:
        InputError: the file is not a table, or is damaged.
    """
    with _checked():
        document = _document(text)
        schema = document.get("schema")
        if schema == TABLE:
            return _table(document, [row_2(row, row.get("units")) for row in document["tensors"]])
        if schema == TABLE_1:
            return _table(document, [row_1(row, document["config"]) for row in document["tensors"]])
    raise _other(schema)


def _table(document: dict[str, Any], rows: list[Any]) -> Table:
    config = {name: document["config"][name] for name in Config.__dataclass_fields__}
    errors = [FileError(**{"cause": "data", **error}) for error in document["errors"]]
    texts = [*config.values(), *(getattr(each, name) for each in errors for name in ("source", "reason", "cause"))]
    warnings = document["warnings"]
    if not isinstance(warnings, list) or not all(isinstance(text, str) for text in (*texts, *warnings)):
        raise TypeError
    return Table(Config(**config), tuple(rows), tuple(errors), tuple(warnings))


@contextmanager
def _checked() -> Iterator[None]:
    """Turn missing fields and fields of the wrong kind into one error for people."""
    try:
        yield
    except UsageError as error:
        raise InputError(f"the table is damaged: {error.what}", HINT) from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise InputError("the table is damaged: a field is missing or of another kind", HINT) from None
    except MemoryError:
        raise InputError("there is not enough memory for the table", "give this process more") from None


def _other(schema: object) -> InputError:
    found = f"its schema is {quoted(schema)}" if isinstance(schema, str) else "it has no schema"
    return InputError(f"it is not a table of klcal calibrate: {found}", HINT)


# --- JSON


def _document(text: bytes) -> dict[str, Any]:
    """The JSON's object, its arrays of numbers and of statuses as NumPy's; null is NaN in them."""
    arrays: list[npt.NDArray[Any]] = []
    pieces, position = [], 0
    for match in PIECE.finditer(text):
        if match[0].startswith(b'"'):
            continue
        if not match[0].startswith(b"["):
            raise InputError(f"the JSON holds {match[0].decode()}, which is not JSON", HINT)
        pieces.append(text[position : match.start()])
        arrays.append(_array(match[0][1:-1]))
        position = match.end()
    waiting = iter(arrays)
    try:
        found = json.loads(
            b"NaN".join([*pieces, text[position:]]).decode(),
            object_pairs_hook=strict_json.unique,
            parse_constant=lambda _: next(waiting),
        )
    except (ValueError, RecursionError):
        raise InputError("it is not a table of klcal calibrate: it is not JSON", HINT) from None
    if not isinstance(found, dict):
        raise _other(None)
    return found


def _array(items: bytes) -> npt.NDArray[Any]:
    if b'"' in items:
        codes = (CODES[match[0]] for match in re.finditer(STATUS, items))
        return np.array(UNIT_STATUSES, object)[np.fromiter(codes, np.uint8)]
    return np.fromstring(items.replace(b"null", b"nan"), np.float64, sep=",")


CODES = {f'"{name}"'.encode(): code for code, name in enumerate(UNIT_STATUSES)}


# --- binary


def is_binary(file: RegularFile) -> bool:
    """Whether a file begins with a length, as no text does: one of eight bytes is 0."""
    return b"\0" in file.read(0, min(file.size, LENGTH_BYTES))


def _header(file: RegularFile) -> tuple[dict[str, Entry], dict[str, str], int]:
    """The arrays by key, the metadata, and where the data begin."""
    length = header_length(file.read(0, LENGTH_BYTES), file.size, MAX_HEADER_BYTES)
    start = LENGTH_BYTES + length
    header = strict_json.parse(file.read(LENGTH_BYTES, length), MAX_HEADER_BYTES, MAX_HEADER_VALUES)
    entries, metadata = checked_entries(header, file.size - start)
    return {entry.name: entry for entry in entries}, metadata, start


def _binary_table(file: RegularFile) -> Table:
    entries, metadata, start = _header(file)
    if metadata.get("schema") != TABLE:
        raise _other(metadata.get("schema"))

    def units_of(row: dict[str, Any]) -> dict[str, Any] | None:
        units: dict[str, Any] | None = row["units"]
        if units is None:
            return None
        keys = {name: unit_key(row["source"], row["name"], name) for name in (*UNIT_FIELDS, "status")}
        found = {name: _values(file, start, entries.pop(key)) for name, key in keys.items() if key in entries}
        return {**units, **_unpacked(found)}

    with _checked():
        document = _document(metadata[DOCUMENT].encode())
        if document.get("schema") != TABLE:
            raise _other(document.get("schema"))
        table = _table(document, [row_2(row, units_of(row)) for row in document["tensors"]])
    if entries:
        raise InputError(f"the table is damaged: {quoted(min(entries))} belongs to no row", HINT)
    return table


def _values(file: RegularFile, start: int, entry: Entry) -> npt.NDArray[Any]:
    """The numbers of an array, flat."""
    if entry.dtype not in STORED:
        raise TypeError
    return np.frombuffer(file.read(start + entry.begin, entry.end - entry.begin), STORED[entry.dtype])


STORED = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "U8": "|u1"}


def _unpacked(found: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Statuses from their codes; a unit without a scale gets no zero point."""
    unpacked: dict[str, Any] = dict(found)
    if "status" in found:
        unpacked["status"] = np.array(UNIT_STATUSES, object)[found["status"]]
    if "zero_point" in found:
        unpacked["zero_point"] = np.where(np.isnan(found["scale"]), np.nan, found["zero_point"])
    return unpacked
