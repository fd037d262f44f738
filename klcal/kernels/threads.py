"""Work on several cores in this process: the compiled kernel lets go of Python's lock, so nothing has to be copied.

Threads live as long as a call: a process that was forked has none that are not its own, and to start some takes
0.1 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library

__all__ = ["at_most_threads", "cores", "spread", "threads"]

LEAST = 1 << 15  # pieces of units from which a second thread pays: 0.3 ms of work at the least
PARTS = 4  # of the work for each thread: one that is late keeps the others waiting for a quarter of its work

Outcome = TypeVar("Outcome")
LIMIT: ContextVar[int | None] = ContextVar("LIMIT", default=None)


def threads() -> int:
    """How many threads the kernel may use; NumPy, which holds the lock, works in one."""
    if library() is None:
        return 1
    limit = LIMIT.get()
    return cores() if limit is None else limit


def cores() -> int:
    """How many cores this process may use, which in a container is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def at_most_threads(number: int) -> Iterator[None]:
    """The kernel uses so many threads within."""
    token = LIMIT.set(max(1, number))
    try:
        yield
    finally:
        LIMIT.reset(token)


def spread(work: Callable[[int, int], Outcome], costs: npt.NDArray[np.int64], parts: int = PARTS) -> list[Outcome]:
    """The outcomes of ``work(first, last)`` for stretches of units, in their order, on several threads where it pays.

    Args:
        work: lets go of Python's lock.
        costs: of each unit, in pieces.
        parts: of the work for each thread.
    """
    number = threads()
    total = costs.cumsum()
    if number == 1 or costs.size < 2 or total[-1] < LEAST:
        return [work(0, costs.size)]
    from concurrent.futures import ThreadPoolExecutor

    parts *= number
    ends = np.searchsorted(total, total[-1] * np.arange(1, parts) // parts, side="left") + 1
    edges = np.unique(np.concatenate([[0], ends, [costs.size]])).tolist()
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))
