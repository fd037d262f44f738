"""Units counted on a device: the CPU's sketches, to the bit, on a GPU and by a loop in the place of its threads."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.kernels import cuda_units
from klcal.kernels.cuda import SOURCE, kernels, source_text
from klcal.kernels.cuda_units import MOST_BITS, TILE_BITS, UnitCounts, count_units
from klcal.kernels.units import COUNTERS
from klcal.sketches.counting import FLOAT_DTYPES, pattern_values
from klcal.sketches.patterns import TENSOR, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.sorted_units import sorted_sketch
from tests.kernels.test_units import LAWS, ORDERS, SEEDS, stored
from tests.support.devices import Shim, as_tensor, never_waiting, real_device
from tests.support.kernels import KERNELS, kernel
from tests.support.lazy import torch

SIZES = (1, 2, 3, 8, 9, 31, 127, 128, 129, 1000, 4096, 5000, 8192, 8193, 20_000, 40_000)
DTYPES = st.sampled_from(list(FLOAT_DTYPES))
RESOLUTIONS = st.sampled_from([UNITS, TENSOR, Resolution(least_bits=7, few=0), Resolution(least_bits=8, few=20)])
DEVICES = ("shim", "cuda")
ROOMY = 227 << 10  # bytes of shared memory, of an H100


def counted(values: np.ndarray, dtype: str, size, resolution: Resolution, device: str = "shim", **more) -> UnitCounts:
    tensor = as_tensor(values.copy(), dtype)
    launcher = Shim(**more)
    if device != "shim":
        tensor = tensor.to(real_device())
        launcher = kernels(tensor.device.index)
    kept = resolution.few, resolution.mantissa_bits, resolution.least_bits
    table = pattern_values(dtype).view(np.uint32) if values.itemsize == 1 else None
    return count_units(tensor, dtype, size, kept, launcher, table)


def sketch_of(found: UnitCounts, resolution: Resolution) -> Sketch:
    """What was counted, on the host."""
    keys, counts, starts, ends, numbers, minimum, maximum, exact = (each.cpu().numpy() for each in found)
    assert np.all(ends >= starts)
    units = [slice(*each) for each in zip(starts.tolist(), ends.tolist(), strict=True)]
    return Sketch(
        keys=np.concatenate([keys.view(np.uint32)[unit] for unit in units]),
        counts=np.concatenate([counts[unit] for unit in units]),
        starts=np.append(0, np.cumsum(ends - starts)),
        **dict(zip(COUNTERS, numbers, strict=True)),
        minimum=minimum,
        maximum=maximum,
        exact=exact.astype(bool),
        heaviest=np.zeros(len(units)),
        resolution=resolution,
    )


def starts_of(sizes) -> np.ndarray:
    return np.append(0, np.cumsum(sizes)).astype(np.int64)


def agree(values: np.ndarray, dtype: str, size, resolution: Resolution, device: str = "shim", **more) -> bool:
    """Whether a device counts what the CPU does, by whichever kernel."""
    found = sketch_of(counted(values, dtype, size, resolution, device, **more), resolution)
    starts = starts_of([size] * (values.size // size)) if isinstance(size, int) else size
    for name in KERNELS:
        with kernel(name):
            if found != sorted_sketch(values, dtype, starts, resolution):
                return False
    return True


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_units_of_one_size_are_counted_as_on_the_cpu(dtype, size, device):
    units = max(2, 2500 // size)
    for law in LAWS:
        for resolution in (UNITS, Resolution(few=3)):
            values = stored(dtype, law, "as drawn", size * units, size)
            assert agree(values, dtype, size, resolution, device), (law, resolution)


@pytest.mark.parametrize("size", [1, 3, 128])
def test_several_blocks_take_units_until_there_are_none(size):
    values = stored("float32", "anything", "as drawn", size * 2100, 0)
    assert agree(values, "float32", size, UNITS)


@settings(max_examples=60)
@given(
    DTYPES,
    st.lists(st.one_of(st.sampled_from([0, 1, 2, 31, 128, 129, 4097]), st.integers(0, 40)), min_size=1, max_size=30),
    st.sampled_from(list(LAWS)),
    st.sampled_from(list(ORDERS)),
    RESOLUTIONS,
    SEEDS,
)
def test_units_of_any_sizes_are_counted_as_on_the_cpu(dtype, sizes, law, order, resolution, seed):
    values = stored(dtype, law, order, sum(sizes), seed)
    assert agree(values, dtype, starts_of(sizes), resolution)


@settings(max_examples=30)
@given(DTYPES, st.integers(1, 9000), st.sampled_from(list(LAWS)), st.sampled_from(list(ORDERS)), RESOLUTIONS, SEEDS)
def test_any_size_and_order(dtype, size, law, order, resolution, seed):
    assert agree(stored(dtype, law, order, 2 * size, seed), dtype, size, resolution)


@pytest.mark.parametrize("device", DEVICES)
def test_long_and_short_units_stand_side_by_side(device):
    sizes = [70_000, 70_000, 5, 0, 33_000, 16_385, 16_384, 1, 40_000, 129, 129]
    for dtype, law in (("float32", "anything"), ("float64", "normal"), ("float16", "lattice"), ("float32", "crowded")):
        values = stored(dtype, law, "as drawn", sum(sizes), 3)
        assert agree(values, dtype, starts_of(sizes), UNITS, device)


@pytest.mark.parametrize("shared", [99 << 10, 163 << 10, ROOMY])
@pytest.mark.parametrize("size", [10_000, 1 << 14, (1 << 14) + 1, 1 << 15, (1 << 15) + 1])
def test_units_are_sorted_by_a_block_or_by_torch_whichever_has_room(shared, size):
    for law in LAWS:
        values = stored("float32", law, "as drawn", 2 * size, 1)
        assert agree(values, "float32", size, UNITS, shared=shared), law


def test_long_units_are_sorted_some_at_a_time(monkeypatch):
    monkeypatch.setattr(cuda_units, "AT_ONCE", 1 << 17)
    values = stored("float64", "anything", "as drawn", 7 * 50_000, 1)
    assert agree(values, "float64", 50_000, UNITS)


@pytest.mark.parametrize("pattern", [0x3F800000, 0xBF800000, 1, 0x80000001, 0x7F7FFFFF, 0, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [8192 - 1, 8192 + 1, 3 * 8192, 40_000])
def test_a_run_may_go_on_from_tile_to_tile(pattern, size):
    values = np.full(2 * size, pattern, np.uint32)
    values[size + 5 :: 9000] = 0xC0000000
    assert agree(values.view(np.float32), "float32", size, UNITS, shared=99 << 10)
    values[::2] ^= 0x80000000
    assert agree(values.view(np.float32), "float32", size, Resolution(few=1), shared=99 << 10)


def test_no_units_and_no_values():
    none = np.empty(0, np.float32)
    assert [each.numel() for each in counted(none, "float32", 128, UNITS)] == [0] * 8
    assert agree(none, "float32", np.zeros(4, np.int64), UNITS)


def test_a_hand_made_unit():
    """1.5 twice, -2 three times, both zeros, a NaN and an infinity; and a unit of none of them."""
    values = np.float32([1.5, -2, 0, -2, np.nan, 1.5, -0.0, np.inf, -2, 7, 7, 7, 7, 7, 7, 7, 7, 7])
    found = counted(values, "float32", 9, UNITS)
    assert found.starts.tolist() == [0, 9]
    assert found.ends.tolist() == [2, 10]
    assert found.keys[:2].view(torch.float32).tolist() == [1.5, -2.0]
    assert found.counts[[0, 1, 9]].tolist() == [2, 3, 9]
    assert dict(zip(COUNTERS, found.numbers[:, 0].tolist(), strict=True)) == {
        **dict.fromkeys(COUNTERS, 0),
        "zeros": 2,
        "nan": 1,
        "pos_inf": 1,
    }
    assert (found.minimum.tolist(), found.maximum.tolist()) == ([-2.0, 7.0], [1.5, 7.0])


def test_nothing_waits_for_the_device():
    device = real_device()
    launcher = kernels(torch.device(device, torch.cuda.current_device()).index)
    kept = UNITS.few, UNITS.mantissa_bits, UNITS.least_bits
    many = torch.randn(1 << 20, device=device)
    sizes = [128, 4096, starts_of([5, 100_000, 1 << 15] * 5), 1 << 17]
    expected = [count_units(many, "float32", size, kept, launcher) for size in sizes]  # what is compiled is compiled
    with never_waiting():
        found = [count_units(many, "float32", size, kept, launcher) for size in sizes]
    for one, other in zip(found, expected, strict=True):
        assert sketch_of(one, UNITS) == sketch_of(other, UNITS)


# --- threads that wait for one another


@pytest.mark.parametrize("size", [3, 16, 129, 512, 4096, 9000, 40_000])
def test_threads_wait_for_one_another_wherever_they_have_to(size):
    for law, dtype in (("anything", "float32"), ("lattice", "float64")):
        values = stored(dtype, law, "as drawn", size * max(2, 500 // size), 5)
        for resolution in (UNITS, Resolution(few=3)):
            assert agree(values, dtype, size, resolution, has_threads=True), (law, resolution)


def test_threads_that_do_not_wait_are_noticed(tmp_path):
    """Of a network whose levels end before other warps are ready."""
    for path in SOURCE.glob("device*"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("NEAR_BITS) SYNC;", "NEAR_BITS) SYNC_WARP;"))
    values = LAWS["normal"](np.random.default_rng(0), 2 * 4096)
    (tmp_path / "common.h").write_text((SOURCE / "common.h").read_text())
    assert agree(values, "float32", 4096, UNITS, source=tmp_path)  # as a loop goes through all phases
    assert not agree(values, "float32", 4096, UNITS, source=tmp_path, has_threads=True)


# --- and what these tests would notice


def test_more_shared_memory_than_was_asked_for_is_noticed(monkeypatch):
    need = cuda_units._shared(TILE_BITS)
    monkeypatch.setattr(cuda_units, "_shared", lambda _: need - (1 << 11))
    with pytest.raises(AssertionError, match="more shared memory is used than was asked for"):
        counted(np.ones(8192, np.float32), "float32", 8192, UNITS)


TWINS = {
    "a run is counted short": lambda found: found.counts.sub_(1),
    "a key is off by a bit": lambda found: found.keys.bitwise_xor_(1),
    "zeros of one sign": lambda found: found.numbers[0].div_(2, rounding_mode="floor"),
    "extremes after they were cut": lambda found: found.maximum.sub_(2.0**-13),
    "nothing is lost": lambda found: found.exact.fill_(1),
}


@pytest.mark.parametrize("twin", TWINS)
def test_a_device_that_miscounts_is_noticed(twin):
    resolution = Resolution(few=5, least_bits=7)
    values = LAWS["half zeros"](np.random.default_rng(0), 4000)
    values[:2] = 0.0, -0.0
    with kernel("numpy"):
        expected = sorted_sketch(values, "float32", starts_of([2000, 2000]), resolution)
    found = counted(values, "float32", 2000, resolution)
    assert sketch_of(found, resolution) == expected
    TWINS[twin](found)
    assert sketch_of(found, resolution) != expected


def test_a_device_that_cuts_otherwise_is_noticed():
    values = LAWS["normal"](np.random.default_rng(0), 5000)
    found = [counted(values, "float32", 5000, resolution) for resolution in (UNITS, TENSOR)]
    assert sketch_of(found[0], UNITS) != sketch_of(found[1], UNITS)


def test_the_sizes_that_python_and_the_source_both_know():
    text = source_text("device_units.cu")
    assert int(re.search(r"#define LEAST_BITS (\d+)", text)[1]) == TILE_BITS
    assert int(re.search(r"#define OWN_BITS (\d+)", text)[1]) == cuda_units.LEAST_BITS
    threads = int(re.search(r"#define THREADS (\d+)", text)[1])
    assert threads << cuda_units.LEAST_BITS == 1 << TILE_BITS
    needs = [cuda_units._shared(bits) for bits in range(cuda_units.LEAST_BITS, MOST_BITS + 1)]
    assert all(need <= 99 << 10 for need in needs[: TILE_BITS + 1 - cuda_units.LEAST_BITS])  # of any device there is
    assert needs[-1] <= ROOMY
