"""Pieces of Markdown: tables, words of code, and docstrings as lists."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["code", "documented", "first_sentence", "prose", "table"]


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table; its cells are Markdown on one line."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """A word, in a cell; nothing for nothing."""
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """A docstring's text as Markdown: double backquotes are single, examples and laws are blocks."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        is_block = paragraph.startswith((">>>", "    "))
        found.append(f"```text\n{inspect.cleandoc(paragraph)}\n```" if is_block else " ".join(paragraph.split()))
    return "\n\n".join(each if each.startswith("```") else each.replace("``", "`") for each in found)


SECTION = re.compile(r"^(Args|Returns|Raises):\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))*)", re.MULTILINE)


def documented(owner: Any) -> str:
    """The docstring of a function or a class, with its arguments, what it returns and what it raises as lists."""
    text = inspect.getdoc(owner) or ""
    parts = {match[1]: inspect.cleandoc(match[2]) for match in SECTION.finditer(text)}
    found = [prose(SECTION.sub("", text))]
    for title, name in (("Args", "Arguments"), ("Returns", "Returns"), ("Raises", "Raises")):
        if title == "Returns" and title in parts:
            found.append(f"**{name}** {prose(parts[title])}")
        elif title in parts:
            items = re.split(r"\n(?=\S)", parts[title])
            found.append(f"**{name}**\n\n" + "\n".join(_item(each) for each in items))
    return "\n\n".join(each for each in found if each)


def _item(text: str) -> str:
    name, _, rest = text.partition(":")
    return f"- `{name}`: {prose(' '.join(rest.split()))}"


def first_sentence(owner: Any) -> str:
    """What its docstring begins with."""
    return prose(re.split(r"(?<=\.)\s", inspect.getdoc(owner) or "")[0])
