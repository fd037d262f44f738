"""Work on several cores in this process: the compiled kernel lets go of Python's lock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["spread"]


def spread(work: Callable[[int, int], int], costs: npt.NDArray[np.int64]) -> list[int]:
    """The outcomes of ``work(first, last)`` for stretches of units that cost about the same."""
    return [work(0, costs.size)]
