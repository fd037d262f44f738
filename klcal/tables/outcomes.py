"""The results of calibrating units, as arrays over units: ``klcal.tables.computed`` makes rows of the table of them."""

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
    """The result of each unit: arrays (units,), in the order of the tensor's axes.

    For a unit without a scale, the fields from ``chosen`` to ``rounded_to_zero`` are NaN or arbitrary. The others are
    always valid.
    """

    status: Integers  # an index of ``klcal.tables.status.UNIT_STATUSES``
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


def joined(parts: Iterable[Outcomes]) -> Outcomes:
    """The outcomes of all units of the parts, in order. There is at least one part."""
    columns: list[Any] = [_concatenated(column) for column in zip(*parts, strict=True)]
    return Outcomes(*columns)


def _concatenated(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The arrays behind one another. Most counters are 0: memory from ``np.zeros`` is not used until it is written."""
    if parts[0].dtype == np.int64 and not any(part.any() for part in parts):
        return np.zeros(sum(part.size for part in parts), np.int64)
    return np.concatenate(parts)
