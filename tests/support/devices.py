"""Kernels for a GPU, compiled as plain C: a loop in the place of each block's threads, one block after the other."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from shutil import which
from typing import NamedTuple

import numpy as np
import pytest

from klcal.kernels import cuda_counting
from klcal.kernels.cuda import SOURCE
from klcal.kernels.library import compiled
from klcal.sketches import device_counting, device_feeding
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_counting import DeviceCounter
from klcal.sketches.patterns import TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from tests.support.built import built
from tests.support.lazy import torch

COMPILER = os.environ.get("CC", "cc")
FLAGS = ["-std=c11", "-O1", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC", "-Wall", "-Wextra"]
FLAGS += ["-Wno-unused-function"]  # a header has those that one kernel needs, and another does not
SHARED = 1 << 18  # bytes of shared memory, as in source/device.h
LOCK = threading.RLock()  # the shim has one block at a time
ARGUMENTS = 20  # of a kernel at most, as in device_threads.h
THREADS = Path(__file__).with_name("device_threads.h")
SEARCH = "device_search.cu"
TEAMS = "device_outcomes.cu", "device_weighed.cu"  # of threads that know one another: no loop can go through them
JUNK = b"\xa5"  # in each of them at first


class Shim:
    """A device that is none.

    Args:
        multiprocessors: how many blocks there may be, by two.
        shared: bytes of memory that the blocks of a multiprocessor share.
        has_threads: whether the threads of a block take turns where they wait for one another, and nowhere else; a
            loop goes through each phase otherwise, which is faster.
        source: where the kernels are.
    """

    def __init__(
        self, multiprocessors: int = 2, shared: int = 200 << 10, *, has_threads: bool = False, source: Path = SOURCE
    ) -> None:
        self.multiprocessors = multiprocessors
        self.shared = shared
        self.has_threads = has_threads
        self.source = source

    def share(self, blocks: int) -> int:
        """Bytes of shared memory of a block."""
        return self.shared // blocks

    def launch(
        self,
        file: str,
        name: str,
        blocks: int,
        threads: int,
        shared: int,
        *arguments: int,
        macros: tuple[str, ...] = (),
    ) -> None:
        """Runs a kernel."""
        assert blocks > 0
        assert shared <= SHARED
        if file == SEARCH and not self.has_threads:
            searched_by_the_cpu(name, *arguments)
            return
        has_threads = self.has_threads or file in TEAMS
        library = shim(self.source / file, has_threads, macros)
        assert threads == ctypes.c_int64.in_dll(library, "klcal_threads").value
        memory = ctypes.addressof(ctypes.c_uint32.in_dll(library, "klcal_shared"))
        beyond = JUNK * (SHARED - shared)
        kernel = getattr(library, name)
        kernel.argtypes = [ctypes.c_int64] * len(arguments)
        kernel.restype = None
        all_arguments = (ctypes.c_int64 * ARGUMENTS)(*arguments)
        ctypes.c_int64.in_dll(library, "klcal_blocks").value = blocks
        for block in range(blocks):
            ctypes.c_int64.in_dll(library, "klcal_block").value = block
            ctypes.memset(memory, JUNK[0], SHARED)
            if has_threads:
                assert library.klcal_run_block(kernel, all_arguments, block), "threads wait for others that never come"
            else:
                kernel(*arguments)
            is_within = ctypes.string_at(memory + shared, len(beyond)) == beyond
            assert is_within, "more shared memory is used than was asked for"


def searched_by_the_cpu(name: str, how: int, units: int, numbers: int, n: int, each: int, *more: int) -> None:
    """What ``source/device_search.cu`` does, by the text that it includes, as the compiled kernel has it."""
    library = compiled()
    all_units = list((ctypes.c_int64 * n).from_address(numbers)) if numbers else list(range(n))
    order = (ctypes.c_int64 * n)(*all_units)
    if name == "search_units":
        assert library.klcal_search(*map(ctypes.c_int64, (how, units, ctypes.addressof(order), n, each))) == n
        return
    for unit in all_units if name == "classic_units" else ():
        assert library.klcal_classic(*map(ctypes.c_int64, (how, units, unit, unit + 1, more[0], each))) == 1
    for unit in all_units if name == "figures_of_units" else ():
        assert library.klcal_figures(*map(ctypes.c_int64, (how, units, unit, unit + 1, each))) == 1


def counted_on_a_device(tensors, dtype: str, resolution: Resolution = TENSOR, launcher: Shim | None = None) -> Sketch:
    """The sketch of tensors by the kernels of a device, which the CPU runs."""
    found = DeviceCounter(dtype, "cpu", resolution, launcher or Shim())
    for tensor in tensors:
        found.add(tensor)
    return found.sketch()


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever waits for a CUDA device within is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def real_device() -> str:
    """The name of a CUDA device; the test is skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    return "cuda"


@cache
def shim(file: Path, has_threads: bool, macros: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A file of kernels as a library; the test is skipped where it cannot be built."""
    if which(COMPILER) is None:
        pytest.skip("there is no C compiler")
    flags = [*FLAGS, *os.environ.get("KLCAL_SHIM_FLAGS", "").split(), *(f"-D{macro}" for macro in macros)]
    if has_threads:
        if "asan" in os.environ.get("LD_PRELOAD", "") or sys.platform != "linux":
            pytest.skip("threads that take turns need glibc, and no sanitizer")
        flags += ["-std=gnu11", "-U_FORTIFY_SOURCE", f'-DKLCAL_THREADS="{THREADS}"']  # it forbids jumps between stacks
    command = [COMPILER, "-x", "c", *flags, file.name, "-lm"]
    return ctypes.CDLL(str(built(command, [THREADS, *file.parent.glob("*.*")], file.parent)))


TORCH_DTYPES = [dtype for dtype in FLOAT_DTYPES if dtype != "float4_e2m1fn"]
"""Those that torch has for single values."""


def as_tensor(chunk: np.ndarray, dtype: str) -> torch.Tensor:
    """A flat array of ``FLOAT_DTYPES[dtype]`` as the torch tensor of that dtype."""
    signed = chunk.view(f"i{chunk.itemsize}")  # torch views signed integers as any type of their size
    return torch.from_numpy(signed).view(getattr(torch, dtype, torch.uint8))


class Idle:
    """The lane and the launcher of a device that does nothing before it is waited for.

    So what is written over too early, or read too early, is seen.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device("cpu")
        self.name = device
        self.launcher = self
        self.shim = Shim()
        self.multiprocessors = self.shim.multiprocessors
        self.share = self.shim.share
        self.begun: deque[Callable[[], object]] = deque()
        self.done = 0
        self.nbytes = 0
        self.known: set[int] = set()  # where the memory lies that it gave

    def entered(self):
        return nullcontext()

    def follow(self) -> None:
        pass

    def pinned(self, size: int, dtype):
        found = torch.full((size,), 0x55, dtype=dtype)
        self.nbytes += found.nbytes
        self.known.add(found.untyped_storage().data_ptr())
        return found

    on_device = pinned

    def copy(self, target, source) -> Until:
        begun = self.begin(lambda: target.copy_(source))
        if target.untyped_storage().data_ptr() not in self.known:  # of units, which torch, not idle, works on further
            begun.synchronize()
        return begun

    def launch(self, *arguments, **more) -> None:
        begun = self.begin(lambda: self.shim.launch(*arguments, **more))
        if arguments[0] != "device_counting.cu":  # of units, too
            begun.synchronize()

    def begin(self, work: Callable[[], object]) -> Until:
        with LOCK:
            self.begun.append(work)
            return Until(self, self.done + len(self.begun))

    def do(self, number: int) -> None:
        """All of the first so many things that were begun."""
        with LOCK:
            while self.done < number:
                self.begun.popleft()()
                self.done += 1


class Until(NamedTuple):
    """An event in a lane."""

    lane: Idle
    number: int

    def synchronize(self) -> None:
        self.lane.do(self.number)


def idle_devices(monkeypatch, number: int) -> list[Idle]:
    """So many CUDA devices, as the command finds them, which are idle; the lanes that are made on them."""
    lanes: list[Idle] = []
    states = []  # are kept, because what is begun has only their address

    def lane(device: str) -> Idle:
        lanes.append(Idle(device))
        return lanes[-1]

    def none_counted(*arguments):
        states.append(cuda_counting.none_counted(*arguments))
        return states[-1]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(device_counting, "kernels", lambda _: None)
    monkeypatch.setattr(device_counting, "none_counted", none_counted)
    monkeypatch.setattr(device_feeding, "Lane", lane)
    return lanes
