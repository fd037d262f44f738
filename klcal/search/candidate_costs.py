"""The costs of candidate quantizers for one unit, by prefix sums: the squared error, and D(P‖Q).

A candidate is a scale and the number of levels below zero. The cell of a level has the values that are rounded to it;
the outermost cells are as wide beyond their level as before it, and values further out are clipped. Each cell is
divided into equal sub-bins. Both costs are sums over cells of prefix sums (``klcal.sketches.prefix_sums``); candidates
are an array axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import last_axis_sum, log
from klcal.quantizers.code_points import FLOATS, middles
from klcal.quantizers.scheme import Scheme
from klcal.sketches.prefix_sums import PrefixSums, Side

__all__ = [
    "cell_edges",
    "cell_sums",
    "divergences",
    "relative_edges",
    "spread_within_cells",
    "squared_errors",
    "sub_bins",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

EDGES_AT_ONCE = 1 << 16  # cell edges that are looked up together: their arrays stay in the cache


def squared_errors(sums: PrefixSums, scheme: Scheme, scales: Floats) -> Floats:
    """The mean squared error per nonzero value: (candidates, options).

    With levels v_k of one sign, v_0 = 0, and edges e_k = (v_{k−1} + v_k)/2 between them,
    Σ(x − x̂)² = Σx² − Σ_k 2(v_k − v_{k−1})·Σ(|x| − e_k)₊: each level that a value passes reduces its error.

    Args:
        sums: the prefix sums of the unit.
        scheme: what it is quantized to. The options are its numbers of levels below zero, ``scheme.belows``.
        scales: (candidates,), positive.
    """
    rows = max(1, EDGES_AT_ONCE // scheme.size)
    parts = [_squared_errors(sums, scheme, scales[i : i + rows]) for i in range(0, scales.size, rows)]
    return np.concatenate(parts)


def _squared_errors(sums: PrefixSums, scheme: Scheme, scales: Floats) -> Floats:
    sides = zip(sums.sides, (scheme.above, scheme.below), strict=True)
    above, below = (_saved(side, scales, levels) for side, levels in sides)
    if scheme.is_fixed:
        saved = (last_axis_sum(above) + last_axis_sum(below))[:, None]
    else:
        none = np.zeros((scales.size, 1))
        over, under = (np.hstack([none, side.cumsum(axis=1)]) for side in (above, below))
        saved = over[:, scheme.size - 1 - scheme.belows] + under[:, scheme.belows]
    mean: Floats = np.maximum(sums.energy - saved, 0.0) / sums.size
    return mean


def _saved(side: Side, scales: Floats, levels: Floats) -> Floats:
    """The reduction of Σ(x − x̂)² by each level beyond zero, for one sign: (candidates, levels).

    Args:
        side: the values of that sign.
        scales: (candidates,).
        levels: (levels,), the magnitudes of the levels of that sign, ascending, in units of the scale.
    """
    if not side.extreme:
        return np.zeros((scales.size, levels.size))
    inner = np.append(0.0, levels[:-1])
    scale = scales[:, None]
    saved: Floats = 2 * scale * (levels - inner) * side.excess_beyond(scale * ((inner + levels) / 2))
    return saved


def sub_bins(sums: PrefixSums, scheme: Scheme, scales: Floats, below: Integers, sub: int) -> Floats:
    """The number of values in each sub-bin: (candidates, levels · sub + 2).

    The first and the last column have the values that are clipped below and above.

    Args:
        sums: the prefix sums of the unit.
        scheme: what it is quantized to.
        scales: (candidates,), positive.
        below: (candidates,), the number of levels below zero.
        sub: the number of sub-bins in each cell.
    """
    positive, negative = sums.sides
    relative, zeros = relative_edges(scheme, below, sub)
    first = np.searchsorted(relative, zeros.min(), side="right") - 1  # the last edge below zero
    last = np.searchsorted(relative, zeros.max(), side="left") + 1  # behind the first above
    edges = (relative - zeros[:, None]) * scales[:, None]
    inside = np.zeros((scales.size, relative.size + 2))
    if positive.extreme:
        inside[:, first + 1 : -1] += positive.mass_within(np.maximum(edges[:, first:], 0.0))
    if negative.extreme:
        inside[:, 1 : last + 1] -= negative.mass_within(np.maximum(-edges[:, :last], 0.0))
    inside[:, 0] = -negative.size
    inside[:, -1] = positive.size
    return np.maximum(np.diff(inside), 0.0)


def relative_edges(scheme: Scheme, below: Integers, sub: int) -> tuple[Floats, Floats]:
    """The edges of all sub-bins in units of the scale, (levels · sub + 1,), and the position of zero, (candidates,).

    For integers, edges are counted from the lowest level, and zero lies at the number of levels below it. For floating
    point, zero is at 0.

    Args:
        scheme: what is quantized to.
        below: (candidates,), the number of levels below zero.
        sub: the number of sub-bins in each cell.
    """
    if not scheme.is_float:
        return np.arange(scheme.size * sub + 1) / sub - 0.5, below.astype(np.float64)
    cells = cell_edges(FLOATS[scheme.dtype])
    edges = cells[:-1, None] + np.diff(cells)[:, None] * (np.arange(sub) / sub)
    return np.append(edges, cells[-1]), np.zeros(below.size)


def cell_edges(levels: Floats) -> Floats:
    """The edges of the cells of n ascending levels, (n + 1,).

    They are the middles between neighbours; an outermost cell is as wide beyond its level as before it.

    >>> cell_edges(np.array([0.0, 1.0, 3.0])).tolist()
    [-0.5, 0.5, 2.0, 4.0]
    """
    between = middles(levels)
    return np.concatenate([[2 * levels[0] - between[0]], between, [2 * levels[-1] - between[-1]]])


def divergences(sums: PrefixSums, scheme: Scheme, scales: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) of each candidate, (candidates,), in nats: finite, at least 0, at most ln(sub).

    P is the distribution of the values on the sub-bins; clipped values count in the outermost ones. Q spreads the
    values of each cell evenly over its occupied sub-bins. For N values, with c of them in a sub-bin, C in a cell, and Z
    occupied sub-bins in the cell, N·D = Σ c·ln c − Σ C·(ln C − ln Z).

    Args:
        sums: the prefix sums of the unit.
        scheme: what it is quantized to.
        scales: (candidates,), positive.
        below: (candidates,), the number of levels below zero.
        sub: the number of sub-bins in each cell.
    """
    return spread_within_cells(sub_bins(sums, scheme, scales, below, sub), sums.size, sub)


def spread_within_cells(counts: Floats, size: float | Floats, sub: int) -> Floats:
    """D(P‖Q) of each row of counts, (candidates,), in nats.

    Args:
        counts: (candidates, levels · sub + 2), as ``sub_bins`` returns them; changed in place.
        size: the number of values: of all rows, or (candidates,).
        sub: the number of sub-bins in each cell.
    """
    counts[:, 1] += counts[:, 0]
    counts[:, -2] += counts[:, -1]
    mass = counts[:, 1:-1]
    parts = mass.reshape(len(mass), -1, sub)
    cells = cell_sums(parts)
    occupied = np.maximum(np.count_nonzero(parts, axis=2), 1)
    total = last_axis_sum(mass * log(np.where(mass > 0, mass, 1.0)))
    even = last_axis_sum(cells * (log(np.where(cells > 0, cells, 1.0)) - log(occupied)))
    nats: Floats = np.maximum((total - even) / size, 0.0)
    return nats


def cell_sums(parts: Floats) -> Floats:
    """The number of values in each cell, (candidates, cells): sub-bins, on the last axis, are added one by one."""
    found = parts[:, :, 0].copy()
    for part in range(1, parts.shape[2]):
        found += parts[:, :, part]
    return found
