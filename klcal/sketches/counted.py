"""Counts of patterns or of buckets become a sketch. Every counter ends here, so equal values have equal sketches."""

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
    """The sketch of units whose distinct values are known; these may be few or many, zero, NaN or infinite.

    Args:
        patterns: (patterns,), uint32: of float32, distinct and ascending within each unit.
        counts: (patterns,), how often each of them occurs.
        starts: (units + 1,), int64: where the patterns of each unit begin and end.
        resolution: of the sketch.
        weights: (3, patterns), of the values of each pattern together, if they have weights: see ``Sketch.weights``.
        **known: other fields of the sketch, (units,), such as ``overflowed``; 0 without.
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
    """The sketch of one unit.

    Args:
        values: (n,), in any order; several may be equal.
        counts: (n,), how often each of them occurs.
        resolution: of the sketch.

    >>> found = counted_values(np.float32([2.0, -1.0, 2.0]), np.array([1, 5, 3]), TENSOR)
    >>> found.keys.view(np.float32).tolist(), found.counts.tolist()
    ([2.0, -1.0], [4, 5])
    """
    patterns = values.view(np.uint32)
    order = np.argsort(patterns)
    found = summed(patterns[order], counts[order], np.array([0, patterns.size]))  # all NaN have one pattern
    return counted_patterns(*found, resolution)


def _sums(unit: Integers, counts: Numbers, units: int) -> Integers:
    """The sum of the counts of each unit, (units,)."""
    sums = np.zeros(units, np.int64)
    np.add.at(sums, unit, counts)
    return sums


def counted_buckets(keys: Patterns, counts: Numbers, *, exact: bool, resolution: Resolution, **known: Any) -> Sketch:
    """The sketch of one unit with more than a few distinct values, from buckets of ``MANTISSA_BITS``.

    Args:
        keys: (buckets,), uint32: the patterns at which they begin, ascending.
        counts: (buckets,), the number of values in each.
        exact: whether every value is equal to the key of its bucket.
        resolution: of the sketch.
        **known: ``minimum``, ``maximum``, and the ``COUNTERS`` that are not 0.
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
