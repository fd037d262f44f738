"""What a table of scales makes of a tensor: quantized and restored, chunk by chunk; and D(P‖Q) of its quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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

Floats = npt.NDArray[np.float64]

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
        0 where no cell is cut; None where all values are 0, or the row's numbers are no quantizer of its scheme.
    """
    scheme = _scheme_of(row)
    if scheme is None:
        return None
    sub = sub_bins_per_cell(_bins_of(row), scheme.size)
    if sub == 1:
        return 0.0
    description, sketches = tensor.description, iter([found])
    scale, points = (np.array([np.nan if each is None else each], float) for each in (row.scale, row.zero_point))
    if row.units is not None:
        place = layout(per_at(row.units.axis, row.units.size), description.shape, description.order or ())
        assert place is not None
        sketches = unit_sketches(stored_chunks(description.parts), description.dtype, place)
        columns = row.units.scale, row.units.scale if row.units.zero_point is None else row.units.zero_point
        scale, points = (place.in_value_order(each) for each in columns)
    below = levels_below(scale, points, scheme)
    known = ~np.isnan(scale)
    if ((below < 0) | (below >= scheme.size))[known].any():
        return None
    return _mean_divergence(sketches, scheme, sub, np.where(known, np.abs(scale), 0.0), below)


def _mean_divergence(
    sketches: Iterator[Sketch], scheme: Scheme, sub: int, scale: Floats, below: Floats
) -> float | None:
    """Of the units that have a scale, (units,), each by its number of nonzero values; None if there are none."""
    first, total, number = 0, 0.0, 0
    for some in (each for sketch in sketches for each in stretches(sketch)):
        units = first + np.flatnonzero((some.nonzero > 0) & (scale[first : first + some.units] > 0))
        if units.size:
            distribution = Distribution.of(some.take(units - first))
            kl = figures(distribution, scheme, sub, scale[units], below[units].astype(np.int64)).kl
            total += float((kl * distribution.number).sum())
            number += int(distribution.number.sum())
        first += some.units
    return total / number if number else None


def _scheme_of(row: Row) -> Scheme | None:
    """What a row quantizes to; None if it does not say it, or says it of other integers."""
    try:
        scheme = Scheme.parse(row.target or "", row.scheme or "auto")
    except UsageError:
        return None
    ends = (scheme.integers[0], scheme.integers[-1])
    return scheme if scheme.is_float or (row.qmin, row.qmax) == ends else None


def _bins_of(row: Row) -> int:
    """Of the row's method; a table that was written by another version may have one that is not known here."""
    try:
        return getattr(parse(row.method or ""), "bins", BINS)
    except UsageError:
        return BINS
