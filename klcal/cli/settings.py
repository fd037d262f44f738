"""The values of options that were not typed: from the environment, else from the configuration file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from klcal.cli.configuration import VARIABLE, File
from klcal.cli.keys import BY_NAME, CALIBRATING, GENERAL, RUN, TEXTS, Options, Shape, shape_of, wanted
from klcal.errors import UsageError

__all__ = ["Setting", "misspelt", "settings_of"]

PLACES = ("paths", "baseline", "importance")  # values that are relative to the file
CONTRADICTED = {"apply": ("table", ("nonfinite", "device", "importance", "range", *BY_NAME))}
"""Options of a command that an option which is typed leaves nothing to say."""

SEPARATOR = ";"  # of several values in a variable, as ``config`` of a table has them
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
ALIKE = 0.75  # similarity, 0 to 1, of a variable to one of klcal's from which it is reported as misspelt


class Setting(NamedTuple):
    """The value of an option, as if it was typed, and where it is from."""

    value: Any
    place: str


def settings_of(
    command: str, options: Options, file: File, environ: Mapping[str, str], typed: Sequence[str] = ()
) -> dict[str, Setting]:
    """The options of a command with values from the file or the environment, by their keys.

    Args:
        command: its name.
        options: of all commands.
        file: the configuration.
        environ: the environment, which has precedence.
        typed: keys of the options on the command line. These win, and options that contradict them are left out.

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
    """The variables that set an option, the one with precedence first."""
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
    if right := wanted(value, shape):
        raise UsageError(f"{name} is {text!r} in the environment", f"it is {right}, or unset")
    return value


def _from_folder(key: str, value: Any, folder: str) -> Any:
    """The value of a key, a path as seen from the working directory."""
    if key not in PLACES or not folder:
        return value
    if isinstance(value, list):
        return [_from_folder(key, each, folder) for each in value]
    from klcal.readers.addresses import is_remote

    if is_remote(value):
        return value
    return os.path.normpath(os.path.join(folder, value))  # noqa: PTH118 - a text, as it would be typed


def misspelt(environ: Mapping[str, str], options: Options) -> list[tuple[str, str]]:
    """Variables that look like misspelt ones of klcal, each with the name that is probably meant."""
    names = {name for command, table in options.items() for key in table for name in _variables(command, key)}
    known = sorted({*names, VARIABLE, "KLCAL_KERNEL", "KLCAL_DEBUG"})
    first = reversed([(key, command) for command, table in options.items() for key in table])
    of_commands = {key.replace("-", "_").upper(): command for key, command in first}
    found = []
    for name in sorted(environ):
        if name.startswith("KLCAL_") and name not in known:
            if name[6:] in of_commands:  # an option that is set command by command
                found.append((name, f"KLCAL_{of_commands[name[6:]].upper()}_{name[6:]}"))
                continue
            near = difflib.get_close_matches(name[6:], [each[6:] for each in known], n=1, cutoff=ALIKE)
            found += [(name, f"KLCAL_{near[0]}")] if near else []
    return found
