"""The tensors of a .gguf file: floating-point values, and blocks of codes, restored to values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from klcal.quantizers.blocks import BLOCKS, restored_blocks
from klcal.readers.description import CHUNK_BYTES, PART_BYTES, Chunk, Description
from klcal.readers.gguf_header import TYPES, Entry, parse
from klcal.readers.regular import RegularFile, spans

__all__ = ["describe", "described"]

MATRIX = "it is part of an importance matrix; give the file as --importance"
QUANTIZED = "values are quantized already"
CALIBRATE = "calibrate the model that the file was made from"
EXPANDED = 8  # bytes of values for a byte of blocks, at most: the size of chunks is that of values


def describe(file: RegularFile, name: str = "") -> list[Description]:  # noqa: ARG001
    """The tensors of a .gguf file, in the order of their data, shapes as NumPy has them.

    Args:
        file: The file.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If it is not such a file, or is damaged or cut short.
    """
    header = parse(file)
    if header.kind == "imatrix":
        return [Description(e.name, e.dtype, e.shape, status="skipped", reason=MATRIX) for e in header.entries]
    return [described(entry, file) for entry in header.entries]


def described(entry: Entry, file: RegularFile) -> Description:
    """The tensor of an entry.

    Raises:
        InputError: If its data are not in the file.
    """
    dtype, found = entry.dtype, TYPES.get(entry.type)
    if found is None:
        reason = f"{dtype} of GGML is not known; {CALIBRATE}"
        return Description(entry.name, dtype, entry.shape, status="unsupported", reason=reason)
    if dtype in BLOCKS:
        reason = f"{dtype} {QUANTIZED}; --dequantize takes the values that they stand for"
        whole = Description(entry.name, "float32", entry.shape, tuple(_blocks(entry, file)))
        return Description(entry.name, dtype, entry.shape, status="skipped", reason=reason, dequantized=whole)
    if not found.storage:
        reason = f"{dtype} {'values are not calibrated' if found.values == 1 else f'{QUANTIZED}; {CALIBRATE}'}"
        return Description(entry.name, dtype, entry.shape, status="skipped", reason=reason)
    length = entry.nbytes
    parts = spans(file, entry.offset, length, found.storage) if length else ()
    return Description(entry.name, dtype, entry.shape, parts)


def _blocks(entry: Entry, file: RegularFile) -> Iterator[Blocks]:
    """The parts of a tensor of blocks, enough of them for several workers.

    Raises:
        InputError: If the file ends before.
    """
    length, size = entry.nbytes, BLOCKS[entry.dtype].itemsize
    file.require(entry.offset, length)
    step = PART_BYTES // size * size
    for start in range(0, length, step):
        yield Blocks(file, entry.offset + start, min(step, length - start), entry.dtype)


@dataclass(frozen=True)
class Blocks:
    """A ``Part`` of blocks of codes, restored to float32."""

    file: RegularFile
    offset: int  # bytes before the first block
    length: int  # bytes
    kind: str  # one of ``BLOCKS``

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.length

    @property
    def repeats(self) -> int:
        """How often each value stands in the tensor."""
        return 1

    def chunks(self) -> Iterator[Chunk]:
        """The values.

        Raises:
            InputError: If the file has changed, or cannot be read.
        """
        size = BLOCKS[self.kind].itemsize
        for some in self.file.blocks(self.offset, self.length, CHUNK_BYTES // EXPANDED // size * size):
            yield restored_blocks(self.kind, np.frombuffer(some, np.uint8)).ravel()
