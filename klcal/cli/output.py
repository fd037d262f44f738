"""The destination of the answer: stdout, or a file that is replaced as a whole or not at all.

``destination`` is entered before the work, so that an output that cannot be written is found first. It returns a
function that delivers the answer. A pipe or a device cannot be replaced, and is written to directly.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from klcal.cli.messages import line, say, silence
from klcal.errors import OutputError, UsageError
from klcal.writers import BINARY, REPORTS, SUFFIXES
from klcal.writers.file import Render, format_of, is_special, reason, replacement

__all__ = [
    "Deliver",
    "Output",
    "ReaderGone",
    "choose_format",
    "choose_outputs",
    "destination",
    "destinations",
    "to_stdout",
]

Deliver = Callable[[Render, bool], None]
"""Brings the answer to where it goes; the second argument says whether it is usable, else it replaces no file."""


RenderAs = Callable[[str], Render]
"""The answer in a format, by its name."""


class Output(NamedTuple):
    """The destination of an answer, and the name of its writer."""

    path: str | None
    format: str


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


def choose_outputs(requested: str, outputs: Sequence[str] | None, *, texts_only: str = "") -> list[Output]:
    """The destinations of the answer, with formats: by the suffix of an output, or else ``requested``.

    Args:
        requested: "auto", or the name of a writer.
        outputs: paths; none for stdout.
        texts_only: as for ``choose_format``.

    Raises:
        UsageError: as for ``choose_format``; or two outputs are the same.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if not outputs or len(outputs) == 1:
        path = outputs[0] if outputs else None
        return [Output(path, choose_format(requested, path, terminal=terminal, texts_only=texts_only))]
    places = [_place(output) for output in outputs]
    if twice := [output for output, place in zip(outputs, places, strict=True) if places.count(place) > 1]:
        raise UsageError(f"--output '{twice[0]}' is given twice", "name different files")
    asked = ["auto" if Path(output).suffix.lower() in SUFFIXES else requested for output in outputs]
    return [
        Output(output, choose_format(each, output, terminal=terminal, texts_only=texts_only))
        for each, output in zip(asked, outputs, strict=True)
    ]


def _place(output: str) -> str:
    """A key that is equal for two paths of the same file."""
    with contextlib.suppress(OSError):  # the working directory is gone: the error comes when writing fails
        return "-" if _is_stdout(output) else os.path.realpath(output)
    return output


def _format(requested: str, output: str | None, terminal: bool) -> str:
    if requested != "auto":
        return requested
    suffix = Path(output or "-").suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if output is None or _is_stdout(output):
        return "table" if terminal else "plain"
    if is_special(output):
        return "plain"
    return format_of(output)


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
    elif is_special(output):
        yield partial(_write_through, output)
    else:
        with replacement(output, inputs) as file:
            yield lambda render, usable: _keep(output) if file.exists and not usable else file.replace(render)


@contextmanager
def destinations(outputs: Sequence[Output], inputs: Sequence[str]) -> Iterator[Callable[[RenderAs, bool], None]]:
    """``destination`` of several outputs: files first, and stdout, which may fail, last.

    The function takes a renderer of the answer in a format. Reports for CI are written even if no tensor is usable.
    """
    with contextlib.ExitStack() as stack:
        delivers = [(each, stack.enter_context(destination(each.path, inputs))) for each in outputs]
        delivers.sort(key=lambda pair: pair[0].path is None or _is_stdout(pair[0].path))

        def deliver(render_as: RenderAs, usable: bool) -> None:
            for output, bring in delivers:
                bring(render_as(output.format), usable or output.format in REPORTS)

        yield deliver


def to_stdout(render: Render | None = None) -> None:
    """Write to stdout, to the last byte. Without an argument, only flush it.

    Raises:
        ReaderGone: the reader has closed the pipe.
        OutputError: writing failed.
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
        raise OutputError(f"cannot write to stdout: {reason(error)}", "the answer is incomplete") from error


def _is_stdout(output: str) -> bool:
    """Whether a path is "-" or, as /dev/stdout is, the very file that stdout writes to."""
    if output == "-":
        return True
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.path.samestat(Path(output).stat(), os.fstat(sys.stdout.fileno()))
    return False


def _write_through(output: str, render: Render, _: bool) -> None:
    try:
        with Path(output).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            render(stream)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {reason(error)}", "the answer is incomplete") from error


def _keep(output: str) -> None:
    what = f"--output '{output}' is as it was: no tensor is usable, and such an answer replaces no file"
    say([line(kind="error", text=f"{what}; mend the input, or name another file")])
