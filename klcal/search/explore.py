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
    starts: int = 0  # scales that are better than their neighbours, from which a step of least squares is taken
    refinements: int = 1  # such steps from the best of all

    @property
    def octave(self) -> Floats:
        """Ratios of the coarse scales of an octave, from the one above them on."""
        return power_of_two(-(1 + np.arange(self.coarse)) / self.coarse)

    @property
    def wide(self) -> Floats:
        """Ratios from 1 to 2."""
        return power_of_two(np.arange(self.coarse + 1) / self.coarse)

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
    found = _coarse(thinned, scheme, full, density, slack)
    if density.seeds:
        seeds = found.take(np.argsort(found.error, axis=1, kind="stable")[:, : density.seeds])
        found = judged(costs, scheme, np.concatenate([full[:, None], seeds.scale], axis=1))
    if density.starts:
        starts = found.take(_valleys(found, density.starts))
        found = joined([found, judged(costs, scheme, _refined(costs, starts))])
    basins = density.basins
    for ratios in density.around:
        best = found.take(_valleys(found, basins))
        found = joined([found, judged(costs, scheme, times(best.scale, ratios))])
        basins = 1
    for _ in range(density.refinements):
        best = found.take(np.argmin(found.error, axis=1)[:, None])
        found = joined([found, judged(costs, scheme, _refined(costs, best))])
    return found


def _refined(costs: Costs, found: Candidates) -> Floats:
    return costs.refined(np.where(found.scale > 0, found.scale, 1.0), found.below)


def judged(costs: Costs, scheme: Scheme, scales: Floats) -> Candidates:
    """Candidates of some scales, (units, n), as their format has them, each with its best zero point."""
    scale = scales_of(scheme, scales)
    below, error = costs.least_errors(np.where(scale > 0, scale, 1.0))
    return Candidates(scale, below, np.where(valid(scheme, scale, below, costs.spans), error, np.inf))


def _coarse(costs: Costs, scheme: Scheme, full: Floats, density: Density, slack: float) -> Candidates:
    """The full scale and those of all octaves that can win, until clipping alone costs a unit more than its best."""
    parts = [judged(costs, scheme, _first(costs, scheme, full, density))]
    active = np.ones(full.size, bool)
    best = parts[0].error.min(axis=1)
    ratios = density.octave
    for octave in range(MAX_OCTAVES):
        some = costs.select(active)
        found = judged(some, scheme, full[active, None] * ratios * 2.0**-octave)
        parts.append(_scattered(found, active))
        best[active] = np.minimum(best[active], found.error.min(axis=1))
        active[active] = ~_is_too_small(some, scheme, found, slack * best[active])
        if not active.any():
            break
    return joined(parts)


def _first(costs: Costs, scheme: Scheme, full: Floats, density: Density) -> Floats:
    """The full scale and, where no range was asked for, the octave above it, where levels go unused.

    Scales that cut the range, or the least distance of two values, into whole steps are among them, so that ends and
    lattices have no error; those of floats put the outermost value on a level.
    """
    first = first_ratios(scheme, density)
    end, full = np.maximum(costs.max, -costs.min)[:, None], full[:, None]
    if scheme.is_float:
        return np.concatenate([full * first.full, end / first.on_level], axis=1)
    scales = full * first.full
    on_gap = np.minimum(_on_gap(costs.gap[:, None], full), scales[:, -1:])
    return np.concatenate([scales, on_gap, _on(end, full * first.end)], axis=1)


class FirstRatios(NamedTuple):
    """Of the first scales."""

    full: Floats  # to the full one
    end: Floats  # of those that are moved so that the outermost value is a whole number of steps
    on_level: Floats  # levels on which the outermost value is put


def first_ratios(scheme: Scheme, density: Density) -> FirstRatios:
    """The full scale and the octave above it: of integers, those that cut the range into whole steps."""
    nothing = np.empty(0)
    if scheme.is_float:
        levels = np.union1d(scheme.above, scheme.below)
        return FirstRatios(density.wide, nothing, levels[levels > levels[-1] / 2])
    steps = float(scheme.size - 1 if scheme.kind == "affine" else scheme.size - 1 - scheme.belows[0])
    whole = np.unique(np.maximum(np.rint(steps / density.wide), 1.0))
    nearest = np.arange(steps, max(steps - UNUSED, steps // 2), -1.0)
    ratios = steps / np.union1d(whole, nearest)[::-1]
    if density.wider:
        ratios = np.union1d(ratios, density.wide)
    return FirstRatios(ratios, density.wide if scheme.kind == "affine" else nothing, nothing)


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


def _valleys(found: Candidates, number: int) -> Integers:
    """The candidates of each unit that no neighbouring scale is better than: the best of them."""
    order = np.argsort(found.scale, axis=1, kind="stable")
    error = np.pad(np.take_along_axis(found.error, order, 1), ((0, 0), (1, 1)), constant_values=np.inf)
    is_valley = (error[:, 1:-1] <= error[:, :-2]) & (error[:, 1:-1] < error[:, 2:])
    depth = np.where(is_valley, error[:, 1:-1], np.inf)
    ranked = np.argsort(depth, axis=1, kind="stable")[:, :number]
    is_one = np.isfinite(np.take_along_axis(depth, ranked, 1))  # where there are fewer, the best stands for them
    return np.take_along_axis(order, np.where(is_one, ranked, ranked[:, :1]), 1)


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
