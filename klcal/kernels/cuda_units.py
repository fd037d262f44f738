"""Counting of many units on a CUDA device (``source/device_units.cu``): distinct patterns and their counts.

It does what ``klcal.kernels.units`` does on a CPU, on tensors, and does not wait for the device. Units that fit in the
shared memory of a block are sorted there; longer ones by torch.
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

__all__ = ["UnitCounts", "count_units", "sent", "unit_weights"]

FILE = "device_units.cu"
LEAST_BITS = 3  # log2 of the slots of the shortest units: one thread sorts eight values
TILE_BITS = 13  # log2 of the slots of a block at least, as in source/device_units.cu
MOST_BITS = 15  # log2 of the slots of the longest unit that a block sorts; more do not fit in shared memory
AT_ONCE = 1 << 24  # values of longer units that are sorted at a time: 0.4 GB, most of it indices that torch needs
OWN = 8  # values whose weights a thread adds up, one after the other

Integers = npt.NDArray[np.int64]


class UnitCounts(NamedTuple):
    """The counts of some units: tensors on the device. Unit u has the keys starts[u]:ends[u]; other slots are free."""

    keys: torch.Tensor  # int32 (values,): float32 patterns, ascending as uint32 within a unit
    counts: torch.Tensor  # int32 (values,): how often each of them occurs
    starts: torch.Tensor  # int64 (units,): where the values, and the keys, of each unit begin
    ends: torch.Tensor  # int64 (units,): where its keys end
    numbers: torch.Tensor  # int64 (6, units): klcal.kernels.units.COUNTERS
    minimum: torch.Tensor  # float64 (units,): the lowest finite value that is not zero; inf if there is none
    maximum: torch.Tensor  # float64 (units,): the highest one; -inf if there is none
    exact: torch.Tensor  # uint8 (units,): 1 if the keys are the patterns of the values, so that nothing was lost


def count_units(
    values: torch.Tensor,
    dtype: str,
    size: int | Integers,
    kept: tuple[int, int, int],
    device: Launcher,
    bytes_as: npt.NDArray[np.uint32] | None = None,
) -> UnitCounts:
    """Counts the values of units that stand one behind the other, without waiting for the device.

    Args:
        values: contiguous, on the device.
        dtype: of the values: float32, float64, float16, bfloat16, or one of one byte.
        size: the number of values of every unit; or (units + 1,), on the host, where the units begin and end,
            ascending from 0. A unit has at most 2³¹ − 1 values.
        kept: ``few``, ``mantissa_bits`` and ``least_bits`` of the sketches' ``Resolution``.
        device: runs the kernels.
        bytes_as: (256,), the float32 pattern of the value of each byte, for a dtype of one byte.
    """
    import torch

    if isinstance(size, int):
        starts = torch.arange(0, values.numel() + 1, size, device=values.device)
        begins, sizes = np.array([0]), np.array([size])
    else:
        starts = sent(size, values)
        begins, sizes = size, np.diff(size)
    table = None if bytes_as is None else sent(bytes_as.view(np.int32), values)
    found = _nothing(values, starts)
    if not found.exact.numel():
        return found
    counting = _Counting(device, values, KINDS.get(dtype, BYTES), table, starts, kept, found)
    bits = np.searchsorted(1 << np.arange(LEAST_BITS, 32), sizes) + LEAST_BITS
    most = next((most for most in range(MOST_BITS, TILE_BITS, -1) if _shared(most) <= device.share(1)), TILE_BITS)
    for each in np.unique(bits[bits <= most]).tolist():
        counting.short(each, None if (bits == each).all() else sent(np.flatnonzero(bits == each), values))
    for units in _alike(sizes, bits > most, found.exact.numel()):
        counting.long(units, int(begins[units.start]), int(sizes[units.start]))
    return found


def unit_weights(
    values: torch.Tensor,
    dtype: str,
    size: int,
    found: UnitCounts,
    weights: torch.Tensor,
    device: Launcher,
    bytes_as: npt.NDArray[np.uint32] | None = None,
) -> torch.Tensor:
    """The sums of the weights of the values of each key, without waiting for the device.

    Args:
        values: contiguous, on the device: those that were counted.
        dtype: of the values.
        size: the number of values of every unit.
        found: their counts, from ``count_units``.
        weights: int64 (values,), contiguous, on the device: the weight of each value, from 0 to 2⁴⁰.
        device: runs the kernels.
        bytes_as: as for ``count_units``.

    Returns:
        int64 (3, values), at the places of the keys: as ``klcal.kernels.units.unit_weights``; 0 at other places.
    """
    n = values.numel()
    sums = weights.new_zeros((3, n))
    if n:
        table = None if bytes_as is None else sent(bytes_as.view(np.int32), values)
        kind = KINDS.get(dtype, BYTES)
        told = values.data_ptr(), kind, _at(table), size, n, _at(found.keys), _at(found.ends), _at(weights), _at(sums)
        device.launch(FILE, "add_weights", -(-n // (THREADS * OWN)), THREADS, 0, *told)
    return sums


def sent(array: npt.NDArray[np.int64] | npt.NDArray[np.int32], values: torch.Tensor) -> torch.Tensor:
    """A copy of an array on the device of the values, without waiting for it."""
    import torch

    tensor = torch.tensor(array)
    return tensor.pin_memory().to(values.device, non_blocking=True) if values.is_cuda else tensor


def _nothing(values: torch.Tensor, starts: torch.Tensor) -> UnitCounts:
    """Uninitialized tensors for the counts of units that begin and end at ``starts``, (units + 1,)."""
    import torch

    units = starts.numel() - 1
    keys, counts = values.new_empty((2, values.numel()), dtype=torch.int32)
    ends, exact = values.new_empty(units, dtype=torch.int64), values.new_empty(units, dtype=torch.uint8)
    numbers = values.new_zeros((len(COUNTERS), units), dtype=torch.int64)
    extremes = values.new_empty((2, units), dtype=torch.float64)
    return UnitCounts(keys, counts, starts[:-1], ends, numbers, extremes[0], extremes[1], exact)


def _shared(bits: int) -> int:
    """The bytes of shared memory that a block needs for units of 2^bits slots: see Tile in source/device_tile.h."""
    slots = 1 << max(bits, TILE_BITS)
    patterns, begins, heads, bounds = 4 * slots, 2 * slots, slots // 4, 16 * (slots >> bits)
    return patterns + begins + heads + bounds + (1 << 10)  # a few more


def _alike(sizes: Integers, are_long: npt.NDArray[np.bool_], units: int) -> Iterator[slice]:
    """The ranges of long units that stand side by side and have the same size."""
    firsts = np.append(0, np.flatnonzero(np.diff(sizes)) + 1)
    lasts = np.append(firsts[1:], units)
    return map(slice, firsts[are_long[firsts]].tolist(), lasts[are_long[firsts]].tolist())


@dataclass(frozen=True)
class _Counting:
    """The arguments that all launches have in common: see ``count_units``."""

    device: Launcher
    values: torch.Tensor
    kind: int  # the number of the dtype: see klcal.kernels.units.KINDS
    table: torch.Tensor | None  # int32 (256,): ``bytes_as``
    starts: torch.Tensor  # int64 (units + 1,)
    kept: tuple[int, int, int]
    to: UnitCounts  # where the counts are written

    def short(self, bits: int, listed: torch.Tensor | None) -> None:
        """Counts the units with the numbers ``listed``, or all; each has at most 2^bits values."""
        some = self.to.exact.numel() if listed is None else listed.numel()
        blocks = -(-some // ((1 << max(bits, TILE_BITS)) >> bits))
        self._launch("count_units", blocks, _shared(bits), self.values.data_ptr(), bits, listed=listed, some=some)

    def long(self, units: slice, begin: int, size: int) -> None:
        """Counts units that do not fit in shared memory: torch sorts their patterns.

        Args:
            units: their numbers, side by side.
            begin: the index of their first value.
            size: the number of values of each.
        """
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
        """Queues a kernel for ``some`` units: those from ``first`` on, or those listed."""
        to = self.to
        source = values, self.kind, _at(self.table), _at(self.starts[first:]), _at(listed), some
        pieces = _at(to.keys), _at(to.counts), _at(to.ends[first:])
        known = _at(to.numbers[:, first:]), _at(to.minimum[first:]), _at(to.exact[first:]), to.exact.numel()
        self.device.launch(FILE, name, blocks, THREADS, shared, *source, *self.kept, *pieces, *known, *more)


def _at(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
