"""Kernels for a GPU, compiled as plain C: a loop in the place of each block's threads, one block after the other."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import mkdtemp

import pytest

from klcal.kernels.cuda import SOURCE
from klcal.sketches.device_counting import DeviceCounter
from klcal.sketches.patterns import TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from tests.support.lazy import torch

COMPILER = os.environ.get("CC", "cc")
FLAGS = ["-std=c11", "-O2", "-g", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC", "-Wall", "-Wextra"]
SHARED = 1 << 18  # bytes of shared memory, as in source/device.h
ARGUMENTS = 20  # of a kernel at most, as in device_threads.h
THREADS = Path(__file__).with_name("device_threads.h")
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

    def launch(self, file: str, name: str, blocks: int, threads: int, shared: int, *arguments: int) -> None:
        """Runs a kernel."""
        assert blocks > 0
        assert threads == 1 << 10
        assert shared <= SHARED
        library = shim(self.source / file, self.has_threads)
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
            if self.has_threads:
                assert library.klcal_run_block(kernel, all_arguments, block), "threads wait for others that never come"
            else:
                kernel(*arguments)
            is_within = ctypes.string_at(memory + shared, len(beyond)) == beyond
            assert is_within, "more shared memory is used than was asked for"


def counted_on_a_device(tensors, dtype: str, resolution: Resolution = TENSOR, launcher: Shim | None = None) -> Sketch:
    """The sketch of tensors by the kernels of a device, which the CPU runs."""
    found = DeviceCounter(dtype, "cpu", resolution, launcher or Shim())
    for tensor in tensors:
        found.add(tensor)
    return found.sketch()


def real_device() -> str:
    """The name of a CUDA device; the test is skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    return "cuda"


@cache
def shim(file: Path, has_threads: bool) -> ctypes.CDLL:
    """A file of kernels as a library; the test is skipped where it cannot be built."""
    if which(COMPILER) is None:
        pytest.skip("there is no C compiler")
    library = Path(mkdtemp()) / "shim.so"
    flags = [*FLAGS, *os.environ.get("KLCAL_SHIM_FLAGS", "").split()]
    if has_threads:
        if "asan" in os.environ.get("LD_PRELOAD", "") or sys.platform != "linux":
            pytest.skip("threads that take turns need glibc, and no sanitizer")
        flags += ["-std=gnu11", f'-DKLCAL_THREADS="{THREADS}"']
    subprocess.run([COMPILER, "-x", "c", *flags, "-o", library, file], check=True)
    return ctypes.CDLL(str(library))
