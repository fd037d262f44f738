"""The same counts by torch, on a CUDA device or any other; nothing but counting happens there.

Only integers come out, so the order in which a device's threads add them is of no consequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.sketches.counting import BELOW_KEY, BUCKETS, SHIFT, SIGN_KEY, Counts

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


def count_on_device(chunks: Iterable[torch.Tensor], device: str) -> Counts:
    """The same counts by torch, on a CPU or CUDA device; nothing but counting happens there.

    bincount adds integers, so the order in which threads add them is of no consequence.

    Raises:
        MemoryError: there is no room on the device for even one block; it is never counted elsewhere instead.
    """
    import torch

    try:
        return _count_blocks(chunks, device)
    except torch.OutOfMemoryError:
        raise MemoryError from None


def _count_blocks(chunks: Iterable[torch.Tensor], device: str) -> Counts:
    import torch

    table = torch.zeros(BUCKETS, dtype=torch.int64, device=device)
    positive_zeros = negative_zeros = nan = neg_inf = pos_inf = 0
    minimum, maximum, exact = np.inf, -np.inf, True
    for block in (block for chunk in chunks for block in chunk.detach().reshape(-1).split(DEVICE_BLOCK)):
        values = block.to(device).to(torch.float32)
        low, high = _device_extremes(values)
        if not np.isfinite(low - high):
            nan += int(torch.isnan(values).sum())
            neg_inf += int((values == -np.inf).sum())
            pos_inf += int((values == np.inf).sum())
            values = values[torch.isfinite(values)]
            low, high = _device_extremes(values)
        if not low * high < 0:
            low, high = _device_extremes(values[values != 0])
        minimum, maximum = min(minimum, low), max(maximum, high)
        bits = values.view(torch.int32)
        exact = exact and not bool((bits & int(BELOW_KEY)).any())
        found = torch.bincount((bits >> SHIFT) & (BUCKETS - 1), minlength=BUCKETS)
        if int(found[0] + found[SIGN_KEY]):
            positive_zeros += int((bits == 0).sum())
            negative_zeros += int((bits == -(1 << 31)).sum())
        table += found
    table[0] -= positive_zeros
    table[SIGN_KEY] -= negative_zeros
    counts = table.cpu().numpy()
    keys = np.flatnonzero(counts)
    zeros = positive_zeros + negative_zeros
    return Counts(keys, counts[keys], zeros, nan, neg_inf, pos_inf, minimum, maximum, exact)


def _device_extremes(values: torch.Tensor) -> tuple[float, float]:
    if not values.numel():
        return np.inf, -np.inf
    low, high = values.aminmax()
    return float(low), float(high)
