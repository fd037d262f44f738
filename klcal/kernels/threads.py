"""Work on several cores within this process. The compiled kernel releases the GIL, so threads run at once.

Threads share memory, so nothing is copied. They are kept from one call to the next, and stopped before a fork.
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

LEAST = 1 << 15  # pieces of units from which a second thread pays: at least 0.3 ms of work
PARTS = 4  # parts of the work for each thread: the others wait for a late one for at most a quarter of its work

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
LIMIT: ContextVar[int | None] = ContextVar("LIMIT", default=None)
_POOLS: dict[tuple[int, int], ThreadPoolExecutor] = {}


def threads() -> int:
    """The number of threads that the kernel may use; 1 without it, because NumPy holds the GIL."""
    if library() is None:
        return 1
    limit = LIMIT.get()
    return cores() if limit is None else limit


def cores() -> int:
    """The number of cores that this process may use: in a container, often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def at_most_threads(number: int) -> Iterator[None]:
    """A context in which ``threads`` is at most ``number``, for the calling thread."""
    token = LIMIT.set(max(1, number))
    try:
        yield
    finally:
        LIMIT.reset(token)


def spread(work: Callable[[int, int], Outcome], costs: npt.NDArray[np.int64], parts: int = PARTS) -> list[Outcome]:
    """The outcomes of ``work(first, last)`` for consecutive ranges of units that together are all units, in order.

    Several threads work if there is enough to do; the ranges are of about equal cost.

    Args:
        work: takes the first unit and the end of a range; releases the GIL.
        costs: (units,), the number of pieces of each unit.
        parts: ranges for each thread.
    """
    number = threads()
    total = costs.cumsum()
    if number == 1 or costs.size < 2 or total[-1] < LEAST:
        return [work(0, costs.size)]
    parts = min(parts * number, max(2, int(total[-1]) // LEAST))  # starting one costs 30 us, with the GIL held
    ends = np.searchsorted(total, total[-1] * np.arange(1, parts) // parts, side="left") + 1
    edges = np.unique(np.concatenate([[0], ends, [costs.size]])).tolist()
    begun = [_pool(number).submit(work, first, last) for first, last in pairwise(edges)]
    try:
        return [each.result() for each in begun]
    finally:  # after an error or an interrupt, the ranges that have not begun are dropped
        for each in begun:
            each.cancel()


def worked_ahead(work: Callable[[Item], Outcome], items: Iterable[Item]) -> list[Outcome]:
    """The outcomes of ``work(item)`` for all items, in order. Items are made while earlier ones are worked on.

    Only about as many items are held at a time as there are threads. Within ``work``, ``threads`` is 1.
    """
    number = threads()
    if number == 1:
        return list(map(work, items))
    with at_most_threads(1):
        return list(in_order(_pool(number), partial(limited, work, 1), items, number))


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Outcome], items: Iterable[Item], ahead: int
) -> Iterator[Outcome]:
    """The outcomes of ``work(item)`` for all items, in order, by the threads of a pool.

    Args:
        pool: of threads.
        work: takes an item.
        items: are taken one by one.
        ahead: how many items are begun before the first outcome is waited for.
    """
    begun: deque[Future[Outcome]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:  # after an error or an interrupt, the items that have not begun are dropped
        for each in begun:
            each.cancel()


def limited(work: Callable[[Item], Outcome], number: int, item: Item) -> Outcome:
    """The outcome of ``work(item)``, within which ``threads`` is at most ``number``."""
    with at_most_threads(number):
        return work(item)


def _pool(number: int) -> ThreadPoolExecutor:
    """A pool of ``number`` threads, kept for the next call: starting threads takes milliseconds."""
    from concurrent.futures import ThreadPoolExecutor  # 8 ms, which small work does not need

    key = os.getpid(), number  # the threads of a parent do not exist in a forked process
    if key not in _POOLS:
        _POOLS[key] = ThreadPoolExecutor(number, thread_name_prefix="klcal")
    return _POOLS[key]


def stop_threads() -> None:
    """Stops all threads: to be called before processes are forked."""
    while _POOLS:
        (process, _), pool = _POOLS.popitem()
        if process == os.getpid():
            pool.shutdown()
