"""Conditions of `--fail-on`: their grammar, whether any value can meet them, and which rows do.

A condition is on a number of the row; on ``scale``, ``zero_point``, ``low`` and ``high`` of each unit, if units have
their own; or, as ``unit.FIELD``, on any number of the worst unit. Infinity is larger than any number. An unknown number
meets every condition, so that a gate fails rather than passes when in doubt. In a comparison of two tables, ``d.FIELD``
is the change of a number, which ``klcal.pipeline.rules`` tests.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from klcal.errors import UsageError
from klcal.tables.differences import Difference
from klcal.tables.findings import Finding
from klcal.tables.rows import Row
from klcal.tables.schema import BASES, NUMERIC_FIELDS, RELATIVE, UNIT_FIELDS
from klcal.tables.units import Units
from klcal.writers.floats import printed, shortest

__all__ = ["OPERATORS", "QUANTIZER_FIELDS", "SHARES", "Condition", "Met", "parse_condition"]

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
QUANTIZER_FIELDS = ("scale", "zero_point", "low", "high")  # numbers that a row with units does not have itself
OF_INTEGERS = ("zero_point", "qmin", "qmax")  # which floating-point formats lack
OF_UNITS = "unit."  # before a field: of the worst unit
OF_CHANGE = "d."  # before a field, or before that: how far it moved from the baseline
FORM = "write FIELD OP NUMBER, such as 'sqnr_db < 20'"
TEXT = re.compile(r"\s*(\|?)\s*([\w.]+)\s*(\|?)\s*(<=|>=|<|>)\s*([^\s<>=%]+)\s*(%?)\s*")
ALIKE = 0.7  # of two names, of 1: "sqnr" and "sqnr_db" are, "cosine" and "pos_inf" (0.62) are not
SETTLED = ("zero", "empty", "skipped")  # rows that lack a number because they need none

SHARES = ("clipped", "rounded_to_zero")
LIMITS = {
    **dict.fromkeys(("numel", "zeros", "nan", "neg_inf", "pos_inf", "kl", "mse", "global_scale"), (0.0, math.inf)),
    **dict.fromkeys(("kl_common", "reverse_kl", "cross_entropy", "entropy", "other_entropy"), (0.0, math.inf)),
    **dict.fromkeys(("wasserstein", "max_abs_diff", "high"), (0.0, math.inf)),
    **dict.fromkeys(SHARES, (0.0, 1.0)),
    "low": (-math.inf, 0.0),
    "zero_point": (-(2.0**15), 2.0**16 - 1),
    "qmin": (-(2.0**15), 1.0),
    "qmax": (1.0, 2.0**16 - 1),
    "cosine": (-1.0, 1.0),
}
"""The bounds between which a field lies for every tensor."""


class Met(NamedTuple):
    """A condition that was met: in words, and the numbers, if they are known."""

    text: str
    was: float | str | None = None
    now: float | str | None = None
    unit: int | None = None
    units: int | None = None
    excess: float = math.inf  # how far beyond the limit, as a multiple of it

    def finding(self, source: str, name: str, rule: str) -> Finding:
        """The finding that a tensor has met a rule."""
        return Finding(source=source, name=name, rule=rule, **self._asdict())


@dataclass(frozen=True)
class Condition:
    """A comparison that no row should meet, and where it says so, no unit of one, or no change of either."""

    field: str
    op: str
    number: float
    of_units: bool = False
    of_change: bool = False
    is_size: bool = False  # the sign does not count
    text: str = ""

    def met_by(self, row: Row | Difference) -> Met | None:
        """The value that meets the condition, in words: of the row, as in the JSON, or of its worst unit; or "unknown".

        None if the condition is not met. Numbers that a row without a scale does not have meet no condition: the row
        needs no scale, or its failure is reported.
        """
        units = row.units if isinstance(row, Row) else None
        if units is not None and (self.of_units or self.field in QUANTIZER_FIELDS):
            return self._met_by_units(row, units)
        value = _known(row, self.field)
        if value is None:
            return None if row.status in SETTLED or row.failed else self._unknown(row)
        if not OPERATORS[self.op](value, self.number):
            return None
        return Met(f"{self.field} {value!r} {self.tail}", now=value, excess=self.excess(value))

    def _met_by_units(self, row: Row | Difference, units: Units) -> Met | None:
        import numpy as np  # a run with units has it

        values, ok = _of_units(row, units, self.field)
        if np.isnan(values[ok]).any():
            return self._unknown(row)
        found = self.worst(values, ok)
        if found is None:
            return None
        unit, count = found
        value = int(values[unit]) if self.field == "zero_point" else float(values[unit])
        text = f"{self.field} {value!r} {self.tail} in unit {unit}, {count} of {len(units)} units"
        return Met(text, None, value, unit, count, self.excess(value))

    def worst(self, values: Any, ok: Any) -> tuple[int, int] | None:
        """The unit whose value is furthest beyond the limit, and how many are; None if none is."""
        import numpy as np

        met = np.flatnonzero(ok & cast(Any, OPERATORS[self.op])(values, self.number))
        if not met.size:
            return None
        return int(met[(np.argmin if self.op in ("<", "<=") else np.argmax)(values[met])]), int(met.size)

    def excess(self, value: float) -> float:
        """How far a value is beyond the limit, as a multiple of that, or of 1 where it is 0."""
        return abs(value - self.number) / (abs(self.number) or 1.0)

    @property
    def tail(self) -> str:
        """The end of the text, behind the value."""
        return f"{self.op} {self.number:g}"

    def _unknown(self, row: Row | Difference) -> Met:
        """The text for an unknown value: the reason, and the next step."""
        why = row.reason
        if why is None and isinstance(row, Difference):
            why = next((note for note in (row.note or "").split("; ") if note.startswith("no ")), None)
        elif isinstance(row, Row) and row.status == "ok":
            lacking = f"{row.target} has none" if row.target and self.field in OF_INTEGERS else "it is not in the table"
            why = "its scale is relative to none" if self.field == "global_scale" else lacking
        return Met(f"{self.field} {self.tail} cannot be tried: {why or 'it is not known'}; judge it by another field")


def _known(row: Row | Difference, field: str) -> float | None:
    """A number of a row as in the JSON, or the number that a null stands for; None if it is unknown."""
    value: float | None = getattr(row, field)
    if value is None and isinstance(row, Row) and row.status == "ok" and row.mse is not None:
        if field == "kl":  # no cell is cut
            return 0.0
        return math.inf if field == "sqnr_db" and row.mse == 0 else None
    return shortest(value) if isinstance(value, float) and math.isfinite(value) else value


def _of_units(row: Row | Difference, units: Units, field: str) -> tuple[Any, Any]:
    """The numbers of all units, (units,), NaN if unknown; and a mask, (units,), of those that have a scale."""
    import numpy as np

    ok = np.full(len(units), row.status == "ok") if units.status is None else units.status == "ok"
    column = getattr(units, field)
    values = np.full(len(units), math.nan) if column is None else printed(column)
    if field == "kl":
        values = np.where(np.isnan(values), 0.0, values)
    elif field == "sqnr_db":
        values = np.where(units.mse == 0, math.inf, values)
    return values, ok


def parse_condition(
    text: str, fields: Sequence[str] = NUMERIC_FIELDS, base: str = "e", words: Sequence[str] = ()
) -> Condition:
    """The condition of ``FIELD OP NUMBER``, for a share also ``FIELD OP NUMBER%``.

    Args:
        text: the condition.
        fields: the fields there are.
        base: of the logarithms of a comparison.
        words: rules beside conditions, where two tables are compared: there are changes of fields then, too.

    Raises:
        UsageError: the text is no condition, there is no such field, or nothing can meet it.

    >>> parse_condition("sqnr_db<20").number, parse_condition("clipped > 1%").number
    (20.0, 0.01)
    >>> found = parse_condition("|d.unit.scale| > 2%", words=["missing"])
    >>> found.field, found.of_units, found.of_change, found.is_size
    ('scale', True, True, True)
    """
    match = TEXT.fullmatch(text)
    if match is None or match[1] != match[3]:
        hint = f"{_meant(text.strip(), words)}{_form(words)}; OP is one of {' '.join(OPERATORS)}"
        raise UsageError(f"--fail-on '{text}' is not a condition", hint)
    bar, name, _, op, number, percent = match.groups()
    known = tuple(_names(fields, changes=bool(words)))
    if name not in known:
        prefix = OF_CHANGE if words and name.startswith(OF_CHANGE) else ""
        fields_alone = [each for each in known if not each.startswith(OF_CHANGE)]
        hint = f"{_meant(name.removeprefix(prefix), fields_alone, prefix)}use one of {', '.join(known)}"
        raise UsageError(f"--fail-on '{text}': no field '{name}'", hint)
    plain = name.removeprefix(OF_CHANGE)
    field = plain.removeprefix(OF_UNITS)
    of_change = plain != name
    if bar and not of_change:
        raise UsageError(
            f"--fail-on '{text}': {name} is no change", f"write |{OF_CHANGE}{name}|, or {name} without bars"
        )
    if percent and field not in SHARES and not (of_change and field in RELATIVE):
        raise UsageError(f"--fail-on '{text}': {name} is no share", "write a number without a percent sign")
    value = _number(text, number, percent, words)
    condition = Condition(field, op, value, plain != field, of_change, bool(bar), text.strip())
    _check_limits(text, condition, base)
    return condition


def _meant(given: str, known: Sequence[str], prefix: str = "") -> str:
    """The nearest of some names, as a question; nothing where none is near."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=ALIKE)
    return f"did you mean {prefix}{near[0]}? " if near else ""


def _form(words: Sequence[str]) -> str:
    return f"write 'd.FIELD OP NUMBER', 'FIELD OP NUMBER', or one of {', '.join(words)}" if words else FORM


def _names(fields: Sequence[str], *, changes: bool) -> Iterator[str]:
    """The names that a condition may have, for rows with these fields."""
    known = (*fields, *(OF_UNITS + each for each in UNIT_FIELDS)) if fields == NUMERIC_FIELDS else fields
    yield from known
    yield from (OF_CHANGE + each for each in known if changes)


def _number(text: str, number: str, percent: str, words: Sequence[str]) -> float:
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--fail-on '{text}': '{number}' is not a number", _form(words))
    return value


def _check_limits(text: str, condition: Condition, base: str) -> None:
    """Raises UsageError for a condition that no value can meet: it would pass for ever."""
    bit = math.log(2) / math.log(BASES[base])
    low, high = {**LIMITS, "js": (0.0, bit)}.get(condition.field, (-math.inf, math.inf))
    name = condition.field
    if condition.of_change:
        name = f"the change of {name}"
        low, high = (-1.0, math.inf) if condition.field == "mse" else (low - high, high - low)
        if condition.field == "scale":  # relative, and of either sign
            low, high = -math.inf, math.inf
        low = 0.0 if condition.is_size else low
    extreme = low if condition.op in ("<", "<=") else high
    if math.isinf(extreme) or OPERATORS[condition.op](extreme, condition.number):
        return
    hint = "write a number that it can reach"
    if condition.field in SHARES and condition.number >= 1:
        hint = f"it is a share: write '{condition.field} {condition.op} {condition.number:g}%' for percent"
    side = "least" if extreme == low else "most"
    raise UsageError(f"--fail-on '{text}' can never be met: {name} is at {side} {extreme:g}", hint)
