"""The CUDA devices that count the tensors of files, the reasons if there are none, and the threads that read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from klcal.errors import UsageError
from klcal.kernels.threads import in_order
from klcal.sketches.device_counting import usable_devices
from klcal.sketches.device_feeding import Feed

__all__ = ["Plan", "chosen_devices", "feeding"]

START_SECONDS = 1.3 + 5.0  # to import torch; to start the driver, where it is cold (2 where not, which nobody can know)
READ_BYTE_SECONDS = 0.1e-9  # to read a byte to pinned memory, from the page cache by one thread: a device is faster
WINS = 2  # times the seconds of a device are those of the CPU where it is taken: these are estimates
FEEDS = (
    2  # threads that read for a device: one's tensors are read while those of the other are searched, or written down
)
AHEAD = 2  # tensors for each of these that are begun, and whose sketches are not asked for yet

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Plan:
    """The devices or processes that do the work, and the reason."""

    devices: tuple[str, ...]  # that count tensors, and search channels and groups; none where the CPU does
    processes: int  # on the CPU
    threads: int  # of each of them
    why: str
    unfit: int = 0  # tensors that the CPU counts although devices were asked for


def chosen_devices(name: str, nbytes: int, seconds: float, rest: float) -> tuple[tuple[str, ...], str]:
    """The devices that count tensors, and why those or none.

    From files a device wins where many channels or groups are searched, on few cores: it has to be started. Of tensors
    with a single scale three cores count as fast as one thread reads: it takes 32 GB on a single core, 130 GB on two.

    Args:
        name: as asked; "auto" takes one where it wins.
        nbytes: of those tensors.
        seconds: of all work where the CPU does it.
        rest: of the work that remains where a device counts.

    Raises:
        UsageError: a device was asked for that cannot be used.
    """
    if name != "auto":
        return usable_devices(name), f"--device {name}"
    on_device = START_SECONDS + READ_BYTE_SECONDS * nbytes + rest
    estimate = f"an estimated {seconds:.1f} s on the CPU, {on_device:.1f} s with a CUDA device, starting it counted in"
    if seconds <= WINS * on_device:
        return (), estimate
    try:
        return usable_devices("cuda"), estimate
    except UsageError as error:
        return (), f"{estimate}, but {error.what}"


@contextmanager
def feeding(
    devices: Sequence[str], begin: Callable[[Feed, Item], Outcome], items: Iterable[Item]
) -> Iterator[Iterator[Outcome]]:
    """The outcomes of all items, in order. Each device takes the next item when it is free.

    Args:
        devices: each has a thread, which reads for it.
        begin: reads an item for the device of a feed.
        items: at most ``AHEAD`` of them for each device are begun before their outcomes are taken.
    """
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    feeds = [Feed(device) for device in devices for _ in range(FEEDS)]
    free: SimpleQueue[Feed] = SimpleQueue()
    for feed in feeds:
        free.put(feed)

    def begun(item: Item) -> Outcome:
        feed = free.get()
        try:
            return begin(feed, item)
        finally:
            free.put(feed)

    with ThreadPoolExecutor(len(feeds), thread_name_prefix="klcal-feed") as pool:
        try:
            yield in_order(pool, begun, items, AHEAD * len(feeds))
        finally:  # where the user interrupted, nothing that is left need be read
            for feed in feeds:
                feed.stop()
            pool.shutdown(cancel_futures=True)
