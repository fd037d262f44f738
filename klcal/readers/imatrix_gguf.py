"""An importance matrix in the current form of llama.cpp: a GGUF file that `llama-imatrix` writes.

There are two float32 tensors for each weight: ``NAME.in_sum2``, Σ x² of the inputs of each column, for each matrix of
the weight (a layer of experts is one tensor with many matrices); and ``NAME.counts``, the number of inputs that each
matrix has seen. The importance of a column is its mean square, the quotient of the two. All columns of a matrix that
has seen nothing have the importance 1, as in llama-quantize. Other tensors, such as ``NAME.in_sum``, are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from klcal.errors import InputError
from klcal.readers.description import Chunk, Description, Part
from klcal.readers.gguf_file import described
from klcal.readers.gguf_header import Entry, parse
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile

__all__ = ["describe"]

SUMS, COUNTS = ".in_sum2", ".counts"
AGAIN = "make it again with llama-imatrix"


@dataclass(frozen=True)
class MeanSquares:
    """A ``Part``: a stretch of the sums, each divided by the count of its matrix."""

    name: str
    sums: Part
    first: int  # sums that lie before these
    counts: tuple[Part, ...]
    columns: int  # sums that have one count

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.sums.nbytes

    @property
    def repeats(self) -> int:
        """How often each value stands in the tensor."""
        return 1

    def chunks(self) -> Iterator[Chunk]:
        """The mean squares, float32.

        Raises:
            InputError: If a count is not a whole number, or the file has changed, or cannot be read.
        """
        counts = np.concatenate([chunk.copy() for part in self.counts for chunk in part.chunks()])
        if not (np.isfinite(counts) & (counts >= 0) & (counts == np.rint(counts))).all():
            raise InputError(f"the counts of {quoted(self.name)} are not whole numbers of 0 or more", AGAIN)
        position = self.first
        for chunk in self.sums.chunks():
            of_each = counts[np.arange(position, position + chunk.size) // self.columns]
            yield np.divide(chunk, of_each, out=np.ones_like(chunk), where=of_each > 0)
            position += chunk.size


def describe(file: RegularFile, name: str = "") -> list[Description]:  # noqa: ARG001
    """The mean squares of each weight: (columns,), or (matrices, columns) where it has several.

    Args:
        file: The file.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If it is not such a file, or is damaged or cut short, or has sums without matching counts.
    """
    entries = {entry.name: entry for entry in parse(file).entries}
    names = {entry.removesuffix(SUMS): None for entry in entries if entry.endswith(SUMS)}
    names |= {entry.removesuffix(COUNTS): None for entry in entries if entry.endswith(COUNTS)}
    if not names:
        what = "it is a GGUF file, but not an importance matrix: it has no NAME.in_sum2 and NAME.counts"
        raise InputError(what, "give the file that llama-imatrix wrote")
    return [_described(name, entries.get(name + SUMS), entries.get(name + COUNTS), file) for name in names]


def _described(name: str, sums: Entry | None, counts: Entry | None, file: RegularFile) -> Description:
    """The mean squares of one weight."""
    if sums is None or counts is None:
        raise InputError(f"{quoted(name)} has {'counts without sums' if counts else 'sums without counts'}", AGAIN)
    held, seen = described(sums, file), described(counts, file)
    if held.dtype != "float32" or seen.dtype != "float32":
        raise InputError(f"the sums and counts of {quoted(name)} are {held.dtype} and {seen.dtype}, not float32", AGAIN)
    matrices = math.prod(held.shape[:-1])
    if not held.shape or math.prod(seen.shape) != matrices:
        what = f"{quoted(name)} has sums of shape {list(held.shape)} and counts of shape {list(seen.shape)}"
        raise InputError(what, AGAIN)
    parts, first = [], 0
    for part in held.parts:
        parts.append(MeanSquares(name, part, first, seen.parts, held.shape[-1]))
        first += part.nbytes // 4
    columns = held.shape[-1:]
    return Description(name, "float32", columns if matrices == 1 else (matrices, *columns), tuple(parts))
