"""Checks of the arguments of the library's functions. A wrong argument raises a ``UsageError`` that names it.

In every function, ``name`` is the name of the argument, for the message, and ``given`` is its value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from klcal.errors import UsageError
from klcal.tables.table import Table

__all__ = ["Path", "count", "globs", "path", "paths", "sequence", "tables", "text"]

Path: TypeAlias = str | os.PathLike[str]


def path(name: str, given: object) -> str:
    """A path, as text: a str or a pathlib.Path."""
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{name} is {given!r}", "give the path of a file, a text or a pathlib.Path")
    found = os.fspath(given)
    return found if isinstance(found, str) else os.fsdecode(found)


def paths(name: str, given: object) -> list[str]:
    """A list of paths, from one path or a sequence of them."""
    several = [given] if isinstance(given, str | os.PathLike) else sequence(name, given)
    return [path(name, each) for each in several]


def text(name: str, given: object) -> str:
    """A str."""
    if not isinstance(given, str):
        raise UsageError(f"{name} is {given!r}", "give a text")
    return given


def globs(name: str, given: object) -> list[str]:
    """A list of texts, from one text or a sequence of them."""
    several = [given] if isinstance(given, str) else sequence(name, given)
    return [text(name, each) for each in several]


def sequence(name: str, given: object) -> list[object]:
    """The items of a list or a tuple."""
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise UsageError(f"{name} is {given!r}", "give a text, or a list of them")
    return list(given)


def count(name: str, given: object) -> int:
    """An int of at least 1."""
    if type(given) is not int or given < 1:
        raise UsageError(f"{name} is {given!r}", "it is an int, at least 1")
    return given


def tables(name: str, given: object) -> list[str | Table]:
    """A list of tables or paths of tables, from one of these or a sequence of them."""
    several = [given] if isinstance(given, str | os.PathLike | Table) else sequence(name, given)
    return [each if isinstance(each, Table) else path(name, each) for each in several]
