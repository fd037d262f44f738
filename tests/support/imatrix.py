"""Importance matrices as llama.cpp wrote them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from tests.support.gguf import TEXT, Tensor, gguf, key, of, text

ENTRIES: Mapping[str, tuple[int, Sequence[float]]] = {
    "blk.0.attn_q.weight": (7, [0.5, 2.0, 0.0, 1e-30]),
    "blk.0.ffn_down.weight": (7, [3.0, 1.25]),
    "blk.1.été.weight": (3, [1.0]),
}
END = struct.pack("<2i", 7, 4) + b"wiki"


def imatrix(entries: Mapping[str, tuple[int, Sequence[float]]] = ENTRIES, end: bytes = END, repeat: int = 1) -> bytes:
    """A file of entries by name, how many calls were summed and the sums; all of them several times."""
    written = [_entry(name, *each) for name, each in entries.items()] * repeat
    return struct.pack("<i", len(written)) + b"".join(written) + end


def _entry(name: str, calls: int, values: Sequence[float]) -> bytes:
    text = name.encode()
    return struct.pack("<i", len(text)) + text + struct.pack(f"<2i{len(values)}f", calls, len(values), *values)


Sums = Mapping[str, tuple[Sequence[Sequence[float]], Sequence[float]]]
SUMS: Sums = {
    "blk.0.attn_q.weight": ([[0.5, 2.0, 0.0, 1e-30]], [7]),
    "blk.0.ffn_up_exps.weight": ([[3.0, 1.25], [4.0, 5.0], [9.0, 6.0]], [2, 0, 3]),
}
"""By name: sums for each matrix and column, and how many inputs each matrix has seen."""


def imatrix_gguf(entries: Sums = SUMS, more: Mapping[str, Tensor] | None = None) -> bytes:
    """The same as GGUF; llama.cpp leaves out the axis of the matrices where there is one."""
    tensors = dict(more or {})
    for name, (sums, counts) in entries.items():
        columns, seen = np.float32(sums), np.float32(counts)[:, None]
        tensors[f"{name}.in_sum2"] = of(columns if len(columns) > 1 else columns[0])
        tensors[f"{name}.counts"] = of(seen if len(seen) > 1 else seen[0])
    return gguf(tensors, [key("general.type", TEXT, text("imatrix"))])
