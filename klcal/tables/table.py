"""The answer: one row per tensor, or per pair of tensors, and everything that went wrong beside them.

Everything left of the tables computes, everything right of them formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.schema import COMPARISON, TABLE
from klcal.tables.status import Cause

__all__ = ["Comparison", "Config", "FileError", "Table", "in_order"]

OrderKey = tuple[str | tuple[int, str], ...]
END = (-1, "")  # of a name: before any number


@dataclass(frozen=True)
class FileError:
    """A file of which nothing could be used."""

    source: str
    reason: str
    cause: Cause = "data"


@dataclass(frozen=True)
class Config:
    """What was asked for, resolved: str(method), never "auto". What held for a tensor its row says."""

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
        return TABLE if isinstance(self.config, Config) else COMPARISON

    @property
    def usable(self) -> bool:
        """Whether a row is an answer: one is ``ok``, or all zeros."""
        return any(row.status in ("ok", "zero") for row in self.rows)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a row's fields, in their order: the keys of the JSON, the columns of the plain formats."""
        if not isinstance(self.config, Config):
            return tuple(field.name for field in fields(Difference))
        expanded = any(isinstance(row, Row) and row.unit is not None for row in self.rows)
        hidden = "units" if expanded else "unit"
        return tuple(field.name for field in fields(Row) if field.name != hidden)

    def expanded(self) -> Table:
        """With a row for each channel, group or block."""
        return replace(self, rows=tuple(each for row in self.rows if isinstance(row, Row) for each in row.each_unit()))

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
            tuple(sorted(rows, key=lambda row: (in_order(row.source), in_order(row.name)))),
            tuple(sorted(errors, key=lambda error: (in_order(error.source), error.reason))),
            tuple(warnings),
        )


def in_order(name: str) -> OrderKey:
    """A key that sorts names, the numbers in them by their value.

    >>> sorted(["layers.10.w", "layers.2.w", "layers.02.w"], key=in_order)
    ['layers.02.w', 'layers.2.w', 'layers.10.w']
    """
    pieces = re.split("([0-9]+)", name)
    numbers = [digits.lstrip("0") for digits in pieces[1::2]]  # no int(): a name may have a million digits
    sizes = [(len(digits), digits) for digits in numbers]
    return *(each for pair in zip(pieces[0::2], [*sizes, END], strict=True) for each in pair), name
