"""Work on several cores, by processes: threads would wait for the interpreter's lock while NumPy counts.

Outcomes come in the order of the tasks, so nothing depends on the speed of a worker. This process has no thread and no
queue for them, so a worker can be killed at any moment without a trace.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import TypeVar, cast

from klcal.kernels.threads import stop_threads

__all__ = ["Tally", "workers"]

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("fork")  # 10 ms; "spawn" takes 200 ms
else:  # fork is not safe on other systems
    CONTEXT = multiprocessing.get_context("spawn")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TALLIED = 512  # places of a tally: up to 512 processes with neighbouring numbers have different places
AHEAD = 2  # batches that a worker has at once, so that it does not wait for this process


class Tally:
    """A number that this process and its workers add to. Each of them sees the sum.

    Each process has a place of its own, so none waits for another. Workers get it when they are forked.
    """

    def __init__(self) -> None:
        self._places = memoryview(mmap.mmap(-1, TALLIED * 8)).cast("q")

    def __call__(self, number: int) -> None:
        """Add a number, which may be negative."""
        self._places[os.getpid() % TALLIED] += number

    @property
    def total(self) -> int:
        """The sum of all that was added."""
        return sum(self._places)


@contextmanager
def workers(
    function: Callable[[Task], Outcome], tasks: Sequence[Task], jobs: int, *, at_once: int = 1
) -> Iterator[Iterator[Outcome]]:
    """The outcomes of all tasks, in their order, by ``jobs`` processes. The iterator is valid within the context.

    Workers may be killed, as by a machine that is out of memory, or not start. Then the others do their work, and in
    the end this process.

    Args:
        function: is called in a worker. It, the tasks and the outcomes have to be picklable. If it raises, the worker
            is lost, and this process meets the exception when it does the rest.
        tasks: its arguments.
        jobs: how many processes.
        at_once: tasks that a worker gets together; handing over many small ones costs less so.

    Yields:
        The outcomes, while the context lasts. At its end all workers are killed.
    """
    stop_threads()
    processes = []
    pipes = []
    try:
        with suppress(OSError), _uninterrupted():  # the system may refuse another process
            for _ in range(jobs):
                ours, theirs = CONTEXT.Pipe()
                process = CONTEXT.Process(target=_work, args=(theirs, function, tasks, at_once), daemon=True)
                process.start()
                processes.append(process)
                pipes.append(ours)
                theirs.close()  # so that the pipe ends with the worker
        yield _outcomes(pipes, function, tasks, at_once)
    finally:
        for process in processes:
            process.kill()
        for process, pipe in zip(processes, pipes, strict=True):
            process.join()
            pipe.close()


def _outcomes(
    pipes: Sequence[Connection], function: Callable[[Task], Outcome], tasks: Sequence[Task], at_once: int
) -> Iterator[Outcome]:
    """Hands out batches, and yields their outcomes in order. A batch is named by the number of its first task."""
    batches = range(0, len(tasks), at_once)
    waiting = deque(batches)
    working: dict[Connection, deque[int]] = {pipe: deque() for pipe in pipes}
    done: dict[int, list[Outcome]] = {}
    for pipe in pipes:
        _hand_out(waiting, working, pipe)
    for batch in batches:
        while batch not in done:
            for pipe in cast(list[Connection], wait(working)) if working else ():
                try:
                    outcomes = pipe.recv()
                except (EOFError, OSError):  # the worker was killed
                    waiting.extendleft(reversed(working.pop(pipe)))
                else:
                    done[working[pipe].popleft()] = outcomes
                    _hand_out(waiting, working, pipe)
            if not working and batch not in done:
                waiting.remove(batch)
                done[batch] = list(map(function, tasks[batch : batch + at_once]))
        yield from done.pop(batch)


def _hand_out(waiting: deque[int], working: dict[Connection, deque[int]], pipe: Connection) -> None:
    with suppress(OSError):  # the worker was killed: ``_outcomes`` notices when it waits, and takes its batches back
        while waiting and len(working[pipe]) < AHEAD:
            pipe.send(waiting[0])
            working[pipe].append(waiting.popleft())
    if not working[pipe]:
        del working[pipe]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays signals: a process that was just forked has the handlers of this one, until ``_prepare``."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, function: Callable[[Task], Outcome], tasks: Sequence[Task], at_once: int) -> None:
    """The work of a worker, until the pipe is closed."""
    _prepare()
    with suppress(Exception):
        while True:
            batch = pipe.recv()
            pipe.send(list(map(function, tasks[batch : batch + at_once])))


def _prepare() -> None:
    """Makes a worker ignore signals, which the parent handles, and end with its parent."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)
