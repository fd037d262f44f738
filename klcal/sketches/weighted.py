"""Sketches of values that have weights, because an importance is given: of a tensor, and of its units.

Values are counted as they are without weights. Then the weights of equal keys are added up: by the compiled kernel, or
by NumPy, which sorts the values together with their weights. Values are read in blocks, if possible of whole units;
else the sketches of blocks are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.units import unit_weights
from klcal.quantizers.layout import Layout
from klcal.sketches.by_unit import BLOCK, MOST_UNITS, brought_together, filled
from klcal.sketches.counted import counted_patterns
from klcal.sketches.counting import values_of
from klcal.sketches.importance import Importance, split_weights
from klcal.sketches.patterns import TENSOR, UNITS, Floats, Integers, Resolution, runs, summed_weights
from klcal.sketches.sketch import Sketch
from klcal.sketches.sorted_units import byte_patterns, compiled_sketch, less_rounded, rounded_away

__all__ = ["weighted_sketch", "weighted_unit_sketches"]

TENSOR_BLOCK = 1 << 19  # values of a tensor that is one unit: 16 ns each; 23 in smaller blocks, which are added
SLAB = 1 << 24  # values held at most if their units take turns: some 200 MB with their weights
WIDE_BLOCK = 1 << 22  # values held at most if those of a unit lie apart otherwise: as much, with what sorts them

Array = npt.NDArray[Any]


def weighted_sketch(
    chunks: Iterable[Array], dtype: str, importance: Importance, resolution: Resolution = TENSOR
) -> Sketch:
    """The sketch of a tensor as one unit.

    Args:
        chunks: the values as flat arrays, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        importance: the weights of the values, in the same order.
        resolution: of the sketch.
    """
    found = Sketch.empty(1, resolution)
    position = 0
    for block in filled(chunks, repeat(TENSOR_BLOCK)):
        weights = importance.at(position, block.size)
        found += _counted(block, weights, dtype, np.array([0, block.size]), importance.heaviest, resolution)
        position += block.size
    return found


def weighted_unit_sketches(
    chunks: Iterable[Array], dtype: str, layout: Layout, importance: Importance, resolution: Resolution = UNITS
) -> Iterator[Sketch]:
    """Sketches of consecutive units, in the order of the values; together they have every unit once.

    Args:
        chunks: the values as flat arrays, in storage form.
        dtype: of the values.
        layout: says to which unit each value belongs.
        importance: the weights of the values, in the same order.
        resolution: of the sketches.
    """
    takes_turns = 0 < layout.slab <= SLAB
    together = _complete if layout.ordered else _taking_turns if takes_turns else _scattered
    yield from together(chunks, dtype, layout, resolution, importance)


def _complete(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, importance: Importance
) -> Iterator[Sketch]:
    """``weighted_unit_sketches`` of units that lie one behind the other."""
    position = 0
    begun: Sketch | None = None  # the sketch of a unit that the last block did not finish
    line = layout.period if layout.period <= BLOCK else layout.run
    whole_lines = BLOCK // line * line  # such a block ends with a unit, so that no sketches need be added
    for block in filled(chunks, repeat(whole_lines or BLOCK)):
        begins, unit = layout.runs(position, block.size)
        starts, weights = np.append(begins, block.size), importance.at(position, block.size)
        found = _counted(block, weights, dtype, starts, importance.heaviest[unit], resolution)
        position += block.size
        if begun is not None:
            found = Sketch.stack([begun + found[:1], found[1:]])
        whole = found.units if layout.ends(int(unit[-1]), position) else found.units - 1
        begun = found[whole:] if whole < found.units else None
        if whole:
            yield found[:whole]


def _taking_turns(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, importance: Importance
) -> Iterator[Sketch]:
    """``weighted_unit_sketches`` of units whose runs take turns in slabs: whole slabs are held, with their weights."""
    columns = layout.period // layout.run
    size = layout.slab // columns  # of a unit
    width = max(1, BLOCK // size)  # units that are brought together at a time: at least those of a block
    position = unit = 0
    for block in filled(chunks, repeat(max(1, BLOCK // layout.slab) * layout.slab)):
        arrays = block, importance.at(position, block.size)
        turns = [each.reshape(-1, size // layout.run, columns, layout.run) for each in arrays]
        position += block.size
        for first in range(0, columns, width):
            values, weights = (each[:, :, first : first + width].swapaxes(1, 2).ravel() for each in turns)
            starts = np.arange(0, values.size + 1, size)
            heaviest = importance.heaviest[unit : unit + starts.size - 1]
            unit += heaviest.size
            yield _counted(values, weights, dtype, starts, heaviest, resolution)


def _scattered(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, importance: Importance
) -> Iterator[Sketch]:
    """``weighted_unit_sketches`` of units whose values lie apart: those of a block are sorted by unit, then counted."""
    width = min(MOST_UNITS, max(1, BLOCK * layout.rows // WIDE_BLOCK))
    firsts = range(0, layout.rows, width)
    found = [Sketch.empty(min(width, layout.rows - first), resolution) for first in firsts]
    position = 0
    for block in filled(chunks, repeat(WIDE_BLOCK)):
        values, starts = brought_together(block, position, layout)
        weights, _ = brought_together(importance.at(position, block.size), position, layout)
        position += block.size
        for number, first in enumerate(firsts):
            some = starts[first : first + width + 1]
            if some[0] == some[-1]:
                continue
            mine, heaviest = slice(some[0], some[-1]), importance.heaviest[first : first + width]
            found[number] += _counted(values[mine], weights[mine], dtype, some - some[0], heaviest, resolution)
    yield from found


def _counted(
    block: Array, weights: Integers, dtype: str, starts: Integers, heaviest: Floats, resolution: Resolution
) -> Sketch:
    """The sketch of units whose values stand one unit behind the other.

    Args:
        block: the values, (n,), in storage form.
        weights: (n,), int64: the weight of each value, relative to the heaviest of its unit.
        dtype: of the values.
        starts: (units + 1,), where the values of each unit begin and end.
        heaviest: (units,), the largest importance of each unit.
        resolution: of the sketch.
    """
    if library():
        counted = compiled_sketch(block, dtype, starts, resolution)
        keys = counted.keys, counted.starts
        weighed = unit_weights(block, dtype, np.ascontiguousarray(starts), weights, keys, byte_patterns(dtype))
        return replace(counted, weights=weighed, heaviest=heaviest)
    with np.errstate(over="ignore", invalid="ignore"):
        values = values_of(block, dtype).astype(np.float32, copy=False)
    rounded = rounded_away(block, values, starts) if dtype == "float64" else {}
    patterns = values.view(np.uint32)
    unit = np.repeat(np.arange(starts.size - 1, dtype=np.uint64), np.diff(starts))
    order = np.argsort((unit << np.uint64(32)) | patterns)
    patterns, weights = patterns[order], weights[order]
    together = summed_weights(patterns, split_weights(weights), starts)
    found = counted_patterns(*runs(patterns, starts), resolution, together, heaviest=heaviest)
    return less_rounded(found, rounded)
