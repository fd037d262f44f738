"""A row of a table from JSON. Each field must have the type that the schema has for it.

The module raises no errors of its own except UsageError: a KeyError, TypeError or ValueError says that a field is
missing or wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.scheme import DTYPES
from klcal.tables.rows import Row
from klcal.tables.schema import UNIT_FIELDS
from klcal.tables.singles import single, singles
from klcal.tables.status import STATUSES, UNIT_STATUSES
from klcal.tables.units import Units

__all__ = ["row_1", "row_2"]

Json = dict[str, Any]


def row_2(row: Json, units: Json | None) -> Row:
    """A row of version 2; its units apart, as lists or arrays."""
    if "unit" in row:
        raise UsageError("it has a line for each unit, as --units writes it; write it without")
    row = {**dict.fromkeys(("per", "scale_format", "importance")), **row}  # which tables may lack
    found = {name: check(row[name]) for name, check in FIELDS.items()}
    return _plausible(Row(**found, units=None if units is None else _units(units)))


def row_1(row: Json, config: Json) -> Row:
    """A row of version 1, where the target stood beside the rows and units were lists in the row."""
    if "unit" in row:
        raise UsageError("it has a line for each unit, as --units wrote it")
    of_units = row["status"] if isinstance(row["status"], np.ndarray) else None
    status = row["status"] if of_units is None else _of_all(of_units)
    how = {"target": config["dtype"], "scheme": config["scheme"], "method": config["method"]}
    known = {**dict.fromkeys(FIELDS), **row, **(how if status in UNIT_STATUSES else {}), "status": status}
    units: Json | None = None
    if row["axis"] is not None:
        known.update(dict.fromkeys(UNIT_FIELDS))  # of the whole tensor they were not known
        if status == "ok":
            units = {**{name: row[name] for name in UNIT_FIELDS}, **_place(row), "status": of_units}
    return row_2({name: known[name] for name in FIELDS}, units)


def _of_all(statuses: npt.NDArray[np.object_]) -> str:
    """The status of a tensor, from those of its units."""
    return "ok" if (statuses == "ok").any() else max(statuses.tolist(), key=UNIT_STATUSES.index)


def _place(row: Json) -> Json:
    """Which units they are, of a row of version 1."""
    axis, size, shape = row["axis"], row["group_size"], _shape(row["shape"])
    if size is None:
        return {"per": "channel", "axis": axis, "size": None, "shape": (shape[axis],)}
    return {
        "per": "group",
        "axis": axis,
        "size": size,
        "shape": (*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :]),
    }


def _plausible(row: Row) -> Row:
    """The row, if it quantizes whenever it says so.

    Raises:
        UsageError: it does not.
    """
    if row.units is None and (row.status == "ok") != (row.scale is not None):
        raise UsageError(f"a row is {row.status} with the scale {row.scale}")
    if row.scale == 0 or (row.units is not None and (row.units.scale == 0).any()):
        raise UsageError("a scale is 0")
    return row


# --- fields


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _one_of(*known: object) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if (value is not None and type(value) is not str) or value not in known:
            raise ValueError
        return value

    return check


def _flag(value: Any) -> bool:
    if type(value) not in (bool, type(None)):
        raise TypeError
    return value is True


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    number = float(value)
    if math.isinf(number):  # as 1e999 is read
        raise ValueError
    return single(number)


def _singles(numbers: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The numbers behind their texts: float32 for normal numbers."""
    values = np.asarray(numbers, np.float64)
    if np.isinf(values).any():  # as 1e999 is read
        raise ValueError
    return singles(values)


def _shape(value: Any) -> tuple[int, ...]:
    """Whole numbers, which an array of a document holds as floats."""
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(numbers, list | tuple) or not all(
        type(n) in (int, float) and n >= 0 and n == n // 1 for n in numbers
    ):
        raise TypeError
    return tuple(map(int, numbers))


def _texts(value: Any) -> tuple[str, ...]:
    texts = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(texts, list):
        raise TypeError
    return tuple(map(_text, texts))


FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "source"), _text),
    **dict.fromkeys(("dtype", "reason", "note", "scheme", "method", "per", "scale_format"), _optional(_text)),
    "shape": _optional(_shape),
    "status": _one_of(*STATUSES),
    "cause": _one_of(None, "data", "bug"),
    "target": _one_of(None, *DTYPES),
    "importance": _flag,
    **dict.fromkeys(("scale", "global_scale", "low", "high", "min", "max"), _optional(_number)),
    **dict.fromkeys(("kl", "mse", "sqnr_db", "clipped", "rounded_to_zero"), _optional(_number)),
    **dict.fromkeys(("zero_point", "qmin", "qmax"), _optional(_whole)),
    **dict.fromkeys(("numel", "zeros", "nan", "neg_inf", "pos_inf"), _optional(_whole)),
    "aliases": _texts,
}
"""The kind of each field of a row, and its conversion; without the units."""


def _units(units: Json) -> Units:
    columns = {name: units.get(name) for name in UNIT_FIELDS}
    known = {name: _singles(column) for name, column in columns.items() if column is not None}
    size, axis = (_pair(units[name]) for name in ("size", "axis"))
    return Units(
        per=units["per"],
        axis=axis,
        size=size,
        shape=_shape(units["shape"]),
        status=units.get("status"),
        **cast(dict[str, Any], known),
    )


def _pair(value: Any) -> Any:
    """A number, or two, which an array of a document holds as floats."""
    return _shape(value) if isinstance(value, np.ndarray) else value
