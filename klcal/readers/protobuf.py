"""The wire format of Protocol Buffers: the fields of a message in a file, and their positions.

A message is a sequence of fields: a number that has the field and its kind, then an integer, four or eight bytes, or a
length and that number of bytes, such as a text or another message. Only numbers are read here, through a small window.
Bytes with a length are skipped unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.regular import RegularFile

__all__ = ["BYTES", "INTEGER", "Field", "Messages", "signed"]

INTEGER, EIGHT_BYTES, BYTES, GROUP, GROUP_END, FOUR_BYTES = range(6)
"""Kinds of fields; groups are an old way to nest messages."""
WIDTHS = {EIGHT_BYTES: 8, FOUR_BYTES: 4}
MAX_INTEGER_BYTES = 10  # seven bits in each: 64
MAX_KEY = (1 << 32) - 1  # 29 bits of number, 3 of kind
MAX_GROUPS = 100  # within each other, as in protobuf's own parsers
MAX_FIELDS = 3 << 18  # fields of all messages that are read: those of 70,000 nodes
WINDOW_BYTES = 1 << 14  # read at a time
DAMAGED = "download or save it again"
INCOMPLETE = "the download may be incomplete: download or save it again"


class Field(NamedTuple):
    """A field of a message."""

    key: int  # 8 times its number, plus its kind
    start: int  # of its content: bytes from the start of the file
    end: int
    integer: int = 0  # below 2**64, where it holds one


class Messages:
    """Read the messages of one file, counting the fields."""

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self._start = 0  # of the window
        self._window = b""
        self._fields = 0

    def whole(self) -> Field:
        """The file as a message."""
        return Field(BYTES, 0, self._file.size)

    def fields(self, message: Field) -> Iterator[Field]:
        """The fields of a message, in the order of the file. Groups, which no format that klcal reads has, are skipped.

        Raises:
            InputError: If a field is impossible or longer than its message, or there are too many in this file.
        """
        position, groups = message.start, list[int]()
        while position < message.end:
            field, position = self._field(position, message.end)
            number, kind = field.key >> 3, field.key & 7
            if kind == GROUP and len(groups) < MAX_GROUPS:
                groups.append(number)
            elif kind == GROUP or (kind == GROUP_END and (not groups or groups.pop() != number)):
                raise InputError(f"a group of fields at position {field.start:,} is not possible", DAMAGED)
            elif kind != GROUP_END and not groups:
                yield field
        if groups:
            raise InputError(f"a group of fields has no end at position {position:,}", DAMAGED)

    def integers(self, field: Field, most: int) -> list[int]:
        """The integers of a field, at most ``most`` of them.

        Raises:
            InputError: If they are more, or damaged.
        """
        if field.key & 7 == INTEGER:
            return [field.integer]
        found, position = list[int](), field.start
        while position < field.end:
            if len(found) == most:
                raise InputError(f"a list at position {field.start:,} has more than {most} numbers", DAMAGED)
            integer, position = self._integer(position, field.end)
            found.append(integer)
        return found

    def bytes(self, field: Field, most: int) -> bytes:
        """The bytes of a field, at most ``most`` of them.

        Raises:
            InputError: If they are more, or cannot be read.
        """
        length = field.end - field.start
        if length > most:
            raise InputError(f"a text at position {field.start:,} would have {length:,} bytes", DAMAGED)
        first = field.start - self._start
        if first >= 0 and first + length <= len(self._window):
            return self._window[first : first + length]
        return self._file.read(field.start, length)

    def text(self, field: Field, most: int) -> str:
        """The bytes of a field, as text.

        Raises:
            InputError: As ``bytes``, or if it is not UTF-8.
        """
        try:
            return self.bytes(field, most).decode()
        except UnicodeDecodeError:
            raise InputError(f"a text at position {field.start:,} is not UTF-8", DAMAGED) from None

    def _field(self, position: int, end: int) -> tuple[Field, int]:
        """The field at a position of a message that has an end, and where the next one begins."""
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise InputError(f"its messages have more than {MAX_FIELDS:,} fields", DAMAGED)
        at = position - self._start
        if 0 <= at < len(self._window) - 1:  # nearly all fields have a key and a length of one byte each
            key, length = self._window[at], self._window[at + 1]
            stop = position + 2 + length
            if key & 0x87 == BYTES and key > 7 and length < 0x80 and stop <= end:
                return Field(key, position + 2, stop), stop
        key, start = self._integer(position, end)
        number, kind = key >> 3, key & 7
        if not number or key > MAX_KEY or kind > FOUR_BYTES:
            raise InputError(f"there is no field of a message at position {position:,}", DAMAGED)
        integer, stop = 0, start + WIDTHS.get(kind, 0)
        if kind == INTEGER:
            integer, stop = self._integer(start, end)
        elif kind == BYTES:
            length, start = self._integer(start, end)
            stop = start + length
        if stop > end:
            raise InputError(f"a field needs {stop:,} bytes, its message ends after {end:,}", INCOMPLETE)
        return Field(key, start, stop, integer), stop

    def _integer(self, position: int, end: int) -> tuple[int, int]:
        """The integer at a position, and where it ends: seven bits a byte, the lowest first."""
        first = position - self._start
        has_rest = self._start + len(self._window) >= min(position + MAX_INTEGER_BYTES, self._file.size)
        if first < 0 or not has_rest:
            self._start, first = position, 0
            self._window = self._file.read(position, min(WINDOW_BYTES, self._file.size - position))
        integer = shift = 0
        for byte in self._window[first : first + min(MAX_INTEGER_BYTES, end - position)]:
            integer |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return integer & 0xFFFF_FFFF_FFFF_FFFF, position + shift // 7
        if end - position < MAX_INTEGER_BYTES:
            raise InputError(f"a number at position {position:,} has no end", INCOMPLETE)
        raise InputError(f"a number at position {position:,} has more than 64 bits", DAMAGED)


def signed(integer: int) -> int:
    """An integer of a field as int64.

    >>> signed(5), signed((1 << 64) - 1)
    (5, -1)
    """
    return integer - (1 << 64) if integer >> 63 else integer
