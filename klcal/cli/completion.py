"""Completion in a shell: the values of options, and the names of the tensors in the files that were typed.

Completion must neither fail nor print messages: if it does not work, nothing is offered. A name is offered as the glob
that matches it. A question mark stands for every character that a shell or a glob would interpret, so no name in a file
can make a shell run anything.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from klcal.tables.schema import CHANGE_FIELDS, DIFFERENCE_FIELDS, NUMERIC_FIELDS

__all__ = ["offer", "shortened"]

Completer: TypeAlias = Callable[[Any], Iterable[str]]
"""The candidates for the current word, by the command line so far."""

ACTING = re.compile(r"[^\w./@+-]", re.ASCII)  # characters that a shell, a glob, or bash's word breaks interpret
WILD = set("*?[")  # of a pattern that a shell has yet to expand
SECONDS = 1.0  # to read headers: who presses a key waits
NAMES = 2000  # a shell lists this number at once
HELP = 70  # characters of the help text beside an offer
ARGUMENTS = ("paths", "p", "q", "model", "tables", "file")  # that name files


class Offered(NamedTuple):
    """A word that may stand here, as typer has it."""

    value: str
    help: str | None = None
    type: str = "plain"


def offer(command: str, params: Iterable[Any], key_of: Callable[[Any], str]) -> None:
    """Gives each parameter of a command its completion."""
    for param in params:
        key = key_of(param) or param.name
        completer = OF_COMMANDS.get((command, key)) or OF_OPTIONS.get(key)
        if completer is not None:
            param.shell_complete = partial(_offered, completer, key)


def _offered(completer: Completer, key: str, ctx: Any, incomplete: str) -> list[Any]:
    try:
        found = dict.fromkeys(completer(ctx))
        words = [glob for name in found for glob in _globs(name, incomplete)] if key in BY_NAME else list(found)
    except Exception:  # not a tensor file, or one that is being written
        return []
    return [Offered(each) for each in dict.fromkeys(words) if each.startswith(incomplete)]


def shortened(text: str | None) -> str | None:
    """The first sentence of a help text, or as much of it as there is room for."""
    first = (text or "").partition(". ")[0].rstrip(".")
    return first if len(first) <= HELP else f"{first[: HELP - 1]}…"


# --- values


def _methods(_: Any) -> Iterable[str]:
    from klcal.search.methods import METHODS

    return METHODS


def _dtypes(_: Any) -> Iterable[str]:
    from klcal.quantizers.scheme import DTYPES

    return DTYPES


def _schemes(_: Any) -> Iterable[str]:
    from klcal.quantizers.scheme import KINDS

    return ("auto", *KINDS)


def _scale_formats(_: Any) -> Iterable[str]:
    from klcal.quantizers.scale_formats import SCALE_FORMATS

    return SCALE_FORMATS


def _rules(_: Any) -> Iterable[str]:
    from klcal.pipeline.rules import RULE_WORDS

    return (*RULE_WORDS, *(f"d.{field}" for field in CHANGE_FIELDS), *NUMERIC_FIELDS)


def _these(*values: str) -> Completer:
    return lambda _: values


UNITS = ("tensor", "channel", "channel:0", "channel:1", "group:32", "group:64", "group:128", "block:128,128")

# --- names


def _tensors(ctx: Any) -> Iterable[str]:
    """The names of the tensors in the files on the command line, from headers alone."""
    return _within(_names(_typed(ctx)))


def _rows(ctx: Any) -> Iterable[str]:
    """The names in the tables on the command line."""
    from klcal.pipeline.scales import read_any

    return _within(row.name for path in _typed(ctx) for row in read_any(path).rows)


def _names(paths: Iterable[str]) -> Iterator[str]:
    from klcal.pipeline.selection import described_tensors
    from klcal.readers import find

    for path in paths:
        for each in described_tensors(find([path]).sources, []):
            yield from (each.description.name, *each.description.aliases)


def _within(names: Iterator[str]) -> Iterator[str]:
    """The names that can be read in the given time."""
    end = time.monotonic() + SECONDS
    for number, name in enumerate(names):
        if number == NAMES or time.monotonic() > end:
            return
        yield name


def _typed(ctx: Any) -> Iterator[str]:
    """Files and directories that are there; never standard input, a pipe or a device, which reading would use up."""
    given = [ctx.params.get(name) for name in ARGUMENTS]
    paths = [path for each in given if each for path in ([each] if isinstance(each, str) else each)]
    for path in map(os.path.expanduser, [*paths, *ctx.args]):  # the shell has not expanded the tilde yet
        if WILD & set(path) or os.path.isfile(path) or os.path.isdir(path):  # noqa: PTH112, PTH113 - they never raise
            yield path


def _globs(name: str, incomplete: str) -> Iterator[str]:
    """Globs for a tensor, and for its module, one level further than the typed text.

    >>> list(_globs("enc.0.attn q.weight", "enc.0."))
    ['enc.0.attn?q.weight', 'enc.0.attn?q.*']
    """
    safe = ACTING.sub("?", name)
    yield safe
    if safe.startswith(incomplete):
        head, dot, _ = safe[len(incomplete) :].partition(".")
        if dot:
            yield f"{incomplete}{head}.*"


BY_NAME = ("include", "exclude")
OF_OPTIONS: dict[str, Completer] = {
    "method": _methods,
    "dtype": _dtypes,
    "scheme": _schemes,
    "scale-format": _scale_formats,
    "per": _these(*UNITS),
    "pool": _these("dir", "stem", "name"),
    "device": _these("auto", "cpu", "cuda", "cuda:all"),
    "sort": _these(*NUMERIC_FIELDS),
    "fail-on": _these(*NUMERIC_FIELDS),
    **dict.fromkeys(BY_NAME, _tensors),
}
OF_COMMANDS: dict[tuple[str, str], Completer] = {
    ("compare", "sort"): _these(*DIFFERENCE_FIELDS),
    ("compare", "fail-on"): _these(*DIFFERENCE_FIELDS),
    ("check", "fail-on"): _rules,
    ("diff", "fail-on"): _rules,
    ("explain", "tensor"): lambda ctx: (name for name in _tensors(ctx) if not ACTING.search(name)),
    **{("export", key): _rows for key in BY_NAME},
}
