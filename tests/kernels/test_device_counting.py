"""Counting on a device: the CPU's integers, to the last one, on a GPU and by a loop in the place of its threads."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import InputError
from klcal.kernels.cuda import OPTIONS, SOURCE, source_text
from klcal.kernels.cuda_counting import MOST_FEW, PLACES
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_counting import stopped_devices
from klcal.sketches.sketch import Sketch
from tests.support.devices import TORCH_DTYPES, Shim, as_tensor, counted_on_a_device, never_waiting, real_device
from tests.support.lazy import torch
from tests.support.sketches import RESOLUTIONS, one_by_one
from tests.support.strategies import floats

SPECIAL = np.float32([0, -0.0, np.nan, np.inf, -np.inf, 2.0**-149, -(2.0**-149), 3e38, -3e38, 1e-39])


def data() -> dict[str, np.ndarray]:
    """Values of which a block sees few, many, or first few and then many patterns."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=70001)
    return {
        "normal": normal,
        "half zeros": np.maximum(normal, 0),
        "lattice": np.round(normal * 20) / 8,
        "constant": np.full(50001, 0.3),
        "ascending": np.sort(normal),
        "all octaves": normal * 10.0 ** rng.uniform(-44, 38, normal.size),
        "special": rng.choice(SPECIAL, 5001).astype(np.float64),
        "few, then many": np.concatenate([np.full(30000, 1.5), SPECIAL, normal]),
        "as many as are few": rng.permutation(np.repeat(np.arange(1.0, MOST_FEW + 1), 5)),
        "one more": rng.permutation(np.repeat(np.arange(1.0, MOST_FEW + 2), 5)),
        "one": np.array([2.5]),
        "none": np.empty(0),
    }


def tensor_of(values: np.ndarray, dtype: str):
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(values).to(getattr(torch, dtype))


def on_device(tensors, dtype: str, device: str) -> Sketch:
    if device == "shim":
        return counted_on_a_device(tensors, dtype)
    return sum((klcal.sketch(each.to(real_device())) for each in tensors), Sketch.empty())


@pytest.mark.parametrize("device", ["shim", "cuda"])
@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype_is_counted_as_on_the_cpu_wherever_it_begins(dtype, device):
    for name, values in data().items():
        tensor = tensor_of(values, dtype)
        for first in (0, 1, 3):
            assert on_device([tensor[first:]], dtype, device) == klcal.sketch(tensor[first:]), (name, first)
        parts = tensor.split(tensor.numel() // 3 + 1)
        assert on_device(parts, dtype, device) == klcal.sketch(tensor), name


@settings(max_examples=50)
@given(st.lists(floats(), max_size=4), RESOLUTIONS)
def test_counts_are_those_of_single_values(chunks, resolution):
    found = counted_on_a_device(map(torch.from_numpy, chunks), "float32", resolution)
    assert found == one_by_one([np.concatenate([np.empty(0, np.float32), *chunks])], resolution)


@settings(max_examples=50)
@given(st.lists(st.floats(), max_size=40), RESOLUTIONS)
def test_float64_is_rounded_and_what_over_or_underflows_is_counted_as_that(values, resolution):
    found = counted_on_a_device([torch.tensor(values, dtype=torch.float64)], "float64", resolution)
    assert found == one_by_one([values], resolution)


@pytest.mark.parametrize(("blocks", "shared"), [(1, 80 << 10), (3, 140 << 10), (66, 233_472)])
def test_neither_the_number_of_blocks_nor_their_memory_matters(blocks, shared):
    launcher = Shim(blocks, shared)
    for name, values in data().items():
        for dtype in ("float32", "bfloat16"):
            tensor = tensor_of(values, dtype)
            assert counted_on_a_device([tensor], dtype, launcher=launcher) == klcal.sketch(tensor), (name, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float8_e4m3fn"])
def test_threads_wait_for_one_another_wherever_they_have_to(dtype):
    launcher = Shim(has_threads=True)
    for name, values in data().items():
        tensor = tensor_of(values, dtype)
        assert counted_on_a_device([tensor], dtype, launcher=launcher) == klcal.sketch(tensor), name


VIEWS = {
    "turned": lambda x: x.transpose(0, 2),
    "with gaps": lambda x: x[:, :, ::2],
    "a column": lambda x: x[:, :, 3],
    "expanded": lambda x: x.expand(7, 9, 500),
    "expanded, with gaps": lambda x: x.expand(7, 3, 500)[:, :, 1:400:3],
    "a scalar": lambda x: x[0, 0, 0],
    "overlapping": lambda x: x.as_strided((40, 50), (10, 1)),
    "negated": lambda x: torch.complex(x, x).conj().imag,
    "no values": lambda x: x[:0],
}


@pytest.mark.parametrize("device", ["shim", "cuda"])
@pytest.mark.parametrize("view", VIEWS)
def test_any_layout(view, device):
    tensor = torch.randn(7, 1, 500, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for dtype in ("float32", "bfloat16", "float8_e4m3fn"):
        if view == "negated" and dtype != "float32":
            continue  # which only parts of complex tensors are, as long as nothing reads them
        some = VIEWS[view](tensor.to(getattr(torch, dtype)))
        expected = klcal.sketch(some.detach().clone())
        if device == "shim":
            assert counted_on_a_device([some], dtype) == expected
        else:
            there = VIEWS[view](tensor.to(real_device(), getattr(torch, dtype)))
            assert klcal.sketch(there) == expected


def test_a_value_that_stands_for_two_to_the_forty_is_counted_as_often():
    found = counted_on_a_device([torch.tensor([[1.0], [0.0]]).expand(2, 1 << 40)], "float32")
    assert (found.counts.tolist(), found.zeros.tolist()) == ([1 << 40], [1 << 40])


def test_the_places_that_all_blocks_share_are_the_source_s():
    """The numbers that Python and the source both know."""
    text = source_text("device_counting.cu")
    assert 1 << int(re.search(r"ALL_PLACES_BITS (\d+)", text)[1]) == PLACES
    assert 1 << int(re.search(r"OWN_PLACES_BITS (\d+)", text)[1]) == 2 * MOST_FEW
    assert int(re.search(r"#define THREADS (\d+)", source_text("device_counting.cu"))[1]) == 1024


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("file", [path.name for path in sorted(SOURCE.glob("*.cu")) if path.stem != "device_search"])
def test_the_run_time_compiler_takes_the_kernels_without_a_word(file, arch, capfd):
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the run-time compiler finds its parts only without a sanitizer")
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    options = core.ProgramOptions(arch=arch, **OPTIONS)
    try:
        program = core.Program(source_text(file), "c++", options)
    except Exception as error:  # of its own kind, or of the loader of its library
        pytest.skip(f"the run-time compiler is not installed: {error!r}"[:80])
    assert len(program.compile("cubin").code) > 1000
    assert capfd.readouterr().err == ""


# --- batches


def test_an_accumulator_is_the_sketch_of_all_batches_and_can_be_read_in_between():
    batches = klcal.Accumulator()
    some, more = torch.randn(3, 100), np.float16([1, 2, 3])
    batches.add(some)
    assert batches.sketch() == klcal.sketch(some)
    batches.add(more)
    assert batches.sketch() == klcal.sketch(some) + klcal.sketch(more)
    with pytest.raises(klcal.UsageError, match="int64 values are not calibrated"):
        batches.add(np.arange(3))


def test_an_accumulator_on_a_device_never_waits_before_it_is_read():
    device = real_device()
    batches, expected = klcal.Accumulator(), Sketch.empty()
    many = [torch.randn(1 << 18, device=device) * scale for scale in (1, 30, 0.1)]
    klcal.sketch(many[0])  # what is compiled at the first use is compiled
    with never_waiting():
        for each in many:
            batches.add(each)
            batches.add(each.bfloat16())
    for each in many:
        expected += klcal.sketch(each.cpu()) + klcal.sketch(each.bfloat16().cpu())
    assert batches.sketch() == expected


def test_two_streams_may_add_to_one_accumulator():
    device = real_device()
    batches, expected = klcal.Accumulator(), Sketch.empty()
    streams = [torch.cuda.Stream() for _ in range(2)]
    many = [torch.randn(1 << 20, device=device) * 3**i for i in range(8)]
    torch.cuda.synchronize()
    for i, each in enumerate(many):
        with torch.cuda.stream(streams[i % 2]):
            batches.add(each)
        expected += klcal.sketch(each.cpu())
    assert batches.sketch() == expected


# --- devices that do not work


class CudaError(RuntimeError):
    __module__ = "cuda.core._utils.cuda_utils"


@pytest.mark.parametrize("error", [CudaError("CUDA_ERROR_ILLEGAL_ADDRESS"), RuntimeError("CUDA error: unspecified")])
def test_a_device_that_stops_working_is_reported_in_one_line(error):
    with (
        pytest.raises(InputError, match="the device 'cuda:1' does not work, or no longer; use --device cpu"),
        stopped_devices("cuda:1"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="a bug of ours"), stopped_devices("cuda:1"):
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), CudaError("CUDA_ERROR_OUT_OF_MEMORY: the API call")]
)
def test_a_device_without_room_is_reported_by_its_name(error):
    what = "there is not enough memory for it on the device 'cuda:1'; free some there, or use --device cpu"
    with pytest.raises(InputError, match=what), stopped_devices("cuda:1"):
        raise error


def test_a_tensor_is_made_of_what_is_stored():
    for dtype, storage in FLOAT_DTYPES.items():
        stored = np.arange(64, dtype=np.uint8).view(storage)
        assert as_tensor(stored, dtype).view(torch.uint8).tolist() == list(range(64))
