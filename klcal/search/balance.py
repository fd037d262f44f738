"""The zero points with which clipping costs least, for affine schemes.

The squared excess of the values beyond the two ends of a range is convex in the place of the range, and its derivative
is the difference of Σ excess at either end. So clipping costs least where as much is cut off above as below. Where such
a range narrows, both ends move inward from value to value. Between two of these each end moves by a fixed share of what
the range narrows by. ``Balance`` tabulates this. The compiled kernel has the same in ``source/balance.h``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Balance"]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Values = npt.NDArray[np.floating[Any]]


class End(NamedTuple):
    """One end of the range as it moves inward from value to value, to zero at last: (units, n + 1) each."""

    value: Floats  # magnitudes, descending, padded with zeros
    excess: Floats  # Σ excess of the values beyond; inf behind the first zero
    number: Floats  # of the values beyond and of this one

    @staticmethod
    def of(values: Values, counts: Values | None) -> End:
        """The upper end. ``values`` and ``counts``, (units, n), are ascending, padded with zeros."""
        magnitude = np.maximum(values, 0).astype(np.float64)
        order = np.argsort(magnitude, axis=1, kind="stable")[:, ::-1]
        nothing = np.zeros((len(values), 1))
        value = np.concatenate([np.take_along_axis(magnitude, order, 1), nothing], axis=1)
        count = np.ones(value.shape)
        if counts is not None:
            count[:, :-1] = np.take_along_axis(counts, order, 1)
        number = np.where(value > 0, count, 1.0).cumsum(axis=1)
        excess = (number[:, :-1] * (value[:, :-1] - value[:, 1:])).cumsum(axis=1)
        excess = np.concatenate([nothing, np.where(value[:, :-1] > 0, excess, np.inf)], axis=1)
        return End(value, excess, number)

    def at(self, places: Integers) -> End:
        """The end at the values of these numbers, (units, m)."""
        places = np.minimum(places, self.value.shape[1] - 1)
        return End(*(np.take_along_axis(column, places, 1) for column in self))


class Balance(NamedTuple):
    """Ranges that cut off as much above as below, by falling width: (units, rows) each, in units of the values."""

    width: Singles  # of the range
    low: Singles  # the magnitude of its lower end
    share: Singles  # the lower end's share of what the range narrows by from here on

    @staticmethod
    def of(values: Values, counts: Values | None) -> Balance:
        """A row for each value that an end reaches as the range narrows. A wider range ends at the highest one.

        Args:
            values: (units, n), ascending, padded with zeros.
            counts: (units, n), how often each occurs; None if each occurs once.
        """
        above = End.of(values, counts)
        below = End.of(-values[:, ::-1], None if counts is None else counts[:, ::-1])
        order = np.argsort(np.concatenate([above.excess[:, 1:], below.excess[:, 1:]], axis=1), axis=1, kind="stable")
        is_high = order < values.shape[1]
        highs = np.cumsum(is_high, axis=1)
        lows = 1 + np.arange(order.shape[1]) - highs
        high, low = above.at(highs), below.at(lows)
        with np.errstate(invalid="ignore"):  # of rows behind the last one
            low_end = np.maximum(low.value - (high.excess - low.excess) / low.number, below.at(lows + 1).value)
            high_end = np.maximum(high.value - (low.excess - high.excess) / high.number, above.at(highs + 1).value)
        low_end = np.where(is_high, low_end, low.value)
        width = np.where(is_high, high.value + low_end, low.value + high_end)
        width[np.isinf(np.where(is_high, high.excess, low.excess))] = 0
        share = high.number / (high.number + low.number)
        one, other = above.at(np.zeros((len(values), 1), np.int64)), below.at(np.zeros((len(values), 1), np.int64))
        full, first = one.value + other.value, one.number / (one.number + other.number)
        return Balance(
            np.concatenate([full, full, width], axis=1).astype(np.float32),
            np.concatenate([other.value, other.value, low_end], axis=1).astype(np.float32),
            np.concatenate([np.ones(full.shape), first, share], axis=1).astype(np.float32),
        )

    def belows(self, size: int, steps: Floats) -> Integers:
        """The most levels below zero with which no more is cut off above than below: (units, candidates).

        Args:
            size: the number of levels.
            steps: (units, candidates), scales.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of scales beyond float32, or far below
            step = steps.astype(np.float32)
            width = step * np.float32(size)
            row = _number_above(self.width[:, 1:], width)
            start, low, share = (np.take_along_axis(column, row, 1) for column in self)
            levels = (low - (start - width) * share) / step + np.float32(0.5)
        levels = np.where(levels < size, levels, np.float32(size))
        below: Integers = np.maximum(levels, 1).astype(np.int64) - 1
        return below


def _number_above(numbers: Singles, limits: Singles) -> Integers:
    """How many numbers of each unit exceed each limit: (units, candidates).

    Patterns of floats ≥ 0 ascend as the floats do. So the patterns of all units, each with the number of its unit in
    front, are searched at once.

    Args:
        numbers: (units, n), descending, at least 0.
        limits: (units, candidates), at least 0.
    """
    units, size = numbers.shape
    row = np.arange(units, dtype=np.int64)[:, None]
    keys, wanted = (each.view(np.uint32) + (row << 32) for each in (np.ascontiguousarray(numbers[:, ::-1]), limits))
    place = np.searchsorted(keys.ravel(), wanted.ravel(), side="right").reshape(limits.shape)
    found: Integers = size - (place - row * size)
    return found
