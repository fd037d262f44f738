"""Sketches of many rows at once: what calibration may know of each channel or group, an array axis for all of them.

One row's sketch is that of ``klcal.sketches.sketch`` with an absolute resolution: full precision in the octave of
the row's largest magnitude and the one below, a mantissa bit less in each further octave, never fewer than bfloat16.
The resolution depends on the largest magnitude alone, so these sketches merge exactly too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.granularity import Layout
from klcal.sketches.counting import MANTISSA_BITS, SHIFT, merge_buckets, values_of

__all__ = ["KEY_BITS", "RowSketch", "dropped_bits", "row_sketches"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint32]

KEY_BITS = MANTISSA_BITS + 9  # of a bucket's key, below the number of its row
FINE_OCTAVES = 2  # below the largest magnitude, at full precision: a threshold is rarely chosen lower
MOST_DROPPED = MANTISSA_BITS - 7  # bits: bfloat16 keeps its own buckets
BLOCK = 1 << 17  # values sorted and searched at a time: their arrays stay in the cache
WIDE_BLOCK = 1 << 22  # values brought together at a time, where those of a row lie apart
MOST_ROWS = 1 << 12  # counted at a time then


def dropped_bits(keys: npt.NDArray[Any], top: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """How many mantissa bits the buckets of some keys lack, ``top`` being the exponent of their row's maximum."""
    exponent = (keys >> MANTISSA_BITS) & 0xFF
    dropped: npt.NDArray[Any] = np.clip(top - exponent - (FINE_OCTAVES - 1), 0, MOST_DROPPED)
    return dropped


def _exponents(minimum: npt.NDArray[Any], maximum: npt.NDArray[Any]) -> Integers:
    """Of the largest magnitude of each row, biased as float32 has it; 0 where there is none."""
    largest = np.maximum(np.where(maximum > -np.inf, maximum, 0), np.where(minimum < np.inf, -minimum, 0))
    return (largest.astype(np.float32).view(np.uint32) >> 23).astype(np.int64)


@dataclass(frozen=True, eq=False)
class RowSketch:
    """Counts per row and bucket, and what was not binned.

    Laws, exact, as those of ``Sketch``:

        of(a ++ b) == of(a) + of(b), row by row;  + is associative and commutative
    """

    keys: Integers  # row · 2^KEY_BITS + the bucket's key, ascending
    counts: Integers
    zeros: Integers  # (rows,), as all below
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    minimum: Floats  # of the finite values that are not zero; inf where there are none
    maximum: Floats
    exact: npt.NDArray[np.bool_]  # every value is the edge of its bucket nearest to zero

    @staticmethod
    def empty(rows: int) -> RowSketch:
        """Of no values."""
        nothing, none = np.empty(0, np.int64), np.zeros(rows, np.int64)
        extremes = np.full(rows, np.inf), np.full(rows, -np.inf)
        return RowSketch(nothing, nothing, none, none, none, none, *extremes, np.ones(rows, bool))

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.zeros.size

    @property
    def row(self) -> Integers:
        """The row of each bucket."""
        return self.keys >> KEY_BITS

    @property
    def tops(self) -> Integers:
        """The biased exponent of each row's largest magnitude."""
        return _exponents(self.minimum, self.maximum)

    @property
    def nonzero(self) -> Integers:
        """Finite values that are not zero, of each row."""
        sums = np.bincount(self.row, weights=self.counts, minlength=self.rows)  # exact below 2⁵³
        return sums.astype(np.int64)

    @property
    def nonfinite(self) -> Integers:
        """NaN and infinite values of each row."""
        return self.nan + self.neg_inf + self.pos_inf

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowSketch):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    def __add__(self, other: RowSketch) -> RowSketch:
        return _merged(self, other)

    def __getitem__(self, some: slice) -> RowSketch:
        """Some consecutive rows."""
        first, last, _ = some.indices(self.rows)
        begin, end = np.searchsorted(self.keys, [first << KEY_BITS, last << KEY_BITS])
        per_row = {f.name: getattr(self, f.name)[first:last] for f in fields(self)[2:]}
        return RowSketch(self.keys[begin:end] - (first << KEY_BITS), self.counts[begin:end], **per_row)


def _merged(one: RowSketch, other: RowSketch) -> RowSketch:
    """The sum of two sketches of the same rows."""
    minimum, maximum = np.minimum(one.minimum, other.minimum), np.maximum(one.maximum, other.maximum)
    keys = np.concatenate([one.keys, other.keys])
    row = keys >> KEY_BITS
    drop = dropped_bits(keys, _exponents(minimum, maximum)[row])
    coarse = keys >> drop << drop
    exact = one.exact & other.exact
    exact[row[coarse != keys]] = False
    return RowSketch(
        *merge_buckets(coarse, np.concatenate([one.counts, other.counts])),
        one.zeros + other.zeros,
        one.nan + other.nan,
        one.neg_inf + other.neg_inf,
        one.pos_inf + other.pos_inf,
        minimum,
        maximum,
        exact,
    )


def row_sketches(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout) -> Iterator[RowSketch]:
    """Sketches of consecutive rows, in the order of the values; together they have every row once.

    Args:
        chunks: the values, flat, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``).
        dtype: of the values.
        layout: to which rows they belong. Where the values of a row lie together, each piece is given as soon as it
            is complete, else at the end.
    """
    yield from _complete(chunks, dtype, layout) if layout.ordered else _scattered(chunks, dtype, layout)


def _complete(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout) -> Iterator[RowSketch]:
    """Of rows that lie together."""
    position = 0
    begun: RowSketch | None = None  # the row that the last block did not finish
    for block in (chunk[start : start + BLOCK] for chunk in chunks for start in range(0, chunk.size, BLOCK)):
        begins, row = layout.runs(position, block.size)
        position += block.size
        found = _counted(_singles(block, dtype), begins, row - row[0], int(row[-1] - row[0]) + 1)
        if begun is not None:
            found = _joined(begun + found[:1], found[1:])
        whole = found.rows if layout.ends(int(row[-1]), position) else found.rows - 1
        begun = found[whole:] if whole < found.rows else None
        if whole:
            yield found[:whole]


def _joined(head: RowSketch, tail: RowSketch) -> RowSketch:
    """Rows behind rows."""
    parts = {f.name: np.concatenate([getattr(head, f.name), getattr(tail, f.name)]) for f in fields(RowSketch)[1:]}
    return RowSketch(np.concatenate([head.keys, tail.keys + (head.rows << KEY_BITS)]), **parts)


def _scattered(chunks: Iterable[npt.NDArray[Any]], dtype: str, layout: Layout) -> Iterator[RowSketch]:
    """Of rows whose values lie apart: many are brought together before they are counted, a few rows at a time."""
    width = min(MOST_ROWS, max(1, BLOCK * layout.rows // WIDE_BLOCK))
    firsts = np.arange(0, layout.rows, width)
    found = [RowSketch.empty(min(width, layout.rows - first)) for first in firsts.tolist()]
    position = 0
    for block in _wide(chunks):
        begins, row = layout.runs(position, block.size)
        position += block.size
        if layout.rows <= 1 << 16:
            row = row.astype(np.uint16)  # whose sort is one by digits
        each = row if row.size == block.size else np.repeat(row, np.diff(begins, append=block.size))
        order = np.argsort(each, kind="stable")
        each, values = each[order], block[order]
        ends = np.append(np.searchsorted(each, firsts), each.size)
        for number, first in enumerate(firsts.tolist()):
            some = slice(ends[number], ends[number + 1])
            rows = each[some].astype(np.int64) - first
            runs = np.flatnonzero(np.diff(rows, prepend=-1))
            found[number] += _counted(_singles(values[some], dtype), runs, rows[runs], found[number].rows)
    yield from found


def _wide(chunks: Iterable[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    held: list[npt.NDArray[Any]] = []
    for chunk in chunks:
        held.append(chunk.copy())  # which is only valid until the next one is asked for
        if sum(each.size for each in held) >= WIDE_BLOCK:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _singles(block: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return values_of(block, dtype).astype(np.float32, copy=False)


def _counted(values: npt.NDArray[np.float32], begins: Integers, row: Integers, rows: int) -> RowSketch:
    """The sketch of values that belong, from each of some places on, to a row."""
    lengths = np.diff(begins, append=values.size)
    found = RowSketch.empty(rows)
    kept = (values != 0) & np.isfinite(values)
    if not kept.all():
        each = np.repeat(row, lengths)
        masks = values == 0, np.isnan(values), values == -np.inf, values == np.inf
        zeros, nan, neg_inf, pos_inf = (np.bincount(each[mask], minlength=rows) for mask in masks)
        found = replace(found, zeros=zeros, nan=nan, neg_inf=neg_inf, pos_inf=pos_inf)
        values, each = values[kept], each[kept]
        begins = np.flatnonzero(np.diff(each, prepend=-1))
        row, lengths = each[begins], np.diff(begins, append=values.size)
    if not values.size:
        return found
    least, greatest = np.full((2, rows), [[np.inf], [-np.inf]], np.float32)  # at is fast where the dtypes are the same
    np.minimum.at(least, row, _per_run(np.minimum, values, begins))
    np.maximum.at(greatest, row, _per_run(np.maximum, values, begins))
    bits = values.view(np.uint32)
    keys = bits >> np.uint32(SHIFT)
    tops = _exponents(least, greatest).astype(np.int32)
    drop = dropped_bits(keys.view(np.int32), np.repeat(tops[row], lengths)).view(np.uint32)
    coarse = keys >> drop << drop
    lost = _per_run(np.bitwise_or, bits ^ (coarse << np.uint32(SHIFT)), begins) != 0
    found.exact[row[lost]] = False
    buckets, counts = _buckets(coarse, np.repeat(row, lengths), rows)
    extremes = least.astype(np.float64), greatest.astype(np.float64)
    return replace(found, keys=buckets, counts=counts, minimum=extremes[0], maximum=extremes[1])


def _per_run(ufunc: np.ufunc, values: npt.NDArray[Any], begins: Integers) -> npt.NDArray[Any]:
    return values if begins.size == values.size else ufunc.reduceat(values, begins)


def _buckets(keys: Bits, row: Integers, rows: int) -> tuple[Integers, Integers]:
    """The buckets of all rows, ascending, and how many values each has."""
    narrow = rows <= 1 << (32 - KEY_BITS)  # 32 bits are sorted twice as fast
    places = keys + (row.astype(np.uint32) << np.uint32(KEY_BITS)) if narrow else keys + (row << KEY_BITS)
    places.sort()
    first = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
    return places[first].astype(np.int64), np.diff(first, append=places.size)
