"""Timing in turns: every round runs all candidates, so that a slow minute hits them alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from klcal.kernels.library import VARIABLE, library

PYTHON = sys.executable
# Modules are compiled once, as in any installation, whatever this shell says.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, Sequence[float]], of: str, to: str) -> float:
    """The median over the rounds of the quotient of two candidates."""
    return statistics.median(a / b for a, b in zip(times[of], times[to], strict=True))


def report(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a heading and lines of two columns."""
    print(f"\n{title}\n{'-' * len(title)}")
    for name, value in rows:
        print(f"  {name:<62} {value:>14}")
    sys.stdout.flush()


def seconds(times: Sequence[float]) -> str:
    """The median, with a unit that fits."""
    median = statistics.median(times)
    return f"{median:.2f} s" if median >= 1 else f"{median * 1e3:.2f} ms"


def process(*arguments: str) -> Callable[[], object]:
    """A run of a command that has to succeed."""
    return lambda: subprocess.run(arguments, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core: what is claimed of one core is measured on one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """The kernel of this name, for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    library.cache_clear()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        library.cache_clear()
