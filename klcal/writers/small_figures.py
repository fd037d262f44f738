"""Small figures as inline SVG, for notebooks: bars of counts, and of the SQNR of units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from klcal.tables.rows import Row
from klcal.writers.floats import for_people
from klcal.writers.plots import logarithms

__all__ = ["bars", "figure_of"]

WIDTH, HEIGHT = 96, 20  # pixels: a line of a table is as high
BINS = 32  # bars of a histogram
CELLS = 48  # bars of units, at most: each the worst of some neighbours
LEAST = 0.1  # of the height: the minimum of a bar that is not empty


def figure_of(row: Row) -> str:
    """The histogram of its values, where the row has one, and the SQNR of its units; nothing where it has neither."""
    figures = []
    known = None if row.explanation is None else row.explanation.histogram
    if known is not None:
        title = f"values from {for_people(known.low)} to {for_people(known.high)}, numbers on a logarithmic scale"
        figures.append(bars(logarithms(known.merged(BINS).counts), title))
    if row.units is not None:
        figures += _units(row.units.sqnr_db.tolist())
    return " ".join(figures)


def _units(values: Sequence[float]) -> list[str]:
    each = -(-len(values) // CELLS)
    worst = [
        min((value for value in values[i : i + each] if value == value), default=math.nan)
        for i in range(0, len(values), each)
    ]
    known = [value for value in worst if value == value]
    if not known:
        return []
    low, high = min(known), max(known)
    heights = [0.0 if value != value else LEAST + (1 - LEAST) * (value - low) / (high - low or 1.0) for value in worst]
    return [bars(heights, f"SQNR of {len(values)} units, from {for_people(low)} to {for_people(high)} dB")]


def bars(heights: Sequence[float], title: str) -> str:
    """Heights from 0 to 1 as one path, in the colour of the text around it."""
    each = WIDTH / max(len(heights), 1)
    path = "".join(
        f"M{place * each:.1f} {HEIGHT}V{HEIGHT - max(height * HEIGHT, 1):.1f}h{each:.1f}V{HEIGHT}z"
        for place, height in enumerate(heights)
        if height > 0
    )
    said = escape(title)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    shape = f'<path d="{path}" fill="currentColor" opacity="0.7"/>'
    return f'<svg {size} role="img" aria-label="{said}"><title>{said}</title>{shape}</svg>'
