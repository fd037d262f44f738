"""A report as one HTML page, with its style, script and data inside: it fetches nothing.

The content security policy of the page allows this one style and this one script, by their hashes, and no request at
all. Texts from files are only in the data, as JSON that cannot end its element, and the script inserts them as text,
never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from html import escape as html_escape
from importlib.resources import files
from typing import Any, TextIO

from klcal.tables.changes import Change
from klcal.tables.report import Report
from klcal.tables.rows import Row
from klcal.tables.schema import CHANGE_FIELDS, REPORT
from klcal.tables.table import in_order
from klcal.writers.explained_json import as_dict
from klcal.writers.floats import for_people, shortest
from klcal.writers.people import headline
from klcal.writers.records import dump, record, summary
from klcal.writers.text import escape
from klcal.writers.words import sentences

__all__ = ["document", "write"]

SCRIPTS = ("1_elements.js", "2_figures.js", "3_rows.js", "4_page.js")
HIDDEN = ("units", "unit", "explanation")  # fields of a row that the data have in another form
SHOWN_BINS = 32  # bins of the histogram in a cell of the table
SHOWN_CELLS = 64  # of the strip of a tensor's units
FIGURES = ("status", "target", "scheme", "per", *CHANGE_FIELDS)  # of the baseline's row
NOTHING: tuple[object, ...] = (None, (), [], {}, "")
ACTING = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})  # in JSON, where they can only be in texts


def write(report: Report, out: TextIO) -> None:
    """The page."""
    style, script = page_file("page.css"), "\n".join(map(page_file, SCRIPTS))
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    parts = {
        "policy": html_escape("; ".join(map(" ".join, policy.items()))),
        "title": html_escape(_title(report)),
        "how": html_escape(escape(headline(report.table))),
        "summary": "".join(_summary(report)),
        "style": style,
        "script": script,
    }
    for place, piece in enumerate(page_file("page.html").split("{{")):
        name, end, rest = piece.partition("}}") if place else ("", "", piece)
        if name == "data":
            out.writelines(_data(report))
        elif end:
            out.write(parts[name])
        out.write(rest)


@cache
def page_file(name: str) -> str:
    """A part of the page."""
    return (files("klcal.writers") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression that allows an inline element of this text (CSP Level 3, §2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(report: Report) -> str:
    sources = sorted({row.source for row in report.table.rows} - {""})
    what = escape(sources[0]) if len(sources) == 1 else f"{len(sources)} files" if sources else "no tensors"
    return f"Quantization report: {what}"


# --- the summary, as text


def _summary(report: Report) -> Iterator[str]:
    """The summary as terms and values, which the page shows without a script."""
    of = report.summary
    total = sum(of.statuses.values())
    counts = ", ".join(f"{count} {status}" for status, count in of.statuses.items())
    yield _term("Tensors", f"{total:,}", counts)
    if of.worst is not None:
        yield _term("Worst SQNR", f"{for_people(of.worst.sqnr_db)} dB", escape(of.worst.name) or "(no name)")
    if of.median_db is not None:
        yield _term("Median SQNR", f"{for_people(of.median_db)} dB", "")
    sizes = of.sizes
    if sizes.values:
        saved = f"{sizes.bits_before / max(sizes.bits_after, 1):.2f} times smaller"
        each = " to ".join(for_people(bits / sizes.values, 4) for bits in (sizes.bits_before, sizes.bits_after))
        yield _term(
            "Bytes",
            f"{-(-sizes.bits_before // 8):,} to {-(-sizes.bits_after // 8):,}",
            f"of what has scales, with these: {saved}",
        )
        yield _term("Bits", f"{sizes.bits_before:,} to {sizes.bits_after:,}", f"for each value {each}")
    if report.baseline is not None:
        changes = [each.status for each in (*report.changes.values(), *report.missing)]
        kinds = ", ".join(f"{changes.count(kind)} {kind}" for kind in ("same", "changed", "missing", "extra"))
        yield _term("Against the baseline", escape(report.baseline), kinds)


def _term(term: str, value: str, more: str) -> str:
    small = f"<small>{html_escape(more)}</small>" if more else ""
    return f"<div><dt>{html_escape(term)}</dt><dd>{html_escape(value)}{small}</dd></div>"


# --- the data


def document(report: Report) -> dict[str, Any]:
    """The data of the page, as plain values: ``klcal.report/1``."""
    of_all = summary(report.table)
    rows = [_row(row, report.changes.get((row.source, row.name))) for row in report.table.rows if isinstance(row, Row)]
    rows += map(_missing, report.missing)
    for place, row in enumerate(sorted(rows, key=lambda row: (in_order(row["name"]), in_order(row["source"])))):
        row["place"] = place  # the place by name, with numbers by value, which a browser would take long to find
    return {
        "schema": REPORT,
        "tool": of_all["tool"],
        "config": of_all["config"],
        "baseline": report.baseline,
        "summary": _summary_values(report),
        "rows": rows,
        "errors": of_all["errors"],
        "warnings": of_all["warnings"],
    }


def _data(report: Report) -> Iterator[str]:
    """The document as JSON, in pieces: rows may be many."""
    before = "{"
    for key, value in document(report).items():
        yield f'{before}"{key}":'
        if key == "rows":
            yield "[\n" + ",\n".join(dump(row).translate(ACTING) for row in value) + "\n]"
        else:
            yield dump(value).translate(ACTING)
        before = ",\n"
    yield "}"


def _summary_values(report: Report) -> dict[str, Any]:
    of = report.summary
    return {
        "statuses": dict(of.statuses),
        "worst": None if of.worst is None else of.worst.name,
        "median_db": None if of.median_db is None else shortest(of.median_db),
        **{field.name: getattr(of.sizes, field.name) for field in fields(of.sizes)},
        "sqnr_first": of.sqnr_first,
        "sqnr_step": of.sqnr_step,
        "sqnr_bins": list(of.sqnr_bins),
    }


NAMES = tuple(field.name for field in fields(Row) if field.name not in HIDDEN)


def _row(row: Row, change: Change | None = None) -> dict[str, Any]:
    """The fields of a row that are not null, and the data of its figures."""
    found: dict[str, Any] = _said(record(row, NAMES)) | {"name": row.name, "source": row.source}
    found |= _label(row.name)
    if row.failed:
        found["failed"] = True
    known = row.explanation
    if known is not None:
        if known.histogram is not None:
            shown = known.histogram if known.curve else known.histogram.merged(SHOWN_BINS)
            found["histogram"] = as_dict(shown)
        if known.curve is not None:
            every = as_dict(known)
            found["explanation"] = {name: every[name] for name in EXPLAINED}
            found["words"] = sentences(row)
    if row.units is not None:
        found["units"] = _units(row)
        found["words"] = sentences(row)
    return found if change is None else found | {"change": _change(change)}


EXPLAINED = ("levels", "objective", "weight", "curve", "methods", "nearby", "without")


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in NOTHING and value is not False}


def _label(name: str) -> dict[str, str]:
    """The text that is shown for a name with control characters."""
    shown = escape(name)
    return {} if shown == name else {"label": shown}


def _units(row: Row) -> dict[str, Any]:
    """The worst SQNR of some neighbouring units each, and of all."""
    assert row.units is not None
    values = row.units.sqnr_db.tolist()
    each = -(-len(values) // SHOWN_CELLS)
    known = [[value for value in values[i : i + each] if not math.isnan(value)] for i in range(0, len(values), each)]
    cells = [shortest(min(some)) if some else None for some in known]
    low = min((cell for cell in cells if cell is not None), default=None)
    return {"per": row.per, "number": len(values), "each": each, "cells": cells, "low": low}


def _change(change: Change) -> dict[str, Any]:
    found: dict[str, Any] = {"status": change.status}
    if change.was is not None:
        found["was"] = _said(record(change.was, FIGURES))
        moved = {name: change.d(name) for name in CHANGE_FIELDS}
        found["d"] = {name: shortest(value) for name, value in moved.items() if value is not None}
    return found


def _missing(change: Change) -> dict[str, Any]:
    assert change.was is not None
    row = change.was
    known = _said(record(row, ("dtype", "shape", "numel")))
    place = {"name": row.name, "source": row.source, "status": "missing", "reason": change.reason, **_label(row.name)}
    return known | place | {"change": _change(change)}
