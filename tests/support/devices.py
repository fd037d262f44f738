"""Kernels for a GPU, compiled as plain C: a loop in the place of each block's threads, one block after the other."""

from __future__ import annotations

import ctypes
import os
import subprocess
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
JUNK = b"\xa5"  # in each of them at first


class Shim:
    """A device that is none.

    Args:
        multiprocessors: how many blocks there may be, by two.
        shared: bytes of memory that the blocks of a multiprocessor share.
    """

    def __init__(self, multiprocessors: int = 2, shared: int = 200 << 10) -> None:
        self.multiprocessors = multiprocessors
        self.shared = shared

    def share(self, blocks: int) -> int:
        """Bytes of shared memory of a block."""
        return self.shared // blocks

    def launch(self, file: str, name: str, blocks: int, threads: int, shared: int, *arguments: int) -> None:
        """Runs a kernel."""
        assert threads == 1 << 10
        assert shared <= SHARED
        library = shim(file)
        memory = ctypes.addressof(ctypes.c_uint32.in_dll(library, "klcal_shared"))
        beyond = JUNK * (SHARED - shared)
        kernel = getattr(library, name)
        kernel.argtypes = [ctypes.c_int64] * len(arguments)
        kernel.restype = None
        ctypes.c_int64.in_dll(library, "klcal_blocks").value = blocks
        for block in range(blocks):
            ctypes.c_int64.in_dll(library, "klcal_block").value = block
            ctypes.memset(memory, JUNK[0], SHARED)
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
def shim(file: str) -> ctypes.CDLL:
    """A file of kernels as a library; the test is skipped where it cannot be built."""
    if which(COMPILER) is None:
        pytest.skip("there is no C compiler")
    library = Path(mkdtemp()) / "shim.so"
    flags = [*FLAGS, *os.environ.get("KLCAL_SHIM_FLAGS", "").split()]
    subprocess.run([COMPILER, "-x", "c", *flags, "-o", library, SOURCE / file], check=True)
    return ctypes.CDLL(str(library))
