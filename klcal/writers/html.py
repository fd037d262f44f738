"""A table in a notebook: HTML in which names are text. It is not a file format; Markdown is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape as html_escape

from klcal.tables.table import Table
from klcal.writers.people import columns, headline, notes, remark_titles, remarks
from klcal.writers.text import escape

__all__ = ["ROWS", "fragment"]

ROWS = 100  # that are shown; a notebook holds all that it has ever shown
NUMBER, TEXT = ' style="text-align: right"', ' style="text-align: left"'


def fragment(table: Table) -> str:
    """The headline, the rows with an answer, then the others with their reasons; at most ``ROWS`` of each."""
    pieces = [f"<p>{_text(headline(table))}</p>"]
    if shown := columns(table):
        aligned = [NUMBER if column.number else TEXT for column in shown]
        cells = list(zip(*(column.cells for column in shown), strict=True))
        pieces += _grid([column.title for column in shown], cells, aligned)
    if others := list(remarks(table)):
        pieces += _grid(remark_titles(table), others, [TEXT] * 3)
    pieces += (f"<p>{_text(said)}</p>" for said in (*notes(table), *table.warnings))
    return "\n".join(pieces)


def _grid(titles: Iterable[str], rows: Sequence[tuple[str, ...]], aligned: list[str]) -> Iterator[str]:
    yield "<table>"
    yield _line("th", titles, aligned)
    yield from (_line("td", cells, aligned) for cells in rows[:ROWS])
    yield "</table>"
    if len(rows) > ROWS:
        yield f"<p>… and {len(rows) - ROWS} more</p>"


def _line(tag: str, cells: Iterable[str], aligned: list[str]) -> str:
    inner = "".join(f"<{tag}{style}>{_text(cell)}</{tag}>" for cell, style in zip(cells, aligned, strict=True))
    return f"<tr>{inner}</tr>"


def _text(text: str) -> str:
    return html_escape(escape(text))
