"""What is known of each unit when it was searched and judged: arrays, before they are rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.tables.status import UNIT_STATUSES

__all__ = ["EMPTY", "NONFINITE", "OK", "OVERFLOW", "UNDERFLOW", "ZERO", "Outcomes", "joined"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

OK, EMPTY, ZERO, NONFINITE, UNDERFLOW, OVERFLOW = range(len(UNIT_STATUSES))


class Outcomes(NamedTuple):
    """What is known of each unit: arrays (units,), in the order of the tensor's axes.

    Where a unit has no scale, the choice and its costs are NaN or arbitrary.
    """

    status: Integers  # an index of ``klcal.tables.status.UNIT_STATUSES``
    chosen: Floats  # the scale before it was rounded to its format
    scale: Floats  # as deployed; negative where a signed scheme has its extra level above zero
    below: Integers | Floats  # the number of levels below zero
    kl: Floats  # D(P‖Q) in nats; NaN where no cell is cut
    squared_error: Floats  # Σ(x − x̂)² over the finite values
    energy: Floats  # Σx²
    clipped: Floats  # values that round beyond qmin or qmax
    rounded_to_zero: Floats  # nonzero values that become 0
    nonzero: Integers  # finite values that are not 0
    weighed: Integers  # nonzero values of an importance above 0; 0 without importance
    finite: Integers  # finite values, zeros included
    minimum: Floats  # of the finite values, zeros included; inf where there are none
    maximum: Floats
    zeros: Integers
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    overflowed: Integers  # finite values beyond float32, in no other counter
    underflowed: Integers  # nonzero values that are 0 as float32; ``zeros`` has them too

    def each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Outcomes:
        """The same outcomes with a function applied to every array: some units, or another order."""
        columns: list[Any] = [change(column) for column in self]
        return Outcomes(*columns)


def joined(parts: Iterable[Outcomes]) -> Outcomes:
    """The units of all parts (at least one), concatenated."""
    columns: list[Any] = [_concatenated(column) for column in zip(*parts, strict=True)]
    return Outcomes(*columns)


def _concatenated(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays behind one another. Counters that are 0 everywhere, as most are, take no memory until they are written."""
    if parts[0].dtype == np.int64 and not any(part.any() for part in parts):
        return np.zeros(sum(part.size for part in parts), np.int64)
    return np.concatenate(parts)
