"""What holds where the command line says nothing: a configuration file, and the environment over it.

A key is the name of an option without its dashes. Keys at the top of the file say how tensors are calibrated, for the
commands that do it, and what a run takes, for all commands. A table named like a command is for that command alone, and
``tensors`` has a table for each glob of names. All of it becomes values of options, as if they had been typed, so the
commands know nothing of this module. What one run reads or writes is never configured.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from klcal.errors import UsageError

__all__ = [
    "BY_NAME",
    "CALIBRATING",
    "FILES",
    "GENERAL",
    "NO_FILE",
    "OF_TENSORS",
    "VARIABLE",
    "File",
    "Options",
    "Setting",
    "find_file",
    "json_schema",
    "key_of",
    "misspelt",
    "options_of",
    "read_file",
    "settings_of",
    "shape_of",
]

FILES = ("klcal.toml", "pyproject.toml")  # in one directory the first alone is read
VARIABLE = "KLCAL_CONFIG"  # names the file
TABLE = ("tool", "klcal")  # of a pyproject.toml
ROOT = ".git"  # is in the topmost directory in which a file is looked for
MAX_BYTES = 1 << 20  # of a file: people write some kilobytes

BY_NAME = ("method", "dtype", "scheme", "scale-format", "per")  # options that take GLOB=VALUE
CALIBRATING = ("calibrate", "check", "apply", "sketch")  # what these do to tensors is one decision
CHOICE = ("include", "exclude", "dequantize", "pool", "nonfinite", *BY_NAME, "importance", "range")
RUN = ("device", "jobs", "quiet", "verbose")  # which change no answer
GENERAL = (*CHOICE, *RUN)
OF_ONE_RUN = (
    *("output", "update", "resume", "allow-duplicates", "table", "activations", "model", "names", "weights"),
    *("config", "no-config", "help"),
)
SHORT_FOR_METHOD = ("bins",)  # in the file, a method says them itself
PLACES = ("paths", "baseline", "importance")  # values that are relative to the file
ARGUMENTS = ("paths",)  # that a command's table may have
CONTRADICTED = {"apply": ("table", ("nonfinite", "device", "importance", "range", *BY_NAME))}
"""Options of a command that an option which is typed leaves nothing to say."""

TENSORS = "tensors"
SEPARATOR = ";"  # of several values in a variable, as ``config`` of a table has them
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
ALIKE = 0.75  # of two names, of 1: a variable is told to be misspelt where one of ours is so near

Shape: TypeAlias = Mapping[str, Any]
"""What a value may be, as JSON Schema says it."""
TEXT: Shape = {"type": "string"}
TEXTS: Shape = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
OF_TENSORS: Mapping[str, Shape] = {
    **dict.fromkeys(BY_NAME, TEXT),
    "weight": {"type": "number", "exclusiveMinimum": 0},
    "skip": {"const": True},
}


class Setting(NamedTuple):
    """The value of an option, as if it was typed, and where it is from."""

    value: Any
    place: str


@dataclass(frozen=True)
class File:
    """A configuration file: its values, checked."""

    name: str  # as messages call it; empty where there is no file
    folder: str = ""  # in front of its paths: empty where it lies in the working directory
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def general(self) -> dict[str, Any]:
        """What the file says of all commands: rules by name are before what holds for all."""
        found = {key: value for key, value in self.values.items() if key in GENERAL}
        for key, rules in _rules(self.values.get(TENSORS, {}), found.get("method")).items():
            rest = found.get(key, [])
            found[key] = [*rules, *([rest] if isinstance(rest, str) else rest)]
        return found


NO_FILE = File("")


# --- which options there are


Options: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The parameters of each command that may be configured, by their keys."""


def options_of(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What may be configured of some commands."""
    found = {}
    for name, command in commands.items():
        keyed = {key_of(each): each for each in command.params}
        never = {*OF_ONE_RUN, *(SHORT_FOR_METHOD if name in CALIBRATING else ())}
        found[name] = {key: each for key, each in keyed.items() if key and key not in never}
    return {name: options for name, options in found.items() if options}


def key_of(param: Any) -> str:
    """What a parameter is called in the file; nothing for one that is never there."""
    if param.param_type_name == "option":
        return str(max(param.opts, key=len)).lstrip("-")
    return param.name if param.name in ARGUMENTS else ""


def shape_of(param: Any) -> Shape:
    """What the value of an option may be."""
    if getattr(param, "is_flag", False):
        return {"type": "boolean"}
    if (choices := getattr(param.type, "choices", None)) is not None:
        return {"enum": list(choices)}
    if (least := getattr(param.type, "min", None)) is not None:
        return {"type": "integer", "minimum": least}
    return TEXTS if param.nargs == -1 or getattr(param, "multiple", False) else TEXT


def _wanted(value: Any, shape: Shape) -> str:
    """What should be there in place of a value; nothing where it is right."""
    match shape:
        case {"type": "boolean"}:
            return "" if isinstance(value, bool) else "true or false"
        case {"type": "integer", "minimum": least}:
            return "" if type(value) is int and value >= least else f"a whole number from {least}"
        case {"type": "number"}:
            return "" if type(value) in (int, float) and 0 < value < float("inf") else "a number above 0"
        case {"enum": choices}:
            return "" if value in choices else f"one of {', '.join(choices)}"
        case {"const": True}:
            return "" if value is True else "true, or not there"
        case {"anyOf": _}:
            texts = [value] if isinstance(value, str) else value
            right = isinstance(texts, list) and all(isinstance(each, str) for each in texts)
            return "" if right else "a text, or a list of texts"
    return "" if isinstance(value, str) else "a text"


def json_schema(options: Options) -> dict[str, Any]:
    """The JSON Schema of the file: of klcal.toml, or of the table [tool.klcal] in pyproject.toml."""

    def table(properties: Mapping[str, Shape]) -> dict[str, Any]:
        return {"type": "object", "properties": dict(properties), "additionalProperties": False}

    general = {key: _described(param) for key, param in _general(options).items()}
    commands = {
        name: table({key: _described(param) for key, param in params.items()}) for name, params in options.items()
    }
    tensors = {"type": "object", "additionalProperties": table(OF_TENSORS)}
    return table({**general, TENSORS: tensors, **commands})


def _described(param: Any) -> Shape:
    return {"description": " ".join((getattr(param, "help", None) or "").split()), **shape_of(param)}


def _general(options: Options) -> dict[str, Any]:
    """The parameters that the top of the file may have."""
    known = {key: each for table in options.values() for key, each in table.items()}
    return {key: known[key] for key in GENERAL if key in known}


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
                return found  # one that may not be looked at is none
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
    """Raises UsageError for a key that is unknown and a value that is none."""
    if not isinstance(values, dict):
        raise UsageError(f"{shown}: {'.'.join(TABLE)} is no table", "write [tool.klcal]")
    general = _general(options)
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
    if wanted := _wanted(value, shape):
        raise UsageError(f"{shown}: {_dotted(place)} is {_short(value)}", f"it is {wanted}")


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
    """What is said of tensors by their names, as values of options.

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


# --- what holds for a command


def settings_of(
    command: str, options: Options, file: File, environ: Mapping[str, str], typed: Sequence[str] = ()
) -> dict[str, Setting]:
    """The options of a command that the file or the environment gives a value, by their keys.

    Args:
        command: its name.
        options: of all commands.
        file: the configuration.
        environ: the environment, which has precedence.
        typed: keys of what the command line says: its values win, and what they contradict is left out.

    Raises:
        UsageError: a variable has no value of its option.
    """
    known = options.get(command, {})
    found = {key: Setting(value, file.name) for key, value in file.general.items() if key in known}
    found = {key: each for key, each in found.items() if _holds(key, command)}
    found |= {key: Setting(value, file.name) for key, value in file.values.get(command, {}).items()}
    found = {key: each._replace(value=_from_folder(key, each.value, file.folder)) for key, each in found.items()}
    for key, param in known.items():
        for name in _variables(command, key):
            if text := environ.get(name):
                found[key] = Setting(_parsed(name, text, shape_of(param)), name)
                break
    option, silenced = CONTRADICTED.get(command, ("", ()))
    gone = {*typed, *(silenced if option in typed else ())}
    shapes = {key: shape_of(known[key]) for key in found}
    several = {key for key, shape in shapes.items() if shape == TEXTS}
    return {
        key: each._replace(value=[each.value]) if key in several and isinstance(each.value, str) else each
        for key, each in found.items()
        if key not in gone
    }


def _holds(key: str, command: str) -> bool:
    """Whether a key at the top of the file is for a command."""
    return key in RUN or command in CALIBRATING


def _variables(command: str, key: str) -> Iterator[str]:
    """What sets an option, the nearer one first."""
    yield f"KLCAL_{command}_{key}".replace("-", "_").upper()
    if key in GENERAL and _holds(key, command):
        yield f"KLCAL_{key}".replace("-", "_").upper()


def _parsed(name: str, text: str, shape: Shape) -> object:
    """The value of a variable."""
    value: object = text
    if shape.get("type") == "boolean":
        value = True if text.lower() in YES else False if text.lower() in NO else text
    elif shape.get("type") == "integer":
        value = int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else text
    elif shape == TEXTS:
        value = [each for part in text.split(SEPARATOR) if (each := part.strip())]
    if wanted := _wanted(value, shape):
        raise UsageError(f"{name} is {text!r} in the environment", f"it is {wanted}, or unset")
    return value


def _from_folder(key: str, value: Any, folder: str) -> Any:
    """The value of a key, a path as seen from the working directory."""
    if key not in PLACES or not folder:
        return value
    if isinstance(value, list):
        return [_from_folder(key, each, folder) for each in value]
    return os.path.normpath(os.path.join(folder, value))  # noqa: PTH118 - a text, as it would be typed


def misspelt(environ: Mapping[str, str], options: Options) -> list[tuple[str, str]]:
    """Variables that look like ours and are none, and which is meant."""
    names = {name for command, table in options.items() for key in table for name in _variables(command, key)}
    known = sorted({*names, VARIABLE, "KLCAL_KERNEL", "KLCAL_DEBUG"})
    found = []
    for name in sorted(environ):
        if name.startswith("KLCAL_") and name not in known:
            near = difflib.get_close_matches(name[6:], [each[6:] for each in known], n=1, cutoff=ALIKE)
            found += [(name, f"KLCAL_{near[0]}")] if near else []
    return found
