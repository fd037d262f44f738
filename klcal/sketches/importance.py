"""Importance: how much each value of a tensor counts when its quantizer is chosen.

Within a unit only the ratios of importances matter. So they become integer weights: the largest importance of a unit
has the weight 2⁴⁰, and an importance above 0 has a weight of at least 1. Weights are known before the data are read,
and integers add up exactly, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.layout import Layout
from klcal.sketches.patterns import Floats, Integers, Weights

__all__ = ["HEAVIEST", "Importance", "check_shape", "checked_importance", "joined_weights", "split_weights"]

HEAVIEST = 2.0**40  # the largest weight: ratios are kept to 12 digits
PART = 20  # bits of the lower part of a weight: 2⁴² parts add up in an int64


@dataclass(frozen=True, eq=False)
class Importance:
    """The weights of a tensor's values."""

    weights: Integers  # the tensor's axes, in the order in which values are read; a view that repeats shared weights
    heaviest: Floats  # (units,), the largest importance of each unit, units in the order in which values are read

    @staticmethod
    def of(importance: Floats, shape: tuple[int, ...], order: tuple[int, ...], place: Layout | None) -> Importance:
        """The weights of a tensor.

        Args:
            importance: float64, of a shape that ``checked_importance`` allows, or with extent 1 along axes on which it
                does not depend; finite and at least 0.
            shape: of the tensor.
            order: its axes in the order in which values are read, the slowest first. Axes of extent 1 may be missing;
                an empty tuple is C order.
            place: the layout of its units; None if the tensor is one unit.
        """
        tiles = shape if place is None else place.tiles
        aligned = _aligned(importance, shape)
        heaviest = _largest(aligned, tiles)
        each = _repeated(heaviest, tiles, aligned.shape)
        weights = np.asarray(aligned / np.where(each > 0, each, 1.0))
        weights *= HEAVIEST  # in place: an importance may be as large as the tensor
        np.maximum(np.rint(weights, out=weights), aligned > 0, out=weights)
        listed = order or tuple(range(len(shape)))
        full = (*listed, *(axis for axis in range(len(shape)) if axis not in listed))
        of_units = np.broadcast_to(heaviest, (1,) * len(shape) if place is None else place.cells)
        in_order = of_units.ravel() if place is None else place.in_value_order(of_units)
        return Importance(np.broadcast_to(weights.astype(np.int64), shape).transpose(full), in_order)

    def in_own_order(self, place: Layout) -> Importance:
        """The same, with the tensor's own axes, and units numbered along these, for which ``place`` is the layout."""
        return Importance(self.weights.transpose(np.argsort(place.order)), place.in_own_order(self.heaviest))

    def along(self, axis: int, some: slice) -> Importance:
        """The weights of a part of the tensor, along an axis. ``heaviest`` stays that of all units."""
        return Importance(self.weights[(slice(None),) * axis + (some,)], self.heaviest)

    def at(self, start: int, count: int) -> Integers:
        """The weights of ``count`` values from the position ``start`` on, (count,)."""
        return _stretch(self.weights, start, count)


def split_weights(weights: Integers) -> Weights:
    """The weights of single values, (n,), as rows that can be added without overflow, (3, n).

    The rows are the upper part, the lower 20 bits, and 1 for a weight above 0.
    """
    return np.stack([weights >> PART, weights & ((1 << PART) - 1), weights > 0])


def joined_weights(weights: Weights) -> Floats:
    """The total weight of each piece, (pieces,), float64, from rows (3, pieces)."""
    found: Floats = weights[0] * 2.0**PART + weights[1]
    return found


def check_shape(importance: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises UsageError if an importance of this shape does not fit a tensor: see ``checked_importance``."""
    if importance not in (shape, shape[-1:], _without_rows(shape)):
        columns = f"{list(shape[-1:])}, a weight for each column, or " if len(shape) > 1 else ""
        columns += f"{list(_without_rows(shape))}, for each column of each matrix, or " if len(shape) > 2 else ""
        what = f"the importance has the shape {list(importance)}, the tensor {list(shape)}"
        raise UsageError(what, f"it needs {columns}{list(shape)}, one for each value")


def checked_importance(importance: npt.NDArray[Any], shape: tuple[int, ...]) -> Floats:
    """The importance of a tensor as float64, in its own shape.

    There are three shapes for a tensor [..., rows, columns]: [columns], a weight for each column; [..., columns], one
    for each column of each matrix, such as the experts of a layer; and [..., rows, columns], one for each value.

    Raises:
        UsageError: it has another shape, or weights that are negative or not finite.
    """
    check_shape(importance.shape, shape)
    weights = importance.astype(np.float64)
    for wrong, what in ((~np.isfinite(weights), "not finite"), (weights < 0, "negative")):
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            where = f" at {[int(index) for index in place]}" if place else ""
            text = f"{np.count_nonzero(wrong)} of {wrong.size} weights of the importance are {what}, the first{where}"
            raise UsageError(text, "use finite weights of 0 or more")
    return weights


def _stretch(weights: Integers, start: int, count: int) -> Integers:
    """``weights.flat[start : start + count]``, which would copy them one by one: here whole rows are copied."""
    if weights.ndim < 2 or not count:
        return weights.reshape(-1)[start : start + count]
    row = weights.size // len(weights)
    first, last = start // row, (start + count - 1) // row + 1
    if row <= count:
        return weights[first:last].reshape(-1)[start - first * row :][:count]
    ends = [(max(start - at * row, 0), min(start + count - at * row, row)) for at in range(first, last)]
    rows = zip(weights[first:last], ends, strict=True)
    return np.concatenate([_stretch(each, begin, end - begin) for each, (begin, end) in rows])


def _without_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its last axis but one, which has the rows of a matrix."""
    return shape[:-2] + shape[-1:]


def _aligned(importance: Floats, shape: tuple[int, ...]) -> Floats:
    """An importance with as many axes as the tensor; an axis that it lacked has extent 1."""
    if importance.ndim == len(shape):
        return importance
    if importance.shape == _without_rows(shape):
        return np.expand_dims(importance, -2)
    return importance.reshape((1,) * (len(shape) - 1) + (-1,))


def _largest(aligned: Floats, tiles: tuple[int, ...]) -> Floats:
    """The largest importance of each unit. A unit has ``tiles`` neighbours along each axis; extents of 1 stay."""
    for axis, (extent, tile) in enumerate(zip(aligned.shape, tiles, strict=True)):
        if extent > 1 and tile > 1:
            aligned = np.maximum.reduceat(aligned, np.arange(0, extent, tile), axis=axis)
    return aligned if aligned.size else np.zeros((1,) * aligned.ndim)


def _repeated(of_units: Floats, tiles: tuple[int, ...], shape: tuple[int, ...]) -> Floats:
    """The inverse of ``_largest``: an array of units, repeated for each importance of a unit."""
    for axis, (extent, tile) in enumerate(zip(shape, tiles, strict=True)):
        if 1 < of_units.shape[axis] < extent:  # a single one broadcasts
            of_units = np.repeat(of_units, tile, axis=axis).take(np.arange(extent), axis=axis)
    return of_units
