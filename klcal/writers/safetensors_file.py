"""A .safetensors file, written from front to back: only a piece of one tensor is held at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from klcal.errors import InputError, OutputError
from klcal.readers.quoting import quoted
from klcal.readers.safetensors_file import KINDS
from klcal.tables.schema import MAX_HEADER_BYTES
from klcal.writers.text import escape

__all__ = ["Announced", "Stored", "header_of", "write", "write_in_order"]

ALIGNMENT = 8  # bytes: the header is padded to it with spaces, as by the library


class Announced(NamedTuple):
    """What the header of a file says of a tensor."""

    name: str
    dtype: str  # the name in .safetensors, F32, BF16, I8, …
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Stored:
    """A tensor as a file will have it. That its bytes come later lets headers be written first.

    Pieces are in C order, little endian, of any length; each is valid until the next one is asked for.
    """

    name: str
    dtype: str  # as in ``Announced``; for a .gguf, its reader's name
    shape: tuple[int, ...]
    nbytes: int
    pieces: Callable[[], Iterable[Any]]  # objects with a buffer: bytes, arrays

    def data(self) -> Iterator[Any]:
        """The pieces of the tensor; an error in them gets its name.

        Raises:
            InputError: the input is damaged, or cannot be written in this form.
            OutputError: at the end, if these were not as many bytes as were announced.
        """
        written = 0
        try:
            for piece in self.pieces():
                yield piece
                written += memoryview(piece).nbytes
        except InputError as error:
            raise InputError(f"{quoted(self.name)}: {error.what}", error.hint) from None
        if written != self.nbytes:
            what = f"{escape(self.name)} has {written:,} bytes, and {self.nbytes:,} were announced"
            raise OutputError(what, "run again")


def write(tensors: Iterable[Stored], out: BinaryIO, metadata: Mapping[str, str]) -> dict[str, int]:
    """Writes a file: the largest items first, else in the order given, so that each tensor begins where its items may.

    Returns:
        The bytes of each tensor.

    Raises:
        OutputError: two tensors have one name, the header would be longer than readers of the format allow, or a
            tensor has another number of bytes than announced.
    """
    ordered = sorted(tensors, key=lambda tensor: -_bits(tensor))
    write_in_order(ordered, out, metadata)
    return {tensor.name: tensor.nbytes for tensor in ordered}


def write_in_order(tensors: Sequence[Stored], out: BinaryIO, metadata: Mapping[str, str]) -> None:
    """The same, in the order given, whatever the sizes of items.

    Raises:
        OutputError: as ``write``.
    """
    out.write(header_of(tensors, metadata))
    for tensor in tensors:
        out.writelines(tensor.data())


def _bits(tensor: Stored) -> int:
    kind = KINDS.get(tensor.dtype)
    return kind.bits if kind else 0


def header_of(tensors: Iterable[Stored | Announced], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with, up to the first byte of the first tensor; their data follow in this order.

    Raises:
        OutputError: two tensors have one name, or the header would be longer than readers of the format allow.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        if tensor.name in header:
            what = f"two tensors would be called '{escape(tensor.name)}'"
            raise OutputError(what, "rename one of them in the input, or leave one out with --exclude")
        end = position + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        number = len(header) - ("__metadata__" in header)
        what = f"{number:,} tensors need a header of {len(text):,} bytes; {MAX_HEADER_BYTES:,} are allowed"
        raise OutputError(what, "write .json, or fewer of them: --include")
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
