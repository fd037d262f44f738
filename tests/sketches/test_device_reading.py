"""Values from a device: all of them, in their order, whenever a copy ends."""

from __future__ import annotations

import numpy as np
import pytest

import klcal
from klcal.sketches import device_reading
from klcal.sketches.arrays import stored_array
from tests.support.devices import TORCH_DTYPES, Idle, real_device
from tests.support.kernels import differing
from tests.support.lazy import torch


@pytest.fixture
def small_rooms(monkeypatch):
    monkeypatch.setattr(device_reading, "Lane", Idle)
    monkeypatch.setattr(device_reading, "ROOM_BYTES", 64)


def read(tensor, dtype: str) -> np.ndarray:
    """Its chunks, each worked on as long as it is valid."""
    return np.concatenate([chunk.copy() for chunk in device_reading.device_chunks(tensor, dtype)])


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_all_values_come_in_their_order(small_rooms, dtype):
    for shape in ((1,), (7, 9), (40, 5), (3, 1, 64)):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
        for some in (tensor, tensor.transpose(0, -1), tensor.expand(2, *shape)):
            found, expected = read(some, dtype), stored_array(some)[0]
            assert found.dtype == expected.dtype
            assert found.tobytes() == expected.tobytes()


def test_a_room_that_is_copied_to_too_early_is_noticed(small_rooms, monkeypatch):
    """The broken twin: a single room, on a device that does what was begun before it says that one thing is done."""
    monkeypatch.setattr(device_reading, "cycle", lambda rooms: iter(rooms[:1] * 1000))
    tensor = torch.arange(100, dtype=torch.float32)
    chunks = device_reading.device_chunks(tensor, "float32")
    kept = next(chunks)
    first = kept.copy()
    next(chunks)
    assert kept.tobytes() != first.tobytes()


@pytest.mark.parametrize("per", ["channel", "channel:1", "group:100", "block:7,64"])
def test_units_on_a_device_have_the_rows_of_the_cpu(per):
    device = real_device()
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
        tensor = torch.randn(300, 700, generator=torch.Generator().manual_seed(0)).to(dtype)
        for some, there in ((tensor, tensor.to(device)), (tensor.T, tensor.to(device).T)):
            assert not differing(klcal.calibrate(there, per=per), klcal.calibrate(some, per=per))
