"""Where the answer goes: stdout, or a file that is either the old one or the whole new one.

``destination`` is entered before the work, so that an output that cannot be written is found first, and gives
back a function that delivers. Where a file cannot be replaced, as with a pipe or a device, it is written to.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from klcal.cli.messages import line, say, silence
from klcal.errors import InputError, OutputError, UsageError
from klcal.writers import BINARY, SUFFIXES

__all__ = ["Deliver", "ReaderGone", "Render", "choose_format", "destination", "to_stdout"]

Render = Callable[[TextIO], None]
Deliver = Callable[[Render, bool], None]
"""Brings the answer to where it goes; the second argument says whether it is usable, else it replaces no file."""

NEW_FILE_MODE = 0o666  # less the umask, like any file a shell creates
PERMISSIONS = 0o777
INDEX_SUFFIX = ".index.json"  # of a sharded checkpoint: an input, although it is JSON


class ReaderGone(Exception):
    """Whoever read stdout went away, as ``head`` does."""


def choose_format(requested: str, output: str | None, *, terminal: bool, texts_only: str = "") -> str:
    """The name of the writer: as asked, or by the file's suffix, or by who reads stdout.

    Args:
        requested: "auto", or the name.
        output: a path; None and "-" are stdout.
        terminal: whether stdout is one.
        texts_only: why a binary format is not possible, if it is not.

    Raises:
        UsageError: the suffix says nothing, or the format is binary where there can only be text.

    >>> choose_format("auto", "scales.json", terminal=True), choose_format("auto", None, terminal=False)
    ('json', 'plain')
    """
    name = _format(requested, output, terminal)
    if name in BINARY:
        if texts_only:
            raise UsageError(f"the format {name} is binary; {texts_only}", "use another one, such as json")
        if terminal and (output is None or _is_stdout(output)):
            raise UsageError(f"the format {name} is binary, and stdout is a terminal", "name a file with --output")
    return name


def _format(requested: str, output: str | None, terminal: bool) -> str:
    if requested != "auto":
        return requested
    suffix = Path(output or "-").suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if output is None or _is_stdout(output):
        return "table" if terminal else "plain"
    if _is_special(output):
        return "plain"
    from klcal.readers.formats import SUFFIXES as READ

    if suffix in READ:
        what = f"'{output}' is the name of a tensor file, which the answer is not"
        raise UsageError(what, f"end it in one of {', '.join(SUFFIXES)}")
    raise UsageError(
        f"the suffix of '{output}' names no format", f"name the format, or end it in one of {', '.join(SUFFIXES)}"
    )


@contextmanager
def destination(output: str | None, inputs: Sequence[str]) -> Iterator[Deliver]:
    """Check where the answer goes, and give the function that brings it there.

    Until it has been called to the end, a file of that name is as it was, and stays so where no row of the answer is
    usable; whatever happens, no other file stays.

    Args:
        output: a path; None and "-" are stdout.
        inputs: the paths that are read, which must not be written.

    Raises:
        UsageError: on entering, if the output cannot be written.
        OutputError: from the function, if it could not be written after all.
    """
    if output is None or _is_stdout(output):
        if sys.stdout is None:
            raise OutputError("stdout is closed", "redirect it, or name a file with --output")
        yield lambda render, _: to_stdout(render)
    elif _is_special(output):
        yield partial(_write_through, output)
    else:
        with _replacement(output, inputs) as deliver:
            yield deliver


def to_stdout(render: Render | None = None) -> None:
    """Write to stdout, to the last byte; without an argument, what is still buffered.

    Raises:
        ReaderGone: nobody reads it any more.
        OutputError: it is full or broken.
    """
    try:
        if render is not None:
            render(sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError as error:
        silence(sys.stdout)
        raise ReaderGone from error
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(f"cannot write to stdout: {_reason(error)}", "the answer is incomplete") from error


def _is_stdout(output: str) -> bool:
    """Whether a path is "-" or, as /dev/stdout is, the very file that stdout writes to."""
    if output == "-":
        return True
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.path.samestat(Path(output).stat(), os.fstat(sys.stdout.fileno()))
    return False


def _is_special(output: str) -> bool:
    """Whether a path is there and is a pipe or a device: replacing it would destroy it."""
    with contextlib.suppress(OSError):
        mode = Path(output).stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def _write_through(output: str, render: Render, _: bool) -> None:
    try:
        with Path(output).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            render(stream)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {_reason(error)}", "the answer is incomplete") from error


@contextmanager
def _replacement(output: str, inputs: Sequence[str]) -> Iterator[Deliver]:
    try:
        target = Path(os.path.realpath(output))  # the file a link leads to; the link stays
        mode = _check(output, target, inputs)
        temporary = target.with_name(f".klcal-{os.urandom(8).hex()}.tmp")
        stream = _create(temporary, mode)
    except OSError as error:
        raise UsageError(
            f"cannot write '{output}': {_reason(error)}", "name a file in a directory that exists and is writable"
        ) from error
    try:
        replace = partial(_replace, output, target, temporary, stream)
        yield lambda render, usable: _keep(output) if mode is not None and not usable else replace(render)
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        _remove(temporary)


def _check(output: str, target: Path, inputs: Sequence[str]) -> int | None:
    """The mode of the file that will be replaced; None if there is none. Refuses what must not be replaced."""
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
    from klcal.readers.table_file import is_binary_table

    is_tensor_file = target.suffix.lower() in READ and not is_binary_table(str(target))
    if is_tensor_file or target.name.endswith(INDEX_SUFFIX):  # be it only the shard of an input
        raise UsageError(f"'{output}' would replace a tensor file", "name another file")
    if any(_reads(path, target) for given in inputs for path in _paths(given)):
        raise UsageError(f"'{output}' is one of the inputs", "name another file")
    return stat.S_IMODE(found.st_mode) & PERMISSIONS


def _paths(given: str) -> list[str]:
    """What an input stands for: it may be a pattern that the shell did not expand."""
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
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_FILE_MODE)
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
        if _is_special(str(target)):
            raise OutputError(f"cannot write '{output}': it has become a pipe or a device", "name another file")
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {_reason(error)}", "make room, or name another file") from error


def _keep(output: str) -> None:
    what = f"--output '{output}' is as it was: no tensor is usable, and such an answer replaces no file"
    say([line(kind="error", text=f"{what}; mend the input, or name another file")])


def _sync(directory: Path) -> None:
    """Make the new name last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink()


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else "it failed"
