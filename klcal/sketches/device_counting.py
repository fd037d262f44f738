"""The same sketch by torch, on a CUDA device or any other; nothing but counting happens there.

Only integers come out, so the order in which a device's threads add them is of no consequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.sketches.counted import counted_buckets
from klcal.sketches.counting import BELOW_KEY, BUCKETS, SHIFT
from klcal.sketches.few import Few
from klcal.sketches.patterns import TENSOR, Resolution
from klcal.sketches.sketch import COUNTERS, Sketch

if TYPE_CHECKING:
    import torch

__all__ = ["as_tensor", "count_on_device", "usable_device"]

Array = npt.NDArray[Any]

DEVICE_BLOCK = 1 << 20  # values counted at a time on a device: amortises clearing its table


def usable_device(name: str) -> str:
    """The device of a name, where it can be used; "auto" is the CPU.

    Values come from files, and the cores of a machine count them faster than a disk delivers them; a tensor
    that lies on a device already is counted there.

    Raises:
        UsageError: there is no such device here, or no torch to reach it.
    """
    if name in ("auto", "cpu"):
        return "cpu"
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda or cuda:N")
    try:
        import torch

        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except ImportError:
        raise UsageError(f"--device {name} needs torch", "pip install 'klcal[torch]'") from None
    except Exception:  # OSError, RuntimeError, …: a library or the driver is missing, or another one than torch's
        what = f"torch cannot reach {name!r}: its installation or the driver is broken"
        raise UsageError(what, "use --device cpu; the result is the same") from None
    if int(name.partition(":")[2] or 0) >= devices:
        what = f"there is no device {name!r}: torch {torch.__version__} finds {devices} CUDA devices"
        raise UsageError(what, "use --device cpu; the result is the same")
    return name


def as_tensor(chunk: Array, dtype: str) -> torch.Tensor:
    """A flat array of ``FLOAT_DTYPES[dtype]`` as the torch tensor of that dtype."""
    import torch

    signed = chunk.view(f"i{chunk.itemsize}")  # torch views signed integers as any type of their size
    return torch.from_numpy(signed).view(getattr(torch, dtype))


def count_on_device(chunks: Iterable[torch.Tensor], device: str, resolution: Resolution = TENSOR) -> Sketch:
    """The sketch of some tensors as one unit, counted by torch on a CPU or CUDA device; nothing else happens there.

    Counting adds integers, so the order in which threads add them is of no consequence.

    Raises:
        MemoryError: there is no room on the device for even one block; it is never counted elsewhere instead.
    """
    import torch

    try:
        found = _DeviceCounter(device, resolution)
        for chunk in chunks:
            for block in chunk.detach().reshape(-1).split(DEVICE_BLOCK):
                found.add(block.to(device))
        return found.sketch()
    except torch.OutOfMemoryError:
        raise MemoryError from None


class _DeviceCounter:
    """As ``klcal.sketches.counting.counter``: whole values while there are few of them, buckets of what comes then."""

    def __init__(self, device: str, resolution: Resolution) -> None:
        self.device = device
        self.resolution = resolution
        self.few = Few(resolution.few)
        self.are_few = True
        self.table: torch.Tensor | None = None
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.minimum, self.maximum, self.exact = np.inf, -np.inf, True

    def add(self, block: torch.Tensor) -> None:
        """Count a flat tensor more."""
        import torch

        values = block.to(torch.float32)
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            self._count_nonfinite(block, values)
            block, values = block[finite], values[finite]
        nonzero = values != 0
        self.counters["underflowed"] += int((~nonzero & (block != 0)).sum()) if block.dtype == torch.float64 else 0
        if not bool(nonzero.all()):
            self.counters["zeros"] += int((~nonzero).sum())
            values = values[nonzero]
        if values.numel():
            self._add_nonzero(values)

    def _count_nonfinite(self, block: torch.Tensor, values: torch.Tensor) -> None:
        import torch

        nan, below, above = (int(mask.sum()) for mask in (torch.isnan(block), block == -np.inf, block == np.inf))
        lost = int((~torch.isfinite(values)).sum()) - nan - below - above
        for name, count in {"nan": nan, "neg_inf": below, "pos_inf": above, "overflowed": lost}.items():
            self.counters[name] += count

    def _add_nonzero(self, values: torch.Tensor) -> None:
        import torch

        bits = values.view(torch.int32)
        self.are_few = self.are_few and self._few(bits)
        if self.are_few:
            return
        low, high = values.aminmax()
        self.minimum, self.maximum = min(self.minimum, float(low)), max(self.maximum, float(high))
        self.exact = self.exact and not bool((bits & int(BELOW_KEY)).any())
        found = torch.bincount((bits >> SHIFT) & (BUCKETS - 1), minlength=BUCKETS)
        self.table = found if self.table is None else self.table + found

    def _few(self, bits: torch.Tensor) -> bool:
        """Counts whole patterns, where they are few with those before; whether they are."""
        import torch

        if torch.unique(bits[: 2 * self.few.few]).numel() > self.few.few:
            return False
        patterns, counts = (each.cpu().numpy() for each in torch.unique(bits, return_counts=True))
        order = np.argsort(patterns.view(np.uint32))
        return self.few.add_distinct(patterns.view(np.uint32)[order], counts[order])

    def sketch(self) -> Sketch:
        """Of all of it."""
        counts = np.empty(0, np.int64) if self.table is None else self.table.cpu().numpy()
        keys = np.flatnonzero(counts)
        in_buckets = counted_buckets(
            keys.astype(np.uint32) << np.uint32(SHIFT),
            counts[keys],
            exact=self.exact,
            resolution=self.resolution,
            minimum=self.minimum,
            maximum=self.maximum,
            **self.counters,
        )
        return in_buckets + self.few.sketch(self.resolution)
