"""One tensor of a table as plain Python values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from klcal.errors import UsageError
from klcal.tables.explanation import Explanation
from klcal.tables.schema import UNIT_FIELDS
from klcal.tables.status import FAILURES, STATUSES, Cause, Status
from klcal.tables.units import Units

__all__ = ["Row"]

OF_ALL_UNITS = (
    *("min", "max", "numel", "zeros", "nan", "neg_inf", "pos_inf"),
    *("rounded_to_zero", "cause", "units", "explanation"),
)
"""Fields that are known of a tensor, but not of each unit."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tensor. A field that does not apply is None: there are no plausible defaults.

    A row has everything that quantizing needs: ``target`` with ``qmin`` and ``qmax``, ``scale`` and ``zero_point``. If
    channels, groups or blocks have their own scales, these are in ``units``, and ``scale``, ``zero_point``, ``low`` and
    ``high`` of the row are None. ``low`` and ``high`` are the ends of the range of quantized values.

    Figures are of the whole tensor, over all finite values, zeros included, for the scale as printed: ``mse``,
    ``sqnr_db`` and ``clipped`` (the share of values that round beyond qmin or qmax); ``rounded_to_zero`` is the share
    of nonzero values that become 0. ``kl`` is D(P‖Q) on the sub-bins of the chosen scale, in nats, over the nonzero
    values; with several units it is their mean, weighted by their numbers of nonzero values.

    ``name`` and ``source`` are empty for values in memory. ``shape`` and ``aliases`` may be lists, and ``units`` a
    mapping, as JSON has them.
    """

    name: str = ""
    source: str = ""
    dtype: str | None = None  # of the values, as the file names it
    shape: tuple[int, ...] | None = None
    status: Status
    reason: str | None = None
    cause: Cause | None = None  # of a failure
    note: str | None = None  # differences from the request, and their reasons; several notes are joined by "; "
    target: str | None = None  # the number format that values are quantized to
    scheme: str | None = None
    method: str | None = None
    per: str | None = None  # the unit that gets a scale, with its axis
    scale_format: str | None = None
    importance: bool = False  # whether the choice gave values different weights; figures never do
    scale: float | None = None
    global_scale: float | None = None  # float32: every scale is a float8 times this
    zero_point: int | None = None
    qmin: int | None = None
    qmax: int | None = None
    low: float | None = None
    high: float | None = None
    min: float | None = None
    max: float | None = None
    numel: int | None = None
    zeros: int | None = None
    nan: int | None = None
    neg_inf: int | None = None
    pos_inf: int | None = None
    kl: float | None = None
    mse: float | None = None
    sqnr_db: float | None = None
    clipped: float | None = None
    rounded_to_zero: float | None = None
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)
    unit: int | None = None  # the number of the unit, if the row is of one unit
    units: Units | None = None
    explanation: Explanation | None = field(
        default=None, compare=False
    )  # where it was asked for; no field of the table

    def __post_init__(self) -> None:
        for name in ("shape", "aliases"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if self.status not in STATUSES:
            raise UsageError(f"the status of a row is {self.status!r}", f"it is one of {', '.join(STATUSES)}")
        units: Any = self.units
        if units is not None and not isinstance(units, Units):
            object.__setattr__(self, "units", Units.of(units))
        if self.cause is None and self.status in FAILURES:
            object.__setattr__(self, "cause", "data")

    def to_dict(self) -> dict[str, object]:
        """The fields of the JSON as plain Python values. ``klcal.Row(**row.to_dict())`` quantizes alike."""
        found: dict[str, object] = import_module("klcal.writers.records").as_dict(self)
        return found

    def __repr__(self) -> str:
        names = ("name", "unit", "status", "reason", "target", "scale", "zero_point", "units", "kl", "sqnr_db")
        known = {name: getattr(self, name) for name in names}
        shown = ", ".join(f"{name}={_short(value)}" for name, value in known.items() if value not in (None, ""))
        return f"Row({shown})"

    def _repr_html_(self) -> str:
        """The row in a notebook, as HTML."""
        found: str = import_module("klcal.writers.html").of_row(self)
        return found

    @property
    def failed(self) -> bool:
        """Whether the tensor, or one of its units, should have a scale and has none."""
        statuses = set() if self.units is None or self.units.status is None else set(self.units.status)
        return self.status in FAILURES or not FAILURES.isdisjoint(statuses)

    def each_unit(self) -> Iterator[Row]:
        """A row for each unit, in their order; the row itself if it has no units."""
        units = self.units
        if units is None:
            yield self
            return
        lacking: dict[str, Any] = dict.fromkeys(OF_ALL_UNITS)
        for number in range(len(units)):
            own = {name: _item(getattr(units, name), number) for name in UNIT_FIELDS}
            point = own.pop("zero_point")
            status: Status = self.status if units.status is None else units.status[number]
            reason = None if status == "ok" else self.reason
            whole = None if point is None else int(point)
            known: dict[str, Any] = {**lacking, **own, "zero_point": whole, "status": status, "reason": reason}
            ends: dict[str, Any] = {} if status == "ok" else {"qmin": None, "qmax": None}
            yield replace(self, unit=number, **known, **ends)


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else repr(value)


def _item(values: Any, number: int) -> float | None:
    """The number of a unit, or None for NaN."""
    if values is None or math.isnan(values[number]):
        return None
    return float(values[number])
