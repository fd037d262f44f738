"""What a table of scales makes of a tensor: quantized and restored, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected, listed, names_of
from klcal.quantizers.rounding import ByUnit, Rounding, one_for_all, restored, rounding_of
from klcal.readers import Chunk, Description
from klcal.readers.quoting import quoted
from klcal.readers.table_file import read_table
from klcal.sketches.counting import values_of
from klcal.sketches.values import stored_chunks
from klcal.tables.rows import Row
from klcal.tables.table import Config, Table

__all__ = ["Quantizers", "quantized_copy", "read_quantizers"]


@dataclass(frozen=True)
class _Quantized:
    """A ``Part`` of all values of a tensor, quantized and restored, each by the quantizer of its unit."""

    of: Description
    rounding: Rounding
    row: Row
    by_unit: ByUnit | None  # None for one scale

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.of.parts)

    @property
    def repeats(self) -> int:
        return self.of.parts[0].repeats

    def chunks(self) -> Iterator[Chunk]:
        position = 0
        for chunk in stored_chunks(self.of.parts):
            values = values_of(chunk, self.of.dtype).astype(np.float32, copy=False)
            numbers = self.by_unit.at(position, values.size) if self.by_unit else one_for_all(self.row)
            position += values.size
            yield restored(self.rounding.quantized(values, *numbers), *numbers)


@dataclass(frozen=True)
class Quantizers:
    """The rows of a table, by the tensors that they are for."""

    rows: tuple[Row, ...]

    @cached_property
    def by_name(self) -> dict[str, list[Row]]:
        """The rows that have a name, be it an alias."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            for name in (row.name, *row.aliases):
                found.setdefault(name, []).append(row)
        return found

    @cached_property
    def known(self) -> str:
        """Some of the names, for people."""
        return listed(self.by_name) or "none"

    def of(self, tensor: Selected, *, alone: bool) -> Row | str:
        """The row of a tensor, or why there is none: that of its file and name, else of its name if only one has it.

        A table of one row is for the only tensor, if it is ``alone``, whatever that is called: as another batch.
        """
        same = [self.by_name.get(name, []) for name in names_of(tensor.description)]
        here = [[row for row in rows if row.source == tensor.source] for rows in same]
        counted = [row for row in self.rows if row.target] if alone and not any(same) else []
        for rows in (*here, *same, counted):
            if len(rows) == 1:
                return rows[0]
        if any(same):
            sources = listed({row.source for rows in same for row in rows})
            return f"the table has it for {sources}, and not for {quoted(tensor.source)}; rename the file"
        return f"the table has no tensor of this name; it has {self.known}"


def read_quantizers(table: str | Table) -> Quantizers:
    """The rows of a table, or of its file.

    Raises:
        UsageError: it is no table of scales, or cannot be read.
    """
    try:
        found = read_table(table) if isinstance(table, str) else table
    except InputError as error:
        raise UsageError(f"the table '{table}': {error.what}", error.hint) from None
    if not isinstance(found.config, Config):
        raise UsageError("the table has no scales: it is a comparison", "hand in one of klcal.calibrate_files")
    return Quantizers(tuple(row for row in found.rows if isinstance(row, Row)))


def quantized_copy(tensor: Selected, quantizers: Quantizers, *, alone: bool) -> Selected | str:
    """The tensor, quantized and restored; or why the table makes none of it.

    Args:
        tensor: with values.
        quantizers: its row is looked for among these.
        alone: whether there is no other tensor.
    """
    row = quantizers.of(tensor, alone=alone)
    if isinstance(row, str):
        return row
    if row.status != "ok":
        return f"the table has no scale for it: {row.reason or row.status}"
    description = tensor.description
    try:
        rounding, by_unit = rounding_of(row), None
        if row.units is not None and 0 not in description.shape:
            by_unit = ByUnit.of(row.units, description.shape, description.order or ())
    except UsageError as error:
        return f"in the table: {error}"
    part = _Quantized(description, rounding, row, by_unit)
    parts = (part,) if description.parts else ()
    return Selected(tensor.source, replace(description, dtype="float32", parts=parts))
