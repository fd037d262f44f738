"""Files to a device: nothing is written over that is still copied from, and no sketch is waited for too early."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

import klcal
from klcal.errors import InputError
from klcal.readers.regular import open_regular, spans
from klcal.sketches import device_feeding
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_feeding import ROOMS, Feed, Room
from klcal.sketches.stored import sketch_parts
from tests.support.devices import idle_devices, real_device
from tests.support.lazy import torch

DEVICES = ["idle", "cuda"]


@dataclass(frozen=True)
class Held:
    """A part whose values cannot be read to where they are wanted."""

    pieces: list[np.ndarray] = field(default_factory=list)
    repeats: int = 1

    def chunks(self):
        yield from self.pieces


@pytest.fixture
def small_rooms(monkeypatch):
    monkeypatch.setattr(device_feeding, "ROOM_BYTES", 4096)


def feed_of(device: str, monkeypatch) -> Feed:
    """On a device that is idle before it is waited for, or on a real one."""
    if device == "idle":
        idle_devices(monkeypatch, 1)
        return Feed("cuda")
    return Feed(real_device())


def patterns(size: int, dtype: str) -> np.ndarray:
    """Any values that a dtype has, NaN and infinities too, and ordinary ones."""
    rng = np.random.default_rng(0)
    if dtype == "float4_e2m1fn":  # of which torch has no single ones
        return rng.integers(0, 256, size, dtype=np.uint8)
    ordinary = torch.from_numpy(rng.normal(size=size)).to(getattr(torch, dtype)).view(torch.uint8).numpy()
    storage = np.dtype(FLOAT_DTYPES[dtype])
    any_bits = rng.integers(0, 256, ordinary.size, dtype=np.uint8)
    return np.where(np.repeat(rng.random(size) < 0.1, storage.itemsize), any_bits, ordinary).view(storage)


def parts_of(values: np.ndarray, folder):
    path = folder / f"{values.dtype}.bin"
    values.tofile(path)
    return spans(open_regular(str(path)), 0, values.nbytes, values.dtype.str)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_file_is_counted_as_on_the_cpu(dtype, device, small_rooms, tmp_path, monkeypatch):
    feed = feed_of(device, monkeypatch)
    values = patterns(10_001, dtype)
    parts = parts_of(values, tmp_path)
    expected = sketch_parts(parts, dtype)
    assert feed.count(parts, dtype)() == expected
    pieces = [values[:1], values[1:5000], values[5000:5000], values[5000:]]
    assert feed.count([Held(pieces)], dtype)() == expected


@pytest.mark.parametrize("device", DEVICES)
def test_big_endian_values_and_values_that_stand_for_several(device, small_rooms, tmp_path, monkeypatch):
    feed = feed_of(device, monkeypatch)
    values = patterns(3000, "float32")
    parts = parts_of(values.astype(">f4"), tmp_path)
    some = [Held([values[:10]], 3), Held([values[10:20]], 3), *parts, Held([]), Held([values[:7]], 1 << 40)]
    assert feed.count(some, "float32")() == sketch_parts(some, "float32")
    assert feed.count([], "float32")() == sketch_parts([], "float32")


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_are_begun_before_the_first_is_waited_for_and_told_in_any_order(device, small_rooms, monkeypatch):
    feed = feed_of(device, monkeypatch)
    sizes = {"float32": 4000, "bfloat16": 500, "float64": 3000}
    tensors = {dtype: Held([patterns(size, dtype)]) for dtype, size in sizes.items()}
    waiting = {dtype: feed.count([each], dtype) for dtype, each in tensors.items()}
    if device == "idle":
        pieces = sum(-(-each.pieces[0].nbytes // 4096) for each in tensors.values())
        rest = 2 * len(tensors)  # the last sketch is copied, and those before it
        assert feed.lane.done < 2 * (pieces - ROOMS) + rest, "only rooms are waited for"
    for dtype in ("float64", "float32", "bfloat16"):
        assert waiting[dtype]() == sketch_parts([tensors[dtype]], dtype)


def test_a_room_that_is_not_waited_for_would_be_seen(small_rooms, tmp_path, monkeypatch):
    """The broken twin."""
    feed = feed_of("idle", monkeypatch)
    parts = parts_of(patterns(20_000, "float32"), tmp_path)
    monkeypatch.setattr(Room, "free", lambda room: memoryview(room.host.numpy()))
    assert feed.count(parts, "float32")() != sketch_parts(parts, "float32")


def test_memory_is_that_of_the_rooms_and_of_the_counts_whatever_is_read(small_rooms, tmp_path, monkeypatch):
    taken = []
    for size in (10_000, 100_000):
        feed = feed_of("idle", monkeypatch)
        feed.count(parts_of(patterns(size, "float32"), tmp_path), "float32")()
        taken.append(feed.lane.nbytes)
    assert taken[0] == taken[1] < 10 << 20


def test_a_damaged_tensor_costs_the_next_one_nothing(small_rooms, tmp_path, monkeypatch):
    feed = feed_of("idle", monkeypatch)
    values = patterns(5000, "float32")
    parts = parts_of(values, tmp_path)
    os.truncate(parts[0].file.path, 9000)
    with pytest.raises(InputError, match="the file changed while it was read"):
        feed.count(parts, "float32")
    assert feed.count([Held([values])], "float32")() == klcal.sketch(values)


def test_a_feed_that_is_stopped_reads_no_further(small_rooms, monkeypatch):
    feed = feed_of("idle", monkeypatch)

    class Endless(Held):
        def chunks(self):
            for number in range(100):
                assert number < 11
                if number == 10:
                    feed.stop()
                yield np.ones(8, np.float32)

    with pytest.raises(InputError, match="it was not read to its end"):
        feed.count([Endless()], "float32")


def test_a_tensor_in_a_file_may_be_sketched_on_a_device(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.float32([1, 2, 3]))
    (stored,) = klcal.read(tmp_path / "x.npy").values()
    expected = klcal.sketch(stored)
    idle_devices(monkeypatch, 2)
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        assert klcal.sketch(stored, device=device) == expected
    with pytest.raises(klcal.UsageError, match="a tensor is counted on one device; use auto, cpu, cuda or cuda:N"):
        klcal.sketch(stored, device="cuda:all")
