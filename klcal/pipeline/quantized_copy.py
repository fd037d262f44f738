"""The quantized copy of a tensor by a table, computed chunk by chunk; and D(P‖Q) of its quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.pipeline.scales import read_scales, rows_of
from klcal.pipeline.selection import Selected, listed, names_of
from klcal.quantizers.granularity import per_at
from klcal.quantizers.layout import layout
from klcal.quantizers.qparams import levels_below
from klcal.quantizers.rounding import ByUnit, one_for_all, rounding_of
from klcal.quantizers.scheme import Scheme
from klcal.readers.quoting import quoted
from klcal.readers.restored import Numbers, Restored
from klcal.search.chosen import stretches
from klcal.search.figures import figures
from klcal.search.methods import BINS, parse, sub_bins_per_cell
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import counted_already, stored_chunks
from klcal.tables.rows import Row
from klcal.tables.table import Table

Floats = npt.NDArray[np.float64]

__all__ = ["Quantizers", "cell_divergence", "quantized_copy", "read_quantizers"]


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
        """Some of the names, for messages."""
        return listed(self.by_name) or "none"

    def without_prefix(self, prefix: str) -> Quantizers:
        """The rows, with a prefix removed from names that begin with it."""

        def short(row: Row) -> Row:
            aliases = tuple(name.removeprefix(prefix) for name in row.aliases)
            return replace(row, name=row.name.removeprefix(prefix), aliases=aliases)

        return Quantizers(tuple(map(short, self.rows))) if prefix else self

    def of(self, tensor: Selected, *, alone: bool) -> Row | str:
        """The row of a tensor, or why there is none: the row of its file and name, or else the only one of its name.

        The row of a table with one row is for a tensor that is ``alone``, whatever its name, such as another batch.
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
    return Quantizers(rows_of(read_scales(table)))


def quantized_copy(tensor: Selected, row: Row) -> Selected | str:
    """The tensor, quantized and restored by its row of a table; or why that makes none of it.

    One that was all zeros is its own copy.
    """
    if counted_already(tensor.description.parts) is not None:
        return "it is a sketch, and a table quantizes values; give the file of the values"
    if row.status == "zero":
        return tensor
    if row.status != "ok":
        return f"the table has no scale for it: {row.reason or row.status}"
    description = tensor.description
    try:
        rounding, by_unit = rounding_of(row), None
        if row.units is not None and 0 not in description.shape:
            by_unit = ByUnit.of(row.units, description.shape, description.order or ())
    except UsageError as error:
        return f"in the table: {error}"
    part = Restored(description, partial(_numbers, row, by_unit), rounding)
    parts = (part,) if description.parts else ()
    return Selected(tensor.source, replace(description, dtype="float32", parts=parts))


def _numbers(row: Row, by_unit: ByUnit | None) -> Numbers:
    """The numbers of the units of a row, or of the row."""
    return by_unit.at if by_unit else lambda _start, _count: one_for_all(row)


def cell_divergence(tensor: Selected, found: Sketch, row: Row) -> float | None:
    """D(P‖Q) on the sub-bins of a row's own cells, in nats, as ``kl`` in calibration; with units, their mean.

    The number of bins is that of the row's method, or the default.

    Args:
        tensor: its values are counted again if the row has units.
        found: the sketch of the whole tensor.
        row: of a table, with scales for all of the tensor.

    Returns:
        0 if cells have no sub-bins; None if all values are 0, or if the row's numbers do not fit its scheme.
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
    """The mean D(P‖Q) of the units with a scale, weighted by their numbers of nonzero values; None if none has one."""
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
    """The scheme of a row; None if it does not have it, or has other integers."""
    try:
        scheme = Scheme.parse(row.target or "", row.scheme or "auto")
    except UsageError:
        return None
    ends = (scheme.integers[0], scheme.integers[-1])
    return scheme if scheme.is_float or (row.qmin, row.qmax) == ends else None


def _bins_of(row: Row) -> int:
    """The number of bins of the row's method, which may be unknown here if another version wrote the table."""
    try:
        return getattr(parse(row.method or ""), "bins", BINS)
    except UsageError:
        return BINS
