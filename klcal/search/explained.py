"""The explanation of a scale: the loss of other candidates, and the choices of other methods.

Losses are computed by the functions of the search: the squared error by ``klcal.search.candidate_costs``, divergences
by ``klcal.search.divergences`` and ``klcal.search.classic``. The figures of choices are computed as in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.threads import worked_ahead
from klcal.quantizers.qparams import deployed_scales, rounded_scales, zero_points
from klcal.quantizers.scheme import Scheme
from klcal.search.bucket_costs import BucketCosts
from klcal.search.candidate_costs import squared_errors
from klcal.search.choices import NO_ERROR, Choices, Spans
from klcal.search.chosen import least_values, outcomes_of, sub_bins
from klcal.search.classic import classic_divergences
from klcal.search.divergences import divergences
from klcal.search.explore import judged
from klcal.search.figures import figures
from klcal.search.methods import BINS, KL, MSE, WEIGHT, KLClassic, Method, MinMax, Percentile
from klcal.search.settings import Settings
from klcal.search.shapes import histogram_of, levels_of, octaves_of
from klcal.sketches.distribution import Distribution
from klcal.sketches.pieces import without_outermost
from klcal.sketches.sketch import Sketch
from klcal.tables.computed import row_of
from klcal.tables.explanation import Alternative, Curve, Detail, Explanation, Nearby, Without
from klcal.tables.outcomes import OK, Outcomes
from klcal.tables.rows import Row

__all__ = ["explained"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

POINTS: dict[Detail, int] = {"plots": 24, "all": 80}  # of the curve: for a figure on a page, and for a terminal
REACH = 3.0  # octaves at most between the choice and either end of the curve; choices of methods may lie beyond
MARGINS = np.array([-0.5, 0.5])  # octaves of the curve beyond the smallest and the largest scale of a method
CHANGES = (-0.05, -0.01, 0.01, 0.05)  # relative changes of the scale
SHARES = (1e-4, 1e-3)  # shares of the nonzero values, the outermost ones, that are left out to calibrate again
BINS_AT_ONCE = 1 << 20  # sub-bins of the candidates that are computed together: 8 MB for each array
OF_ROW = ("scale", "zero_point", "low", "high", "mse", "sqnr_db", "clipped", "rounded_to_zero")
KEPT_BYTES = 31 << 20
"""Bytes that are allocated and freed at once. From then on glibc keeps as much memory, and does not ask the system for
new pages for every array of some megabytes, which took half of the time."""


def explained(found: Sketch, settings: Settings, outcomes: Outcomes, detail: Detail) -> Explanation:
    """The explanation of the only unit of a sketch.

    Args:
        found: the sketch, of one unit.
        settings: by which it was calibrated.
        outcomes: of that calibration.
        detail: how much is explained: histograms only, or also curves and the choices of other methods.
    """
    seen = Explanation(histogram=histogram_of(found), octaves=octaves_of(found))
    if detail not in POINTS or outcomes.status[0] != OK:
        return seen
    np.empty(KEPT_BYTES, np.int8)
    unit = _Unit.of(found, settings, outcomes)
    others = _others(settings.method, detail)
    lessened = [] if found.weights is not None else _numbers_left_out(int(found.nonzero[0]))
    work: list[Callable[[], Any]] = [partial(unit.choice, each) for each in others]  # the longest first
    work += [partial(_without, unit, *each) for each in lessened]
    done = worked_ahead(_called, work)
    choices = [unit.chosen, *(each for each in done[: len(others)] if each.quantizer.scale[0] > 0)]
    methods, nearby = unit.compared(choices)
    return replace(
        seen,
        levels=levels_of(settings.scheme, methods[0]),
        objective=unit.objective,
        weight=unit.weight,
        curve=unit.curve(choices, POINTS[detail]),
        methods=methods,
        nearby=nearby,
        without=tuple(done[len(others) :]),
    )


def _called(work: Callable[[], Any]) -> Any:
    return work()


# --- the costs of scales


class _Choice(NamedTuple):
    """The choice of a method for a unit."""

    method: str
    quantizer: Choices  # (1,), of one unit


class _Costs(NamedTuple):
    """The costs of candidates: (candidates,) each."""

    divergence: Floats  # D(P‖Q) in nats; NaN if cells are not divided into sub-bins
    distortion: Floats  # weight · MSE / (2 · MSE*), MSE* being the minimum; NaN if that is 0
    loss: Floats  # what the method minimises


@dataclass(frozen=True, eq=False, kw_only=True)
class _Unit:
    """A unit that has a scale, and the costs of its candidates."""

    settings: Settings
    outcomes: Outcomes
    plain: Distribution  # every value counts the same: for the figures
    decides: Distribution  # values count by their importance: for the search
    spans: Spans  # the widest range that a candidate may cover
    minimum: Choices  # (1,): the choice of `mse`, which has the minimum of squared error

    @staticmethod
    def of(found: Sketch, settings: Settings, outcomes: Outcomes) -> _Unit:
        """The unit of a sketch with one unit, which was calibrated with these settings."""
        plain = Distribution.of(found)
        decides = plain if found.weights is None else Distribution.weighted(found)
        spans = Spans.of(decides, settings.bounds)
        return _Unit(
            settings=settings,
            outcomes=outcomes,
            plain=plain,
            decides=decides,
            spans=spans,
            minimum=MSE()(decides, settings.scheme, spans),
        )

    @property
    def scheme(self) -> Scheme:
        """The scheme that the unit is quantized to."""
        return self.settings.scheme

    @property
    def objective(self) -> str | None:
        """The name of the loss that the method minimises here; None if it follows a rule, as percentile does."""
        method = self.settings.method
        if isinstance(method, KL):
            decides = sub_bins(self.settings) > 1 and self.decides.number[0] >= least_values(self.settings)
            return "kl" if decides and self.least_error > 0 else "mse"
        return {MSE: "mse", KLClassic: "kl-classic"}.get(type(method))

    @property
    def weight(self) -> float:
        """The weight of the squared error in the loss of `kl`."""
        return float(getattr(self.settings.method, "weight", WEIGHT))

    @property
    def least_error(self) -> float:
        """The minimum of Σ(x − x̂)² over candidates; 0 if it is rounding noise."""
        error = float(self._errors(_deployed(self.minimum, self.settings))[0])
        return error if error > NO_ERROR * float(self.decides.energy[0]) else 0.0

    def _errors(self, some: Choices) -> Floats:
        """Σ(x − x̂)² of candidates, (candidates,)."""
        error = squared_errors(self.decides.prefix_sums(0), self.scheme, some.scale)
        option = np.argmax(self.scheme.belows == some.below[:, None], axis=1)
        errors: Floats = error[np.arange(option.size), option] * self.decides.size[0]
        return errors

    def costs(self, some: Choices) -> _Costs:
        """The costs of candidates, (candidates,)."""
        sub, least = sub_bins(self.settings), self.least_error
        error = self._errors(some)
        distortion = self.weight * error / (2 * least) if least else np.full(error.size, np.nan)
        divergence = np.full(error.size, np.nan)
        if sub > 1:
            divergence = divergences(self.decides, self.scheme, some.scale[None], some.below[None], sub)[0]
        loss = np.where(np.isnan(divergence), 0.0, divergence) + distortion
        if self.objective == "mse":
            loss = distortion
        elif self.objective == "kl-classic":
            loss = self._classic(some)
        return _Costs(divergence, distortion, loss)

    def _classic(self, some: Choices) -> Floats:
        """D(P‖Q) of `kl-classic` for candidates, (candidates,), in nats."""
        sub, sums = sub_bins(self.settings), self.decides.prefix_sums(0)
        rows = max(1, BINS_AT_ONCE // (self.scheme.size * sub))
        parts = [some.select(slice(first, first + rows)) for first in range(0, some.scale.size, rows)]
        return np.concatenate([classic_divergences(sums, self.scheme, *each, sub) for each in parts])

    @property
    def chosen(self) -> _Choice:
        """The choice in the table."""
        quantizer = Choices(np.abs(self.outcomes.scale), self.outcomes.below.astype(np.int64))
        return _Choice(str(self.settings.method), quantizer)

    def choice(self, method: Method) -> _Choice:
        """The choice of another method; its scale is 0 if the format of scales has no such scale."""
        if isinstance(method, KLClassic):
            also = [self._of(each) for each in method.others]
            found = method.among(self.decides, self.scheme, self.spans, also)
        else:
            found = self._of(method)
        return _Choice(str(method), _deployed(found, self.settings))

    def _of(self, method: Method) -> Choices:
        """The choice of a method, before it is deployed. Choices that are known are not searched again."""
        if method == MSE():
            return self.minimum
        if method == self.settings.method and self.scheme.scale_format == "float32":
            return Choices(self.outcomes.chosen, self.outcomes.below.astype(np.int64))
        return method(self.decides, self.scheme, self.spans)

    def curve(self, choices: Sequence[_Choice], points: int) -> Curve:
        """The costs of candidates over the scale, from below the smallest to above the largest choice of a method.

        Args:
            choices: of the methods; the first one is in the table. Their scales are points of the curve.
            points: the number of other points.
        """
        chosen = choices[0].quantizer
        own = _together([each.quantizer for each in choices])
        middle, ends = np.log2(chosen.scale[0]), np.log2([own.scale.min(), own.scale.max()])
        first, last = np.clip(ends + MARGINS, middle - REACH, middle + REACH)
        costs = BucketCosts.of(self.decides, self.scheme, self.spans)
        found = judged(costs, self.scheme, np.exp2(np.linspace(first, last, points))[None])
        legal = np.isfinite(found.error[0]) & ~np.isin(found.scale[0], own.scale)
        every = [np.concatenate(each) for each in zip((found.scale[0][legal], found.below[0][legal]), own, strict=True)]
        order = np.unique(every[0], return_index=True)[1]
        some = Choices(every[0][order], every[1][order])
        points_of = [None] * order.size if self.scheme.is_float else zero_points(some.below, self.scheme).tolist()
        return Curve(
            scale=tuple(some.scale.tolist()),
            zero_point=tuple(points_of),
            **{name: _known(column) for name, column in self.costs(some)._asdict().items()},
            chosen=int(np.searchsorted(some.scale, chosen.scale[0])),
        )

    def _rows(self, some: Choices) -> list[Row]:
        """The rows that the table would have for quantizers, (n,), of this unit."""
        scheme, number = self.scheme, some.scale.size
        copies = Distribution.of(self.plain.sketch.take(np.zeros(number, np.int64)))
        found = figures(copies, scheme, sub_bins(self.settings), some.scale, some.below)
        outcomes = self.outcomes.each(lambda column: np.repeat(column, number))._replace(
            **found._asdict(), scale=deployed_scales(some.scale, some.below, scheme), below=some.below
        )
        each = (outcomes.each(itemgetter(slice(place, place + 1))) for place in range(number))
        return [row_of(one, scheme, "", None) for one in each]

    def compared(self, choices: Sequence[_Choice]) -> tuple[tuple[Alternative, ...], tuple[Nearby, ...]]:
        """The costs of choices, and the costs of scales close to that of the first choice, with its zero point."""
        chosen = choices[0].quantizer
        scale = (chosen.scale[0] * (1 + np.array(CHANGES))).astype(np.float32).astype(np.float64)
        near = Choices(scale, np.repeat(chosen.below, scale.size))
        some = _together([*(each.quantizer for each in choices), near])
        rows, costs = self._rows(some), [_known(column) for column in self.costs(some)]
        alternatives = [
            Alternative(method=each.method, **{name: getattr(row, name) for name in OF_ROW}, **_Costs(*cost)._asdict())
            for each, row, *cost in zip(choices, rows, *costs, strict=False)
        ]
        places = range(len(choices), len(rows))
        nearby = [
            Nearby(change=change, loss=costs[-1][place], mse=rows[place].mse or 0.0, sqnr_db=rows[place].sqnr_db)
            for change, place in zip(CHANGES, places, strict=True)
        ]
        return tuple(alternatives), tuple(nearby)


def _deployed(choices: Choices, settings: Settings) -> Choices:
    """Choices with their scales rounded to the format of scales; 0 if it has no such scale."""
    return Choices(rounded_scales(choices.scale, choices.below, settings.scheme), choices.below)


def _together(choices: Sequence[Choices]) -> Choices:
    return Choices(*(np.concatenate(each) for each in zip(*choices, strict=True)))


def _known(column: Floats) -> tuple[float | None, ...]:
    """The numbers of a column, (n,); None for one that is infinite or undefined."""
    return tuple(each if np.isfinite(each) else None for each in column.tolist())


def _others(method: Method, detail: Detail) -> list[Method]:
    """The methods whose choices are compared with that of ``method``."""
    bins = getattr(method, "bins", BINS)
    known: list[Method] = [KLClassic(bins=bins)] if detail == "all" else []
    known += [KL(bins=bins), MSE(), MinMax(), Percentile(99.99)]
    return [each for each in known if each != method and not (isinstance(each, KL) and isinstance(method, KL))]


# --- the cost of the outermost values


def _numbers_left_out(nonzero: int) -> list[tuple[int, float]]:
    """The numbers of values to leave out, each with the share in ``SHARES`` that it stands for.

    >>> _numbers_left_out(20_000), _numbers_left_out(10)
    ([(2, 0.0001), (20, 0.001)], [(1, 0.0001)])
    """
    return sorted({max(1, round(share * nonzero)): share for share in SHARES[::-1]}.items())


def _without(unit: _Unit, count: int, share: float) -> Without:
    """The choice, and its SQNR, for the unit without ``count`` of its outermost values."""
    settings = unit.settings
    rest = without_outermost(unit.plain.sketch, count)
    outcomes = outcomes_of(rest, settings)
    row = row_of(outcomes, settings.scheme, "", None)
    as_is = None
    if outcomes.status[0] == OK:
        costs = figures(Distribution.of(rest), settings.scheme, sub_bins(settings), *unit.chosen.quantizer)
        as_is = row_of(outcomes._replace(**costs._asdict()), settings.scheme, "", None).sqnr_db
    return Without(
        share=share,
        count=count,
        beyond=max(abs(row.min or 0.0), abs(row.max or 0.0)),
        scale=row.scale,
        zero_point=row.zero_point,
        sqnr_db=row.sqnr_db,
        sqnr_db_as_is=as_is,
    )
