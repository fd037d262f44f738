"""A table in a terminal, by Rich, which only this writer imports. Names enter as Text, never as markup.

In a terminal the table fits the width: names lose their common parts and their middle, as long as they stay different,
and then columns are dropped. Elsewhere it is as wide as it has to be, and nothing is left out. Lines are laid out here,
because Rich's own tables take a second per 1000 rows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from klcal.tables.table import Table
from klcal.writers.columns import Column
from klcal.writers.people import columns, headline, notes, remark_titles, remarks
from klcal.writers.plots import as_ascii
from klcal.writers.terminal import has_blocks, width_of
from klcal.writers.text import escape, is_narrow, shorten, told_apart, width_to_tell

__all__ = ["layout", "print_table", "write"]

GAP = 2  # between columns
NAME_WIDTH = 18  # names may shrink to this before a column has to go
NAME_SHARE = 3  # beside a reason, a name gets at most one part in this many of the width; so does a file's name
SOURCE_WIDTH = 8  # which a file's name may have in any case
REASON_WIDTH = 12  # the minimum width of a wrapped reason
CELL_CHARACTERS = 1 << 10  # more than any name has that people give; a longer one would pad every row to its length
LINES_AT_ONCE = 1 << 8  # Rich keeps several copies of its output, and slows down as it grows


def write(table: Table, out: TextIO) -> None:
    """Print the table; width, colours and character set are the terminal's."""
    width, height = width_of(out), LINES_AT_ONCE  # with both, Rich asks no terminal
    console = Console(file=out, width=width, height=height, highlight=False, markup=False, emoji=False)
    print_table(table, console)


def print_table(table: Table, console: Console) -> None:
    """Print the table on a console of any width."""
    width = max(1, console.width)
    shown, hidden = layout(columns(table), width)
    for part in (shown, _reasons(table, width)):
        if part:
            for lines in _grid(part):
                console.print(_encodable(lines, console), no_wrap=True, overflow="crop", crop=True)
            console.print()
    for text in (headline(table), *notes(table)):
        console.print(_encodable(Text(escape(text), "dim"), console))
    if hidden:
        console.print(Text(f"no room for: {', '.join(hidden)} (--format json has all)", "dim"))


def _encodable(text: Text, console: Console) -> Text:
    """The signs of the layout as ASCII, where the terminal has no other. Each stays one column wide."""
    if not has_blocks(console.file):
        text.plain = as_ascii(text.plain)
    return text


def layout(wanted: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that fit, their cells escaped and shortened, and the titles of those that do not."""
    kept = [_mapped(column, _shown) for column in wanted]
    if kept and _room_for_name(kept, width) < _width(kept[0]):
        kept = [_narrowed(column, max(SOURCE_WIDTH, width // NAME_SHARE)) for column in kept]
        needed = max(width_to_tell(kept[0].cells, NAME_WIDTH, _cells), _cells(kept[0].title))
        by_need = sorted(kept[1:], key=lambda column: -column.spare)
        while by_need and _room_for_name(kept, width) < min(needed, _width(kept[0])):
            kept.remove(by_need.pop(0))
        room = _room_for_name(kept, width)
        kept[0] = replace(kept[0], cells=tuple(told_apart(kept[0].cells, room, _cells)))
    titles = {column.title for column in kept}
    return kept, [column.title for column in wanted if column.title not in titles]


def _narrowed(column: Column, width: int) -> Column:
    """The column of sources with no more than a width; any other as it is."""
    return replace(column, cells=tuple(told_apart(column.cells, width, _cells))) if column.title == "source" else column


def _cells(text: str) -> int:
    """How many columns an escaped text takes."""
    return len(text) if is_narrow(text) else cell_len(text)


def _shown(cell: str) -> str:
    return shorten(escape(cell), CELL_CHARACTERS)


def _mapped(column: Column, change: Callable[[str], str]) -> Column:
    return replace(column, cells=tuple(map(change, column.cells)))


def _width(column: Column) -> int:
    return max(map(_cells, (column.title, *column.cells)))


def _room_for_name(kept: Sequence[Column], width: int) -> int:
    return max(1, width - sum(_width(column) + GAP for column in kept[1:]))


def _reasons(table: Table, width: int) -> list[Column]:
    """The rows that are not ok, their reasons wrapped into the room that is left; none if all are ok."""
    others = list(remarks(table))
    if not others:
        return []
    names = told_apart([_shown(name) for name, _, _ in others], max(1, width // NAME_SHARE), _cells)
    titles = remark_titles(table)
    taken = max(map(_cells, (titles[0], *names))) + max(len(status) for _, status, _ in others) + 2 * GAP
    room = max(REASON_WIDTH, width - taken)
    lines = [
        line
        for name, (_, status, reason) in zip(names, others, strict=True)
        for line in _wrapped(name, status, escape(reason), room)
    ]
    return [Column(title, cells, False, 0) for title, cells in zip(titles, zip(*lines, strict=True), strict=True)]


def _wrapped(name: str, status: str, reason: str, room: int) -> Iterator[tuple[str, str, str]]:
    first, *more = textwrap.wrap(reason, room) or [reason]
    yield name, status, first
    yield from (("", "", line) for line in more)


def _grid(shown: Sequence[Column]) -> Iterator[Text]:
    """Header, rule and rows, padded into columns, some lines at a time."""
    widths = [_width(column) for column in shown]
    header = _line([column.title for column in shown], shown, widths)
    rule = "─" * (sum(widths) + GAP * (len(widths) - 1))
    yield Text.assemble((header, "bold"), "\n", (rule, "dim"))
    rows = zip(*(column.cells for column in shown), strict=True)
    while lines := [_line(cells, shown, widths) for cells in islice(rows, LINES_AT_ONCE)]:
        yield Text("\n".join(lines))


def _line(cells: Sequence[str], shown: Sequence[Column], widths: Sequence[int]) -> str:
    padded = [
        " " * (width - _cells(cell)) + cell if column.number else cell + " " * (width - _cells(cell))
        for cell, column, width in zip(cells, shown, widths, strict=True)
    ]
    return (" " * GAP).join(padded).rstrip()
