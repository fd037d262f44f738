"""The search of `kl-classic`, which minimises D(P‖Q) alone.

This D has many local minima as a function of the threshold, so the search is exhaustive within an exact bound. Q lacks
the share c of the values that are clipped, so D ≥ −ln(1 − c) by the log-sum inequality (Cover & Thomas, Elements of
Information Theory, 2nd ed., §2.7). A candidate whose bound exceeds the smallest D so far cannot win, and is left out.
``source/classic.h`` does the same in C, with a sharper bound. Both leave out only candidates that cannot win, so their
results are the same to the bit.
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
FEW_LEVELS = 16  # affine schemes with up to 16 levels have a finer grid, with every zero point
FEW_LEVELS_STEP = 4  # fine steps between two scales of this grid: 1 %
ZOOM_STEP = 2  # fine steps between two scales near the best candidates of the grid: 0.5 %
SHIFTS = 25  # zero points of the coarse affine grid: each moves the range by 4 % of its width
ZOOMS = 3  # the best candidates of an affine grid, near which finer ones are tried


class _Judged(NamedTuple):
    """Candidates of one unit and their classic divergences in nats: (candidates,) each."""

    scale: Floats
    below: Integers
    loss: Floats


def classic_divergences(sums: PrefixSums, scheme: Scheme, scales: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) as in the literature (Migacz, GTC 2017, S7310), in nats, on the sub-bins of each candidate.

    Clipped values are counted in the outermost sub-bins of P, and left out of Q. Q spreads the values of each cell
    evenly over its occupied sub-bins. If a sub-bin then has p > 0 and q = 0, D is +inf (the support condition). Q is
    not normalised: its total is 1 − c, as in ncnn and Caffe2. A normalised Q would lower D by −ln(1 − c), so that D
    would fall to 0 if all values but those of one sub-bin were clipped.

    For N values, with c of them in a sub-bin of P, and with C kept values and Z occupied sub-bins in its cell,
    N·D = Σ c·ln c − Σ c·ln(C/Z).

    Args:
        sums: the prefix sums of one unit.
        scheme: what it is quantized to.
        scales: (candidates,), positive.
        below: (candidates,), the number of levels below zero.
        sub: the number of sub-bins in each cell.

    Returns:
        (candidates,), float64, at least 0.
    """
    counts = sub_bins(sums, scheme, scales, below, sub)
    under, mass, over = counts[:, 0], counts[:, 1:-1], counts[:, -1]
    parts = mass.reshape(scales.size, scheme.size, sub)
    kept = cell_sums(parts)  # (candidates, cells), without clipped values
    occupied = np.maximum(np.count_nonzero(parts, axis=2), 1)
    lacks_support = ((under > 0) & (mass[:, 0] == 0)) | ((over > 0) & (mass[:, -1] == 0))
    log_q = log(np.where(kept > 0, kept, 1.0)) - log(occupied)
    cells = kept.copy()
    for end, clipped in ((0, under), (-1, over)):  # ``mass`` becomes P; log_q keeps the cells of Q
        mass[:, end] += clipped
        cells[:, end] += clipped
    total = last_axis_sum(mass * log(np.where(mass > 0, mass, 1.0)))
    nats = np.maximum((total - last_axis_sum(cells * log_q)) / sums.size, 0.0)
    return np.where(lacks_support, np.inf, nats)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Unit:
    """The unit that is searched, and the settings of its search."""

    sums: PrefixSums
    scheme: Scheme
    spans: Spans  # of this unit, (1,); no candidate is wider
    full: float  # the scale that covers the span
    sub: int  # the number of sub-bins in each cell


def least_classic(
    distribution: Distribution, scheme: Scheme, spans: Spans, sub: int, also: Sequence[Choices]
) -> Choices:
    """The candidate with the smallest classic divergence of each unit, (units,), of a grid and of ``also``.

    A symmetric scheme has every scale of the grid as a candidate, in steps of 0.25 %, because D is jagged. An affine
    scheme has both ends in steps of 4 % (1 % up to 4 bits), and finer ones near the best of these. D has minima between
    them, so a dense search may find a D that is a few percent smaller.

    Args:
        distribution: of the units.
        scheme: what they are quantized to.
        spans: (units,), the widest range that a candidate may keep.
        sub: the number of sub-bins in each cell. With 1 there is no loss within a cell, so the whole range is kept.
        also: further candidates, (units,) each.

    Raises:
        MemoryError: the compiled kernel found no room.
    """
    full = full_choices(scheme, spans)
    if sub == 1:
        return full  # D counts clipping alone
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
    """The scales and zero points that are tried for a scheme: fine for a symmetric one, coarse at first for affine."""
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
    """2^(−steps / STEPS_PER_OCTAVE): the ratios, the ratio of each scale of the grid to its first one."""
    octaves, rest = np.divmod(-steps, STEPS_PER_OCTAVE)
    return np.ldexp(power_of_two(rest / STEPS_PER_OCTAVE), octaves)


def _least_of_unit(unit: _Unit, also: Sequence[Choices]) -> Choices:
    """The candidate with the smallest divergence of one unit, (1,): of the grid and of ``also``.

    The first of ``also`` has the scale that covers the range, which decides among equal divergences (``least``).
    """
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
    """The candidates, (candidates,), with their divergences; there may be none."""
    if not scale.size:
        return _Judged(scale, below, scale)
    return _Judged(scale, below, classic_divergences(unit.sums, unit.scheme, scale, below, unit.sub))


def _joined(judged: list[_Judged]) -> _Judged:
    """All candidates of several lists, behind one another."""
    return _Judged(*(np.concatenate(column) for column in zip(*judged, strict=True)))


def _exhaust(unit: _Unit, best: float, grid: ClassicGrid) -> Iterator[_Judged]:
    """The candidates of the grid by descending scale, in batches, until the bound excludes a whole batch.

    Smaller scales clip more. If no candidate of a batch can win, no later one can.

    Args:
        unit: the unit that is searched.
        best: the smallest D so far, in nats.
        grid: the scales and zero points that are tried.
    """
    for start in range(0, grid.ratios.size, BATCH):
        scales = _rounded(unit, unit.full * grid.ratios[start : start + BATCH])[::-1]
        allowed = _allowed(unit, scales)
        # Every shift-th of the allowed zero points, from the first on.
        every_shift = allowed.cumsum(axis=1) % grid.shift == 1 % grid.shift
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
    """Whether each number of levels below zero (``scheme.belows``) is valid with each scale: (scales, options)."""
    shape = scales.size, unit.scheme.belows.size
    scale, below = np.repeat(scales, shape[1]), np.tile(unit.scheme.belows, shape[0])
    return valid(unit.scheme, scale[None], below[None], unit.spans).reshape(shape)


def _is_hopeful(unit: _Unit, scales: Floats, below: Integers, best: float) -> npt.NDArray[np.bool_]:
    """Whether each candidate, (candidates,), can still win: D ≥ −ln(share of the values that it keeps).

    Args:
        unit: the unit that is searched.
        scales: (candidates,), positive.
        below: (candidates,), the number of levels below zero.
        best: the smallest D so far, in nats.
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
    """Finer candidates near a coarse affine one: scales, and every second zero point (and the two next to it)."""
    scales = scale * grid.around
    scales = _rounded(unit, scales[scales <= max(unit.full, scale)])[::-1]
    distance = np.abs(unit.scheme.belows - below)
    near = (distance <= grid.shift) & ((distance % 2 == 0) | (distance == 1))
    rows, options = np.nonzero(_allowed(unit, scales) & near)
    return _judge(unit, scales[rows], unit.scheme.belows[options])


def _rounded(unit: _Unit, scales: Floats) -> Floats:
    """The scales of the format next to given ones, (n,): ascending, distinct, more or fewer than n.

    None is above both the full scale and the largest given one.
    """
    scale_format, shared = unit.scheme.scale_format, unit.scheme.global_scale
    if scale_format == "float32":  # much finer than the grid: the choice alone is rounded
        return np.unique(scales)
    near = [rounding(scales, scale_format, shared) for rounding in (at_most, at_least, nearest_scale)]
    found = np.unique(np.concatenate(near))
    least = LEAST[scale_format] * shared
    kept: Floats = found[(found >= least) & (found <= max(unit.full, scales.max(initial=0.0)))]
    return kept
