"""Sums of squares by column on a CUDA device (``source/device_energy.cu``): see ``klcal.kernels.energy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klcal.kernels.cuda_counting import THREADS, Launcher
from klcal.kernels.energy import WIDTH

if TYPE_CHECKING:
    import torch

__all__ = ["add_energy", "no_energy"]

FILE = "device_energy.cu"
KINDS = ("float32", "float16", "bfloat16")  # dtypes that the kernels read; others are converted to float32
LANES = 32  # threads that go through a run together, as in source/device_energy.cu
ROWS = 32  # values that a thread adds up, if runs are shorter than LANES
BLOCKS = 2  # blocks on a multiprocessor


def no_energy(columns: int, device: torch.device) -> torch.Tensor:
    """The sums of no values on a device: (columns, WIDTH), int64."""
    import torch

    return torch.zeros((columns, WIDTH), dtype=torch.int64, device=device)


def add_energy(values: torch.Tensor, energy: torch.Tensor, device: Launcher) -> None:
    """Adds the squares of values to their columns, without waiting for the device.

    Args:
        values: (outer, columns, run), contiguous, on the device; of any float dtype.
        energy: (columns, WIDTH), on the device; changed in place.
        device: runs the kernels.
    """
    name = str(values.dtype).removeprefix("torch.")
    if name not in KINDS:
        name, values = KINDS[0], values.float()
    outer, columns, run = values.shape
    if not values.numel():
        return
    warps = outer * columns if run >= LANES else -(-columns // LANES) * -(-(outer * run) // ROWS)
    blocks = min(-(-warps // (THREADS // LANES)), BLOCKS * device.multiprocessors)
    sizes = outer, columns, run
    device.launch(FILE, f"energy_{name}", blocks, THREADS, 0, values.data_ptr(), *sizes, energy.data_ptr())
