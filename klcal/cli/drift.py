"""What ``klcal check`` and ``klcal diff`` have in common: rules that are asked for, findings, and what stderr says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from klcal.cli.messages import capped, line, say
from klcal.cli.output import choose_format
from klcal.cli.rules import DEFAULTS, Rule, drift, parse_rule
from klcal.errors import ExitCode
from klcal.tables.findings import Finding
from klcal.tables.table import Changes, Table
from klcal.writers import WRITERS, Writer

__all__ = ["asked_rules", "drifted", "told_of_drift", "writer_of"]


def asked_rules(fail_on: Sequence[str] | None) -> list[Rule]:
    """The rules of the command line, or ours.

    Raises:
        UsageError: one is no rule, or nothing can meet it.
    """
    return [parse_rule(text, is_ours=not fail_on) for text in fail_on or DEFAULTS]


def writer_of(format_: str, output: str | None) -> Writer:
    """Who writes changes.

    Raises:
        UsageError: the format is not known, or only for tables of scales.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    texts_only = "it is for scales, not for what changed between them"
    return WRITERS[choose_format(format_, output, terminal=is_terminal, texts_only=texts_only)]


def drifted(changes: Table, rules: Sequence[Rule]) -> Table:
    """Those that are not the same, and what of all met a rule."""
    rows: tuple[Any, ...] = tuple(row for row in changes.rows if row.status != "same")
    return replace(changes, rows=rows, findings=drift(changes, rules))


def told_of_drift(changes: Table) -> ExitCode:
    """Say what met a rule, and how the answer is to be taken."""
    say(capped([_line(each) for each in changes.findings]))
    if not changes.usable:
        assert isinstance(changes.config, Changes)
        config = changes.config
        what = f"nothing could be judged: no tensor with a scale in {config.baseline} is in {config.compared}"
        say([line(kind="error", text=f"{what}; compare tables of the same tensors")])
        return ExitCode.NOTHING_USABLE
    return ExitCode.FINDINGS if changes.findings else ExitCode.DONE


def _line(found: Finding) -> str:
    return line(found.source, found.name, text=found.text)
