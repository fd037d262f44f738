"""The wire format of Protocol Buffers, written: fields, and a message with some parts replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from klcal.readers.protobuf import BYTES, Field, Messages
from klcal.readers.regular import RegularFile

__all__ = ["Edit", "Piece", "edited", "field", "header", "integer", "number", "placed", "size"]


class Piece(NamedTuple):
    """A piece of the file that will be written."""

    nbytes: int
    data: Callable[[], Iterable[Any]]  # objects with a buffer

    @staticmethod
    def of(data: bytes) -> Piece:
        """Bytes that are there."""
        return Piece(len(data), lambda: [data])


class Edit(NamedTuple):
    """The replacement of some bytes of a file; these may be empty."""

    begin: int
    end: int
    pieces: tuple[Piece, ...] = ()


def integer(value: int) -> bytes:
    """Seven bits a byte, the lowest first.

    Args:
        value: from 0 to 2^64 − 1.

    >>> integer(300).hex(" ")
    'ac 02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(key: int, value: int) -> bytes:
    """A field that holds an integer; its key is that of ``Field``."""
    return integer(key) + integer(value)


def header(key: int, length: int) -> bytes:
    """The head of a field, before its ``length`` bytes."""
    return integer(key & ~7 | BYTES) + integer(length)


def field(key: int, data: bytes | str) -> bytes:
    """A field of bytes: a text, or a message.

    >>> field(8 << 3, "w").hex(" ")
    '42 01 77'
    """
    held = data.encode() if isinstance(data, str) else data
    return header(key, len(held)) + held


def size(pieces: Iterable[Piece]) -> int:
    """Bytes of all of them."""
    return sum(piece.nbytes for piece in pieces)


def placed(messages: Messages, message: Field) -> Iterator[tuple[int, Field]]:
    """The fields of a message, and where each begins, its key included.

    Raises:
        InputError: as ``Messages.fields``.
    """
    begin = message.start
    for each in messages.fields(message):
        yield begin, each
        begin = each.end


def edited(file: RegularFile, message: Field, edits: Iterable[Edit]) -> Iterator[Piece]:
    """A message with some parts replaced; all other bytes are copied from the file.

    Args:
        file: where it lies.
        message: what of it.
        edits: in any order, none over another.
    """
    position = message.start
    for edit in sorted(edits, key=lambda edit: edit[:2]):
        yield from _kept(file, position, edit.begin)
        yield from edit.pieces
        position = edit.end
    yield from _kept(file, position, message.end)


def _kept(file: RegularFile, begin: int, end: int) -> Iterator[Piece]:
    if begin < end:
        yield Piece(end - begin, lambda: file.blocks(begin, end - begin))
