"""Views that are not a contiguous range of bytes: slices, columns, expanded and overlapping tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from klcal.readers.description import CHUNK_BYTES, Chunk
from klcal.readers.regular import RegularFile

__all__ = ["Dim", "StridedSpan", "axis_order", "effort", "extent", "ordered_dims"]

Dim = tuple[int, int]
"""How many elements, and how many elements of storage from each to the next."""

READ_BYTES = 1 << 15  # that are counted in the time that a read takes, however short: some 20 microseconds
MAX_BLOCK_RANK = 24  # dimensions of one NumPy view, which has at most 32 before NumPy 2


def ordered_dims(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, tuple[Dim, ...]]:
    """How often each value stands in a view, and its dimensions by falling stride, merged.

    The order of the values does not matter, so a transposed tensor is as good as a contiguous one.

    >>> ordered_dims((3, 2), (1, 3))
    (1, ((6, 1),))
    >>> ordered_dims((5, 4, 3), (0, 8, 1))
    (5, ((4, 8), (3, 1)))
    """
    repeats = prod(size for size, stride in zip(shape, strides, strict=True) if stride == 0)
    dims: list[Dim] = []
    pairs = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1 and stride]
    for size, stride in sorted(pairs, key=lambda dim: dim[1], reverse=True):
        if dims and dims[-1][1] == size * stride:
            dims[-1] = (dims[-1][0] * size, stride)
        else:
            dims.append((size, stride))
    return repeats, tuple(dims)


def axis_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of a view in the order in which its values are read, the slowest first: empty for C's order.

    None where a value stands for several: each is read once then.

    >>> axis_order((3, 2), (4, 1)), axis_order((3, 2), (1, 3)), axis_order((3, 2), (0, 1))
    ((), (1, 0), None)
    """
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    if any(strides[axis] == 0 for axis in axes):
        return None
    order = sorted(axes, key=lambda axis: -strides[axis])
    return () if order == axes else tuple(order)


def extent(dims: tuple[Dim, ...]) -> int:
    """Elements of storage from a view's first value to its last, both included."""
    return 1 + sum((size - 1) * stride for size, stride in dims)


def effort(dims: tuple[Dim, ...], itemsize: int) -> int:
    """How many bytes in a row could be read and counted as fast as a view is: far more than its file may have.

    >>> effort(((1 << 10, 1 << 10), (1 << 20, 1)), 4) >> 30  # of 8 MB
    4
    """
    outer, steps, inner = _split(dims, _values_at_once(itemsize))
    size, stride = outer[-1] if outer else (1, 1)
    reads = prod(count for count, _ in outer[:-1]) * -(-size // steps)
    values = prod(size for size, _ in dims)
    return max(values * itemsize, reads * (READ_BYTES + extent(((min(steps, size), stride), *inner)) * itemsize))


@dataclass(frozen=True)
class StridedSpan:
    """The values of a strided view, read in stretches of at most ``CHUNK_BYTES``."""

    file: RegularFile
    offset: int  # bytes from the start of the file to the first value
    dims: tuple[Dim, ...]  # by falling stride
    storage: str  # NumPy dtype of a value as it lies there
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(size for size, _ in self.dims) * np.dtype(self.storage).itemsize

    @property
    def effort(self) -> int:
        """Bytes in a row that could be read in the same time."""
        return effort(self.dims, np.dtype(self.storage).itemsize)

    def chunks(self) -> Iterator[Chunk]:
        """The values, as in every part."""
        dtype = np.dtype(self.storage)
        chunk = np.empty(_values_at_once(dtype.itemsize), dtype.newbyteorder("="))
        filled = 0
        for values in self._blocks(dtype, len(chunk)):
            if filled + values.size > len(chunk):
                yield chunk[:filled]
                filled = 0
            chunk[filled : filled + values.size].reshape(values.shape)[...] = values
            filled += values.size
        yield chunk[:filled]

    def _blocks(self, dtype: np.dtype[Any], limit: int) -> Iterator[Chunk]:
        """Arrays of at most ``limit`` values, each from a stretch of at most ``limit`` elements."""
        outer, steps, inner = _split(self.dims, limit)
        size, stride = outer[-1] if outer else (1, 1)
        for base in _offsets(outer[:-1]):
            for first in range(0, size, steps):
                dims = ((min(steps, size - first), stride), *inner)
                start = self.offset + (base + first * stride) * dtype.itemsize
                data = self.file.read(start, extent(dims) * dtype.itemsize)
                shape = tuple(count for count, _ in dims)
                yield np.ndarray(shape, dtype, data, 0, tuple(step * dtype.itemsize for _, step in dims))


def _values_at_once(itemsize: int) -> int:
    return max(1, CHUNK_BYTES // itemsize)


def _split(dims: tuple[Dim, ...], limit: int) -> tuple[tuple[Dim, ...], int, tuple[Dim, ...]]:
    """The dims to loop over, how much of the last of them to read at a time, and those read whole."""
    inner: tuple[Dim, ...] = ()
    while dims and len(inner) < MAX_BLOCK_RANK:
        wider = (dims[-1], *inner)
        if extent(wider) > limit or prod(size for size, _ in wider) > limit:
            break
        dims, inner = dims[:-1], wider
    if not dims:
        return (), 1, inner
    values = prod(size for size, _ in inner)
    steps = min((limit - extent(inner)) // dims[-1][1] + 1, limit // values)
    return dims, max(1, steps), inner


def _offsets(dims: tuple[Dim, ...]) -> Iterator[int]:
    """The offsets of all elements of some axes. ``itertools.product`` would hold every range in memory."""
    if not dims:
        yield 0
        return
    (size, stride), *rest = dims
    for first in range(0, size * stride, stride):
        for offset in _offsets(tuple(rest)):
            yield first + offset
