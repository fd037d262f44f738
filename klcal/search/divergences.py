"""D(P‖Q) of quantizers for many units.

P is the distribution of the values of a unit on sub-bins, into which the cells of the quantizer are divided; Q spreads
the values of each cell evenly over its occupied sub-bins. See ``klcal.search.candidate_costs``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import log, placed_sums
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scheme import Scheme
from klcal.search import candidate_costs
from klcal.sketches.distribution import Distribution

__all__ = ["divergences"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def divergences(distribution: Distribution, scheme: Scheme, scale: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) of n quantizers for each unit, (units, n), in nats: finite, at least 0, at most ln(sub).

    Values that are known exactly are counted in their sub-bin. Buckets are divided at the edges of sub-bins, by prefix
    sums: see ``klcal.search.candidate_costs.divergences``.

    Args:
        distribution: of units that have values.
        scheme: what they are quantized to.
        scale: (units, n), positive.
        below: (units, n), the number of levels below zero.
        sub: the number of equal sub-bins in each cell.
    """
    found = np.zeros(scale.shape)
    exact = np.flatnonzero(distribution.exact)
    if exact.size:
        points = distribution.select(exact)
        columns = zip(scale[exact].T, below[exact].T, strict=True)
        found[exact] = np.stack([_of_points(points, scheme, *each, sub) for each in columns], axis=1)
    for unit in np.flatnonzero(~distribution.exact):
        sums = distribution.prefix_sums(int(unit))
        found[unit] = candidate_costs.divergences(sums, scheme, scale[unit], below[unit], sub)
    return found


def _of_points(distribution: Distribution, scheme: Scheme, scale: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q), (units,), of one quantizer for each unit, whose values are known exactly.

    Points ascend, so those of one sub-bin are a run of neighbours, and so are the sub-bins of one cell.
    """
    each = distribution.pieces
    cell, within = _places(distribution.values / np.repeat(scale, each), np.repeat(below, each), scheme)
    part = np.clip(np.floor(within * sub), 0.0, sub - 1.0)
    first = distribution.starts[:-1]
    begins = _run_begins(cell * sub + part, first)
    mass, cells, unit = _run_sums(distribution.counts, begins), cell[begins], distribution.unit[begins]
    cell_begins = _run_begins(cells, np.searchsorted(begins, first))
    cell_mass, occupied = _run_sums(mass, cell_begins), np.diff(cell_begins, append=cells.size)
    total = placed_sums(unit, mass * log(mass), distribution.units)
    even = placed_sums(unit[cell_begins], cell_mass * (log(cell_mass) - log(occupied)), distribution.units)
    nats: Floats = np.maximum((total - even) / distribution.size, 0.0)
    return nats


def _run_sums(counts: Floats, begins: Integers) -> Floats:
    """The sum of the counts, (n,), of each run; the runs begin at ``begins``. Terms are added one after the other."""
    run = np.repeat(np.arange(begins.size), np.diff(begins, append=counts.size))
    return placed_sums(run, counts, begins.size)


def _run_begins(places: Floats, first: Integers) -> Integers:
    """The indices at which a place, (n,), differs from the one before it, or at which a unit begins (``first``)."""
    is_new = np.empty(places.size, bool)
    np.not_equal(places[1:], places[:-1], out=is_new[1:])
    is_new[first] = True
    return np.flatnonzero(is_new)


def _places(steps: Floats, below: Integers, scheme: Scheme) -> tuple[Floats, Floats]:
    """The cell of each value, (n,), and the position of the value in it, (n,).

    Cells are numbered from the lowest level on. A position runs from 0 to 1, and beyond for clipped values.

    Args:
        steps: (n,), values divided by the scale.
        below: (n,), the number of levels below zero.
        scheme: what they are quantized to.
    """
    if not scheme.is_float:
        level = np.clip(np.rint(steps), -below, scheme.size - 1 - below)
        return level + below, steps - level + 0.5
    edges = candidate_costs.cell_edges(FLOATS[scheme.dtype])
    cell = np.searchsorted(edges[1:-1], steps)
    return cell.astype(np.float64), (steps - edges[cell]) / (edges[cell + 1] - edges[cell])
