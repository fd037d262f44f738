"""Values read from a CUDA device: the next chunks are copied to pinned memory while one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_counting import stopped_devices
from klcal.sketches.device_feeding import Lane, Waiting

if TYPE_CHECKING:
    import torch

__all__ = ["device_chunks"]

ROOMS = 3  # one is worked on, two are copied to
ROOM_BYTES = 1 << 23  # a copy of 0.3 ms; beginning and waiting for it takes 0.02


def device_chunks(tensor: torch.Tensor, dtype: str) -> Iterator[npt.NDArray[Any]]:
    """The values of a tensor on a device in C order, as flat arrays; each is valid until the next is asked for.

    Args:
        tensor: on a CUDA device.
        dtype: of the tensor. Arrays are in storage form: see ``klcal.sketches.counting.FLOAT_DTYPES``.

    Raises:
        InputError: the device failed.
    """
    import torch

    name = str(tensor.device)
    with stopped_devices(name):
        flat = tensor.detach().resolve_neg().reshape(-1).contiguous().view(torch.uint8)
        lane = Lane(name)
        lane.follow()
        rooms = cycle([lane.pinned(min(ROOM_BYTES, flat.numel()), torch.uint8) for _ in range(ROOMS)])
    begun: deque[tuple[torch.Tensor, Waiting]] = deque()
    for piece in flat.split(ROOM_BYTES):
        with stopped_devices(name), lane.entered():
            room = next(rooms)[: piece.numel()]
            begun.append((room, lane.copy(room, piece)))
        if len(begun) == ROOMS - 1:
            yield _ready(name, *begun.popleft(), dtype)
    while begun:
        yield _ready(name, *begun.popleft(), dtype)


def _ready(name: str, room: torch.Tensor, copied: Waiting, dtype: str) -> npt.NDArray[Any]:
    """The values in a room, after waiting for the copy to it."""
    with stopped_devices(name):
        copied.synchronize()
    found: npt.NDArray[Any] = room.numpy().view(np.dtype(FLOAT_DTYPES[dtype]))
    return found
