"""Values go from files to a CUDA device: read to pinned memory, while what was read before is copied and counted.

The host waits only where it needs memory that is still copied from, and for a sketch when that is asked for: so the
next tensor is read meanwhile. What a feed takes of either memory is the same for all tensors, see ``ROOMS``.
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
from klcal.sketches.patterns import MOST, TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Placeable, Stretch

if TYPE_CHECKING:
    import torch

__all__ = ["SLAB", "Feed", "Lane", "Waiting", "fits_device"]

ROOMS = 3  # one is read to, one is copied from, one is ready for whichever is faster
ROOM_BYTES = 1 << 22  # a copy of 80 µs, against 10 of beginning it; as much as a reader reads at once
SLAB = 1 << 24  # values of a tensor with units that are on the device at a time: their keys and counts are 128 MiB
MOST_IN_SLAB = 1 << 27  # where more are needed for a unit, as for a column, the CPU counts: 256 MiB of bfloat16


class Waiting(Protocol):
    """Something that was begun, as a ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """Waits for its end."""


class Lane:
    """A stream of its own on a device: what is begun in it happens in that order, while the host goes on."""

    launcher: Launcher | None = None  # of kernels; the device itself

    def __init__(self, device: str) -> None:
        import torch

        named = torch.device(device)  # "cuda" is torch's current one
        self.device = torch.device("cuda", torch.cuda.current_device() if named.index is None else named.index)
        self.stream = torch.cuda.Stream(self.device)

    def follow(self) -> None:
        """Lets all that comes wait for what torch's current stream has to do."""
        import torch

        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def entered(self) -> AbstractContextManager[object]:
        """In which whatever is begun in this thread is begun here."""
        import torch

        entered: AbstractContextManager[object] = torch.cuda.stream(self.stream)
        return entered

    def on_device(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of the device."""
        import torch

        return torch.empty(size, dtype=dtype, device=self.device)

    def pinned(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host, from and to which the device copies while that goes on."""
        import torch

        return torch.empty(size, dtype=dtype, pin_memory=True)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Waiting:
        """Begins to copy, between pinned memory and the device."""
        target.copy_(source, non_blocking=True)
        copied: Waiting = self.stream.record_event()
        return copied


class Room:
    """Pinned bytes, and as many on the device, to which they are copied."""

    def __init__(self, lane: Lane) -> None:
        import torch

        self.lane = lane
        self.host = lane.pinned(ROOM_BYTES, torch.uint8)
        self.there = lane.on_device(ROOM_BYTES, torch.uint8)
        self.copied: Waiting | None = None

    def free(self) -> memoryview:
        """The pinned bytes, once no copy needs them; what is on the device is written over in its turn."""
        if self.copied is not None:
            self.copied.synchronize()
        return memoryview(self.host.numpy())

    def sent(self, nbytes: int, dtype: str) -> torch.Tensor:
        """The first bytes as values on the device, where they will be when what is begun next has its turn."""
        import torch

        there = self.there[:nbytes]
        self.copied = self.lane.copy(there, self.host[:nbytes])
        return there.view(getattr(torch, dtype, torch.uint8))  # of which torch has no single float4


class Feed:
    """What one thread reads for a device, tensor by tensor; of ``ROOMS`` pieces of ``ROOM_BYTES`` in either memory.

    Args:
        device: its name.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.is_stopped = False

    @cached_property
    def lane(self) -> Lane:
        """Where everything happens."""
        return Lane(self.device)

    @cached_property
    def rooms(self) -> Iterator[Room]:
        """In turns."""
        return cycle([Room(self.lane) for _ in range(ROOMS)])

    def count(self, parts: Iterable[Stretch], dtype: str, resolution: Resolution = TENSOR) -> Callable[[], Sketch]:
        """Reads some parts of a tensor, and begins to count them.

        Args:
            parts: are read when this returns.
            dtype: of the values.
            resolution: of the sketch.

        Returns:
            What waits for the device and gives the sketch; from any thread.

        Raises:
            InputError: the file is damaged; there is no room on the device, or it does not work.
        """
        with stopped_devices(self.device), self.lane.entered():
            begun = [(self._begun(same, dtype, resolution), times) for times, same in groupby(parts, _repeats)]
        return lambda: sum((wait().repeat(times) for wait, times in begun), Sketch.empty(resolution=resolution))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within, what this thread begins on the device is begun here; what goes wrong there is told in our words."""
        with stopped_devices(self.device), self.lane.entered():
            yield

    def units(self, parts: Iterable[Stretch], dtype: str, layout: Layout) -> Iterator[CountedUnits]:
        """Reads a tensor, and counts its units, some at a time; within ``entered``.

        Args:
            parts: all of the tensor, in the order of the layout.
            dtype: of the values.
            layout: the units, which ``fits_device``.
        """
        axis, rows, values = _slab(layout)
        others = [layout.shape[each] for each in layout.order if each != axis]
        before = layout.order.index(axis)
        numbers, tile = all_units(layout), layout.tiles[axis]
        launcher = self.lane.launcher or kernels(self.lane.device.index)
        pieces = (piece for part in parts for piece in self._sent(part, dtype))
        for first, flat in zip(range(0, layout.shape[axis], rows), self._joined(pieces, layout), strict=True):
            there = [*others[:before], flat.numel() // values, *others[before:]]
            tensor = flat.view(there).permute(np.argsort(layout.order).tolist())
            cells = slice(first // tile, -(-(first + tensor.shape[axis]) // tile))
            own = numbers[(slice(None),) * axis + (cells,)]
            yield from counted_on_device(tensor, dtype, layout.tiles, own, launcher, at_once=SLAB)

    def stop(self) -> None:
        """Whatever is being read need not be."""
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
        """The values in slabs; each is there until the next is asked for."""
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
        """The values of a part on the device: each piece for what is begun in the lane before the next is asked for."""
        free = self._free()
        for chunk in part.chunks_in(free) if isinstance(part, Placeable) else _placed(part.chunks(), free):
            yield self.room.sent(chunk.nbytes, dtype)

    def _free(self) -> Iterator[memoryview]:
        while not self.is_stopped:
            self.room = next(self.rooms)
            yield self.room.free()
        raise InputError("it was not read to its end", "nothing waits for it any more")


def fits_device(layout: Layout) -> bool:
    """Whether units are counted on a device: not where one has too many values, or all are needed for any of them."""
    _, rows, values = _slab(layout)
    return prod(layout.tiles) <= MOST and rows * values <= MOST_IN_SLAB


def _slab(layout: Layout) -> tuple[int, int, int]:
    """What is on the device at a time: along which axis, the slowest, how many rows, and the values of each."""
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
