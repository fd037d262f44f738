"""Counting of one unit on a CUDA device (``source/device_counting.cu``): how often each pattern, or bucket, occurs.

The state of a count is one tensor on the device, from ``none_counted``. Counting does not wait for the device; only
``taken``, which reads the state, waits once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.counting import FIELDS, KEY_SHIFT, key_spans

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_FEW", "Counts", "Launcher", "count", "none_counted", "taken"]

FILE = "device_counting.cu"
THREADS = 1 << 10  # of a block, as in source/device.h
VALUES = 1 << 13  # values of a block at least: more than the limit of few, so that a block sees ordinary data at once
BLOCK_BYTES = 1 << 11  # shared memory of a block beside its counters
OWN_BYTES = 1 << 16  # shared memory for the distinct patterns of a block
BYTE_BYTES = 1 << 13  # shared memory for the counters of one-byte values
PLACES = 1 << 14  # of the hash table of distinct patterns that all blocks share
MOST_FEW = 1 << 12  # the largest limit of distinct patterns: a block has room for twice as many
ALL_FIELDS = (*FIELDS, "many", "distinct")
GREATEST = (1 << 32) - 1
OCTAVES = 48  # octaves at most that a block counts in shared memory

SHIFTS = {"float32": KEY_SHIFT, "float64": KEY_SHIFT, "float16": KEY_SHIFT, "bfloat16": 16}
"""The number of bits of a float32 pattern below the key that it is counted by; one-byte dtypes have no keys."""

Integers = npt.NDArray[np.int64]


class Launcher(Protocol):
    """Runs kernels on a device, as ``klcal.kernels.cuda.Kernels``. Tests have one that runs them on the CPU."""

    multiprocessors: int

    def share(self, blocks: int) -> int:
        """The bytes of shared memory that each of ``blocks`` blocks on a multiprocessor can have."""

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
        """Queues a kernel: see ``klcal.kernels.cuda.Kernels.launch``."""


class Counts(NamedTuple):
    """The counts of a unit, on the host."""

    seen: dict[str, int]  # the FIELDS of klcal.kernels.counting
    patterns: npt.NDArray[np.uint32]  # (n,): the patterns that were counted whole, ascending
    counts: Integers  # (n,): how often each of them was
    keys: Integers  # (m,): keys of buckets, or bytes, ascending
    key_counts: Integers  # (m,): how often each of them was counted
    is_few: bool  # whether all values were counted whole


def none_counted(dtype: str, device: str) -> torch.Tensor:
    """The state of a count of no values, int64 (n,): the fields, the whole patterns and their counts, the keys' counts.

    Args:
        dtype: of the values that will be counted.
        device: where the state is.
    """
    import torch

    return torch.zeros(_table_at(dtype) + _table_size(dtype), dtype=torch.int64, device=device)


def _has_few(dtype: str) -> bool:
    """Whether few distinct values are counted whole. 16-bit values need not be: each has a key of its own."""
    return dtype in ("float32", "float64")


def _table_at(dtype: str) -> int:
    """The index in the state at which the counts of keys begin."""
    return len(ALL_FIELDS) + (PLACES // 2 + PLACES if _has_few(dtype) else 0)


def _table_size(dtype: str) -> int:
    """The number of keys."""
    return 1 << 32 - SHIFTS[dtype] if dtype in SHIFTS else 1 << 8


def count(values: torch.Tensor, dtype: str, state: torch.Tensor, device: Launcher, few: int, times: int) -> None:
    """Counts values, without waiting for the device.

    Args:
        values: contiguous, on the device, of any shape.
        dtype: of the values.
        state: from ``none_counted``; changed in place.
        device: runs the kernels.
        few: the largest number of distinct values that are counted whole, at most ``MOST_FEW``.
        times: how often each value counts.
    """
    size = values.numel()
    if not size:
        return
    at = state.data_ptr()
    table = at + 8 * _table_at(dtype)
    if dtype not in SHIFTS:
        blocks = min(-(-size // VALUES), 2 * device.multiprocessors)
        device.launch(FILE, "count_bytes", blocks, THREADS, BYTE_BYTES, values.data_ptr(), size, table, times)
        return
    resident = 2 if device.share(2) >= OWN_BYTES + BLOCK_BYTES else 1
    octave = 1 << 24 - SHIFTS[dtype] + 2  # bytes of the counters of both signs
    octaves = min((device.share(resident) - BLOCK_BYTES) // octave, OCTAVES)
    shared = BLOCK_BYTES + max(octaves * octave, OWN_BYTES if _has_few(dtype) else 0)
    patterns = at + 8 * len(ALL_FIELDS)
    blocks = min(-(-size // VALUES), resident * device.multiprocessors)
    whole = patterns, patterns + 4 * PLACES
    arguments = values.data_ptr(), size, at, *whole, table, few, times, octaves
    device.launch(FILE, f"count_{dtype}", blocks, THREADS, shared, *arguments)


def taken(state: torch.Tensor, dtype: str) -> Counts:
    """The counts so far. Waits for the device once."""
    found: Integers = _on_host(state).numpy()
    seen = dict(zip(ALL_FIELDS, found[: len(ALL_FIELDS)].tolist(), strict=True))
    seen["nearest"] = GREATEST - seen["nearest"]
    table = found[_table_at(dtype) :]
    keys = _occupied(table, seen, dtype)
    if dtype not in SHIFTS:
        return Counts(seen, np.empty(0, np.uint32), np.empty(0, np.int64), keys, table[keys], True)
    if not _has_few(dtype):  # each key is a value
        none = np.empty(0, np.int64)
        return Counts(seen, keys.astype(np.uint32) << np.uint32(SHIFTS[dtype]), table[keys], none, none, True)
    whole = found[len(ALL_FIELDS) : _table_at(dtype)]
    inverted, counts = whole[: PLACES // 2].view(np.uint32), whole[PLACES // 2 :]
    places = np.flatnonzero(inverted)
    patterns = ~inverted[places]
    order = np.argsort(patterns)
    return Counts(seen, patterns[order], counts[places][order], keys, table[keys], not seen["many"])


def _occupied(table: Integers, seen: dict[str, int], dtype: str) -> Integers:
    """The keys that occur, (n,), ascending. Only the keys between the extremes of either sign are looked at."""
    if dtype not in SHIFTS:
        return np.flatnonzero(table)
    found = [np.flatnonzero(table[first:last]) + first for first, last in key_spans(seen, SHIFTS[dtype])]
    return np.concatenate([np.empty(0, np.int64), *found])


def _on_host(state: torch.Tensor) -> torch.Tensor:
    """A tensor in the memory of the host, in pinned memory if it was on a device."""
    import torch

    if state.device.type == "cpu":
        return state
    found = torch.empty(state.shape, dtype=state.dtype, pin_memory=True)  # copying to it is ten times as fast
    found.copy_(state, non_blocking=True)
    torch.cuda.current_stream(state.device).synchronize()
    return found
