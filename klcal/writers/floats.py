"""Numbers as text: for machines the shortest text that loses nothing, for people a few digits."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["are_float32", "for_people", "printed", "shortest"]

Floats = npt.NDArray[np.float64]

LEAST = 2.0**-126  # the smallest normal float32: below it, digits of a float64 would be lost
GREATEST = (2 - 2.0**-23) * 2.0**127  # the largest float32
TEXT = "U16"  # holds any float32: -1.2345678e-38 has 14 characters
DIGITS = 4  # digits that a person compares at a glance


def shortest(value: float) -> float | None:
    """The number whose ``repr`` is the shortest text for a value; None if it is not finite.

    Read as float32, the text gives the value rounded to float32. Beyond the normal float32 numbers (a mean
    squared error may lie below them) it gives the float64 itself.

    >>> shortest(float(np.float32(0.01))), shortest(1e-60), shortest(math.inf)
    (0.01, 1e-60, None)
    """
    if not math.isfinite(value):
        return None
    if LEAST <= abs(value) <= GREATEST:
        return float(str(np.float32(value)))
    return float(value)


def printed(values: Floats) -> Floats:
    """``shortest`` of each value, twice as fast as one by one. NaN means that there is no value."""
    size = np.abs(values)
    normal = (size >= LEAST) & (size <= GREATEST)
    found = np.where(np.isfinite(values), values, np.nan)
    found[normal] = values[normal].astype(np.float32).astype(TEXT).astype(np.float64)
    return found


def are_float32(values: Floats) -> npt.NDArray[np.bool_]:
    """Whether each value is printed as float32: NaN, zeros, and magnitudes of normal float32 numbers."""
    size = np.abs(values)
    found: npt.NDArray[np.bool_] = np.isnan(values) | (size == 0) | ((size >= LEAST) & (size <= GREATEST))
    return found


def for_people(value: float | None, digits: int = DIGITS) -> str:
    """A few significant digits; empty for no number.

    >>> for_people(0.0123456), for_people(128), for_people(None)
    ('0.01235', '128', '')
    """
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"
