"""Work on several cores in this process: the compiled kernel lets go of Python's lock, so nothing has to be copied.

Threads are kept from one call to the next, and ended before processes are forked.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["at_most_threads", "cores", "in_order", "limited", "spread", "stop_threads", "threads", "worked_ahead"]

LEAST = 1 << 15  # pieces of units from which a second thread pays: 0.3 ms of work at the least
PARTS = 4  # of the work for each thread: one that is late keeps the others waiting for a quarter of its work

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
LIMIT: ContextVar[int | None] = ContextVar("LIMIT", default=None)
_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}


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
    parts = min(parts * number, max(2, int(total[-1]) // LEAST))  # to begin one costs 30 us, under Python's lock
    ends = np.searchsorted(total, total[-1] * np.arange(1, parts) // parts, side="left") + 1
    edges = np.unique(np.concatenate([[0], ends, [costs.size]])).tolist()
    begun = [_pool(number).submit(work, first, last) for first, last in pairwise(edges)]
    try:
        return [each.result() for each in begun]
    finally:  # where one failed, or the user interrupted, nothing that is left need begin
        for each in begun:
            each.cancel()


def worked_ahead(work: Callable[[Item], Outcome], items: Iterable[Item]) -> list[Outcome]:
    """The outcomes of all items, in their order: while some are worked on, the next ones are made.

    Not many are held at a time. What works on one, or makes one, has a single thread.
    """
    number = threads()
    if number == 1:
        return list(map(work, items))
    with at_most_threads(1):
        return list(in_order(_pool(number), partial(limited, work, 1), items, number))


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Outcome], items: Iterable[Item], ahead: int
) -> Iterator[Outcome]:
    """The outcomes of all items, in their order, by the threads of a pool; so many are begun before one is taken."""
    begun: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:  # where one failed, or the user interrupted, nothing that is left need begin
        for each in begun:
            each.cancel()


def limited(work: Callable[[Item], Outcome], number: int, item: Item) -> Outcome:
    """The outcome of one item, worked on by so many threads."""
    with at_most_threads(number):
        return work(item)


def _pool(number: int) -> ThreadPoolExecutor:
    """So many threads, kept for the next call: one that has just begun waits for milliseconds beside its parent."""
    from concurrent.futures import ThreadPoolExecutor  # 8 ms, which small work does not need

    key = os.getpid(), number  # a process that was forked has none that are not its own
    if key not in _POOLS:
        _POOLS[key] = ThreadPoolExecutor(number, thread_name_prefix="klcal")
    return _POOLS[key]


def stop_threads() -> None:
    """Ends them, as before processes are forked."""
    while _POOLS:
        (process, _), pool = _POOLS.popitem()
        if process == os.getpid():
            pool.shutdown()
