"""What a table of scales makes of a tensor: quantized and restored, chunk by chunk; and D(P‖Q) of its quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from klcal.calibration import stretches
from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected
from klcal.quantizers.granularity import per_at
from klcal.quantizers.layout import layout
from klcal.quantizers.qparams import levels_below
from klcal.quantizers.rounding import ByUnit, Rounding, one_for_all, restored, rounding_of
from klcal.quantizers.scheme import Scheme
from klcal.readers import Chunk, Description
from klcal.readers.table_file import read_table
from klcal.search.figures import figures
from klcal.search.methods import BINS, parse, sub_bins_per_cell
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.counting import values_of
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import stored_chunks
from klcal.tables.rows import Row

__all__ = ["cell_divergence", "quantized_copy", "read_quantizers"]


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
    """The rows of a table that have scales or need none, by source and name.

    Raises:
        UsageError: the file is no table, or cannot be read.
    """
    try:
        table = read_table(path)
    except InputError as error:
        raise UsageError(f"--table '{path}': {error.what}", error.hint) from None
    return {(row.source, row.name): row for row in table.rows if isinstance(row, Row) and row.status in ("ok", "zero")}


def quantized_copy(tensor: Selected, quantizers: dict[tuple[str, str], Row]) -> Selected | None:
    """The tensor, quantized and restored; None where the table has no scale for all of it, or for another shape.

    One that was all zeros is its own copy.
    """
    description = tensor.description
    row = quantizers.get((tensor.source, description.name))
    if row is None or description.status != "ok":
        return None
    if row.status == "zero":
        return tensor
    try:
        rounding, by_unit = rounding_of(row), None
        if row.units is not None and 0 not in description.shape:
            by_unit = ByUnit.of(row.units, description.shape, description.order or ())
    except UsageError:
        return None
    part = _Quantized(description, rounding, row, by_unit)
    parts = (part,) if description.parts else ()
    return Selected(tensor.source, replace(description, dtype="float32", parts=parts))


def cell_divergence(tensor: Selected, found: Sketch, row: Row) -> float | None:
    """D(P‖Q) on the sub-bins of a row's own cells, in nats: what calibration calls ``kl``; of units their mean.

    Bins are those of the row's method, or as many as methods have that look at D.

    Args:
        tensor: whose values are counted again where the row has units.
        found: all of its values, counted.
        row: of a table, with scales for all of the tensor.

    Returns:
        0 where no cell is cut; None where all values are 0, or the row does not say its format.
    """
    if row.target is None:
        return None
    scheme = Scheme.parse(row.target, row.scheme or "auto")
    sub = sub_bins_per_cell(_bins_of(row), scheme.size)
    if sub == 1:
        return 0.0
    description, sketches = tensor.description, iter([found])
    scale, points = (np.array([np.nan if each is None else each], float) for each in (row.scale, row.zero_point))
    if row.units is not None:
        place = layout(per_at(row.units.axis, row.units.size), description.shape, description.order or ())
        assert place is not None
        sketches = unit_sketches(stored_chunks(description.parts), description.dtype, place)
        scale = place.in_value_order(row.units.scale)
        points = scale if row.units.zero_point is None else place.in_value_order(row.units.zero_point)
    below = levels_below(scale, np.nan_to_num(points), scheme)
    first, total, number = 0, 0.0, 0
    for each in (some for sketch in sketches for some in stretches(sketch)):
        units = np.arange(each.units) + first
        first += each.units
        known = np.flatnonzero((each.nonzero > 0) & ~np.isnan(scale[units]))
        if known.size:
            distribution, chosen = Distribution.of(each.take(known)), units[known]
            kl = figures(distribution, scheme, sub, np.abs(scale[chosen]), below[chosen]).kl
            total += float((kl * each.nonzero[known]).sum())
            number += int(each.nonzero[known].sum())
    return total / number if number else None


def _bins_of(row: Row) -> int:
    """Of the row's method; a table that was written by another version may have one that is not known here."""
    try:
        return getattr(parse(row.method or ""), "bins", BINS)
    except UsageError:
        return BINS
