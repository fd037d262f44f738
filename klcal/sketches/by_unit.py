"""Sketches of many units at once: channels or groups of a tensor, of which a layout says where their values lie.

The values of each unit are sorted, as integers, and equal ones counted: where they lie together, units are the rows of
a matrix; where they lie apart, many are brought together before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.layout import Layout
from klcal.sketches.counted import counted_patterns
from klcal.sketches.counting import BLOCK as COUNTER_BLOCK
from klcal.sketches.counting import counter, values_of
from klcal.sketches.importance import Importance, split_weights
from klcal.sketches.patterns import (
    TENSOR,
    UNITS,
    Floats,
    Integers,
    Patterns,
    Resolution,
    runs,
    summed_weights,
)
from klcal.sketches.sketch import Sketch

__all__ = ["unit_sketches", "weighted_sketch"]

BLOCK = 1 << 17  # values sorted at a time: their arrays stay in the cache
WIDE_BLOCK = 1 << 22  # values brought together at a time, where those of a unit lie apart: some 100 MB
LONG = 1 << 17  # values of a unit from which clearing and scanning a table of buckets for it pays
MOST_UNITS = 1 << 12  # counted at a time then
SORTED_ALONE = 1 << 10  # values from which a call to sort some units of one size pays

Array = npt.NDArray[Any]


def unit_sketches(
    chunks: Iterable[Array],
    dtype: str,
    layout: Layout,
    resolution: Resolution = UNITS,
    importance: Importance | None = None,
) -> Iterator[Sketch]:
    """Sketches of consecutive units, in the order of the values; together they have every unit once.

    Args:
        chunks: the values, flat, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: to which units they belong. Where the values of a unit lie together, each piece is given as soon as it
            is complete, else at the end.
        resolution: of the sketches.
        importance: of the values, in their order; None where all count alike.
    """
    if not layout.ordered:
        yield from _scattered(chunks, dtype, layout, resolution, importance)
    elif layout.run < LONG or importance is not None:
        yield from _complete(chunks, dtype, layout, resolution, importance)
    else:
        yield from _one_by_one(chunks, dtype, layout, resolution)


def weighted_sketch(
    chunks: Iterable[Array], dtype: str, importance: Importance, resolution: Resolution = TENSOR
) -> Sketch:
    """The sketch of a tensor as one unit, each of whose values has a weight."""
    found = Sketch.empty(1, resolution)
    position = 0
    for block in _blocks(chunks, BLOCK):
        weights = importance.at(position, block.size)
        found += _weighted(block, weights, dtype, np.array([0, block.size]), importance.heaviest, resolution)
        position += block.size
    return found


def _one_by_one(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution) -> Iterator[Sketch]:
    """Of long units that lie together: each counted as a tensor is."""
    position = 0
    begun = counter(dtype, resolution)
    for block in _blocks(chunks, COUNTER_BLOCK):
        begins, unit = layout.runs(position, block.size)
        for number, (begin, end) in zip(unit.tolist(), pairwise([*begins.tolist(), block.size]), strict=True):
            begun.add(block[begin:end])
            if layout.ends(number, position + end):
                yield begun.sketch()
                begun = counter(dtype, resolution)
        position += block.size


def _blocks(chunks: Iterable[Array], size: int) -> Iterator[Array]:
    return (chunk[start : start + size] for chunk in chunks for start in range(0, chunk.size, size))


def _complete(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, importance: Importance | None
) -> Iterator[Sketch]:
    """Of units that lie together."""
    position = 0
    begun: Sketch | None = None  # the unit that the last block did not finish
    for block in _blocks(chunks, BLOCK):
        begins, unit = layout.runs(position, block.size)
        starts = np.append(begins, block.size)
        if importance is None:
            found = _counted(block, dtype, starts, resolution)
        else:
            weights = importance.at(position, block.size)
            found = _weighted(block, weights, dtype, starts, importance.heaviest[unit], resolution)
        position += block.size
        if begun is not None:
            found = Sketch.stack([begun + found[:1], found[1:]])
        whole = found.units if layout.ends(int(unit[-1]), position) else found.units - 1
        begun = found[whole:] if whole < found.units else None
        if whole:
            yield found[:whole]


def _scattered(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, importance: Importance | None
) -> Iterator[Sketch]:
    """Of units whose values lie apart: many are brought together before they are counted, a few units at a time."""
    width = min(MOST_UNITS, max(1, BLOCK * layout.rows // WIDE_BLOCK))
    firsts = range(0, layout.rows, width)
    found = [Sketch.empty(min(width, layout.rows - first), resolution) for first in firsts]
    position = 0
    for block in _wide(chunks, layout.period):
        values, starts = _by_unit(block, position, layout)
        weights = None if importance is None else _by_unit(importance.at(position, block.size), position, layout)[0]
        position += block.size
        for number, first in enumerate(firsts):
            some = starts[first : first + width + 1]
            if some[0] == some[-1]:
                continue
            mine, its_starts = slice(some[0], some[-1]), some - some[0]
            if weights is None or importance is None:
                found[number] += _counted(values[mine], dtype, its_starts, resolution)
            else:
                heaviest = importance.heaviest[first : first + width]
                found[number] += _weighted(values[mine], weights[mine], dtype, its_starts, heaviest, resolution)
    yield from found


def _wide(chunks: Iterable[Array], period: int) -> Iterator[Array]:
    """Many values at a time, and every index of the axis as often, where that is not too many."""
    held: list[Array] = []
    for chunk in chunks:
        held.append(chunk.copy())  # which is only valid until the next one is asked for
        if sum(each.size for each in held) >= WIDE_BLOCK:
            block = np.concatenate(held)
            whole = block.size // period * period or block.size
            yield block[:whole]
            held = [block[whole:].copy()]
    if sum(each.size for each in held):
        yield np.concatenate(held)


def _by_unit(block: Array, position: int, layout: Layout) -> tuple[Array, Integers]:
    """The values from a position on, unit by unit, and where in that order each unit begins and ends."""
    if layout.periodic and position % layout.period == block.size % layout.period == 0:
        matrix = block.reshape(-1, layout.rows, layout.run).swapaxes(0, 1)
        return matrix.ravel(), np.arange(layout.rows + 1) * (block.size // layout.rows)
    begins, unit = layout.runs(position, block.size)
    if layout.rows <= 1 << 16:
        unit = unit.astype(np.uint16)  # whose sort is one by digits
    each = unit if unit.size == block.size else np.repeat(unit, np.diff(begins, append=block.size))
    starts = np.append(0, np.cumsum(np.bincount(each, minlength=layout.rows)))
    return block[np.argsort(each, kind="stable")], starts


def _counted(block: Array, dtype: str, starts: Integers, resolution: Resolution) -> Sketch:
    """The sketch of units whose values stand one unit behind the other."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = values_of(block, dtype).astype(np.float32)  # a copy: it is sorted in place
    patterns = values.view(np.uint32)
    rounded = _rounded_away(block, values, starts) if dtype == "float64" else {}
    _sort_each(patterns, starts)
    found = counted_patterns(*runs(patterns, starts), resolution)
    return _less_rounded(found, rounded)


def _less_rounded(found: Sketch, rounded: dict[str, Integers]) -> Sketch:
    """The sketch, in which what is beyond float32 was counted as infinite."""
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


def _weighted(
    block: Array, weights: Integers, dtype: str, starts: Integers, heaviest: Floats, resolution: Resolution
) -> Sketch:
    """``_counted`` of values that have a weight each, relative to the heaviest of their unit."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = values_of(block, dtype).astype(np.float32, copy=False)
    rounded = _rounded_away(block, values, starts) if dtype == "float64" else {}
    patterns = values.view(np.uint32)
    unit = np.repeat(np.arange(starts.size - 1, dtype=np.uint64), np.diff(starts))
    order = np.argsort((unit << np.uint64(32)) | patterns)
    patterns, weights = patterns[order], weights[order]
    together = summed_weights(patterns, split_weights(weights), starts)
    found = counted_patterns(*runs(patterns, starts), resolution, together, heaviest=heaviest)
    return _less_rounded(found, rounded)


def _rounded_away(block: Array, values: npt.NDArray[np.float32], starts: Integers) -> dict[str, Integers]:
    """How many finite float64 values of each unit become -inf, +inf or 0 as float32; nothing where none does."""
    beyond = np.isinf(values) & np.isfinite(block)
    masks = {"below": beyond & (block < 0), "above": beyond & (block > 0), "underflowed": (values == 0) & (block != 0)}
    if not any(mask.any() for mask in masks.values()):
        return {}
    return {name: np.diff(np.searchsorted(np.flatnonzero(mask), starts)) for name, mask in masks.items()}


def _sort_each(patterns: Patterns, starts: Integers) -> None:
    """Sorts the patterns of each unit in place; those of neighbours of one size as a matrix, which is fastest."""
    sizes = np.diff(starts)
    turns = np.flatnonzero(np.append(True, sizes[1:] != sizes[:-1]))
    if turns.size > 1 and turns.size * SORTED_ALONE > patterns.size:
        places = (np.repeat(np.arange(sizes.size, dtype=np.uint64), sizes) << np.uint64(32)) | patterns
        places.sort()
        patterns[:] = places.astype(np.uint32)
        return
    for first, last in pairwise([*turns.tolist(), sizes.size]):
        patterns[starts[first] : starts[last]].reshape(last - first, int(sizes[first])).sort(axis=1)
