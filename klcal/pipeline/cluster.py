"""Work on other machines: a Dask cluster counts what is there, and adds up what belongs together.

The scheduler hears which files are to be read, and chooses a worker for each; workers add the sketches of one tensor,
in a tree. Results come in the order of the work, so nothing depends on which worker was faster. Where a worker dies,
another one begins its work again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from klcal.errors import InputError, OutputError, UsageError

__all__ = ["Cluster", "cluster_at"]

LOCAL = "local"
LOGGERS = ("distributed", "tornado", "asyncio")
FAN = 8  # sketches that a worker adds at once: a tenth of the time to count one portion
TURNS = 32  # that a worker has, where there is work for more: a task costs the scheduler 1 ms
AHEAD = 2048  # portions that are begun before an answer is waited for: as many as busy 1,000 workers
TIMEOUT = "10s"  # in which a scheduler answers, or starts
HEARTBEAT = 10  # seconds in which a cluster has to have a worker
VERSIONS = "install the same version of klcal on all machines: pip install 'klcal[dask]'"

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Cluster:
    """A Dask cluster that is there, and its address, as people know it."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._threads = max(1, sum(client.nthreads().values()))  # of all workers

    def joined(
        self,
        work: Callable[[Item], Outcome],
        join: Callable[[list[Outcome]], Outcome],
        groups: Sequence[Sequence[Item]],
    ) -> Iterator[Outcome | InputError]:
        """What comes of each group: of each item on its own, joined where there are several; in their order.

        Where workers die with an item again and again, the group is an InputError.

        Args:
            work: is called on a worker, so it has to be picklable, as have items and outcomes.
            join: makes one outcome of some, or of one; called in a tree.
            groups: each at least one item.

        Raises:
            OutputError: the scheduler has gone away.
        """
        begun: deque[tuple[Any, int]] = deque()
        waiting, most = 0, max(1, sum(map(len, groups)) // (TURNS * self._threads))
        try:
            for group in groups:
                begun.append((self._begin(work, join, group, most), len(group)))
                waiting += len(group)
                while waiting > AHEAD:
                    future, size = begun.popleft()
                    waiting -= size
                    yield self._result(future)
            while begun:
                yield self._result(begun.popleft()[0])
        finally:
            with suppress(Exception):  # where the scheduler is gone, so is its work
                self._client.cancel([future for future, _ in begun])

    def _begin(
        self, work: Callable[[Item], Outcome], join: Callable[[list[Outcome]], Outcome], group: Any, most: int
    ) -> Any:
        with self._there():
            several = [group[first : first + most] for first in range(0, len(group), most)]
            futures = [self._client.submit(_all_of, work, join, some, pure=False) for some in several]
            while len(futures) > 1:
                parts = [futures[first : first + FAN] for first in range(0, len(futures), FAN)]
                futures = [self._client.submit(join, part, pure=False) for part in parts]
            return futures[0]

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        with self._there():
            try:
                return future.result()
            except KilledWorker:
                what = "the workers that counted it died, one after the other"
                return InputError(what, "look at their logs; give them more memory")

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
            what = f"the scheduler at {self._address} has gone away: nothing was written"
            raise OutputError(what, "start it and run again; --resume keeps what is done") from None


def _all_of(
    work: Callable[[Item], Outcome], join: Callable[[list[Outcome]], Outcome], items: Sequence[Item]
) -> Outcome:
    return join([work(item) for item in items])


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
    local = {"processes": True, "dashboard_address": None, "silence_logs": logging.CRITICAL + 1}
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


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("klcal")
    except PackageNotFoundError:  # it runs from its source
        return "unknown"
