"""Standard input as a regular file: what comes through a pipe is first written to one without a name."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from klcal.errors import InputError
from klcal.readers.description import CHUNK_BYTES
from klcal.readers.regular import fault

__all__ = ["spooled"]


def spooled(descriptor: int) -> str:
    """A path that leads to all that can be read from a descriptor, until this process ends.

    A regular file at its start is used as it is. Everything else is copied, in bounded memory, to a
    temporary file that has no name and so vanishes with this process, however it ends. Its descriptor stays
    open: the parts of a tensor open it again by its number, in worker processes too.

    Raises:
        InputError: If nobody is sending anything, or there is no room for the copy.
    """
    try:
        if os.isatty(descriptor):
            raise InputError("standard input is a terminal", "send a .npy or .safetensors file through a pipe")
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and not os.lseek(descriptor, 0, os.SEEK_CUR):
            return _path_of(os.dup(descriptor))
        with tempfile.TemporaryFile(buffering=0) as copy:
            while block := os.read(descriptor, CHUNK_BYTES):
                view = memoryview(block)
                while view:
                    view = view[os.write(copy.fileno(), view) :]
            return _path_of(os.dup(copy.fileno()))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT):  # the last: no usable directory
            what = "there is no room for a copy of standard input"
            raise InputError(what, "set TMPDIR to a directory with more, or give the file's name") from None
        if error.errno == errno.EBADF:
            raise InputError("standard input is closed", "send a .npy or .safetensors file through a pipe") from None
        raise fault(error) from None


def _path_of(descriptor: int) -> str:
    """A path by which this process and its workers can open an open file again."""
    by_process = f"/proc/{os.getpid()}/fd/{descriptor}"
    return by_process if Path(by_process).exists() else f"/dev/fd/{descriptor}"
