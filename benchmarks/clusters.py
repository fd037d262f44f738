"""One worker of a Dask cluster against two, each a process with one thread; and what passes through the scheduler."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np

import klcal
from benchmarks.side_by_side import ENVIRONMENT, PYTHON, in_turns, process, ratio, report, seconds

FILES, VALUES = 32, 1 << 24  # of 64 MB each: 2 GB
FEW = 8  # of these files, for what takes longer
HOST = "127.0.0.1"


def run() -> None:
    """Counts, calibrates and compares from the page cache, on clusters that are there already."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder))
        ways = _ways(folder)
        with _cluster(Path(folder), 1) as one, _cluster(Path(folder), 2) as two:
            for name, work in ways.items():
                _in_turns(name, work, one, two)
            _in_turns("klcal sketch of 2 GB, the whole process", partial(_command, folder), one, two)
        report("What passes through the scheduler of two workers", [*_passed(Path(folder), ways)])


def _ways(folder: str) -> dict[str, Callable[[str | None], object]]:
    """What is measured, each with a scheduler or without: it gives its answer."""
    acts, few, path = f"{folder}/acts", f"{folder}/few", Path(folder, "some.safetensors")

    def sketched(scheduler: str | None) -> bytes:
        klcal.sketch_files(acts, path, pool="stem", scheduler=scheduler)
        return path.read_bytes()

    def calibrated(per: str, scheduler: str | None) -> bytes:
        klcal.calibrate_files(few, dtype="int8", per=per, scheduler=scheduler).write(path)
        return path.read_bytes()  # as JSON, a million groups would take longer than their calibration

    def compared(scheduler: str | None) -> str:
        return json.dumps(klcal.compare(few, few, scheduler=scheduler).to_dict())

    return {
        "sketch of 2 GB, one tensor": sketched,
        "calibrate, 8 tensors of 64 MB, int8, a scale each": partial(calibrated, "tensor"),
        "calibrate, 8 tensors of 64 MB, int8 channels": partial(calibrated, "channel"),
        "calibrate, 8 tensors of 64 MB, int8 groups of 128": partial(calibrated, "group:128"),
        "compare, 8 pairs of tensors of 64 MB": compared,
    }


def _in_turns(name: str, work: Callable[[str], object], one: str, two: str) -> None:
    times = in_turns({"one": lambda: work(one), "two": lambda: work(two)})
    report(
        name,
        [
            ("one worker", seconds(times["one"])),
            ("one worker / two", f"{ratio(times, 'one', 'two'):.2f}"),
            ("the same of the fastest rounds", f"{min(times['one']) / min(times['two']):.2f}"),
        ],
    )


def _passed(folder: Path, ways: Mapping[str, Callable[[str | None], object]]) -> Iterator[tuple[str, str]]:
    """The share of the data; each answer is that without a scheduler."""
    passed = [0]
    with _cluster(folder, 2, passed) as address:
        for name, work in ways.items():
            before = passed[0]
            assert work(address) == work(None)
            share = (passed[0] - before) / (4 * VALUES * (FILES if "2 GB" in name else FEW))
            yield name, f"{share:.2%}"


def _fill(folder: Path) -> None:
    values = np.random.default_rng(0).standard_normal(VALUES, np.float32).reshape(4096, -1)
    for name in ("acts", "few"):
        (folder / name).mkdir()
    for number in range(FILES):
        file = folder / "acts" / f"x_{number:02}.npy"
        np.save(file, np.roll(values, number, 0))
        if number < FEW:
            (folder / "few" / file.name).symlink_to(file)


def _command(folder: str, scheduler: str) -> object:
    words = ("sketch", f"{folder}/acts", "--pool", "stem", "-o", f"{folder}/whole.safetensors")
    return process(PYTHON, "-m", "klcal", *words, "--quiet", "--scheduler", scheduler)()


# --- clusters


@contextmanager
def _cluster(folder: Path, workers: int, passed: list[int] | None = None) -> Iterator[str]:
    """The address of a scheduler; all connections to it lead through a place that counts bytes, if that is given."""
    known = folder / f"scheduler-{workers}-{passed is not None}.json"
    options = ("--host", HOST, "--port", "0", "--no-dashboard")
    running = [_started("distributed.cli.dask_scheduler", *options, "--scheduler-file", str(known))]
    try:
        while not (known.exists() and known.stat().st_size):
            time.sleep(0.05)
        address = json.loads(known.read_text())["address"]
        with nullcontext(address) if passed is None else _counting(address, passed) as address:
            more = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", HOST)
            running += [_started("distributed.cli.dask_worker", address, *more) for _ in range(workers)]
            from distributed import Client

            with Client(address) as client:
                client.wait_for_workers(workers)
            yield address
    finally:
        for each in running:
            each.kill()
            each.wait()


def _started(*words: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([PYTHON, "-m", *words], env=ENVIRONMENT, stdout=quiet, stderr=quiet)


@contextmanager
def _counting(address: str, passed: list[int]) -> Iterator[str]:
    """Another address of a scheduler; the bytes that pass through it, in both directions, are added to a number."""
    port = int(address.rsplit(":", 1)[1])
    with closing(socket.create_server((HOST, 0))) as server:
        threading.Thread(target=_accept, args=(server, port, passed), daemon=True).start()
        yield f"tcp://{HOST}:{server.getsockname()[1]}"


def _accept(server: socket.socket, port: int, passed: list[int]) -> None:
    with suppress(OSError):  # it was closed
        while True:
            near = server.accept()[0]
            far = socket.create_connection((HOST, port))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(*ends, passed), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, passed: list[int]) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            passed[0] += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
