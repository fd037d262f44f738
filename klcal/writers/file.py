"""A table in a file, which is replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

from klcal.errors import InputError, OutputError, UsageError
from klcal.tables.schema import SKETCH, TABLE
from klcal.tables.table import Config, Table
from klcal.writers import BINARY, SUFFIXES, WRITERS

__all__ = [
    "Render",
    "Replacement",
    "begin_to_store",
    "check_is_here",
    "format_of",
    "is_special",
    "reason",
    "replacement",
    "sync",
    "write",
    "write_text",
]

Render = Callable[[TextIO], None]

NEW_FILE_MODE = 0o666  # less the umask, like any file a shell creates
PERMISSIONS = 0o777
INDEX_SUFFIX = ".index.json"  # of a sharded checkpoint: an input, although it is JSON


def write_text(text: str, out: TextIO) -> None:
    """A ``Render`` of a text, once that is known."""
    out.write(text)


def write(table: Table, path: str, format_: str = "auto") -> None:
    """See ``Table.write``.

    Raises:
        UsageError: there can be no such file, or its name says no format.
        OutputError: it could not be written after all.
    """
    if format_ not in ("auto", *WRITERS):
        raise UsageError(f"unknown format {format_!r}", f"use one of {', '.join(WRITERS)}")
    name = format_of(path) if format_ == "auto" else format_
    if name in BINARY and not isinstance(table.config, Config):
        raise UsageError(f"the format {name} is for scales, not for comparisons", "use another one, such as json")
    if is_special(path):
        raise UsageError(f"cannot write '{path}': it is a pipe or a device", "name a file")
    with replacement(path, ()) as file:
        file.replace(lambda out: WRITERS[name](table, out))


def format_of(path: str) -> str:
    """The format that a file's name asks for.

    Raises:
        UsageError: it asks for none.
    """
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    from klcal.readers.formats import SUFFIXES as READ

    known = f"end it in one of {', '.join(SUFFIXES)}"
    if suffix in READ:
        raise UsageError(f"'{path}' is the name of a tensor file, which the answer is not", known)
    raise UsageError(f"the suffix of '{path}' names no format", f"name the format, or {known}")


def is_special(output: str) -> bool:
    """Whether a path is there and is a pipe or a device: replacing it would destroy it."""
    with contextlib.suppress(OSError):
        mode = Path(output).stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def check_is_here(output: str) -> None:
    """Refuses an output that is an address.

    Raises:
        UsageError: says what to do.
    """
    from klcal.readers.addresses import is_remote

    if is_remote(output):
        raise UsageError(f"cannot write '{output}': what is written lies on this machine", "name a file, then copy it")


class Replacement(NamedTuple):
    """A file that is going to be written."""

    replace: Callable[[Render], None]
    exists: bool  # so that another one would be lost


@contextmanager
def replacement(output: str, inputs: Sequence[str]) -> Iterator[Replacement]:
    """Check that a file can be written, and give the function that does it; until it has, an old one is as it was.

    Args:
        output: its path.
        inputs: the paths that are read, which must not be written.

    Raises:
        UsageError: on entering, if the file cannot be written.
        OutputError: from the function, if it could not be written after all.
    """
    check_is_here(output)
    try:
        target = Path(os.path.realpath(output))  # the file a link leads to; the link stays
        mode = _check(output, target, inputs)
        temporary = target.with_name(f".klcal-{os.urandom(8).hex()}.tmp")
        stream = _create(temporary, mode)
    except OSError as error:
        raise UsageError(
            f"cannot write '{output}': {reason(error)}", "name a file in a directory that exists and is writable"
        ) from error
    try:
        yield Replacement(partial(_replace, output, target, temporary, stream), mode is not None)
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        _remove(temporary)


def _check(output: str, target: Path, inputs: Sequence[str]) -> int | None:
    """The mode of the file that will be replaced; None if there is none. Refuses to replace inputs and tensor files."""
    try:
        found = target.stat()
    except FileNotFoundError:
        found = None
    if output.endswith(os.sep) or (found and stat.S_ISDIR(found.st_mode)):
        raise UsageError(f"cannot write '{output}': it is a directory", "name a file")
    if found is None:
        return None
    if not os.access(target, os.W_OK):
        raise UsageError(f"cannot write '{output}': it is write-protected", "name another file")
    from klcal.readers.formats import SUFFIXES as READ
    from klcal.readers.table_file import schema_of

    is_answer = schema_of(str(target)) in (TABLE, SKETCH)
    is_tensor_file = target.suffix.lower() in READ and not is_answer
    if is_tensor_file or target.name.endswith(INDEX_SUFFIX):  # be it only the shard of an input
        raise UsageError(f"'{output}' would replace a tensor file", "name another file")
    if any(_reads(path, target) for given in inputs for path in _paths(given)):
        raise UsageError(f"'{output}' is one of the inputs", "name another file")
    return stat.S_IMODE(found.st_mode) & PERMISSIONS


def _paths(given: str) -> list[str]:
    """The files that an input leads to: it may be a pattern that the shell did not expand."""
    from klcal.readers.listing import matching_paths

    with contextlib.suppress(InputError):
        return [given, *matching_paths(given)]
    return [given]


def _reads(given: str, target: Path) -> bool:
    """Whether a file belongs to an input: it is the input, or a file in it that is not one of our answers."""
    with contextlib.suppress(OSError, ValueError):
        if target.samefile(given):
            return True
        from klcal.readers.formats import SUFFIXES as READ

        answer = target.suffix.lower() in SUFFIXES and target.suffix.lower() not in READ
        return Path(given).is_dir() and target.is_relative_to(os.path.realpath(given)) and not answer
    return False


def _create(temporary: Path, mode: int | None) -> TextIO:
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
    except BaseException:
        os.close(descriptor)
        _remove(temporary)
        raise


def _replace(output: str, target: Path, temporary: Path, stream: TextIO, render: Render) -> None:
    try:
        with stream:
            render(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if is_special(str(target)):
            raise OutputError(f"cannot write '{output}': it has become a pipe or a device", "name another file")
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {reason(error)}", "make room, or name another file") from error


def begin_to_store(descriptor: int, begin: int, end: int) -> None:
    """Tells the disk to begin with some bytes that were written, and does not wait: less is left to ``fsync`` then.

    Linux does so for bytes that will not be needed soon. As they are on their way, it keeps them in its cache.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


def sync(directory: Path) -> None:
    """Make the new name last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink()


def reason(error: OSError) -> str:
    """The error of the system, in a few words."""
    return os.strerror(error.errno).lower() if error.errno else "it failed"
