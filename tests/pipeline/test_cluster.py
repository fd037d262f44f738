"""A Dask cluster counts what one process does, to the byte, also where a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import klcal
from klcal.errors import UsageError
from klcal.pipeline import cluster
from klcal.pipeline.gathered import Asked
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.sketch import sketch_files
from tests.support.command import normal

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

DEADLINE = 60.0  # seconds, for a machine that is busy
SLOW = """
import os, time, klcal.pipeline.pieces as pieces
real = getattr(pieces._sketch, "real", pieces._sketch)  # it may be loaded twice
def slow(piece, parts):
    open(os.path.join({folder!r}, f"begun_{{os.getpid()}}"), "w").close()
    time.sleep(0.1)
    return real(piece, parts)
slow.real, pieces._sketch = real, slow
"""
"""What a worker loads first, so that there is time to kill it."""


@pytest.fixture
def batches(tmp_path):
    folder = tmp_path / "acts"
    folder.mkdir()
    for number in range(40):  # of which a worker takes 16 at once
        np.save(folder / f"x_{number}.npy", normal(3000, number).reshape(2, 3, 500))
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "klcal", "sketch", *arguments]


@pytest.fixture
def dask(tmp_path):
    """A scheduler and two workers, each a process of its own; the second element kills one of them."""
    running: list[subprocess.Popen] = []
    (tmp_path / "slow.py").write_text(SLOW.format(folder=str(tmp_path)))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    known = tmp_path / "scheduler.json"

    def begin(*words: str) -> subprocess.Popen:
        running.append(subprocess.Popen([sys.executable, "-m", *words], **quiet))
        return running[-1]

    local = ("--host", "127.0.0.1")
    scheduler = begin(
        *("distributed.cli.dask_scheduler", *local, "--port", "0", "--no-dashboard"),
        *("--scheduler-file", str(known)),
    )
    until(lambda: known.exists() and known.stat().st_size)
    address = json.loads(known.read_text())["address"]
    for _ in range(2):
        begin("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *local,
              "--preload", str(tmp_path / "slow.py"))  # fmt: skip
    yield address, scheduler
    for each in running:
        each.kill()
        each.wait()


def until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("per", ["tensor", "channel:1"])
def test_a_cluster_of_processes_gives_the_same_bytes(batches, tmp_path, monkeypatch, per):
    monkeypatch.setattr("klcal.pipeline.tasks.PART_BYTES", 1 << 14)  # so that there is a tree to add up
    damaged = bytearray((batches / "x_5.npy").read_bytes())
    (batches / "x_5.npy").write_bytes(damaged[:-7])
    asked, rules = Asked(pool=Pool.parse("stem")), Request.parse(per=per).per
    found = {}
    for name, options in (("one", {}), ("dask", {"scheduler": "local", "jobs": 2})):
        path = str(tmp_path / f"{name}.safetensors")
        found[name] = sketch_files([str(batches)], path, asked, per=rules, **options)
    assert found["one"] == found["dask"]
    assert [failure.source for failure in found["one"].failures] == ["x_5.npy"]
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "dask.safetensors").read_bytes()


def test_a_worker_that_is_killed_costs_nothing(batches, tmp_path, dask):
    address, _ = dask
    run = subprocess.Popen(
        command(str(batches), "--scheduler", address, "-o", "d.safetensors"), cwd=tmp_path, stderr=subprocess.PIPE
    )
    until(lambda: len(list(tmp_path.glob("begun_*"))) == 2)
    os.kill(int(next(tmp_path.glob("begun_*")).name.partition("_")[2]), signal.SIGKILL)
    _, told = run.communicate(timeout=DEADLINE)
    assert (run.returncode, told.decode().count("\n")) == (0, 1), told
    subprocess.run(command(str(batches), "-o", "one.safetensors"), cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_a_scheduler_that_goes_away_leaves_no_output_and_one_line(batches, tmp_path, dask):
    address, scheduler = dask
    run = subprocess.Popen(
        command(str(batches), "--scheduler", address, "-o", "d.safetensors"), cwd=tmp_path, stderr=subprocess.PIPE
    )
    until(lambda: list(tmp_path.glob("begun_*")))
    scheduler.kill()
    _, told = run.communicate(timeout=DEADLINE)
    assert run.returncode == 4
    assert told.count(b"\n") == 1, told.decode()
    line = told.decode()
    assert line.startswith(f"klcal: error: the scheduler at {address} has gone away")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == []
    assert not list(tmp_path.glob(".klcal*"))


def test_no_scheduler_is_wrong_usage(batches, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", "1s")
    for address in ("tcp://127.0.0.1:9", "nowhere", ""):
        with pytest.raises(UsageError, match="there is no scheduler at"), cluster.cluster_at(address):
            pass
    with pytest.raises(UsageError, match="other machines cannot read this one's standard input"):
        klcal.sketch_files("-", tmp_path / "s.safetensors", scheduler="local")
    done = subprocess.run(
        command(str(batches), "--scheduler", "tcp://x:1", "--jobs", "2", "-o", "d.safetensors"),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"--jobs counts processes of this machine" in done.stderr
