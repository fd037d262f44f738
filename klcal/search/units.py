"""The search of `kl` and `mse`: the quantizer of smallest loss, for many units at once.

The loss is D(P‖Q) + weight · MSE / (2 · MSE*), or the MSE alone. A unit with few pieces is searched value by value, one
with many pieces by prefix sums (``klcal.search.density.How``). This depends on the unit alone, so its result does not
depend on other units, or on the number of units that are searched together.

The search has three steps. ``explore`` computes the squared error of many candidates. Of those whose error is small
enough to win, a few are chosen, and D is computed for them. Further candidates are then tried near the best of these.
The compiled kernel does the same, to the bit (``source/search.h``); this module is its NumPy twin.
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

VALUES_PER_BIN = 4  # nonzero values per sub-bin, on average, from which D is used: fewer say too little
FEW_AT_ONCE = 16  # units of How.ROUNDINGS that are searched together: each has about 2,000 candidates
# The number of candidates for which D is computed: (spread evenly by the rank of their error, at scales between them).
DIVERGENCES = {How.MIDDLES: (0, 3)}
MORE_DIVERGENCES = 8, 30  # for all other ways to search, where a divergence takes less time
NEAR, NEAR_STEP = 3, 1 / 140  # scales tried on either side of the best, and their distance in octaves: 0.5 %
# Steps by which a level may lie beyond the outermost values. If many of these are equal, fewer others then share their
# cell, because its inner edge is nearer to them.
BEYOND = 0.05
POINT_ROUNDING = 2.0**-20  # relative difference up to which two errors count as equal, if they are sums of float32
NARROWER: dict[str, Kind] = {
    "symmetric-full": "symmetric",
    "symmetric-signed": "symmetric-full",
    "affine": "symmetric-full",
}
"""A narrower kind for each kind. The wider one has all its levels, so the choice of one is a candidate of the other."""


def least_loss(distribution: Distribution, scheme: Scheme, spans: Spans, sub: int, weight: float) -> Choices:
    """The candidate with the smallest loss D(P‖Q) + weight · MSE / (2 · MSE*) of each unit.

    MSE* is the smallest MSE of all candidates. The MSE alone decides where MSE* is 0, where ``sub`` is 1, and for units
    with too few values: see ``klcal.search.chosen.least_values``. If values have weights, the choice without weights is
    a candidate too.

    Args:
        distribution: of units that have nonzero values.
        scheme: what they are quantized to.
        spans: (units,), the widest range that a candidate may keep.
        sub: the number of sub-bins in each cell, for D.
        weight: of the MSE, above 0; without effect where the MSE alone decides.

    Returns:
        Scales (float64) and numbers of levels below zero (int64), (units,) each.

    Raises:
        MemoryError: the compiled kernel found no room.
    """
    full = full_choices(scheme, spans)
    narrow = None
    if scheme.kind in NARROWER:  # its MSE optimum is a candidate, so MSE* is never larger
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
    """The loss for units that are searched in one way, and the candidates for which D is computed.

    ``slack`` follows from 0 ≤ D ≤ ln(sub): a candidate with an MSE above MSE* · (1 + 2 · ln(sub) / weight) loses more
    than the one with MSE*, even if its D is 0.

    Args:
        scheme: what they are quantized to.
        how: a member of ``How``.
        sub: the number of sub-bins in each cell.
        weight: of the MSE.
    """
    evenly, between = DIVERGENCES.get(How(how), MORE_DIVERGENCES)
    thoroughly = how not in DIVERGENCES
    return Loss(
        sub=sub,
        weight=weight,
        enough=VALUES_PER_BIN * scheme.size * sub,
        # From MINI to SHORT units rarely have enough values for D, so only the smallest error counts.
        slack=1.0 if How.ROUNDINGS < how < How.MEDIUM else float(1 + 2 * log(sub) / weight),
        same=POINT_ROUNDING if How.MINI <= how <= How.MIDDLES else ROUNDING,
        evenly=evenly,
        between=between,
        thoroughly=thoroughly,
        near=tuple(ratios_around(NEAR if thoroughly else 1, NEAR_STEP).tolist()),
    )


def _blocks(distribution: Distribution, units: Integers, how: int) -> Iterator[Integers]:
    """Blocks of units that NumPy searches together: numbers of units, (n,), with similar numbers of pieces.

    Within a block all units are padded to the largest number of pieces, so similar ones waste least.
    """
    pieces = distribution.pieces[units]
    order = np.argsort(pieces, kind="stable")
    first = 0
    while first < order.size:
        most = _most_together(how, pieces[order[first:]])
        yield units[order[first : first + most]]
        first += most


def _most_together(how: int, pieces: Integers) -> int:
    """The number of units in the next block: at least 1.

    ``pieces``, (units,), ascending, has the numbers of pieces of the units that are left; all are searched by ``how``.
    """
    if how == How.BUCKETS:
        return 1  # each has prefix sums of its own
    if how == How.ROUNDINGS:
        return min(pieces.size, FEW_AT_ONCE)
    fits = np.arange(1, pieces.size + 1) * pieces <= BLOCK  # the padded block up to each unit, in values
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
    """The choices, (units,) each, for units that are searched in the same way, by NumPy.

    Args:
        distribution: of these units.
        scheme: what they are quantized to.
        spans: (units,), the widest range that a candidate may keep.
        full: (units,), the quantizers that cover the spans.
        how: the way to search, a member of ``How``.
        loss: what is minimised.
        narrow: further candidates: (units,), the scales that the narrower kind chose; or None.
        plain: further candidates: (units,), the choices without weights; or None.
    """
    costs = _costs(distribution, scheme, spans, how)
    found = _candidates(distribution, costs, full.scale, how, loss)
    if narrow is not None:
        found = joined([found, _of_scales(costs, narrow)])
    if plain is not None:
        found = joined([found, _of_choices(costs, plain)])
    return _best(distribution, costs, found, full, loss)


def _costs(distribution: Distribution, scheme: Scheme, spans: Spans, how: int) -> PointCosts | BucketCosts:
    """The squared errors of candidates, by prefix sums for How.BUCKETS, else value by value."""
    if how == How.BUCKETS:
        return BucketCosts.of(distribution, scheme, spans)
    return PointCosts.of(distribution, scheme, spans, few=how == How.ROUNDINGS)


def _candidates(
    distribution: Distribution, costs: PointCosts | BucketCosts, full: Floats, how: int, loss: Loss
) -> Candidates:
    """All candidates of each unit for which the error is computed, (units, n); ``full``, (units,), are scales."""
    density = density_of(costs.scheme, how)
    few = []
    if density.few and isinstance(costs, PointCosts):
        few.append(best_of_few(costs, costs.scheme, full, loss.slack))
        if costs.scheme.size <= 2 * MAX_MIDDLES:  # every middle is looked at: no more are needed
            return few[0]
    thinned: PointCosts | BucketCosts = costs
    if density.seeds:
        thinned = PointCosts.of_some(distribution, costs.scheme, costs.spans)
    return joined([explore(costs, thinned, costs.scheme, full, density=density, slack=loss.slack), *few])


def _of_choices(costs: PointCosts | BucketCosts, choices: Choices) -> Candidates:
    """Choices, (units,) each, as candidates, (units, 1). The zero point is searched again, but not for affine ones."""
    scale, below = choices.scale[:, None], choices.below[:, None]
    if costs.scheme.kind != "affine":
        return judged(costs, costs.scheme, scale)
    return _as_they_are(costs, scale, below)


def _of_scales(costs: PointCosts | BucketCosts, scale: Floats) -> Candidates:
    """Candidates, (units, 1), with the scales ``scale``, (units,), of a narrower kind: affine ones with its zero point.

    A signed scheme may have its further level on the other side: there it may fit better than in the narrower kind.
    """
    scales = scale[:, None]
    if costs.scheme.kind != "affine":
        return judged(costs, costs.scheme, scales)
    return _as_they_are(costs, scales, np.full(scales.shape, costs.scheme.size // 2))


def _as_they_are(costs: PointCosts | BucketCosts, scale: Floats, below: Integers) -> Candidates:
    """Candidates, (units, n), with given scales and numbers of levels below zero; the error of invalid ones is inf."""
    error = costs.errors(np.where(scale > 0, scale, 1.0), below)
    return Candidates(scale, below, np.where(valid(costs.scheme, scale, below, costs.spans), error, np.inf))


def _best(
    distribution: Distribution, costs: PointCosts | BucketCosts, found: Candidates, full: Choices, loss: Loss
) -> Choices:
    """The candidate with the smallest loss of each unit, (units,).

    The MSE optimum is found first, and kept where D does not decide: where the smallest error is rounding noise, where
    the unit has too few values, and where ``loss.sub`` is 1. Where no error is finite, ``full`` is chosen.
    """
    nothing = NO_ERROR * distribution.energy  # (units,): errors up to this are noise, and count as equal
    error = np.maximum(found.error, nothing[:, None])
    best = least(error, found, full.scale, loss.same)
    unknown = ~np.isfinite(error.min(axis=1))  # values lie so far beyond the range that every error overflows
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
    """The candidate with the smallest D + weight · MSE / (2 · MSE*) of each unit, (units,).

    A candidate can win only if the second term alone, without its D ≥ 0, is at most the loss of the MSE optimum. D is
    computed for some that can: they are spread evenly by the rank of their error, and over the scales between the
    smallest and the largest of them. Then it is computed for scales near the best of these.
    The smallest error of each unit must be positive and finite. ``best`` has the MSE optima.
    """
    scheme, sub = costs.scheme, loss.sub
    price = loss.weight / (2 * found.error.min(axis=1))[:, None]  # nats per squared error
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
    """D + price · Σ(x − x̂)² of each candidate, (units, n), in nats: inf for invalid candidates.

    ``price`` is (units, 1): weight / (2 · MSE*), for one squared error.
    """
    known = np.where(some.scale > 0, some.scale, 1.0)  # 0 is no scale, and the error of such a candidate is inf
    losses: Floats = price * some.error + divergences(distribution, scheme, known, some.below, sub)
    return losses


def _evenly(found: Candidates, hopeful: npt.NDArray[np.bool_], number: int) -> Integers:
    """The columns, (units, number), of candidates that can win, spread evenly by the rank of their error.

    ``hopeful``, (units, n), says which can win. The smallest and the largest error of these are always included.
    """
    order = np.argsort(np.where(hopeful, found.error, np.inf), axis=1, kind="stable")
    last = np.maximum(np.count_nonzero(hopeful, axis=1) - 1, 0)
    places = (np.linspace(0, 1, number) * last[:, None]).astype(np.int64)
    return np.take_along_axis(order, places, axis=1)


def _between(found: Candidates, hopeful: npt.NDArray[np.bool_], number: int) -> Floats:
    """Scales, (units, number), at equal distances between the smallest and the largest that can win."""
    low = np.where(hopeful, found.scale, np.inf).min(axis=1, keepdims=True)
    high = np.where(hopeful, found.scale, 0.0).max(axis=1, keepdims=True)
    scales: Floats = low + (high - low) * (np.arange(1, number + 1) / (number + 1))
    return scales


def _near(costs: PointCosts | BucketCosts, scale: Floats, loss: Loss) -> Floats:
    """Scales, (units, n), near ``scale``, (units, 1).

    If ``loss.thoroughly``, those are among them that divide the larger end of the range into whole steps. There a
    level lies on the outermost value, or ``BEYOND`` steps beyond it.
    """
    near = times(scale, np.array(loss.near))
    if not loss.thoroughly:
        return near
    end = np.maximum(costs.max, -costs.min)[:, None]  # the largest magnitude
    steps = np.maximum(np.rint(end / scale) + np.arange(-NEAR, NEAR + 1), 1.0)
    return np.concatenate([near, end / steps, end / (steps - BEYOND)], axis=1)
