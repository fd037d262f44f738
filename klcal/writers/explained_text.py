"""An explanation as text: plots made of characters, as wide as the terminal, tables, and a few sentences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TextIO

from klcal.tables.explanation import Alternative, Curve, Explanation, Histogram, Octaves
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers.columns import shape
from klcal.writers.floats import for_people
from klcal.writers.plots import LOWER, UPPER, as_ascii, axis, bars, logarithms, marks, sparkline, stacked
from klcal.writers.terminal import USUAL, has_blocks, width_of
from klcal.writers.text import escape, shorten
from klcal.writers.words import sentences

__all__ = ["lines", "write"]

INDENT = "  "
LEAST_WIDTH = 24  # columns of a plot at least: a narrower one shows nothing
ROWS, FEW_ROWS = 8, 5  # of a plot
CURVE_ROWS = 12
TOP = 2.5  # of the curve: times the loss of the choice
MOST_COLUMNS = 64  # of the curve
CHOSEN = "▲"
LETTERS = "abcdefgh"
PART = 16  # of a line of text, from which on it is wrapped


def write(table: Table, out: TextIO) -> None:
    """The explanations of all rows; width and signs are the terminal's."""
    width, blocks = width_of(out, USUAL), has_blocks(out)
    for row in table.rows:
        assert isinstance(row, Row)
        out.writelines(f"{line if blocks else as_ascii(line)}\n" for line in lines(row, width))


def lines(row: Row, width: int) -> Iterator[str]:
    """The lines of one explanation, at most ``width`` columns wide, or LEAST_WIDTH if that is more."""
    width = max(width, LEAST_WIDTH)
    yield from _heading(row, width)
    known = row.explanation
    if known is not None:
        chosen = known.methods[0] if known.methods else None
        if known.histogram is not None:
            yield from _histogram(known.histogram, chosen, known.levels, width)
        if known.octaves is not None:
            yield from _octaves(known.octaves, chosen, known.levels, width)
        if known.curve is not None:
            if known.curve.loss[known.curve.chosen] is not None:
                yield from _curve(known, known.curve, width)
            yield from _methods(known, width)
            yield from _nearby(known, width)
    if row.units is not None:
        yield from _units(row, width)
    said = sentences(row)
    if row.units is not None:
        said = [*said, "--unit N explains one of them."]
    if said:
        yield ""
    for each in (*said, *(row.note.split("; ") if row.note else ())):
        yield from _wrapped(escape(each), width)


def _heading(row: Row, width: int) -> Iterator[str]:
    unit = "" if row.unit is None else f", {(row.per or 'unit').partition(':')[0]} {row.unit}"
    yield shorten(f"{escape(row.name)}{unit}", width)
    what = f"{escape(row.source)}: {row.dtype} {shape(row)}" if row.source else f"{row.dtype or ''} {shape(row)}"
    how = f"to {row.target} {row.scheme} by {row.method}, per {row.per}" if row.target else ""
    yield from _wrapped(f"{what}; {how}" if how else what, width)
    if row.scale is not None and row.low is not None and row.high is not None:
        point = "" if row.zero_point is None else f", zero point {row.zero_point}"
        loss = "no error" if row.sqnr_db is None else f"SQNR {for_people(row.sqnr_db)} dB"
        kept = f"keeps {for_people(row.low)} to {for_people(row.high)}"
        yield from _wrapped(f"scale {for_people(row.scale, 6)}{point}; {kept}; {loss}", width)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _columns(bins: int, width: int) -> int:
    """The most columns that fit and divide the bins."""
    columns = bins
    while columns > width and columns % 2 == 0:
        columns //= 2
    return columns


# --- how values are distributed


def _histogram(of: Histogram, chosen: Alternative | None, levels: Sequence[float] | None, width: int) -> Iterator[str]:
    columns = _columns(len(of.counts), width - len(INDENT))
    counts = of.merged(columns).counts
    yield ""
    yield from _wrapped("Values (their numbers on a logarithmic scale)", width)
    yield from (f"{INDENT}{line}".rstrip() for line in bars(logarithms(counts), ROWS))
    span = of.high - of.low

    def column(value: float) -> int:
        share = (value - of.low) / span if span else 0.5
        return min(max(int(share * columns), 0), columns - 1)

    if chosen is not None:
        yield f"{INDENT}{axis(columns, column(max(chosen.low, of.low)), column(min(chosen.high, of.high)))}".rstrip()
        within = [column(level) for level in levels or () if of.low <= level <= of.high]
        if within and len(set(within)) == len(within) <= columns // 2:
            yield f"{INDENT}{marks(columns, dict.fromkeys(within, '│'))}".rstrip()
    yield f"{INDENT}{_ends(for_people(of.low), for_people(of.high), columns)}"
    if chosen is not None:
        yield from _wrapped(_of_levels(chosen, levels), width)


def _of_levels(chosen: Alternative, levels: Sequence[float] | None) -> str:
    number = "" if levels is None else f"{len(levels)} levels, "
    return (
        f"{INDENT}kept: {for_people(chosen.low)} to {for_people(chosen.high)}; {number}scale {for_people(chosen.scale)}"
    )


def _ends(left: str, right: str, columns: int) -> str:
    """Two texts at the ends of a line, or one behind the other."""
    return f"{left}{right.rjust(columns - len(left))}" if len(left) + len(right) < columns else f"{left} {right}"


def _octaves(of: Octaves, chosen: Alternative | None, levels: Sequence[float] | None, width: int) -> Iterator[str]:
    """A column for each power of two; the last ones, where not all fit."""
    columns = min(len(of.counts), width - len(INDENT))
    left_out = len(of.counts) - columns
    first = of.first + left_out
    yield ""
    yield from _wrapped(f"Magnitudes by powers of two, 2^{first} to 2^{first + columns} (numbers as above)", width)
    yield from (f"{INDENT}{line}".rstrip() for line in bars(logarithms(of.counts)[left_out:], FEW_ROWS))
    if chosen is not None:
        least = min((abs(level) for level in levels or () if level), default=abs(chosen.scale)) / 2
        most = max(-chosen.low, chosen.high)
        places = [math.floor(math.log2(each)) - first for each in (least, most)]
        begin, end = (min(max(place, 0), columns - 1) for place in places)
        yield f"{INDENT}{axis(columns, begin, end)}".rstrip()
        said = f"below {for_people(least)} values become 0; the kept range ends at {for_people(most)}"
        yield from _wrapped(f"{INDENT}{said}", width)


# --- the costs of scales


def _curve(known: Explanation, curve: Curve, width: int) -> Iterator[str]:
    columns = min(width - len(INDENT), MOST_COLUMNS)
    first, last = math.log2(curve.scale[0]), math.log2(curve.scale[-1])

    def column(scale: float) -> int:
        return round((math.log2(abs(scale)) - first) / (last - first) * (columns - 1)) if last > first else 0

    shown: dict[int, int] = {}  # the candidate of each column: the choice, or the first
    for place in sorted(range(len(curve.scale)), key=lambda place: (place != curve.chosen, place)):
        shown.setdefault(column(curve.scale[place]), place)
    top, lower, upper = _parts(known, curve)
    below, above = ([part[shown[c]] / top if c in shown else 0.0 for c in range(columns)] for part in (lower, upper))
    drawn = stacked(below, above, CURVE_ROWS)
    is_empty = [c not in shown for c in range(columns)]
    yield ""
    yield from _wrapped(f"{_legend(known)}; the top is {for_people(top)}", width)
    for line in drawn:
        yield f"{INDENT}{''.join(' ' if empty else sign for sign, empty in zip(line, is_empty, strict=True))}".rstrip()
    places = {column(curve.scale[curve.chosen]): CHOSEN}
    for letter, each in zip(LETTERS, known.methods[1:], strict=False):
        places.setdefault(column(each.scale), letter)
    yield f"{INDENT}{marks(columns, places)}".rstrip()
    yield f"{INDENT}{_ends(f'scale {for_people(curve.scale[0])}', for_people(curve.scale[-1]), columns)}"


def _parts(known: Explanation, curve: Curve) -> tuple[float, list[float], list[float]]:
    """The height of the plot, and the two parts of the loss of each candidate."""
    divergence, distortion, loss = (
        [math.inf if each is None else each for each in column]
        for column in (curve.divergence, curve.distortion, curve.loss)
    )
    chosen, finite = loss[curve.chosen], [each for each in loss if each < math.inf]
    top = min(max(finite, default=1.0), TOP * chosen if 0 < chosen < math.inf else math.inf) or 1.0
    if known.objective == "kl-classic":
        return top, [min(each, 2 * top) for each in loss], [0.0] * len(loss)
    if known.objective == "mse" or curve.divergence[0] is None:
        return top, [0.0] * len(loss), [min(each, 2 * top) for each in distortion]
    return top, [min(each, 2 * top) for each in divergence], [min(each, 2 * top) for each in distortion]


def _legend(known: Explanation) -> str:
    if known.objective == "kl-classic":
        return f"Loss by scale: the divergence of the literature {LOWER}, in nats"
    if known.objective == "mse":
        return (
            f"Loss by scale: distortion {UPPER} (the squared error; {for_people((known.weight or 0) / 2)} is the least)"
        )
    by = "Loss by scale" if known.objective == "kl" else "What scales lose (the method does not look at it)"
    return f"{by}: divergence {LOWER} + distortion {UPPER}, in nats"


def _methods(known: Explanation, width: int) -> Iterator[str]:
    titles = ["", "method", "scale", "loss", "SQNR dB", "zero point", "clipped %", "to zero %", "D", "low", "high"]
    signs = [CHOSEN, *LETTERS]
    rows = [
        [
            sign,
            escape(each.method).replace(":bins=2048", "").replace(",weight=4", ""),
            for_people(each.scale, 5),
            _loss(each.loss, known),
            "no error" if each.sqnr_db is None else for_people(each.sqnr_db),
            "" if each.zero_point is None else str(each.zero_point),
            for_people(100 * each.clipped, 3),
            for_people(100 * each.rounded_to_zero, 3),
            for_people(each.divergence, 3),
            for_people(each.low),
            for_people(each.high),
        ]
        for sign, each in zip(signs, known.methods, strict=False)
    ]
    yield ""
    yield from _grid(titles, rows, width)


def _nearby(known: Explanation, width: int) -> Iterator[str]:
    """The costs of scales near the choice, and the choices without the outermost values."""
    chosen = known.methods[0]
    rows = []
    for near in known.nearby:
        scale = for_people(abs(chosen.scale) * (1 + near.change), 5)
        said = f"scale {near.change:+.0%}".replace("%", " %")
        rows.append([said, scale, _loss(near.loss, known), for_people(near.sqnr_db), for_people(chosen.sqnr_db)])
    for less in known.without:
        said = f"without the largest {for_people(100 * less.share)} %"
        rows.append([said, for_people(less.scale, 5), "", for_people(less.sqnr_db), for_people(less.sqnr_db_as_is)])
    yield ""
    yield from _grid(["what if", "scale", "loss", "SQNR dB", "in place of"], rows, width)


def _loss(loss: float | None, known: Explanation) -> str:
    """The loss as text. That of `kl-classic` is infinite if a value loses its support."""
    return "inf" if loss is None and known.objective == "kl-classic" else for_people(loss)


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Columns that fit, the first ones of them; numbers stand to the right."""
    columns = list(zip(titles, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    while len(columns) > 2 and len(INDENT) + sum(widths) + 2 * (len(widths) - 1) > width:
        columns.pop(), widths.pop()
    names = sum(title in ("", "method", "what if") for title in titles)
    for line in zip(*columns, strict=True):
        cells = [
            cell.ljust(size) if place < names else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(line, widths, strict=True))
        ]
        yield shorten(f"{INDENT}{'  '.join(cells)}".rstrip(), width)


# --- channels, groups, blocks


def _units(row: Row, width: int) -> Iterator[str]:
    """The SQNR of all units in their order: of neighbours the worst, where not all fit."""
    assert row.units is not None
    values = [-1.0 if each != each else each for each in row.units.sqnr_db.tolist()]
    columns = min(len(values), width - len(INDENT))
    each = -(-len(values) // columns)
    worst = [min(values[first : first + each]) for first in range(0, len(values), each)]
    known = [value for value in worst if value >= 0]
    if not known:
        return
    low, high = min(known), max(known)
    heights = [0 if value < 0 else 1 + round(99 * (value - low) / (high - low or 1.0)) for value in worst]
    many = f", the worst of {each} neighbours each" if each > 1 else ""
    yield ""
    yield from _wrapped(f"SQNR of {len(values)} units{many}: {for_people(low)} to {for_people(high)} dB", width)
    yield f"{INDENT}{sparkline(heights)}".rstrip()
