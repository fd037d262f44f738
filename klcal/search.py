"""Candidate quantizers, their losses, and the search for the least one.

A candidate is a scale and the number of levels below zero. Its cells are the nearest-value intervals of its
levels, the end cells as wide as the others; each cell is cut into equal sub-bins. Losses are sums over cells of
prefix sums (``klcal.law``), with candidates as an array axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.law import Law, Side
from klcal.scheme import Scheme

__all__ = [
    "Candidates",
    "Choice",
    "Span",
    "belows",
    "divergences",
    "explore",
    "full_choice",
    "grid_scales",
    "least",
    "least_loss",
    "squared_errors",
    "sub_bins",
    "valid",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STEPS_PER_OCTAVE = 280  # scales of the fine grid: steps of 0.25 %
COARSE_STEP = 35  # fine steps between two coarse scales: 8 per octave
FEW_LEVELS = 16  # up to so many levels, MSE is jagged, and cheap enough to be looked at more often
FEW_LEVELS_STEP = 7  # fine steps between two coarse scales then: 40 per octave
MAX_OCTAVES = 24  # deepest scale tried below the full range: beyond, even 10⁹ values clip too much
NEAR = 1.25  # coarse candidates within this ratio of the least MSE are looked at finely
MAX_LATTICE = 1024  # scales max/j tried; at 16 bits they are denser than the fine grid
MAX_DIVERGENCES = 256  # D computed beyond the first batch: 20 ms; more candidates are thinned out
EDGES_AT_ONCE = 1 << 16  # cell edges looked up together: their arrays stay in the cache
ROUNDING = 1e-12  # relative difference of two losses below which they are the same
NO_ERROR = 1e-12  # of the energy: an MSE at or below this is rounding noise of the prefix sums


class Choice(NamedTuple):
    """A quantizer: levels (k − below)·scale for k = 0 … levels − 1."""

    scale: float
    below: int


class Span(NamedTuple):
    """The widest range that a candidate may keep: low ≤ 0 ≤ high, low < high."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Candidates:
    """Quantizers and the mean squared errors of the nonzero values under them."""

    scale: Floats
    below: Integers
    mse: Floats


def full_choice(scheme: Scheme, span: Span) -> Choice:
    """The quantizer that covers the span: min-max."""
    if scheme.symmetric:
        below = scheme.levels // 2
        return Choice(max(-span.low, span.high) / below, below)
    scale = (span.high - span.low) / (scheme.levels - 1)
    return Choice(scale, round(-span.low / scale))


def belows(scheme: Scheme) -> Integers:
    """The options: how many levels may lie below zero. Half of them if symmetric, any number if affine."""
    return np.array([scheme.levels // 2]) if scheme.symmetric else np.arange(scheme.levels)


def squared_errors(law: Law, scheme: Scheme, scales: Floats) -> Floats:
    """Mean squared error per nonzero value, (candidates, options) for (candidates,) scales.

    The options are those of ``belows``. With edges e_k = (k − ½)s between the levels (k − 1)s and ks,
    Σ(x − x̂)² = Σx² − Σ_k 2s·Σ(|x| − e_k)₊, for each sign.
    """
    rows = max(1, EDGES_AT_ONCE // scheme.levels)
    parts = [_squared_errors(law, scheme, scales[i : i + rows]) for i in range(0, scales.size, rows)]
    return np.concatenate(parts)


def _squared_errors(law: Law, scheme: Scheme, scales: Floats) -> Floats:
    if scheme.symmetric:
        count = scheme.levels // 2
        above, below = (_saved(side, scales, count) for side in law.sides)
        saved = (above + below).sum(axis=1, keepdims=True)
    else:
        count = scheme.levels - 1
        above, below = (_saved(side, scales, count).cumsum(axis=1) for side in law.sides)
        none = np.zeros((scales.size, 1))
        saved = np.hstack([above[:, ::-1], none]) + np.hstack([none, below])
    mean: Floats = np.maximum(law.energy - saved, 0.0) / law.size
    return mean


def _saved(side: Side, scales: Floats, count: int) -> Floats:
    """By how much each level k = 1 … count reduces the squared error of one sign."""
    if not side.extreme:
        return np.zeros((scales.size, count))
    edges = scales[:, None] * (np.arange(count) + 0.5)
    return 2 * scales[:, None] * side.excess_beyond(edges)


def valid(scheme: Scheme, scales: Floats, span: Span) -> npt.NDArray[np.bool_]:
    """Which options keep no more than the span, but for the half step that rounding a zero point costs."""
    if scheme.symmetric:
        return np.ones((scales.size, 1), bool)
    below = belows(scheme)
    above = below[::-1]
    slack = 0.5 + 1e-9  # the full range rounds its zero point by up to ½
    return (below <= -span.low / scales[:, None] + slack) & (above <= span.high / scales[:, None] + slack)


def explore(law: Law, scheme: Scheme, span: Span, slack: float) -> Candidates:
    """The candidates whose MSE is at most ``slack`` · NEAR times the least, dense where MSE is near its minimum.

    Coarse scales first, from the full range down to where clipping alone costs more; then fine ones around the
    best of them, and those that divide the range evenly, where values on a lattice have their needles.
    """
    full = full_choice(scheme, span).scale
    steps, errors = _coarse(law, scheme, span, slack)
    ceiling = NEAR * slack * errors.min()
    near = steps[errors <= max(ceiling, NO_ERROR * law.energy / law.size)]
    fine = np.unique(near[:, None] + np.arange(-_coarse_step(scheme), _coarse_step(scheme) + 1))
    fine = fine[fine >= 0]
    scales = np.concatenate([grid_scales(full, fine), _lattice(scheme, full, fine)])
    scales = np.unique(scales)[::-1]
    mse = np.where(valid(scheme, scales, span), squared_errors(law, scheme, scales), np.inf)
    keep = mse <= max(NEAR * slack * mse.min(), NO_ERROR * law.energy / law.size)
    rows, options = np.nonzero(keep)
    return Candidates(scales[rows], belows(scheme)[options], mse[keep])


def grid_scales(full: float, steps: Integers) -> Floats:
    """Scales of the logarithmic grid, ``steps`` below the full one."""
    return full * np.exp2(-steps / STEPS_PER_OCTAVE)


def _coarse(law: Law, scheme: Scheme, span: Span, slack: float) -> tuple[Integers, Floats]:
    """Steps of the coarse scales and the least MSE of each.

    In range, the error of a value is at most s²/4; what is above that is clipping, which only grows as the
    scale falls. Where it alone exceeds the best MSE by the slack, no smaller scale can win.
    """
    full = full_choice(scheme, span).scale
    octave = np.arange(0, STEPS_PER_OCTAVE, _coarse_step(scheme))
    steps, errors = np.empty(0, np.int64), np.empty(0)
    for start in range(0, MAX_OCTAVES * STEPS_PER_OCTAVE, STEPS_PER_OCTAVE):
        scales = grid_scales(full, start + octave)
        mse = np.where(valid(scheme, scales, span), squared_errors(law, scheme, scales), np.inf).min(axis=1)
        steps, errors = np.append(steps, start + octave), np.append(errors, mse)
        if errors[-1] - scales[-1] ** 2 / 4 > slack * errors.min():
            break
    return steps, errors


def _coarse_step(scheme: Scheme) -> int:
    return FEW_LEVELS_STEP if scheme.levels <= FEW_LEVELS else COARSE_STEP


def _lattice(scheme: Scheme, full: float, steps: Integers) -> Floats:
    """Scales range/j for whole j, between the least and the greatest of some scales."""
    count = scheme.levels // 2 if scheme.symmetric else scheme.levels - 1
    greatest = math.floor(count * 2 ** (int(steps.max()) / STEPS_PER_OCTAVE))
    least = math.ceil(count * 2 ** (int(steps.min()) / STEPS_PER_OCTAVE))
    divisors = np.arange(least, greatest + 1)
    return full * count / divisors if divisors.size <= MAX_LATTICE else np.empty(0)


def least(scale: Floats, below: Integers, loss: Floats) -> Choice:
    """The candidate of least loss; ties go to the larger scale, then to more levels below zero.

    Losses that differ by rounding alone are a tie, lest a choice depend on a machine's logarithm.
    """
    tied = np.flatnonzero(loss <= loss.min() * (1 + ROUNDING))
    best = tied[np.lexsort((-below[tied], -scale[tied]))[0]]
    return Choice(float(scale[best]), int(below[best]))


def least_loss(law: Law, levels: int, sub: int, candidates: Candidates, weight: float) -> Choice:
    """The candidate of least D(P‖Q) + weight · MSE / (2 · MSE*), in nats.

    D is never negative, so candidates are taken in the order of their MSE until that alone exceeds the best
    loss: exact, and most D are never computed. Where MSE is so flat that more than ``MAX_DIVERGENCES`` could win, as
    many of them are taken at even distances; what is lost is less than D at the MSE optimum, which is the first
    that is computed. Where MSE* is 0, the MSE optimum is the answer.
    """
    scale, below, mse = candidates.scale, candidates.below, candidates.mse
    nothing = NO_ERROR * law.energy / law.size
    if sub == 1 or mse.min() <= nothing:  # where sub is 1, D is identically 0
        return least(scale, below, np.maximum(mse, nothing))
    order = np.argsort(mse, kind="stable")
    price = weight * mse / (2 * mse.min())
    loss = np.full(price.size, np.inf)
    most = max(1, EDGES_AT_ONCE // 4 // (levels * sub))
    rows = min(2, most)  # often enough
    while order.size and price[order[0]] <= loss.min():
        batch = order[:rows]
        loss[batch] = divergences(law, scale[batch], below[batch], levels, sub) + price[batch]
        order = _thinned(order[rows:], price, float(loss.min()))
        rows = min(2 * rows, most)
    return least(scale, below, loss)


def _thinned(order: Integers, price: Floats, best: float) -> Integers:
    """The candidates that can still win, some of them where there are too many; their order stays."""
    hopeful = order[: np.searchsorted(price[order], best, side="right")]
    if hopeful.size <= MAX_DIVERGENCES:
        return hopeful
    return hopeful[np.linspace(0, hopeful.size - 1, MAX_DIVERGENCES).astype(np.int64)]


def sub_bins(law: Law, scales: Floats, below: Integers, levels: int, sub: int) -> Floats:
    """Values in each sub-bin and, first and last, clipped below and above: (candidates, levels · sub + 2)."""
    positive, negative = law.sides
    edges = (np.arange(levels * sub + 1) / sub - 0.5 - below[:, None]) * scales[:, None]
    inside = np.zeros((scales.size, levels * sub + 3))
    first, last = int((below.min() + 0.5) * sub), int((below.max() + 0.5) * sub) + 1  # edges around zero
    if positive.extreme:
        inside[:, first + 1 : -1] += positive.mass_within(np.maximum(edges[:, first:], 0.0))
    if negative.extreme:
        inside[:, 1 : last + 1] -= negative.mass_within(np.maximum(-edges[:, :last], 0.0))
    inside[:, 0] = -law.negative.counts.sum()
    inside[:, -1] = law.positive.counts.sum()
    return np.maximum(np.diff(inside), 0.0)


def divergences(law: Law, scales: Floats, below: Integers, levels: int, sub: int) -> Floats:
    """D(P‖Q) of each candidate, in nats: finite, at least 0, at most ln(sub).

    P is the law of the values on the sub-bins, clipped ones in the outermost. Q spreads the mass of each cell
    evenly over its occupied sub-bins. D = Σ p·ln p − Σ S·ln(S/Z), with S the mass of a cell and Z its
    occupied sub-bins.
    """
    counts = sub_bins(law, scales, below, levels, sub)
    counts[:, 1] += counts[:, 0]
    counts[:, -2] += counts[:, -1]
    p = counts[:, 1:-1].reshape(scales.size, levels, sub) / law.size
    cells = p.sum(axis=2)
    occupied = np.count_nonzero(p, axis=2)
    divergence = _sum_p_log(p.reshape(scales.size, -1), 1.0) - _sum_p_log(cells, np.maximum(occupied, 1))
    return np.maximum(divergence, 0.0)


def _sum_p_log(p: Floats, divisor: npt.ArrayLike) -> Floats:
    """Σ p·ln(p / divisor) over the last axis, with 0·ln 0 = 0."""
    total: Floats = np.sum(p * np.log(np.where(p > 0, p, 1.0) / divisor), axis=-1)
    return total
