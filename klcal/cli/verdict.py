"""Whether the answer is good enough: ``--fail-on`` conditions, the exit code, and what stderr says of them."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from klcal.cli.messages import capped, line, of_table, say
from klcal.errors import ExitCode, UsageError
from klcal.pipeline.selection import BUG
from klcal.quantizers.per_unit import Numbers
from klcal.tables.table import FAILURES, NUMERIC_FIELDS, Difference, Row, Table
from klcal.writers.floats import shortest

__all__ = ["Condition", "Finding", "exit_code", "findings", "judge", "parse_condition"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FORM = "write FIELD OP NUMBER, such as 'sqnr_db < 20'"


@dataclass(frozen=True)
class Condition:
    """A comparison that no row should meet."""

    field: str
    op: str
    number: float

    def met_by(self, row: Row | Difference) -> str | None:
        """What meets it: the row's value, as the JSON has it, or the worst of its units. What is missing meets none."""
        found: float | Numbers | None = getattr(row, self.field)
        of_units = isinstance(found, Numbers)
        values = found if isinstance(found, Numbers) else (found,)
        met = [(value, unit) for unit, each in enumerate(values) if (value := self._met(each)) is not None]
        if not met:
            return None
        value, unit = min(met) if self.op in ("<", "<=") else max(met)
        text = f"{self.field} {value!r} {self.op} {self.number:g}"
        return f"{text} in unit {unit}, {len(met)} of {len(values)} units" if of_units else text

    def _met(self, value: float | None) -> float | None:
        if isinstance(value, float) and math.isfinite(value):
            value = shortest(value)
        return value if value is not None and OPERATORS[self.op](value, self.number) else None


class Finding(NamedTuple):
    """A row that met a condition, or that none could be tried on."""

    source: str
    name: str
    text: str


def parse_condition(text: str, fields: Sequence[str] = NUMERIC_FIELDS) -> Condition:
    """The condition of ``FIELD OP NUMBER``.

    Raises:
        UsageError: the text is no condition, or there is no such field.

    >>> parse_condition("sqnr_db<20")
    Condition(field='sqnr_db', op='<', number=20.0)
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*", text)
    if match is None:
        raise UsageError(f"--fail-on '{text}' is not a condition", f"{FORM}; OP is one of {' '.join(OPERATORS)}")
    field, op, number = match.groups()
    if field not in fields:
        near = difflib.get_close_matches(field, fields, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--fail-on '{text}': no field '{field}'", f"{hint}use one of {', '.join(fields)}")
    return Condition(field, op, _number(text, number))


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--fail-on '{text}': '{number}' is not a number", FORM)
    return value


def findings(table: Table, conditions: Sequence[Condition]) -> Iterator[Finding]:
    """Every row that meets a condition, or has nothing to be compared with, in the order of the table."""
    for row in table.rows:
        if conditions and row.status in ("missing", "extra"):
            yield Finding(row.source, row.name, row.reason or row.status)
        for condition in conditions:
            if (text := condition.met_by(row)) is not None:
                yield Finding(row.source, row.name, text)


def exit_code(table: Table, found: Sequence[Finding] = ()) -> ExitCode:
    """What the process ends in: all zeros is an answer too, and a lost tensor outweighs a finding, a bug both."""
    if not any(row.status in ("ok", "zero") for row in table.rows):
        return ExitCode.NOTHING_USABLE
    reasons = [*(row.reason or "" for row in table.rows), *(error.reason for error in table.errors)]
    if any(reason.startswith(BUG) for reason in reasons):
        return ExitCode.BUG
    if table.errors or any(row.failed if isinstance(row, Row) else row.status in FAILURES for row in table.rows):
        return ExitCode.PARTIAL
    return ExitCode.FINDINGS if found else ExitCode.DONE


def judge(table: Table, conditions: Sequence[Condition]) -> ExitCode:
    """Say on stderr what the answer does not, and how it is to be taken."""
    found = list(findings(table, conditions))
    code = exit_code(table, found)
    say(of_table(table, code))
    say(capped([line(each.source, each.name, text=each.text) for each in found]))
    return code
