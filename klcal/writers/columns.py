"""The columns of each kind of table for people: titles, contents of cells, and which are dropped first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from klcal.errors import UsageError
from klcal.tables.changes import WORDS, Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Comparison, Config, Contents
from klcal.writers.floats import DIGITS, for_people
from klcal.writers.plots import sparkline

__all__ = [
    "HISTOGRAM",
    "HOW",
    "KINDS",
    "OF_CONTENTS",
    "OF_UNITS",
    "Column",
    "check_columns",
    "columns_of",
    "key_of",
    "shape",
]

COSINE_DIGITS = 6  # most are 0.999…
SCALE_DIGITS = 5  # a scale is copied by hand more often than the rest
HISTOGRAM = "hist"  # the column of sparklines
BARS = 16  # characters of one


@dataclass(frozen=True)
class Column:
    """A column of the calibrated rows. Texts are raw: the writer escapes them."""

    title: str
    cells: tuple[str, ...]
    number: bool
    spare: int  # columns with a larger number are dropped first when there is no room


def shape(row: Row | Difference | Content) -> str:
    """The shape as people write it.

    >>> shape(Row(status="ok", shape=(64, 3, 7, 7))), shape(Row(status="ok", shape=()))
    ('64×3×7×7', 'scalar')
    """
    if row.shape is None:
        return ""
    return "×".join(map(str, row.shape)) or "scalar"


def _percent(share: float | None) -> str:
    return for_people(None if share is None else 100 * share, 3)


def _numbers(row: Row, name: str) -> list[float]:
    """A number of the row, or of its units as far as they have one."""
    if row.units is None:
        value = getattr(row, name)
        return [] if value is None else [value]
    values = getattr(row.units, name)
    return [] if values is None else [each for each in values.tolist() if not math.isnan(each)]


def _one(row: Row, name: str, choose: Callable[[list[float]], float], digits: int = DIGITS) -> str:
    numbers = _numbers(row, name)
    return for_people(choose(numbers) if numbers else None, digits)


def _zero_points(row: Row) -> str:
    ends = [_one(row, "zero_point", choose, SCALE_DIGITS) for choose in (min, max)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}…{ends[1]}"


def _worst(row: Row) -> tuple[float, int] | None:
    """The SQNR and the number of the unit that loses most."""
    values = [] if row.units is None else row.units.sqnr_db.tolist()
    return min(((value, unit) for unit, value in enumerate(values) if not math.isnan(value)), default=None)


def _worst_unit(row: Row) -> str:
    worst = _worst(row)
    return "" if worst is None else str(worst[1])


def _worst_sqnr(row: Row) -> str:
    worst = _worst(row)
    return "" if worst is None else for_people(worst[0])


def _scale_of(change: Change, row: Row) -> str:
    """The scale of a row, or of its unit whose scale moved most."""
    unit = change.unit
    scale = row.scale if row.units is None else None if unit is None else float(row.units.scale[unit])
    return for_people(scale, SCALE_DIGITS)


def _moved(value: float | None) -> str:
    """A change, with its sign where there is one."""
    return "" if value is None else "0" if value == 0 else f"{value:+.{DIGITS}g}"


def _moved_percent(share: float | None) -> str:
    return _moved(None if share is None else 100 * share)


def _units_changed(change: Change) -> str:
    return "" if change.units is None else f"{change.units_changed} of {len(change.units[0])}"


_Columns = tuple[tuple[str, Callable[[Any], str], bool, int], ...]

HOW = ("target", "scheme", "method", "scale in")  # columns where rules by name made rows differ
OF_UNITS = (
    "units",
    "min scale",
    "max scale",
    "worst dB",
    "worst unit",
    "units changed",
)  # columns where units have scales
_COLUMNS: _Columns = (
    ("name", lambda row: row.name, False, 0),
    ("source", lambda row: row.source, False, 5),
    ("dtype", lambda row: row.dtype or "", False, 13),
    ("shape", shape, False, 11),
    ("target", lambda row: row.target or "", False, 5),
    ("scheme", lambda row: row.scheme or "", False, 10),
    ("method", lambda row: row.method or "", False, 11),
    ("scale in", lambda row: row.scale_format or "", False, 10),
    ("unit", lambda row: "" if row.unit is None else str(row.unit), True, 1),
    ("units", lambda row: "" if row.units is None else str(len(row.units)), True, 8),
    ("min scale", lambda row: _one(row, "scale", min, SCALE_DIGITS), True, 6),
    ("scale", lambda row: _one(row, "scale", median, SCALE_DIGITS), True, 1),
    ("max scale", lambda row: _one(row, "scale", max, SCALE_DIGITS), True, 5),
    ("zero point", _zero_points, True, 3),
    ("low", lambda row: _one(row, "low", min), True, 10),
    ("high", lambda row: _one(row, "high", max), True, 9),
    ("kl", lambda row: for_people(row.kl), True, 12),
    ("SQNR dB", lambda row: for_people(row.sqnr_db), True, 2),
    ("worst dB", _worst_sqnr, True, 4),
    ("worst unit", _worst_unit, True, 7),
    ("clipped %", lambda row: _percent(row.clipped), True, 14),
    ("to zero %", lambda row: _percent(row.rounded_to_zero), True, 14),
)
_FURTHER: _Columns = (
    (HISTOGRAM, lambda row: _histogram(row), False, 1),
    ("mse", lambda row: for_people(row.mse), True, 2),
    ("min", lambda row: for_people(row.min), True, 7),
    ("max", lambda row: for_people(row.max), True, 7),
    ("numel", lambda row: _whole(row.numel), True, 8),
    ("zeros", lambda row: _whole(row.zeros), True, 9),
)
"""Columns of a table of scales that are there where they are asked for."""

_DIFFERENCES: _Columns = (
    ("name", lambda row: row.name, False, 0),
    ("source", lambda row: row.source, False, 5),
    ("shape", shape, False, 10),
    ("kl", lambda row: _bounded(row.kl), True, 1),
    ("kl common", lambda row: _bounded(row.kl_common), True, 7),
    ("reverse kl", lambda row: _bounded(row.reverse_kl), True, 7),
    ("js", lambda row: for_people(row.js), True, 3),
    ("entropy", lambda row: for_people(row.entropy), True, 9),
    ("wasserstein", lambda row: for_people(row.wasserstein), True, 6),
    ("cosine", lambda row: for_people(row.cosine, COSINE_DIGITS), True, 8),
    ("max |diff|", lambda row: for_people(row.max_abs_diff), True, 4),
    ("SQNR dB", lambda row: _bounded(row.sqnr_db), True, 2),
)
_CHANGES: _Columns = (
    ("name", lambda change: change.name, False, 0),
    ("source", lambda change: change.source, False, 5),
    ("changed", lambda change: ", ".join(word for word in change.changed if word in WORDS), False, 1),
    ("was scale", lambda change: _scale_of(change, change.was), True, 9),
    ("scale", lambda change: _scale_of(change, change.now), True, 8),
    ("d.scale %", lambda change: _moved_percent(change.d("scale")), True, 1),
    ("d.zero_point", lambda change: _moved(change.d("zero_point")), True, 3),
    ("d.kl", lambda change: _moved(change.d("kl")), True, 7),
    ("d.sqnr_db", lambda change: _moved(change.d("sqnr_db")), True, 2),
    ("d.clipped %", lambda change: _moved_percent(change.d("clipped")), True, 6),
    ("worst unit", lambda change: "" if change.unit is None else str(change.unit), True, 7),
    ("units changed", _units_changed, True, 4),
)
OF_CONTENTS = ("tensors", "is", "also called", "min", "max", "zeros %", "not finite", "outlier", "histogram")
"""Columns that go where no row has anything to say in them."""
_CONTENTS: _Columns = (
    ("name", lambda row: row.name, False, 0),
    ("source", lambda row: row.source, False, 5),
    ("tensors", lambda row: str(row.tensors) if row.tensors > 1 else "", True, 1),
    ("dtype", lambda row: row.dtype or "", False, 2),
    ("shape", shape, False, 3),
    ("values", lambda row: _whole(row.numel), True, 6),
    ("bytes", lambda row: _whole(row.nbytes), True, 4),
    ("min", lambda row: for_people(row.min), True, 7),
    ("max", lambda row: for_people(row.max), True, 8),
    ("zeros %", lambda row: _percent(row.zeros / row.numel) if row.zeros else "", True, 11),
    ("not finite", lambda row: _whole((row.nan or 0) + (row.neg_inf or 0) + (row.pos_inf or 0) or None), True, 9),
    ("outlier", lambda row: for_people(row.outlier, 3), True, 10),
    ("histogram", lambda row: sparkline(row.histogram or ()), False, 12),
    ("is", lambda row: row.reason or "", False, 13),
    ("also called", lambda row: ", ".join(row.aliases), False, 14),
)


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _histogram(row: Row) -> str:
    known = None if row.explanation is None else row.explanation.histogram
    return "" if known is None else sparkline(known.merged(BARS).counts)


def _bounded(value: float | None) -> str:
    """A number that may be infinite."""
    return "inf" if value == math.inf else for_people(value)


KINDS: dict[type, tuple[_Columns, _Columns]] = {
    Config: (_COLUMNS, _FURTHER),
    Comparison: (_DIFFERENCES, ()),
    Changes: (_CHANGES, ()),
    Contents: (_CONTENTS, ()),
}
"""The usual columns and the further ones of each kind of table, by its configuration."""

FIELDS = {
    "clipped %": "clipped",
    "to zero %": "rounded_to_zero",
    "scale in": "scale_format",
    "max |diff|": "max_abs_diff",
}
FIELDS |= {"zeros %": "zeros", "histogram": HISTOGRAM, "values": "numel", "bytes": "nbytes", "also called": "aliases"}


def key_of(title: str) -> str:
    """The name of a column for ``--columns``: that of the field in the JSON, if there is one.

    >>> key_of("SQNR dB"), key_of("to zero %"), key_of("zero point")
    ('sqnr_db', 'rounded_to_zero', 'zero_point')
    """
    return FIELDS.get(title, title.lower().replace(" ", "_"))


def check_columns(text: str, kind: type) -> tuple[str, ...]:
    """The names of "NAME,NAME,…", or of "+NAME,+NAME,…", which come behind the usual ones.

    Raises:
        UsageError: there is no such column.
    """
    usual, further = KINDS[kind]
    known = [key_of(title) for title, *_ in (*usual, *further)]
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name.removeprefix("+") not in known:
            raise UsageError(f"there is no column {name.removeprefix('+')!r}", f"use some of {', '.join(known)}")
    if 0 < sum(name.startswith("+") for name in names) < len(names):
        raise UsageError(
            f"--columns {text!r} has names with + and without", "all with +, behind the usual columns; or none"
        )
    return names


def columns_of(rows: Sequence[Any], kind: type, wanted: Sequence[str]) -> list[Column]:
    """The columns of some rows: the usual ones, or those that are wanted, in their order."""
    usual, further = KINDS[kind]
    chosen = list(usual)
    if wanted:
        by_key = {key_of(each[0]): each for each in (*usual, *further)}
        named = [by_key[name.removeprefix("+")] for name in wanted]
        is_more = wanted[0].startswith("+")
        front = usual if is_more else usual[:1]  # the name in any case: a row without one says nothing
        chosen = [*front, *(each for each in named if each not in front)]
    return [Column(title, tuple(map(text, rows)), number, spare) for title, text, number, spare in chosen]
