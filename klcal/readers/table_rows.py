"""A row of a table from its JSON, each field of the kind that the schema says.

Raises nothing of its own but UsageError: a KeyError, TypeError or ValueError says that a field is missing or wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.scheme import DTYPES
from klcal.tables.rows import Row
from klcal.tables.schema import UNIT_FIELDS
from klcal.tables.status import STATUSES, UNIT_STATUSES
from klcal.tables.units import Units

__all__ = ["row_1", "row_2"]

Json = dict[str, Any]

TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""Between them a float is written as the shortest text of a float32."""


def row_2(row: Json, units: Json | None) -> Row:
    """A row of version 2; its units apart, as lists or arrays."""
    if "unit" in row:
        raise UsageError("it has a line for each unit, as --units writes it; write it without")
    found = {name: check(row[name]) for name, check in FIELDS.items()}
    return _plausible(Row(**found, units=None if units is None else _units(units)))


def row_1(row: Json, config: Json) -> Row:
    """A row of version 1, which said for all rows what they were quantized to."""
    if "unit" in row:
        raise UsageError("it has a line for each unit, as --units wrote it")
    has_units = row["axis"] is not None
    known = {**dict.fromkeys(FIELDS), **row, "target": config["dtype"], "scheme": config["scheme"]}
    known["method"] = config["method"]
    if row["status"] not in ("ok", "zero") and not isinstance(row["status"], np.ndarray):
        known.update(target=None, scheme=None, method=None)
    units: Json | None = None
    if has_units:
        status = row["status"] if isinstance(row["status"], np.ndarray) else None
        if status is not None:
            known["status"] = "ok" if (status == "ok").any() else max(status, key=UNIT_STATUSES.index)
        if known["status"] == "ok":
            units = {name: row[name] for name in UNIT_FIELDS}
            units = {**units, **_place(row), "status": status}
        known.update(dict.fromkeys(UNIT_FIELDS))
    return row_2({name: known[name] for name in FIELDS}, units)


def _place(row: Json) -> Json:
    """Which units they are, of a row of version 1."""
    axis, size, shape = row["axis"], row["group_size"], _shape(row["shape"])
    assert shape is not None
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
    is_ok = row.status == "ok"
    if is_ok != (row.scale is not None or row.units is not None) and row.units is None:
        raise UsageError(f"a row is {row.status} with the scale {row.scale}")
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
        if value not in known:
            raise ValueError
        return value

    return check


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(_singles(np.array(float(value))))


def _singles(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What the texts of numbers were written for: float32 where they are normal ones."""
    size = np.abs(values)
    with np.errstate(over="ignore"):
        return np.where((size >= TINY) & (size <= LARGEST), values.astype(np.float32).astype(np.float64), values)


def _shape(value: Any) -> tuple[int, ...]:
    """Whole numbers, which an array of a document holds as floats."""
    numbers = np.asarray(value, np.float64)
    if numbers.ndim != 1 or not (numbers == np.floor(numbers)).all():
        raise TypeError
    return tuple(map(int, numbers.tolist()))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(each) for each in (value.tolist() if isinstance(value, np.ndarray) else value))


FIELDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "source"), _text),
    **dict.fromkeys(("dtype", "reason", "note", "scheme", "method"), _optional(_text)),
    "shape": _optional(_shape),
    "status": _one_of(*STATUSES),
    "cause": _one_of(None, "data", "bug"),
    "target": _one_of(None, *DTYPES),
    **dict.fromkeys(("scale", "global_scale", "low", "high", "min", "max"), _optional(_number)),
    **dict.fromkeys(("kl", "mse", "sqnr_db", "clipped", "rounded_to_zero"), _optional(_number)),
    **dict.fromkeys(("zero_point", "qmin", "qmax"), _optional(_whole)),
    **dict.fromkeys(("numel", "zeros", "nan", "neg_inf", "pos_inf"), _optional(_whole)),
    "aliases": _texts,
}
"""What each field of a row has to be, and what it becomes; units apart."""


def _units(units: Json) -> Units:
    columns = {name: units.get(name) for name in UNIT_FIELDS}
    known = {name: _singles(np.asarray(column, np.float64)) for name, column in columns.items() if column is not None}
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
