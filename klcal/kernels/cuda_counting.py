"""How often each pattern or bucket occurs on a CUDA device: functions on tensors, by ``source/device_counting.cu``.

All that a count needs is in the tensor that ``none_counted`` gives, on the device; whoever asks for it waits once.
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
VALUES = 1 << 13  # that a block counts at least: more than are few, so that a block of ordinary values sees it at once
BLOCK_BYTES = 1 << 11  # of shared memory that a block needs beside counters
OWN_BYTES = 1 << 16  # for the few patterns that a block knows
BYTE_BYTES = 1 << 13  # for the counters of bytes
PLACES = 1 << 14  # for patterns that all blocks know
MOST_FEW = 1 << 12  # patterns that may be told apart: a block has twice as many places
ALL_FIELDS = (*FIELDS, "many", "distinct")
GREATEST = (1 << 32) - 1
OCTAVES = 48  # that a block counts itself, at most

SHIFTS = {"float32": KEY_SHIFT, "float64": KEY_SHIFT, "float16": KEY_SHIFT, "bfloat16": 16}
"""Bits of a float32 pattern below the key that it is counted by."""

Integers = npt.NDArray[np.int64]


class Launcher(Protocol):
    """A device, as ``klcal.kernels.cuda.Kernels``."""

    multiprocessors: int

    def share(self, blocks: int) -> int:
        """Bytes of shared memory of a block."""

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


class Counts(NamedTuple):
    """What was counted."""

    seen: dict[str, int]
    patterns: npt.NDArray[np.uint32]  # counted whole, ascending
    counts: Integers
    keys: Integers  # of buckets, or bytes; ascending
    key_counts: Integers
    is_few: bool


def none_counted(dtype: str, device: str) -> torch.Tensor:
    """Of no values: int64, first what is known of all, then whole patterns and their counts, then keys."""
    import torch

    return torch.zeros(_table_at(dtype) + _table_size(dtype), dtype=torch.int64, device=device)


def _has_few(dtype: str) -> bool:
    """Whether patterns are counted whole; where buckets tell all values apart they need not be."""
    return dtype in ("float32", "float64")


def _table_at(dtype: str) -> int:
    return len(ALL_FIELDS) + (PLACES // 2 + PLACES if _has_few(dtype) else 0)


def _table_size(dtype: str) -> int:
    return 1 << 32 - SHIFTS[dtype] if dtype in SHIFTS else 1 << 8


def count(values: torch.Tensor, dtype: str, state: torch.Tensor, device: Launcher, few: int, times: int) -> None:
    """Counts values more, each so many times.

    Args:
        values: contiguous, on the device.
        dtype: of them.
        state: of ``none_counted``.
        device: where it happens.
        few: patterns that are told apart, at most ``MOST_FEW``.
        times: how often.
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
    """What was counted so far: waits for the device, once."""
    found: Integers = _on_host(state).numpy()
    seen = dict(zip(ALL_FIELDS, found[: len(ALL_FIELDS)].tolist(), strict=True))
    seen["nearest"] = GREATEST - seen["nearest"]
    table = found[_table_at(dtype) :]
    keys = _occupied(table, seen, dtype)
    if dtype not in SHIFTS:
        return Counts(seen, np.empty(0, np.uint32), np.empty(0, np.int64), keys, table[keys], True)
    if not _has_few(dtype):  # a key is a value then
        none = np.empty(0, np.int64)
        return Counts(seen, keys.astype(np.uint32) << np.uint32(SHIFTS[dtype]), table[keys], none, none, True)
    whole = found[len(ALL_FIELDS) : _table_at(dtype)]
    inverted, counts = whole[: PLACES // 2].view(np.uint32), whole[PLACES // 2 :]
    places = np.flatnonzero(inverted)
    patterns = ~inverted[places]
    order = np.argsort(patterns)
    return Counts(seen, patterns[order], counts[places][order], keys, table[keys], not seen["many"])


def _occupied(table: Integers, seen: dict[str, int], dtype: str) -> Integers:
    """The keys that occur, ascending: of each sign they lie between the extremes, which most of a table does not."""
    if dtype not in SHIFTS:
        return np.flatnonzero(table)
    found = [np.flatnonzero(table[first:last]) + first for first, last in key_spans(seen, SHIFTS[dtype])]
    return np.concatenate([np.empty(0, np.int64), *found])


def _on_host(state: torch.Tensor) -> torch.Tensor:
    import torch

    if state.device.type == "cpu":
        return state
    found = torch.empty(state.shape, dtype=state.dtype, pin_memory=True)  # which is copied to ten times as fast
    found.copy_(state, non_blocking=True)
    torch.cuda.current_stream(state.device).synchronize()
    return found
