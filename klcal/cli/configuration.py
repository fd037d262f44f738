"""The configuration file: where it is looked for, its contents, and its errors.

A key is the name of an option without its dashes. Keys at the top of the file are for all commands: how tensors are
calibrated, and how a run works. A table with the name of a command is for that command alone, and ``tensors`` has a
table for each glob of names. The keys become values of options, as if they had been typed, so the commands do not know
this module. Inputs and outputs of a run cannot be configured.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klcal.cli.keys import (
    GENERAL,
    OF_ONE_RUN,
    OF_TENSORS,
    SHORT_FOR_METHOD,
    TENSORS,
    Options,
    Shape,
    general_of,
    shape_of,
    wanted,
)
from klcal.errors import UsageError

__all__ = ["FILES", "NO_FILE", "VARIABLE", "File", "find_file", "read_file"]

FILES = ("klcal.toml", "pyproject.toml")  # in one directory the first alone is read
VARIABLE = "KLCAL_CONFIG"  # names the file
TABLE = ("tool", "klcal")  # of a pyproject.toml
ROOT = ".git"  # is in the topmost directory in which a file is looked for
MAX_BYTES = 1 << 20  # of a file: people write some kilobytes


@dataclass(frozen=True)
class File:
    """A configuration file: its values, checked."""

    name: str  # as messages call it; empty where there is no file
    folder: str = ""  # in front of its paths: empty where it lies in the working directory
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def general(self) -> dict[str, Any]:
        """The options for all commands. Rules by name come before the value for all others."""
        found = {key: value for key, value in self.values.items() if key in GENERAL}
        for key, rules in _rules(self.values.get(TENSORS, {}), found.get("method")).items():
            rest = found.get(key, [])
            found[key] = [*rules, *([rest] if isinstance(rest, str) else rest)]
        return found


NO_FILE = File("")


# --- the file


def find_file(start: Path, options: Options) -> File:
    """The nearest file with a configuration, from a directory upwards to the root of its repository.

    Outside a repository, that of the directory itself alone: whatever lies in a parent is of somebody else.

    Raises:
        UsageError: a file cannot be read, or is no configuration.
    """
    folders = [start, *start.parents]
    top = next((number for number, folder in enumerate(folders) if os.path.lexists(folder / ROOT)), 0)
    for folder in folders[: top + 1]:
        for name in FILES:
            path = folder / name
            if os.path.isfile(path) and (found := read_file(path, options, named=False)) is not None:  # noqa: PTH113
                return found  # one that may not be read counts as absent
    return NO_FILE


def read_file(path: Path, options: Options, *, named: bool = True) -> File | None:
    """The configuration in a file; None where it is a pyproject.toml that has none and that nobody named.

    Raises:
        UsageError: it cannot be read, or is no configuration.
    """
    shown = os.path.relpath(path) if path.is_absolute() else str(path)
    in_table = path.name == FILES[1]
    text = _text(path, shown)
    if in_table and not named and TABLE[1] not in text:
        return None
    values: Any = _toml(text, shown)
    for key in TABLE if in_table else ():
        values = values.get(key) if isinstance(values, dict) else None
    if values is None:
        if named:
            raise UsageError(f"{shown} has no table [{'.'.join(TABLE)}]", "add one, or name another file")
        return None
    _check(shown, values, options)
    folder = os.path.relpath(path.parent)
    return File(shown, "" if folder == os.curdir else folder, values)


def _text(path: Path, shown: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{shown} is no configuration: it has more than {MAX_BYTES:,} bytes", "name another file")
        return data.decode()
    except OSError as error:
        what = os.strerror(error.errno).lower() if error.errno else "it failed"
        raise UsageError(f"cannot read the configuration {shown}: {what}", "name another file with --config") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{shown} is not in UTF-8", "save it so") from error


def _toml(text: str, shown: str) -> dict[str, Any]:
    import tomllib  # where there is a file

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"at line ([0-9]+)", str(error))
        place = f", line {line[1]}" if line else ""
        raise UsageError(f"{shown}{place}: this is no TOML", "mend it there") from error


def _check(shown: str, values: object, options: Options) -> None:
    """Raises UsageError for an unknown key, and for a value of a wrong type."""
    if not isinstance(values, dict):
        raise UsageError(f"{shown}: {'.'.join(TABLE)} is no table", "write [tool.klcal]")
    general = general_of(options)
    for key, value in values.items():
        if key == TENSORS:
            for glob, table in _tables(shown, key, value).items():
                _check_table(shown, (key, glob), table, OF_TENSORS)
        elif key in options:
            _check_table(shown, (key,), value, {name: shape_of(each) for name, each in options[key].items()})
        elif key in general:
            _check_value(shown, (key,), value, shape_of(general[key]))
        else:
            _refuse(shown, (), key, (*general, TENSORS, *options), options)


def _tables(shown: str, key: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{shown}: {key} is no table", f"write [{key}.'GLOB']")
    return value


def _check_table(shown: str, place: tuple[str, ...], table: object, shapes: Mapping[str, Shape]) -> None:
    if not isinstance(table, dict):
        raise UsageError(f"{shown}: {_dotted(place)} is no table", f"write [{_dotted(place)}]")
    for key, value in table.items():
        if key not in shapes:
            _refuse(shown, place, key, tuple(shapes), {})
        _check_value(shown, (*place, key), value, shapes[key])


def _check_value(shown: str, place: tuple[str, ...], value: object, shape: Shape) -> None:
    if right := wanted(value, shape):
        raise UsageError(f"{shown}: {_dotted(place)} is {_short(value)}", f"it is {right}")


def _refuse(shown: str, place: tuple[str, ...], key: str, known: Sequence[str], options: Options) -> None:
    """Raises UsageError for a key that is not there, with where it should be, or the nearest."""
    what = f"{shown}: unknown key {_dotted((*place, key))}"
    if key in OF_ONE_RUN:
        raise UsageError(what, f"--{key} is of one run, and not configured")
    if key in SHORT_FOR_METHOD:
        raise UsageError(what, "write it with the method, 'kl:bins=4096'")
    if homes := [name for name, table in options.items() if key in table]:
        raise UsageError(what, f"write it in the table [{homes[0]}], of the command that it is for")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise UsageError(what, f"did you mean {near[0]}? klcal schema configuration has all keys")


def _dotted(place: Sequence[str]) -> str:
    """A key as TOML has it.

    >>> _dotted(["tensors", "*.weight", "dtype"])
    "tensors.'*.weight'.dtype"
    """
    return ".".join(key if re.fullmatch(r"[\w-]+", key) else f"'{key}'" for key in place)


def _short(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _rules(tensors: Mapping[str, Mapping[str, Any]], method: object) -> dict[str, list[str]]:
    """The tables ``[tensors.'GLOB']``, as values of options.

    >>> _rules({"*embed*": {"dtype": "int8", "weight": 1}, "*.bias": {"skip": True}}, None)
    {'dtype': ['*embed*=int8'], 'method': ['*embed*=kl:weight=1'], 'exclude': ['*.bias']}
    """
    found: dict[str, list[str]] = {}
    for glob, table in tensors.items():
        said = dict(table)
        if (weight := said.pop("weight", None)) is not None:
            said["method"] = _weighted(said.get("method") or _for_all(method), weight)
        for key, value in said.items():
            if key == "skip":
                found.setdefault("exclude", []).append(glob)
            else:
                found.setdefault(key, []).append(f"{glob}={value}")
    return found


def _for_all(methods: Any) -> str:
    """The method of tensors that no rule by name is for."""
    several = [methods] if isinstance(methods, str) else methods or []
    return next((each for each in several if "=" not in each.partition(":")[0]), "kl")


def _weighted(method: str, weight: float) -> str:
    """A method with another weight.

    >>> _weighted("kl", 1), _weighted("kl:weight=4,bins=512", 0.5)
    ('kl:weight=1', 'kl:bins=512,weight=0.5')
    """
    name, _, parameters = method.partition(":")
    kept = [each for each in parameters.split(",") if each and not each.startswith("weight=")]
    return f"{name}:{','.join([*kept, f'weight={weight:g}'])}"
