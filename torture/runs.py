"""The command on one case, with what it took. Imports little: a child's memory is at least its parent's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "klcal", "calibrate")
HANG_SECONDS = 60.0
SLOW_SECONDS = 0.9  # beyond start-up: what takes longer runs again, alone, in case the machine was busy
TRIES = 3  # of which the fastest counts
SIDE_BY_SIDE = 2
TOGETHER = 8  # cases in a run


@dataclass(frozen=True)
class Run:
    """What came of a command, of which the streams are in files."""

    code: int
    seconds: float
    peak_mb: float  # of the largest of its processes
    hung: bool
    streams: Path

    @property
    def out(self) -> str:
        return self.streams.with_suffix(".out").read_text("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        return self.streams.with_suffix(".err").read_text("utf-8", "surrogateescape")


def run(arguments: Sequence[str], streams: Path, cwd: Path) -> Run:
    """One command in an empty folder, which is also its home: whatever it writes there, it should not."""
    hung = threading.Event()
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "PYTHONPATH": str(Path(__file__).parent.parent)}
    with streams.with_suffix(".out").open("wb") as out, streams.with_suffix(".err").open("wb") as err:
        start = time.monotonic()
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=environment
        )

        def stop() -> None:
            hung.set()
            process.kill()

        timer = threading.Timer(HANG_SECONDS, stop)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    return Run(process.returncode, seconds, used.ru_maxrss / 1024, hung.is_set(), streams)


@dataclass(frozen=True)
class Batch:
    """Cases that share a run, and the run."""

    cases: Sequence[Mapping[str, Any]]
    done: Run


def run_batches(cases: Sequence[Mapping[str, Any]], places: Mapping[str, Path], start_up: float) -> list[Batch]:
    """Every case in a run: the heavy ones in one of their own, the others with a few of their neighbours.

    Where a run takes long, it is done again; where several cases still do, each is run alone to see which it was.
    """
    light = [case for case in cases if not case["heavy"]]
    batches = [light[first : first + TOGETHER] for first in range(0, len(light), TOGETHER)]
    batches += [[case] for case in cases if case["heavy"]]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        done = list(pool.map(lambda batch: run_batch(batch, places), batches))
    kept = []
    for batch in done:
        again = fastest(batch, places, start_up)
        if again.done.seconds - start_up > SLOW_SECONDS and len(again.cases) > 1:
            kept += [fastest(run_batch([case], places), places, start_up) for case in again.cases]
        else:
            kept.append(again)
    return kept


def fastest(batch: Batch, places: Mapping[str, Path], start_up: float) -> Batch:
    """The same, or the fastest of a few more runs where it was slow: what else the machine does can only add."""
    for _ in range(1, TRIES):
        if batch.done.seconds - start_up > SLOW_SECONDS and not batch.done.hung:
            batch = min(batch, run_batch(batch.cases, places), key=lambda each: (not each.done.hung, each.done.seconds))
    return batch


def run_batch(batch: Sequence[Mapping[str, Any]], places: Mapping[str, Path]) -> Batch:
    """One run over the folders of some cases, with a good file beside them."""
    name = "-".join(case["folder"] for case in (batch[0], batch[-1]))
    folder = places["batches"] / name
    folder.mkdir(exist_ok=True)
    for case in batch:
        link = folder / case["folder"]
        if not link.is_symlink():
            link.symlink_to(places["corpus"] / case["folder"])
    arguments = ["--format", "json", "--jobs", "1", str(places["beside"] / "neighbour.npy"), str(folder)]
    return Batch(batch, run(arguments, places["results"] / name, places["empty"]))
