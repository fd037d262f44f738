"""Where the values of a tensor in a file come from, as a reader describes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from klcal.sketches.sketch import Sketch

__all__ = ["Counted", "Placeable", "Stretch"]


class Stretch(Protocol):
    """Some of a tensor's values, wherever they lie."""

    @property
    def repeats(self) -> int:
        """How often each of them stands in the tensor."""

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """The values as flat arrays in storage form: see ``klcal.sketches.counting.FLOAT_DTYPES``."""


@runtime_checkable
class Placeable(Stretch, Protocol):
    """Values that can be read to where they are wanted."""

    def chunks_in(self, rooms: Iterator[memoryview]) -> Iterator[npt.NDArray[Any]]:
        """The same, each read to the beginning of the next room: bytes, whose number all types of values divide."""


@runtime_checkable
class Counted(Stretch, Protocol):
    """All values of a tensor, of which only the sketch is there."""

    def sketch(self) -> Sketch:
        """What was counted of them."""
