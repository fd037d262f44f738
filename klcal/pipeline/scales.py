"""Tables of scales that are handed in, as values or as files."""

from __future__ import annotations

from klcal.errors import InputError, UsageError
from klcal.readers.table_file import read_table
from klcal.tables.rows import Row
from klcal.tables.table import Config, Table

__all__ = ["read_scales", "rows_of"]


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


def rows_of(table: Table) -> tuple[Row, ...]:
    """The rows of a table of scales."""
    return tuple(row for row in table.rows if isinstance(row, Row))
