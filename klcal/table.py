"""The answer: one row per tensor, in plain Python values.

Everything left of this module computes, everything right of it formats. Schema
``klcal.table/1``; a field is only ever added, a change of meaning makes ``/2``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

__all__ = ["FAILURES", "NUMERIC_FIELDS", "SCHEMA", "Config", "FileError", "Row", "Status", "Table"]

SCHEMA = "klcal.table/1"

Status = Literal[
    "ok",
    "zero",  # every value is 0: no scale is better than another
    "empty",  # no values
    "skipped",  # integers and bools are not calibrated
    "nonfinite",  # NaN or infinity among the values
    "underflow",  # the scale would be 0 as float32
    "unsupported",  # complex, object, sparse, already quantized, …
    "failed",  # damaged or unreadable
]

FAILURES: frozenset[Status] = frozenset({"nonfinite", "underflow", "unsupported", "failed"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tensor. What does not apply is None: there are no plausible defaults.

    ``name`` and ``source`` are empty for values that were handed in by Python.

    ``kl`` is D(P‖Q) on the sub-bins of the chosen scale, in nats, over the nonzero values.
    ``mse``, ``sqnr_db`` and ``clipped`` (the share of values that round beyond qmin or qmax) are
    over all finite values, for the scale as printed. ``low`` and ``high`` are what qmin and qmax
    stand for.
    """

    name: str = ""
    source: str = ""
    dtype: str | None = None  # of the values, as the file names it
    shape: tuple[int, ...] | None = None
    status: Status
    reason: str | None = None
    scale: float | None = None
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
    axis: int | None = None
    aliases: tuple[str, ...] = ()  # further names of the same data (tied weights)


FLOAT_FIELDS = ("scale", "low", "high", "min", "max", "kl", "mse", "sqnr_db", "clipped")
INT_FIELDS = ("zero_point", "qmin", "qmax", "numel", "zeros", "nan", "neg_inf", "pos_inf")
NUMERIC_FIELDS = tuple(f.name for f in fields(Row) if f.name in FLOAT_FIELDS + INT_FIELDS)
"""What ``--fail-on`` can compare."""


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


@dataclass(frozen=True)
class Table:
    """All rows, sorted by source and then name, and everything that went wrong beside them."""

    config: Config
    rows: tuple[Row, ...] = ()
    errors: tuple[FileError, ...] = ()
    warnings: tuple[str, ...] = ()

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
