"""The sketch of units whose values stand one unit behind the other: values are sorted, and equal ones counted.

The compiled kernel does so for all units at once. It also takes units whose runs of values take turns. NumPy does the
same, to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.units import counted_units
from klcal.sketches.counted import counted_patterns
from klcal.sketches.counting import FLOAT_DTYPES, pattern_values, values_of
from klcal.sketches.patterns import Integers, Patterns, Resolution, runs
from klcal.sketches.sketch import Sketch

__all__ = ["byte_patterns", "compiled_sketch", "less_rounded", "rounded_away", "sorted_sketch"]

SORTED_ALONE = 1 << 10  # values from which sorting units of one size as a matrix pays

Array = npt.NDArray[Any]


def sorted_sketch(block: Array, dtype: str, starts: Integers, resolution: Resolution) -> Sketch:
    """The sketch of units whose values, (n,), stand one unit behind the other; ``starts``, (units + 1,), where."""
    if library():
        return compiled_sketch(block, dtype, starts, resolution)
    with np.errstate(over="ignore", invalid="ignore"):
        values = values_of(block, dtype).astype(np.float32)  # a copy: it is sorted in place
    patterns = values.view(np.uint32)
    rounded = rounded_away(block, values, starts) if dtype == "float64" else {}
    _sort_each(patterns, starts)
    found = counted_patterns(*runs(patterns, starts), resolution)
    return less_rounded(found, rounded)


def less_rounded(found: Sketch, rounded: dict[str, Integers]) -> Sketch:
    """A sketch of float64 values, corrected: finite values beyond float32 were counted as infinite, and are overflowed.

    Args:
        found: the sketch of the values as float32.
        rounded: what ``rounded_away`` found in them.
    """
    if not rounded:
        return found
    below, above, underflowed = rounded["below"], rounded["above"], rounded["underflowed"]
    return replace(
        found,
        neg_inf=found.neg_inf - below,
        pos_inf=found.pos_inf - above,
        overflowed=below + above,
        underflowed=underflowed,
    )


def compiled_sketch(
    block: Array, dtype: str, starts: Integers, resolution: Resolution, turns: tuple[int, int] = (0, 1), first: int = 0
) -> Sketch:
    """The sketch of units by the compiled kernel.

    Args:
        block: the values, (n,).
        dtype: of the values.
        starts: (units + 1,), where each unit begins and ends, if they stand one behind the other; else only the sizes.
        resolution: of the sketch.
        turns: how many units take turns, and how many values each has in a turn; (0, 1) if they do not.
        first: the number of the first unit among those that take turns.
    """
    kept = resolution.few, resolution.mantissa_bits, resolution.least_bits
    found = counted_units(block, dtype, starts, kept, byte_patterns(dtype), turns, first=first)
    numbers: dict[str, Any] = dict(found.counters)
    return Sketch(
        keys=found.keys,
        counts=found.counts,
        starts=found.starts,
        **numbers,
        minimum=found.minimum,
        maximum=found.maximum,
        exact=found.exact,
        heaviest=np.zeros(starts.size - 1),
        resolution=resolution,
    )


def byte_patterns(dtype: str) -> Patterns | None:
    """(256,): the float32 pattern of the value of each byte; None for a dtype of more than one byte."""
    return pattern_values(dtype).view(np.uint32) if np.dtype(FLOAT_DTYPES[dtype]).itemsize == 1 else None


def rounded_away(block: Array, values: npt.NDArray[np.float32], starts: Integers) -> dict[str, Integers]:
    """How many float64 values of each unit become -inf, +inf or 0 as float32, (units,) each; empty if none does.

    Args:
        block: float64 (n,), one unit behind the other.
        values: the same as float32.
        starts: (units + 1,).
    """
    beyond = np.isinf(values) & np.isfinite(block)
    masks = {"below": beyond & (block < 0), "above": beyond & (block > 0), "underflowed": (values == 0) & (block != 0)}
    if not any(mask.any() for mask in masks.values()):
        return {}
    return {name: np.diff(np.searchsorted(np.flatnonzero(mask), starts)) for name, mask in masks.items()}


def _sort_each(patterns: Patterns, starts: Integers) -> None:
    """Sorts the patterns of each unit in place: neighbours of one size as a matrix, which is fastest."""
    sizes = np.diff(starts)
    turns = np.flatnonzero(np.append(True, sizes[1:] != sizes[:-1]))
    if turns.size > 1 and turns.size * SORTED_ALONE > patterns.size:
        places = (np.repeat(np.arange(sizes.size, dtype=np.uint64), sizes) << np.uint64(32)) | patterns
        places.sort()
        patterns[:] = places.astype(np.uint32)
        return
    for first, last in pairwise([*turns.tolist(), sizes.size]):
        patterns[starts[first] : starts[last]].reshape(last - first, int(sizes[first])).sort(axis=1)
