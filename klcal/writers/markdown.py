"""A Markdown table for GitHub: for pull requests and job summaries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.columns import Column
from klcal.writers.floats import for_people
from klcal.writers.people import columns, headline, notes, remark_titles, remarks
from klcal.writers.text import escape

__all__ = ["write"]

FINDINGS = 100  # that are shown


def write(table: Table, out: TextIO) -> None:
    """The headline, the calibrated tensors, then the others with their reasons."""
    out.write(code(headline(table)) + "\n")
    if table.findings:
        out.write("\n")
        out.writelines(line + "\n" for line in _found(table))
    if ok := columns(table):
        out.write("\n")
        out.writelines(line + "\n" for line in _grid(ok))
    if others := list(remarks(table)):
        out.write(f"\n| {' | '.join(remark_titles(table))} |\n| :--- | :--- | :--- |\n")
        out.writelines(f"| {code(name)} | {status} | {code(reason)} |\n" for name, status, reason in others)
    if said := [*notes(table), *table.warnings]:
        out.write("\n")
        out.writelines(f"- {code(text)}\n" for text in said)


def _found(table: Table) -> Iterator[str]:
    """The findings, the first ones: a comment on GitHub has 65,536 characters."""
    yield "| finding | rule | what | was | is |"
    yield "| :--- | :--- | :--- | ---: | ---: |"
    for each in table.findings[:FINDINGS]:
        sides = (number if isinstance(number, str) else for_people(number) for number in (each.was, each.now))
        yield "| " + " | ".join(map(code, (each.name, each.rule, each.text, *sides))) + " |"
    if len(table.findings) > FINDINGS:
        yield f"\n… and {len(table.findings) - FINDINGS} more"


def _grid(shown: Sequence[Column]) -> Iterator[str]:
    yield "| " + " | ".join(column.title for column in shown) + " |"
    yield "| " + " | ".join("---:" if column.number else ":---" for column in shown) + " |"
    for cells in zip(*(column.cells for column in shown), strict=True):
        yield (
            "| "
            + " | ".join(cell if column.number else code(cell) for cell, column in zip(cells, shown, strict=True))
            + " |"
        )


def code(text: str) -> str:
    r"""Text as a code span, in which markup, HTML, links and mentions do not act; pipes would end the cell.

    >>> code("a|b"), code("tick`"), code("")
    ('`a\\|b`', '`` tick` ``', '')
    """
    if not text:
        return ""
    runs = re.findall("`+", text)
    fence = "`" * (1 + max(map(len, runs), default=0))
    space = " " if runs else ""
    return fence + space + escape(text).replace("|", "\\|") + space + fence
