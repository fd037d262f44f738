"""The arguments of ``apply`` as a ``Work``, the check of its output, and a name that tells one work from another."""

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
    """The choice of tensors to quantize: those that the form can hold and the patterns select."""

    form: Form
    include: Sequence[str]
    exclude: Sequence[str]

    def takes(self, tensor: Description) -> bool:
        """Whether the form can hold this tensor quantized."""
        return self.form.takes(tensor, self.include)

    def of(self, source: str, tensor: Description) -> Selected | None:
        """A tensor of a file, to be calibrated; None if it is not selected, or cannot be calibrated."""
        found = selected([Selected(source, tensor)], self.include, self.exclude) if self.takes(tensor) else []
        return found[0] if found and tensor.status == "ok" else None


@dataclass(frozen=True)
class Work:
    """A model, and the way in which it is quantized and written."""

    files: Files
    output: str  # the path of the new file or directory
    to: str  # the name of the form
    by: Request | str | Table  # settings to calibrate with; or a table, or the path of one
    include: tuple[str, ...]  # patterns of names
    exclude: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """The paths of all files that are read: those of the model, and a table or an importance."""
        given = self.by.importance if isinstance(self.by, Request) else self.by
        return [*(each.path for each in self.files.tensors), *([given] if isinstance(given, str) else [])]

    @property
    def form(self) -> Form:
        """The form in which it is written."""
        return form_of(self.to)

    @property
    def taken(self) -> Taken:
        """The choice of tensors to quantize."""
        return Taken(self.form, self.include, self.exclude)


def check_output(work: Work) -> None:
    """Check that the output can be written, and does not touch the model.

    Raises:
        UsageError: two files of the model would have the same name; or the output is a stream, lies in the model or
            contains it, is not empty, or its parent does not exist.
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
    """A name, 16 hexadecimal digits, that differs if anything differs: arguments, files, or the version of klcal."""
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
    """The state of a file: its path, its size and its time. A missing file is no error here, but where it is read."""
    try:
        found = open_regular(path)
    except InputError:
        return path, 0, 0
    return path, found.size, found.stamp
