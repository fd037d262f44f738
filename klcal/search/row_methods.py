"""What the methods of ``klcal.search.methods`` choose for many rows at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.methods import BINS, KL, MSE, MinMax, Percentile, sub_bins_per_cell
from klcal.search.one_unit import Span
from klcal.search.row_law import RowLaw
from klcal.search.row_search import RowChoices, RowSpans, apart, full_choices, row_search
from klcal.search.settings import Settings

__all__ = ["few_values", "least_values", "row_choices", "sub_bins_of"]

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VALUES_PER_BIN = 4  # on average, from which D says more of the values than of their number


def sub_bins_of(settings: Settings) -> int:
    """Of each cell, for D."""
    return sub_bins_per_cell(getattr(settings.method, "bins", BINS), settings.scheme.size)


def least_values(settings: Settings) -> int:
    """From how many values on a row has a D."""
    return VALUES_PER_BIN * settings.scheme.size * sub_bins_of(settings)


def few_values(law: RowLaw, settings: Settings) -> Bools:
    """The rows that have no D: for want of values, or because no cell is cut."""
    return (law.size < least_values(settings)) | (sub_bins_of(settings) == 1)


def row_choices(law: RowLaw, tops: Integers, settings: Settings) -> RowChoices:
    """The choice for each row, of which ``tops`` are the exponents of their largest magnitudes.

    `kl` decides by D where there are values enough for it, elsewhere by the squared error. A method that looks at one
    law at a time is called for each row.
    """
    scheme, spans = settings.scheme, _spans(law, settings.bounds)
    match settings.method:
        case MinMax():
            return full_choices(scheme, spans)
        case Percentile(percent):
            return full_choices(scheme, _percentiles(law, scheme, spans, percent))
        case MSE():
            return row_search(law, scheme, spans, 1, 1.0)
        case KL(weight=weight):
            sub = sub_bins_of(settings)
            return apart(
                few_values(law, settings),
                law,
                spans,
                lambda some, within, is_few: row_search(some, scheme, within, 1 if is_few else sub, weight),
            )
    found = [
        settings.method(law.law(row, int(tops[row])), scheme, Span(float(spans.low[row]), float(spans.high[row])))
        for row in range(law.rows)
    ]
    return RowChoices(np.array([each.scale for each in found]), np.array([each.below for each in found]))


def _spans(law: RowLaw, bounds: tuple[float, float] | None) -> RowSpans:
    """The range of each row and zero, within the bounds; the bounds themselves if nothing lies within."""
    if bounds is None:
        return RowSpans(law.low, law.high)
    low, high = np.maximum(law.low, bounds[0]), np.minimum(law.high, bounds[1])
    empty = low >= high
    return RowSpans(np.where(empty, bounds[0], low), np.where(empty, bounds[1], high))


def _percentiles(law: RowLaw, scheme: Scheme, spans: RowSpans, percent: float) -> RowSpans:
    """The range that ``klcal.search.methods.Percentile`` keeps of each row."""
    if scheme.symmetric:
        threshold = law.quantiles(law.size * percent / 100, None)
        return RowSpans(np.maximum(-threshold, spans.low), np.minimum(threshold, spans.high))
    cut = law.size * (100 - percent) / 200
    low = np.maximum(-law.quantiles(law.side_size(True) - cut, True), spans.low)
    high = np.minimum(law.quantiles(law.side_size(False) - cut, False), spans.high)
    empty = low >= high
    return RowSpans(np.where(empty, spans.low, low), np.where(empty, spans.high, high))
