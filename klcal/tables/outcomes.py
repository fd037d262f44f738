"""The results of calibrating units, as arrays over units: ``klcal.tables.computed`` makes rows of the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.tables.status import UNIT_STATUSES

__all__ = ["EMPTY", "NONFINITE", "OK", "OVERFLOW", "UNDERFLOW", "ZERO", "Outcomes", "Room", "Where", "where_are"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Where: TypeAlias = slice | Integers
"""The places of units in a ``Room``: their numbers, or a slice if these are consecutive, which is faster."""

OK, EMPTY, ZERO, NONFINITE, UNDERFLOW, OVERFLOW = range(len(UNIT_STATUSES))
FIGURES = ("kl", "squared_error", "energy", "clipped", "rounded_to_zero")
FLOATS = ("chosen", "scale", "below", *FIGURES, "minimum", "maximum")
NUMBERS = ("nonzero", "finite")
COUNTERS = ("weighed", "zeros", "nan", "neg_inf", "pos_inf", "overflowed", "underflowed")
"""Fields of ``Outcomes`` that are 0 in most tensors."""


class Outcomes(NamedTuple):
    """The result of each unit: arrays (units,), in the order of the tensor's axes.

    For a unit without a scale, the fields from ``chosen`` to ``rounded_to_zero`` are NaN or arbitrary. The others are
    always valid.
    """

    status: npt.NDArray[np.integer[Any]]  # an index of ``klcal.tables.status.UNIT_STATUSES``
    chosen: Floats  # the scale before it is rounded to its format
    scale: Floats  # as deployed; negative where a signed scheme has its extra level above zero
    below: Integers | Floats  # the number of levels below zero
    kl: Floats  # D(P‖Q) in nats; NaN if cells are not divided into sub-bins
    squared_error: Floats  # Σ(x − x̂)² over the finite values
    energy: Floats  # Σx²
    clipped: Floats  # the number of values that round beyond qmin or qmax
    rounded_to_zero: Floats  # the number of nonzero values that become 0
    nonzero: Integers  # the number of values that are finite and not 0 as float32
    weighed: Integers  # the number of nonzero values with an importance above 0; 0 without importance
    finite: Integers  # the number of values that are finite as float32, zeros included
    minimum: Floats  # of the finite values, zeros included; inf if there are none
    maximum: Floats  # of the same; -inf if there are none
    zeros: Integers  # the number of zeros; likewise the next three
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    overflowed: Integers  # the number of finite values beyond float32; no other counter has them
    underflowed: Integers  # the number of nonzero values that are 0 as float32; ``zeros`` has them too

    def each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Outcomes:
        """The outcomes with ``change`` applied to every array, (units,): it selects or reorders units."""
        columns: list[Any] = [change(column) for column in self]
        return Outcomes(*columns)


class Room:
    """Memory for the outcomes of units that come in parts, in any order and from any thread.

    All columns lie in one array: the system provides the memory of a large one in large pages, which takes a sixth of
    the time. A counter takes no memory until a unit has one above 0.
    """

    def __init__(self, units: int) -> None:
        floats, numbers = np.empty((len(FLOATS), units)), np.empty((len(NUMBERS), units), np.int64)
        columns: dict[str, Any] = dict(zip(FLOATS, floats, strict=True)) | dict(zip(NUMBERS, numbers, strict=True))
        columns |= dict.fromkeys(COUNTERS, np.broadcast_to(np.int64(0), units))
        self._outcomes = Outcomes(status=np.empty(units, np.uint8), **columns)
        self._counters: dict[str, Any] = {}  # those that are above 0 in some unit

    def part(self, where: slice) -> Outcomes:
        """The place for the outcomes of consecutive units: all but counters may be written there."""
        return self._outcomes.each(lambda column: column[where])

    def put(self, where: Where, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put copies of columns of some units, by their names in ``Outcomes``. A counter that is never put is 0."""
        for name, column in columns.items():
            if name not in COUNTERS:
                getattr(self._outcomes, name)[where] = column
            elif column.any():
                self._counters.setdefault(name, np.zeros(self._outcomes.status.size, np.int64))[where] = column

    def outcomes(self) -> Outcomes:
        """The outcomes of all units, once every part was put."""
        return self._outcomes._replace(**self._counters)


def where_are(numbers: Integers) -> Where:
    """The places of the units with these numbers, of which there is at least one."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if np.array_equal(numbers, np.arange(first, last + 1)) else numbers
