"""The search of `kl-classic`: D(P‖Q) alone, which is not unimodal in the threshold.

So it is exhaustive, inside an exact bound: merging sub-bins never increases a divergence, so a candidate that clips
a share c of the values has D ≥ −ln(1 − c), and none with c > 1 − exp(−D of the best) can win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.law import Law
from klcal.scheme import Scheme
from klcal.search import (
    STEPS_PER_OCTAVE,
    Choice,
    Span,
    belows,
    full_choice,
    grid_scales,
    least,
    sub_bins,
    valid,
)

__all__ = ["classic_divergences", "least_classic"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_OCTAVES = 12  # deepest scale tried below the full range; the bound stops far earlier
BATCH = 16  # scales between two looks at the bound
SCALE_STEP = 8  # fine steps between the scales of the coarse affine grid: 2 %
SHIFTS = 50  # zero points of the coarse affine grid per range: 2 %
ZOOMS = 3  # best coarse affine candidates that are looked at finely


class _Judged(NamedTuple):
    """Candidates, their classic divergences in nats, and the share of the values that each clips."""

    scale: Floats
    below: Integers
    loss: Floats
    clipped: Floats


def classic_divergences(law: Law, scales: Floats, below: Integers, levels: int, sub: int) -> tuple[Floats, Floats]:
    """D(P‖Q) of the literature (Migacz, GTC 2017, S7310), in nats, on sub-bins that follow the candidate.

    P has the clipped mass folded into the outermost sub-bins, Q has not, and is normalised without it. Where
    that leaves p > 0 = q, D is +inf: the support condition. Also returns the share that is clipped.
    """
    counts = sub_bins(law, scales, below, levels, sub)
    inside = counts[:, 1:-1].reshape(scales.size, levels, sub)
    cells = inside.sum(axis=2)
    occupied = np.maximum(np.count_nonzero(inside, axis=2), 1)
    kept = np.maximum(cells.sum(axis=1), np.finfo(float).tiny)
    even = cells / occupied / kept[:, None]
    q = np.where(inside > 0, even[:, :, None], 0.0).reshape(scales.size, -1)
    p = counts[:, 1:-1] / law.size
    p[:, 0] += counts[:, 0] / law.size
    p[:, -1] += counts[:, -1] / law.size
    with np.errstate(divide="ignore"):
        terms = p * np.where(p > 0, np.log(np.where(p > 0, p, 1.0)) - np.log(q), 0.0)
    return np.maximum(terms.sum(axis=1), 0.0), (counts[:, 0] + counts[:, -1]) / law.size


def least_classic(law: Law, scheme: Scheme, span: Span, sub: int, also: list[Choice]) -> Choice:
    """The candidate of least classic divergence, among a grid of 0.25 % and those of ``also``.

    Symmetric: every scale of the grid. Affine: both ends at 2 %, then fine around the best of them.
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
        shift = max(1, scheme.levels // SHIFTS)
        judged += _exhaust(law, scheme, span, sub, best, step=SCALE_STEP, shift=shift)
        scale, below, loss, _ = _joined(judged)
        seeds = np.argsort(loss, kind="stable")[:ZOOMS]
        judged += [_zoom(law, scheme, span, sub, scale[seed], below[seed], shift) for seed in seeds]
    scale, below, loss, _ = _joined(judged)
    return least(scale, below, loss)


def _judge(law: Law, scheme: Scheme, sub: int, scale: Floats, below: Integers) -> _Judged:
    return _Judged(scale, below, *classic_divergences(law, scale, below, scheme.levels, sub))


def _joined(judged: list[_Judged]) -> _Judged:
    return _Judged(*(np.concatenate(column) for column in zip(*judged, strict=True)))


def _exhaust(
    law: Law, scheme: Scheme, span: Span, sub: int, best: float, *, step: int, shift: int
) -> Iterator[_Judged]:
    """Every ``step``-th scale of the grid and every ``shift``-th zero point, until the bound says stop."""
    full = full_choice(scheme, span).scale
    for start in range(0, MAX_OCTAVES * STEPS_PER_OCTAVE, step * BATCH):
        scales = grid_scales(full, np.arange(start, start + step * BATCH, step))
        allowed = valid(scheme, scales, span)
        rows, options = np.nonzero(allowed & (allowed.cumsum(axis=1) % shift == 1 % shift))
        judged = _judge(law, scheme, sub, scales[rows], belows(scheme)[options])
        yield judged
        best = min(best, float(judged.loss.min()))
        if judged.clipped.min() > -math.expm1(-best):
            return


def _zoom(law: Law, scheme: Scheme, span: Span, sub: int, scale: float, below: int, shift: int) -> _Judged:
    """Every fine scale and zero point around a coarse affine candidate."""
    steps = np.arange(-SCALE_STEP, SCALE_STEP + 1)
    scales = grid_scales(scale, steps)
    scales = scales[scales <= full_choice(scheme, span).scale]
    near = np.abs(belows(scheme) - below) <= shift
    rows, options = np.nonzero(valid(scheme, scales, span) & near)
    return _judge(law, scheme, sub, scales[rows], belows(scheme)[options])
