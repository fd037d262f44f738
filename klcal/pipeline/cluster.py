"""Work on other machines: a Dask cluster does what is there, and joins what belongs together.

The scheduler hears which files are to be read, and chooses a worker for each; workers join the outcomes of one tensor,
in a tree. Outcomes come in the order of the work, so nothing depends on which worker was faster. Where a worker dies,
another one begins its work again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import islice
from posixpath import dirname
from typing import Any, NamedTuple, TypeAlias, TypeVar

from klcal.errors import InputError, OutputError, UsageError
from klcal.kernels.threads import limited
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, open_regular

__all__ = ["Cluster", "cluster_at"]

LOCAL = "local"
ANY_PORT = "127.0.0.1:0"  # of the dashboard, which cannot be left out: the usual one may be taken, which Dask warns of
LOGGERS = ("distributed", "tornado", "asyncio")
FAN = 8  # sketches that a worker adds at once: a tenth of the time to count one portion
TURNS = 32  # that a worker has at most: the last one is late by no more than one of them
FEWEST_TURNS = 4  # where there is little work: the fewer, the less waits for the scheduler
TURN_SECONDS = 0.15  # of work in a turn: a task costs the scheduler 1 to 2 ms, and its worker as much
AHEAD = 2048  # items that are begun before an answer is waited for: as many as busy 1,000 workers
FOLDERS = 64  # of which a file is looked at by each worker: one that lacks a disk lacks all of it
TIMEOUT = "10s"  # in which a scheduler answers, or starts
REACH = 2  # seconds in which a worker answers this process, if it ever does
HEARTBEAT = 10  # seconds in which a cluster has to have a worker
VERSIONS = "install the same version of klcal on all machines: pip install 'klcal[dask]'"
SEEN = "all workers have to have the files under the same absolute paths"

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Cluster:
    """A Dask cluster that is there, and its address, as people know it: ``Workers`` on other machines.

    A task has one thread, as Dask counts those of a worker.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client, self.address = client, address
        self.jobs = max(1, sum(client.nthreads().values()))  # threads of all workers

    def shared(self, tasks: int, seconds: float) -> tuple[int, int]:  # noqa: ARG002 - it is there, whatever it takes
        """How many tasks are worked on at a time, and on how many threads each."""
        return max(1, min(self.jobs, tasks)), 1

    def see(self, paths: Iterable[str]) -> None:
        """Check that the workers that are there now have the same files: one of each folder, of ``FOLDERS`` at most.

        Raises:
            UsageError: one has not.
        """
        by_folder = {dirname(path): path for path in paths}
        files = []
        for path in islice(by_folder.values(), FOLDERS):
            with suppress(InputError):  # which is told where it is read
                files.append(open_regular(path))
        with self._there():
            found = self._client.run(_differences, files, on_error="ignore")  # one that dies now will be replaced
        for worker, differences in found.items():
            for file, what in zip(files, differences, strict=True):
                if what:
                    raise UsageError(f"the worker {worker} does not see {quoted(file.path)}: {what}", SEEN)

    @contextmanager
    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[Sequence[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
        seconds: float,
        told: Callable[[Item], None] | None = None,
    ) -> Iterator[Iterator[Outcome | InputError]]:
        """As ``Workers`` has it. Outcomes are joined on workers; a group is told of when all of it is done."""
        most = _items_of_a_turn(sum(map(len, groups)), seconds, self.jobs)
        found = self._outcomes(_Work(partial(limited, work, 1), join, most), groups, told)
        with closing(found):
            yield found

    def _outcomes(
        self, work: _Work, groups: Sequence[Sequence[Any]], told: Callable[[Any], None] | None
    ) -> Generator[Any]:
        begun: deque[tuple[_Batch, Any]] = deque()
        waiting, left = 0, _batches(groups, work.most)
        try:
            while True:
                while waiting <= AHEAD and (batch := next(left, None)) is not None:
                    begun.append((batch, self._begin(work, batch)))
                    waiting += sum(map(len, batch))
                if not begun:
                    return
                batch, future = begun.popleft()
                for group, outcome in zip(batch, self._results(work, batch, future), strict=True):
                    waiting -= len(group)
                    for item in group if told is not None else ():
                        told(item)  # type: ignore[misc]  # it is one
                    yield outcome
        finally:
            with suppress(Exception):  # where the scheduler is gone, so is its work
                self._client.cancel([future for _, future in begun])

    def _begin(self, work: _Work, batch: _Batch) -> Any:
        """The future of the outcomes of a batch; the items of a large group are joined in a tree."""
        with self._there():
            if len(batch) > 1 or len(batch[0]) <= work.most:
                return self._client.submit(_outcomes_of, work, batch, pure=False)
            (group,) = batch
            several = [group[first : first + work.most] for first in range(0, len(group), work.most)]
            futures = [self._client.submit(_outcomes_of, work, [some], pure=False) for some in several]
            while len(futures) > 1:
                parts = [futures[first : first + FAN] for first in range(0, len(futures), FAN)]
                futures = [self._client.submit(_joined, work, part, pure=False) for part in parts]
            return futures[0]

    def _results(self, work: _Work, batch: _Batch, future: Any) -> list[Any]:
        """The outcome of each group; where workers died with some together, one of these alone is to blame."""
        from distributed import KilledWorker

        with self._there(), suppress(KilledWorker):
            found: list[Any] = future.result()
            return found
        if len(batch) > 1:
            return [self._results(work, [group], self._begin(work, [group]))[0] for group in batch]
        what = "the workers that counted it died, one after the other"
        return [InputError(what, "look at their logs; give them more memory")]

    @contextmanager
    def _there(self) -> Iterator[None]:
        """What the scheduler's end looks like, in our words."""
        from concurrent.futures import CancelledError

        from distributed.comm import CommClosedError

        try:
            yield
        except (CancelledError, CommClosedError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self._client.status == "running":
                raise
            what = f"the scheduler at {self.address} has gone away: nothing was written"
            raise OutputError(what, "start it and run again") from None


def _items_of_a_turn(items: int, seconds: float, jobs: int) -> int:
    """How many of all items a worker takes at once, by an estimate of all work on one core.

    >>> _items_of_a_turn(32, 1.3, 2), _items_of_a_turn(10_000, 500, 100), _items_of_a_turn(8, 2, 2)
    (3, 3, 1)
    """
    turns = min(TURNS, max(FEWEST_TURNS, seconds / (TURN_SECONDS * jobs)))
    return max(1, int(items / (turns * jobs)))


class _Work(NamedTuple):
    """What is done with items; workers get it."""

    one: Callable[[Any], Any]
    join: Callable[[Sequence[Any]], Any]
    most: int  # items that a worker takes at once


_Batch: TypeAlias = Sequence[Sequence[Any]]
"""Groups that are begun together."""


def _batches(groups: Iterable[Sequence[Any]], most: int) -> Iterator[_Batch]:
    """Neighbouring groups of one item each, so many at a time; any other group alone.

    >>> [*_batches(["a", "b", "c", "dd", "e"], 2)]
    [['a', 'b'], ['c'], ['dd'], ['e']]
    """
    batch: list[Sequence[Any]] = []
    for group in groups:
        if batch and (len(group) > 1 or len(batch) == most):
            yield batch
            batch = []
        batch.append(group)
        if len(group) > 1:
            yield batch
            batch = []
    if batch:
        yield batch


def _outcomes_of(work: _Work, batch: _Batch) -> list[Any]:
    """The outcome of each group."""
    each = ([work.one(item) for item in group] for group in batch)
    return [found[0] if len(found) == 1 else work.join(found) for found in each]


def _joined(work: _Work, parts: Sequence[list[Any]]) -> list[Any]:
    """The outcome of a group, of which each part has one."""
    found = [outcome for (outcome,) in parts]
    return [found[0] if len(found) == 1 else work.join(found)]


def _differences(files: Sequence[RegularFile]) -> list[str]:
    """What is wrong with each file as this machine has it, in words; "" where it is the same."""
    return [_difference(file) for file in files]


def _difference(file: RegularFile) -> str:
    try:
        here = open_regular(file.path)
    except InputError as error:
        return error.what
    return "" if (here.size, here.stamp) == (file.size, file.stamp) else "it has another file there"


@contextmanager
def cluster_at(address: str, jobs: int = 1) -> Iterator[Cluster]:
    """A cluster whose workers have the same klcal.

    Args:
        address: of its scheduler, "tcp://HOST:PORT"; or "local": as many worker processes on this machine as ``jobs``.
        jobs: how many.

    Raises:
        UsageError: Dask is not installed, there is no such scheduler or no worker, or one has another klcal.
    """
    try:
        import distributed
    except ImportError:
        raise UsageError("--scheduler needs Dask", "pip install 'klcal[dask]'") from None
    with _silent(), _workers(distributed, address, jobs) as found:
        try:
            client = distributed.Client(found, timeout=TIMEOUT, name="klcal")
        except (OSError, ValueError, TimeoutError):
            hint = "name the address that dask-scheduler shows, tcp://HOST:PORT, or local"
            raise UsageError(f"there is no scheduler at {address!r}", hint) from None
        try:
            _check_workers(client, address)
            client.direct_to_workers = _reached(client)
            yield Cluster(client, address)
        finally:
            with suppress(Exception):  # it may be gone
                client.close(timeout=1)


@contextmanager
def _silent() -> Iterator[None]:
    """What matters of what Dask logs is told in our words."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in LOGGERS]
    loggers = [logging.getLogger(name) for name in names]
    before = [(each, each.handlers, each.propagate) for each in loggers]
    for each in loggers:
        each.handlers, each.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for each, handlers, propagates in before:
            each.handlers, each.propagate = handlers, propagates


@contextmanager
def _workers(distributed: Any, address: str, jobs: int) -> Iterator[Any]:
    if address != LOCAL:
        yield address
        return
    local = {"processes": True, "dashboard_address": ANY_PORT, "silence_logs": logging.CRITICAL + 1}
    with distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, **local) as found:
        yield found


def _check_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=HEARTBEAT)
    except TimeoutError:
        raise UsageError(f"the scheduler at {address} has no workers", "start some: dask worker ADDRESS") from None
    ours = _version()
    for worker, version in client.run(_version, on_error="return").items():
        if version != ours:
            has = f"klcal {version}" if isinstance(version, str) else "no klcal"
            raise UsageError(f"the worker {worker} has {has}, this is {ours}", VERSIONS)


def _reached(client: Any) -> bool:
    """Whether this process can ask a worker itself. If so, no answer passes through the scheduler, which all share."""
    from distributed.comm import connect

    async def reach(address: str) -> None:
        comm = await connect(address, timeout=REACH, **client.connection_args)
        await comm.close()

    try:
        client.sync(reach, next(iter(client.scheduler_info()["workers"])))
    except (OSError, StopIteration):  # it is behind a wall, or has just died
        return False
    return True


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("klcal")
    except PackageNotFoundError:  # it runs from its source
        return "unknown"
