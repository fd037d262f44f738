"""What a table of scales makes of a tensor: quantized and restored, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected
from klcal.quantizers.rounding import ByUnit, Rounding, one_for_all, restored, rounding_of
from klcal.readers import Chunk, Description
from klcal.readers.table_file import read_table
from klcal.sketches.counting import values_of
from klcal.sketches.values import stored_chunks
from klcal.tables.rows import Row

__all__ = ["quantized_copy", "read_quantizers"]


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


def read_quantizers(path: str) -> dict[tuple[str, str], Row]:
    """The rows of a table that have scales, by source and name.

    Raises:
        UsageError: the file is no table, or cannot be read.
    """
    try:
        table = read_table(path)
    except InputError as error:
        raise UsageError(f"--table '{path}': {error.what}", error.hint) from None
    return {(row.source, row.name): row for row in table.rows if isinstance(row, Row) and row.status == "ok"}


def quantized_copy(tensor: Selected, quantizers: dict[tuple[str, str], Row]) -> Selected | None:
    """The tensor, quantized and restored; None where the table has no scale for all of it, or for another shape."""
    description = tensor.description
    row = quantizers.get((tensor.source, description.name))
    if row is None or description.status != "ok":
        return None
    try:
        rounding, by_unit = rounding_of(row), None
        if row.units is not None and 0 not in description.shape:
            by_unit = ByUnit.of(row.units, description.shape, description.order or ())
    except UsageError:
        return None
    part = _Quantized(description, rounding, row, by_unit)
    parts = (part,) if description.parts else ()
    return Selected(tensor.source, replace(description, dtype="float32", parts=parts))
