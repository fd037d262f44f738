"""Rules of `klcal check` and `klcal diff`: conditions on a tensor and on its changes, and words for kinds of change.

A number that is known on one side only meets every condition on its change. So does a number that is unknown on both
sides, unless the tensor needs no such number on either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from klcal.errors import InputError
from klcal.pipeline.conditions import OPERATORS, QUANTIZER_FIELDS, SHARES, Condition, Met, parse_condition
from klcal.tables.changes import WORDS, Change, change, changes_of_units, is_bare, known, known_of_units
from klcal.tables.findings import Finding, worst_first
from klcal.tables.rows import Row
from klcal.tables.schema import DEFAULT_RULES, RELATIVE
from klcal.tables.table import Changes, Table
from klcal.writers.floats import DIGITS, shortest

__all__ = ["RULE_WORDS", "Rule", "asked_rules", "differing", "drift", "drifted", "not_judged", "parse_rule"]

SIDES = ("missing", "extra")
RULE_WORDS = (*SIDES, "changed", *WORDS)
NEEDING_NONE = ("skipped", "empty")  # integers, tensors that are not weights, and empty ones: no scale is missed


@dataclass(frozen=True)
class Rule:
    """A word, or a condition. A default rule is tried only if both tables have the number, a user's always."""

    text: str
    condition: Condition | None = None
    is_ours: bool = False

    def met_by(self, found: Change) -> Met | None:
        """The way in which a change meets the rule; None if it does not."""
        was, now = found.was, found.now
        if self.condition is None:
            return _said(self.text, found)
        if now is None or (was is None and self.condition.of_change):
            return None  # which words are about
        met = _moved(self.condition, found) if self.condition.of_change else self.condition.met_by(now)
        is_unknown = met is not None and met.now is None
        return None if is_unknown and self.is_ours and _is_told(self.condition, found) else met


def parse_rule(text: str, *, is_ours: bool = False) -> Rule:
    """The rule of a text.

    Raises:
        UsageError: it is neither a known word nor a condition.

    >>> parse_rule("missing").text, parse_rule("d.scale > 2%").condition.number
    ('missing', 0.02)
    """
    word = text.strip()
    if word in RULE_WORDS:
        return Rule(word, is_ours=is_ours)
    return Rule(word, parse_condition(text, words=RULE_WORDS), is_ours)


def asked_rules(texts: Sequence[str] | None) -> list[Rule]:
    """The rules that are asked for, or ours.

    Raises:
        UsageError: one is no rule, or nothing can meet it.
    """
    return [parse_rule(text, is_ours=not texts) for text in texts or DEFAULT_RULES]


def drifted(changes: Table, rules: Sequence[Rule]) -> Table:
    """The changes, with findings for those that met a rule."""
    assert isinstance(changes.config, Changes)
    config = replace(changes.config, rules=tuple(rule.text for rule in rules))
    return replace(changes, config=config, findings=drift(changes, rules))


def differing(changes: Table) -> Table:
    """The changes, without the tensors that did not change."""
    rows: tuple[Any, ...] = tuple(row for row in changes.rows if row.status != "same")
    return replace(changes, rows=rows)


def not_judged(changes: Table) -> InputError:
    """The error for changes in which nothing could be compared."""
    assert isinstance(changes.config, Changes)
    sides = f"{changes.config.baseline} is in {changes.config.compared}"
    what = f"nothing could be judged: no tensor with a scale in {sides}"
    return InputError(what, "compare tables of the same tensors")


def drift(changes: Table, rules: Sequence[Rule]) -> tuple[Finding, ...]:
    """Every change that meets a rule, or may, the worst first."""
    rows: Iterable[Any] = changes.rows
    return worst_first(
        [
            met.finding(row.source, row.name, rule.text)
            for row in rows
            for rule in rules
            if (met := rule.met_by(row)) is not None
        ]
    )


def _is_told(condition: Condition, found: Change) -> bool:
    """Whether it is no news that a condition cannot be tried: a word is met, or neither table has such figures."""
    if not set(WORDS).isdisjoint(found.changed) or _other_statuses(found):
        return True
    field, sides = condition.field, (found.was, found.now)
    if field != "scale" and not any(_has(row, field) for row in sides):
        return True
    has_scales_alone = any(row is not None and is_bare(row) for row in sides)
    return has_scales_alone and field not in ("scale", "zero_point")


def _has(row: Row | None, field: str) -> bool:
    if row is None or row.units is None or field not in QUANTIZER_FIELDS:
        return row is not None and known(row, field) is not None
    column = getattr(row.units, field)
    return column is not None and bool((column == column).any())


# --- words


def _said(word: str, found: Change) -> Met | None:
    """The text of a finding by a word, if the word describes the change; else None."""
    was, now = found.was, found.now
    if word in SIDES:
        needs_scale = found.row.status not in NEEDING_NONE
        return Met(f"{word}: {found.reason}", *_sides(found)) if found.status == word and needs_scale else None
    if was is None or now is None:
        return None
    words = [each for each in WORDS if each != "status"] if word == "changed" else [word]
    differing = [each for each in words if each in found.changed]
    if word == "status" and not differing and (count := _other_statuses(found)):
        return Met(f"status of {count} of {len(now.units or ())} units is another one", units=count)
    if not differing:
        return None
    told = "; ".join(f"{each} was {_word(was, each)}, is {_word(now, each)}" for each in differing)
    because = f": {now.reason}" if differing == ["status"] and now.reason else ""
    sides = ["; ".join(_word(row, each) for each in differing) for row in (was, now)]
    return Met(told + because, sides[0], sides[1])


def _sides(found: Change) -> tuple[str | None, str | None]:
    """The status in either table."""
    was, now = (None if row is None else row.status for row in (found.was, found.now))
    return was, now


def _word(row: Row, name: str) -> str:
    """A word of a row as people write it."""
    value = getattr(row, name)
    if name == "per" and row.units is not None:
        return f"{value or row.units.per} of {len(row.units)} units along axis {row.units.axis}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _other_statuses(found: Change) -> int:
    """How many units have another status."""
    if found.units is None or all(each.status is None for each in found.units):
        return 0
    was, now = ("ok" if each.status is None else each.status for each in found.units)
    return int((was != now).sum())  # type: ignore[union-attr]  # one of them is an array


# --- changes


def _moved(condition: Condition, found: Change) -> Met | None:
    """The way in which a tensor in both tables meets a condition on a change; None if it does not."""
    was, now = found.was, found.now
    assert was is not None
    assert now is not None
    has_units = was.units is not None or now.units is not None
    if has_units and (condition.of_units or condition.field in QUANTIZER_FIELDS):
        if found.units is None:
            return None if was.status == now.status != "ok" else _unknown(condition, found)
        return _units_moved(condition, found)
    before, after = known(was, condition.field), known(now, condition.field)
    moved = change(condition.field, before, after)
    if moved is None:
        neither = before is None and after is None
        return None if neither and was.status == now.status != "ok" else _unknown(condition, found)
    if not OPERATORS[condition.op](abs(moved) if condition.is_size else moved, condition.number):
        return None
    return _met(condition, moved, before, after)


def _units_moved(condition: Condition, found: Change) -> Met | None:
    import numpy as np  # a table with units needs it

    assert found.units is not None
    was, now = found.units
    before, after = (known_of_units(each, condition.field) for each in (was, now))
    moved = changes_of_units(condition.field, before, after)
    ok, both = _are_ok(found)
    if (ok & ~both).any() or np.isnan(moved[both]).any():
        return _unknown(condition, found)
    sized = np.abs(moved) if condition.is_size else moved
    worst = condition.worst(sized, both)
    if worst is None:
        return None
    unit, count = worst
    met = _met(condition, float(moved[unit]), float(before[unit]), float(after[unit]))
    text = f"{met.text} in unit {unit}, {count} of {len(now)} units"
    return met._replace(text=text, unit=unit, units=count)


def _are_ok(found: Change) -> tuple[Any, Any]:
    """Which units have a scale in either table, and in both."""
    import numpy as np

    sides = []
    for row, units in zip((found.was, found.now), found.units or (), strict=True):
        assert row is not None
        sides.append(np.full(len(units), row.status == "ok") if units.status is None else units.status == "ok")
    return sides[0] | sides[1], sides[0] & sides[1]


def _met(condition: Condition, moved: float, before: float | None, after: float | None) -> Met:
    sides = tuple(_printed(condition.field, each) for each in (before, after))
    size = abs(moved) if condition.is_size else moved
    told, limit = (_told(condition, each) for each in (size, condition.number))
    sign = "+" * (moved > 0 and not condition.is_size)
    text = f"{_name(condition)} {sign}{told} {condition.op} {limit}: was {sides[0]}, is {sides[1]}"
    return Met(text, sides[0], sides[1], excess=condition.excess(size))


def _name(condition: Condition) -> str:
    name = f"d.{'unit.' * condition.of_units}{condition.field}"
    return f"|{name}|" if condition.is_size else name


def _told(condition: Condition, number: float) -> str:
    in_percent = condition.field in RELATIVE or condition.field in SHARES
    return f"{100 * number:.{DIGITS}g} %" if in_percent else f"{number:.{DIGITS}g}"


def _printed(field: str, value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return value
    return int(value) if field == "zero_point" else shortest(value)


def _unknown(condition: Condition, found: Change) -> Met:
    """The text of a finding whose condition cannot be tried, with the reason."""
    was, now = found.was, found.now
    assert was is not None
    assert now is not None
    if was.status != now.status:
        why = f"it was {was.status}, is {now.status}"
    elif was.units is not None and now.units is not None and found.units is None:
        why = "its units are other ones"
    elif found.units is not None and _other_statuses(found):
        why = "units have another status"
    elif (was.units is None) != (now.units is None):
        why = "units have scales in one table only"
    else:
        sides = [name for name, row in (("it was", was), ("it is", now)) if known(row, condition.field) is None]
        why = f"{' and '.join(sides)} not in the table" if sides else "it is not in both tables"
    return Met(f"{condition.text} cannot be tried: {why}; judge it by another field")
