"""The scales that are candidates: coarse ones over all octaves that can win, then finer ones near the best.

Many units are searched at once; no unit depends on another. The coarse scales form a descending ladder with the same
ratio from one to the next. Beside it stand scales that suit the values: they divide the range, or the smallest distance
of two values, into whole steps. Finally the best scale is refined by least squares: every value keeps its level, and
the scale changes. This is one half of a Lloyd step (Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory
28(2), 1982) with levels at fixed ratios.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import power_of_two
from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Candidates, Spans, joined, scales_of, valid

__all__ = ["Costs", "Density", "explore", "first_ratios", "judged", "ratios_around", "times"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNUSED = 16  # the range is divided into each whole number of steps that leaves fewer levels than this unused
RUNGS = 12  # scales of the ladder that are tried before it is asked whether it ends
MAX_OCTAVES = 24  # octaves below the full scale that are tried: further down, even 10⁹ values clip too much


class Costs(Protocol):
    """The squared errors Σ(x − x̂)² of candidates for some units."""

    @property
    def spans(self) -> Spans:
        """The widest ranges that may be kept."""

    @property
    def min(self) -> Floats:
        """(units,): the lowest value, 0 if none is negative."""

    @property
    def max(self) -> Floats:
        """(units,): the highest value, 0 if none is positive."""

    @property
    def size(self) -> Floats:
        """(units,): the number of values, or the sum of their weights."""

    @property
    def gap(self) -> Floats:
        """(units,): the smallest distance between two values, or between a value and 0."""

    def select(self, units: Bools, /) -> Costs:
        """The costs for the units of a mask, (units,)."""

    def least_errors(self, scale: Floats, /) -> tuple[Integers, Floats]:
        """The best number of levels below zero for each scale, and its error: (units, candidates) each."""

    def errors(self, scale: Floats, below: Integers, /) -> Floats:
        """The error of each candidate: (units, candidates)."""

    def refined(self, scale: Floats, below: Integers, /) -> Floats:
        """The scales of smallest error if every value keeps its level, or the same ones: (units, candidates)."""


class Density(NamedTuple):
    """The number of scales that are tried, and how."""

    coarse: int  # scales of the ladder in each octave
    fine: tuple[int, ...]  # finer scales on either side of the best one, for each round; each round divides the step
    basins: int = 1  # the number of scales near which the first round looks: the best, and local minima of the error
    seeds: int = 0  # the best scales of a first look at some of the values; 0: the first look is at all values
    wider: bool = False  # whether scales above the full one need not divide the range into whole steps
    by_buckets: bool = False  # whether the error is computed by prefix sums, for units of many buckets
    few: bool = False  # whether every way in which the values can be rounded is tried as well
    starts: int = 0  # the number of local minima of the ladder (or of seeds) that are refined by least squares
    refinements: int = 1  # least-squares steps from the best scale, at the end

    @property
    def octave(self) -> Floats:
        """The ratios of the ladder in one octave, (coarse,), descending to ½: the first step is below 1."""
        return power_of_two(-(1 + np.arange(self.coarse)) / self.coarse)

    @property
    def wide(self) -> Floats:
        """Ratios from 1 to 2, (coarse + 1,), ascending."""
        return power_of_two(np.arange(self.coarse + 1) / self.coarse)

    def on_whole_steps(self, steps: float) -> Floats:
        """Ratios from 1 to 2, ascending: at most as many as tell whole numbers of up to ``steps`` steps apart.

        A range of n steps becomes one of n − 1 if the scale grows by n / (n − 1); this ratio is smallest for n = steps.
        """
        enough = 1 / np.log2(steps / (steps - 1)) if steps > 1 else 1.0
        number = min(self.coarse, int(np.ceil(enough)))
        return power_of_two(np.arange(number + 1) / number)

    @property
    def around(self) -> list[Floats]:
        """The ratios of finer scales to the best so far, (2 · number,), for each round."""
        steps = 1 / self.coarse / np.cumprod([number + 1 for number in self.fine], dtype=np.float64)
        return [ratios_around(number, step) for number, step in zip(self.fine, steps.tolist(), strict=True)]


def explore(
    costs: Costs, thinned: Costs, scheme: Scheme, full: Floats, *, density: Density, slack: float = 1.0
) -> Candidates:
    """The candidates of each unit, (units, n): many near those with the smallest error, few elsewhere.

    Args:
        costs: the errors of candidates.
        thinned: the same from some of the values, for the first look; ``costs`` itself if ``density.seeds`` is 0.
        scheme: what the values are quantized to.
        full: (units,), the scale that covers the widest range that may be kept.
        density: the number of scales that are tried.
        slack: at least 1: candidates are wanted if their error is at most this times the smallest.
    """
    beside, ladder = _coarse(thinned, scheme, full, density, slack)
    found, starts = joined([beside, ladder]), _valleys(ladder)
    if density.seeds:  # so far the errors are those of some of the values: compute those of the best for all
        seeds = found.take(_best(found.error, density.seeds))
        found = judged(costs, scheme, np.concatenate([full[:, None], seeds.scale], axis=1))
        starts = found
    if density.starts:
        starts = starts.take(_best(starts.error, density.starts))
        starts = judged(costs, scheme, _refined(costs, starts))
        found = joined([found, starts])
    for number, ratios in enumerate(density.around):
        best = found.take(_best(found.error, 1))
        if number == 0 and density.basins > 1:
            best = joined([best, starts.take(_best(starts.error, density.basins)[:, 1:])])
        found = joined([found, judged(costs, scheme, times(best.scale, ratios))])
    for _ in range(density.refinements):
        best = found.take(_best(found.error, 1))
        found = joined([found, judged(costs, scheme, _refined(costs, best))])
    return found


def _best(error: Floats, number: int) -> Integers:
    """The columns of the smallest errors of each unit, (units, number), by ascending error; equal ones in their order.

    If fewer than ``number`` errors are finite, the column of the smallest is repeated.
    """
    ranked = np.argsort(error, axis=1, kind="stable")[:, :number]
    is_one = np.isfinite(np.take_along_axis(error, ranked, 1))
    return np.where(is_one, ranked, ranked[:, :1])


def _valleys(ladder: Candidates) -> Candidates:
    """The local minima of a ladder: its candidates, (units, n), with the error inf if a neighbour's is smaller."""
    error = np.pad(ladder.error, ((0, 0), (1, 1)), constant_values=np.inf)
    is_valley = (ladder.error < error[:, :-2]) & (ladder.error <= error[:, 2:])
    return ladder._replace(error=np.where(is_valley, ladder.error, np.inf))


def _refined(costs: Costs, found: Candidates) -> Floats:
    """The scales of candidates after a step of least squares, (units, n)."""
    return costs.refined(np.where(found.scale > 0, found.scale, 1.0), found.below)


def judged(costs: Costs, scheme: Scheme, scales: Floats) -> Candidates:
    """The candidates with the scales ``scales``, (units, n), rounded to their format, each with its best zero point.

    The error of an invalid candidate is inf.
    """
    scale = scales_of(scheme, scales)
    below, error = costs.least_errors(np.where(scale > 0, scale, 1.0))
    return Candidates(scale, below, np.where(valid(scheme, scale, below, costs.spans), error, np.inf))


def _coarse(
    costs: Costs, scheme: Scheme, full: Floats, density: Density, slack: float
) -> tuple[Candidates, Candidates]:
    """Scales that suit the values of a unit, and the ladder: candidates, (units, n) each.

    The ladder begins an octave above the full scale, where levels are unused. (Within bounds, scales above the full one
    are invalid.) It descends until clipping alone costs more than ``slack`` times the smallest error so far.
    """
    first = first_ratios(scheme, density)
    beside = judged(costs, scheme, _beside(costs, scheme, full, first))
    parts = [judged(costs, scheme, full[:, None] * first.full)]
    active = np.ones(full.size, bool)  # units whose ladder goes on
    best = np.minimum(beside.error.min(axis=1, initial=np.inf), parts[0].error.min(axis=1))
    ratios = density.octave
    for octave, rung in product(range(MAX_OCTAVES), range(0, ratios.size, RUNGS)):
        some = costs.select(active)
        found = judged(some, scheme, full[active, None] * ratios[rung : rung + RUNGS] * 2.0**-octave)
        parts.append(_scattered(found, active))
        best[active] = np.minimum(best[active], found.error.min(axis=1))
        active[active] = ~_is_too_small(some, scheme, found, slack * best[active])
        if not active.any():
            break
    return beside, joined(parts)


def _beside(costs: Costs, scheme: Scheme, full: Floats, first: FirstRatios) -> Floats:
    """Scales, (units, n), that divide the range or the smallest distance of two values into whole steps.

    Then the outermost value lies on a level, or all values of a lattice do, and have no error. A float format has
    scales that put the outermost value on one of its levels.
    """
    end, full = np.maximum(costs.max, -costs.min)[:, None], full[:, None]
    if scheme.is_float:
        return end / first.on_level
    on_gap = np.minimum(_on_gap(costs.gap[:, None], full), full * first.full[0])
    return np.concatenate([on_gap, _on(end, full * first.end)], axis=1)


class FirstRatios(NamedTuple):
    """The first scales that are tried, (n,) each, as ratios to the full scale or as levels."""

    full: Floats  # ratios, descending
    end: Floats  # ratios, ascending, of scales that are then changed so that the outermost value is on a level
    on_level: Floats  # levels, ascending, on which the outermost value is put: of float formats


def first_ratios(scheme: Scheme, density: Density) -> FirstRatios:
    """The full scale and the octave above it; for integers, the ratios that divide the range into whole steps."""
    nothing = np.empty(0)
    if scheme.is_float:
        levels = np.union1d(scheme.above, scheme.below)
        return FirstRatios(density.wide[::-1], nothing, levels[levels > levels[-1] / 2])
    # The steps that the full scale divides the range into, or for a symmetric scheme its positive half.
    steps = float(scheme.size - 1 if scheme.kind == "affine" else scheme.size - 1 - scheme.belows[0])
    whole = np.unique(np.maximum(np.rint(steps / density.wide), 1.0))
    nearest = np.arange(steps, max(steps - UNUSED, steps // 2), -1.0)
    ratios = steps / np.union1d(whole, nearest)
    if density.wider:
        ratios = np.union1d(ratios, density.wide)[::-1]
    return FirstRatios(ratios, density.on_whole_steps(steps) if scheme.kind == "affine" else nothing, nothing)


def _on_gap(gap: Floats, full: Floats) -> Floats:
    """Scales near the full one, (units, 4): whole multiples of the smallest distance of two values, or parts of it.

    One multiple is by a power of two, because the distances between binary floats differ by powers of two.
    """
    parts = gap / np.maximum(np.rint(gap / full) + np.arange(-1, 3), 1.0)
    times = np.maximum(np.ceil(full / gap), 1.0)
    mantissa, exponent = np.frexp(times)
    binary = np.ldexp(1.0, exponent - (mantissa == 0.5))
    return np.where(gap < full, gap * np.concatenate([times + np.arange(3), binary], axis=1), parts)


def _on(end: Floats, scales: Floats) -> Floats:
    """The nearest scales that divide the magnitude ``end`` into whole steps; unchanged if it is below half a step."""
    steps = np.rint(end / scales)
    snapped: Floats = np.where(steps > 0, end / np.maximum(steps, 1.0), scales)
    return snapped


def _is_too_small(costs: Costs, scheme: Scheme, found: Candidates, limit: Floats) -> Bools:
    """Whether smaller scales than the last candidate's lose more than ``limit``, by clipping alone: (units,).

    Two lower bounds of the cost of clipping are compared with the limit, (units,), a squared error: the error of the
    outermost values alone, and the error of the last candidate minus the largest possible error of rounding.
    """
    scale, error = found.scale[:, -1], found.error[:, -1]
    if scheme.kind == "affine":
        excess = np.maximum(costs.max - costs.min - (scheme.size - 1) * scale, 0.0)
        excess /= np.sqrt(1.0 + ((costs.min < 0) & (costs.max > 0)))  # at best half at either end: 2(e/2)²
    else:
        under, above = (ends.max() for ends in level_ends(scheme.belows, scheme))
        excess = np.maximum(np.maximum(costs.max - above * scale, -costs.min - under * scale), 0.0)
    widest = max(np.diff(scheme.above).max(initial=1.0), np.diff(scheme.below).max(initial=1.0))
    clipped = np.where(np.isfinite(error), error - costs.size * (widest * scale / 2) ** 2, 0.0)
    is_over: Bools = (np.maximum(excess**2, clipped) > limit) | (scale == 0)
    return is_over


def _scattered(found: Candidates, units: Bools) -> Candidates:
    """The candidates, (units, n), with those of a mask of units filled in; the others have the error inf."""
    shape = units.size, found.scale.shape[1]
    scale, below, error = np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, np.inf)
    scale[units], below[units], error[units] = found
    return Candidates(scale, below, error)


def ratios_around(number: int, step: float) -> Floats:
    """The ratios to a scale, (2 · number,), descending, of scales on either side, at distances of ``step`` octaves.

    >>> ratios_around(1, 1.0).tolist()
    [2.0, 0.5]
    """
    steps = np.arange(1, number + 1) * step
    return power_of_two(np.concatenate([steps[::-1], -steps]))


def times(scale: Floats, ratios: Floats) -> Floats:
    """Scales, (units, m), times each of the ratios, (n,): (units, m · n)."""
    scales: Floats = (scale[:, :, None] * ratios).reshape(len(scale), -1)
    return scales
