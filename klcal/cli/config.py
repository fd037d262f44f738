"""`klcal config`: the options in force, and where each of them comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TextIO

import typer

from klcal.cli.configuration import File
from klcal.cli.keys import Options
from klcal.cli.panels import configurable, file_of
from klcal.cli.settings import settings_of
from klcal.tables.schema import OPTIONS

__all__ = ["EXAMPLES", "Held", "config", "document", "held"]

EXAMPLES = """\
\b
Examples:
  What holds here, for all commands:
    klcal config
  For one of them, to another program:
    klcal config check --format json

\b
Files: the nearest klcal.toml, or pyproject.toml with a table [tool.klcal], from the working directory upwards to the
root of its repository; or that of --config or KLCAL_CONFIG (KLCAL_CONFIG=/dev/null reads none). klcal schema
configuration says what may be in it.
Environment: KLCAL_OPTION, as KLCAL_JOBS, or KLCAL_COMMAND_OPTION, as KLCAL_CHECK_FAIL_ON, with several values parted by
semicolons. It wins over the file, and what is typed wins over both.

\b
Exit codes:
  0  done
  2  wrong usage, or a configuration that cannot be read
"""

DEFAULT = "default"  # of an option that nobody configured
HEADINGS = ("option", "value", "from", "commands")

CommandArgument = Annotated[
    str | None, typer.Argument(metavar="[COMMAND]", show_default=False, help="Of this command alone.")
]
FormatOption = Annotated[
    Literal["auto", "table", "plain", "json"],
    typer.Option("--format", help="auto is a table on a terminal and plain (tab-separated) elsewhere."),
]


class Held(NamedTuple):
    """An option that has one value in some commands."""

    option: str
    value: Any  # None where nobody said it
    words: str  # the value for people, or the default in words
    place: str
    commands: tuple[str, ...]


def config(ctx: typer.Context, command: CommandArgument = None, format_: FormatOption = "auto") -> None:
    """Show the values of options that you do not give.

    A row for each option: its value, where that is from (a file, a variable
    of the environment, or the default), and for which commands.
    """
    import sys

    from klcal.cli.output import destination
    from klcal.errors import UsageError

    options = configurable(ctx)
    if command is not None and command not in options:
        raise UsageError(f"there is no command {command!r}", f"use one of {', '.join(options)}")
    found = held(options if command is None else {command: options[command]}, file_of(ctx), os.environ)
    with destination(None, ()) as deliver:
        name = format_ if format_ != "auto" else "table" if sys.stdout.isatty() else "plain"
        deliver(partial(WRITERS[name], found, file_of(ctx)), True)


def held(options: Options, file: File, environ: Mapping[str, str]) -> list[Held]:
    """The options of some commands, those that hold alike in several as one."""
    found: dict[tuple[str, str, str], Held] = {}
    for command, params in options.items():
        settings = settings_of(command, options, file, environ)
        for key, param in params.items():
            if key in settings:
                value, place = settings[key]
                words = "; ".join(value) if isinstance(value, list) else _word(value)
            else:
                value, place = param.default, DEFAULT
                words = _word(value) if value is not None else _usual(param)
            same = found.get((key, words, place))
            found[key, words, place] = Held(key, value, words, place, (*(same.commands if same else ()), command))
    order = list(dict.fromkeys(each.option for each in found.values()))
    return sorted(found.values(), key=lambda each: order.index(each.option))


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _usual(param: Any) -> str:
    return param.show_default if isinstance(param.show_default, str) else ""


# --- to text


def document(found: list[Held], file: File) -> dict[str, Any]:
    """The JSON, as plain values."""
    options = [
        {"option": each.option, "value": each.value, "from": each.place, "commands": list(each.commands)}
        for each in found
    ]
    return {"schema": OPTIONS, "file": file.name or None, "options": options}


def _json(found: list[Held], file: File, out: TextIO) -> None:
    from klcal.writers.records import dump

    of_all = document(found, file)
    rows = ",\n  ".join(map(dump, of_all["options"]))
    out.write(f'{{"schema": {dump(OPTIONS)},\n "file": {dump(of_all["file"])},\n "options": [\n  {rows}\n ]\n}}\n')


def _cells(found: list[Held]) -> Iterator[list[str]]:
    from klcal.writers.text import escape

    yield list(HEADINGS)
    for each in found:
        yield [escape(text) for text in (each.option, each.words, each.place, ", ".join(each.commands))]


def _plain(found: list[Held], _: File, out: TextIO) -> None:
    out.writelines("\t".join(cells) + "\n" for cells in _cells(found))


WIDTH = 40  # of a cell for people; the other formats cut nothing


def _table(found: list[Held], _: File, out: TextIO) -> None:
    from klcal.writers.text import shorten

    rows = [[shorten(text, WIDTH) for text in row[:-1]] + row[-1:] for row in _cells(found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADINGS) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        out.write("  ".join([*cells, row[-1]]).rstrip() + "\n")


WRITERS = {"json": _json, "plain": _plain, "table": _table}
