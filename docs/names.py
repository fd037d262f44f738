"""The reference of the library: its public names, what they take, and what they raise."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from typing import Any

import klcal
from docs.markdown import code, documented, first_sentence, table
from klcal import divergence
from klcal.tables.meanings import MEANINGS, meaning

__all__ = ["library"]


def library(made: str) -> str:
    """The page of all public names; ``made`` says how it came about."""
    names = [name for name in klcal.__all__ if not _is_error(getattr(klcal, name))]
    listed = [(f"[{name}](#{name.lower()})", first_sentence(getattr(klcal, name))) for name in names]
    text = f"# The library\n\n{made}\nNames of `klcal`. Errors are on the page of [exit codes](exit-codes.md).\n\n"
    text += table(("name", "meaning"), listed)
    return text + "".join(f"\n## {name}\n\n{_public(name, getattr(klcal, name))}\n" for name in names)


def _is_error(owner: Any) -> bool:
    return isinstance(owner, type) and issubclass(owner, Exception)


def _public(name: str, owner: Any) -> str:
    if inspect.ismodule(owner):
        rows = [
            (code(each), first_sentence(getattr(divergence, each)))
            for each in divergence.__all__
            if callable(getattr(divergence, each))
        ]
        return f"{documented(owner)}\n\n{table(('name', 'meaning'), rows)}"
    if not isinstance(owner, type):
        return f"```text\nklcal.{name}{_signature(owner)}\n```\n\n{documented(owner)}"
    text = documented(owner)
    if is_dataclass(owner) and not owner.__name__.startswith("_"):
        rows = [(code(each.name), code(str(each.type)), _meaning(owner, each.name)) for each in fields(owner)]
        said = any(text for *_, text in rows)
        header = ("field", "type", "meaning") if said else ("field", "type")
        text += "\n\n" + table(header, [row[: len(header)] for row in rows]) if rows else ""
    ours = [each for each in owner.__mro__ if each.__module__.partition(".")[0] == "klcal"]
    members = {member: value for each in reversed(ours) for member, value in vars(each).items()}
    for member, value in members.items():
        if not member.startswith("_") and (found := _member(owner, member, value)):
            text += f"\n\n{found}"
    return text


def _meaning(owner: type, name: str) -> str:
    return meaning(owner.__name__, name) if owner.__name__ in MEANINGS and owner.__name__ != "Sketch" else ""


def _member(owner: type, name: str, value: Any) -> str:
    if isinstance(value, property):
        return f"### {owner.__name__}.{name}\n\n{documented(value)}" if value.__doc__ else ""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not inspect.isfunction(value) or not value.__doc__:
        return ""
    whole = f"{owner.__name__}.{name}"
    return f"### {whole}\n\n```text\n{whole}{_signature(value)}\n```\n\n{documented(value)}"


def _signature(function: Any) -> str:
    """The arguments, one on each line where there are many; types as they are written."""
    text = str(inspect.signature(function)).replace("'", "")
    if len(text) <= 100:
        return text
    inner = [str(each).replace("'", "") for each in inspect.signature(function).parameters.values()]
    stars = inspect.signature(function).parameters
    first_keyword = next((n for n, each in enumerate(stars.values()) if each.kind is each.KEYWORD_ONLY), None)
    if first_keyword is not None:
        inner.insert(first_keyword, "*")
    return "(\n" + "".join(f"    {each},\n" for each in inner) + ") -> " + text.rpartition(" -> ")[2]
