"""Plots made of characters: block characters for heights, in a given number of columns. Numbers in, lines out.

Plots use block and line characters of UTF-8; ``as_ascii`` replaces them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

__all__ = ["ASCII", "as_ascii", "axis", "bars", "logarithms", "marks", "sparkline", "stacked"]

EIGHTHS = " ▁▂▃▄▅▆▇█"
LOWER, UPPER = "█", "░"  # of two stacked parts
LINES = "├─┤│▲×·…"
ASCII = str.maketrans(EIGHTHS + UPPER + LINES, " .:-=+*%#" + "o" + "|-||^x|~")
"""What stands for each sign where a terminal has no other: one column wide, too."""


def as_ascii(text: str) -> str:
    """The text in ASCII, for a terminal that has nothing else."""
    return text.translate(ASCII)


def sparkline(counts: Sequence[int]) -> str:
    """A character for each count: the largest count is the highest, 0 is a space, and any count above 0 is visible.

    >>> sparkline([0, 1, 50, 400, 200])
    ' ▁▁█▄'
    """
    most, top = max(counts, default=0), len(EIGHTHS) - 1
    return "".join(EIGHTHS[-(-count * top // most)] if most else " " for count in counts)


def logarithms(counts: Sequence[int]) -> list[float]:
    """Heights from 0 to 1 on a logarithmic scale; a count of 1 is at most half as high as the largest one.

    >>> [round(height, 2) for height in logarithms([0, 1, 10, 1000])]
    [0.0, 0.1, 0.35, 1.0]
    """
    most = math.log1p(max(counts, default=0))
    return [math.log1p(count) / most if most else 0.0 for count in counts]


def bars(heights: Sequence[float], rows: int) -> list[str]:
    """``rows`` lines, from the top. A height of 1 fills all of them, and any height above 0 is visible.

    >>> bars([0, 0.01, 0.5, 1], 2)
    ['   █', ' ▁██']
    """
    eighths = [math.ceil(min(height, 1.0) * 8 * rows) for height in heights]
    return ["".join(EIGHTHS[min(max(each - 8 * row, 0), 8)] for each in eighths) for row in reversed(range(rows))]


def stacked(lower: Sequence[float], upper: Sequence[float], rows: int) -> list[str]:
    """``rows`` lines of heights with two parts, in whole characters. A height beyond 1 reaches the top line.

    >>> stacked([0.5, 0.25], [0.5, 0.25], 4)
    ['░ ', '░ ', '█░', '██']
    """
    ends = [(round(a * rows), max(round((a + b) * rows), 1)) for a, b in zip(lower, upper, strict=True)]
    signs = [[LOWER if row < a else UPPER if row < b else " " for a, b in ends] for row in reversed(range(rows))]
    return ["".join(line) for line in signs]


def axis(width: int, begin: int, end: int) -> str:
    """A line under columns, from one of them to another, both of them included.

    >>> axis(6, 1, 4)
    ' ├──┤ '
    """
    if begin == end:
        return "│".rjust(begin + 1).ljust(width)
    return f"{' ' * begin}├{'─' * (end - begin - 1)}┤".ljust(width)


def marks(width: int, places: Mapping[int, str]) -> str:
    """Signs at some columns; where two meet, the first stays.

    >>> marks(5, {1: "a", 3: "b"})
    ' a b '
    """
    return "".join(places.get(column, " ") for column in range(width))
