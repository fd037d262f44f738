"""SARIF 2.1.0, for code scanning: a result for each report, and a rule for each rule that was met."""

from __future__ import annotations

import hashlib
from typing import Any, TextIO
from urllib.parse import quote

from klcal.tables.table import Table
from klcal.writers.floats import shortest
from klcal.writers.records import dump
from klcal.writers.reports import FAILED, Report, place, reports
from klcal.writers.text import escape

__all__ = ["write"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "klcal/v1"  # of source, tensor and rule: the same finding in the next run has the same
MEANING = {FAILED: "the tensor, or the file, could not be read or calibrated"}


def write(table: Table, out: TextIO) -> None:
    """One run, a result on each line, ASCII only."""
    from importlib.metadata import version

    told = list(reports(table))
    rules = list(dict.fromkeys(each.rule for each in told))
    number = {rule: index for index, rule in enumerate(rules)}
    described = [{"id": rule, "shortDescription": {"text": MEANING.get(rule, f"--fail-on '{rule}'")}} for rule in rules]
    driver = {"name": "klcal", "version": version("klcal"), "rules": described}
    out.write(f'{{"$schema": {dump(SCHEMA)},\n "version": "2.1.0",\n "runs": [{{"tool": {dump({"driver": driver})},\n')
    out.write('  "columnKind": "unicodeCodePoints",\n  "results": [')
    out.writelines(
        (",\n   " if count else "\n   ") + dump(_result(table, each, number[each.rule]))
        for count, each in enumerate(told)
    )
    out.write("]\n }]\n}\n")


def _result(table: Table, report: Report, rule: int) -> dict[str, Any]:
    uri = quote(place(table, report) or "-", safe="/", errors="surrogatepass")
    where: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}
    if report.name:
        where["logicalLocations"] = [{"fullyQualifiedName": report.name, "kind": "variable"}]
    identity = "\0".join((report.source, report.name, report.rule))
    return {
        "ruleId": report.rule,
        "ruleIndex": rule,
        "level": "error",
        "message": {"text": escape(report.whole)},
        "locations": [where],
        "partialFingerprints": {FINGERPRINT: hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()},
        "properties": _properties(report),
    }


def _properties(report: Report) -> dict[str, Any]:
    found = report.finding
    if found is None:
        return {"source": report.source}
    return {
        "source": report.source,
        "was": _number(found.was),
        "is": _number(found.now),
        "unit": found.unit,
        "units": found.units,
    }


def _number(value: float | str | None) -> float | str | None:
    return shortest(value) if isinstance(value, float) else value
