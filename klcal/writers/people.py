"""A table for people: fewer columns, fewer digits, and tensors that were not calibrated apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from klcal.tables.changes import WORDS, Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Comparison, Config, Contents, Table
from klcal.writers.floats import DIGITS, for_people
from klcal.writers.records import left_out, several_sources

__all__ = ["Column", "columns", "headline", "notes", "remark_titles", "remarks"]

COSINE_DIGITS = 6  # most are 0.999…
SCALE_DIGITS = 5  # a scale is copied by hand more often than the rest


@dataclass(frozen=True)
class Column:
    """A column of the calibrated rows. Texts are raw: the writer escapes them."""

    title: str
    cells: tuple[str, ...]
    number: bool
    spare: int  # columns with a larger number are dropped first when there is no room


def columns(table: Table) -> list[Column]:
    """The columns of the rows that are ok, the name first; empty if no row is ok."""
    rows = [row for row in table.rows if _is_shown(row)]
    if not rows:
        return []
    chosen = {Config: _COLUMNS, Comparison: _DIFFERENCES, Changes: _CHANGES, Contents: _CONTENTS}[type(table.config)]
    shown = [Column(title, tuple(map(text, rows)), number, spare) for title, text, number, spare in chosen]
    if len({(row.source, row.name) for row in rows}) > len({row.name for row in rows}):  # names alone tell too little
        shown = [replace(column, spare=0) if column.title == "source" else column for column in shown]
    hidden = {column.title for column in shown if column.title in _HOW and len(set(column.cells)) == 1}
    silent = (*_OF_CONTENTS, "changed")
    hidden |= {column.title for column in shown if column.title in silent and not any(column.cells)}
    if not several_sources(table):
        hidden.add("source")
    if not any(isinstance(row, Row | Change) and row.units is not None for row in rows):
        hidden.update(_UNITS)
    if not any(isinstance(row, Row) and row.unit is not None for row in rows):
        hidden.add("unit")
    if not (isinstance(table.config, Comparison) and table.config.quantized_by):
        hidden.add("kl common")  # which is kl
    return [column for column in shown if column.title not in hidden]


def _is_shown(row: Row | Difference | Change | Content) -> bool:
    """Whether a row has its place among the others, and not in a list of reasons."""
    return not row.failed if isinstance(row, Content) else row.status in ("ok", "changed")


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
    """That of the row, or of the unit whose scale moved most."""
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

_HOW = ("target", "scheme", "method", "scale in")  # columns where rules by name made rows differ
_UNITS = (
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
_OF_CONTENTS = ("tensors", "is", "also called", "min", "max", "zeros %", "not finite", "outlier", "histogram")
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
    ("histogram", lambda row: _bars(row.histogram), False, 12),
    ("is", lambda row: row.reason or "", False, 13),
    ("also called", lambda row: ", ".join(row.aliases), False, 14),
)
BARS = " .:-=+*#%@"  # of a histogram, which any terminal has


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _bars(histogram: tuple[int, ...] | None) -> str:
    """A character for each bin: the last of them for the fullest, a space for an empty one."""
    if not histogram:
        return ""
    most, top = max(histogram), len(BARS) - 1
    return "".join(BARS[-(-count * top // most)] for count in histogram)


def _bounded(value: float | None) -> str:
    """A number that may be infinite."""
    return "inf" if value == math.inf else for_people(value)


def remark_titles(table: Table) -> tuple[str, str, str]:
    """The headline above the remarks."""
    if isinstance(table.config, Changes):
        return "in one table", "status", "reason"
    if isinstance(table.config, Contents):
        return "not readable", "status", "reason"
    return "not calibrated" if isinstance(table.config, Config) else "not compared", "status", "reason"


def remarks(table: Table) -> Iterator[tuple[str, str, str]]:
    """Label, status and reason of every row that is not ok and of every file that is lost."""
    several = several_sources(table)
    for row in table.rows:
        partly = isinstance(row, Row) and row.units is not None and row.units.status is not None
        if not _is_shown(row) or partly:
            name = f"{row.source}: {row.name}" if several else row.name
            name += f" [{row.unit}]" if isinstance(row, Row) and row.unit is not None else ""
            yield name, "partly" if partly else row.status, row.reason or ""
    for error in table.errors:
        yield error.source, "failed", error.reason


def notes(table: Table) -> list[str]:
    """What was done differently from the request, and for how many tensors; notes that differ in numbers are one."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for row in table.rows:
        for note in row.note.split("; ") if row.note else ():
            alike.setdefault(re.sub(r"[-+.e\d]*\d", "0", note), []).append((row.name, note))
    return [*(_together(alike[key]) for key in sorted(alike)), *left_out(table)]


def _together(said: Sequence[tuple[str, str]]) -> str:
    (name, note), count = said[0], len(said)
    such_as = f" such as {name}" if len({each for _, each in said}) > 1 else ""
    return f"{count} tensor{'s' * (count > 1)}{such_as}: {note}"


def headline(table: Table) -> str:
    """One line: how the rows were computed, and how many of them there are of each status."""
    config = table.config
    if isinstance(config, Changes):
        kinds = ("same", "changed", "missing", "extra")
        counts = ", ".join(f"{count} {kind}" for kind in kinds if (count := getattr(config, kind)))
        return f"{config.baseline} → {config.compared} · {counts or 'no tensors'}"
    if isinstance(config, Contents):
        tensors = sum(row.tensors for row in table.rows if isinstance(row, Content))
        nbytes = sum(row.nbytes or 0 for row in table.rows if isinstance(row, Content))
        values = sum(row.numel or 0 for row in table.rows if isinstance(row, Content))
        return f"{tensors:,} tensors, {values:,} values, {nbytes:,} bytes"
    if isinstance(config, Comparison):
        unit = {"e": "nats", "2": "bits", "10": "bans"}[config.base]
        by = [f"quantized by {config.quantized_by}"] if config.quantized_by else []
        cells = "kl on the quantizers' cells, all else on " if by else ""
        return " · ".join(["P against Q", *by, f"{cells}{config.bins} common bins, in {unit}", _counts(table)])
    sources = sorted({row.source for row in table.rows} - {""})
    where = sources if len(sources) == 1 else []
    how = [config.method, f"{config.dtype} {config.scheme}", f"per {config.per}"]
    if weighed := sum(isinstance(row, Row) and row.importance for row in table.rows):
        how.append(f"importance for {weighed} of {len(table.rows)}")
    return " · ".join([*where, *how, _counts(table)])


def _counts(table: Table) -> str:
    counts: Counter[str] = Counter(row.status for row in table.rows)
    ordered = sorted(counts, key=lambda status: (status != "ok", status))
    return ", ".join(f"{counts[status]} {status}" for status in ordered) or "no tensors"
