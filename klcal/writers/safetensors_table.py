"""Binary tables: a .safetensors file with the contents of the JSON, and the numbers of units as arrays.

The metadata have two entries: ``schema``, and ``table``, the JSON without the arrays of its units. An array is named by
source, name and field (``klcal.tables.schema.unit_key``) and has the shape of the units. ``scale`` is float32.
``zero_point`` is int32, and 0 for a unit without a scale. ``status``, if units differ in it, is uint8: an index of
``klcal.tables.status.UNIT_STATUSES``. The others are float32, or float64 if float32 would lose more than the JSON does.
The header is written first, and the arrays follow piece by piece, so nothing is held in memory except the table itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt

from klcal.tables.rows import Row
from klcal.tables.schema import DOCUMENT, UNIT_FIELDS, unit_key
from klcal.tables.status import UNIT_STATUSES
from klcal.tables.table import Table
from klcal.tables.units import Units
from klcal.writers.floats import are_float32
from klcal.writers.records import dump, record, summary
from klcal.writers.safetensors_file import Stored
from klcal.writers.safetensors_file import write as write_file

__all__ = ["write"]

UNITS_AT_ONCE = 1 << 16
KINDS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("|u1"),
}
"""The largest items first: so each array begins where its items may."""


@dataclass(frozen=True)
class _Array:
    """An array of the file."""

    key: str
    kind: str
    shape: tuple[int, ...]
    values: npt.NDArray[Any]

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the array."""
        for start in range(0, self.values.size, UNITS_AT_ONCE):
            some = self.values[start : start + UNITS_AT_ONCE]
            if self.kind == "U8":
                some = np.array([UNIT_STATUSES.index(status) for status in some.tolist()])
            elif self.kind == "I32":
                some = np.where(np.isnan(some), 0.0, some)
            yield some.astype(KINDS[self.kind]).tobytes()


def write(table: Table, out: TextIO) -> None:
    """The whole table, to the bytes below a text stream.

    Raises:
        OutputError: the header would be longer than readers of the format allow.
    """
    _write(table, out.buffer)


def _write(table: Table, out: BinaryIO) -> None:
    arrays = sorted(_arrays(table), key=lambda array: (list(KINDS).index(array.kind), array.key))
    stored = (
        Stored(each.key, each.kind, each.shape, each.values.size * KINDS[each.kind].itemsize, each.pieces)
        for each in arrays
    )
    write_file(stored, out, {"schema": table.schema, DOCUMENT: _document(table)})


def _document(table: Table) -> str:
    """The JSON, on one line, without the arrays."""
    names = table.fields
    rows = [
        {**record(row, names), "units": None if row.units is None else _place(row.units)}
        for row in table.rows
        if isinstance(row, Row)
    ]
    return dump({**summary(table), "tensors": rows})


def _place(units: Units) -> dict[str, Any]:
    return {name: getattr(units, name) for name in ("per", "axis", "size", "shape")}


def _arrays(table: Table) -> Iterator[_Array]:
    for row in table.rows:
        if not isinstance(row, Row) or row.units is None:
            continue
        for name in (*UNIT_FIELDS, "status"):
            if (values := getattr(row.units, name)) is not None:
                yield _Array(unit_key(row.source, row.name, name), _kind(name, values), row.units.shape, values)


def _kind(name: str, values: npt.NDArray[Any]) -> str:
    if name == "status":
        return "U8"
    if name == "zero_point":
        return "I32"
    starts = range(0, values.size, UNITS_AT_ONCE)
    fits = all(are_float32(values[start : start + UNITS_AT_ONCE]).all() for start in starts)
    return "F32" if fits or name == "scale" else "F64"
