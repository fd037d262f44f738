"""Which scales are candidates: coarse ones over all octaves that can win, then fine ones around the best.

All of it is done for many units at once, and no unit depends on those beside it.
"""

from __future__ import annotations

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

UNUSED = 16  # levels that may go unused at each number of which the range is looked at in whole steps
MAX_OCTAVES = 24  # deepest scale tried below the full range: beyond, even 10⁹ values clip too much


class Costs(Protocol):
    """What candidates cost some units: Σ(x − x̂)²."""

    @property
    def spans(self) -> Spans:
        """The widest ranges that may be kept."""

    @property
    def min(self) -> Floats:
        """(units,): the least value, 0 if none is negative."""

    @property
    def max(self) -> Floats:
        """(units,): the greatest value, 0 if none is positive."""

    @property
    def size(self) -> Floats:
        """(units,): how many values there are."""

    @property
    def gap(self) -> Floats:
        """(units,): the least distance of two values, or of one from 0."""

    def select(self, units: Bools, /) -> Costs:
        """Some of the units."""

    def least_errors(self, scale: Floats, /) -> tuple[Integers, Floats]:
        """The best number of levels below zero for each scale, (units, candidates), and its error."""

    def errors(self, scale: Floats, below: Integers, /) -> Floats:
        """The error of each candidate: (units, candidates)."""

    def refined(self, scale: Floats, below: Integers, /) -> Floats:
        """Better scales for some candidates, or the same."""


class Density(NamedTuple):
    """How closely scales are looked at."""

    coarse: int  # scales an octave
    fine: tuple[int, ...]  # on either side of the best, up to the next: once, and then more closely again
    basins: int = 1  # scales better than their neighbours around which it is looked finely at first
    seeds: int = 0  # best scales of a first look at some of the values; 0 where it is at all of them
    wider: bool = False  # scales above the full one that do not cut the range into whole steps
    by_buckets: bool = False  # units of many buckets are looked at by prefix sums
    few: bool = False  # all ways in which a few values can be rounded are tried, too
    starts: int = 0  # scales that neither neighbour is better than, from which a step of least squares is taken
    refinements: int = 1  # such steps from the best of all

    @property
    def octave(self) -> Floats:
        """Ratios of the coarse scales of an octave, from the one above them on."""
        return power_of_two(-(1 + np.arange(self.coarse)) / self.coarse)

    @property
    def wide(self) -> Floats:
        """Ratios from 1 to 2."""
        return power_of_two(np.arange(self.coarse + 1) / self.coarse)

    def on_whole_steps(self, steps: float) -> Floats:
        """Ratios from 1 to 2, no more than cut a range of at most so many steps into each whole number of them."""
        enough = 1 / np.log2(steps / (steps - 1)) if steps > 1 else 1.0
        number = min(self.coarse, int(np.ceil(enough)))
        return power_of_two(np.arange(number + 1) / number)

    @property
    def around(self) -> list[Floats]:
        """Ratios of fine scales to the best so far, of each closer look."""
        steps = 1 / self.coarse / np.cumprod([number + 1 for number in self.fine], dtype=np.float64)
        return [ratios_around(number, step) for number, step in zip(self.fine, steps.tolist(), strict=True)]


def explore(
    costs: Costs, thinned: Costs, scheme: Scheme, full: Floats, *, density: Density, slack: float = 1.0
) -> Candidates:
    """Candidates of each unit, dense where the error is least.

    Args:
        costs: of the units.
        thinned: the same of some of their values, for a first look; or of all.
        scheme: what they are quantized to.
        full: (units,): the scale that covers the widest range that may be kept.
        density: how closely to look.
        slack: candidates are wanted whose error is up to so many times the least.
    """
    beside, ladder = _coarse(thinned, scheme, full, density, slack)
    found, starts = joined([beside, ladder]), _valleys(ladder)
    if density.seeds:
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
    """The places of the smallest errors of each unit, (units, number), the smallest first, and the first of equal ones.

    Where fewer errors are finite, the smallest stands for the others.
    """
    ranked = np.argsort(error, axis=1, kind="stable")[:, :number]
    is_one = np.isfinite(np.take_along_axis(error, ranked, 1))
    return np.where(is_one, ranked, ranked[:, :1])


def _valleys(ladder: Candidates) -> Candidates:
    """The candidates of a ladder; where a neighbour has a smaller error, the error is infinite."""
    error = np.pad(ladder.error, ((0, 0), (1, 1)), constant_values=np.inf)
    is_valley = (ladder.error < error[:, :-2]) & (ladder.error <= error[:, 2:])
    return ladder._replace(error=np.where(is_valley, ladder.error, np.inf))


def _refined(costs: Costs, found: Candidates) -> Floats:
    return costs.refined(np.where(found.scale > 0, found.scale, 1.0), found.below)


def judged(costs: Costs, scheme: Scheme, scales: Floats) -> Candidates:
    """Candidates of some scales, (units, n), as their format has them, each with its best zero point."""
    scale = scales_of(scheme, scales)
    below, error = costs.least_errors(np.where(scale > 0, scale, 1.0))
    return Candidates(scale, below, np.where(valid(scheme, scale, below, costs.spans), error, np.inf))


def _coarse(
    costs: Costs, scheme: Scheme, full: Floats, density: Density, slack: float
) -> tuple[Candidates, Candidates]:
    """Scales that suit the values of a unit, and a ladder of scales.

    The ladder descends until clipping alone costs more than the best candidate. It begins at the full scale or, if no
    range was asked for, an octave above it, where levels go unused.
    """
    first = first_ratios(scheme, density)
    beside = judged(costs, scheme, _beside(costs, scheme, full, first))
    parts = [judged(costs, scheme, full[:, None] * first.full)]
    active = np.ones(full.size, bool)
    best = np.minimum(beside.error.min(axis=1, initial=np.inf), parts[0].error.min(axis=1))
    ratios = density.octave
    for octave in range(MAX_OCTAVES):
        some = costs.select(active)
        found = judged(some, scheme, full[active, None] * ratios * 2.0**-octave)
        parts.append(_scattered(found, active))
        best[active] = np.minimum(best[active], found.error.min(axis=1))
        active[active] = ~_is_too_small(some, scheme, found, slack * best[active])
        if not active.any():
            break
    return beside, joined(parts)


def _beside(costs: Costs, scheme: Scheme, full: Floats, first: FirstRatios) -> Floats:
    """Scales that cut the range, or the smallest distance of two values, into whole steps.

    So ends and lattices have no error. Those of float formats put the outermost value on a level.
    """
    end, full = np.maximum(costs.max, -costs.min)[:, None], full[:, None]
    if scheme.is_float:
        return end / first.on_level
    on_gap = np.minimum(_on_gap(costs.gap[:, None], full), full * first.full[0])
    return np.concatenate([on_gap, _on(end, full * first.end)], axis=1)


class FirstRatios(NamedTuple):
    """Of the first scales."""

    full: Floats  # to the full one, descending
    end: Floats  # of those that are moved so that the outermost value is a whole number of steps
    on_level: Floats  # levels on which the outermost value is put


def first_ratios(scheme: Scheme, density: Density) -> FirstRatios:
    """The full scale and the octave above it: of integers, those that cut the range into whole steps."""
    nothing = np.empty(0)
    if scheme.is_float:
        levels = np.union1d(scheme.above, scheme.below)
        return FirstRatios(density.wide[::-1], nothing, levels[levels > levels[-1] / 2])
    steps = float(scheme.size - 1 if scheme.kind == "affine" else scheme.size - 1 - scheme.belows[0])
    whole = np.unique(np.maximum(np.rint(steps / density.wide), 1.0))
    nearest = np.arange(steps, max(steps - UNUSED, steps // 2), -1.0)
    ratios = steps / np.union1d(whole, nearest)
    if density.wider:
        ratios = np.union1d(ratios, density.wide)[::-1]
    return FirstRatios(ratios, density.on_whole_steps(steps) if scheme.kind == "affine" else nothing, nothing)


def _on_gap(gap: Floats, full: Floats) -> Floats:
    """Scales about the full one that cut the least distance of two values, or are whole numbers of it: (units, 4).

    One of these is a power of two, as the steps of binary floats are of each other.
    """
    parts = gap / np.maximum(np.rint(gap / full) + np.arange(-1, 3), 1.0)
    times = np.maximum(np.ceil(full / gap), 1.0)
    mantissa, exponent = np.frexp(times)
    binary = np.ldexp(1.0, exponent - (mantissa == 0.5))
    return np.where(gap < full, gap * np.concatenate([times + np.arange(3), binary], axis=1), parts)


def _on(end: Floats, scales: Floats) -> Floats:
    """The scales next to some that cut a magnitude into whole steps; themselves where it is less than a step."""
    steps = np.rint(end / scales)
    snapped: Floats = np.where(steps > 0, end / np.maximum(steps, 1.0), scales)
    return snapped


def _is_too_small(costs: Costs, scheme: Scheme, found: Candidates, limit: Floats) -> Bools:
    """Whether scales below the last ones must clip so much that a unit loses more than a limit.

    Either its outermost values alone do, or what its error is now less what rounding can have added to it.
    """
    scale, error = found.scale[:, -1], found.error[:, -1]
    if scheme.kind == "affine":
        excess = np.maximum(costs.max - costs.min - (scheme.size - 1) * scale, 0.0)
        excess /= np.sqrt(1.0 + ((costs.min < 0) & (costs.max > 0)))  # at best, half of it at either end
    else:
        under, above = (ends.max() for ends in level_ends(scheme.belows, scheme))
        excess = np.maximum(np.maximum(costs.max - above * scale, -costs.min - under * scale), 0.0)
    widest = max(np.diff(scheme.above).max(initial=1.0), np.diff(scheme.below).max(initial=1.0))
    clipped = np.where(np.isfinite(error), error - costs.size * (widest * scale / 2) ** 2, 0.0)
    is_over: Bools = (np.maximum(excess**2, clipped) > limit) | (scale == 0)
    return is_over


def _scattered(found: Candidates, units: Bools) -> Candidates:
    """The candidates of some units among all of them; the others have none."""
    shape = units.size, found.scale.shape[1]
    scale, below, error = np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, np.inf)
    scale[units], below[units], error[units] = found
    return Candidates(scale, below, error)


def ratios_around(number: int, step: float) -> Floats:
    """Of so many scales on either side of one, a part of an octave apart."""
    steps = np.arange(1, number + 1) * step
    return power_of_two(np.concatenate([steps[::-1], -steps]))


def times(scale: Floats, ratios: Floats) -> Floats:
    """All ratios of some scales of each unit: (units, n)."""
    scales: Floats = (scale[:, :, None] * ratios).reshape(len(scale), -1)
    return scales
