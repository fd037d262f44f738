"""The search of `kl-classic`: D(P‖Q) alone, which is not unimodal in the threshold.

So it is exhaustive, inside an exact bound. Q lacks the share c of the values that are clipped, and by the log-sum
inequality (Cover & Thomas, Elements of Information Theory, 2nd ed., §2.7) D ≥ −ln(1 − c). No candidate can win whose
bound exceeds the D of the best. ``source/classic.h`` does the same in C, with a sharper bound: to the bit, because both
leave out only what cannot win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.sums import last_axis_sum, log, power_of_two
from klcal.quantizers.scale_formats import LEAST, at_least, at_most, nearest_scale
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import cell_sums, relative_edges, sub_bins
from klcal.search.choices import Candidates, Choices, Spans, full_choices, least, valid
from klcal.search.compiled import compiled_classic
from klcal.search.structures import ClassicGrid
from klcal.sketches.distribution import Distribution
from klcal.sketches.prefix_sums import PrefixSums

__all__ = ["classic_divergences", "least_classic"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

STEPS_PER_OCTAVE = 280  # scales of the grid: steps of 0.25 %
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


def classic_divergences(sums: PrefixSums, scheme: Scheme, scales: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) of the literature (Migacz, GTC 2017, S7310), in nats, on sub-bins that follow the candidate.

    The clipped mass is folded into the outermost sub-bins of P and left out of Q. Each level of Q is spread evenly over
    the occupied sub-bins of its cell. Where that leaves p > 0 = q, D is +inf: the support condition. Q keeps the total
    1 − c, as in ncnn and Caffe2: normalised, D would lose −ln(1 − c), and fall to 0 once all but one sub-bin is
    clipped.

    Args:
        sums: of one unit.
        scheme: what it is quantized to.
        scales: (candidates,), above 0.
        below: (candidates,), levels below zero.
        sub: into how many sub-bins each cell is cut.

    Returns:
        (candidates,), at least 0.
    """
    counts = sub_bins(sums, scheme, scales, below, sub)
    under, mass, over = counts[:, 0], counts[:, 1:-1], counts[:, -1]
    parts = mass.reshape(scales.size, scheme.size, sub)
    kept = cell_sums(parts)
    occupied = np.maximum(np.count_nonzero(parts, axis=2), 1)
    lacks_support = ((under > 0) & (mass[:, 0] == 0)) | ((over > 0) & (mass[:, -1] == 0))
    log_q = log(np.where(kept > 0, kept, 1.0)) - log(occupied)
    cells = kept.copy()
    for end, clipped in ((0, under), (-1, over)):
        mass[:, end] += clipped
        cells[:, end] += clipped
    total = last_axis_sum(mass * log(np.where(mass > 0, mass, 1.0)))
    nats = np.maximum((total - last_axis_sum(cells * log_q)) / sums.size, 0.0)
    return np.where(lacks_support, np.inf, nats)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Unit:
    """What is searched: one unit."""

    sums: PrefixSums
    scheme: Scheme
    spans: Spans  # of one unit; no candidate is wider
    full: float  # the scale that covers it
    sub: int


def least_classic(
    distribution: Distribution, scheme: Scheme, spans: Spans, sub: int, also: Sequence[Choices]
) -> Choices:
    """The candidate of least classic divergence of each unit, among a grid and those of ``also``.

    Symmetric: every scale of the grid, as D is jagged. Affine: both ends at 4 % (1 % up to 4 bits), then finely around
    the best of them; D has minima between those, so that a dense search may find some percent less.

    Args:
        distribution: of the units.
        scheme: what they are quantized to.
        spans: (units,): the widest ranges that may be kept.
        sub: into how many sub-bins each cell is cut.
        also: further candidates, each for all units.

    Raises:
        MemoryError: there was no room in the compiled kernel.
    """
    full = full_choices(scheme, spans)
    if sub == 1:
        return full  # nothing within a cell is seen, so only clipping costs
    if library() is not None:
        return compiled_classic(distribution, scheme, classic_grid(scheme), sub, spans, full, also)
    found = []
    for number in range(distribution.units):
        own = slice(number, number + 1)
        bounded = spans.select(own)._replace(bounded=np.ones(1, bool))
        scale = float(full.scale[number])
        unit = _Unit(sums=distribution.prefix_sums(number), scheme=scheme, spans=bounded, full=scale, sub=sub)
        found.append(_least_of_unit(unit, [choices.select(own) for choices in (full, *also)]))
    return Choices(*(np.concatenate(column) for column in zip(*found, strict=True)))


@cache
def classic_grid(scheme: Scheme) -> ClassicGrid:
    """Which scales and zero points are looked at: of a symmetric scheme closely, of an affine one coarsely at first."""
    step = 1
    if not scheme.symmetric:
        step = FEW_LEVELS_STEP if scheme.size <= FEW_LEVELS else COARSE_STEP
    batches = -(-MAX_OCTAVES * STEPS_PER_OCTAVE // (step * BATCH))
    return ClassicGrid(
        ratios=_ratios(np.arange(batches * BATCH) * step),
        around=_ratios(np.arange(-COARSE_STEP, COARSE_STEP + 1, ZOOM_STEP)),
        shift=1 if scheme.symmetric else max(1, scheme.size // SHIFTS),
    )


def _ratios(steps: Integers) -> Floats:
    """Those of the scales of the logarithmic grid, some ``steps`` down, to the one where it begins."""
    octaves, rest = np.divmod(-steps, STEPS_PER_OCTAVE)
    return np.ldexp(power_of_two(rest / STEPS_PER_OCTAVE), octaves)


def _least_of_unit(unit: _Unit, also: Sequence[Choices]) -> Choices:
    """The candidate of least divergence of one unit, of the grid and some others, the full one first."""
    grid = classic_grid(unit.scheme)
    scale, below = (np.concatenate(column) for column in zip(*also, strict=True))
    judged = [_judge(unit, scale, below)]
    judged += _exhaust(unit, float(judged[0].loss.min()), grid)
    if not unit.scheme.symmetric:
        scale, below, loss = _joined(judged)
        seeds = np.argsort(loss, kind="stable")[:ZOOMS]
        judged += [_zoom(unit, scale[seed], below[seed], grid) for seed in seeds]
    every = _joined(judged)
    loss = every.loss[None]
    return least(loss, Candidates(every.scale[None], every.below[None], loss), also[0].scale)


def _judge(unit: _Unit, scale: Floats, below: Integers) -> _Judged:
    if not scale.size:
        return _Judged(scale, below, scale)
    return _Judged(scale, below, classic_divergences(unit.sums, unit.scheme, scale, below, unit.sub))


def _joined(judged: list[_Judged]) -> _Judged:
    return _Judged(*(np.concatenate(column) for column in zip(*judged, strict=True)))


def _exhaust(unit: _Unit, best: float, grid: ClassicGrid) -> Iterator[_Judged]:
    """The scales of the grid, descending, and every so many zero points, until the bound says stop.

    Smaller scales clip more, so that once no candidate of a batch can win, none behind it can.

    Args:
        unit: what is searched.
        best: the least D so far, in nats.
        grid: which scales and zero points are looked at.
    """
    for start in range(0, grid.ratios.size, BATCH):
        scales = _rounded(unit, unit.full * grid.ratios[start : start + BATCH])[::-1]
        allowed = _allowed(unit, scales)
        every_shift = allowed.cumsum(axis=1) % grid.shift == 1 % grid.shift  # of those allowed, from the first on
        rows, options = np.nonzero(allowed & every_shift)
        if not rows.size:  # their ends are beyond float32
            continue
        scale, below = scales[rows], unit.scheme.belows[options]
        hopeful = _is_hopeful(unit, scale, below, best)
        if not hopeful.any():
            return
        judged = _judge(unit, scale[hopeful], below[hopeful])
        yield judged
        best = min(best, float(judged.loss.min()))


def _allowed(unit: _Unit, scales: Floats) -> npt.NDArray[np.bool_]:
    """Which options may be chosen with which scales: (scales, options)."""
    shape = scales.size, unit.scheme.belows.size
    scale, below = np.repeat(scales, shape[1]), np.tile(unit.scheme.belows, shape[0])
    return valid(unit.scheme, scale[None], below[None], unit.spans).reshape(shape)


def _is_hopeful(unit: _Unit, scales: Floats, below: Integers, best: float) -> npt.NDArray[np.bool_]:
    """Whether what each candidate keeps leaves a chance against a divergence in nats: D ≥ −ln of its share.

    Args:
        unit: what is searched.
        scales: (candidates,).
        below: (candidates,).
        best: the least D so far.
    """
    positive, negative = unit.sums.sides
    relative, zeros = relative_edges(unit.scheme, below, 1)
    low, high = ((relative[end] - zeros) * scales for end in (0, -1))
    kept = positive.mass_within(np.maximum(high, 0.0)) + negative.mass_within(np.maximum(-low, 0.0))
    share = kept / unit.sums.size
    bound = np.where(share > 0, -log(np.where(share > 0, share, 1.0)), np.inf)
    is_hopeful: npt.NDArray[np.bool_] = bound <= best
    return is_hopeful


def _zoom(unit: _Unit, scale: float, below: int, grid: ClassicGrid) -> _Judged:
    """Fine scales and every other zero point around a coarse affine candidate."""
    scales = scale * grid.around
    scales = _rounded(unit, scales[scales <= max(unit.full, scale)])[::-1]
    distance = np.abs(unit.scheme.belows - below)
    near = (distance <= grid.shift) & ((distance % 2 == 0) | (distance == 1))
    rows, options = np.nonzero(_allowed(unit, scales) & near)
    return _judge(unit, scales[rows], unit.scheme.belows[options])


def _rounded(unit: _Unit, scales: Floats) -> Floats:
    """The scales of the format next to some scales, (n,), ascending: none above all of them and the full one."""
    scale_format, shared = unit.scheme.scale_format, unit.scheme.global_scale
    if scale_format == "float32":  # which is finer than the steps between them: rounded once, at the end
        return np.unique(scales)
    near = [rounding(scales, scale_format, shared) for rounding in (at_most, at_least, nearest_scale)]
    found = np.unique(np.concatenate(near))
    least = LEAST[scale_format] * shared
    kept: Floats = found[(found >= least) & (found <= max(unit.full, scales.max(initial=0.0)))]
    return kept
