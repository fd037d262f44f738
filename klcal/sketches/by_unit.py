"""Sketches of many units at once: channels or groups of a tensor, of which a layout says where their values lie.

The values of each unit are sorted, as integers, and equal ones counted: where they lie together, units are the rows of
a matrix; where they lie apart, many are brought together before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, pairwise, repeat
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.threads import threads
from klcal.kernels.units import LANES, MOST_IN_LANES, TABLE_BITS, counted_units
from klcal.quantizers.layout import Layout
from klcal.sketches.counted import counted_patterns
from klcal.sketches.counting import BLOCK as COUNTER_BLOCK
from klcal.sketches.counting import FLOAT_DTYPES, counter, pattern_values, values_of
from klcal.sketches.patterns import TENSOR, UNITS, Integers, Patterns, Resolution, runs
from klcal.sketches.sketch import Sketch

__all__ = [
    "Count",
    "brought_together",
    "byte_patterns",
    "compiled_sketch",
    "counted_before",
    "filled",
    "less_rounded",
    "rounded_away",
    "sketch_each",
    "unit_counts",
    "unit_sketches",
]

BLOCK = 1 << 17  # values sorted at a time: their arrays stay in the cache, and are not given back to the system
WIDE_BLOCK = 1 << 24  # values brought together at most, where those of a unit lie apart: 64 MiB of float32
TOGETHER = 8  # such blocks at once for the compiled kernel: what a call costs vanishes; more lose time to new memory
LONG = 1 << 17  # values of a unit from which clearing and scanning a table of buckets for it pays
COMPILED_LONG = 1 << 18  # and where sorting is compiled: 4.1 ns a float32, against 7 then and 12 for half as many
MOST_UNITS = 1 << 12  # counted at a time then
SORTED_ALONE = 1 << 10  # values from which a call to sort some units of one size pays

Array = npt.NDArray[Any]
Count: TypeAlias = Callable[[], Sketch]
"""Counts the values of some units, which it holds, once it is called."""


def unit_sketches(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution = UNITS
) -> Iterator[Sketch]:
    """Sketches of consecutive units, in the order of the values; together they have every unit once: see below."""
    return (count() for count in unit_counts(chunks, dtype, layout, resolution, fresh=False))


def unit_counts(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution = UNITS, *, fresh: bool = True
) -> Iterator[Count]:
    """What counts consecutive units, in the order of the values, so that several threads may; together every unit once.

    Args:
        chunks: the values, flat, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: to which units they belong. Where the values of a unit lie together, each piece is given as soon as it
            is complete, else as soon as the units are that take turns with it.
        resolution: of the sketches.
        fresh: whether each has values of its own; else it has to be called before the next is asked for.
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
    """Of long units that lie together: each counted as a tensor is."""
    position = 0
    begun = counter(dtype, resolution)
    for block in _blocks(chunks, COUNTER_BLOCK):
        begins, unit = layout.runs(position, block.size)
        for number, (begin, end) in zip(unit.tolist(), pairwise([*begins.tolist(), block.size]), strict=True):
            begun.add(block[begin:end])
            if layout.ends(number, position + end):
                yield begun.sketch
                begun = counter(dtype, resolution)
        position += block.size


def _blocks(chunks: Iterable[Array], size: int) -> Iterator[Array]:
    return (chunk[start : start + size] for chunk in chunks for start in range(0, chunk.size, size))


def filled(chunks: Iterable[Array], sizes: Iterable[int], *, fresh: bool = False) -> Iterator[Array]:
    """The values in blocks of these sizes; the last may be shorter. If not ``fresh``, each is valid until the next."""
    wanted = iter(sizes)
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
                yield (some.copy() if fresh else some) if whole else held[:size]
                held = held if whole or not fresh else np.empty(0)
                size, used = next(wanted), 0
    if used:
        yield held[:used]


def _at_once(size: int) -> int:
    """How many values are sorted together, in units of a size: the compiled kernel takes so many units at once."""
    if not library():
        return BLOCK
    return TOGETHER * max(BLOCK, LANES * size if size <= MOST_IN_LANES else 0)


def _complete(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, fresh: bool
) -> Iterator[Count]:
    """Of units that lie together."""
    position, rest = 0, np.empty(0)  # of the unit that the last block did not finish
    for some in filled(chunks, repeat(max(1, _at_once(layout.run) // layout.run) * layout.run), fresh=fresh):
        block = np.concatenate([rest, some]) if rest.size else some
        begins, unit = layout.runs(position, block.size)
        starts = np.append(begins, block.size)
        if not layout.ends(int(unit[-1]), position + block.size):
            starts = starts[:-1]
        rest = block[starts[-1] :].copy()
        position += int(starts[-1])
        if starts.size > 1:
            yield partial(_counted, block[: starts[-1]], dtype, starts, resolution)


def _taking_turns(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, fresh: bool
) -> Iterator[Count]:
    """Of units whose runs take turns, as those of columns do: all values of some of them are there at once."""
    slabs = max(1, BLOCK // layout.slab)
    for block in filled(chunks, repeat(slabs * layout.slab), fresh=fresh):
        yield from _of_slabs(block, dtype, layout, layout.slab, resolution)


def _in_parts(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """The same of more values than there is room for at once: sketches of some turns are added."""
    part = WIDE_BLOCK // layout.period * layout.period
    sizes = [min(part, layout.slab - first) for first in range(0, layout.slab, part)]
    found: list[Sketch] = []
    for number, block in enumerate(filled(chunks, cycle(sizes))):
        some = (count() for count in _of_slabs(block, dtype, layout, block.size, resolution))
        found = [one + other for one, other in zip(found, some, strict=True)] if number % len(sizes) else list(some)
        if number % len(sizes) == len(sizes) - 1:
            yield from map(counted_before, found)


def counted_before(found: Sketch) -> Count:
    """Gives a sketch that is known."""
    return lambda: found


def _of_slabs(block: Array, dtype: str, layout: Layout, slab: int, resolution: Resolution) -> Iterator[Count]:
    """Of the units of some slabs, or of parts of one, some units at a time."""
    columns = layout.period // layout.run
    size = slab // columns  # of a unit
    if slab < block.size:
        units = slice(0, block.size // size)
        yield partial(_of_turns, block, dtype, (columns, layout.run), size, units, resolution)
        return
    width = max(1, BLOCK * threads() * columns // min(layout.slab, WIDE_BLOCK) // LANES) * LANES
    if library() and resolution.mantissa_bits <= TABLE_BITS:  # a table takes little room, whatever is counted in it
        width = columns
    for first in range(0, columns, width):
        units = slice(first, min(first + width, columns))
        yield partial(_of_turns, block, dtype, (columns, layout.run), size, units, resolution)


def _of_turns(
    block: Array, dtype: str, turns: tuple[int, int], size: int, units: slice, resolution: Resolution
) -> Sketch:
    """Of units of one size whose runs take turns."""
    starts = np.arange(units.stop - units.start + 1) * size
    if library():
        return compiled_sketch(block, dtype, starts, resolution, turns, units.start)
    columns, run = turns
    slabs = block.reshape(-1, size // run, columns, run)
    some = slabs[:, :, units] if len(slabs) == 1 else slabs
    return _counted(some.swapaxes(1, 2).ravel(), dtype, starts, resolution)


def _scattered(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """Of units whose values lie apart: as many as there is room for are brought together, and the sketches added."""
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
                found[number] += _counted(values[some[0] : some[-1]], dtype, some - some[0], resolution)
    yield from map(counted_before, found)


def brought_together(block: Array, position: int, layout: Layout) -> tuple[Array, Integers]:
    """The values from a position on, unit by unit, and where in that order each unit begins and ends."""
    begins, unit = layout.runs(position, block.size)
    if layout.rows <= 1 << 16:
        unit = unit.astype(np.uint16)  # whose sort is one by digits
    each = unit if unit.size == block.size else np.repeat(unit, np.diff(begins, append=block.size))
    starts = np.append(0, np.cumsum(np.bincount(each, minlength=layout.rows)))
    return block[np.argsort(each, kind="stable")], starts


def sketch_each(arrays: Sequence[Array], dtype: str) -> Sketch:
    """The sketch of some tensors, each of one unit."""
    starts = np.append(0, np.cumsum([array.size for array in arrays]))
    return _counted(np.concatenate(arrays), dtype, starts, TENSOR)


def _counted(block: Array, dtype: str, starts: Integers, resolution: Resolution) -> Sketch:
    """The sketch of units whose values stand one unit behind the other."""
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


def compiled_sketch(
    block: Array, dtype: str, starts: Integers, resolution: Resolution, turns: tuple[int, int] = (0, 1), first: int = 0
) -> Sketch:
    """The same by the compiled kernel, wherever the values lie."""
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
    """(256,): the float32 pattern that each byte stands for, if values of this type are one byte."""
    return pattern_values(dtype).view(np.uint32) if np.dtype(FLOAT_DTYPES[dtype]).itemsize == 1 else None


def rounded_away(block: Array, values: npt.NDArray[np.float32], starts: Integers) -> dict[str, Integers]:
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
