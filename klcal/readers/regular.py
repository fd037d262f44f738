"""Regular files, the only kind that klcal reads: the one module that opens them, on this machine or remote.

A pipe or a device can block for ever or never end, and a mapped file that shrinks kills the process without a message.
So a file is opened without waiting, inspected, and read by ``pread``. Its size is known before anything is allocated.
Each time it is opened, and after each pass, it is checked that it has not changed. Remote files are read in the same
way: see ``klcal.readers.remote``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from klcal.errors import InputError
from klcal.readers import addresses, remote
from klcal.readers.description import CHUNK_BYTES, PART_BYTES, Chunk

__all__ = ["HEAD_BYTES", "FileSpan", "RegularFile", "fault", "open_regular", "spans"]

HEAD_BYTES = 512
"""Bytes that are read when a file is opened: they say which format it has, and are all of a .npy's header. To open a
small file again would take a third of the time that describing it takes."""

INCOMPLETE = "the download may be incomplete: download or save it again"
CHANGED = "wait until it is written, then run again"
READ_ONLY = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe without a writer does not block

NAME = "check its name"
COPY = "copy what it holds to a file, or send it to standard input and give '-'"
ACCESS = "ask its owner, or run as a user who may read it"
AGAIN = "copy the file to another disk, then run again"
LATER = "run again when fewer are open"
FAULTS = {
    errno.ENOENT: ("there is no such file", "download it, or check its name"),
    errno.ENOTDIR: ("a part of its path is not a directory", NAME),
    errno.EACCES: ("there is no permission to read it", ACCESS),
    errno.EPERM: ("there is no permission to read it", ACCESS),
    errno.EISDIR: ("it is a directory", "give the files in it, or the directory as an argument of its own"),
    errno.ELOOP: ("its links lead in a circle", "give the file itself"),
    errno.ENAMETOOLONG: ("its name is longer than the file system allows", NAME),
    errno.ENXIO: ("it is a socket or a device, not a regular file", COPY),
    errno.ENODEV: ("it is a device, not a regular file", COPY),
    errno.EIO: ("the disk reports an input/output error", AGAIN),
    errno.ESTALE: ("the network file system has lost it", AGAIN),
    errno.EMFILE: ("this process has too many files open", LATER),
    errno.ENFILE: ("this machine has too many files open", LATER),
}
"""For each error of the system: what is wrong with the file, and what to do."""


@dataclass(frozen=True)
class RegularFile:
    """A regular file as it was when it was opened. Picklable: each read opens it again.

    A process elsewhere works in another folder, so a copy that was pickled has an absolute path.
    """

    path: str
    size: int  # bytes
    stamp: int | str  # last modification, in nanoseconds since 1970; for a remote file, its version by the server
    head: bytes = field(default=b"", compare=False, repr=False)  # its first HEAD_BYTES, if they are known

    def __reduce__(self) -> tuple[type[RegularFile], tuple[str, int, int | str]]:
        path = self.path if addresses.is_remote(self.path) else os.path.abspath(self.path)  # noqa: PTH100 - links stay
        return RegularFile, (path, self.size, self.stamp)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)``.

        Raises:
            InputError: If the file is shorter (known before anything is allocated), has changed since
                it was described, or cannot be read.
        """
        self.require(offset, length)
        with self._opened() as source:
            pieces: list[bytes] = []  # mostly one, which is not copied: one pread gives 2 GiB at most
            position, end = offset, offset + length
            while position < end:
                pieces.append(source.read(position, end - position))
                if not pieces[-1]:
                    raise InputError("the file was cut while it was read", CHANGED)
                position += len(pieces[-1])
            source.expect(self._state)
        return b"".join(pieces)

    def beginning(self, most: int) -> bytes:
        """The first bytes, ``most`` of them where there are so many; some as they were when the file was opened.

        Raises:
            InputError: As ``read``.
        """
        length = min(most, self.size)
        return self.head[:length] if length <= len(self.head) else self.read(0, length)

    def blocks(self, offset: int, length: int, block_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """The bytes ``[offset, offset + length)`` in pieces of ``block_bytes``, the last one shorter.

        All pieces share one writable buffer: each is valid until the next one is asked for.

        Raises:
            InputError: As ``read``; that the file has changed may be known only after the last piece.
        """
        self.require(offset, length)
        room = np.empty(min(block_bytes, length), np.uint8).data  # which is not cleared before
        yield from self.blocks_in(repeat(room), offset, length)

    def blocks_in(self, rooms: Iterator[memoryview], offset: int, length: int) -> Iterator[memoryview]:
        """The same bytes, each piece read to the next room and as large as that; only the last one is shorter.

        Raises:
            InputError: As ``read``; that the file has changed may be known only after the last piece.
        """
        self.require(offset, length)
        if not length:
            return
        with self._opened() as source:
            position, end = offset, offset + length
            while position < end:
                block = next(rooms)[: end - position]
                filled = 0
                while filled < len(block):
                    count = source.fill(block[filled:], position + filled, end)
                    if not count:
                        raise InputError("the file was cut while it was read", CHANGED)
                    filled += count
                yield block
                position += filled
            source.expect(self._state)

    def require(self, offset: int, length: int) -> None:
        """Raises InputError unless the file has ``length`` bytes at ``offset``."""
        if offset < 0 or length < 0:
            raise InputError(f"it refers to {length:,} bytes at position {offset:,}", INCOMPLETE)
        if offset + length > self.size:
            raise InputError(f"it needs {offset + length:,} bytes, the file has {self.size:,}", INCOMPLETE)

    @contextmanager
    def _opened(self) -> Iterator[_Local | remote.Remote]:
        with _opened(self.path) as source:
            source.expect(self._state)
            yield source

    @property
    def _state(self) -> remote.State:
        return self.size, self.stamp


@dataclass(frozen=True)
class FileSpan:
    """A ``Part``: values that lie one behind the other in a file."""

    file: RegularFile
    offset: int  # bytes before the first value
    length: int  # bytes
    storage: str  # NumPy dtype of a value as it lies there, such as "<f4"
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.length

    def chunks(self) -> Iterator[Chunk]:
        """The values in native byte order; each array is valid until the next one is asked for.

        Raises:
            InputError: If the file is shorter, has changed, or cannot be read.
        """
        return self._values(self.file.blocks(self.offset, self.length))

    def chunks_in(self, rooms: Iterator[memoryview]) -> Iterator[Chunk]:
        """The same values, each array read to the next room, whose size any type of values divides."""
        return self._values(self.file.blocks_in(rooms, self.offset, self.length))

    def _values(self, blocks: Iterator[memoryview]) -> Iterator[Chunk]:
        dtype = np.dtype(self.storage)
        for block in blocks:
            values = np.frombuffer(block, dtype)
            if not dtype.isnative:
                values = values.byteswap(inplace=True).view(dtype.newbyteorder("="))
            yield values


def open_regular(path: str) -> RegularFile:
    """Looks at a file, and at how one of this machine begins; links are followed.

    Raises:
        InputError: If it is not a regular file, or cannot be opened.
    """
    with _opened(path) as source:
        size, stamp = source.state()
        head = source.read(0, min(size, HEAD_BYTES)) if isinstance(source, _Local) else b""
        return RegularFile(path, size, stamp, head)


def spans(file: RegularFile, offset: int, length: int, storage: str) -> tuple[FileSpan, ...]:
    """The parts of ``length`` bytes of values from ``offset`` on: enough of them for several workers.

    Raises:
        InputError: If the file ends before, or the length is not a whole number of values.
    """
    file.require(offset, length)
    if length % np.dtype(storage).itemsize:
        raise InputError(f"{length:,} bytes are not a whole number of values", INCOMPLETE)
    return tuple(
        FileSpan(file, offset + start, min(PART_BYTES, length - start), storage)
        for start in range(0, length, PART_BYTES)
    )


def fault(error: OSError) -> InputError:
    """The error of the system, as a statement about the file."""
    code = error.errno or 0
    unknown = f"the system cannot read it ({errno.errorcode.get(code, 'unknown error')})", AGAIN
    return InputError(*FAULTS.get(code, unknown))


@dataclass(frozen=True)
class _Local:
    """A file of this machine, open."""

    descriptor: int

    def state(self) -> tuple[int, int]:
        """The size of the file and the time of its last modification. Raises InputError if it is not a regular file."""
        found = os.fstat(self.descriptor)
        _require_regular(found.st_mode)
        return found.st_size, found.st_mtime_ns

    def expect(self, state: remote.State) -> None:
        """Raises InputError if it is not as it was."""
        if self.state() != state:
            raise InputError("the file changed while it was read", CHANGED)

    def read(self, position: int, length: int) -> bytes:
        """The bytes there, maybe fewer."""
        return os.pread(self.descriptor, length, position)

    def fill(self, room: memoryview, position: int, _end: int) -> int:
        """Reads to the beginning of a room; how many bytes."""
        return os.preadv(self.descriptor, [room], position)


def _opened(path: str) -> AbstractContextManager[_Local | remote.Remote]:
    """A file to read, here or elsewhere."""
    return remote.opened(path) if addresses.is_remote(path) else _local(path)


@contextmanager
def _local(path: str) -> Iterator[_Local]:
    try:
        descriptor = os.open(path, READ_ONLY)
    except OSError as error:
        raise fault(error) from None
    except ValueError:  # a NUL in the path
        raise InputError("its name cannot be the name of a file", NAME) from None
    try:
        yield _Local(descriptor)
    except OSError as error:
        raise fault(error) from None
    finally:
        with suppress(OSError):  # it was only read: nothing can be lost
            os.close(descriptor)


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise fault(IsADirectoryError(errno.EISDIR, ""))
    if stat.S_ISFIFO(mode):
        raise InputError("it is a pipe, not a regular file", COPY)
    if not stat.S_ISREG(mode):
        raise InputError("it is a device, not a regular file", COPY)
