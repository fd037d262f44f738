"""GitHub's workflow commands, printed in a job: each report becomes an annotation.

A step shows ten annotations of a kind, so the worst come first.
"""

from __future__ import annotations

from typing import TextIO

from klcal.tables.table import Table
from klcal.writers.people import headline
from klcal.writers.reports import place, reports
from klcal.writers.text import escape

__all__ = ["write"]

OF_MESSAGES = {"%": "%25", "\r": "%0D", "\n": "%0A"}
OF_PROPERTIES = {**OF_MESSAGES, ":": "%3A", ",": "%2C"}
"""Escapes of characters that would end a command or a property of it, as in GitHub's own toolkit."""


def write(table: Table, out: TextIO) -> None:
    """A notice with the headline, and a line for each report."""
    out.write(f"::notice title=klcal::{_escaped(headline(table), OF_MESSAGES)}\n")
    for each in reports(table):
        properties = {"file": place(table, each), "title": f"klcal: {each.rule}"}
        told = ",".join(f"{key}={_escaped(value, OF_PROPERTIES)}" for key, value in properties.items() if value)
        out.write(f"::error {told}::{_escaped(each.whole, OF_MESSAGES)}\n")


def _escaped(text: str, special: dict[str, str]) -> str:
    return escape(text).translate({ord(char): code for char, code in special.items()})
