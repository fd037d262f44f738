"""Sketches counted on a CUDA device. The host waits for the device only when a sketch is read.

Only integers are added, so the order in which the threads of a device do so does not change the sketch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.kernels.cuda import CPU_INSTEAD, kernels
from klcal.kernels.cuda_counting import MOST_FEW, Launcher, count, none_counted, taken
from klcal.sketches.compiled_counting import sketch_of_floats
from klcal.sketches.counted import counted_values
from klcal.sketches.counting import FLOAT_DTYPES, pattern_values
from klcal.sketches.patterns import TENSOR, Resolution
from klcal.sketches.sketch import Sketch

if TYPE_CHECKING:
    import torch

__all__ = [
    "DeviceCounter",
    "count_on_device",
    "sketch_counted",
    "stopped_devices",
    "usable_device",
    "usable_devices",
]

ALL = "cuda:all"
COPIED = 1 << 26  # values of a non-contiguous tensor that are copied at a time


def usable_device(name: str) -> str:
    """The device with this name, after checking that it can be used. "auto" is the CPU; tensors on a device stay there.

    Raises:
        UsageError: there is no such device here, or torch or the driver cannot use it.
    """
    if name == ALL:
        raise UsageError("a tensor is counted on one device", "use auto, cpu, cuda or cuda:N")
    return next(iter(usable_devices(name)), "cpu")


def usable_devices(name: str) -> tuple[str, ...]:
    """The CUDA devices with this name, after checking that they can be used: none for "auto" and "cpu".

    Raises:
        UsageError: there is no such device here, or torch or the driver cannot use it.
    """
    if name in ("auto", "cpu"):
        return ()
    if name != ALL and not re.fullmatch(r"cuda(:\d+)?", name):
        raise UsageError(f"unknown device {name!r}", f"use auto, cpu, cuda or cuda:N, or {ALL} to calibrate files")
    there = _number_of_devices(name)
    numbers = range(there) if name == ALL else [int(name.partition(":")[2] or 0)]
    if not there or numbers[-1] >= there:
        raise UsageError(f"there is no device {name!r}: {_found(there)}", CPU_INSTEAD)
    with stopped_devices(name):
        for number in numbers:
            kernels(number)
    return tuple(f"cuda:{number}" for number in numbers) if name == ALL else (name,)


def _number_of_devices(name: str) -> int:
    try:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    except ImportError:
        raise UsageError(f"--device {name} needs torch", "pip install 'klcal[cuda]'") from None
    except Exception:  # OSError, RuntimeError, …: a library or the driver is missing, or of another version
        what = f"torch cannot reach {name!r}: its installation or the driver is broken"
        raise UsageError(what, CPU_INSTEAD) from None


def _found(devices: int) -> str:
    """The devices that torch finds, in words; the reason if it finds none."""
    import torch

    if not devices and torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        torch.cuda.init()  # its error has the reason, which `is_available` does not tell
    except Exception as error:
        if "too old" in str(error):
            return f"the NVIDIA driver is too old for torch {torch.__version__} with CUDA {torch.version.cuda}"
    return f"torch {torch.__version__} finds {devices} CUDA devices"


def count_on_device(tensor: torch.Tensor, dtype: str, device: str) -> Sketch:
    """The sketch of a tensor as one unit, counted on a CUDA device.

    Raises:
        InputError: the device has too little memory, or failed. The tensor is not counted elsewhere instead.
    """
    with stopped_devices(device):
        found = DeviceCounter(dtype, device)
        found.add(tensor.to(device))
        return found.sketch()


@contextmanager
def stopped_devices(name: str) -> Iterator[None]:
    """A context in which errors of a device, its driver or the run-time compiler become klcal's errors.

    Raises:
        InputError: the device has too little memory, or failed.
    """
    try:
        yield
    except RuntimeError as error:  # torch's, and cuda-core's CUDAError
        if type(error).__module__.partition(".")[0] not in ("torch", "cuda") and "CUDA" not in str(error):
            raise
        if "out of memory" in str(error).lower().replace("_", " "):
            what = f"there is not enough memory for it on the device {name!r}"
            raise InputError(what, f"free some there, or {CPU_INSTEAD}") from error
        raise InputError(f"the device {name!r} does not work, or no longer", CPU_INSTEAD) from error


class DeviceCounter:
    """Counts tensors on a device as one unit: a ``klcal.sketches.counting.Counter``. Only ``sketch`` waits for it.

    Args:
        dtype: of the tensors.
        device: on which they are.
        resolution: of the sketch.
        launcher: runs the kernels; by default the device itself.
    """

    def __init__(
        self, dtype: str, device: str, resolution: Resolution = TENSOR, launcher: Launcher | None = None
    ) -> None:
        if resolution.few > MOST_FEW:
            raise AssertionError(f"at most {MOST_FEW} values are told apart on a device")
        self.dtype, self.resolution = dtype, resolution
        self.state = none_counted(dtype, device)
        self.launcher = launcher or kernels(self.state.device.index)
        self.order = Order(self.state)

    def add(self, tensor: torch.Tensor) -> None:
        """Counts the values of a tensor of any shape and strides."""
        self.order.before_adding()
        for values, times in _contiguous(tensor.detach()):
            count(values, self.dtype, self.state, self.launcher, self.resolution.few, times)

    def sketch(self) -> Sketch:
        """The sketch of all values that were added."""
        self.order.before_reading()
        return sketch_counted(self.state, self.dtype, self.resolution)


def sketch_counted(state: torch.Tensor, dtype: str, resolution: Resolution = TENSOR) -> Sketch:
    """The sketch of the values that a device counted.

    Args:
        state: from ``klcal.kernels.cuda_counting.none_counted``, or a copy of it on the host. Reading a state on
            the device waits for it.
        dtype: of the values.
        resolution: of the sketch.
    """
    found = taken(state, dtype)
    if FLOAT_DTYPES[dtype] is np.uint8:
        return counted_values(pattern_values(dtype)[found.keys], found.key_counts, resolution)
    buckets = None if found.is_few else (found.keys, found.key_counts)
    return sketch_of_floats((found.patterns, found.counts), buckets, found.seen, resolution)


class Order:
    """The order of work if several of torch's streams add to one tensor. Streams wait for each other, not the host."""

    def __init__(self, state: torch.Tensor) -> None:
        import torch

        self.device = state.device
        self.is_on_device = state.is_cuda
        if self.is_on_device:
            self.home = torch.cuda.current_stream(self.device)
            self.ready = self.home.record_event()
            self.others: set[torch.cuda.Stream] = set()

    def before_adding(self) -> None:
        """Makes the current stream wait until the tensor is there."""
        import torch

        if not self.is_on_device:
            return
        current = torch.cuda.current_stream(self.device)
        if current != self.home and current not in self.others:
            current.wait_event(self.ready)
            self.others.add(current)

    def before_reading(self) -> None:
        """Makes the current stream wait for all streams that have added."""
        import torch

        if not self.is_on_device:
            return
        current = torch.cuda.current_stream(self.device)
        for stream in (self.home, *self.others):
            current.wait_stream(stream)


def _contiguous(tensor: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    """The values of a tensor in contiguous pieces, in any order, and how often each occurs in the tensor."""
    repeated = [axis for axis, stride in enumerate(tensor.stride()) if stride == 0 and tensor.shape[axis] > 1]
    times = prod(tensor.shape[axis] for axis in repeated)
    for axis in repeated:
        tensor = tensor.narrow(axis, 0, 1)
    tensor = tensor.resolve_neg().squeeze()
    tensor = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    if tensor.is_contiguous() or tensor.numel() <= COPIED:
        yield tensor.contiguous(), times
        return
    rows = max(1, COPIED * tensor.shape[0] // tensor.numel())
    for part in tensor.split(rows):
        yield part.contiguous(), times
