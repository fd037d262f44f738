"""Which quantizers are candidates, and which of them costs least.

A candidate is a scale and the number of levels below zero; what it costs is told by ``klcal.search.candidate_costs``.
Scales are those that the scheme's scale format has, so that what is judged is what will run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scale_formats import FLOAT32_MAX, LEAST, at_least, at_most, nearest_scale
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import EDGES_AT_ONCE, divergences, squared_errors
from klcal.sketches.distribution import Law

__all__ = [
    "Candidates",
    "Choice",
    "Span",
    "explore",
    "full_choice",
    "grid_scales",
    "least",
    "least_loss",
    "rounded",
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
MAX_UNUSED = 64  # levels that such a scale may leave unused
MAX_DIVERGENCES = 256  # D computed beyond the first batch: 20 ms; more candidates are thinned out
ROUNDING = 1e-12  # relative difference of two losses below which they are the same
NO_ERROR = 1e-12  # of the energy: an MSE at or below this is rounding noise of the prefix sums


class Choice(NamedTuple):
    """A quantizer: the levels of a scheme times a scale, ``below`` of them below zero."""

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
    full: float  # the scale of the quantizer that covers the span


def full_choice(scheme: Scheme, span: Span) -> Choice:
    """The quantizer that covers the span: min-max. Its scale is the least of its format that does."""
    if scheme.symmetric:
        options = [(max(span.high / above[-1], -span.low / below[-1]), below.size) for above, below in _ends(scheme)]
        scale, count = min(options, key=lambda option: option[0])  # the first of equal ones
        return Choice(_covering(scheme, float(scale)), count)
    scale = _covering(scheme, (span.high - span.low) / (scheme.size - 1))
    return Choice(scale, min(round(-span.low / scale), scheme.size - 1))  # where the greatest scale is too small


def _ends(scheme: Scheme) -> list[tuple[Floats, Floats]]:
    """The levels of both sides under each option of a symmetric scheme."""
    return [scheme.sides(below) for below in scheme.belows.tolist()]


def _covering(scheme: Scheme, scale: float) -> float:
    """The scale rounded up, where its format is coarser than rounding a zero point or a float32 can matter."""
    return scale if scheme.scale_format == "float32" else float(at_least(scale, scheme.scale_format))


def rounded(scheme: Scheme, scales: Floats, full: float) -> Floats:
    """The scales of the format next to some scales, ascending: none above all of them and the full one."""
    if scheme.scale_format == "float32":  # which is finer than the steps between them: rounded once, at the end
        return np.unique(scales)
    near = [rounding(scales, scheme.scale_format) for rounding in (at_most, at_least, nearest_scale)]
    found = np.unique(np.concatenate(near))
    kept: Floats = found[(found >= LEAST[scheme.scale_format]) & (found <= max(full, scales.max(initial=0.0)))]
    return kept


def valid(scheme: Scheme, scales: Floats, span: Span) -> npt.NDArray[np.bool_]:
    """Which options keep no more than the span, but for the half step that rounding a zero point costs.

    Where the scale is too large for that, those that begin where the span does. And none of which an end is beyond
    float32: its scale would be made smaller when it is deployed, and the values clipped.
    """
    if scheme.symmetric:
        return np.ones((scales.size, scheme.belows.size), bool)
    below = scheme.belows
    above = below[::-1]
    slack = 0.5 + 1e-9  # the full range rounds its zero point by up to ½
    low, high = -span.low / scales[:, None], span.high / scales[:, None]
    within = (below <= low + slack) & (above <= high + slack)
    covering = (np.abs(below - low) <= slack) & (above >= high - slack)
    finite = np.maximum(below, above) * scales[:, None] <= FLOAT32_MAX
    return (within | covering) & finite


def explore(law: Law, scheme: Scheme, span: Span, slack: float) -> Candidates:
    """The candidates whose MSE is at most ``slack`` · NEAR times the least, dense where MSE is near its minimum.

    Coarse scales first, from the full range down to where clipping alone costs more; then fine ones around the
    best of them, and those that divide the range evenly, where values on a lattice have their needles: also if the
    lattice is coarser than the levels, so that some of them go unused.
    """
    full = full_choice(scheme, span).scale
    steps, errors = _coarse(law, scheme, span, slack)
    ceiling = NEAR * slack * errors.min()
    near = steps[errors <= max(ceiling, NO_ERROR * law.energy / law.size)]
    fine = np.unique(near[:, None] + np.arange(-_coarse_step(scheme), _coarse_step(scheme) + 1))
    fine = fine[fine >= 0]
    scales = np.concatenate([grid_scales(full, fine), _lattice(scheme, full, fine)])
    occupied = law.positive.inner.size + law.negative.inner.size
    if span == (law.low, law.high):  # no narrower range was asked for
        if occupied <= 2 * scheme.size:  # a lattice
            scales = np.append(scales, _wider_lattice(scheme, full))
        if scheme.is_float:  # a larger scale costs floats no precision, and may fit the greatest values better
            scales = np.append(scales, grid_scales(full, -np.arange(1, STEPS_PER_OCTAVE + 1)))
    scales = rounded(scheme, scales, full)[::-1]
    mse = np.where(valid(scheme, scales, span), squared_errors(law, scheme, scales), np.inf)
    keep = mse <= max(NEAR * slack * mse.min(), NO_ERROR * law.energy / law.size)
    rows, options = np.nonzero(keep)
    return Candidates(scales[rows], scheme.belows[options], mse[keep], full)


def grid_scales(full: float, steps: Integers) -> Floats:
    """Scales of the logarithmic grid, ``steps`` below the full one."""
    return full * np.exp2(-steps / STEPS_PER_OCTAVE)


def _coarse(law: Law, scheme: Scheme, span: Span, slack: float) -> tuple[Integers, Floats]:
    """Steps of the coarse scales and the least MSE of each.

    In range, the error of a value is at most half the widest gap between levels, squared; what is above that is
    clipping, which only grows as the scale falls. Where it alone exceeds the best MSE by the slack, no smaller scale
    can win.
    """
    full = full_choice(scheme, span).scale
    widest = max(np.diff(scheme.above).max(initial=1.0), np.diff(scheme.below).max(initial=1.0))
    octave = np.arange(0, STEPS_PER_OCTAVE, _coarse_step(scheme))
    steps, errors = np.empty(0, np.int64), np.empty(0)
    for start in range(0, MAX_OCTAVES * STEPS_PER_OCTAVE, STEPS_PER_OCTAVE):
        scales = grid_scales(full, start + octave)
        mse = np.where(valid(scheme, scales, span), squared_errors(law, scheme, scales), np.inf).min(axis=1)
        steps, errors = np.append(steps, start + octave), np.append(errors, mse)
        if errors[-1] - (widest * scales[-1] / 2) ** 2 > slack * errors.min():
            break
    return steps, errors


def _coarse_step(scheme: Scheme) -> int:
    return FEW_LEVELS_STEP if scheme.size <= FEW_LEVELS else COARSE_STEP


def _lattice(scheme: Scheme, full: float, steps: Integers) -> Floats:
    """Scales range/j for whole j, between the least and the greatest of some scales, where levels are even."""
    if scheme.is_float:
        return np.empty(0)
    found = [np.empty(0)]
    for count in _counts(scheme):
        greatest = math.floor(count * 2 ** (int(steps.max()) / STEPS_PER_OCTAVE))
        least = math.ceil(count * 2 ** (int(steps.min()) / STEPS_PER_OCTAVE))
        if greatest - least < MAX_LATTICE:
            found.append(full * count / np.arange(least, greatest + 1))
    return np.concatenate(found)


def _counts(scheme: Scheme) -> set[int]:
    """How many steps of the full scale there may be from where its range is measured, zero or an end, to an end."""
    return {scheme.zero, scheme.size - 1 - scheme.zero} if scheme.symmetric else {scheme.size - 1}


def _wider_lattice(scheme: Scheme, full: float) -> Floats:
    """Scales range/j for fewer steps than there are: 0 … 200 in 8 bits is represented exactly by the scale 1."""
    if scheme.is_float or scheme.size > MAX_LATTICE:
        return np.empty(0)
    wider = [full * count / np.arange(max(1, count - MAX_UNUSED), count) for count in _counts(scheme)]
    return np.concatenate(wider)


def least(scale: Floats, below: Integers, loss: Floats, full: float) -> Choice:
    """The candidate of least loss; ties go to the larger scale up to the full one, then to more levels below zero.

    Losses that differ by rounding alone are a tie, lest a choice depend on a machine's logarithm.
    """
    tied = np.flatnonzero(loss <= loss.min() * (1 + ROUNDING))
    wider = scale[tied] > full * (1 + ROUNDING)
    best = tied[np.lexsort((-below[tied], -scale[tied], wider))[0]]
    return Choice(float(scale[best]), int(below[best]))


def least_loss(law: Law, scheme: Scheme, sub: int, candidates: Candidates, weight: float) -> Choice:
    """The candidate of least D(P‖Q) + weight · MSE / (2 · MSE*), in nats.

    D is never negative, so candidates are taken in the order of their MSE until that alone exceeds the best
    loss: exact, and most D are never computed. Where MSE is so flat that more than ``MAX_DIVERGENCES`` could win, as
    many of them are taken at even distances; what is lost is less than D at the MSE optimum, which is the first
    that is computed. Where MSE* is 0, the MSE optimum is the answer.
    """
    scale, below, mse = candidates.scale, candidates.below, candidates.mse
    nothing = NO_ERROR * law.energy / law.size
    if sub == 1 or mse.min() <= nothing:  # where sub is 1, D is identically 0
        return least(scale, below, np.maximum(mse, nothing), candidates.full)
    order = np.argsort(mse, kind="stable")
    price = weight * mse / (2 * mse.min())
    loss = np.full(price.size, np.inf)
    most = max(1, EDGES_AT_ONCE // 4 // (scheme.size * sub))
    rows = min(2, most)  # often enough
    while order.size and price[order[0]] <= loss.min():
        batch = order[:rows]
        loss[batch] = divergences(law, scheme, scale[batch], below[batch], sub) + price[batch]
        order = _thinned(order[rows:], price, float(loss.min()))
        rows = min(2 * rows, most)
    return least(scale, below, loss, candidates.full)


def _thinned(order: Integers, price: Floats, best: float) -> Integers:
    """The candidates that can still win, some of them where there are too many; their order stays."""
    hopeful = order[: np.searchsorted(price[order], best, side="right")]
    if hopeful.size <= MAX_DIVERGENCES:
        return hopeful
    return hopeful[np.linspace(0, hopeful.size - 1, MAX_DIVERGENCES).astype(np.int64)]
