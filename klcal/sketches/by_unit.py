"""Sketches of many units at once: the channels, groups or blocks of a tensor, which are read in one pass.

The values of each unit are sorted as integers, and equal ones counted. A layout says where the values of a unit lie.
There are four cases:

- Units lie one behind the other (``layout.ordered``): each is complete as soon as its last value was read.
- So do long units: each is counted as a tensor is, which is faster than sorting.
- Units take turns, as columns do, in slabs that repeat: all values of a slab are held, and its units sorted.
- Their values lie apart in another way: blocks of values are sorted by unit, and sketches of the blocks added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle, pairwise, repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.threads import threads
from klcal.kernels.units import LANES, MOST_IN_LANES, TABLE_BITS
from klcal.quantizers.layout import Layout
from klcal.sketches.counting import counter
from klcal.sketches.numpy_counting import BLOCK as COUNTER_BLOCK
from klcal.sketches.patterns import TENSOR, UNITS, Integers, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.sorted_units import compiled_sketch, sorted_sketch

__all__ = [
    "Count",
    "brought_together",
    "counted_before",
    "filled",
    "sketch_each",
    "unit_counts",
    "unit_sketches",
]

BLOCK = 1 << 17  # values sorted at a time: their arrays stay in the cache, and their memory in the process
WIDE_BLOCK = 1 << 24  # values held at most if those of a unit lie apart: 64 MiB of float32
TOGETHER = 8  # blocks for one call of the compiled kernel: it hides what a call costs; more lose time to new memory
LONG = 1 << 17  # values of a unit from which a table of buckets is faster than sorting
COMPILED_LONG = 1 << 18  # the same for compiled sorting: 4.1 ns a float32; a table 7 ns, for half the values 12
MOST_UNITS = 1 << 12  # units counted at a time, if their values lie apart

Array = npt.NDArray[Any]


class Count(NamedTuple):
    """Counts consecutive units when it is called, and returns their sketch. It holds their values."""

    units: int
    sketch: Callable[[], Sketch]

    def __call__(self) -> Sketch:
        """The sketch of the units."""
        return self.sketch()


def unit_sketches(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution = UNITS
) -> Iterator[Sketch]:
    """Sketches of consecutive units, in the order of the values: see ``unit_counts``.

    >>> from klcal.quantizers.granularity import PerGroup
    >>> from klcal.quantizers.layout import layout
    >>> [found] = unit_sketches([np.float32([1, 1, 2, 3])], "float32", layout(PerGroup(2), (2, 2)))
    >>> found.units, found.maximum.tolist(), found.counts.tolist()
    (2, [1.0, 3.0], [2, 1, 1])
    """
    return (count() for count in unit_counts(chunks, dtype, layout, resolution, fresh=False))


def unit_counts(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution = UNITS, *, fresh: bool = True
) -> Iterator[Count]:
    """Functions that count consecutive units, in the order of the values; together they have every unit once.

    Reading and counting are apart, so that several threads may count. A function is yielded as soon as all values of
    its units were read.

    Args:
        chunks: the values of the tensor as flat arrays, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: says to which unit each value belongs.
        resolution: of the sketches.
        fresh: whether a function may be called at any time. If not, it has to be called before the next one is asked
            for.
    """
    if layout.ordered:
        counted = _complete if layout.run < (COMPILED_LONG if library() else LONG) else _one_by_one
    else:
        counted = _scattered
        if layout.slab and layout.period <= WIDE_BLOCK:
            counted = _taking_turns if layout.slab <= WIDE_BLOCK else _in_parts
    yield from counted(chunks, dtype, layout, resolution, fresh)


def _one_by_one(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool
) -> Iterator[Count]:
    """``unit_counts`` of long units that lie one behind the other: each is counted as a tensor is."""
    position = 0
    begun = counter(dtype, resolution)
    for block in _blocks(chunks, COUNTER_BLOCK):
        begins, unit = layout.runs(position, block.size)
        for number, (begin, end) in zip(unit.tolist(), pairwise([*begins.tolist(), block.size]), strict=True):
            begun.add(block[begin:end])
            if layout.ends(number, position + end):
                yield Count(1, begun.sketch)
                begun = counter(dtype, resolution)
        position += block.size


def _blocks(chunks: Iterable[Array], size: int) -> Iterator[Array]:
    """The chunks, cut into views of at most ``size`` values."""
    return (chunk[start : start + size] for chunk in chunks for start in range(0, chunk.size, size))


def filled(chunks: Iterable[Array], sizes: Iterable[int], *, fresh: bool = False) -> Iterator[Array]:
    """The values of flat arrays in blocks of the wanted sizes; the last one may be smaller.

    Args:
        chunks: flat arrays of any size. Those of a sequence stay valid; one of an iterator until the next is taken.
        sizes: of the blocks; at least as many as there are blocks.
        fresh: whether each block stays valid, if need be as a copy; else it is until the next one is asked for.

    >>> [block.tolist() for block in filled([np.arange(3), np.arange(4)], repeat(2), fresh=True)]
    [[0, 1], [2, 0], [1, 2], [3]]
    """
    wanted, copies = iter(sizes), fresh and not isinstance(chunks, Sequence)
    size, used, held = next(wanted), 0, np.empty(0)
    for chunk in chunks:
        start = 0
        while start < chunk.size:
            some = chunk[start : start + size - used]
            start += some.size
            if some.size < size:
                held = held if held.size >= size else np.empty(size, chunk.dtype)
                held[used : used + some.size] = some
            used += some.size
            if used == size:
                whole = some.size == size
                yield (some.copy() if copies else some) if whole else held[:size]
                held = held if whole or not fresh else np.empty(0)
                size, used = next(wanted), 0
    if used:
        yield held[:used]


def _at_once(size: int) -> int:
    """The number of values that are sorted together, for units of ``size`` values. The kernel wants whole ``LANES``."""
    if not library():
        return BLOCK
    return TOGETHER * max(BLOCK, LANES * size if size <= MOST_IN_LANES else 0)


def _complete(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, fresh: bool
) -> Iterator[Count]:
    """``unit_counts`` of units that lie one behind the other."""
    position, rest = 0, np.empty(0)  # rest: the values of a unit that the last block did not finish
    for some in filled(chunks, repeat(max(1, _at_once(layout.run) // layout.run) * layout.run), fresh=fresh):
        block = np.concatenate([rest, some]) if rest.size else some
        begins, unit = layout.runs(position, block.size)
        starts = np.append(begins, block.size)
        if not layout.ends(int(unit[-1]), position + block.size):
            starts = starts[:-1]
        rest = block[starts[-1] :].copy()
        position += int(starts[-1])
        if starts.size > 1:
            yield Count(starts.size - 1, partial(sorted_sketch, block[: starts[-1]], dtype, starts, resolution))


def _taking_turns(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, fresh: bool
) -> Iterator[Count]:
    """``unit_counts`` of units whose runs take turns, as columns do, if all values of a slab can be held."""
    slabs = max(1, BLOCK // layout.slab)
    for block in filled(chunks, repeat(slabs * layout.slab), fresh=fresh):
        yield from _of_slabs(block, dtype, layout, layout.slab, resolution)


def _in_parts(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """As ``_taking_turns``, for slabs that are too large to be held: they come in parts, whose sketches are added."""
    part = WIDE_BLOCK // layout.period * layout.period
    sizes = [min(part, layout.slab - first) for first in range(0, layout.slab, part)]
    found: list[Sketch] = []
    for number, block in enumerate(filled(chunks, cycle(sizes))):
        some = (count() for count in _of_slabs(block, dtype, layout, block.size, resolution))
        found = [one + other for one, other in zip(found, some, strict=True)] if number % len(sizes) else list(some)
        if number % len(sizes) == len(sizes) - 1:
            yield from map(counted_before, found)


def counted_before(found: Sketch) -> Count:
    """A ``Count`` that returns a sketch that is known already."""
    return Count(found.units, lambda: found)


def _of_slabs(block: Array, dtype: str, layout: Layout, slab: int, resolution: Resolution) -> Iterator[Count]:
    """``unit_counts`` of the slabs in a block, or of a part of one slab.

    Args:
        block: whole slabs, or whole turns of one slab.
        dtype: of the values.
        layout: of the tensor.
        slab: the number of values of a slab, or of the part.
        resolution: of the sketches.
    """
    columns = layout.period // layout.run
    size = slab // columns  # of a unit
    groups, turns = [slice(0, block.size // size)], (columns, layout.run)
    if slab == block.size:
        width = max(1, BLOCK * threads() * columns // min(layout.slab, WIDE_BLOCK) // LANES) * LANES
        if library() and resolution.mantissa_bits <= TABLE_BITS:  # a table takes little room, whatever is counted in it
            width = columns
        groups = [slice(first, min(first + width, columns)) for first in range(0, columns, width)]
    for units in groups:
        yield Count(units.stop - units.start, partial(_of_turns, block, dtype, turns, size, units, resolution))


def _of_turns(
    block: Array, dtype: str, turns: tuple[int, int], size: int, units: slice, resolution: Resolution
) -> Sketch:
    """The sketch of units of one size whose runs take turns.

    Args:
        block: the values of all units that take turns.
        dtype: of the values.
        turns: how many units take turns, and how many values each has in a turn.
        size: the number of values of each unit.
        units: those that are counted.
        resolution: of the sketch.
    """
    starts = np.arange(units.stop - units.start + 1) * size
    if library():
        return compiled_sketch(block, dtype, starts, resolution, turns, units.start)
    columns, run = turns
    slabs = block.reshape(-1, size // run, columns, run)
    some = slabs[:, :, units] if len(slabs) == 1 else slabs
    return sorted_sketch(some.swapaxes(1, 2).ravel(), dtype, starts, resolution)


def _scattered(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """``unit_counts`` of units whose values lie apart: those of each block are brought together, and sketches added."""
    width = min(MOST_UNITS, max(1, BLOCK * layout.rows // WIDE_BLOCK))
    firsts = range(0, layout.rows, width)
    found = [Sketch.empty(min(width, layout.rows - first), resolution) for first in firsts]
    position = 0
    for block in filled(chunks, repeat(WIDE_BLOCK)):
        values, starts = brought_together(block, position, layout)
        position += block.size
        for number, first in enumerate(firsts):
            some = starts[first : first + width + 1]
            if some[0] < some[-1]:
                found[number] += sorted_sketch(values[some[0] : some[-1]], dtype, some - some[0], resolution)
    yield from map(counted_before, found)


def brought_together(block: Array, position: int, layout: Layout) -> tuple[Array, Integers]:
    """The values of a block, (n,), sorted by unit, and where each unit begins and ends in that order, (units + 1,).

    Args:
        block: consecutive values of a tensor.
        position: of the first of them in the tensor.
        layout: says to which unit each value belongs.
    """
    begins, unit = layout.runs(position, block.size)
    if layout.rows <= 1 << 16:
        unit = unit.astype(np.uint16)  # whose sort is one by digits
    each = unit if unit.size == block.size else np.repeat(unit, np.diff(begins, append=block.size))
    starts = np.append(0, np.cumsum(np.bincount(each, minlength=layout.rows)))
    return block[np.argsort(each, kind="stable")], starts


def sketch_each(arrays: Sequence[Array], dtype: str) -> Sketch:
    """The sketch of several small tensors, each of which is one unit: the unit ``i`` is the tensor ``i``."""
    starts = np.append(0, np.cumsum([array.size for array in arrays]))
    return sorted_sketch(np.concatenate(arrays), dtype, starts, TENSOR)
