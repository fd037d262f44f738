"""One way to hand out tasks: to processes of this machine, or to a cluster. Commands do not know which.

Outcomes come in the order of the tasks. Where several tasks belong together, as the portions of a tensor, their
outcomes are joined. A join has to be associative, for it happens wherever two outcomes meet: here, or on a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from klcal.errors import InputError, UsageError
from klcal.kernels.threads import limited

__all__ = ["Processes", "Workers", "outcomes", "workers_at"]

PARALLEL_SECONDS = 0.2  # estimated work from which starting processes pays
STDIN = "-"

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Workers(Protocol):
    """Whoever works on tasks."""

    @property
    def jobs(self) -> int:
        """How many cores they have."""

    @property
    def address(self) -> str | None:
        """The scheduler of a cluster; None for this machine."""

    def shared(self, tasks: int, seconds: float) -> tuple[int, int]:
        """How many tasks are worked on at a time, and on how many threads each.

        Args:
            tasks: how many there are.
            seconds: an estimate of their work on one core.
        """

    def see(self, paths: Iterable[str]) -> None:
        """Check that the workers have the files of these paths.

        Raises:
            UsageError: one has not.
        """

    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[Sequence[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
        seconds: float,
        told: Callable[[Item], None] | None = None,
    ) -> AbstractContextManager[Iterator[Outcome | InputError]]:
        """The outcome of each group, in their order, while the context lasts.

        Args:
            work: is called with an item, in another process. It, the items and the outcomes have to be picklable.
            join: makes one outcome of at least two neighbouring ones. It is associative.
            groups: at least one item each.
            seconds: an estimate of all work on one core.
            told: is told in this process of each item that is done.

        Yields:
            Outcomes; an InputError for a group whose workers were killed again and again.

        Raises:
            OutputError: while outcomes are taken: the scheduler has gone away.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, as many as pay: none for little work, which this process does."""

    jobs: int  # processes at most; threads where there are fewer tasks
    address: None = None

    def shared(self, tasks: int, seconds: float) -> tuple[int, int]:
        """How many processes work, and on how many threads each."""
        processes = max(1, min(self.jobs, tasks)) if seconds > PARALLEL_SECONDS else 1
        return processes, max(1, self.jobs // processes)

    def see(self, paths: Iterable[str]) -> None:
        """They see what this process sees."""

    @contextmanager
    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[Sequence[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
        seconds: float,
        told: Callable[[Item], None] | None = None,
    ) -> Iterator[Iterator[Outcome | InputError]]:
        """As ``Workers`` has it. Outcomes are joined here, one by one: no more than two of a group are held."""
        items = [item for group in groups for item in group]
        processes, threads = self.shared(len(items), seconds)
        by_threads = partial(limited, work, threads)
        if processes == 1:
            here = _joined(map(by_threads, items), join, groups, told)
            yield here
            return
        from klcal.pipeline.workers import workers

        with workers(by_threads, items, processes) as found:
            joined = _joined(found, join, groups, told)
            yield joined


def _joined(
    found: Iterator[Outcome],
    join: Callable[[Sequence[Outcome]], Outcome],
    groups: Iterable[Sequence[Item]],
    told: Callable[[Item], None] | None,
) -> Iterator[Outcome]:
    for first, *rest in groups:
        outcome = next(found)
        if told is not None:
            told(first)
        for item in rest:
            outcome = join([outcome, next(found)])
            if told is not None:
                told(item)
        yield outcome


@contextmanager
def outcomes(
    workers: Workers, work: Callable[[Item], Outcome], items: Sequence[Item], seconds: float
) -> Iterator[Iterator[Outcome | InputError]]:
    """The outcome of each item, in their order, while the context lasts: ``Workers.joined`` without a join."""
    with workers.joined(work, _alone, [[item] for item in items], seconds) as found:
        yield found


def _alone(_: Sequence[Outcome]) -> Outcome:
    raise AssertionError("a group of one item has nothing to join")


@contextmanager
def workers_at(scheduler: str | None, jobs: int, reads: Iterable[str]) -> Iterator[Workers]:
    """Those that a command asks for.

    Args:
        scheduler: the address of a Dask cluster; "local" for one of ``jobs`` processes on this machine; None for
            processes without Dask.
        jobs: how many processes, at most.
        reads: the paths that will be read.

    Raises:
        UsageError: there is no such cluster, it cannot be used, or a path is standard input.
    """
    if scheduler is None:
        yield Processes(jobs)
        return
    if STDIN in reads:
        raise UsageError("other machines cannot read this one's standard input", "name files that all of them see")
    from klcal.pipeline.cluster import cluster_at

    with cluster_at(scheduler, jobs) as cluster:
        yield cluster
