"""How much each value of a tensor counts in the choice: its importance, as integers in the order of the values.

An importance is relative: within a unit, only its ratios matter. The largest of a unit becomes 2⁴⁰, and what is above 0
stays above 0. So weights are known before the data are read, and they add up exactly, in any order.
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
PART = 20  # bits of a weight in each of its two parts: 2⁴² of them add up in an int64


@dataclass(frozen=True, eq=False)
class Importance:
    """The weights of a tensor's values, which come in some order."""

    weights: Integers  # of the tensor's axes in the order of the values; those of columns are repeated
    heaviest: Floats  # (units,), in the order of the values: the largest importance of each

    @staticmethod
    def of(importance: Floats, shape: tuple[int, ...], order: tuple[int, ...], place: Layout | None) -> Importance:
        """The weights of a tensor.

        Args:
            importance: of the shape of the tensor, with or without its rows, or (columns,): see ``checked_importance``;
                or with 1 for axes along which it is the same.
            shape: of the tensor.
            order: of its axes in its values, the slowest first; those of extent 1 may be missing, nothing means C's.
            place: where its units lie; None for one.
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

    def at(self, start: int, count: int) -> Integers:
        """The weights of so many values from a position on."""
        return self.weights.flat[start : start + count]


def split_weights(weights: Integers) -> Weights:
    """Weights of single values in the form that adds up: two parts, and whether there is any."""
    return np.stack([weights >> PART, weights & ((1 << PART) - 1), weights > 0])


def joined_weights(weights: Weights) -> Floats:
    """What the values of each piece weigh together."""
    found: Floats = weights[0] * 2.0**PART + weights[1]
    return found


def check_shape(importance: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises UsageError unless an importance of this shape has weights for a tensor: see ``checked_importance``."""
    if importance not in (shape, shape[-1:], _without_rows(shape)):
        columns = f"{list(shape[-1:])}, a weight for each column, or " if len(shape) > 1 else ""
        columns += f"{list(_without_rows(shape))}, for each column of each matrix, or " if len(shape) > 2 else ""
        what = f"the importance has the shape {list(importance)}, the tensor {list(shape)}"
        raise UsageError(what, f"it needs {columns}{list(shape)}, one for each value")


def checked_importance(importance: npt.NDArray[Any], shape: tuple[int, ...]) -> Floats:
    """The importance of a tensor as float64.

    It has a weight for each column, which is an index of the last axis; or for each column of each matrix, where there
    are many in one tensor, as the experts of a layer; or for each value.

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


def _without_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what all rows of a matrix, which are the last axis but one, have in common."""
    return shape[:-2] + shape[-1:]


def _aligned(importance: Floats, shape: tuple[int, ...]) -> Floats:
    """An importance with as many axes as the tensor, of extent 1 where it is the same all along."""
    if importance.ndim == len(shape):
        return importance
    if importance.shape == _without_rows(shape):
        return np.expand_dims(importance, -2)
    return importance.reshape((1,) * (len(shape) - 1) + (-1,))


def _largest(aligned: Floats, tiles: tuple[int, ...]) -> Floats:
    """The largest importance of each unit, of which a stretch of ``tiles`` along each axis is one."""
    for axis, (extent, tile) in enumerate(zip(aligned.shape, tiles, strict=True)):
        if extent > 1 and tile > 1:
            aligned = np.maximum.reduceat(aligned, np.arange(0, extent, tile), axis=axis)
    return aligned if aligned.size else np.zeros((1,) * aligned.ndim)


def _repeated(of_units: Floats, tiles: tuple[int, ...], shape: tuple[int, ...]) -> Floats:
    """The other way round: something of each unit for each importance."""
    for axis, (extent, tile) in enumerate(zip(shape, tiles, strict=True)):
        if 1 < of_units.shape[axis] < extent:  # a single one broadcasts
            of_units = np.repeat(of_units, tile, axis=axis).take(np.arange(extent), axis=axis)
    return of_units
