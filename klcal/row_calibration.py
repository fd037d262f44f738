"""From the values of many rows to a row of the table: lists with a choice, and its cost, for each channel or group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.granularity import Layout
from klcal.quantizers.per_unit import Numbers
from klcal.quantizers.qparams import deployed_scales, level_ends, rounded_scales, zero_points
from klcal.quantizers.scale_formats import global_scale_of, held, is_an_end
from klcal.quantizers.scheme import Scheme
from klcal.search.methods import KL
from klcal.search.one_unit import Span, full_choice
from klcal.search.row_law import RowLaw, row_clipped, row_divergences, row_errors
from klcal.search.row_methods import few_values, least_values, row_choices, sub_bins_of
from klcal.search.row_tables import rows_at_once
from klcal.search.settings import Settings
from klcal.sketches.row_sketch import RowSketch, row_sketches
from klcal.tables.status import nonfinite_reason, overflow_reason, underflow_reason, zero_reason
from klcal.tables.table import Row, Status

__all__ = ["calibrate_rows", "units_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STATUSES: tuple[Status, ...] = ("ok", "zero", "nonfinite", "underflow", "overflow")
OK, ZERO, NONFINITE, UNDERFLOW, OVERFLOW = range(len(STATUSES))


def calibrate_rows(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout, settings: Settings) -> Row:
    """One row of the table for a tensor whose channels or groups have a scale each: its numbers are sequences.

    Args:
        chunks: the values in the order of the layout, flat, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: which of them belong together.
        settings: how each row is calibrated.
    """
    step = rows_at_once(settings.scheme)
    sketches: Iterable[RowSketch] = row_sketches(chunks, dtype, layout)
    if settings.scheme.is_relative:
        sketches = list(sketches)
        settings = replace(settings, scheme=_relative_to(sketches, settings.scheme))
    pieces = [
        units_of(each[first : first + step], settings) for each in sketches for first in range(0, each.rows, step)
    ]
    units = Units(*(layout.in_own_order(np.concatenate(each)) for each in zip(*pieces, strict=True)))
    return _table_row(units, layout, settings)


def _relative_to(sketches: list[RowSketch], scheme: Scheme) -> Scheme:
    """The scheme with the global scale of a tensor."""
    low = min(min(float(each.minimum.min()) for each in sketches), 0.0)
    high = max(max(float(each.maximum.max()) for each in sketches), 0.0)
    full = full_choice(scheme.of_one_unit, Span(low, high)).scale
    return replace(scheme, global_scale=global_scale_of(full) or 1.0)


class Units(NamedTuple):
    """What the table says of each of some rows: (rows,); NaN where it is null."""

    status: Integers  # an index into STATUSES
    scale: Floats  # as it was wanted, before it was rounded
    deployed: Floats
    below: Floats  # levels below zero
    few: Floats  # 1 where there are too few values for a divergence
    kl: Floats
    mse: Floats
    sqnr_db: Floats
    clipped: Floats
    least: Floats  # of the finite values; inf where there are none
    greatest: Floats
    numel: Integers
    zeros: Integers
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers


def units_of(sketch: RowSketch, settings: Settings) -> Units:
    """The units that the rows of a sketch are."""
    nonzero = sketch.nonzero
    finite = nonzero + sketch.zeros
    refused = (sketch.nonfinite > 0) & ((finite == 0) | (settings.nonfinite == "fail"))
    status = np.where(refused, NONFINITE, np.where(nonzero == 0, ZERO, OK))
    good = status == OK
    columns = np.full((8, sketch.rows), np.nan)
    if good.any():
        columns[:, good] = _chosen(RowLaw.of(sketch).select(good), sketch.tops[good], finite[good], settings)
        scheme = settings.scheme
        fits = held(columns[0], scheme.scale_format, scheme.global_scale)
        status[good & (fits < 0)] = UNDERFLOW
        status[good & (fits > 0)] = OVERFLOW
    has_zeros = sketch.zeros > 0
    least = np.where(has_zeros, np.minimum(sketch.minimum, 0.0), sketch.minimum)
    greatest = np.where(has_zeros, np.maximum(sketch.maximum, 0.0), sketch.maximum)
    scale, deployed, below, few, kl, mse, sqnr, clipped = columns
    counters = finite + sketch.nonfinite, sketch.zeros, sketch.nan, sketch.neg_inf, sketch.pos_inf
    return Units(status, scale, deployed, below, few, kl, mse, sqnr, clipped, least, greatest, *counters)


def _chosen(law: RowLaw, tops: Integers, finite: Integers, settings: Settings) -> list[Floats]:
    """The scale of each row, and the columns of ``Units`` from there on to what is clipped."""
    scheme = settings.scheme
    few = few_values(law, settings)
    scale, below = row_choices(law, tops, settings)
    wanted = scale.copy()
    ends = is_an_end(scale, scheme.scale_format, scheme.global_scale)
    if ends.any():
        free = replace(settings, scheme=replace(scheme, scale_format="float32", global_scale=1.0))
        wanted[ends] = row_choices(law.select(ends), tops[ends], free).scale
    deployed, rounded = (each(scale, below, scheme) for each in (deployed_scales, rounded_scales))
    known = np.where(rounded > 0, rounded, 1.0)
    kl = np.full(law.rows, np.nan)
    if not few.all():
        counted = law.select(~few)
        kl[~few] = row_divergences(counted, scheme, known[~few], below[~few], sub_bins_of(settings))
    error = row_errors(law, scheme, known, below)
    with np.errstate(divide="ignore"):
        sqnr = np.where(error > 0, 10 * np.log10(law.energy / error), np.nan)
    costs = [kl, error / finite, sqnr, row_clipped(law, scheme, known, below) / finite]
    lost = held(wanted, scheme.scale_format, scheme.global_scale) != 0
    return [wanted, *(np.where(lost, np.nan, each) for each in (deployed, below, few, *costs))]


def _table_row(units: Units, layout: Layout, settings: Settings) -> Row:
    scheme, ok = settings.scheme, units.status == OK
    seen = np.unique(units.status)
    under, above = level_ends(units.below, scheme)
    integers = scheme.integers if ok.any() and not scheme.is_float else None
    finite = bool((units.least < np.inf).any())
    row = Row(
        status="ok" if ok.any() else STATUSES[int(seen.max())],
        unit_status=tuple(STATUSES[each] for each in units.status) if seen.size > 1 else None,
        scale=_listed(units.deployed),
        zero_point=_listed(zero_points(units.below, scheme), whole=True) if integers else None,
        qmin=integers[0] if integers else None,
        qmax=integers[-1] if integers else None,
        low=_listed(0.0 - under * np.abs(units.deployed)),
        high=_listed(above * np.abs(units.deployed)),
        min=float(units.least.min()) if finite else None,
        max=float(units.greatest.max()) if finite else None,
        numel=int(units.numel.sum()),
        zeros=int(units.zeros.sum()),
        nan=int(units.nan.sum()),
        neg_inf=int(units.neg_inf.sum()),
        pos_inf=int(units.pos_inf.sum()),
        kl=_listed(units.kl),
        mse=_listed(units.mse),
        sqnr_db=_listed(units.sqnr_db),
        clipped=_listed(units.clipped),
        axis=layout.grid.axis,
        group_size=layout.grid.size,
        note="; ".join(note for note in (_note(units, settings), layout.grid.note) if note) or None,
    )
    return row if ok.all() else replace(row, reason=_reason(row, units, scheme.scale_format))


def _note(units: Units, settings: Settings) -> str | None:
    if not isinstance(settings.method, KL) or sub_bins_of(settings) == 1 or not (units.few == 1).any():
        return None
    return f"units of fewer than {least_values(settings):,} values, too few for a divergence, were chosen by mse"


def _reason(row: Row, units: Units, scale_format: str) -> str:
    if row.unit_status is not None:
        counts = {name: row.unit_status.count(name) for name in STATUSES}
        parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"of {units.status.size} units: {parts}"
    if row.status == "zero":
        return zero_reason(row)
    if row.status == "nonfinite":
        return nonfinite_reason(row)
    if row.status == "overflow":
        return overflow_reason(float(units.scale.min()), scale_format)
    return underflow_reason(float(units.scale.max()), scale_format)


def _listed(values: Floats, whole: bool = False) -> Numbers | None:
    """Numbers, None for NaN; None where there is nothing else."""
    return Numbers(values, whole) if np.isfinite(values).any() else None
