"""The data of a tensor in a file, as a reader describes them. A stretch is read only when its values are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from klcal.sketches.sketch import Sketch

__all__ = ["Counted", "Placeable", "Stretch"]


class Stretch(Protocol):
    """Consecutive values of a tensor, wherever they lie."""

    @property
    def repeats(self) -> int:
        """How often each of the values occurs in the tensor: more than once in a view that was expanded."""

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """The values as flat arrays of any size, in storage form: see ``klcal.sketches.counting.FLOAT_DTYPES``.

        An array may be overwritten when the next one is asked for.

        Raises:
            InputError: the file is damaged.
        """


@runtime_checkable
class Placeable(Stretch, Protocol):
    """A stretch that can be read into memory that the caller provides, such as pinned memory for a device."""

    def chunks_in(self, rooms: Iterator[memoryview]) -> Iterator[npt.NDArray[Any]]:
        """As ``chunks``; each array is read to the beginning of the next room, and as large as it or smaller.

        Args:
            rooms: writable bytes. Their sizes are multiples of the size of any dtype.
        """


@runtime_checkable
class Counted(Stretch, Protocol):
    """All values of a tensor in a sketch file, which has their sketch and not the values."""

    def sketch(self) -> Sketch:
        """The sketch of the tensor, of one unit or several."""
