"""Why a unit has the scale it has: what candidates lose, and what other methods would choose.

Every cost is that of the search itself: the squared error of ``klcal.search.candidate_costs``, the divergences of
``klcal.search.divergences`` and ``klcal.search.classic``. Figures of what is chosen are those of the table.
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
from klcal.sketches.distribution import Distribution, without_outermost
from klcal.sketches.sketch import Sketch
from klcal.tables.explanation import Alternative, Curve, Detail, Explanation, Nearby, Without
from klcal.tables.outcomes import OK, Outcomes, row_of
from klcal.tables.rows import Row

__all__ = ["explained"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

POINTS: dict[Detail, int] = {"plots": 24, "all": 80}  # of the curve: what fits in a figure of a page, in a terminal
REACH = 3.0  # octaves from the choice that the curve has at most on either side, but for what methods choose
MARGINS = np.array([-0.5, 0.5])  # octaves beyond the smallest and the largest scale that a method chooses
CHANGES = (-0.05, -0.01, 0.01, 0.05)  # of the scale
SHARES = (1e-4, 1e-3)  # of the nonzero values: the outermost, without which the unit is calibrated again
BINS_AT_ONCE = 1 << 20  # sub-bins of some candidates: 8 MB for each array of them
OF_ROW = ("scale", "zero_point", "low", "high", "mse", "sqnr_db", "clipped", "rounded_to_zero")
KEPT_BYTES = 31 << 20
"""Memory that is asked for and given back: from then on glibc keeps so much, in place of getting new pages for every
array of some megabytes, which takes half of the time."""


def explained(found: Sketch, settings: Settings, outcomes: Outcomes, detail: Detail) -> Explanation:
    """Of the only unit of a sketch.

    Args:
        found: its sketch.
        settings: how it was calibrated.
        outcomes: what came of that.
        detail: how much is wanted.
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


# --- what scales cost


class _Choice(NamedTuple):
    """What a method chooses."""

    method: str
    quantizer: Choices  # of one unit


class _Costs(NamedTuple):
    """Of some candidates: (candidates,)."""

    divergence: Floats  # NaN where no cell is cut
    distortion: Floats  # NaN where the least error is none
    loss: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class _Unit:
    """The unit, and what its candidates cost."""

    settings: Settings
    outcomes: Outcomes
    plain: Distribution  # in which values count alike: the figures' one
    decides: Distribution  # in which they count by their importance: the search's one
    spans: Spans
    minimum: Choices  # of least squared error: what `mse` chooses

    @staticmethod
    def of(found: Sketch, settings: Settings, outcomes: Outcomes) -> _Unit:
        """Of a sketch of one unit that has a scale."""
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
        """What it is quantized to."""
        return self.settings.scheme

    @property
    def objective(self) -> str | None:
        """What the method minimises; None where it follows a rule."""
        method = self.settings.method
        if isinstance(method, KL):
            decides = sub_bins(self.settings) > 1 and self.decides.number[0] >= least_values(self.settings)
            return "kl" if decides and self.least_error > 0 else "mse"
        return {MSE: "mse", KLClassic: "kl-classic"}.get(type(method))

    @property
    def weight(self) -> float:
        """Of the distortion."""
        return float(getattr(self.settings.method, "weight", WEIGHT))

    @property
    def least_error(self) -> float:
        """Σ(x − x̂)² of the candidate of least error; 0 where it is rounding noise."""
        error = float(self._errors(_deployed(self.minimum, self.settings))[0])
        return error if error > NO_ERROR * float(self.decides.energy[0]) else 0.0

    def _errors(self, some: Choices) -> Floats:
        """Σ(x − x̂)² of some candidates."""
        error = squared_errors(self.decides.prefix_sums(0), self.scheme, some.scale)
        option = np.argmax(self.scheme.belows == some.below[:, None], axis=1)
        errors: Floats = error[np.arange(option.size), option] * self.decides.size[0]
        return errors

    def costs(self, some: Choices) -> _Costs:
        """What some candidates lose."""
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
        sub, sums = sub_bins(self.settings), self.decides.prefix_sums(0)
        rows = max(1, BINS_AT_ONCE // (self.scheme.size * sub))
        parts = [some.select(slice(first, first + rows)) for first in range(0, some.scale.size, rows)]
        return np.concatenate([classic_divergences(sums, self.scheme, *each, sub) for each in parts])

    @property
    def chosen(self) -> _Choice:
        """What was chosen."""
        quantizer = Choices(np.abs(self.outcomes.scale), self.outcomes.below.astype(np.int64))
        return _Choice(str(self.settings.method), quantizer)

    def choice(self, method: Method) -> _Choice:
        """What another method would choose; the scale is 0 where its format has none."""
        if isinstance(method, KLClassic):
            also = [self._of(each) for each in method.others]
            found = method.among(self.decides, self.scheme, self.spans, also)
        else:
            found = self._of(method)
        return _Choice(str(method), _deployed(found, self.settings))

    def _of(self, method: Method) -> Choices:
        """What a method chooses, before it is deployed. What is known is not searched again."""
        if method == MSE():
            return self.minimum
        if method == self.settings.method and self.scheme.scale_format == "float32":
            return Choices(self.outcomes.chosen, self.outcomes.below.astype(np.int64))
        return method(self.decides, self.scheme, self.spans)

    def curve(self, choices: Sequence[_Choice], points: int) -> Curve:
        """What candidates lose over the scales that matter, those of the methods among them."""
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
        """The rows that the table would have for some quantizers."""
        scheme, number = self.scheme, some.scale.size
        copies = Distribution.of(self.plain.sketch.take(np.zeros(number, np.int64)))
        found = figures(copies, scheme, sub_bins(self.settings), some.scale, some.below)
        outcomes = self.outcomes.each(lambda column: np.repeat(column, number))._replace(
            **found._asdict(), scale=deployed_scales(some.scale, some.below, scheme), below=some.below
        )
        each = (outcomes.each(itemgetter(slice(place, place + 1))) for place in range(number))
        return [row_of(one, scheme, "", None) for one in each]

    def compared(self, choices: Sequence[_Choice]) -> tuple[tuple[Alternative, ...], tuple[Nearby, ...]]:
        """What choices cost, and scales near the first of them, with its zero point."""
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
    """Choices with the scales that are deployed; 0 where the format has none."""
    return Choices(rounded_scales(choices.scale, choices.below, settings.scheme), choices.below)


def _together(choices: Sequence[Choices]) -> Choices:
    return Choices(*(np.concatenate(each) for each in zip(*choices, strict=True)))


def _known(column: Floats) -> tuple[float | None, ...]:
    """None for what is infinite or undefined."""
    return tuple(each if np.isfinite(each) else None for each in column.tolist())


def _others(method: Method, detail: Detail) -> list[Method]:
    """The methods that a choice is compared with."""
    bins = getattr(method, "bins", BINS)
    known: list[Method] = [KLClassic(bins=bins)] if detail == "all" else []
    known += [KL(bins=bins), MSE(), MinMax(), Percentile(99.99)]
    return [each for each in known if each != method and not (isinstance(each, KL) and isinstance(method, KL))]


# --- what the outermost values cost


def _numbers_left_out(nonzero: int) -> list[tuple[int, float]]:
    """How many of so many values are left out, and which share of them that is about; each number once."""
    return sorted({max(1, round(share * nonzero)): share for share in SHARES[::-1]}.items())


def _without(unit: _Unit, count: int, share: float) -> Without:
    """What would be chosen, and lost, without so many of the outermost values."""
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
