"""A table for people: fewer columns and digits, and a separate list of tensors that were not calibrated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.table import Changes, Comparison, Config, Contents, Table
from klcal.writers.columns import HOW, OF_CONTENTS, OF_UNITS, Column, columns_of, key_of
from klcal.writers.records import left_out, several_sources

__all__ = ["columns", "headline", "notes", "remark_titles", "remarks", "shown_rows"]


def columns(table: Table) -> list[Column]:
    """The columns of the rows that are ok, the name first; empty if no row is ok."""
    rows = shown_rows(table)
    if not rows:
        return []
    shown = columns_of(rows, type(table.config), table.columns)
    if len({(row.source, row.name) for row in rows}) > len({row.name for row in rows}):  # names alone tell too little
        shown = [replace(column, spare=0) if column.title == "source" else column for column in shown]
    hidden = {column.title for column in shown if column.title in HOW and len(set(column.cells)) == 1}
    silent = (*OF_CONTENTS, "changed")
    hidden |= {column.title for column in shown if column.title in silent and not any(column.cells)}
    if not several_sources(table):
        hidden.add("source")
    if not any(isinstance(row, Row | Change) and row.units is not None for row in rows):
        hidden.update(OF_UNITS)
    if not any(isinstance(row, Row) and row.unit is not None for row in rows):
        hidden.add("unit")
    if not (isinstance(table.config, Comparison) and table.config.quantized_by):
        hidden.add("kl common")  # which is kl
    asked = {name.removeprefix("+") for name in table.columns}
    return [column for column in shown if column.title not in hidden or key_of(column.title) in asked]


def shown_rows(table: Table) -> list[Row | Difference | Change | Content]:
    """The rows that have their place among the columns; the others are remarks."""
    return [row for row in table.rows if _is_shown(row)]


def _is_shown(row: Row | Difference | Change | Content) -> bool:
    """Whether a row has its place among the others, and not in a list of reasons."""
    return not row.failed if isinstance(row, Content) else row.status in ("ok", "changed")


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
    """The notes of rows, each with the number of tensors that have it; notes that differ only in numbers are joined."""
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
