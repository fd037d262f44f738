"""One interface for all workers: processes of this machine, or a cluster. Commands do not depend on the kind.

Outcomes come in the order of the tasks. Tasks may form a group, as the portions of a tensor do: their outcomes are
joined to one. Outcomes of neighbouring tasks are joined in any grouping, in this process or on a worker, so a join has
to be associative.
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

PARALLEL_SECONDS = 0.2  # estimated work above which it pays to start processes
STDIN = "-"

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Workers(Protocol):
    """Processes that work on tasks: ``Processes``, or ``klcal.pipeline.cluster.Cluster``."""

    @property
    def jobs(self) -> int:
        """The number of cores that they may use, together."""

    @property
    def address(self) -> str | None:
        """The address of the scheduler of a cluster; None for processes of this machine."""

    def shared(self, tasks: int, seconds: float) -> tuple[int, int]:
        """Divide the cores among tasks.

        Args:
            tasks: the number of tasks.
            seconds: an estimate of all their work on one core.

        Returns:
            The number of tasks at a time, and the number of threads for each.
        """

    def see(self, paths: Iterable[str]) -> None:
        """Check that all workers can read the files with these paths.

        Raises:
            UsageError: a worker cannot read one of them, or reads another file there.
        """

    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[Sequence[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
        seconds: float,
        told: Callable[[Item], None] | None = None,
    ) -> AbstractContextManager[Iterator[Outcome | InputError]]:
        """The outcome of each group, in the order of the groups. The iterator is valid within the context.

        Args:
            work: called with an item, possibly in another process. The function, the items and the outcomes have to be
                picklable.
            join: makes one outcome from two or more neighbouring ones of a group. It has to be associative.
            groups: the items; each group has at least one.
            seconds: an estimate of all work on one core.
            told: called in this process with each item that is done.

        Yields:
            An iterator over the outcomes; an InputError in place of a group whose workers were killed again and again.

        Raises:
            OutputError: from the iterator, if the scheduler of a cluster disappears.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, at most ``jobs``. Little work is done in this process, without starting others."""

    jobs: int  # the number of cores: with fewer tasks than cores, each task has several threads
    address: None = None

    def shared(self, tasks: int, seconds: float) -> tuple[int, int]:
        """The number of processes, and of threads in each."""
        processes = max(1, min(self.jobs, tasks)) if seconds > PARALLEL_SECONDS else 1
        return processes, max(1, self.jobs // processes)

    def see(self, paths: Iterable[str]) -> None:
        """Nothing to check: processes of this machine read the same files."""

    @contextmanager
    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[Sequence[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
        seconds: float,
        told: Callable[[Item], None] | None = None,
    ) -> Iterator[Iterator[Outcome | InputError]]:
        """See ``Workers.joined``. Outcomes are joined in this process, one by one, so at most two are held."""
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
