"""One tensor in two tables: its row in the baseline and its row now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from klcal.tables.rows import Row
from klcal.tables.schema import CHANGE_FIELDS, NUMERIC_FIELDS, RELATIVE
from klcal.tables.singles import single, singles
from klcal.tables.units import Units

__all__ = ["WORDS", "Change", "Kind", "change", "changes_of_units", "is_bare", "known", "known_of_units", "same_place"]

Kind = Literal["same", "changed", "missing", "extra"]

WORDS = ("status", "dtype", "shape", "target", "scheme", "method", "per", "scale_format", "importance")
"""The fields of a row that are not numbers and say how its tensor is quantized."""
OF_BARE = ("status", "target", "per", "scale", "zero_point")
"""The fields to compare where one side is a file of scales alone, which has no figures."""

LACKED_ONCE = ("per", "scale_format")
"""Words that older tables do not have."""

OF_ONE_SIDE = ("status", "dtype", "shape", "target", "scale", "zero_point", "sqnr_db")
"""The fields to show of a row that the other table lacks."""


@dataclass(frozen=True, eq=False)
class Change:
    """A row of the baseline and the row of the same tensor now; one of them is None where only one table has it.

    Numbers are compared as tables keep them. A field that only one row has is no difference where the other is from
    a file that has scales and nothing else.
    """

    was: Row | None
    now: Row | None

    @property
    def row(self) -> Row:
        """The row of now, or else that of the baseline."""
        found = self.was if self.now is None else self.now
        assert found is not None
        return found

    @property
    def source(self) -> str:
        """The tensor's file; the baseline's if the other table does not say it."""
        return self.row.source or (self.was.source if self.was is not None else "")

    @property
    def name(self) -> str:
        """The tensor's name now."""
        return self.row.name

    @cached_property
    def status(self) -> Kind:
        """The status of the change, as in comparisons, with the baseline as P."""
        if self.now is None:
            return "missing"
        if self.was is None:
            return "extra"
        return "changed" if self.changed or self.units_changed else "same"

    failed, cause = False, None  # reading a table cannot fail here; rows have the failures of their calibration

    @property
    def reason(self) -> str | None:
        """Why the tensor has no row, or no longer has a scale."""
        if self.now is None:
            return "the baseline has it"
        if self.was is None:
            return "the baseline does not have it"
        return self.now.reason if self.was.status != self.now.status else None

    @property
    def note(self) -> None:
        """None: the notes are in the two tables."""

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """The fields that differ."""
        if self.was is None or self.now is None:
            return ()
        bare = is_bare(self.was) or is_bare(self.now)
        may_lack = set(OF_BARE) if bare else set(WORDS) if self.was.status != self.now.status else set(LACKED_ONCE)
        found = []
        for name in OF_BARE if bare else (*WORDS, *NUMERIC_FIELDS):
            if name != "per" and getattr(self.was, name) == getattr(self.now, name):
                continue  # most are equal
            was, now = _comparable(self.was, name), _comparable(self.now, name)
            if name == "per" and self.was.units is not None and self.now.units is not None:
                was, now = _where(self.was.units), _where(self.now.units)
            if was != now and not (name in may_lack and (was is None or now is None)):
                found.append(name)
        return tuple(found)

    @cached_property
    def units_changed(self) -> int:
        """The number of units whose scale, zero point or status differs; 0 if the two sides have other units."""
        pair = self.units
        if pair is None:
            return 0
        was, now = pair
        differ = _unequal(singles(was.scale), singles(now.scale))
        if was.zero_point is not None and now.zero_point is not None:
            differ = differ | _unequal(was.zero_point, now.zero_point)
        for status, other in ((was.status, now.status), (now.status, was.status)):
            if status is not None:
                differ = differ | (status != ("ok" if other is None else other))
        return int(differ.sum())

    @cached_property
    def unit(self) -> int | None:
        """The unit whose scale moved most; None if no unit has a scale in both tables."""
        worst = None if self.units is None else self._worst_unit(self.units, "scale")
        return None if worst is None else worst[0]

    @property
    def units(self) -> tuple[Units, Units] | None:
        """The units of both sides, if they are the same units."""
        was, now = (None if row is None else row.units for row in (self.was, self.now))
        return (was, now) if was is not None and now is not None and same_place(was, now) else None

    def d(self, field: str) -> float | None:
        """The change of a number: relative for scale and mse, in the field's own units for all others.

        Where units have it, that of the unit in which it is largest. None where a side does not know it.
        """
        if self.was is None or self.now is None:
            return None
        if field not in OF_BARE and (is_bare(self.was) or is_bare(self.now)):
            return None
        if (pair := self.units) is not None and field in ("scale", "zero_point", "low", "high"):
            worst = self._worst_unit(pair, field)
            return None if worst is None else worst[1]
        return change(field, known(self.was, field), known(self.now, field))

    def _worst_unit(self, pair: tuple[Units, Units], field: str) -> tuple[int, float] | None:
        """The unit that moved most in a number, and how far; None if no unit has the number in both tables."""
        import numpy as np

        moved = changes_of_units(field, *(known_of_units(each, field) for each in pair))
        known_ones = np.flatnonzero(~np.isnan(moved))
        if not known_ones.size:
            return None
        unit = int(known_ones[np.abs(moved[known_ones]).argmax()])
        return unit, float(moved[unit])

    def values(self) -> dict[str, object]:
        """The fields of the JSON: those that differ, with their old and new values."""
        changed = [*self.changed, *(["units"] if self.units_changed else [])]
        found: dict[str, object] = {"name": self.name, "source": self.source, "status": self.status}
        found |= {"reason": self.reason, "changed": changed}
        found |= {f"d.{field}": self.d(field) for field in CHANGE_FIELDS}
        found["unit"] = self.unit
        found["units_changed"] = self.units_changed if self.units is not None else None
        shown = self.changed if self.was is not None and self.now is not None else OF_ONE_SIDE
        for key, row in (("was", self.was), ("is", self.now)):
            found[key] = None if row is None else {name: getattr(row, name) for name in shown}
        return found


def is_bare(row: Row) -> bool:
    """Whether the row is from a runtime's file, which has scales or ranges and nothing else."""
    return row.status == "ok" and all(each is None for each in (row.dtype, row.shape, row.method, row.numel))


def _comparable(row: Row, name: str) -> object:
    """A field in the precision that tables keep."""
    value = getattr(row, name)
    if isinstance(value, float):
        return single(value) if math.isfinite(value) else None
    return value


def same_place(one: Units, other: Units) -> bool:
    """Whether both rows have the same channels, groups or blocks."""
    return _where(one) == _where(other)


def _where(units: Units) -> object:
    return units.axis, units.size, units.shape


def known(row: Row, field: str) -> float | None:
    """A number of a row in the precision of tables, with nulls resolved; None if it is not known."""
    value: float | None = getattr(row, field)
    if value is None and row.status == "ok" and row.mse is not None:
        if field == "kl":  # no cell is cut
            return 0.0
        return math.inf if field == "sqnr_db" and row.mse == 0 else None
    return single(value) if isinstance(value, float) and math.isfinite(value) else value


def known_of_units(units: Units, field: str) -> Any:
    """The numbers of each unit: float64 (units,), NaN where a number is not known."""
    import numpy as np

    column = getattr(units, field)
    values = np.full(len(units), math.nan) if column is None else singles(column)
    if field == "kl":
        return np.where(np.isnan(values) & ~np.isnan(units.mse), 0.0, values)
    return np.where(units.mse == 0, math.inf, values) if field == "sqnr_db" else values


def change(field: str, was: float | None, now: float | None) -> float | None:
    """How far a number has moved: relative for scale and mse, in the field's own units for all others.

    >>> change("scale", 0.5, 0.75), change("sqnr_db", 40.0, 39.0), change("mse", 0.0, 0.0), change("kl", None, 0.1)
    (0.5, -1.0, 0.0, None)
    """
    if was is None or now is None:
        return None
    if was == now:  # infinities, too
        return 0.0
    if field not in RELATIVE:
        return now - was
    return (now - was) / was if was else math.copysign(math.inf, now)


def changes_of_units(field: str, was: Any, now: Any) -> Any:
    """How far the numbers of each unit have moved: float64 (units,)."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        moved = (now - was) / was if field in RELATIVE else now - was
    return np.where(was == now, 0.0, moved)


def _unequal(one: Any, other: Any) -> Any:
    return (one != other) & ~((one != one) & (other != other))
