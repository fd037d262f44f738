"""What the functions of the library are given, checked: paths, texts, lists and numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from klcal.errors import UsageError

__all__ = ["Path", "count_of", "globs_of", "path_of", "paths_of", "sequence_of", "text_of"]

Path: TypeAlias = str | os.PathLike[str]


def path_of(name: str, given: object) -> str:
    """The path that an argument is.

    Raises:
        UsageError: it is none; as all of these.
    """
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{name} is {given!r}", "give the path of a file, a text or a pathlib.Path")
    found = os.fspath(given)
    return found if isinstance(found, str) else os.fsdecode(found)


def paths_of(name: str, given: object) -> list[str]:
    """One path, or several."""
    several = [given] if isinstance(given, str | os.PathLike) else sequence_of(name, given)
    return [path_of(name, each) for each in several]


def text_of(name: str, given: object) -> str:
    """A text."""
    if not isinstance(given, str):
        raise UsageError(f"{name} is {given!r}", "give a text")
    return given


def globs_of(name: str, given: object) -> list[str]:
    """One text, or several."""
    globs = [given] if isinstance(given, str) else sequence_of(name, given)
    return [text_of(name, each) for each in globs]


def sequence_of(name: str, given: object) -> list[object]:
    """A list, or another sequence."""
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise UsageError(f"{name} is {given!r}", "give a text, or a list of them")
    return list(given)


def count_of(name: str, given: object) -> int:
    """A number of things, at least 1."""
    if type(given) is not int or given < 1:
        raise UsageError(f"{name} is {given!r}", "it is an int, at least 1")
    return given
