"""The keys of the configuration file and their allowed values, also as a JSON Schema.

A key is the name of an option without its dashes. Inputs and outputs of a run cannot be configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = [
    "BY_NAME",
    "CALIBRATING",
    "GENERAL",
    "OF_ONE_RUN",
    "OF_TENSORS",
    "RUN",
    "SHORT_FOR_METHOD",
    "TENSORS",
    "TEXTS",
    "Options",
    "Shape",
    "general_of",
    "json_schema",
    "key_of",
    "options_of",
    "shape_of",
    "wanted",
]

BY_NAME = ("method", "dtype", "scheme", "scale-format", "per")  # options that take GLOB=VALUE
CALIBRATING = ("calibrate", "check", "apply", "sketch", "explain", "report")  # these share the settings of calibration
CHOICE = ("include", "exclude", "dequantize", "pool", "nonfinite", *BY_NAME, "importance", "range")
RUN = ("device", "jobs", "quiet", "verbose")  # which change no answer
GENERAL = (*CHOICE, *RUN)
OF_ONE_RUN = (
    *("output", "update", "resume", "allow-duplicates", "table", "activations", "model", "names", "weights"),
    *("config", "no-config", "help"),
)
SHORT_FOR_METHOD = ("bins",)  # in the file, a method says them itself
ARGUMENTS = ("paths",)  # that a command's table may have
TENSORS = "tensors"
Shape: TypeAlias = Mapping[str, Any]
"""The JSON Schema of a value."""
TEXT: Shape = {"type": "string"}
TEXTS: Shape = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
OF_TENSORS: Mapping[str, Shape] = {
    **dict.fromkeys(BY_NAME, TEXT),
    "weight": {"type": "number", "exclusiveMinimum": 0},
    "skip": {"const": True},
}


Options: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The parameters of each command that may be configured, by their keys."""


def options_of(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of commands that may be configured."""
    found = {}
    for name, command in commands.items():
        keyed = {key_of(each): each for each in command.params}
        never = {*OF_ONE_RUN, *(SHORT_FOR_METHOD if name in CALIBRATING else ())}
        found[name] = {key: each for key, each in keyed.items() if key and key not in never}
    return {name: options for name, options in found.items() if options}


def key_of(param: Any) -> str:
    """The key of a parameter in the file; empty for one that cannot be configured."""
    if param.param_type_name == "option":
        return str(max(param.opts, key=len)).lstrip("-")
    return param.name if param.name in ARGUMENTS else ""


def shape_of(param: Any) -> Shape:
    """The allowed values of an option."""
    if getattr(param, "is_flag", False):
        return {"type": "boolean"}
    if (choices := getattr(param.type, "choices", None)) is not None:
        return {"enum": list(choices)}
    if (least := getattr(param.type, "min", None)) is not None:
        return {"type": "integer", "minimum": least}
    return TEXTS if param.nargs == -1 or getattr(param, "multiple", False) else TEXT


def wanted(value: Any, shape: Shape) -> str:
    """The allowed values, in words, if a value is wrong; else an empty text."""
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

    general = {key: _described(param) for key, param in general_of(options).items()}
    commands = {
        name: table({key: _described(param) for key, param in params.items()}) for name, params in options.items()
    }
    tensors = {"type": "object", "additionalProperties": table(OF_TENSORS)}
    return table({**general, TENSORS: tensors, **commands})


def _described(param: Any) -> Shape:
    return {"description": " ".join((getattr(param, "help", None) or "").split()), **shape_of(param)}


def general_of(options: Options) -> dict[str, Any]:
    """The parameters that the top of the file may have."""
    known = {key: each for table in options.values() for key, each in table.items()}
    return {key: known[key] for key in GENERAL if key in known}
