"""What the functions of the library take, checked: a wrong argument is a ``UsageError`` that names it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from klcal.errors import UsageError
from klcal.tables.table import Table

__all__ = ["Path", "count", "globs", "path", "paths", "sequence", "tables", "text"]

Path: TypeAlias = str | os.PathLike[str]


def path(name: str, given: object) -> str:
    """A path as text."""
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{name} is {given!r}", "give the path of a file, a text or a pathlib.Path")
    found = os.fspath(given)
    return found if isinstance(found, str) else os.fsdecode(found)


def paths(name: str, given: object) -> list[str]:
    """One path, or several."""
    several = [given] if isinstance(given, str | os.PathLike) else sequence(name, given)
    return [path(name, each) for each in several]


def text(name: str, given: object) -> str:
    """A text."""
    if not isinstance(given, str):
        raise UsageError(f"{name} is {given!r}", "give a text")
    return given


def globs(name: str, given: object) -> list[str]:
    """One text, or several."""
    several = [given] if isinstance(given, str) else sequence(name, given)
    return [text(name, each) for each in several]


def sequence(name: str, given: object) -> list[object]:
    """A list or a tuple."""
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise UsageError(f"{name} is {given!r}", "give a text, or a list of them")
    return list(given)


def count(name: str, given: object) -> int:
    """A number from 1."""
    if type(given) is not int or given < 1:
        raise UsageError(f"{name} is {given!r}", "it is an int, at least 1")
    return given


def tables(name: str, given: object) -> list[str | Table]:
    """One table or the path of one, or several."""
    several = [given] if isinstance(given, str | os.PathLike | Table) else sequence(name, given)
    return [each if isinstance(each, Table) else path(name, each) for each in several]
