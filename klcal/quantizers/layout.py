"""Where a tensor's units lie: the unit of each value, in any order of the values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.granularity import Grid, Per, PerBlock, PerChannel, PerGroup, PerTensor

__all__ = ["Layout", "layout"]

Integers = npt.NDArray[np.int64]

STACK = "three axes taken for a stack of experts: a scale for each pair of indices of the first two (else: channel:0)"
LEAST_INPUTS = 64  # of an expert's matrix; the kernel of a one-dimensional convolution is shorter


class _Axis(NamedTuple):
    """An axis along which units are stretches of neighbours."""

    extent: int
    tile: int  # values in a stretch; the last may be shorter

    @property
    def units(self) -> int:
        return -(-self.extent // self.tile)

    def joined(self, inner: _Axis) -> _Axis | None:
        """This axis and the next faster one as a single axis; None where they cannot be joined."""
        if self.extent == 1:
            return inner
        if inner.units == 1:
            return _Axis(self.extent * inner.extent, self.tile * inner.extent)
        if self.tile == 1 and inner.extent % inner.tile == 0:
            return _Axis(self.extent * inner.extent, inner.tile)
        return None


@dataclass(frozen=True)
class Layout:
    """The units of a tensor whose values are stored in the order ``order``.

    Along each axis a unit is a stretch of neighbours: one of them, all, or some. Units are numbered in the order of the
    values: by the slowest axis first.
    """

    axes: tuple[_Axis, ...]  # the slowest first; neighbouring axes are joined where possible
    cells: tuple[int, ...]  # units along each of the tensor's own axes
    tiles: tuple[int, ...]  # values of a unit along each of these; the last unit may have fewer
    shape: tuple[int, ...]  # of the tensor
    order: tuple[int, ...]  # of the tensor's axes, the slowest first
    grid: Grid

    @property
    def rows(self) -> int:
        """The number of units."""
        return prod(self.cells)

    @property
    def ordered(self) -> bool:
        """Whether the values of each unit lie together, and the units in their order."""
        return all(axis.tile == 1 for axis in self.axes[:-1])

    @property
    def run(self) -> int:
        """The number of values of a unit that lie together; at the end of an axis there may be fewer."""
        return self.axes[-1].tile

    @property
    def period(self) -> int:
        """The number of values after which a run begins in any case."""
        return self.axes[-1].extent

    @property
    def slab(self) -> int:
        """The number of values that complete some units whose runs alternate evenly; 0 if they do not alternate."""
        first, *others = self.axes[:-1] or [_Axis(1, 1)]
        takes_turns = all(axis.units == 1 for axis in others) and first.extent % first.tile == 0
        turns = first.tile * prod(axis.extent for axis in others)
        return turns * self.period if takes_turns and self.period % self.run == 0 else 0

    def runs(self, start: int, count: int) -> tuple[Integers, Integers]:
        """The runs of units among ``count`` values from position ``start`` on.

        Returns:
            Where each run begins, relative to ``start``, and its unit: two arrays (runs,).

        >>> from klcal.quantizers.granularity import PerGroup
        >>> place = layout(PerGroup(2), (2, 3))  # groups of 2 and 1 in each of two rows
        >>> [each.tolist() for each in place.runs(1, 5)]
        [[0, 1, 2, 4], [0, 1, 2, 3]]
        """
        extent, tile = self.axes[-1]
        per_line = self.axes[-1].units
        first, last = (p // extent * per_line + p % extent // tile for p in (start, start + count - 1))
        run = np.arange(first, last + 1)
        if extent % tile == 0:
            begin = run * tile
        else:
            line = run // per_line
            begin = line * extent + (run - line * per_line) * tile
        return np.maximum(begin - start, 0), self._units(run)

    def _units(self, run: Integers) -> Integers:
        """The unit of each run; each stretch of the last axis is a run."""
        if self.ordered:
            return run
        last = self.axes[-1]
        slower = self.axes[self.axes[0].units == 1 : -1]  # only the slowest axis may have a single unit
        if not slower:
            return run % last.units
        outer = run // last.units
        unit, weight = run - outer * last.units, last.units
        for axis in reversed(slower):
            line = outer // axis.extent
            unit += (outer - line * axis.extent) // axis.tile * weight
            outer, weight = line, weight * axis.units
        return unit

    def ends(self, row: int, position: int) -> bool:
        """Whether a unit of an ordered layout ends before a position."""
        extent, tile = self.axes[-1]
        line, part = divmod(row, self.axes[-1].units)
        return position >= line * extent + min((part + 1) * tile, extent)

    def in_own_order(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (units,), moved from the order of the values to the order of the tensor's own axes (C order)."""
        if self.order == tuple(sorted(self.order)):
            return rows
        there = rows.reshape([self.cells[axis] for axis in self.order])
        return there.transpose(np.argsort(self.order)).ravel()

    def in_value_order(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (units,), moved from the order of the tensor's own axes to that of the values."""
        return rows.reshape(self.cells).transpose(self.order).ravel()


def layout(per: Per, shape: tuple[int, ...], order: tuple[int, ...] = ()) -> Layout | None:
    """Where the units of a tensor lie; None if it has one scale, by request or because it has a single axis.

    Args:
        per: the units.
        shape: of the tensor, none of it 0.
        order: its axes in the order of the values, the slowest first. Those of extent 1 may be missing; () is C order.

    Raises:
        UsageError: there is no such axis, or a group is longer than the axis.

    >>> layout(PerGroup(3), (2, 7)).grid.shape, layout(PerChannel(), (8, 16, 64)).grid.shape
    ((2, 3), (8, 16, 1))
    >>> layout(PerBlock(128, 128), (64, 4096)).grid.shape
    (1, 32)
    """
    if isinstance(per, PerTensor) or len(shape) < 2:
        return None
    tiles, grid = _tiles(per, shape)
    listed = order or tuple(range(len(shape)))
    full = (*listed, *(i for i in range(len(shape)) if i not in listed))
    joined: list[_Axis] = []
    for axis in (_Axis(shape[i], tiles[i]) for i in full):
        one = joined[-1].joined(axis) if joined else None
        joined[-1:] = [*joined[-1:], axis] if one is None else [one]
    cells = tuple(_Axis(*each).units for each in zip(shape, tiles, strict=True))
    return Layout(tuple(joined), cells, tuple(tiles), shape, full, grid)


def _tiles(per: PerChannel | PerGroup | PerBlock, shape: tuple[int, ...]) -> tuple[list[int], Grid]:
    """The number of neighbours that a unit has along each axis, and the grid of units."""
    if per == PerChannel() and len(shape) == 3 and shape[2] >= LEAST_INPUTS:
        return [1, 1, shape[2]], Grid(PerGroup(shape[2], 2), 2, shape[2], (*shape[:2], 1), STACK)
    if isinstance(per, PerChannel):
        axis = _axis(per, shape)
        return [*shape[:axis], 1, *shape[axis + 1 :]], Grid(PerChannel(axis), axis, None, (shape[axis],))
    if isinstance(per, PerGroup):
        axis = _axis(per, shape)
        if per.size > shape[axis]:
            raise UsageError(
                f"per {per}: axis {axis} of the shape {list(shape)} has {shape[axis]} values, fewer than a group",
                "use a smaller size, or a rule 'GLOB=group:SIZE' for the tensors with longer axes",
            )
        units = (*shape[:axis], -(-shape[axis] // per.size), *shape[axis + 1 :])
        tiles = [per.size if i == axis else 1 for i in range(len(shape))]
        return tiles, Grid(PerGroup(per.size, axis), axis, per.size, units)
    before, size = shape[:-2], (per.rows, per.columns)
    sides = [min(each, extent) for each, extent in zip(size, shape[-2:], strict=True)]
    units = (*before, *(-(-extent // side) for extent, side in zip(shape[-2:], sides, strict=True)))
    return [*(1 for _ in before), *sides], Grid(per, (len(before), len(before) + 1), size, units)


def _axis(per: PerChannel | PerGroup, shape: tuple[int, ...]) -> int:
    axis = per.axis or 0
    if not -len(shape) <= axis < len(shape):
        raise UsageError(
            f"per {per}: the shape {list(shape)} has the axes 0 to {len(shape) - 1}",
            "use one of these, or a rule 'GLOB=UNIT' for the tensors that have this axis",
        )
    return axis % len(shape)
