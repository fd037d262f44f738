"""The common part of `klcal check` and `klcal diff`: the changes that they show, and their messages on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from klcal.cli.messages import capped, line, of_table, remark, say
from klcal.cli.verdict import exit_code
from klcal.errors import ExitCode, UsageError
from klcal.pipeline.rules import differing, not_judged
from klcal.readers.table_file import is_binary_table
from klcal.tables.findings import Finding
from klcal.tables.table import Table
from klcal.writers import REPORTS, WRITERS, Writer
from klcal.writers.file import Render, Replacement, is_special, replacement
from klcal.writers.people import headline

if TYPE_CHECKING:
    from klcal.pipeline.check import Checked

__all__ = ["TEXTS_ONLY", "shown_as", "told_of_drift", "updating"]

TEXTS_ONLY = "it is for scales, not for what changed between them"  # of formats that are binary


def shown_as(changes: Table, top: int | None) -> Callable[[str], Render]:
    """A function that renders changes in a format: the first ``top`` tensors that are not the same."""
    shown = differing(changes) if top is None else differing(changes).top(top)
    return lambda name: partial(WRITERS[name], changes if name in REPORTS else shown)


def told_of_drift(changes: Table, made: Table | None = None) -> ExitCode:
    """Print the findings to stderr and return the exit code; with a new table, print its failures, too."""
    code = ExitCode.FINDINGS if changes.findings else ExitCode.DONE
    if made is not None:
        code = exit_code(made, changes.findings)
        say(of_table(made, code))
    if code == ExitCode.NOTHING_USABLE:
        return code
    say(capped([_line(each) for each in changes.findings]))
    if not changes.usable:
        say([line(kind="error", text=str(not_judged(changes)))])
        return ExitCode.NOTHING_USABLE
    return code


Renew = Callable[["Checked"], ExitCode]
"""Writes a baseline anew, or says why not."""


@contextmanager
def updating(baseline: str, inputs: Sequence[str], *, wanted: bool) -> Iterator[Renew | None]:
    """Check that a baseline can be written, and give the function that does it; None where nobody wants it.

    Raises:
        UsageError: on entering, if it cannot be.
        OutputError: from the function, if it could not be after all.
    """
    if not wanted:
        yield None
    elif is_special(baseline):
        raise UsageError(f"--update cannot replace '{baseline}': it is a pipe or a device", "name a file")
    else:
        format_ = "safetensors" if is_binary_table(baseline) else "json"
        with replacement(baseline, inputs) as file:
            yield partial(_renewed, baseline, file, WRITERS[format_])


def _renewed(baseline: str, file: Replacement, write: Writer, done: Checked) -> ExitCode:
    table = done.table
    code = exit_code(table)
    say(of_table(table, code))
    if code == ExitCode.NOTHING_USABLE or done.lost:
        what = f"'{baseline}' is as it was: the new one would lack tensors that failed" if done.lost else ""
        say([line(kind="error", text=f"{what}; mend them, or leave them out with --exclude")] if what else [])
        return max(code, ExitCode.NOTHING_USABLE)
    if done.unread:
        what = f"'{baseline}' is as it was: it has tensors of '{done.unread[0]}', of which nothing was looked at"
        say([line(kind="error", text=f"{what}; name that file, too, or make another baseline with klcal calibrate")])
        return ExitCode.USAGE
    file.replace(lambda out: write(done.renewed, out))
    remark([line(text=f"written: {headline(done.changes)}")])
    return code


def _line(found: Finding) -> str:
    return line(found.source, found.name, text=found.text)
