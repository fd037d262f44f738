"""The answer: one row per tensor, or per pair of tensors, in plain Python values.

Everything left of this module computes, everything right of it formats. Schemas ``klcal.table/1`` and
``klcal.comparison/1``; a field is only ever added, a change of meaning makes ``/2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

from klcal.quantizers.per_unit import Numbers

__all__ = [
    "DIFFERENCE_FIELDS",
    "FAILURES",
    "NUMERIC_FIELDS",
    "Comparison",
    "Config",
    "Difference",
    "FileError",
    "Row",
    "Status",
    "Table",
]


Status = Literal[
    "ok",
    "zero",  # every value is 0: no scale is better than another
    "empty",  # no values
    "skipped",  # integers and bools are not calibrated
    "nonfinite",  # NaN or infinity among the values
    "underflow",  # the format of the scale has none so small
    "overflow",  # or none so great
    "unsupported",  # complex, object, sparse, already quantized, …
    "failed",  # damaged or unreadable
    "missing",  # only P has it: of a comparison, as the next one
    "extra",  # only Q has it
]

Number: TypeAlias = "float | Numbers | None"
"""A number, or one for each channel or group."""
WholeNumber: TypeAlias = "int | Numbers | None"

FAILURES: frozenset[Status] = frozenset({"nonfinite", "underflow", "overflow", "unsupported", "failed"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tensor. What does not apply is None: there are no plausible defaults.

    ``name`` and ``source`` are empty for values that were handed in by Python.

    ``kl`` is D(P‖Q) on the sub-bins of the chosen scale, in nats, over the nonzero values. Float32 values are seen
    through buckets of 0.1 % of their magnitude, evenly filled; so ``kl`` is an upper bound where there are only some
    hundred of them. float64 is rounded to float32 first.
    ``mse``, ``sqnr_db`` and ``clipped`` (the share of values that round beyond qmin or qmax) are
    over all finite values, for the scale as printed. ``low`` and ``high`` are what qmin and qmax
    stand for.

    Where channels or groups have a scale each, the numbers that differ are sequences: an item for each, in the order of
    the axes; ``axis`` is the one along which the channels, or the groups of ``group_size``, lie. ``kl`` is None then
    where there are fewer than 4 values for each bin: it would tell more of their number than of their law.
    """

    name: str = ""
    source: str = ""
    dtype: str | None = None  # of the values, as the file names it
    shape: tuple[int, ...] | None = None
    status: Status
    reason: str | None = None
    scale: Number = None
    zero_point: WholeNumber = None
    qmin: int | None = None
    qmax: int | None = None
    low: Number = None
    high: Number = None
    min: float | None = None
    max: float | None = None
    numel: int | None = None
    zeros: int | None = None
    nan: int | None = None
    neg_inf: int | None = None
    pos_inf: int | None = None
    kl: Number = None
    mse: Number = None
    sqnr_db: Number = None
    clipped: Number = None
    axis: int | tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)
    group_size: int | tuple[int, ...] | None = None
    note: str | None = None  # what was done otherwise than asked for, and why
    unit: int | None = None  # of a row that stands for one channel or group
    unit_status: tuple[Status, ...] | None = None  # where the units of a tensor differ in it

    @property
    def failed(self) -> bool:
        """Whether it, or a channel or group of it, should have a scale and has none."""
        return self.status in FAILURES or not FAILURES.isdisjoint(self.unit_status or ())

    def units(self) -> Iterator[Row]:
        """A row for each channel or group, in their order; the row itself where it has none."""
        if self.axis is None or self.shape is None:
            yield self
            return
        from klcal.quantizers.granularity import (  # which imports NumPy, and --help reads this module
            layout,
            per_at,
        )

        place = layout(per_at(self.axis, self.group_size), self.shape)
        assert place is not None
        statuses = self.unit_status or (self.status,) * place.rows
        totals = dict.fromkeys(("min", "max", "numel", "zeros", "nan", "neg_inf", "pos_inf", "unit_status"))
        for unit, status in enumerate(statuses):
            own: dict[str, Any] = {name: _item(getattr(self, name), unit) for name in UNIT_FIELDS}
            lacks: dict[str, Any] = totals | ({"reason": None} if status == "ok" else {"qmin": None, "qmax": None})
            yield replace(self, unit=unit, status=status, **own, **lacks)


def _item(numbers: Number | WholeNumber, unit: int) -> float | None:
    return numbers[unit] if isinstance(numbers, Numbers) else None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two tensors, P and Q. What does not apply, or is infinite, is None in the formats for machines.

    Divergences are on common bins of equal mass, exact zeros a bin of their own, in the unit of the base.
    ``wasserstein`` is in the unit of the values; what compares element by element (``cosine``, ``max_abs_diff``,
    ``mse``, ``sqnr_db``) needs equal shapes.
    """

    name: str
    source: str = ""  # of P
    other_source: str | None = None  # of Q
    dtype: str | None = None
    other_dtype: str | None = None
    shape: tuple[int, ...] | None = None
    other_shape: tuple[int, ...] | None = None
    status: Status
    reason: str | None = None
    numel: int | None = None  # of P
    kl: float | None = None  # D(P‖Q)
    reverse_kl: float | None = None  # D(Q‖P)
    js: float | None = None
    cross_entropy: float | None = None  # H(P, Q)
    entropy: float | None = None  # H(P)
    other_entropy: float | None = None  # H(Q)
    wasserstein: float | None = None
    cosine: float | None = None
    max_abs_diff: float | None = None
    mse: float | None = None
    sqnr_db: float | None = None  # Q as a noisy copy of P


FLOAT_FIELDS = ("scale", "low", "high", "min", "max", "kl", "mse", "sqnr_db", "clipped")
UNIT_FIELDS = ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped")
"""What each channel or group has of its own."""
INT_FIELDS = ("zero_point", "qmin", "qmax", "numel", "zeros", "nan", "neg_inf", "pos_inf")
NUMERIC_FIELDS = tuple(f.name for f in fields(Row) if f.name in FLOAT_FIELDS + INT_FIELDS)
"""What ``--fail-on`` can compare."""
DIFFERENCE_FIELDS = (
    *("numel", "kl", "reverse_kl", "js", "cross_entropy", "entropy", "other_entropy", "wasserstein"),
    *("cosine", "max_abs_diff", "mse", "sqnr_db"),
)
"""What ``--fail-on`` and ``--sort`` of a comparison can."""


@dataclass(frozen=True)
class FileError:
    """A file of which nothing could be used."""

    source: str
    reason: str


@dataclass(frozen=True)
class Config:
    """What the rows were computed with, resolved: str(method), never "auto"."""

    method: str
    dtype: str
    scheme: str
    per: str = "tensor"
    scale_format: str = "float32"


@dataclass(frozen=True)
class Comparison:
    """What the differences were computed with."""

    base: str  # of the logarithms: "e", "2" or "10"
    bins: int
    quantized_by: str | None = None  # Q is P, quantized by this table


@dataclass(frozen=True)
class Table:
    """All rows and everything that went wrong beside them; rows are sorted by source and then name."""

    config: Config | Comparison
    rows: tuple[Row, ...] | tuple[Difference, ...] = ()
    errors: tuple[FileError, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """The name and version of what the fields mean."""
        return "klcal.table/1" if isinstance(self.config, Config) else "klcal.comparison/1"

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a row's fields, in their order: the keys of the JSON, the columns of the plain formats."""
        if not isinstance(self.config, Config):
            return tuple(field.name for field in fields(Difference))
        has_units = any(isinstance(row, Row) and row.unit is not None for row in self.rows)
        hidden = {"unit_status"} if has_units else {"unit_status", "unit"}
        return tuple(field.name for field in fields(Row) if field.name not in hidden)

    def expanded(self) -> Table:
        """With a row for each channel or group."""
        return replace(self, rows=tuple(unit for row in self.rows if isinstance(row, Row) for unit in row.units()))

    @staticmethod
    def of(
        config: Config,
        rows: Iterable[Row],
        errors: Iterable[FileError] = (),
        warnings: Iterable[str] = (),
    ) -> Table:
        """The table with its rows and errors in the one order that does not depend on the input's."""
        return Table(
            config,
            tuple(sorted(rows, key=lambda row: (row.source, row.name))),
            tuple(sorted(errors, key=lambda error: (error.source, error.reason))),
            tuple(warnings),
        )
