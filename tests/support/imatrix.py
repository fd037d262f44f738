"""Importance matrices as llama.cpp wrote them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

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
