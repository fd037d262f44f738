"""Tensors in files: the interface that readers implement, their values as flat chunks, and their sketch as one unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.quantizers.granularity import Per, PerTensor
from klcal.quantizers.layout import layout
from klcal.sketches.counting import FLOAT_DTYPES, count, values_of
from klcal.sketches.device_feeding import Feed
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Stretch

__all__ = [
    "REPEATED",
    "UNORDERED",
    "Stored",
    "check_units",
    "counted_already",
    "own_order",
    "sketch_parts",
    "stored_chunks",
    "stored_values",
]

REPEATED = InputError("a value of it stands for several elements", "save a contiguous copy to calibrate its channels")

UNORDERED = InputError("a value of it stands for several elements", "save a contiguous copy to weigh them")


@runtime_checkable
class Stored(Protocol):
    """A tensor in a file, as ``klcal.read`` describes it."""

    @property
    def dtype(self) -> str:
        """Of its values: one of ``klcal.sketches.counting.FLOAT_DTYPES`` if it can be calibrated."""

    @property
    def name(self) -> str:
        """The name that it has in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def status(self) -> str:
        """The status "ok", or that of a tensor that cannot be calibrated: see ``klcal.tables.status``."""

    @property
    def reason(self) -> str | None:
        """Why it cannot be calibrated, in words."""

    @property
    def parts(self) -> Sequence[Stretch]:
        """Its data, in the order of the file."""

    @property
    def order(self) -> tuple[int, ...] | None:
        """Its axes in the order of its data, the slowest first; an empty tuple is C order.

        None if a stored value stands for several elements, as in a view that was expanded.
        """


def stored_chunks(parts: Iterable[Stretch]) -> Iterator[npt.NDArray[Any]]:
    """The values of a tensor in a file as flat arrays, part by part.

    Raises:
        InputError: the file is damaged.
    """
    return (chunk for part in parts for chunk in part.chunks())


def sketch_parts(parts: Iterable[Stretch], dtype: str, device: str = "cpu") -> Sketch:
    """The sketch of a tensor in a file, or of some parts of it, as one unit.

    Args:
        parts: read once, in order.
        dtype: of the values.
        device: where they are counted.

    Raises:
        InputError: the file is damaged, or the device failed.
    """
    parts = [*parts]
    if (done := counted_already(parts)) is not None:
        return done()
    if device != "cpu":
        return Feed(device).count(parts, dtype)()
    alike = groupby(parts, attrgetter("repeats"))
    sketches = (count(stored_chunks(some), dtype).repeat(repeats) for repeats, some in alike)
    first = next(sketches, None)  # adding to an empty one costs as much as to another
    return Sketch.empty() if first is None else sum(sketches, first)


def counted_already(parts: Sequence[Stretch]) -> Callable[[], Sketch] | None:
    """The function that returns the sketch of a tensor in a sketch file; None if the file has values."""
    found: Callable[[], Sketch] | None = getattr(parts[0], "sketch", None) if parts else None  # ``Counted``, in no time
    return found


def stored_values(stored: Stored) -> npt.NDArray[Any]:
    """All values of a tensor in a file, in its shape: floats as ``values_of`` returns them, integers as they are.

    Raises:
        InputError: the file is damaged.
    """
    is_float = stored.dtype in FLOAT_DTYPES
    read = (values_of(chunk, stored.dtype) if is_float else chunk for chunk in stored_chunks(stored.parts))
    chunks = [chunk.copy() for chunk in read]  # each is valid only until the next one is asked for
    flat = np.concatenate(chunks) if chunks else np.empty(0, np.float32)
    return own_order(flat, stored.shape, stored.order or ())


def own_order(flat: npt.NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...]) -> npt.NDArray[Any]:
    """Flat values as an array of a shape.

    Args:
        flat: (n,), the values.
        shape: of the result, n values in all.
        order: the axes in the order of the values, the slowest first. Axes of extent 1 may be missing; an empty tuple
            is C order.

    >>> own_order(np.arange(6), (2, 3), (1, 0)).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    listed = order or tuple(range(len(shape)))
    full = (*listed, *(axis for axis in range(len(shape)) if axis not in listed))
    there: npt.NDArray[Any] = flat.reshape([shape[axis] for axis in full])
    return there.transpose(np.argsort(full))


def check_units(found: Sketch, per: Per, shape: tuple[int, ...]) -> Sketch:
    """The sketch, after checking that it has the units that are asked for.

    Args:
        found: a sketch from a file.
        per: the units that are asked for.
        shape: of the tensor; empty if it is not known.

    Raises:
        InputError: it has other units.
    """
    known = None if found.grid is None else found.grid.per
    asked = None if per == PerTensor() else per
    if asked is not None and asked != known and shape and 0 not in shape:
        place = layout(asked, shape)
        asked = None if place is None else place.grid.per
    if asked != known:
        was = PerTensor() if known is None else known
        raise InputError(f"it was sketched per {was}, not per {per}", f"use --per {was}, or sketch the values again")
    return found
