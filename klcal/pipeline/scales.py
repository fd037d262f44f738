"""Tables of scales that are given as arguments, as values or as files."""

from __future__ import annotations

from klcal.errors import InputError, UsageError
from klcal.readers.regular import open_regular
from klcal.readers.runtimes import format_in, parse_runtime
from klcal.readers.table_file import is_binary, parse_table, read_table, schema_in
from klcal.tables.rows import Row
from klcal.tables.schema import TABLE
from klcal.tables.table import Config, Table

__all__ = ["read_any", "read_baseline", "read_scales", "rows_of"]

NOT_KNOWN = Config("", "", "", "", "")  # of a file that a runtime loads


def read_scales(table: str | Table) -> Table:
    """A table, or that of a file.

    Raises:
        UsageError: it is no table of scales, or cannot be read.
    """
    try:
        found = read_table(table) if isinstance(table, str) else table
    except InputError as error:
        raise UsageError(f"the table '{table}': {error.what}", error.hint) from None
    if not isinstance(found.config, Config):
        raise UsageError("the table has no scales: it is a comparison", "hand in one of klcal.calibrate_files")
    return found


def read_any(path: str) -> Table:
    """A table of scales from a file of any form: a table, or a file that ``klcal export`` wrote for a runtime.

    Raises:
        UsageError: it is not such a file, or cannot be read.
    """
    try:
        file = open_regular(path)
        if is_binary(file):
            return read_scales(path)
        text = file.read(0, file.size)
        name = None if schema_in(text) else format_in(text)
        return parse_table(text) if name is None else Table.of(NOT_KNOWN, parse_runtime(text, name))
    except InputError as error:
        raise UsageError(f"the table '{path}': {error.what}", error.hint) from None


def read_baseline(path: str) -> Table:
    """A table of scales that serves as baseline.

    Raises:
        UsageError: it is not a table of scales, has another version, or cannot be read.
    """
    found = read_scales(path)
    file = open_regular(path)
    schema = TABLE if is_binary(file) else schema_in(file.read(0, file.size))
    if schema != TABLE:
        raise UsageError(f"the baseline '{path}' is of schema {schema}, not {TABLE}", f"klcal calibrate ... -o {path}")
    if any(row.unit is not None for row in rows_of(found)) or not found.usable:
        raise UsageError(f"the baseline '{path}' has no tensor with a scale", f"klcal calibrate ... -o {path}")
    return found


def rows_of(table: Table) -> tuple[Row, ...]:
    """The rows of a table of scales."""
    return tuple(row for row in table.rows if isinstance(row, Row))
