"""Tab-separated text for cut, awk and sort: a header, then exactly one line for each row.

Names are never shortened. Control characters and backslashes in them are escaped, so no name contains a tab or a
newline.
"""

from __future__ import annotations

from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.records import cells

__all__ = ["write"]


def write(table: Table, out: TextIO) -> None:
    """Writes the fields of the JSON as columns; null becomes an empty field."""
    names = table.fields
    out.write("\t".join(names) + "\n")
    out.writelines("\t".join(cells(row, names)) + "\n" for row in table.rows)
