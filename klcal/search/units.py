"""The one search: which quantizer of a scheme loses least, for many units at once.

A unit is looked at value by value where it has few pieces, else by prefix sums; which of them, and how closely, is its
own affair. So no unit depends on those beside it, or on how many are searched together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.points import BLOCK
from klcal.kernels.sums import log
from klcal.quantizers.scheme import Kind, Scheme
from klcal.search.bucket_costs import BucketCosts
from klcal.search.choices import NO_ERROR, ROUNDING, Candidates, Choices, Spans, full_choices, joined, least, valid
from klcal.search.compiled import compiled_search
from klcal.search.density import How, density_of, hows
from klcal.search.divergences import divergences
from klcal.search.explore import explore, judged, ratios_around, times
from klcal.search.few_values import MAX_MIDDLES, best_of_few
from klcal.search.point_costs import PointCosts
from klcal.search.structures import Loss, wanted_of
from klcal.sketches.distribution import Distribution

__all__ = ["NARROWER", "VALUES_PER_BIN", "least_loss", "loss_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

VALUES_PER_BIN = 4  # on average, from which D says more of the values than of their number
FEW_AT_ONCE = 16  # units of few values searched together: of 2,000 candidates each
DIVERGENCES = {How.MIDDLES: (2, 5)}  # computed for a unit: of candidates of small error, of scales between these
MORE_DIVERGENCES = 8, 32  # where one takes less
NEAR, NEAR_STEP = 3, 1 / 140  # further ones on either side of the best, in steps of 0.5 %
BEYOND = (
    0.05  # steps by which many equal values at the end may pass a level: they share its cell with fewer others then
)
POINT_ROUNDING = 2.0**-20  # relative difference of two errors, sums of float32, below which they are the same
NARROWER: dict[str, Kind] = {
    "symmetric-full": "symmetric",
    "symmetric-signed": "symmetric-full",
    "affine": "symmetric-full",
}
"""Kinds of which each level is one of the wider kind's: what they choose is a candidate there."""


def least_loss(distribution: Distribution, scheme: Scheme, spans: Spans, sub: int, weight: float) -> Choices:
    """The candidate of least D(P‖Q) + weight · MSE / (2 · MSE*) of each unit; of least MSE where sub is 1.

    MSE* is the least of any candidate. Where it is 0, or a unit has too few values for D to decide, the answer is the
    MSE optimum. Where values have weights, what is chosen without these is a candidate too.
    """
    full = full_choices(scheme, spans)
    narrow = None
    if scheme.kind in NARROWER:
        narrow = least_loss(distribution, replace(scheme, kind=NARROWER[scheme.kind]), spans, 1, 1.0).scale
    plain = None
    if distribution.unweighted is not None:
        plain = least_loss(distribution.unweighted, scheme, spans, sub, weight)
    found = Choices(np.empty(distribution.units), np.empty(distribution.units, np.int64))
    how = hows(distribution, scheme)
    wanted = wanted_of(spans, full, narrow, plain, found) if library() is not None else None
    for kind in np.unique(how).tolist():
        units, loss = np.flatnonzero(how == kind), loss_of(scheme, kind, sub, weight)
        if wanted is not None:
            compiled_search(distribution, units, scheme, density_of(scheme, kind), loss, wanted)
            continue
        for some in _blocks(distribution, units, kind):
            within, widest = spans.select(some), full.select(some)
            before = None if narrow is None else narrow[some], None if plain is None else plain.select(some)
            chosen = _searched(distribution.select(some), scheme, within, widest, kind, loss, *before)
            found.scale[some], found.below[some] = chosen
    return found


def loss_of(scheme: Scheme, how: int, sub: int, weight: float) -> Loss:
    """What is minimised for units that are searched so."""
    evenly, between = DIVERGENCES.get(How(how), MORE_DIVERGENCES)
    thoroughly = how not in DIVERGENCES
    return Loss(
        sub=sub,
        weight=weight,
        enough=VALUES_PER_BIN * scheme.size * sub,
        slack=1.0 if How.ROUNDINGS < how < How.MEDIUM else float(1 + 2 * log(sub) / weight),  # D does not decide there
        same=POINT_ROUNDING if How.MINI <= how <= How.MIDDLES else ROUNDING,
        evenly=evenly,
        between=between,
        thoroughly=thoroughly,
        near=tuple(ratios_around(NEAR if thoroughly else 1, NEAR_STEP).tolist()),
    )


def _blocks(distribution: Distribution, units: Integers, how: int) -> Iterator[Integers]:
    """Units that are searched together: of like numbers of pieces, as many as the kernels want at once."""
    pieces = distribution.pieces[units]
    order = np.argsort(pieces, kind="stable")
    first = 0
    while first < order.size:
        most = _most_together(how, pieces[order[first:]])
        yield units[order[first : first + most]]
        first += most


def _most_together(how: int, pieces: Integers) -> int:
    """How many of some units, of a kind and by rising number of pieces, fit into a block of the kernels."""
    if how == How.BUCKETS:
        return 1
    if how == How.ROUNDINGS:
        return min(pieces.size, FEW_AT_ONCE)
    fits = np.arange(1, pieces.size + 1) * pieces <= BLOCK
    return max(1, int(np.argmin(fits)) if not fits.all() else pieces.size)


def _searched(
    distribution: Distribution,
    scheme: Scheme,
    spans: Spans,
    full: Choices,
    how: int,
    loss: Loss,
    narrow: Floats | None,
    plain: Choices | None,
) -> Choices:
    """Some units that are searched alike, in NumPy."""
    costs = _costs(distribution, scheme, spans, how)
    found = _candidates(distribution, costs, full.scale, how, loss)
    if narrow is not None:
        found = joined([found, _of_fixed_zero(costs, narrow)])
    if plain is not None:
        found = joined([found, _of_choices(costs, plain)])
    return _best(distribution, costs, found, full, loss)


def _costs(distribution: Distribution, scheme: Scheme, spans: Spans, how: int) -> PointCosts | BucketCosts:
    if how == How.BUCKETS:
        return BucketCosts.of(distribution, scheme, spans)
    return PointCosts.of(distribution, scheme, spans, few=how == How.ROUNDINGS)


def _candidates(
    distribution: Distribution, costs: PointCosts | BucketCosts, full: Floats, how: int, loss: Loss
) -> Candidates:
    density = density_of(costs.scheme, how)
    few = []
    if density.few and isinstance(costs, PointCosts):
        few.append(best_of_few(costs, costs.scheme, full, loss.slack))
        if costs.scheme.size <= 2 * MAX_MIDDLES:
            return few[0]
    thinned: PointCosts | BucketCosts = costs
    if density.seeds:
        thinned = PointCosts.of_some(distribution, costs.scheme, costs.spans)
    return joined([explore(costs, thinned, costs.scheme, full, density=density, slack=loss.slack), *few])


def _of_choices(costs: PointCosts | BucketCosts, choices: Choices) -> Candidates:
    """One candidate of each unit; with the best of the zero points, where there are not many."""
    scale, below = choices.scale[:, None], choices.below[:, None]
    if costs.scheme.kind != "affine":
        return judged(costs, costs.scheme, scale)
    return _as_they_are(costs, scale, below)


def _of_fixed_zero(costs: PointCosts | BucketCosts, scale: Floats) -> Candidates:
    """Candidates of some scales, one for each unit, with the zero point of the symmetric kinds."""
    scales = scale[:, None]
    return _as_they_are(costs, scales, np.full(scales.shape, costs.scheme.size // 2))


def _as_they_are(costs: PointCosts | BucketCosts, scale: Floats, below: Integers) -> Candidates:
    """Candidates whose scales and zero points are known: (units, n)."""
    error = costs.errors(np.where(scale > 0, scale, 1.0), below)
    return Candidates(scale, below, np.where(valid(costs.scheme, scale, below, costs.spans), error, np.inf))


def _best(
    distribution: Distribution, costs: PointCosts | BucketCosts, found: Candidates, full: Choices, loss: Loss
) -> Choices:
    """The candidate of least loss of each unit."""
    nothing = NO_ERROR * distribution.energy
    error = np.maximum(found.error, nothing[:, None])
    best = least(error, found, full.scale, loss.same)
    unknown = ~np.isfinite(error.min(axis=1))  # the values are so far beyond the range that all errors are one
    best = Choices(np.where(unknown, full.scale, best.scale), np.where(unknown, full.below, best.below))
    decides = ~unknown & (error.min(axis=1) > nothing) & (distribution.number >= loss.enough) & (loss.sub > 1)
    if not decides.any():
        return best
    units = np.flatnonzero(decides)
    some, costs = distribution.select(units), costs.select(decides)
    chosen = _least_divergent(some, costs, found.select(units), best.select(units), loss)
    scale, below = best.scale.copy(), best.below.copy()
    scale[units], below[units] = chosen
    return Choices(scale, below)


def _least_divergent(
    distribution: Distribution, costs: PointCosts | BucketCosts, found: Candidates, best: Choices, loss: Loss
) -> Choices:
    """The candidate of least D + weight · MSE / (2 · MSE*): of some whose MSE alone does not exceed what that has.

    They are spread evenly over those that can win, and over the scales between; and then stand around the best of them.
    """
    scheme, sub = costs.scheme, loss.sub
    price = loss.weight / (2 * found.error.min(axis=1))[:, None]
    start = Candidates(best.scale[:, None], best.below[:, None], found.error.min(axis=1)[:, None])
    first = divergences(distribution, scheme, start.scale, start.below, sub)
    hopeful = price * found.error <= price * start.error + first
    between = judged(costs, scheme, _between(found, hopeful, loss.between))
    some = joined([start, found.take(_evenly(found, hopeful, loss.evenly)), between])
    losses = _losses(distribution, scheme, some, sub, price)
    nearest = some.take(np.argmin(losses, axis=1)[:, None])
    near = judged(costs, scheme, _near(costs, nearest.scale, loss))
    losses = np.concatenate([losses, _losses(distribution, scheme, near, sub, price)], axis=1)
    return least(losses, joined([some, near]), best.scale)


def _losses(distribution: Distribution, scheme: Scheme, some: Candidates, sub: int, price: Floats) -> Floats:
    """D + the price of the error; infinite where the error is."""
    known = np.where(some.scale > 0, some.scale, 1.0)
    losses: Floats = price * some.error + divergences(distribution, scheme, known, some.below, sub)
    return losses


def _evenly(found: Candidates, hopeful: npt.NDArray[np.bool_], number: int) -> Integers:
    """Some of each unit's candidates that can win, evenly by the rank of their error."""
    order = np.argsort(np.where(hopeful, found.error, np.inf), axis=1, kind="stable")
    last = np.maximum(np.count_nonzero(hopeful, axis=1) - 1, 0)
    places = (np.linspace(0, 1, number) * last[:, None]).astype(np.int64)
    return np.take_along_axis(order, places, axis=1)


def _between(found: Candidates, hopeful: npt.NDArray[np.bool_], number: int) -> Floats:
    """Scales at even distances between the smallest and the largest that can win."""
    low = np.where(hopeful, found.scale, np.inf).min(axis=1, keepdims=True)
    high = np.where(hopeful, found.scale, 0.0).max(axis=1, keepdims=True)
    scales: Floats = low + (high - low) * (np.arange(number) / (number - 1))
    return scales


def _near(costs: PointCosts | BucketCosts, scale: Floats, loss: Loss) -> Floats:
    """Further scales on either side of one of each unit, (units, 1), and those next to it that divide the range."""
    near = times(scale, np.array(loss.near))
    if not loss.thoroughly:
        return near
    end = np.maximum(costs.max, -costs.min)[:, None]
    steps = np.maximum(np.rint(end / scale) + np.arange(-NEAR, NEAR + 1), 1.0)
    return np.concatenate([near, end / steps, end / (steps - BEYOND)], axis=1)
