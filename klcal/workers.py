"""Work on several cores: processes, because counting in NumPy holds the interpreter's lock.

Results come in the order of the work, so nothing depends on which worker was faster.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["workers"]

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

START = "fork" if sys.platform == "linux" else "spawn"  # 10 ms against 200; elsewhere forking is not safe


@contextmanager
def workers(
    function: Callable[[Task], Outcome], tasks: Sequence[Task], jobs: int, *, at_once: int = 1
) -> Iterator[Iterator[Outcome]]:
    """The outcomes of all tasks, in their order, worked on by ``jobs`` processes.

    Where a worker is killed, as by a machine that is out of memory, this process does the rest of the work itself.

    Args:
        function: is called in a worker, so it has to be picklable, as have the tasks and outcomes.
        tasks: what to call it with.
        jobs: how many processes.
        at_once: tasks handed to a worker together; many small ones travel better in company.
    """
    executor = ProcessPoolExecutor(jobs, multiprocessing.get_context(START), _prepare)
    try:
        yield _resumed(executor.map(function, tasks, chunksize=at_once), function, tasks)
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.kill()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _resumed(
    outcomes: Iterator[Outcome], function: Callable[[Task], Outcome], tasks: Sequence[Task]
) -> Iterator[Outcome]:
    done = 0
    try:
        for outcome in outcomes:
            yield outcome
            done += 1
    except BrokenProcessPool:
        yield from map(function, tasks[done:])


def _prepare() -> None:
    """Workers leave interrupts to their parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)
