"""The distinct float32 patterns of channels and groups on a CUDA device, and how often each occurs.

Functions on tensors, by ``source/device_units.cu``: what ``klcal.kernels.units`` does on a CPU, and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.cuda_counting import THREADS, Launcher
from klcal.kernels.units import BYTES, COUNTERS, KINDS

if TYPE_CHECKING:
    import torch

__all__ = ["UnitCounts", "count_units"]

FILE = "device_units.cu"
LEAST_BITS = 3  # of the slots of a unit, as powers of two: one thread sorts eight
TILE_BITS = 13  # of those of a block, at least, as in source/device_units.cu
MOST_BITS = 15  # of those of a unit that is sorted by one block; more have no room in shared memory
AT_ONCE = 1 << 24  # values of longer units that are sorted at a time: 0.4 GB, most of which torch wants for places

Integers = npt.NDArray[np.int64]


class UnitCounts(NamedTuple):
    """What there is in some units: tensors on the device."""

    keys: torch.Tensor  # int32 (values,): float32 patterns, of a unit from its start to its end, ascending as uint32
    counts: torch.Tensor  # int32 (values,): how often each occurs
    starts: torch.Tensor  # int64 (units,): where the values of each begin
    ends: torch.Tensor  # int64 (units,): where its keys end
    numbers: torch.Tensor  # int64 (6, units): klcal.kernels.units.COUNTERS
    minimum: torch.Tensor  # float64 (units,): of finite values that are not zero; inf where there are none
    maximum: torch.Tensor  # float64 (units,); -inf where there are none
    exact: torch.Tensor  # uint8 (units,): whether the keys are the values themselves


def count_units(
    values: torch.Tensor,
    dtype: str,
    size: int | Integers,
    kept: tuple[int, int, int],
    device: Launcher,
    bytes_as: npt.NDArray[np.uint32] | None = None,
) -> UnitCounts:
    """Counts the values of units that stand one behind the other.

    Args:
        values: contiguous, on the device.
        dtype: of them: float32, float64, float16, bfloat16, or any of one byte.
        size: of all units; or (units + 1,), on the host, where they begin and end, from 0 on, ascending. Each has at
            most 2³¹ − 1 values.
        kept: more than how many distinct values of a unit are cut, and to how many mantissa bits: at its largest
            magnitude, and at least.
        device: where it happens.
        bytes_as: (256,), the pattern that each byte stands for.
    """
    import torch

    if isinstance(size, int):
        starts = torch.arange(0, values.numel() + 1, size, device=values.device)
        begins, sizes = np.array([0]), np.array([size])
    else:
        starts = _there(size, values)
        begins, sizes = size, np.diff(size)
    table = None if bytes_as is None else _there(bytes_as.view(np.int32), values)
    found = _nothing(values, starts)
    if not found.exact.numel():
        return found
    counting = _Counting(device, values, KINDS.get(dtype, BYTES), table, starts, kept, found)
    bits = np.searchsorted(1 << np.arange(LEAST_BITS, 32), sizes) + LEAST_BITS
    most = next((most for most in range(MOST_BITS, TILE_BITS, -1) if _shared(most) <= device.share(1)), TILE_BITS)
    for each in np.unique(bits[bits <= most]).tolist():
        counting.short(each, None if (bits == each).all() else _there(np.flatnonzero(bits == each), values))
    for units in _alike(sizes, bits > most, found.exact.numel()):
        counting.long(units, int(begins[units.start]), int(sizes[units.start]))
    return found


def _nothing(values: torch.Tensor, starts: torch.Tensor) -> UnitCounts:
    """Where it is to be written."""
    import torch

    units = starts.numel() - 1
    keys, counts = values.new_empty((2, values.numel()), dtype=torch.int32)
    ends, exact = values.new_empty(units, dtype=torch.int64), values.new_empty(units, dtype=torch.uint8)
    numbers = values.new_zeros((len(COUNTERS), units), dtype=torch.int64)
    extremes = values.new_empty((2, units), dtype=torch.float64)
    return UnitCounts(keys, counts, starts[:-1], ends, numbers, extremes[0], extremes[1], exact)


def _there(array: npt.NDArray[np.int64] | npt.NDArray[np.int32], values: torch.Tensor) -> torch.Tensor:
    """An array where the values are, without waiting until it is."""
    import torch

    tensor = torch.tensor(array)
    return tensor.pin_memory().to(values.device, non_blocking=True) if values.is_cuda else tensor


def _shared(bits: int) -> int:
    """Bytes that a block needs in the memory of its threads, for units of so many slots: see Tile in the source."""
    slots = 1 << max(bits, TILE_BITS)
    patterns, begins, heads, bounds = 4 * slots, 2 * slots, slots // 4, 16 * (slots >> bits)
    return patterns + begins + heads + bounds + (1 << 10)  # a few more


def _alike(sizes: Integers, are_long: npt.NDArray[np.bool_], units: int) -> Iterator[slice]:
    """The long units, those of one size that stand side by side at a time."""
    firsts = np.append(0, np.flatnonzero(np.diff(sizes)) + 1)
    lasts = np.append(firsts[1:], units)
    return map(slice, firsts[are_long[firsts]].tolist(), lasts[are_long[firsts]].tolist())


@dataclass(frozen=True)
class _Counting:
    """What all launches are told."""

    device: Launcher
    values: torch.Tensor
    kind: int
    table: torch.Tensor | None
    starts: torch.Tensor
    kept: tuple[int, int, int]
    to: UnitCounts

    def short(self, bits: int, listed: torch.Tensor | None) -> None:
        """Counts those units, or all, which have at most 2 to the ``bits`` values."""
        some = self.to.exact.numel() if listed is None else listed.numel()
        blocks = -(-some // ((1 << max(bits, TILE_BITS)) >> bits))
        self._launch("count_units", blocks, _shared(bits), self.values.data_ptr(), bits, listed=listed, some=some)

    def long(self, units: slice, begin: int, size: int) -> None:
        """Counts units of one size that no block has room for, from a value on: torch sorts their patterns."""
        shared = _shared(TILE_BITS)
        rows = max(1, AT_ONCE // size)
        for first in range(units.start, units.stop, rows):
            some = min(rows, units.stop - first)
            at = begin + (first - units.start) * size
            self._launch("turn_units", some, shared, self.values.data_ptr(), first=first)
            patterns = self.to.keys[at : at + some * size].view(some, size).sort(dim=1).values
            self._launch("count_sorted_units", some, shared, patterns.data_ptr() - 4 * at, first=first)

    def _launch(
        self,
        name: str,
        blocks: int,
        shared: int,
        values: int,
        *more: int,
        first: int = 0,
        listed: torch.Tensor | None = None,
        some: int = 0,
    ) -> None:
        """Runs a kernel for units from ``first`` on."""
        to = self.to
        source = values, self.kind, _at(self.table), _at(self.starts[first:]), _at(listed), some
        pieces = _at(to.keys), _at(to.counts), _at(to.ends[first:])
        known = _at(to.numbers[:, first:]), _at(to.minimum[first:]), _at(to.exact[first:]), to.exact.numel()
        self.device.launch(FILE, name, blocks, THREADS, shared, *source, *self.kept, *pieces, *known, *more)


def _at(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
