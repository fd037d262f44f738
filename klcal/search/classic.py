"""The search of `kl-classic`: D(P‖Q) alone, which is not unimodal in the threshold.

So it is exhaustive, inside an exact bound: Q lacks the share c of the values that are clipped, and by the log-sum
inequality (Cover & Thomas, Elements of Information Theory, 2nd ed., §2.7) D ≥ −ln(1 − c). No candidate with
c > 1 − exp(−D of the best) can win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import sub_bins
from klcal.search.one_unit import STEPS_PER_OCTAVE, Choice, Span, full_choice, grid_scales, least, rounded, valid
from klcal.sketches.distribution import Law

__all__ = ["classic_divergences", "least_classic"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_OCTAVES = 12  # deepest scale tried below the full range; the bound stops far earlier
BATCH = 16  # scales between two looks at the bound
COARSE_STEP = 16  # fine steps between two scales of the coarse affine grid: 4 %
FEW_LEVELS = 16  # up to so many, all zero points are tried at every …
FEW_LEVELS_STEP = 4  # … fourth fine step: 1 %
ZOOM_STEP = 2  # between those around the best of them: 0.5 %
SHIFTS = 25  # zero points of the coarse affine grid per range: 4 %
ZOOMS = 3  # best coarse affine candidates that are looked at finely


class _Judged(NamedTuple):
    """Candidates and their classic divergences in nats."""

    scale: Floats
    below: Integers
    loss: Floats


def classic_divergences(law: Law, scheme: Scheme, scales: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) of the literature (Migacz, GTC 2017, S7310), in nats, on sub-bins that follow the candidate.

    P has the clipped mass folded into the outermost sub-bins, Q has not; each level of Q is spread evenly over the
    occupied sub-bins of its cell. Where that leaves p > 0 = q, D is +inf: the support condition. Q keeps the total
    1 − c, as in ncnn and Caffe2: normalised, D would lose −ln(1 − c), and fall to 0 once all but one sub-bin is
    clipped.
    """
    counts = sub_bins(law, scheme, scales, below, sub)
    inside = counts[:, 1:-1].reshape(scales.size, scheme.size, sub)
    occupied = np.maximum(np.count_nonzero(inside, axis=2), 1)
    even = inside.sum(axis=2) / occupied
    q = np.where(inside > 0, even[:, :, None], 0.0).reshape(scales.size, -1)
    p = counts[:, 1:-1]
    p[:, 0] += counts[:, 0]
    p[:, -1] += counts[:, -1]
    with np.errstate(divide="ignore"):
        terms = p * np.where(p > 0, np.log(np.where(p > 0, p, 1.0)) - np.log(q), 0.0)
    nats: Floats = np.maximum(terms.sum(axis=1) / law.size, 0.0)
    return nats


def least_classic(law: Law, scheme: Scheme, span: Span, sub: int, also: list[Choice]) -> Choice:
    """The candidate of least classic divergence, among a grid and those of ``also``.

    Symmetric: every scale of the grid, as D is jagged. Affine: both ends at 4 % (1 % up to 4 bits), then finely around
    the best of them; D has minima between those, so that a dense search may find some percent less.
    """
    full = full_choice(scheme, span)
    if sub == 1:
        return full  # nothing within a cell is seen, so only clipping costs
    scale, below = (np.array(column) for column in zip(full, *also, strict=True))
    judged = [_judge(law, scheme, sub, scale, below)]
    best = float(judged[0].loss.min())
    if scheme.symmetric:
        judged += _exhaust(law, scheme, span, sub, best, step=1, shift=1)
    else:
        shift = max(1, scheme.size // SHIFTS)
        step = FEW_LEVELS_STEP if scheme.size <= FEW_LEVELS else COARSE_STEP
        judged += _exhaust(law, scheme, span, sub, best, step=step, shift=shift)
        scale, below, loss = _joined(judged)
        seeds = np.argsort(loss, kind="stable")[:ZOOMS]
        judged += [_zoom(law, scheme, span, sub, scale[seed], below[seed], shift) for seed in seeds]
    return least(*_joined(judged), full.scale)


def _judge(law: Law, scheme: Scheme, sub: int, scale: Floats, below: Integers) -> _Judged:
    if not scale.size:
        return _Judged(scale, below, scale)
    return _Judged(scale, below, classic_divergences(law, scheme, scale, below, sub))


def _joined(judged: list[_Judged]) -> _Judged:
    return _Judged(*(np.concatenate(column) for column in zip(*judged, strict=True)))


def _exhaust(
    law: Law, scheme: Scheme, span: Span, sub: int, best: float, *, step: int, shift: int
) -> Iterator[_Judged]:
    """Every ``step``-th scale of the grid and every ``shift``-th zero point, until the bound says stop."""
    full = full_choice(scheme, span).scale
    for start in range(0, MAX_OCTAVES * STEPS_PER_OCTAVE, step * BATCH):
        scales = rounded(scheme, grid_scales(full, np.arange(start, start + step * BATCH, step)), full)[::-1]
        allowed = valid(scheme, scales, span)
        rows, options = np.nonzero(allowed & (allowed.cumsum(axis=1) % shift == 1 % shift))
        if not rows.size:  # their ends are beyond float32
            continue
        scale, below = scales[rows], scheme.belows[options]
        hopeful = _clipped(law, scheme, scale, below) <= -math.expm1(-best)
        if not hopeful.any():
            return
        yield (judged := _judge(law, scheme, sub, scale[hopeful], below[hopeful]))
        best = min(best, float(judged.loss.min()))


def _clipped(law: Law, scheme: Scheme, scales: Floats, below: Integers) -> Floats:
    """The share of the values that each candidate clips."""
    share: Floats = sub_bins(law, scheme, scales, below, 1)[:, [0, -1]].sum(axis=1) / law.size
    return share


def _zoom(law: Law, scheme: Scheme, span: Span, sub: int, scale: float, below: int, shift: int) -> _Judged:
    """Fine scales and every other zero point around a coarse affine candidate."""
    full = full_choice(scheme, span).scale
    scales = grid_scales(scale, np.arange(-COARSE_STEP, COARSE_STEP + 1, ZOOM_STEP))
    scales = rounded(scheme, scales[scales <= max(full, scale)], full)[::-1]
    distance = np.abs(scheme.belows - below)
    near = (distance <= shift) & ((distance % 2 == 0) | (distance == 1))
    rows, options = np.nonzero(valid(scheme, scales, span) & near)
    return _judge(law, scheme, sub, scales[rows], scheme.belows[options])
