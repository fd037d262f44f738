"""The reference in docs/reference, made of the code: ``make reference`` writes it, a test says when it is stale."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from typer.main import get_command

import klcal
from docs.markdown import code, documented, prose, table
from docs.names import library
from klcal.cli.configuration import GENERAL, key_of, options_of
from klcal.cli.main import app
from klcal.cli.panels import ConfiguredCommand
from klcal.cli.schema import schemas
from klcal.errors import ExitCode
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import DTYPES, KINDS, Scheme
from klcal.readers.formats import READERS
from klcal.search.methods import METHODS
from klcal.writers import BINARY, REPORTS, SUFFIXES, WRITERS
from klcal.writers.forms import FORMS
from klcal.writers.runtimes import FORMATS

FOLDER = Path(__file__).parent / "reference"
COMMANDS = get_command(app).commands
OPTIONS = options_of({name: each for name, each in COMMANDS.items() if isinstance(each, ConfiguredCommand)})
GENERATED = "Made of the code by `make reference`; do not edit it.\n"


# --- pages


def commands() -> str:
    """Every command with its options."""
    listed = table(("command", "what it does"), [(f"[{n}](#klcal-{n})", _about(each)) for n, each in COMMANDS.items()])
    general = ", ".join(f"`{key}`" for key in GENERAL)
    head = f"""# Commands

{GENERATED}
{listed}
An option that may be repeated is given once for each value. Every command has `--help`, too.
A column says where an option may be [configured](../configuration.md): *top* is for a key at the top,
*table* for the table of the command. Keys at the top: {general}.

"""
    return head + "\n".join(_command(name, each) for name, each in COMMANDS.items())


def _about(command: Any) -> str:
    return (command.help or "").split("\n\n")[0].strip()


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join(["klcal", name, "[OPTIONS]", *(each.metavar for each in arguments)])
    text = f"## klcal {name}\n\n```text\n{usage}\n```\n\n{prose(command.help or '')}\n\n"
    for each in arguments:
        text += f"- `{each.metavar}`: {each.help}\n" if each.help else ""
    options = [each for each in command.params if each.param_type_name == "option"]
    rows = [(_names(each), _value(each), _default(each), _where(name, each), each.help or "") for each in options]
    text += "\n" + table(("option", "value", "default", "configured", "meaning"), rows) if rows else ""
    epilog = re.sub(r"^\x08\n|^\\b\n", "", command.epilog or "", flags=re.MULTILINE)
    return f"{text}\n```text\n{epilog.strip()}\n```\n"


def _names(option: Any) -> str:
    return ", ".join(f"`{each}`" for each in option.opts)


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    choices = getattr(option.type, "choices", None)
    value = ", ".join(f"`{each}`" for each in choices) if choices else code(option.metavar or "")
    return f"{value}, repeated" if option.multiple else value


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return code(str(option.default)) if option.default not in (None, "", False) else ""


def _where(command: str, option: Any) -> str:
    key = key_of(option)
    if key not in OPTIONS.get(command, {}):
        return ""
    from klcal.cli.configuration import CALIBRATING, RUN

    return "top" if key in RUN or (key in GENERAL and command in CALIBRATING) else "table"


def exit_codes() -> str:
    """What each code means, and which errors end in it."""
    rows = [(str(int(each)), each.name, each.meaning) for each in ExitCode]
    errors = [(each.__name__, (inspect.getdoc(each) or "").split("\n")[0]) for each in ERRORS]
    return f"""# Exit codes

{GENERATED}
{table(("code", "name", "meaning"), rows)}
Where several apply, it is the highest of 1, 4 and 5; but 3 wherever no tensor has an answer. All zeros are an answer.

The errors of the library, all of them `klcal.KlcalError`: `what` is wrong, and a `hint` what to do about it.

{table(("error", "meaning"), errors)}"""


ERRORS = (klcal.KlcalError, klcal.UsageError, klcal.InputError, klcal.OutputError)


def json_fields() -> str:
    """The fields of every JSON document."""
    text = f"# JSON\n\n{GENERATED}\nEach document has a JSON Schema, which `klcal schema NAME` prints:\n\n"
    known = schemas(OPTIONS)
    text += table(
        ("schema", "of what"), [(f"[{name}](schema/{name}.json)", each["title"]) for name, each in known.items()]
    )
    for name in ("table", "comparison", "changes", "contents", "options", "sketch"):
        text += (
            f"\n## {name}\n\n`{known[name]['title']}`\n\n"
            if name != "sketch"
            else f"\n## {name}\n\nThe metadata of a sketch file.\n\n"
        )
        text += table(("field", "type", "meaning"), list(_properties(known[name], "")))
    return text


def _properties(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, each in schema.get("properties", {}).items():
        yield f"`{prefix}{name}`", _kind(each), each.get("description", "")
        inner, mark = each, "."
        if each.get("type") == "array" and isinstance(each.get("items"), dict):
            inner, mark = each["items"], "[]."
        for one in (inner, *inner.get("anyOf", ())):
            if name not in ("was", "is"):  # a row again
                yield from _properties(one, f"{prefix}{name}{mark}")


def _kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(json.dumps(each)) for each in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    kinds = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "items" not in schema:
        return kind
    items = _kind(schema["items"])
    return kind.replace("array", f"array of ({items})" if " or " in items else f"array of {items}")


def methods() -> str:
    """The methods and their parameters."""
    written = (
        "A method is written `NAME` or `NAME:PARAMETER=VALUE,…`: `kl:weight=1`; `percentile:99.99` for its only one."
    )
    text = f"# Methods\n\n{GENERATED}\n{written}\n"
    for name, method in METHODS.items():
        text += f"\n## {name}\n\n`klcal.{method.__name__}`\n\n{documented(method)}\n"
        if rows := [
            (code(each.name), code(str(each.default)) if each.default is not MISSING else "has to be given")
            for each in fields(method)
        ]:
            text += "\n" + table(("parameter", "default"), rows)
    return text


def formats() -> str:
    """Number formats, schemes, and the files that are read and written."""
    integers = [(code(name), *_levels(name)) for name in DTYPES if name not in FLOATS]
    floats = [(code(name), f"{FLOATS[name].min():g}", f"{FLOATS[name].max():g}") for name in FLOATS]
    named = {writer: [f"`{end}`" for end, name in SUFFIXES.items() if name == writer] for writer in WRITERS}
    kinds = [*((each, "binary") for each in BINARY), *((each, "what met a rule, and what failed") for each in REPORTS)]
    written = [(code(name), ", ".join(named[name]), dict(kinds).get(name, "")) for name in WRITERS]
    return f"""# Formats

{GENERATED}
## Number formats

Schemes: {", ".join(map(code, KINDS))}. Formats of scales: {", ".join(map(code, SCALE_FORMATS))}.

{table(("dtype", "affine", "symmetric", "symmetric-full"), integers)}
{table(("dtype", "least", "greatest"), floats)}
## Files that are read

{table(("suffix",), [(code(end),) for end in READERS])}
## Files that are written

{table(("`--format`", "suffix", ""), written)}
Forms of a quantized model, `klcal apply --to`: {", ".join(map(code, FORMS))}.

Files for runtimes, `klcal export --to`: {", ".join(map(code, FORMATS))}.
"""


def _levels(dtype: str) -> tuple[str, ...]:
    found = []
    for kind in ("affine", "symmetric", "symmetric-full"):
        try:
            scheme = Scheme.parse(dtype, kind)
        except klcal.UsageError:
            found.append("")
        else:
            found.append(f"{scheme.integers[0]}..{scheme.integers[-1]}")
    return tuple(found)


def index() -> str:
    """What there is."""
    return f"""# Reference

{GENERATED}
- [Commands](commands.md) and their options
- [Exit codes](exit-codes.md) and errors
- [JSON](json.md): the fields of every document, and their schemas
- [Methods](methods.md)
- [Formats](formats.md) of numbers and files
- [The library](library.md)
"""


PAGES = {
    "index.md": index,
    "commands.md": commands,
    "exit-codes.md": exit_codes,
    "json.md": json_fields,
    "methods.md": methods,
    "formats.md": formats,
    "library.md": lambda: library(GENERATED),
}


def reference() -> dict[str, str]:
    """The text of each file in docs/reference, by its path there."""
    found = {f"schema/{name}.json": json.dumps(each, indent=2) + "\n" for name, each in schemas(OPTIONS).items()}
    return {**{name: re.sub(r"\n{3,}", "\n\n", page()) for name, page in PAGES.items()}, **found}


def main() -> None:
    """Write it."""
    for name, text in reference().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
