"""A CUDA device against bare passes over its memory, and files to it against copying them; 3 minutes on an H100.

Whatever is measured is compared with the CPU first, to the last bit. Where there is no device, nothing is measured.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import klcal
from benchmarks import cuda_units
from benchmarks.side_by_side import PYTHON, in_turns, process, ratio, report, seconds
from klcal.errors import UsageError
from klcal.sketches.device_counting import DeviceCounter, usable_device
from klcal.sketches.device_feeding import ROOM_BYTES, ROOMS, Feed

if TYPE_CHECKING:
    import torch

DEVICE = "cuda"
VALUES = 1 << 28  # of which float32 takes a GiB
BATCH = 10**6
BATCHES = 200
QUEUED = 1 << 26  # cycles that a device idles while the host begins more: 40 ms
SIZES = (10**4, 10**6, 10**7)
BINS = 2048
SIDE = 8192  # values of a row of a tensor in a file
TENSORS, TENSOR_VALUES = 16, 1 << 27  # of a file: 4 GiB in bfloat16
START = "import torch; torch.zeros(1, device='cuda')"
COPY = f"""
import os, sys, time, torch

rooms = [torch.empty({ROOM_BYTES}, dtype=torch.uint8, pin_memory=True) for _ in range({ROOMS})]
there = torch.empty({ROOM_BYTES}, dtype=torch.uint8, device="cuda")
copied = [torch.cuda.Event() for _ in rooms]
file = os.open(sys.argv[1], os.O_RDONLY)
start = time.perf_counter()
for number, position in enumerate(range(0, os.fstat(file).st_size, {ROOM_BYTES})):
    room, event = rooms[number % {ROOMS}], copied[number % {ROOMS}]
    event.synchronize()
    size = os.preadv(file, [room.numpy()], position)
    there[:size].copy_(room[:size], non_blocking=True)
    event.record()
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""


def run() -> None:
    """All of it in one go."""
    try:
        usable_device(DEVICE)
    except UsageError as error:
        report(f"On a GPU: not measured ({error.what})", [])
        return
    import torch

    torch.manual_seed(0)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    start = time.perf_counter()
    for part in (_counting, _batches, _sketches, cuda_units.run, _files, _file_units):
        part()
        torch.cuda.empty_cache()
    report("The whole benchmark (at most 180)", [("seconds", f"{time.perf_counter() - start:.0f}")])


# --- counting what lies on the device


def _counting() -> None:
    import torch

    rows = []
    for name, (most, make) in _data().items():
        values = make()
        dtype = str(values.dtype).removeprefix("torch.")
        counter = DeviceCounter(dtype, DEVICE)
        counter.add(values)
        assert counter.sketch() == klcal.sketch(values.cpu()), name
        plain = values.view(torch.uint8) if values.itemsize == 1 else values
        peers = {"klcal": partial(counter.add, values), "aminmax": partial(torch.aminmax, plain)}
        if name == "normal":
            peers["histc"] = partial(torch.histc, values, BINS, -6.0, 6.0)
        times = _on_device(peers)
        limit = f" (at most {most})" if most else ""
        rows += [(f"{name}{limit}", f"{times['klcal']:.2f} ms {times['klcal'] / times['aminmax']:5.2f}")]
        if "histc" in times:
            rows += [(f"torch.histc, {BINS} bins", f"{times['histc']:.2f} ms {times['histc'] / times['aminmax']:5.2f}")]
    report(f"Counting 2^{VALUES.bit_length() - 1} values on the device, and in passes of torch.aminmax over them", rows)


def _data() -> dict[str, tuple[float | None, Callable[[], torch.Tensor]]]:
    """Values, and how many passes they may take."""
    import torch

    def normal(size: int = VALUES) -> torch.Tensor:
        return torch.randn(size, device=DEVICE)

    return {
        "normal": (1.5, normal),
        "half zeros": (3.0, lambda: normal().clamp_(min=0)),
        "a lattice of 200 values": (3.0, lambda: torch.randint(-100, 100, (VALUES,), device=DEVICE) * 0.0137),
        "a constant": (3.0, lambda: torch.full((VALUES,), 0.3, device=DEVICE)),
        "bfloat16": (1.5, lambda: normal().bfloat16()),
        "float16": (None, lambda: normal().half()),
        "float8_e4m3fn": (None, lambda: normal().to(torch.float8_e4m3fn)),
        "float64": (None, lambda: normal().double()),
    }


def _on_device(candidates: dict[str, Callable[[], object]], rounds: int = 21) -> dict[str, float]:
    """Median milliseconds between CUDA events, in turns; the first round does not count."""
    import torch

    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, work in candidates.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            marks[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) for a, b in pairs[1:]) for name, pairs in marks.items()}


# --- batches, and sketches one by one


def _batches() -> None:
    import torch

    values = torch.randn(BATCH, device=DEVICE)
    batches = klcal.Accumulator()
    host = []
    batches.add(values)
    torch.cuda.synchronize()
    with _no_waiting():
        for _ in range(BATCHES):
            start = time.perf_counter()
            batches.add(values)
            host.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with _no_waiting():
        torch.cuda._sleep(QUEUED)  # so that the device finds all of them begun
        begin.record()
        for _ in range(BATCHES):
            batches.add(values)
        end.record()
    torch.cuda.synchronize()
    assert batches.sketch() == klcal.sketch(values.cpu()).repeat(2 * BATCHES + 1)
    rows = [
        ("on the host (at most 40)", f"{1e6 * statistics.median(host):.1f} us"),
        ("on the device", f"{1e3 * begin.elapsed_time(end) / BATCHES:.1f} us"),
    ]
    report("Accumulator.add of 10^6 float32, which waits for nothing", rows)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within, what waits for the device raises."""
    import torch

    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _sketches() -> None:
    import torch

    calls: dict[str, Callable[[], object]] = {}
    for size in SIZES:
        values = torch.randn(size, device=DEVICE)
        assert klcal.sketch(values) == klcal.sketch(values.cpu())
        calls[f"{size:,} float32"] = partial(klcal.sketch, values)
    times = in_turns(calls, rounds=21)
    report("klcal.sketch of a tensor on the device, to the end", [(name, seconds(times[name])) for name in times])


# --- files


def _files() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.safetensors"
        _write(file)
        command = (PYTHON, "-m", "klcal", "calibrate", file, "--output")
        calls = {
            "start torch and the device": process(PYTHON, "-c", START),
            "the same, read to pinned memory and copy": process(PYTHON, "-c", COPY, file),
            "klcal calibrate --device cuda": process(*command, f"{folder}/cuda.json", "--device", "cuda"),
            "klcal calibrate --device cpu": process(*command, f"{folder}/cpu.json", "--device", "cpu"),
        }
        times = in_turns(calls, rounds=2)
        assert Path(f"{folder}/cuda.json").read_bytes() == Path(f"{folder}/cpu.json").read_bytes()
        _, copy, device, cpu = calls
        rows = [(name, seconds(times[name])) for name in times]
        rows += [("--device cuda / reading and copying (at most 2)", f"{ratio(times, device, copy):.2f}")]
        rows += [("--device cuda / --device cpu", f"{ratio(times, device, cpu):.2f}")]
        rows += _fed(file)
    report(
        f"A file of {TENSORS} bfloat16 tensors, {TENSORS * TENSOR_VALUES >> 29} GiB in the page cache: whole processes",
        rows,
    )


def _file_units() -> None:
    """The same in groups, to a table of them."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.safetensors"
        _write(file)
        command = (PYTHON, "-m", "klcal", "calibrate", file, "--per", "group:128", "--dtype", "int4", "--output")
        calls = {
            "start torch and the device, read to pinned memory and copy": process(PYTHON, "-c", COPY, file),
            "klcal calibrate --device cuda": process(*command, f"{folder}/cuda.safetensors", "--device", "cuda"),
            "klcal calibrate --device cpu": process(*command, f"{folder}/cpu.safetensors", "--device", "cpu"),
        }
        times = in_turns(calls, rounds=1)
        assert Path(f"{folder}/cuda.safetensors").read_bytes() == Path(f"{folder}/cpu.safetensors").read_bytes()
        copy, device, cpu = calls
        rows = [(name, seconds(times[name])) for name in times]
        rows += [("--device cuda / reading and copying (at most 2)", f"{ratio(times, device, copy):.2f}")]
        rows += [("--device cuda / --device cpu", f"{ratio(times, device, cpu):.2f}")]
    report("The same file, --per group:128 --dtype int4, to scales.safetensors: whole processes", rows)


def _write(file: str) -> None:
    import torch
    from safetensors.torch import save_file

    normal = torch.randn(TENSOR_VALUES // SIDE, SIDE, device=DEVICE)
    save_file({f"layers.{number}": (normal * (1 + number)).bfloat16().cpu() for number in range(TENSORS)}, file)


def _fed(file: str) -> list[tuple[str, str]]:
    """Gigabytes a second, where everything is started."""
    import torch

    tensors = klcal.read(file).values()
    feed = Feed(DEVICE)

    def counted() -> None:
        for wait in [feed.count(each.parts, each.dtype) for each in tensors]:
            wait()

    torch.cuda.reset_peak_memory_stats()
    times = in_turns({"feed": counted}, rounds=3)["feed"]
    copies = [subprocess.run([PYTHON, "-c", COPY, file], capture_output=True, check=True).stdout for _ in range(3)]
    return [
        ("where all is started: read and copied", _rate([float(each) for each in copies])),
        ("where all is started: counted by klcal", _rate(times)),
        ("memory of the device that it takes", f"{torch.cuda.max_memory_allocated() / 1e6:.0f} MB"),
    ]


def _rate(times: Sequence[float]) -> str:
    return f"{2 * TENSORS * TENSOR_VALUES / statistics.median(times) / 1e9:.1f} GB/s"


if __name__ == "__main__":
    run()
