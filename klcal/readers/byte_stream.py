"""A stretch of a regular file as a stream, for parsers that want to read, seek and tell."""

from __future__ import annotations

import errno
import io
import os
from typing import TYPE_CHECKING, Any

from klcal.errors import InputError

if TYPE_CHECKING:
    from klcal.readers.regular import RegularFile

__all__ = ["ByteStream"]

BUFFER_BYTES = 1 << 16  # read ahead: parsers ask for single bytes
DAMAGED = "download or save the file again"


class _Window(io.RawIOBase):
    """The bytes of a file up to ``end``, as if the file ended there."""

    def __init__(self, file: RegularFile, end: int) -> None:
        self.file = file
        self.end = end
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.end}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, "before the start")
        self.position = position
        return position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self.end - self.position))
        if length:
            buffer[:length] = self.file.read(self.position, length)
            self.position += length
        return length


class ByteStream(io.BufferedReader):
    """A buffered stream over ``file[start:end]`` that never allocates more than it can deliver.

    Args:
        file: The file.
        start: The position of the first byte.
        end: The position behind the last byte.
        largest_read: The largest number of bytes that one ``read`` returns.
    """

    def __init__(self, file: RegularFile, start: int, end: int, largest_read: int) -> None:
        super().__init__(_Window(file, end), BUFFER_BYTES)
        self.end = end
        self.largest_read = largest_read
        self.seek(start)

    def read(self, size: int | None = -1) -> bytes:
        """Reads ``size`` bytes, or fewer at the end; all that is left for None or a negative size."""
        left = max(0, self.end - self.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self.largest_read:
            raise InputError(f"one of its fields claims {wanted:,} bytes, more than any real file needs", DAMAGED)
        return super().read(wanted)
