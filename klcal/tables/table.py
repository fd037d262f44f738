"""A table: one row for each tensor, or pair of tensors, and all errors and warnings.

All modules before a table compute; all modules after it format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, TypeAlias

from klcal.errors import UsageError
from klcal.tables.changes import Change
from klcal.tables.contents import Content
from klcal.tables.differences import Difference
from klcal.tables.findings import Finding
from klcal.tables.rows import Row
from klcal.tables.schema import (
    CHANGE_FIELDS,
    CHANGES,
    COMPARISON,
    CONTENTS,
    DIFFERENCE_FIELDS,
    LEAST_FIRST,
    NUMERIC_FIELDS,
    TABLE,
    check_field,
)
from klcal.tables.status import Cause

__all__ = ["Changes", "Comparison", "Config", "Contents", "FileError", "Table", "in_order"]

OrderKey = tuple[str | tuple[int, str], ...]
FIELDS_OF_CHANGES = (
    *("name", "source", "status", "reason", "changed"),
    *(f"d.{field}" for field in CHANGE_FIELDS),
    *("unit", "units_changed", "was", "is"),
)
_AnyRow: TypeAlias = Row | Difference | Change | Content
END = (-1, "")  # of a name: before any number


@dataclass(frozen=True)
class FileError:
    """A file without a usable tensor."""

    source: str
    reason: str
    cause: Cause = "data"


@dataclass(frozen=True)
class Config:
    """The settings of the request, resolved: str(method), never "auto". Each row has the settings of its own tensor."""

    method: str
    dtype: str
    scheme: str
    per: str = "tensor"
    scale_format: str = "float32"


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison."""

    base: str  # of the logarithms: "e", "2" or "10"
    bins: int
    quantized_by: str | None = None  # Q is P, quantized by this table


@dataclass(frozen=True)
class Changes:
    """The two sides, and the number of tensors of each kind."""

    baseline: str
    compared: str
    same: int  # they have no row
    changed: int
    missing: int
    extra: int
    rules: tuple[str, ...] = ()  # those that findings were judged by


@dataclass(frozen=True)
class Contents:
    """The settings of an inspection."""

    stats: bool  # whether the values were read
    depth: int | None = None  # the number of parts of the names that a row's tensors share


@dataclass(frozen=True)
class Table:
    """All rows and all errors, sorted by source and then name when it is made."""

    config: Config | Comparison | Changes | Contents
    rows: tuple[Row, ...] | tuple[Difference, ...] | tuple[Change, ...] | tuple[Content, ...] = ()
    errors: tuple[FileError, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: int = 0  # rows left out, because only the first were wanted
    findings: tuple[Finding, ...] = ()  # the findings of a gate
    judged: bool = True  # of changes: whether anything could be compared
    columns: tuple[str, ...] = ()  # that people get to see, by their names; nothing for the usual ones

    @property
    def schema(self) -> str:
        """The name and version of the fields' meaning."""
        return {Config: TABLE, Comparison: COMPARISON, Changes: CHANGES, Contents: CONTENTS}[type(self.config)]

    @property
    def usable(self) -> bool:
        """Whether a row is an answer: one is ``ok``, or all zeros; of changes, whether anything was compared."""
        if isinstance(self.config, Changes):
            return self.judged
        if isinstance(self.config, Contents):
            return any(isinstance(row, Content) and not row.failed for row in self.rows)
        return any(row.status in ("ok", "zero") for row in self.rows)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of a row's fields, in their order: the keys of the JSON, the columns of the plain formats."""
        if isinstance(self.config, Changes):
            return FIELDS_OF_CHANGES
        if isinstance(self.config, Contents):
            return tuple(field.name for field in fields(Content))
        if not isinstance(self.config, Config):
            return tuple(field.name for field in fields(Difference))
        expanded = any(isinstance(row, Row) and row.unit is not None for row in self.rows)
        hidden = "units" if expanded else "unit"
        return tuple(field.name for field in fields(Row) if field.name != hidden and field.compare)

    def expanded(self) -> Table:
        """The table with a row for each channel, group or block."""
        return replace(self, rows=tuple(each for row in self.rows if isinstance(row, Row) for each in row.each_unit()))

    def write(self, path: str | os.PathLike[str], format: str = "auto") -> None:  # noqa: A002 - what the command calls it
        """Write the table to a file, all of it or nothing.

        Args:
            path: the file. An existing file is replaced, unless it is a tensor file.
            format: "json", "jsonl", "csv", "md", "plain", "table" or "safetensors"; "auto" is by the file's suffix.

        Raises:
            UsageError: there can be no such file, or its suffix names no format.
            OutputError: it could not be written after all.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"the path is {path!r}", "give the path of a file: a text or a pathlib.Path")
        import_module("klcal.writers.file").write(self, os.fspath(path), format)

    def to_dict(self) -> dict[str, object]:
        """The document of the JSON as plain Python values."""
        found: dict[str, object] = import_module("klcal.writers.json_table").as_dict(self)
        return found

    def __repr__(self) -> str:
        headline: str = import_module("klcal.writers.people").headline(self)
        return f"<Table: {headline}>"

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        found: str = import_module("klcal.writers.html").fragment(self)
        return found

    def worst_first(self, field: str) -> Table:
        """The table sorted by a number of its rows: the worst first, rows without the number last.

        Raises:
            UsageError: there is no such field.

        >>> rows = [Row(status="ok", name=name, mse=mse) for name, mse in (("a", 1.0), ("b", None), ("c", 2.0))]
        >>> [row.name for row in Table(Config("mse", "int8", "symmetric"), tuple(rows)).worst_first("mse").rows]
        ['c', 'a', 'b']
        """
        check_field(field, NUMERIC_FIELDS if isinstance(self.config, Config) else DIFFERENCE_FIELDS)
        rows: list[Any] = sorted(self.rows, key=partial(_badness, field))
        return replace(self, rows=tuple(rows))

    def top(self, count: int) -> Table:
        """The table with its first rows alone."""
        return replace(self, rows=self.rows[:count], left_out=max(0, len(self.rows) - count))

    @staticmethod
    def of(
        config: Config | Comparison | Changes | Contents,
        rows: Iterable[Row] | Iterable[Difference] | Iterable[Change] | Iterable[Content],
        errors: Iterable[FileError] = (),
        warnings: Iterable[str] = (),
        judged: bool = True,
    ) -> Table:
        """The table with its rows and errors in an order that does not depend on the order of the input."""
        ordered: list[Any] = sorted(rows, key=_place)
        return Table(
            config,
            tuple(ordered),
            tuple(sorted(errors, key=lambda error: (in_order(error.source), error.reason))),
            tuple(warnings),
            judged=judged,
        )


def _place(row: _AnyRow) -> tuple[OrderKey, OrderKey]:
    return _order_of_source(row.source), in_order(row.name)


@lru_cache(maxsize=64)
def _order_of_source(source: str) -> OrderKey:
    """The same for each of its tensors, of which there may be thousands."""
    return in_order(source)


def _badness(field: str, row: _AnyRow) -> tuple[bool, float, tuple[OrderKey, OrderKey], int]:
    value: float | None = getattr(row, field)
    badness = 0.0 if value is None else value if field in LEAST_FIRST else -value
    return value is None, badness, _place(row), getattr(row, "unit", None) or 0


def in_order(name: str) -> OrderKey:
    """A key that sorts names, the numbers in them by their value.

    >>> sorted(["layers.10.w", "layers.2.w", "layers.02.w"], key=in_order)
    ['layers.02.w', 'layers.2.w', 'layers.10.w']
    """
    pieces = re.split("([0-9]+)", name)
    numbers = [digits.lstrip("0") for digits in pieces[1::2]]  # no int(): a name may have a million digits
    sizes = [(len(digits), digits) for digits in numbers]
    return *(each for pair in zip(pieces[0::2], [*sizes, END], strict=True) for each in pair), name
