"""What ``apply`` is asked for: whether it can be written, and a name by which the same work is known."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from klcal.errors import InputError, UsageError
from klcal.pipeline.model import Files
from klcal.pipeline.request import Request
from klcal.pipeline.selection import Selected, selected
from klcal.readers import Description
from klcal.readers.regular import open_regular
from klcal.tables.table import Table
from klcal.writers.file import check_is_here, is_special
from klcal.writers.forms import form_of
from klcal.writers.forms.form import Form

__all__ = ["Taken", "Work", "check_output", "name_of"]

DIGITS = 16  # of a hash that tells pieces of work apart


class Taken(NamedTuple):
    """Which tensors are quantized, if they can be."""

    form: Form
    include: Sequence[str]
    exclude: Sequence[str]

    def takes(self, tensor: Description) -> bool:
        """Whether the form does."""
        return self.form.takes(tensor, self.include)

    def of(self, source: str, tensor: Description) -> Selected | None:
        """A tensor, under the name by which it is wanted; None if it is not, or cannot be calibrated."""
        found = selected([Selected(source, tensor)], self.include, self.exclude) if self.takes(tensor) else []
        return found[0] if found and tensor.status == "ok" else None


@dataclass(frozen=True)
class Work:
    """A model, and what is to be made of it."""

    files: Files
    output: str
    to: str
    by: Request | str | Table
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """All files that are read."""
        given = self.by.importance if isinstance(self.by, Request) else self.by
        return [*(each.path for each in self.files.tensors), *([given] if isinstance(given, str) else [])]

    @property
    def form(self) -> Form:
        """How it is written."""
        return form_of(self.to)

    @property
    def taken(self) -> Taken:
        """What of it is quantized."""
        return Taken(self.form, self.include, self.exclude)


def check_output(work: Work) -> None:
    """Refuses an output that is, holds or lies in the model, or is there, and files that would be one.

    Raises:
        UsageError: says what to do.
    """
    names = Counter(work.form.renamed(file.name) for file in work.files.tensors)
    if twice := [name for name, times in names.items() if times > 1]:
        raise UsageError(f"two files of the model would be written as '{twice[0]}'", "give one of them by its name")
    if work.output == "-" or is_special(work.output):
        raise UsageError(f"'{work.output}' is a stream, in which nothing can be mended", "name a file or a directory")
    check_is_here(work.output)
    if work.files.directory is None:
        return  # ``replacement`` checks a file
    output, target, model = work.output, *(Path(os.path.realpath(each)) for each in (work.output, work.files.directory))
    if target == model or target.is_relative_to(model) or model.is_relative_to(target):
        raise UsageError(f"'{output}' is, holds or lies in the model", "name a directory elsewhere")
    if target.exists() and not target.is_dir():
        raise UsageError(f"'{output}' is a file, and the model a directory", "name a directory that is not there yet")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"the directory '{output}' is not empty", "name one that is not there yet")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write '{output}': there is no directory '{target.parent}'", "make it: mkdir -p")


def name_of(work: Work) -> str:
    """Digits that are the same for the same work on the same files alone."""
    by = work.by
    what: object = json.dumps(by.to_dict()) if isinstance(by, Table) else by
    if isinstance(by, Request):
        what = by.config, by.bounds, by.nonfinite
    parts = (
        version("klcal"),
        work.to,
        work.include,
        work.exclude,
        what,
        work.files.others,
        [*map(_state, work.inputs)],
    )
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:DIGITS]


def _state(path: str) -> tuple[str, int, int | str]:
    """A file as it is now: its size, and when it was written; that it is absent is said by who reads it."""
    try:
        found = open_regular(path)
    except InputError:
        return path, 0, 0
    return path, found.size, found.stamp
