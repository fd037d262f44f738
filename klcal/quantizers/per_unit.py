"""One number for each channel or group, in eight bytes: a language model has tens of millions of groups.

NumPy is not imported here: the table is known to ``--help``, which has to be fast.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Numbers"]


class Numbers(Sequence["float | None"]):
    """An immutable sequence of numbers, None where there is none; as an array it has NaN there.

    >>> scale = Numbers([0.5, None, 2.0])
    >>> scale[0], scale[1], len(scale), scale == (0.5, None, 2.0)
    (0.5, None, 3, True)
    """

    __slots__ = ("_values", "whole")

    def __init__(self, values: Sequence[float | None] | npt.NDArray[np.float64], whole: bool = False) -> None:
        """``whole`` numbers are given back as integers."""
        self.whole = whole
        self._values = array("d")
        if isinstance(values, Sequence):
            self._values.extend(math.nan if value is None else value for value in values)
        else:
            self._values.frombytes(values.tobytes())

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, place: int) -> float | None: ...
    @overload
    def __getitem__(self, place: slice) -> Numbers: ...
    def __getitem__(self, place: int | slice) -> float | Numbers | None:
        if isinstance(place, slice):
            return Numbers(list(self)[place], self.whole)
        return self._item(self._values[place])

    def __iter__(self) -> Iterator[float | None]:
        return map(self._item, self._values)

    def _item(self, value: float) -> float | None:
        if math.isnan(value):
            return None
        return int(value) if self.whole else value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        return np.array(self._values, dtype)  # always a copy: they are immutable

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
