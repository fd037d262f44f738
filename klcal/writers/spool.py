"""A file without a name, to which several processes append. It disappears with them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Self

from klcal.readers.description import CHUNK_BYTES

__all__ = ["Spool"]


class Spool:
    """Bytes that are laid aside, behind one another.

    A process that is forked has it as well, and so has one that is spawned with it. If one is killed while it writes,
    nothing refers to what it wrote.
    """

    def __init__(self, beside: str) -> None:
        self._file = tempfile.TemporaryFile(dir=Path(beside).resolve().parent, buffering=0)  # noqa: SIM115 - it is closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, pieces: Sequence[Any]) -> int:
        """Writes what has a buffer, piece by piece; where the first one begins.

        Raises:
            OSError: there is no room.
        """
        descriptor = self._file.fileno()
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            begin = position = os.fstat(descriptor).st_size
            rest = [view for piece in pieces if (view := memoryview(piece)).nbytes]
            while rest:
                written = os.pwritev(descriptor, rest, position)
                position += written
                rest = _left(rest, written)
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        return begin

    def read(self, begin: int, nbytes: int) -> Iterator[bytes]:
        """Bytes that were written, in pieces."""
        for start in range(begin, begin + nbytes, CHUNK_BYTES):
            yield os.pread(self._file.fileno(), min(CHUNK_BYTES, begin + nbytes - start), start)

    def __reduce__(self) -> tuple[Callable[[Any], Spool], tuple[Any]]:
        return _received, (DupFd(self._file.fileno()),)


def _left(pieces: Sequence[memoryview], written: int) -> list[memoryview]:
    """What is left of some pieces once so many of their bytes are written."""
    left = []
    for piece in pieces:
        if written < piece.nbytes:
            left.append(piece.cast("B")[written:] if written else piece)
        written = max(0, written - piece.nbytes)
    return left


def _received(duplicate: Any) -> Spool:
    """The spool of the process that spawned this one."""
    found = object.__new__(Spool)
    found._file = os.fdopen(duplicate.detach(), "r+b", buffering=0)
    return found
