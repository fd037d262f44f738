"""The scales of a tensor's channels, groups or blocks, an array for each field: there may be tens of millions.

NumPy is imported when there are units: the table is known to ``--help``, which has to be fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from klcal.errors import UsageError
from klcal.tables.schema import UNIT_FIELDS
from klcal.tables.status import UNIT_STATUSES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]
    Texts: TypeAlias = npt.NDArray[np.object_]

__all__ = ["PerUnit", "Units"]

PerUnit = Literal["channel", "group", "block"]
OPTIONAL = ("zero_point", "kl")  # missing for a floating-point format, and where no cell is cut


@dataclass(frozen=True, eq=False, kw_only=True)
class Units:
    """The numbers of each unit: float64 arrays (units,) in the order of the tensor's axes, NaN where a unit has none.

    ``array.reshape(units.shape)`` puts them where they belong: channels lie along ``axis``; for groups and blocks
    the shape is the tensor's, its extent along ``axis`` replaced by how many units of ``size`` there are.

    Lists with None, as in JSON, may be handed in.

    Raises:
        UsageError: the fields do not go together.

    >>> units = Units(per="channel", axis=0, size=None, shape=(2,), scale=[0.5, None], low=[-1, None], high=[1, None],
    ...     status=["ok", "zero"], mse=[0.1, 0], sqnr_db=[9.0, None], clipped=[0, 0])
    >>> units.scale, units.status == "ok"
    (array([0.5, nan]), array([ True, False]))
    """

    per: PerUnit
    axis: int | tuple[int, int]  # both axes of a block
    size: int | tuple[int, int] | None  # values along the axis that make a unit; None for channels
    shape: tuple[int, ...]
    scale: Floats
    zero_point: Floats | None = None
    low: Floats
    high: Floats
    status: Texts | None = None  # of each, where they differ
    kl: Floats | None = None
    mse: Floats
    sqnr_db: Floats
    clipped: Floats

    def __post_init__(self) -> None:
        for name in ("axis", "size", "shape"):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        kind = {type(None): "channel", int: "group", tuple: "block"}[type(self.size)]
        if self.per != kind or isinstance(self.axis, tuple) != (kind == "block") or not isinstance(self.shape, tuple):
            raise UsageError(f"units per {self.per!r} of size {self.size} along axis {self.axis}", HINT)
        for name in UNIT_FIELDS:
            if getattr(self, name) is not None or name not in OPTIONAL:
                object.__setattr__(self, name, _column(name, getattr(self, name), len(self)))
        if self.status is not None:
            object.__setattr__(self, "status", _statuses(self.status, len(self)))
        if self.zero_point is not None:
            for start in range(0, len(self), CHECKED_AT_ONCE):
                some = slice(start, start + CHECKED_AT_ONCE)
                _check_points(self.zero_point[some], self.scale[some])

    @staticmethod
    def of(fields_: object) -> Units:
        """The units of a mapping, as in JSON.

        Raises:
            UsageError: fields are missing, unknown, or do not fit each other.
        """
        try:
            return Units(**fields_)  # type: ignore[arg-type]  # a TypeError says which fields are wrong
        except TypeError:
            raise UsageError("the units of a row do not have the fields that they need", HINT) from None

    def __repr__(self) -> str:
        place = f"per={self.per!r}, axis={self.axis}" + ("" if self.size is None else f", size={self.size}")
        return f"<Units: {len(self)}, {place}, shape={self.shape}>"

    def __len__(self) -> int:
        return prod(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        return all(_equal(getattr(self, each.name), getattr(other, each.name)) for each in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays have none


CHECKED_AT_ONCE = 1 << 14  # units: temporary arrays stay in the cache
HINT = "hand in the units of a row as klcal calibrate wrote them"


def _whole(name: str, value: Any) -> Any:
    """An int, a tuple of ints, or None for a size, from JSON's form of it."""
    items = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if (value is None and name == "size") or not all(type(each) is int and each >= 0 for each in items):
        if value is None and name == "size":
            return None
        raise UsageError(f"the {name} of units is {value!r}", HINT)
    return value if isinstance(value, int) else items


def _column(name: str, values: Any, units: int) -> Floats:
    import numpy as np

    try:
        column = np.asarray(values, np.float64).view()
    except (TypeError, ValueError):
        raise UsageError(f"the {name} of the units is not a list of numbers", HINT) from None
    if column.shape != (units,):
        raise UsageError(f"the {name} of {units} units has the shape {list(column.shape)}", HINT)
    column.flags.writeable = False
    return column


def _check_points(zero_point: Floats, scale: Floats) -> None:
    if not _equal(zero_point != zero_point, scale != scale):
        raise UsageError("some units have only one of scale and zero_point", HINT)
    if not _equal(zero_point, zero_point.round()):
        raise UsageError("a zero_point of the units is not a whole number", HINT)


def _statuses(values: Any, units: int) -> Texts:
    import numpy as np

    column = np.asarray(values, object).view()
    if column.shape != (units,) or not set(column) <= set(UNIT_STATUSES):
        raise UsageError(f"the status of {units} units does not have an entry for each", HINT)
    column.flags.writeable = False
    return column


def _equal(one: Any, other: Any) -> bool:
    import numpy as np

    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype == other.dtype == np.float64)
    return one is other if isinstance(one, np.ndarray) or isinstance(other, np.ndarray) else bool(one == other)
