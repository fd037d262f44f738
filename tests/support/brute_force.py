"""A dense search over every scale and zero point, with NumPy: no search may be worse by more than design allows.

Candidates are steps of 0.25 % of the scale, from an octave above the one that just covers the data down to four
octaves below, each with every number of levels below zero that the scheme has. Scales are float32, as deployed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tests.support import slow

Floats = npt.NDArray[np.float64]

STEP = 1.0025  # between two scales
OCTAVES_ABOVE, OCTAVES_BELOW = 1, 4  # of the full scale
AT_ONCE = 1 << 18  # numbers of a block: they stay in the cache
NUDGE = 1e-6  # relative: values so near to the edge of a sub-bin may lie on either side of it


class Unit(NamedTuple):
    """Some nonzero values: distinct and ascending, and how often each of them occurs."""

    values: Floats
    counts: Floats

    @staticmethod
    def of(values: npt.ArrayLike) -> Unit:
        flat = np.asarray(values, np.float64).ravel()
        distinct, counts = np.unique(flat[flat != 0], return_counts=True)
        return Unit(distinct, counts.astype(np.float64))

    @property
    def size(self) -> int:
        return int(self.counts.sum())

    @property
    def energy(self) -> float:
        return float((self.counts * self.values**2).sum())


class Levels(NamedTuple):
    """What a scheme has: ``size`` levels, of which ``belows`` may lie below zero; or the values of a float format."""

    size: int
    belows: npt.NDArray[np.int64]
    floats: Floats | None

    @staticmethod
    def of(dtype: str, kind: str = "symmetric") -> Levels:
        if dtype in slow.FLOATS:
            floats = np.array(slow.FLOATS[dtype])
            return Levels(floats.size, np.flatnonzero(floats == 0), floats)
        size, belows = slow.shape_of(dtype, kind)
        return Levels(size, np.array(belows), None)

    def listed(self, below: int) -> Floats:
        """The levels themselves, ascending."""
        return np.arange(self.size) - float(below) if self.floats is None else self.floats


class Candidates(NamedTuple):
    """Scales (scales,), numbers of levels below zero (options,), mean squared errors (scales, options)."""

    scales: Floats
    belows: npt.NDArray[np.int64]
    errors: Floats

    @property
    def least(self) -> float:
        return float(self.errors.min())


# --- scales


def full_scale(unit: Unit, levels: Levels) -> float:
    """The least scale with which nothing is clipped, over all options."""
    low, high = max(0.0, -unit.values[0]), max(0.0, unit.values[-1])
    if levels.floats is None:
        under, above = levels.belows.astype(np.float64), levels.size - 1.0 - levels.belows
    else:
        under, above = -levels.floats[:1], levels.floats[-1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.fmax(low / under, high / above)  # 0 / 0 is NaN: nothing to cover
    return float(scales.min())


def grid(unit: Unit, levels: Levels, above: float = OCTAVES_ABOVE, below: float = OCTAVES_BELOW) -> Floats:
    """The scales of the search, ascending float32 numbers above zero: the full one among them."""
    octave = np.log(2) / np.log(STEP)
    steps = np.arange(-np.floor(below * octave), np.ceil(above * octave) + 1)
    scales = (full_scale(unit, levels) * STEP**steps).astype(np.float32)
    return np.unique(scales[(scales > 0) & np.isfinite(scales)]).astype(np.float64)


# --- squared errors


def search(unit: Unit, levels: Levels, scales: Floats | None = None) -> Candidates:
    """The mean squared error, per nonzero value, of every candidate."""
    scales = grid(unit, levels) if scales is None else scales
    price = _integer_errors if levels.floats is None else _float_errors
    rows = max(1, AT_ONCE // max(unit.values.size, levels.belows.size))
    blocks = [price(unit, levels, scales[i : i + rows]) for i in range(0, scales.size, rows)]
    return Candidates(scales, levels.belows, np.concatenate(blocks) / unit.size)


def _float_errors(unit: Unit, levels: Levels, scales: Floats) -> Floats:
    assert levels.floats is not None
    middles = (levels.floats[1:] + levels.floats[:-1]) / 2
    cells = np.searchsorted(middles, unit.values / scales[:, None])
    return ((unit.values - levels.floats[cells] * scales[:, None]) ** 2 @ unit.counts)[:, None]


def _integer_errors(unit: Unit, levels: Levels, scales: Floats) -> Floats:
    """Every value rounded to any multiple of the scale, then corrected for the values clipped at either end."""
    scale = scales[:, None]
    whole = unit.counts * (unit.values - np.rint(unit.values / scale) * scale) ** 2
    above = levels.size - 1 - levels.belows
    lower = _clipped(-unit.values[::-1], unit.counts[::-1], whole[:, ::-1], levels.belows * scale, scale)
    upper = _clipped(unit.values, unit.counts, whole, above * scale, scale)
    return np.maximum(whole.sum(axis=1, keepdims=True) + lower + upper, 0.0)


def _clipped(values: Floats, counts: Floats, whole: Floats, ends: Floats, scale: Floats) -> Floats:
    """What clipping adds to the squared error of ascending values, (scales, options) like the ends they are cut to.

    Values more than half a step beyond an end were priced in ``whole`` (scales, values) as if levels went on.
    """
    first = np.searchsorted(values, ends + scale / 2, side="right")
    number, linear, square, rounding = (
        np.flip(np.insert(np.flip(each, axis=-1).cumsum(axis=-1), 0, 0.0, axis=-1), axis=-1)
        for each in (counts, counts * values, counts * values**2, whole)
    )
    beyond = square[first] - 2 * ends * linear[first] + ends**2 * number[first]
    return np.where(first < values.size, beyond - np.take_along_axis(rounding, first, axis=1), 0.0)


def error(unit: Unit, scale: float, levels: Floats) -> float:
    """The mean squared error of one quantizer: directly, nothing cancels."""
    middles = (levels[1:] + levels[:-1]) / 2
    restored = levels[np.searchsorted(middles, unit.values / scale)] * scale
    return float(unit.counts @ (unit.values - restored) ** 2) / unit.size


def optimum(unit: Unit, levels: Levels) -> float:
    """The least mean squared error of all scales within the ends of the grid: of few values only.

    Between two breakpoints, where a value changes its level, the error is a parabola in the scale.
    """
    scales = grid(unit, levels)
    best = np.inf
    for below in levels.belows:
        listed = levels.listed(int(below))
        middles = (listed[1:] + listed[:-1]) / 2
        with np.errstate(divide="ignore"):
            breaks = (unit.values[:, None] / middles).ravel()
        inside = breaks[(breaks > scales[0]) & (breaks < scales[-1])]
        breaks = np.unique(np.concatenate([scales[[0, -1]], inside]))
        halfway = (breaks[1:] + breaks[:-1]) / 2
        assigned = listed[np.searchsorted(middles, unit.values / halfway[:, None])]
        squares = assigned**2 @ unit.counts
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = assigned @ (unit.counts * unit.values) / squares
        vertex = np.clip(np.where(squares > 0, vertex, halfway), breaks[:-1], breaks[1:])
        errors = (unit.values - assigned * vertex[:, None]) ** 2 @ unit.counts
        best = min(best, float(errors.min()) / unit.size)
    return best


# --- divergence


def divergence(unit: Unit, scale: float, levels: Floats, sub: int) -> float:
    """D(P‖Q) on the sub-bins of one quantizer, in nats."""
    middles = (levels[1:] + levels[:-1]) / 2
    cells = np.concatenate([[2 * levels[0] - middles[0]], middles, [2 * levels[-1] - middles[-1]]])
    steps = unit.values / scale
    cell = np.searchsorted(middles, steps)
    position = (steps - cells[cell]) / np.diff(cells)[cell]
    part = np.clip((position * sub).astype(np.int64), 0, sub - 1)
    p = np.bincount(cell * sub + part, unit.counts, levels.size * sub).reshape(-1, sub) / unit.size
    mass, occupied = p.sum(axis=1, keepdims=True), np.count_nonzero(p, axis=1)[:, None]
    q = np.broadcast_to(mass / np.maximum(occupied, 1), p.shape)
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


def divergences(unit: Unit, scale: float, levels: Floats, sub: int) -> tuple[float, float]:
    """The least and the greatest D that a hair's breadth of scale makes."""
    found = [divergence(unit, scale * (1 + nudge), levels, sub) for nudge in (-NUDGE, 0, NUDGE)]
    return min(found), max(found)


def least_loss(unit: Unit, levels: Levels, candidates: Candidates, sub: int, weight: float, least: float) -> float:
    """The least D + w·MSE / (2·MSE*) of all candidates: in the order of MSE, until that alone costs more.

    Where values lie on an edge of a sub-bin, the greater D counts.
    """
    prices = weight * candidates.errors / (2 * least)
    best = np.inf
    for place in np.argsort(prices, axis=None):
        row, option = np.unravel_index(place, prices.shape)
        if prices[row, option] >= best:
            break
        scale, listed = candidates.scales[row], levels.listed(int(candidates.belows[option]))
        if prices[row, option] + divergence(unit, scale, listed, sub) < best:
            best = min(best, prices[row, option] + divergences(unit, scale, listed, sub)[1])
    return float(best)
