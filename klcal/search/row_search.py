"""The search of ``klcal.search.one_unit`` for many rows at once.

Rows share their candidates: scales in steps relative to the one that covers the row. So a table holds the squared error
of every candidate on every bin of magnitude, and one matrix product gives that of all rows under all candidates. It
ranks them; what is chosen is the best of the first few by their exact cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.qparams import rounded_scales
from klcal.quantizers.scale_formats import at_least
from klcal.quantizers.scheme import Scheme
from klcal.search.one_unit import FEW_LEVELS, NO_ERROR, ROUNDING
from klcal.search.row_law import RowLaw, row_divergences, row_errors
from klcal.search.row_tables import PARTS, WIDER, Histogram, nearest_scales, table

__all__ = ["RowChoices", "RowSpans", "apart", "full_choices", "row_search"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEW_PIECES, FEWER_PIECES = 64, 8  # of a row, up to which each is looked at under each candidate: of many or few levels
FINALISTS, AFFINE_FINALISTS = 4, 8  # of each row, whose exact cost is computed
FEW_FINALISTS = 16  # of rows of few pieces
TIE, BELOW_TIE = 1e-9, 1e-4  # squared steps by which one of two equal candidates ranks first
DIVERGENCES = 16  # of each row, where D decides


class RowSpans(NamedTuple):
    """The widest range of each row that a candidate may keep: low ≤ 0 ≤ high, low < high."""

    low: Floats
    high: Floats


class RowChoices(NamedTuple):
    """A scale for each row, and how many levels lie below zero."""

    scale: Floats
    below: Integers


def full_choices(scheme: Scheme, spans: RowSpans) -> RowChoices:
    """The quantizers that cover the spans: ``klcal.search.one_unit.full_choice`` of each row."""
    if scheme.symmetric:
        sides = [scheme.sides(below) for below in scheme.belows.tolist()]
        options = np.stack([np.maximum(spans.high / above[-1], -spans.low / below[-1]) for above, below in sides])
        scale = options.min(axis=0)
    else:
        scale = (spans.high - spans.low) / (scheme.size - 1)
    if scheme.scale_format != "float32":
        scale = at_least(scale, scheme.scale_format, scheme.global_scale)
    if scheme.symmetric:
        return RowChoices(scale, scheme.belows[options.argmin(axis=0)])
    return RowChoices(scale, np.minimum(np.rint(-spans.low / scale), scheme.size - 1).astype(np.int64))


def row_search(law: RowLaw, scheme: Scheme, spans: RowSpans, sub: int, weight: float) -> RowChoices:
    """The candidate of least D(P‖Q) + weight · MSE / (2 · MSE*) for each row; of least MSE where sub is 1.

    Rows do not depend on those beside them: what is added up for several rows together are integers.
    """
    few = law.pieces <= _few(scheme)
    return apart(few, law, spans, lambda some, within, _: _search(some, scheme, within, sub, weight))


def apart(
    some: Bools, law: RowLaw, spans: RowSpans, search: Callable[[RowLaw, RowSpans, bool], RowChoices]
) -> RowChoices:
    """What a search chooses for some rows and for the others, each on their own; it is told which they are."""
    scale, below = np.empty(law.rows), np.empty(law.rows, np.int64)
    for wanted, is_some in ((some, True), (~some, False)):
        if wanted.any():
            within = RowSpans(spans.low[wanted], spans.high[wanted])
            scale[wanted], below[wanted] = search(law.select(wanted), within, is_some)
    return RowChoices(scale, below)


def _search(law: RowLaw, scheme: Scheme, spans: RowSpans, sub: int, weight: float) -> RowChoices:
    """``row_search`` of rows that all have few pieces, or all have many."""
    full = full_choices(scheme, spans)
    ranking = _ranking(law, scheme, spans, full.scale)
    few = law.pieces[0] <= _few(scheme)
    many = FINALISTS if scheme.is_fixed else AFFINE_FINALISTS
    finalists = _Finalists.of(law, scheme, full, ranking, ranking.first(FEW_FINALISTS if few else many))
    nothing = NO_ERROR * law.energy / law.size
    choices = finalists.least(np.maximum(finalists.mse, nothing[:, None]))
    if sub == 1:
        return choices
    least = np.maximum(finalists.mse.min(axis=1), nothing)
    slack = 1 + 2 * row_divergences(law, scheme, *choices, sub) / weight
    contenders = _Finalists.of(law, scheme, choices, ranking, ranking.evenly(DIVERGENCES, least * slack))
    nats = [
        row_divergences(law, scheme, scale, below, sub)
        for scale, below in zip(contenders.scale.T, contenders.below.T, strict=True)
    ]
    loss = np.stack(nats, axis=1) + weight * contenders.mse / (2 * least[:, None])
    best = contenders.least(loss, rounded_scales(*full, scheme))
    decides = least > nothing
    return RowChoices(np.where(decides, best.scale, choices.scale), np.where(decides, best.below, choices.below))


def _few(scheme: Scheme) -> int:
    """Up to how many pieces bins do not tell the candidates of a row apart well enough."""
    is_coarse = scheme.scale_format == "float32" and (scheme.size <= FEW_LEVELS or scheme.is_float)
    return FEWER_PIECES if is_coarse else FEW_PIECES


@dataclass(frozen=True, eq=False)
class _Finalists:
    """Candidates of each row, as deployed, with their exact mean squared error: (rows, candidates)."""

    scale: Floats
    below: Integers
    mse: Floats
    full: Floats  # (rows,): the scale that covers the row

    @staticmethod
    def of(law: RowLaw, scheme: Scheme, first: RowChoices, ranking: _Ranking, columns: Integers) -> _Finalists:
        """Those of some columns of a ranking, behind a choice that is a candidate in any case."""
        scale = nearest_scales(scheme, ranking.full[:, None] * ranking.ratio[columns])
        scale = np.column_stack([first.scale, scale])
        below = np.column_stack([first.below, np.take_along_axis(ranking.below, columns, axis=1)])
        scale = rounded_scales(scale, below, scheme)
        known = np.where(scale > 0, scale, 1.0)
        errors = [row_errors(law, scheme, known[:, i], below[:, i]) / law.size for i in range(scale.shape[1])]
        ranked = np.take_along_axis(ranking.mse, columns, axis=1)
        is_candidate = (scale > 0) & np.column_stack([np.ones(len(ranked), bool), np.isfinite(ranked)])
        mse = np.where(is_candidate, np.stack(errors, axis=1), np.inf)
        return _Finalists(scale, below, mse, rounded_scales(ranking.full, first.below, scheme))

    def least(self, loss: Floats, full: Floats | None = None) -> RowChoices:
        """The best of each row; ties as in ``klcal.search.one_unit.least``."""
        full = self.full if full is None else full
        tied = loss <= loss.min(axis=1, keepdims=True) * (1 + ROUNDING)
        narrow = tied & (self.scale <= full[:, None])
        pool = np.where(narrow.any(axis=1)[:, None], narrow, tied)
        scale = np.where(pool, self.scale, -1.0).max(axis=1)
        below = np.where(pool & (self.scale == scale[:, None]), self.below, -1).max(axis=1)
        return RowChoices(scale, below)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Candidates of each row and their mean squared error, nearly: (rows, candidates); infinite where there is none."""

    full: Floats  # (rows,)
    ratio: Floats  # (candidates,): of the scale to the full one
    below: Integers
    mse: Floats

    def first(self, count: int) -> Integers:
        """The columns of the best of each row."""
        if count >= self.ratio.size:
            return np.tile(np.arange(self.ratio.size), (self.full.size, 1))
        return np.argpartition(self.mse, count - 1, axis=1)[:, :count]

    def evenly(self, count: int, limit: Floats) -> Integers:
        """The columns of some of each row's candidates, evenly spread over those whose error is within a limit."""
        order = np.argsort(self.mse, axis=1, kind="stable")
        hopeful = np.count_nonzero(self.mse <= limit[:, None], axis=1)
        places = np.linspace(0, 1, count) * np.maximum(hopeful - 1, 0)[:, None]
        return np.take_along_axis(order, places.astype(np.int64), axis=1)


def _ranking(law: RowLaw, scheme: Scheme, spans: RowSpans, full: Floats) -> _Ranking:
    """All candidates from the full scale down to where, for each row, clipping alone costs more than the best."""
    histogram = Histogram(law, scheme, full, pointwise=bool(law.pieces[0] <= _few(scheme)))
    ends = spans.low / full, spans.high / full
    widest = max(np.diff(scheme.above).max(initial=1.0), np.diff(scheme.below).max(initial=1.0))
    active, best = np.ones(law.rows, bool), np.full(law.rows, np.inf)
    parts = list(_wider(law, scheme, spans, histogram, ends))
    for number in range(PARTS):
        shared = table(scheme, number)
        mse, below = histogram.errors(shared, *ends)
        mse = np.where(active[:, None, None], mse, np.inf)
        parts.append((shared.ratio, mse, below))
        best = np.minimum(best, mse.min(axis=(1, 2)))
        active &= mse[:, -1].min(axis=1) - (widest * shared.ratio[-1] / 2) ** 2 <= best
        if not active.any() or scheme.scale_format == "e8m0":
            break
    ratio = np.concatenate([np.repeat(ratio, mse.shape[2]) for ratio, mse, _ in parts])
    below = np.concatenate([below.reshape(law.rows, -1) for _, _, below in parts], axis=1)
    mse = np.concatenate([mse.reshape(law.rows, -1) for _, mse, _ in parts], axis=1)
    # Equal errors are told apart, the larger scale first: which of them comes first must not depend on other rows.
    return _Ranking(full, ratio, below, mse + TIE * (-ratio - BELOW_TIE * below / scheme.size))


def _wider(
    law: RowLaw, scheme: Scheme, spans: RowSpans, histogram: Histogram, ends: tuple[Floats, Floats]
) -> Iterator[tuple[Floats, Floats, Integers]]:
    """Scales above the full one: of floats, and for the rows that may be a lattice that is coarser than the levels."""
    unbounded = (spans.low == law.low) & (spans.high == law.high)
    lattice = unbounded & (scheme.is_float | (law.pieces <= 2 * scheme.size))
    shared = table(scheme, WIDER)
    if lattice.any() and shared.ratio.size:
        mse, below = histogram.errors(shared, *ends)
        yield shared.ratio, np.where(lattice[:, None, None], mse, np.inf), below
