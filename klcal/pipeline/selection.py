"""From arguments to tensors: the tensors that files describe, and those that are selected."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple, TypeVar

from klcal.errors import InputError
from klcal.readers import Description, Source
from klcal.readers.quoting import quoted
from klcal.tables.status import Cause
from klcal.tables.table import FileError, in_order

__all__ = [
    "Batches",
    "Bug",
    "Remark",
    "Selected",
    "attempt",
    "cause_of",
    "described_tensors",
    "file_warnings",
    "is_wanted",
    "listed",
    "names_of",
    "nearest",
    "selected",
    "unmatched",
    "unmatched_globs",
]

NEAREST = 3  # names shown where one is not found
COMPARED = 10_000  # names that such a glob is compared with: a second of work
COMPARED_CHARACTERS = 200  # of such a name; longer ones are like no glob that people type, and take seconds each
NO_MEMORY = InputError("there is not enough memory for it", "give this process more, or use fewer --jobs")

Result = TypeVar("Result")


class Bug(InputError):
    """An error that is not the fault of a file."""


def cause_of(error: InputError) -> Cause:
    """The cause of an error: the data, or a bug."""
    return "bug" if isinstance(error, Bug) else "data"


class Batches(NamedTuple):
    """The batches of a pooled tensor."""

    members: tuple[Selected, ...]
    left_out: int  # how many that belong to it are not among them, and why is in the errors


class Selected(NamedTuple):
    """A tensor, and the name of the file that it is in."""

    source: str
    description: Description
    path: str = ""  # of that file
    batches: Batches | None = None  # of a pooled tensor


def described_tensors(
    sources: Iterable[Source], errors: list[FileError], *, dequantize: bool = False, batches: bool = False
) -> Iterator[Selected]:
    """The tensors of all sources, before any of their data is read. Sources that cannot be described join the errors.

    With ``dequantize``, codes with a scale in the same file are restored to their values. With ``batches``, each array
    in a .npy is a tensor, all of one name.
    """
    for source in sources:
        described = attempt(partial(source.describe, batches=batches))
        if isinstance(described, InputError):
            errors.append(FileError(source.name, str(described), cause_of(described)))
        else:
            for each in described:
                yield Selected(source.name, (each.dequantized if dequantize else None) or each, source.path)


def file_warnings(described: Iterable[Selected]) -> Iterator[str]:
    """The warnings of the readers."""
    return (f"{each.source}: {text}" for each in described for text in each.description.warnings)


def attempt(work: Callable[[], Result]) -> Result | InputError:
    """The result of ``work``, or its error: not even a bug in klcal costs the other tensors."""
    try:
        return work()
    except InputError as error:
        return error
    except MemoryError:
        return NO_MEMORY
    except Exception as error:
        if os.environ.get("KLCAL_DEBUG") == "1":
            raise
        what = f"this is a bug in klcal: {type(error).__name__}"
        return Bug(what, "please report it with the output of KLCAL_DEBUG=1")


def names_of(description: Description) -> tuple[str, ...]:
    """All names of a tensor's data."""
    return description.name, *description.aliases


def listed(names: Collection[str]) -> str:
    """The first names in their order, quoted.

    >>> listed({"b", "a"}), listed(["w10", "w9", "w8", "w2"])
    ("'a', 'b'", "'w2', 'w8', 'w9', …")
    """
    some = ", ".join(map(quoted, sorted(names, key=in_order)[:NEAREST]))
    return f"{some}, …" if len(names) > NEAREST else some


class Remark(NamedTuple):
    """Something to be said of some tensors."""

    names: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """Some of the names, for messages."""
        more = f" ({len(self.names):,} tensors)" if len(self.names) > 1 else ""
        return f"{listed(self.names)}{more}" if self.names else ""

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.names else self.text


def selected(tensors: Iterable[Selected], include: Sequence[str], exclude: Sequence[str]) -> list[Selected]:
    """The tensors with a wanted name. Of several names of tied weights, the first wanted one becomes the name."""
    found = []
    for each in tensors:
        names = names_of(each.description)
        wanted = [name for name in names if is_wanted(name, include, exclude)]
        if wanted and wanted[0] == names[0]:
            found.append(each)
        elif wanted:
            others = tuple(name for name in names if name != wanted[0])
            found.append(each._replace(description=replace(each.description, name=wanted[0], aliases=others)))
    return found


def is_wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a name matches one of some globs, if there are any, and none of others."""
    is_included = any(fnmatchcase(name, glob) for glob in include or ("*",))
    return is_included and not any(fnmatchcase(name, glob) for glob in exclude)


def unmatched(
    described: Sequence[Selected], include: Sequence[str], rules: Iterable[tuple[str, str]] = ()
) -> Iterator[str]:
    """A warning for each glob, of ``--include`` and other options, that no tensor matches, with the nearest names."""
    globs = [*(("--include", glob) for glob in include), *rules]
    return unmatched_globs(
        {name for each in described for name in names_of(each.description)} if globs else set(), globs
    )


def unmatched_globs(names: Collection[str], globs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The globs, with their options, that match none of the names."""
    for option, glob in globs:
        if names and not any(fnmatchcase(name, glob) for name in names):
            yield f"{option} {glob!r} matches no tensor; {nearest(glob, names)}"


def nearest(wanted: str, names: Collection[str]) -> str:
    """The names that are most like one that is not there, in words."""
    short = sorted({name for name in names if len(name) <= COMPARED_CHARACTERS})
    near = difflib.get_close_matches(wanted[:COMPARED_CHARACTERS], short[:COMPARED], NEAREST, cutoff=0.0)
    return f"the nearest names are {', '.join(map(repr, near))}" if near else "their names are longer"
