"""Tab-separated text: a header, then always one line per row, for cut, awk and sort.

Names are whole; control characters and the backslash in them are escaped, so no name holds a tab or a newline.
"""

from __future__ import annotations

from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.records import cells

__all__ = ["write"]


def write(table: Table, out: TextIO) -> None:
    """The fields of the JSON as columns; what is null there is empty here."""
    names = table.fields
    out.write("\t".join(names) + "\n")
    out.writelines("\t".join(cells(row, names)) + "\n" for row in table.rows)
