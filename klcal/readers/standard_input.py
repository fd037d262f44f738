"""Standard input as a regular file: data from a pipe is first written to a file without a name."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from klcal.errors import InputError
from klcal.readers.description import CHUNK_BYTES
from klcal.readers.formats import HEAD_BYTES, check_format
from klcal.readers.regular import fault

__all__ = ["spooled"]

UNKNOWN_BYTES = 1 << 28  # of a stream that may not be a tensor file at all


def spooled(descriptor: int) -> str:
    """A path that leads to all that can be read from a descriptor, until this process ends.

    A regular file at its start is used as it is. Everything else is copied, in bounded memory, to a
    temporary file that has no name and so vanishes with this process, however it ends. Its descriptor stays
    open: the parts of a tensor open it again by its number, in worker processes too.

    What never ends, as /dev/zero or `yes |`, does not fill the disk: of a device nothing is copied, and a pipe has
    to show in its first ``UNKNOWN_BYTES`` that it is a tensor file.

    Raises:
        InputError: If nobody sends anything, or there is no room for the copy.
    """
    try:
        if os.isatty(descriptor):
            raise InputError("standard input is a terminal", "send a .npy or .safetensors file through a pipe")
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and not os.lseek(descriptor, 0, os.SEEK_CUR):
            return _path_of(os.dup(descriptor))
        is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode) or stat.S_ISBLK(os.fstat(descriptor).st_mode)
        with tempfile.TemporaryFile(buffering=0) as copy:
            copied = 0
            while block := os.read(descriptor, CHUNK_BYTES):
                if is_device:  # and not /dev/null, which holds nothing
                    raise InputError("standard input is a device, not a file", "send a file through a pipe")
                view = memoryview(block)
                while view:
                    view = view[os.write(copy.fileno(), view) :]
                if copied < UNKNOWN_BYTES <= copied + len(block):
                    check_format(os.pread(copy.fileno(), HEAD_BYTES, 0))
                copied += len(block)
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
