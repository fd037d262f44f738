"""A table in a notebook, as HTML in which names are escaped. It is not a file format; Markdown is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape as html_escape

from klcal.tables.rows import Row
from klcal.tables.table import Config, Table
from klcal.writers.columns import HISTOGRAM
from klcal.writers.people import columns, headline, notes, remark_titles, remarks, shown_rows
from klcal.writers.small_figures import figure_of
from klcal.writers.text import escape
from klcal.writers.words import sentences

__all__ = ["ROWS", "fragment", "of_row"]

ROWS = 100  # that are shown; a notebook holds all that it has ever shown
NUMBER, TEXT = ' style="text-align: right"', ' style="text-align: left"'


def of_row(row: Row) -> str:
    """A row as a table of one row, and its explanation."""
    words = (row.method, row.target, row.scheme, row.per, row.scale_format)
    method, dtype, scheme, per, scale_format = (word or "" for word in words)
    table = Table(Config(method, dtype, scheme, per or "tensor", scale_format), (row,))
    said = sentences(row) if row.status == "ok" else []
    return "\n".join([fragment(table), *(f"<p>{_text(each)}</p>" for each in said)])


def fragment(table: Table) -> str:
    """The headline, the rows with an answer, then the others with their reasons; at most ``ROWS`` of each."""
    pieces = [f"<p>{_text(headline(table))}</p>"]
    if shown := [column for column in columns(table) if column.title != HISTOGRAM]:
        aligned = [NUMBER if column.number else TEXT for column in shown]
        titles = [column.title for column in shown]
        cells: list[Iterable[str]] = [map(_text, column.cells) for column in shown]
        figures = [figure_of(row) if isinstance(row, Row) else "" for row in shown_rows(table)[:ROWS]]
        if any(figures):
            titles, aligned = [*titles, "figures"], [*aligned, TEXT]
            cells.append(figures)
        pieces += _grid(titles, list(zip(*cells, strict=False)), aligned, len(shown[0].cells))
    if others := [tuple(map(_text, each)) for each in remarks(table)]:
        pieces += _grid(remark_titles(table), others, [TEXT] * 3, len(others))
    pieces += (f"<p>{_text(said)}</p>" for said in (*notes(table), *table.warnings))
    return "\n".join(pieces)


def _grid(titles: Iterable[str], rows: Sequence[tuple[str, ...]], aligned: Sequence[str], number: int) -> Iterator[str]:
    """A table of the first rows, of ``number`` rows in all; cells are markup."""
    yield "<table>"
    yield _line("th", map(_text, titles), aligned)
    yield from (_line("td", cells, aligned) for cells in rows[:ROWS])
    yield "</table>"
    if number > ROWS:
        yield f"<p>… and {number - ROWS} more</p>"


def _line(tag: str, cells: Iterable[str], aligned: Sequence[str]) -> str:
    inner = "".join(f"<{tag}{style}>{cell}</{tag}>" for cell, style in zip(cells, aligned, strict=True))
    return f"<tr>{inner}</tr>"


def _text(text: str) -> str:
    return html_escape(escape(text))
