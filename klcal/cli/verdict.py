"""Whether the answer is good enough: ``--fail-on`` conditions, the exit code, and what stderr says of them.

A condition is on a number of the row, on ``scale``, ``zero_point``, ``low`` and ``high`` of each unit where units have
their own, and on any number of the worst unit as ``unit.FIELD``.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from klcal.cli.messages import capped, line, of_table, say
from klcal.errors import ExitCode, UsageError
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.schema import NUMERIC_FIELDS, UNIT_FIELDS
from klcal.tables.table import Table
from klcal.tables.units import Units
from klcal.writers.floats import printed, shortest

__all__ = ["Condition", "Finding", "exit_code", "findings", "judge", "parse_condition"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
QUANTIZER_FIELDS = ("scale", "zero_point", "low", "high")  # of which a row with units has none of its own
OF_UNITS = "unit."  # before a field: of the worst unit
FORM = "write FIELD OP NUMBER, such as 'sqnr_db < 20'"


@dataclass(frozen=True)
class Condition:
    """A comparison that no row should meet, and where it says so, no unit of one."""

    field: str
    op: str
    number: float
    of_units: bool = False

    def met_by(self, row: Row | Difference) -> str | None:
        """What meets it: the row's value, as the JSON has it, or the worst of its units. What is missing meets none."""
        units = row.units if isinstance(row, Row) else None
        if units is not None and (self.of_units or self.field in QUANTIZER_FIELDS):
            return self._met_by_units(units)
        value = getattr(row, self.field)
        if isinstance(value, float) and math.isfinite(value):
            value = shortest(value)
        if value is None or not OPERATORS[self.op](value, self.number):
            return None
        return f"{self.field} {value!r} {self.op} {self.number:g}"

    def _met_by_units(self, units: Units) -> str | None:
        values = getattr(units, self.field)
        if values is None:
            return None
        import numpy as np  # a run with units has it

        met = np.flatnonzero(cast(Any, OPERATORS[self.op])(values := printed(values), self.number))
        if not met.size:
            return None
        unit = met[(np.argmin if self.op in ("<", "<=") else np.argmax)(values[met])]
        value = int(values[unit]) if self.field == "zero_point" else float(values[unit])
        return f"{self.field} {value!r} {self.op} {self.number:g} in unit {unit}, {met.size} of {len(units)} units"


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
    Condition(field='sqnr_db', op='<', number=20.0, of_units=False)
    """
    match = re.fullmatch(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*([^\s<>=]+)\s*", text)
    if match is None:
        raise UsageError(f"--fail-on '{text}' is not a condition", f"{FORM}; OP is one of {' '.join(OPERATORS)}")
    field, op, number = match.groups()
    known = (*fields, *(OF_UNITS + each for each in UNIT_FIELDS)) if fields == NUMERIC_FIELDS else fields
    if field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--fail-on '{text}': no field '{field}'", f"{hint}use one of {', '.join(known)}")
    return Condition(field.removeprefix(OF_UNITS), op, _number(text, number), field.startswith(OF_UNITS))


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
    if any(each.cause == "bug" for each in (*table.rows, *table.errors)):
        return ExitCode.BUG
    if table.errors or any(row.failed for row in table.rows):
        return ExitCode.PARTIAL
    return ExitCode.FINDINGS if found else ExitCode.DONE


def judge(table: Table, conditions: Sequence[Condition]) -> ExitCode:
    """Say on stderr what the answer does not, and how it is to be taken."""
    found = list(findings(table, conditions))
    code = exit_code(table, found)
    say(of_table(table, code))
    say(capped([line(each.source, each.name, text=each.text) for each in found]))
    return code
