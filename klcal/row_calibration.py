"""From the values of many rows to a row of the table: lists with a choice, and its cost, for each channel or group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.granularity import Layout
from klcal.methods import BINS, KL, MSE, Method, MinMax, Percentile, sub_bins_per_cell
from klcal.qparams import deployed_scales, level_ends
from klcal.reasons import nonfinite_reason, underflow_reason, zero_reason
from klcal.row_law import RowLaw, row_clipped, row_divergences, row_errors
from klcal.row_search import RowChoices, RowSpans, full_choices, row_search
from klcal.row_sketching import RowSketch, row_sketches
from klcal.scheme import Scheme
from klcal.search import Span
from klcal.settings import Settings
from klcal.table import Row, Status

__all__ = ["calibrate_rows", "units_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VALUES_PER_BIN = 4  # on average, from which D says more of the values than of their number
STATUSES: tuple[Status, ...] = ("ok", "zero", "nonfinite", "underflow")
OK, ZERO, NONFINITE, UNDERFLOW = range(len(STATUSES))


def calibrate_rows(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout, settings: Settings) -> Row:
    """One row of the table for a tensor whose channels or groups have a scale each: its numbers are tuples.

    `kl` decides by D where a row has at least ``VALUES_PER_BIN`` values for each bin, else by the squared error.

    Args:
        chunks: the values in the order of the layout, flat, in storage form (``klcal.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: which of them belong together.
        settings: how each row is calibrated.
    """
    pieces = [units_of(each, settings) for each in row_sketches(chunks, dtype, layout)]
    units = _Units(*(layout.in_own_order(np.concatenate(each)) for each in zip(*map(_values, pieces), strict=True)))
    return units.row(layout, settings)


@dataclass(frozen=True, eq=False)
class _Units:
    """What the table says of each of some rows; NaN where it is null."""

    status: Integers  # an index into STATUSES
    scale: Floats
    below: Integers
    kl: Floats
    mse: Floats
    sqnr_db: Floats
    clipped: Floats
    least: Floats  # of the finite values, inf where there are none
    greatest: Floats
    numel: Integers
    zeros: Integers
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    full: Floats  # the scale that was chosen, before it was rounded
    few: Bools  # chosen by the squared error, for want of values

    def row(self, layout: Layout, settings: Settings) -> Row:
        """All of them as one row of the table."""
        scheme, ok = settings.scheme, self.status == OK
        seen = np.unique(self.status)
        under, above = level_ends(self.below, scheme)
        integers = scheme.integers if ok.any() and not scheme.is_float else None
        finite = bool((self.least < np.inf).any())
        row = Row(
            status="ok" if ok.any() else STATUSES[int(seen.max())],
            unit_status=tuple(STATUSES[each] for each in self.status) if seen.size > 1 else None,
            scale=_listed(self.scale),
            zero_point=_listed(np.where(ok, integers[0] + self.below, np.nan), int) if integers else None,
            qmin=integers[0] if integers else None,
            qmax=integers[-1] if integers else None,
            low=_listed(-under * self.scale),
            high=_listed(above * self.scale),
            min=float(self.least.min()) if finite else None,
            max=float(self.greatest.max()) if finite else None,
            numel=int(self.numel.sum()),
            zeros=int(self.zeros.sum()),
            nan=int(self.nan.sum()),
            neg_inf=int(self.neg_inf.sum()),
            pos_inf=int(self.pos_inf.sum()),
            kl=_listed(self.kl),
            mse=_listed(self.mse),
            sqnr_db=_listed(self.sqnr_db),
            clipped=_listed(self.clipped),
            axis=layout.axis,
            group_size=layout.size,
            note="; ".join(note for note in (self._note(settings), layout.note) if note) or None,
        )
        return _with_reason(row, self.status, float(self.full.max()), scheme) if self.status.any() else row

    def _note(self, settings: Settings) -> str | None:
        if not isinstance(settings.method, KL) or not (self.few & (self.status == OK)).any():
            return None
        enough = VALUES_PER_BIN * settings.scheme.size * _sub_bins(settings.method, settings.scheme)
        return f"units of fewer than {enough:,} values, too few for a divergence, were chosen by mse"


def units_of(sketch: RowSketch, settings: Settings) -> _Units:
    """What the table says of each of some rows."""
    method, scheme = settings.method, settings.scheme
    nonzero = sketch.nonzero
    finite = nonzero + sketch.zeros
    refused = (sketch.nonfinite > 0) & ((finite == 0) | (settings.nonfinite == "fail"))
    status = np.where(refused, NONFINITE, np.where(nonzero == 0, ZERO, OK))
    good = status == OK
    scale, kl, mse, sqnr, clipped = np.full((5, sketch.rows), np.nan)
    full = np.zeros(sketch.rows)
    below, few = np.zeros(sketch.rows, np.int64), np.zeros(sketch.rows, bool)
    if good.any():
        law = RowLaw.of(sketch).select(good)
        few[good] = law.size < VALUES_PER_BIN * scheme.size * _sub_bins(method, scheme)
        choice = _choices(law, sketch.tops[good], scheme, _spans(law, settings.bounds), method, few[good])
        full[good] = choice.scale
        scale[good], below[good] = deployed_scales(*choice, scheme), choice.below
        status[good & (scale == 0)] = UNDERFLOW
        fine = (scale > 0)[good]
        costs = _costs(law.select(fine), scheme, scale[good][fine], below[good][fine], _sub_bins(method, scheme))
        done = np.flatnonzero(good)[fine]
        kl[done], error, sqnr[done], beyond = costs
        kl[few], mse[done], clipped[done] = np.nan, error / finite[done], beyond / finite[done]
        scale[status != OK] = np.nan
    has_zeros = sketch.zeros > 0
    least = np.where(has_zeros, np.minimum(sketch.minimum, 0.0), sketch.minimum)
    greatest = np.where(has_zeros, np.maximum(sketch.maximum, 0.0), sketch.maximum)
    counters = sketch.zeros, sketch.nan, sketch.neg_inf, sketch.pos_inf
    numel = finite + sketch.nonfinite
    return _Units(status, scale, below, kl, mse, sqnr, clipped, least, greatest, numel, *counters, full, few)


def _values(units: _Units) -> list[npt.NDArray[Any]]:
    return [getattr(units, field.name) for field in fields(units)]


def _with_reason(row: Row, status: Integers, greatest_scale: float, scheme: Scheme) -> Row:
    if row.unit_status is not None:
        counts = {name: int(np.count_nonzero(status == i)) for i, name in enumerate(STATUSES)}
        reason = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return replace(row, reason=f"of {status.size} units: {reason}")
    if row.status == "zero":
        return replace(row, reason=zero_reason(row))
    if row.status == "nonfinite":
        return replace(row, reason=nonfinite_reason(row))
    return replace(row, reason=underflow_reason(greatest_scale, scheme.scale_format))


def _listed(values: npt.NDArray[Any], kind: type[int | float] = float) -> tuple[Any, ...] | None:
    """A tuple, None for NaN; None where there is nothing else."""
    known = np.isfinite(values)
    if known.all():
        return tuple((values if kind is float else values.astype(np.int64)).tolist())
    if not known.any():
        return None
    return tuple(kind(value) if is_known else None for value, is_known in zip(values.tolist(), known, strict=True))


def _sub_bins(method: Method, scheme: Scheme) -> int:
    return sub_bins_per_cell(getattr(method, "bins", BINS), scheme.size)


def _spans(law: RowLaw, bounds: tuple[float, float] | None) -> RowSpans:
    """Of each row what ``klcal.calibration`` takes."""
    if bounds is None:
        return RowSpans(law.low, law.high)
    low, high = np.maximum(law.low, bounds[0]), np.minimum(law.high, bounds[1])
    empty = low >= high
    return RowSpans(np.where(empty, bounds[0], low), np.where(empty, bounds[1], high))


def _choices(law: RowLaw, tops: Integers, scheme: Scheme, spans: RowSpans, method: Method, few: Bools) -> RowChoices:
    match method:
        case MinMax():
            return full_choices(scheme, spans)
        case Percentile():
            return full_choices(scheme, _percentiles(law, scheme, spans, method.percent))
        case MSE():
            return row_search(law, scheme, spans, 1, 1.0)
        case KL():
            scale, below = np.empty(law.rows), np.empty(law.rows, np.int64)
            for some, sub in ((few, 1), (~few, _sub_bins(method, scheme))):
                if some.any():
                    of_some = RowSpans(spans.low[some], spans.high[some])
                    scale[some], below[some] = row_search(law.select(some), scheme, of_some, sub, method.weight)
            return RowChoices(scale, below)
    found = [
        method(law.law(row, int(tops[row])), scheme, Span(float(spans.low[row]), float(spans.high[row])))
        for row in range(law.rows)
    ]
    return RowChoices(np.array([each.scale for each in found]), np.array([each.below for each in found]))


def _percentiles(law: RowLaw, scheme: Scheme, spans: RowSpans, percent: float) -> RowSpans:
    """The range that ``klcal.methods.Percentile`` keeps of each row."""
    if scheme.symmetric:
        threshold = law.quantiles(law.size * percent / 100, None)
        return RowSpans(np.zeros(law.rows), np.minimum(threshold, np.maximum(-spans.low, spans.high)))
    cut = law.size * (100 - percent) / 200
    low = np.maximum(-law.quantiles(law.side_size(True) - cut, True), spans.low)
    high = np.minimum(law.quantiles(law.side_size(False) - cut, False), spans.high)
    empty = low >= high
    return RowSpans(np.where(empty, spans.low, low), np.where(empty, spans.high, high))


def _costs(
    law: RowLaw, scheme: Scheme, scale: Floats, below: Integers, sub: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """D, Σ(x − x̂)², the ratio of signal to noise in dB and the number of clipped values of each row."""
    enough = law.size >= VALUES_PER_BIN * scheme.size * sub
    kl = np.full(law.rows, np.nan)
    if enough.any() and sub > 1:
        kl[enough] = row_divergences(law.select(enough), scheme, scale[enough], below[enough], sub)
    error = row_errors(law, scheme, scale, below)
    with np.errstate(divide="ignore"):
        sqnr = np.where(error > 0, 10 * np.log10(law.energy / error), np.nan)
    return kl, error, sqnr, row_clipped(law, scheme, scale, below)
