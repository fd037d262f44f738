"""A .gguf file, written from front to back: only a piece of one tensor is held at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

from klcal.readers.gguf_header import MAGIC, TYPES, UINT32
from klcal.writers.safetensors_file import Stored

__all__ = ["number", "write"]

NUMBERS = {each.name: number for number, each in TYPES.items()}
PADDING = b"\0"


def number(key: str, value: int) -> bytes:
    """A key, and its value as an uint32."""
    return _text(key) + struct.pack("<2I", UINT32, value)


def write(
    tensors: Sequence[Stored], out: BinaryIO, *, version: int, alignment: int, keys: Sequence[Iterable[Any]]
) -> None:
    """Writes a file; the tensors in the order given, each behind the one before, up to padding.

    Args:
        tensors: whose dtypes are names of ``TYPES``.
        out: the file.
        version: of the format, 2 or 3: they differ in the byte orders that are allowed.
        alignment: of the data, in bytes.
        keys: of each key all bytes, its name and its value, in pieces.

    Raises:
        OutputError: a tensor has another number of bytes than announced.
    """
    position = out.write(MAGIC + struct.pack("<I2Q", version, len(tensors), len(keys)))
    position += sum(out.write(piece) for key in keys for piece in key)
    offset = 0
    for tensor in tensors:
        position += out.write(_entry(tensor, offset))
        offset += tensor.nbytes + -tensor.nbytes % alignment
    out.write(PADDING * (-position % alignment))
    for tensor in tensors:
        out.writelines(tensor.data())
        out.write(PADDING * (-tensor.nbytes % alignment))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _entry(tensor: Stored, offset: int) -> bytes:
    """A tensor in the header: the fastest axis first."""
    extents = tensor.shape[::-1]
    kind = NUMBERS[tensor.dtype]
    return _text(tensor.name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
