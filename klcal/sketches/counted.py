"""From what was counted, patterns or buckets, to a sketch: the one place where either becomes canonical."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.patterns import (
    MANTISSA_BITS,
    TENSOR,
    Integers,
    Numbers,
    Patterns,
    Resolution,
    Weights,
    extremes,
    is_special,
    kinds,
    narrow,
    summed,
)
from klcal.sketches.sketch import COUNTERS, Sketch, settled

__all__ = ["counted_buckets", "counted_patterns", "counted_values"]


def counted_patterns(
    patterns: Patterns,
    counts: Numbers,
    starts: Integers,
    resolution: Resolution = TENSOR,
    weights: Weights | None = None,
    **known: Any,
) -> Sketch:
    """The sketch of units whose distinct values are known, whatever these are.

    Args:
        patterns: of float32, distinct and ascending within each unit.
        counts: how often each of them occurs.
        starts: (units + 1,), where the patterns of each unit begin and end.
        resolution: of the sketch.
        weights: of the values of each pattern together, if these have any.
        **known: other numbers of the units, such as ``overflowed``, if there is something to count.
    """
    found = replace(Sketch.empty(starts.size - 1, resolution), **known)
    special = is_special(patterns)
    if special.any():
        at = np.flatnonzero(special)
        unit = np.searchsorted(starts, at, side="right") - 1
        masks = zip(("zeros", "nan", "neg_inf", "pos_inf"), kinds(patterns[at]), strict=True)
        seen: dict[str, Any] = {name: _sums(unit[mask], counts[at[mask]], found.units) for name, mask in masks}
        found = replace(found, **seen)
        patterns, counts = patterns[~special], counts[~special]
        weights = None if weights is None else weights[:, ~special]
        starts = starts - np.searchsorted(at, starts)
    minimum, maximum = extremes(patterns, starts)
    found = replace(found, keys=patterns, counts=narrow(counts), weights=weights, starts=starts)
    return settled(replace(found, minimum=minimum, maximum=maximum))


def counted_values(values: npt.NDArray[np.float32], counts: Numbers, resolution: Resolution) -> Sketch:
    """The sketch of one unit, of values in any order, of which some may be equal, and of how often each occurs."""
    patterns = values.view(np.uint32)
    order = np.argsort(patterns)
    found = summed(patterns[order], counts[order], np.array([0, patterns.size]))  # all NaN have one pattern
    return counted_patterns(*found, resolution)


def _sums(unit: Integers, counts: Numbers, units: int) -> Integers:
    sums = np.zeros(units, np.int64)
    np.add.at(sums, unit, counts)
    return sums


def counted_buckets(keys: Patterns, counts: Numbers, *, exact: bool, resolution: Resolution, **known: Any) -> Sketch:
    """The sketch of one unit with more than a few distinct values, from buckets of ``MANTISSA_BITS``.

    Args:
        keys: (buckets,), the patterns at which they begin, ascending.
        counts: how many values each has.
        exact: whether all of these are equal to the key.
        resolution: of the sketch.
        **known: the other numbers of the unit; a counter that is missing is 0.
    """
    numbers: dict[str, Any] = {name: np.array([known.pop(name, 0)], np.int64) for name in COUNTERS}
    numbers |= {name: np.array([value], np.float64) for name, value in known.items()}
    found = Sketch(
        keys=keys,
        counts=narrow(counts),
        starts=np.array([0, keys.size]),
        exact=np.array([exact]),
        resolution=resolution,
        heaviest=np.zeros(1),
        **numbers,
    )
    as_fine = resolution.mantissa_bits == resolution.least_bits == MANTISSA_BITS  # there is nothing to cut
    return found if as_fine else settled(found)
