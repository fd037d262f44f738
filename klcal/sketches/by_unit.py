"""Sketches of many units at once: the channels or groups of a tensor. A layout says where the values of each lie.

The values of each unit are sorted as integers, and equal ones are counted. Where the values of a unit lie together,
units are the rows of a matrix. Where they lie apart, those of many units are brought together first. Long units, and
units of a coarse resolution, are counted in tables instead.

Four functions know the four ways in which values can lie: ``_one_by_one`` (long units), ``_complete`` (short units, one
behind the other), ``_taking_turns`` and ``_in_parts`` (columns of a matrix, channels of an activation), ``_scattered``
(blocks of a weight). Each gives functions without arguments that count some consecutive units, so several threads can.
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
    """Sketches of consecutive units, in the order of the values; together they have every unit once.

    Args:
        chunks: as for ``unit_counts``, as are all others.
        dtype: of the values.
        layout: to which units they belong.
        resolution: of the sketches.
    """
    return (count() for count in unit_counts(chunks, dtype, layout, resolution, fresh=False))


def unit_counts(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution = UNITS, *, fresh: bool = True
) -> Iterator[Count]:
    """Functions that count consecutive units, in the order of the values; together they count every unit once.

    Args:
        chunks: the values, flat arrays of any size, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values, a key of ``FLOAT_DTYPES``.
        layout: to which units they belong. Where the values of a unit lie together, it is counted as soon as it is
            complete. Else it is counted together with the units that take turns with it.
        resolution: of the sketches.
        fresh: whether each function has values of its own, so that several threads may call them at any time. If not,
            each has to be called before the next one is asked for.
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
    """Long units, each of which lies together: each is counted as a tensor is.

    Args:
        chunks: as for ``unit_counts``, as are all others. Values are counted at once, so they need not be fresh.
        dtype: of the values.
        layout: to which units they belong.
        resolution: of the sketches.
    """
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
    """The values in blocks of these sizes.

    Args:
        chunks: flat arrays of one dtype and any size.
        sizes: of the blocks, in values; as many as are needed. The last block may be shorter.
        fresh: whether each block keeps its values. If not, it is valid until the next one is asked for.
    """
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
    """How many values are sorted together, in units of ``size`` values each: enough to fill the lanes of the kernel."""
    if not library():
        return BLOCK
    return TOGETHER * max(BLOCK, LANES * size if size <= MOST_IN_LANES else 0)


def _complete(
    chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, fresh: bool
) -> Iterator[Count]:
    """Units that each lie together, one behind the other: as many at a time as ``_at_once`` says.

    A unit that a block does not finish is completed with the next block. Arguments are those of ``unit_counts``.
    """
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
    """Units whose runs take turns, as those of columns do, where all values of a slab are there at once.

    A slab is the values between the first and the last value of a unit: of an activation [N, C, H, W] per channel all
    of it. Arguments are those of ``unit_counts``.
    """
    slabs = max(1, BLOCK // layout.slab)
    for block in filled(chunks, repeat(slabs * layout.slab), fresh=fresh):
        yield from _of_slabs(block, dtype, layout, layout.slab, resolution)


def _in_parts(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """The same of slabs that there is no room for: the sketches of some turns are added up. This counts at once."""
    part = WIDE_BLOCK // layout.period * layout.period
    sizes = [min(part, layout.slab - first) for first in range(0, layout.slab, part)]
    found: list[Sketch] = []
    for number, block in enumerate(filled(chunks, cycle(sizes))):
        some = (count() for count in _of_slabs(block, dtype, layout, block.size, resolution))
        found = [one + other for one, other in zip(found, some, strict=True)] if number % len(sizes) else list(some)
        if number % len(sizes) == len(sizes) - 1:
            yield from map(counted_before, found)


def counted_before(found: Sketch) -> Count:
    """A function that gives a sketch that is known already."""
    return lambda: found


def _of_slabs(block: Array, dtype: str, layout: Layout, slab: int, resolution: Resolution) -> Iterator[Count]:
    """Functions that count the units of some slabs, or of a part of one slab, some units at a time.

    Args:
        block: the values, flat; several whole slabs, or one, or some turns of one.
        dtype: of the values.
        layout: of the tensor.
        slab: how many values of the block are one slab, or the part of it.
        resolution: of the sketches.
    """
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
    """The sketch of units of one size whose runs take turns.

    Args:
        block: the values, flat.
        dtype: of the values.
        turns: how many units take turns, and how many values of each lie together in a turn.
        size: values of a unit.
        units: which of them; all, where the block has several slabs.
        resolution: of the sketch.
    """
    starts = np.arange(units.stop - units.start + 1) * size
    if library():
        return compiled_sketch(block, dtype, starts, resolution, turns, units.start)
    columns, run = turns
    slabs = block.reshape(-1, size // run, columns, run)
    some = slabs[:, :, units] if len(slabs) == 1 else slabs
    return _counted(some.swapaxes(1, 2).ravel(), dtype, starts, resolution)


def _scattered(chunks: Iterable[Array], dtype: str, layout: Layout, resolution: Resolution, _: bool) -> Iterator[Count]:
    """Units whose values lie apart, as those of blocks do: ``WIDE_BLOCK`` values are brought together at a time.

    The sketches of all such blocks are added up, so nothing is given before all values are there. Arguments are those
    of ``unit_counts``.
    """
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
    """Values, unit by unit.

    Args:
        block: the values, flat.
        position: of the first of them in the tensor.
        layout: of the tensor.

    Returns:
        The values of unit 0, of unit 1, …, each in their order; and (units + 1,) where those of each begin and end.
    """
    begins, unit = layout.runs(position, block.size)
    if layout.rows <= 1 << 16:
        unit = unit.astype(np.uint16)  # whose sort is one by digits
    each = unit if unit.size == block.size else np.repeat(unit, np.diff(begins, append=block.size))
    starts = np.append(0, np.cumsum(np.bincount(each, minlength=layout.rows)))
    return block[np.argsort(each, kind="stable")], starts


def sketch_each(arrays: Sequence[Array], dtype: str) -> Sketch:
    """The sketch of some small tensors of one dtype, a unit for each, in the resolution of tensors."""
    starts = np.append(0, np.cumsum([array.size for array in arrays]))
    return _counted(np.concatenate(arrays), dtype, starts, TENSOR)


def _counted(block: Array, dtype: str, starts: Integers, resolution: Resolution) -> Sketch:
    """The sketch of units whose values stand one unit behind the other.

    Args:
        block: the values, flat.
        dtype: of the values.
        starts: (units + 1,), where the values of each unit begin and end.
        resolution: of the sketch.
    """
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
    """The sketch with finite float64 values beyond float32 in ``overflowed``; they were counted as infinite.

    Args:
        found: what was counted of the values as float32.
        rounded: what ``rounded_away`` gave; nothing where no value was changed.
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
    """What ``_counted`` gives, by the compiled kernel, wherever the values lie.

    Args:
        block: the values, flat.
        dtype: of the values.
        starts: (units + 1,), where the values of each unit would begin and end one unit behind the other.
        resolution: of the sketch.
        turns: of how many units how many values each take turns; of no units, where each lies together.
        first: the number of the first unit, where units take turns.
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
    """(256,): the float32 pattern that each byte stands for, if values of this type are one byte."""
    return pattern_values(dtype).view(np.uint32) if np.dtype(FLOAT_DTYPES[dtype]).itemsize == 1 else None


def rounded_away(block: Array, values: npt.NDArray[np.float32], starts: Integers) -> dict[str, Integers]:
    """How many finite float64 values of each unit become infinite or 0 as float32.

    Args:
        block: the values, as float64.
        values: the same, rounded to float32.
        starts: (units + 1,), where the values of each unit begin and end.

    Returns:
        (units,) each: how many become -inf (``below``), +inf (``above``), 0 (``underflowed``). Empty where none does.
    """
    beyond = np.isinf(values) & np.isfinite(block)
    masks = {"below": beyond & (block < 0), "above": beyond & (block > 0), "underflowed": (values == 0) & (block != 0)}
    if not any(mask.any() for mask in masks.values()):
        return {}
    return {name: np.diff(np.searchsorted(np.flatnonzero(mask), starts)) for name, mask in masks.items()}


def _sort_each(patterns: Patterns, starts: Integers) -> None:
    """Sorts the patterns of each unit in place.

    Neighbours of one size are sorted as the rows of a matrix, which is fastest. Where sizes change often, all units are
    sorted at once, as pairs of a unit and a pattern.

    Args:
        patterns: of all units, one unit behind the other.
        starts: (units + 1,), where those of each unit begin and end.
    """
    sizes = np.diff(starts)
    turns = np.flatnonzero(np.append(True, sizes[1:] != sizes[:-1]))
    if turns.size > 1 and turns.size * SORTED_ALONE > patterns.size:
        places = (np.repeat(np.arange(sizes.size, dtype=np.uint64), sizes) << np.uint64(32)) | patterns
        places.sort()
        patterns[:] = places.astype(np.uint32)
        return
    for first, last in pairwise([*turns.tolist(), sizes.size]):
        patterns[starts[first] : starts[last]].reshape(last - first, int(sizes[first])).sort(axis=1)
