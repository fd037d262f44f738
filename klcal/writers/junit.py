"""JUnit XML, as GitLab, Jenkins and others show it: a test case for each tensor.

The file is ASCII, and has nothing that changes from run to run: no times and no host names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape as html_escape
from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.people import headline
from klcal.writers.reports import FAILED, Report, reports
from klcal.writers.text import escape

__all__ = ["write"]

LEFT_OUT = ("skipped", "empty")  # which have no scale and need none


def write(table: Table, out: TextIO) -> None:
    """One suite, its cases in the order of the table, files that could not be read last."""
    of_tensor = defaultdict[tuple[str, str], list[Report]](list)
    for each in reports(table):
        of_tensor[each.source, each.name].append(each)
    by_tensor = {(row.source, row.name): (row.status, row.reason or row.status) for row in table.rows}
    cases = [(source, name, status, reason) for (source, name), (status, reason) in by_tensor.items()]
    cases += [(error.source, "", "ok", "") for error in table.errors]
    of_case = [of_tensor[source, name] for source, name, _, _ in cases]
    errors = sum(_is_error(some) for some in of_case)
    failures = sum(bool(some) for some in of_case) - errors
    skipped = sum(status in LEFT_OUT and not some for (_, _, status, _), some in zip(cases, of_case, strict=True))
    counts = {"tests": len(cases), "failures": failures, "errors": errors}
    out.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    out.write(f"<testsuites {_attributes(name='klcal', **counts)}>\n")
    out.write(f"<testsuite {_attributes(name=headline(table), **counts, skipped=skipped)}>\n")
    for (source, name, status, reason), some in zip(cases, of_case, strict=True):
        out.write(f"<testcase {_attributes(classname=source or 'klcal', name=name or source)}")
        inner = list(_told(some)) or ([f"<skipped {_attributes(message=reason)}/>"] if status in LEFT_OUT else [])
        out.write(f">{''.join(inner)}</testcase>\n" if inner else "/>\n")
    out.write("</testsuite>\n</testsuites>\n")


def _is_error(some: Sequence[Report]) -> bool:
    return any(each.rule == FAILED for each in some)


def _told(some: Sequence[Report]) -> Iterator[str]:
    """One element for a tensor, its first text as the message, all of them inside."""
    if some:
        tag = "error" if _is_error(some) else "failure"
        head = _attributes(message=some[0].text, type=some[0].rule)
        yield f"<{tag} {head}>{'&#10;'.join(_xml(each.text) for each in some)}</{tag}>"


def _attributes(**values: object) -> str:
    return " ".join(f'{key}="{_xml(str(value))}"' for key, value in values.items())


def _xml(text: str) -> str:
    """Text as XML text, without the control characters that XML does not have."""
    return html_escape(escape(text)).encode("ascii", "xmlcharrefreplace").decode()
