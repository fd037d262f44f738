"""Messages on stderr: one short line each, with control characters made harmless."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from klcal.errors import ExitCode
from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.table import Config, Contents, Table
from klcal.writers.text import escape, shorten

if TYPE_CHECKING:
    from klcal.pipeline.devices import Plan

__all__ = ["capped", "is_quiet", "line", "of_plan", "of_table", "quietly", "remark", "say", "silence"]

LINE_LENGTH = 300  # characters that a log shows on a few lines
PLACE_LENGTH = 90  # of a file's or a tensor's name, so that room for the reason is left
LINES = 20  # of one kind; the JSON has them all


def line(*places: str, kind: str = "", text: str) -> str:
    """One message: ``klcal: [kind:] [place:]… text``.

    >>> line("model.pt", "fc", kind="error", text="cut short; download it again")
    'klcal: error: model.pt: fc: cut short; download it again'
    """
    parts = ["klcal", kind, *(shorten(escape(place), PLACE_LENGTH) for place in places)]
    front = "".join(f"{part}: " for part in parts if part)
    return front + shorten(escape(text), LINE_LENGTH - len(front))


def capped(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    rest = len(lines) - LINES
    return [*islice(lines, LINES), *([f"klcal: … and {rest} more"] if rest > 0 else [])]


def of_table(table: Table, code: ExitCode) -> list[str]:
    """Messages about a table: its warnings, its failures, and the reason if there is no answer."""
    failed = [line(row.source, row.name, kind="error", text=row.reason or row.status) for row in _failures(table)]
    failed += [line(error.source, kind="error", text=error.reason) for error in table.errors]
    if code == ExitCode.NOTHING_USABLE and not failed:
        done = {Config: "calibrated", Contents: "found"}.get(type(table.config), "compared")
        failed = [line(kind="error", text=f"no tensor was {done}: {_counts(table)}")]
    warnings = [line(kind="warning", text=warning) for warning in table.warnings if not _is_quiet]
    return capped(warnings) + capped(failed)


def of_plan(plan: Plan, *, verbose: bool) -> list[str]:
    """The message about the devices that work, and why. Unless ``verbose``, only if others were asked for."""
    lines = []
    if verbose:
        from klcal.kernels import library

        there = f"{', '.join(plan.devices)} counts, and searches channels and groups; the CPU searches the rest"
        who = there if plan.devices else "the CPU counts and searches"
        processes = f"{plan.processes} process{'es' * (plan.processes > 1)}"
        how = f"{processes} of {plan.threads} thread{'s' * (plan.threads > 1)}, {library.name()} kernel"
        lines.append(line(text=f"{who}, {how}: {plan.why}"))
    if plan.unfit:
        fit = "tensors with one scale and no importance, or with channels or groups for which it has room"
        what = f"{plan.why} is for {fit}; the CPU takes the {plan.unfit} others, to the same result"
        lines.append(line(kind="warning", text=what))
    return lines


def _failures(table: Table) -> Iterable[Row | Difference | Change | Content]:
    return (row for row in table.rows if row.failed)


def _counts(table: Table) -> str:
    counts = Counter(row.status for row in table.rows)
    found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return found or "there is none in the input; name files with float tensors, or check --include and --exclude"


_is_quiet = False  # of the run that this process is for


@contextlib.contextmanager
def quietly(wanted: bool) -> Iterator[None]:
    """A context in which only errors and findings are printed, if ``wanted``."""
    global _is_quiet
    before, _is_quiet = _is_quiet, wanted
    try:
        yield
    finally:
        _is_quiet = before


def is_quiet() -> bool:
    """Whether progress, warnings and notes are unwanted."""
    return _is_quiet


def remark(lines: Iterable[str]) -> None:
    """Print a remark that is neither an error nor a finding, unless --quiet was given."""
    if not _is_quiet:
        say(lines)


def say(lines: Iterable[str]) -> None:
    """Write lines to stderr. Where there is no stderr, nobody is listening."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.writelines(f"{text}\n" for text in lines)
        sys.stderr.flush()
    except (OSError, ValueError, MemoryError):
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Discard buffered output. Otherwise the interpreter would fail on it at exit, and change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
