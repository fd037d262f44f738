"""Values read from files to a CUDA device: through pinned memory, while earlier values are copied and counted.

The host waits only for memory that is still being copied from, and for a sketch when it is asked for. So the next
tensor is read meanwhile. The memory of a feed, on both sides, is the same for all tensors: see ``ROOMS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from itertools import cycle, groupby
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.kernels.cuda import kernels
from klcal.kernels.cuda_counting import Launcher
from klcal.quantizers.layout import Layout
from klcal.sketches.device_counting import DeviceCounter, sketch_counted, stopped_devices
from klcal.sketches.device_units import CountedUnits, all_units, counted_on_device
from klcal.sketches.importance import Importance
from klcal.sketches.patterns import MOST, TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Placeable, Stretch

if TYPE_CHECKING:
    import torch

__all__ = ["SLAB", "Feed", "Lane", "Waiting", "fits_device"]

ROOMS = 3  # one is read to, one is copied from, and one is ready for the faster of the two
ROOM_BYTES = 1 << 22  # a copy of 80 µs, against 10 of beginning it; as much as a reader reads at once
SLAB = 1 << 24  # values of a tensor with units that are on the device at a time: their keys and counts are 128 MiB
MOST_IN_SLAB = 1 << 27  # values: if a unit, such as a column, needs more, the CPU counts: 256 MiB of bfloat16


class Waiting(Protocol):
    """Work that was begun, such as a ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """Waits for its end."""


class Lane:
    """A stream of a device: work that is begun in it is done in order, while the host goes on."""

    launcher: Launcher | None = None  # runs kernels; by default the device itself

    def __init__(self, device: str) -> None:
        import torch

        named = torch.device(device)  # "cuda" is torch's current one
        self.device = torch.device("cuda", torch.cuda.current_device() if named.index is None else named.index)
        self.stream = torch.cuda.Stream(self.device)

    def follow(self) -> None:
        """Makes all later work wait for the work of torch's current stream."""
        import torch

        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def entered(self) -> AbstractContextManager[object]:
        """A context in which this thread begins all work on the device in this stream."""
        import torch

        entered: AbstractContextManager[object] = torch.cuda.stream(self.stream)
        return entered

    def on_device(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """New memory on the device."""
        import torch

        return torch.empty(size, dtype=dtype, device=self.device)

    def pinned(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """New pinned memory of the host, from and to which the device copies while the host goes on."""
        import torch

        return torch.empty(size, dtype=dtype, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Waiting:
        """Begins a copy between pinned memory and the device."""
        target.copy_(source, non_blocking=True)
        copied: Waiting = self.stream.record_event()
        return copied


class Room:
    """Pinned bytes, and the same number of bytes on the device, to which they are copied."""

    def __init__(self, lane: Lane) -> None:
        import torch

        self.lane = lane
        self.host = lane.pinned(ROOM_BYTES, torch.uint8)
        self.there = lane.on_device(ROOM_BYTES, torch.uint8)
        self.copied: Waiting | None = None

    def free(self) -> memoryview:
        """The pinned bytes, after waiting for the last copy from them. Bytes on the device are overwritten in order."""
        if self.copied is not None:
            self.copied.synchronize()
        return memoryview(self.host.numpy())

    def sent(self, nbytes: int, dtype: str) -> torch.Tensor:
        """The first bytes as values on the device. They are there before later work of the stream begins."""
        import torch

        there = self.there[:nbytes]
        self.copied = self.lane.copy(there, self.host[:nbytes])
        return there.view(getattr(torch, dtype, torch.uint8))  # torch has no type for one float4


class Feed:
    """A thread's way to a device: tensors are read one by one, through ``ROOMS`` rooms of ``ROOM_BYTES``.

    Args:
        device: its name.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.is_stopped = False

    @cached_property
    def lane(self) -> Lane:
        """The stream of the feed."""
        return Lane(self.device)

    @cached_property
    def rooms(self) -> Iterator[Room]:
        """The rooms, in turns."""
        return cycle([Room(self.lane) for _ in range(ROOMS)])

    def count(self, parts: Iterable[Stretch], dtype: str, resolution: Resolution = TENSOR) -> Callable[[], Sketch]:
        """Reads some parts of a tensor, and begins to count them.

        Args:
            parts: they have been read when this returns.
            dtype: of the values.
            resolution: of the sketch.

        Returns:
            A function that waits for the device and returns the sketch. Any thread may call it.

        Raises:
            InputError: the file is damaged, or the device has too little memory or failed.
        """
        with stopped_devices(self.device), self.lane.entered():
            begun = [(self._begun(same, dtype, resolution), times) for times, same in groupby(parts, _repeats)]
        return lambda: sum((wait().repeat(times) for wait, times in begun), Sketch.empty(resolution=resolution))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A context in which this thread works in the stream of the feed, and errors of the device become klcal's."""
        with stopped_devices(self.device), self.lane.entered():
            yield

    def units(
        self, parts: Iterable[Stretch], dtype: str, layout: Layout, importance: Importance | None = None
    ) -> Iterator[CountedUnits]:
        """Reads a tensor, and counts its units, some at a time. It has to be used within ``entered``.

        Args:
            parts: all of the tensor, in the order of the layout.
            dtype: of the values.
            layout: the units, which ``fits_device``.
            importance: of the values, in their order; None if all count alike.
        """
        axis, rows, values = _slab(layout)
        others = [layout.shape[each] for each in layout.order if each != axis]
        before = layout.order.index(axis)
        numbers, tile = all_units(layout), layout.tiles[axis]
        launcher = self.lane.launcher or kernels(self.lane.device.index)
        weights = None if importance is None else importance.in_own_order(layout)
        pieces = (piece for part in parts for piece in self._sent(part, dtype))
        for first, flat in zip(range(0, layout.shape[axis], rows), self._joined(pieces, layout), strict=True):
            there = [*others[:before], flat.numel() // values, *others[before:]]
            tensor = flat.view(there).permute(np.argsort(layout.order).tolist())
            cells = slice(first // tile, -(-(first + tensor.shape[axis]) // tile))
            own = numbers[(slice(None),) * axis + (cells,)]
            some = None if weights is None else weights.along(axis, slice(first, first + tensor.shape[axis]))
            yield from counted_on_device(tensor, dtype, layout.tiles, own, launcher, importance=some, at_once=SLAB)

    def stop(self) -> None:
        """Stops reading, since nobody waits for the result any more."""
        self.is_stopped = True

    def _begun(self, parts: Iterable[Stretch], dtype: str, resolution: Resolution) -> Callable[[], Sketch]:
        counter = DeviceCounter(dtype, str(self.lane.device), resolution, self.lane.launcher)
        for part in parts:
            for values in self._sent(part, dtype):
                counter.add(values)
        found = self.lane.pinned(counter.state.numel(), counter.state.dtype)
        copied = self.lane.copy(found, counter.state)

        def wait() -> Sketch:
            with stopped_devices(self.device):
                copied.synchronize()
            return sketch_counted(found, dtype, resolution)

        return wait

    def _joined(self, pieces: Iterable[torch.Tensor], layout: Layout) -> Iterator[torch.Tensor]:
        """The values in slabs. Each is valid until the next one is asked for."""
        axis, rows, values = _slab(layout)
        left, used, slab = layout.shape[axis] * values, 0, None
        size = min(rows * values, left)
        for piece in pieces:
            if slab is None:
                slab = piece.new_empty(size)
            while piece.numel():
                some = piece[: size - used]
                self.lane.copy(slab[used : used + some.numel()], some)
                used, piece = used + some.numel(), piece[some.numel() :]
                if used == size:
                    yield slab[:size]
                    left, used = left - size, 0
                    size = min(size, left)

    def _sent(self, part: Stretch, dtype: str) -> Iterator[torch.Tensor]:
        """The values of a part in pieces on the device, each for work that is begun before the next is asked for."""
        free = self._free()
        for chunk in part.chunks_in(free) if isinstance(part, Placeable) else _placed(part.chunks(), free):
            yield self.room.sent(chunk.nbytes, dtype)

    def _free(self) -> Iterator[memoryview]:
        while not self.is_stopped:
            self.room = next(self.rooms)
            yield self.room.free()
        raise InputError("it was not read to its end", "nothing waits for it any more")


def fits_device(layout: Layout) -> bool:
    """Whether units are counted on a device: not if a unit, or the values that have to be held for it, are too many."""
    _, rows, values = _slab(layout)
    return prod(layout.tiles) <= MOST and rows * values <= MOST_IN_SLAB


def _slab(layout: Layout) -> tuple[int, int, int]:
    """The slab that is on the device at a time: the slowest axis, its rows along it, and the values of a row."""
    axis = next((each for each in layout.order if layout.shape[each] > 1), layout.order[0])
    values = prod(layout.shape) // layout.shape[axis]
    tile = layout.tiles[axis]
    return axis, min(max(1, SLAB // (values * tile)) * tile, layout.shape[axis]), values


def _repeats(part: Stretch) -> int:
    return part.repeats


def _placed(chunks: Iterable[npt.NDArray[Any]], rooms: Iterator[memoryview]) -> Iterator[npt.NDArray[Any]]:
    """The chunks, of any size, copied to rooms."""
    for chunk in chunks:
        size = ROOM_BYTES // chunk.itemsize
        for first in range(0, chunk.size, size):
            piece = chunk[first : first + size]
            placed = np.frombuffer(next(rooms), piece.dtype, piece.size)
            placed[:] = piece
            yield placed
