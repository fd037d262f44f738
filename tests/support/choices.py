"""What a row of the table has chosen and says of it, as arrays: one item for each unit, NaN where it is null."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.support import slow

FIGURES = ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped")


def units(row) -> SimpleNamespace:
    """The figures of each unit; a tensor with one scale is one unit."""
    where = row if row.units is None or callable(row.units) else row.units
    number = np.size(_numbers(where, "scale"))
    columns = {name: np.array(_numbers(where, name), float) for name in FIGURES}
    return SimpleNamespace(**{name: np.broadcast_to(column, number) for name, column in columns.items()})


def _numbers(where, name: str):
    numbers = getattr(where, name)
    return numbers if numbers is None or isinstance(numbers, float | int | np.ndarray) else list(numbers)


def quantizer(row, dtype: str, unit: int = 0) -> tuple[float, list[float]]:
    """The scale > 0 and the levels, in units of it, that a row deploys for one of its units.

    A negative scale has the levels' mirror image.
    """
    figures = units(row)
    scale = float(figures.scale[unit])
    if dtype in slow.FLOATS:
        return scale, slow.FLOATS[dtype]
    size, below = row.qmax - row.qmin + 1, int(figures.zero_point[unit]) - row.qmin
    return (scale, slow.integers(size, below)) if scale > 0 else (-scale, slow.integers(size, size - 1 - below))
