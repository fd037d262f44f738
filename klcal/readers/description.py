"""Descriptions: everything that is known of a tensor before its data is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from klcal.tables.status import Status

__all__ = ["CHUNK_BYTES", "PART_BYTES", "Chunk", "Description", "Part"]

Chunk = npt.NDArray[Any]
"""A flat array in native byte order: float64, float32, float16 and int8 as themselves, bfloat16 as
uint16, the float8 types and float4 as uint8 bit patterns, one for each value. Valid until the next one is asked for."""

CHUNK_BYTES = 1 << 22  # bytes that are read at a time: this bounds the memory of a reader
PART_BYTES = 1 << 26  # bytes of a tensor that one worker takes: many chunks, few workers idle


class Part(Protocol):
    """A piece of one tensor's data. Picklable, so that another process can read it."""

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads: the unit of progress."""

    @property
    def repeats(self) -> int:
        """How often each value stands in the tensor (more than 1 for expanded views)."""

    def chunks(self) -> Iterator[Chunk]:
        """The values, each once, in any order; raises InputError where the data are damaged."""


@dataclass(frozen=True)
class Description:
    """One tensor of a file. Its data come from ``parts``, which are counted only where ``status`` is "ok"."""

    name: str
    dtype: str  # "float32", "bfloat16", "int64", …: see klcal.sketches.counting.FLOAT_DTYPES
    shape: tuple[int, ...]
    parts: tuple[Part, ...] = ()
    status: Status = "ok"  # or "skipped", "unsupported", "failed"
    reason: str | None = None
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)
    order: tuple[int, ...] | None = ()  # of the axes in chunks, the slowest first; empty for C's, None if values repeat
    raw: tuple[Part, ...] = ()  # the data where ``parts`` has none: integers as themselves, else bytes; or nothing
    dequantized: Description | None = None  # the values of its codes, if their scale lies beside it
    shape_is_known: bool = True  # else it is that of each batch of a sketch, or empty
    outputs: int | None = None  # of the operator that takes it as a weight: along which axis; None if that is not known
    warnings: tuple[str, ...] = ()  # about the whole file, told with the first of its tensors
