"""The precision that a table keeps of a number: float32, for normal numbers. So two tables can be compared."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float64]

__all__ = ["LARGEST", "TINY", "single", "singles"]

SINGLE = struct.Struct("f")
TINY, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Between them a float is written as the shortest text of a float32."""


def single(number: float) -> float:
    """A number in the precision that tables keep.

    >>> single(0.1), single(1e-60)
    (0.10000000149011612, 1e-60)
    """
    try:
        return float(SINGLE.unpack(SINGLE.pack(number))[0]) if abs(number) >= TINY else number
    except OverflowError:
        return number


def singles(values: Floats) -> Floats:
    """Numbers in the precision that tables keep: an array of the same shape."""
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32).astype(np.float64)
    # The text of the largest float32, 3.4028235e+38, is slightly above its value.
    return np.where((np.abs(values) >= TINY) & (np.abs(rounded) <= LARGEST), rounded, values)
