"""Batches of a tensor, joined along axis 0 into one description, whose parts are those of the batches in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from klcal.errors import UsageError
from klcal.pipeline.selection import Batches, Selected
from klcal.quantizers.granularity import Per, PerChannel, PerTensor
from klcal.readers import Description
from klcal.readers.description import CHUNK_BYTES, Chunk, Part
from klcal.readers.formats import stem
from klcal.readers.quoting import quoted
from klcal.sketches.stored import own_order, stored_chunks
from klcal.tables.status import Cause
from klcal.tables.table import FileError

__all__ = ["are_apart", "batches_note", "error_of", "joined", "less", "not_joined", "sources_of", "where"]


def joined(source: str, name: str, members: Sequence[Selected], left_out: int) -> Selected:
    """The tensor that batches of one dtype form along axis 0.

    If later axes differ as well, all axes up to the last that differs are joined: [2, 7, 768] and [1, 9, 768] become
    [1, 23, 768]. Batches with different numbers of axes become one axis.
    """
    descriptions = [each.description for each in members]
    shapes = [each.shape for each in descriptions if prod(each.shape)] or [descriptions[0].shape]
    axis, order = _joined_axis(shapes), _common_order(descriptions)
    if axis is None:
        shape: tuple[int, ...] = (sum(map(prod, shapes)),)
    else:
        shape = (*[1] * axis, sum(prod(each[: axis + 1]) for each in shapes), *shapes[0][axis + 1 :])
    found = Description(
        name,
        descriptions[0].dtype,
        shape,
        tuple(part for each in descriptions for part in _parts_in(order, each)),
        order=order,
    )
    return Selected(source, found, members[0].path, Batches(tuple(members), left_out))


def _joined_axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The last axis in which shapes differ, at least 0; None if their numbers of axes differ, or no axis differs."""
    distinct = sorted(set(shapes))
    rank = len(distinct[0])
    if not rank or any(len(shape) != rank for shape in distinct):
        return None
    return max((axis for axis in range(rank) if len({shape[axis] for shape in distinct}) > 1), default=0)


def _full_order(description: Description) -> tuple[int, ...]:
    """All axes in the order of the values. Axes of extent 1 may be anywhere; of these, axis 0 comes first."""
    axes = range(len(description.shape))
    if not description.order:
        return tuple(axes)
    missing = [axis for axis in axes if axis not in description.order]
    first = missing[:1] if missing[:1] == [0] else []
    return *first, *description.order, *missing[len(first) :]


def _common_order(descriptions: Sequence[Description]) -> tuple[int, ...] | None:
    """The order of the joined values: C's, but where all batches have another in which axis 0 is the slowest."""
    if any(each.order is None for each in descriptions):
        return None
    full = [each for each in descriptions if each.parts]
    orders = {_full_order(each) for each in full}
    if len(orders) != 1 or len({each.shape[1:] for each in full}) != 1:
        return ()
    order = orders.pop()
    return order if order[:1] == (0,) and order != tuple(range(len(order))) else ()


def _parts_in(order: tuple[int, ...] | None, description: Description) -> tuple[Part, ...]:
    """The parts of a batch, their values in the order of the whole."""
    own = _full_order(description)
    if order is None or own == (order or tuple(range(len(own)))) or not description.parts:
        return description.parts
    return (_InOwnOrder(description),)


@dataclass(frozen=True)
class _InOwnOrder:
    """A ``Part`` of all values of a tensor, in C order: the tensor is held while it is read."""

    of: Description

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.of.parts)

    @property
    def repeats(self) -> int:
        return 1

    def chunks(self) -> Iterator[Chunk]:
        flat = np.concatenate([chunk.copy() for chunk in stored_chunks(self.of.parts)])
        whole = own_order(flat, self.of.shape, self.of.order or ()).ravel()
        size = CHUNK_BYTES // whole.itemsize
        yield from (whole[start : start + size] for start in range(0, whole.size, size))


def sources_of(tensor: Selected) -> list[str]:
    """The file that each part of a tensor is in."""
    order = tensor.description.order
    if not tensor.batches:
        return [tensor.source] * len(tensor.description.parts)
    return [each.source for each in tensor.batches.members for _ in _parts_in(order, each.description)]


def less(tensor: Selected, members: Sequence[Selected]) -> Selected:
    """A pooled tensor with some of its batches alone."""
    assert tensor.batches is not None
    left_out = tensor.batches.left_out + len(tensor.batches.members) - len(members)
    return joined(tensor.source, tensor.description.name, members, left_out)


def not_joined(members: Sequence[Selected], per: Per) -> str | None:
    """Why a tensor of these batches has no such units, where that lies in them; None where it has them.

    Raises:
        UsageError: no pooled tensor has them: they would lie within a batch.
    """
    shapes = _shapes(members)
    if per == PerTensor() or all(len(shape) < 2 for shape in shapes):
        return None
    joint, rank = _joined_axis([*shapes]), len(next(iter(shapes)))
    if not isinstance(per, PerChannel) or not per.axis or (joint is not None and per.axis == -rank):
        raise UsageError(
            f"per {per}: axis 0 of a pooled tensor counts what is in its batches",
            "use tensor, or the channels of a later axis: channel:1",
        )
    if joint is not None and not -rank <= per.axis < rank:
        return None
    (first, one), *others = shapes.items()
    for second, other in others:
        if len(second) != rank or (-rank <= per.axis < rank and second[per.axis] != first[per.axis]):
            return (
                f"batches with channels along axis {per.axis} need as many axes, and as many channels: {where(one)} is "
                f"{list(first)}, {where(other)} {list(second)}; leave out the others with --exclude"
            )
    return None


def are_apart(members: Sequence[Selected], per: Per) -> bool:
    """Whether batches with channels cannot be joined, as images of different sizes: each is counted on its own."""
    shapes = _shapes(members)
    if len(shapes) < 2 or not isinstance(per, PerChannel) or not per.axis:
        return False
    joint, rank = _joined_axis([*shapes]), len(next(iter(shapes)))
    return joint is not None and -rank <= per.axis < rank and per.axis % rank < joint


def _shapes(members: Sequence[Selected]) -> dict[tuple[int, ...], Selected]:
    """The distinct shapes of the batches that have values, each with one of its batches."""
    return {each.description.shape: each for each in members if prod(each.description.shape)}


def batches_note(batches: Batches) -> str:
    """How many there are, for a row's note.

    >>> batches_note(Batches((), 2))
    '0 batches, 2 left out'
    """
    count = len(batches.members)
    text = f"{count:,} batch" if count == 1 else f"{count:,} batches"
    return f"{text}, {batches.left_out:,} left out" if batches.left_out else text


def error_of(tensor: Selected, reason: str, cause: Cause = "data") -> FileError:
    """The error of a batch."""
    own = tensor.description.name != stem(tensor.source)
    return FileError(tensor.source, f"{quoted(tensor.description.name)}: {reason}" if own else reason, cause)


def where(tensor: Selected) -> str:
    """The file, and the tensor where it has a name of its own."""
    own = tensor.description.name != stem(tensor.source)
    return quoted(f"{tensor.source}/{tensor.description.name}" if own else tensor.source)
