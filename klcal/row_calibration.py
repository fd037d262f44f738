"""From the values of many rows to a row of the table: a choice, and its cost, for each channel or group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.granularity import Layout
from klcal.quantizers.qparams import deployed_scales, rounded_scales
from klcal.quantizers.scale_formats import global_scale_of, held, is_an_end
from klcal.quantizers.scheme import Scheme
from klcal.search.methods import KL
from klcal.search.one_unit import Span, full_choice
from klcal.search.row_law import RowLaw, row_clipped, row_divergences, row_errors, row_zeroed
from klcal.search.row_methods import few_values, least_values, row_choices, sub_bins_of
from klcal.search.row_tables import rows_at_once
from klcal.search.settings import Settings
from klcal.sketches.row_sketch import RowSketch, row_sketches
from klcal.tables.outcomes import NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, row_of
from klcal.tables.rows import Row

__all__ = ["calibrate_rows", "outcomes_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def calibrate_rows(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout, settings: Settings) -> Row:
    """One row of the table for a tensor whose channels or groups have a scale each.

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
        outcomes_of(each[first : first + step], settings) for each in sketches for first in range(0, each.rows, step)
    ]
    outcomes = Outcomes(*(layout.in_own_order(np.concatenate(each)) for each in zip(*pieces, strict=True)))
    return row_of(outcomes, settings.scheme, str(settings.method), layout.grid, note=_note(outcomes, settings))


def _relative_to(sketches: list[RowSketch], scheme: Scheme) -> Scheme:
    """The scheme with the global scale of a tensor."""
    low = min(min(float(each.minimum.min()) for each in sketches), 0.0)
    high = max(max(float(each.maximum.max()) for each in sketches), 0.0)
    full = full_choice(scheme.of_one_unit, Span(low, high)).scale
    return replace(scheme, global_scale=global_scale_of(full) or 1.0)


def outcomes_of(sketch: RowSketch, settings: Settings) -> Outcomes:
    """The units that the rows of a sketch are."""
    nonzero = sketch.nonzero
    finite = nonzero + sketch.zeros
    refused = (sketch.nonfinite > 0) & ((finite == 0) | (settings.nonfinite == "fail"))
    status = np.where(refused, NONFINITE, np.where(nonzero == 0, ZERO, OK))
    good = status == OK
    columns = np.full((8, sketch.rows), np.nan)
    if good.any():
        columns[:, good] = _chosen(RowLaw.of(sketch).select(good), sketch.tops[good], settings)
        fits = held(columns[0], settings.scheme.scale_format, settings.scheme.global_scale)
        status[good & (fits < 0)] = UNDERFLOW
        status[good & (fits > 0)] = OVERFLOW
    has_zeros, none = sketch.zeros > 0, np.zeros(sketch.rows, np.int64)
    smallest = np.where(has_zeros, np.minimum(sketch.minimum, 0.0), sketch.minimum)
    largest = np.where(has_zeros, np.maximum(sketch.maximum, 0.0), sketch.maximum)
    counters = sketch.zeros, sketch.nan, sketch.neg_inf, sketch.pos_inf, none, none
    return Outcomes(*(status, *columns, nonzero, finite, smallest, largest, *counters))


def _chosen(law: RowLaw, tops: Integers, settings: Settings) -> list[Floats]:
    """The scale of each row, and the columns of ``Outcomes`` from there on to what is rounded to zero."""
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
    costs = [each(law, scheme, known, below) for each in (row_errors, row_clipped, row_zeroed)]
    return [wanted, deployed, below.astype(np.float64), kl, costs[0], law.energy, *costs[1:]]


def _note(outcomes: Outcomes, settings: Settings) -> str | None:
    few = (outcomes.status == OK) & np.isnan(outcomes.kl)
    if not isinstance(settings.method, KL) or sub_bins_of(settings) == 1 or not few.any():
        return None
    return f"units of fewer than {least_values(settings):,} values, too few for a divergence, were chosen by mse"
