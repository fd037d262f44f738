"""A Dask cluster counts what one process does, to the byte, also where a worker is killed."""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from safetensors.numpy import save_file

import klcal
from klcal.errors import UsageError
from klcal.pipeline import cluster
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.gathered import Asked
from klcal.pipeline.inspect import inspect_files
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.sketch import sketch_files
from klcal.readers import regular
from tests.support.command import normal

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
dask_config = pytest.importorskip("dask.config", reason="Dask is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

DASHBOARD = 8787  # the port that Dask takes for it, or warns that it is taken
DEADLINE = 60.0  # seconds, for a machine that is busy
SLOW = """
import os, time, klcal.pipeline.compare as compare, klcal.pipeline.pieces as pieces, klcal.pipeline.worked as worked
def slowed(module, name):
    real = getattr(module, name)
    def slow(*arguments):
        open(os.path.join({folder!r}, f"begun_{{os.getpid()}}"), "w").close()
        time.sleep(0.05)
        return real(*arguments)
    slow.is_slow = True
    if not hasattr(real, "is_slow"):  # it may be loaded twice
        setattr(module, name, slow)
slowed(pieces, "_sketch"), slowed(worked, "_counted"), slowed(compare, "_compared")
"""
"""What a worker loads first, so that there is time to kill it."""
BLIND = """
import os
real = getattr(os.open, "real", os.open)
def blind(path, *arguments, **named):
    if str(path).endswith(".npy"):
        raise FileNotFoundError(2, "there is none")
    return real(path, *arguments, **named)
blind.real, os.open = real, blind
"""
"""What a worker loads that has not the disk with the files."""
FATAL = """
import os, time, klcal.pipeline.worked as worked
real = getattr(worked._counted, "real", worked._counted)  # it may be loaded twice
def fatal(tensor, watch):
    if tensor.dtype == "float16":
        time.sleep(0.5)  # until others have heard of what is done
        os._exit(9)
    return real(tensor, watch)
fatal.real, worked._counted = real, fatal
"""
"""What a worker loads that one tensor is too much for."""


@pytest.fixture
def batches(tmp_path):
    folder = tmp_path / "acts"
    folder.mkdir()
    for number in range(40):  # of which a worker takes 16 at once
        np.save(folder / f"x_{number}.npy", normal(3000, number).reshape(2, 3, 500))
    return folder


@pytest.fixture(scope="module")
def local():
    """The address of a cluster of two processes."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=cluster.ANY_PORT) as found:
        yield found.scheduler_address


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "klcal", *arguments]


QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@contextmanager
def scheduler_in(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a scheduler, a process of its own."""
    known = folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(known))
    process = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *options], cwd=folder, **QUIET)
    try:
        until(lambda: known.exists() and known.stat().st_size)
        yield json.loads(known.read_text())["address"], process
    finally:
        process.kill()
        process.wait()


@contextmanager
def workers_of(address: str, folder: Path, *preloads: str) -> Iterator[None]:
    """Workers, each a process of its own that has run a text."""
    running = []
    for number, text in enumerate(preloads):
        (folder / f"preload_{number}.py").write_text(text)
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        words = ("distributed.cli.dask_worker", address, *options, "--preload", f"preload_{number}.py")
        running.append(subprocess.Popen([sys.executable, "-m", *words], cwd=folder, **QUIET))
    try:
        with distributed.Client(address) as client:
            client.wait_for_workers(len(preloads), timeout=DEADLINE)
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of one without workers."""
    with scheduler_in(tmp_path_factory.mktemp("scheduler")) as (address, _):
        yield address


def until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def taken(port: int) -> Iterator[None]:
    """A port that nobody else can have, as with another cluster on this machine."""
    with socket.socket() as held:
        with suppress(OSError):  # somebody has it
            held.bind(("127.0.0.1", port))
            held.listen()
        yield


@pytest.mark.parametrize("per", ["tensor", "channel:1"])
def test_a_cluster_of_processes_gives_the_same_bytes(batches, tmp_path, monkeypatch, per):
    monkeypatch.setattr("klcal.pipeline.tasks.PART_BYTES", 1 << 14)  # so that there is a tree to add up
    damaged = bytearray((batches / "x_5.npy").read_bytes())
    (batches / "x_5.npy").write_bytes(damaged[:-7])
    asked, rules = Asked(pool=Pool.parse("stem")), Request.parse(per=per).per
    found = {}
    with taken(DASHBOARD):
        for name, options in (("one", {}), ("dask", {"scheduler": "local", "jobs": 2})):  # the one that klcal starts
            path = str(tmp_path / f"{name}.safetensors")
            found[name] = sketch_files([str(batches)], path, asked, per=rules, **options)
    assert found["one"] == found["dask"]
    assert [failure.source for failure in found["one"].failures] == ["x_5.npy"]
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "dask.safetensors").read_bytes()


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Some tensors, of which one is cut into parts, one is damaged, and some are small; named as from their folder."""
    monkeypatch.setattr(regular, "PART_BYTES", 1 << 14)
    monkeypatch.setattr("klcal.pipeline.tasks.PART_BYTES", 1 << 14)
    monkeypatch.setattr("klcal.pipeline.tasks.SMALL_BYTES", 1 << 9)
    monkeypatch.setattr(cluster, "TURNS", 2)  # so that some tensors travel together
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for number, size in enumerate([50, 40_000, 3000, 0, 70]):
        np.save(folder / f"w_{number}.npy", normal(size, number).reshape(-1, 10))
    np.save(folder / "nan.npy", np.float32([1, np.nan]))
    np.save(folder / "cut.npy", normal(3000, 9))
    os.truncate(folder / "cut.npy", 8000)
    np.savez(tmp_path / "energy.npz", **{f"w_{number}": np.arange(1.0, 11.0) for number in range(5)})
    return "model"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per": "channel"},
        {"per": "group:5", "dtype": "int4"},
        {"importance": "energy.npz"},
        {"detail": "histogram"},
    ],
)
def test_calibration_on_a_cluster_gives_the_same_table(model, local, options):
    found = [klcal.calibrate_files(model, scheduler=each, **options) for each in (None, local)]
    assert [row.status for row in found[0].rows].count("ok") == 4
    assert len(found[0].errors) == 1
    assert text_of(found[0]) == text_of(found[1])


def test_a_device_is_of_this_machine_and_a_scheduler_has_others(model, local):
    with pytest.raises(UsageError, match="--device cuda is of this machine, --scheduler has others"):
        calibrate_files([model], Request.parse(device="cuda"), scheduler=local)


def test_pooled_tensors_are_calibrated_on_a_cluster_less_their_bad_batches(model, local):
    np.save("model/w_7.npy", np.full((3, 10), np.inf, np.float32))
    found = [klcal.calibrate_files(model, pool="stem", include="w_*", scheduler=each) for each in (None, local)]
    assert [(row.name, row.status) for row in found[0].rows] == [("w", "ok")]
    assert [error.source for error in found[0].errors] == ["cut.npy", "w_7.npy"]
    assert text_of(found[0]) == text_of(found[1])


def test_files_are_compared_on_a_cluster_with_the_same_table(model, local):
    shutil.copytree(model, "other")
    np.save("other/w_1.npy", 1 + np.load("model/w_1.npy"))
    table = klcal.calibrate_files(model, per="channel")
    for against in ({"q": "other"}, {"table": table}):
        found = [klcal.compare(model, scheduler=each, **against) for each in (None, local)]
        assert text_of(found[0]) == text_of(found[1])
        assert "ok" in {row.status for row in found[0].rows}


def test_files_are_checked_on_a_cluster_with_the_same_changes(model, local):
    baseline = klcal.calibrate_files(model)
    np.save("model/w_1.npy", 3 * np.load("model/w_1.npy"))
    found = [klcal.check(model, baseline, scheduler=each) for each in (None, local)]
    assert text_of(found[0]) == text_of(found[1])
    assert found[0].findings


def test_statistics_are_counted_on_a_cluster_with_the_same_table(model, local):
    found = [inspect_files([model], stats=True, scheduler=each) for each in (None, local)]
    assert text_of(found[0]) == text_of(found[1])
    assert any(row.max is not None for row in found[0].rows)


def test_headers_are_not_read_by_a_scheduler_s_workers(model, local):
    with pytest.raises(UsageError, match="headers"):
        inspect_files([model], scheduler=local)


def test_a_model_is_quantized_on_a_cluster_to_the_same_files(tmp_path, local, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for shard in range(3):
        save_file(
            {f"{shard}.{name}": normal(4000, shard).reshape(40, 100) for name in "ab"}, f"model/{shard}.safetensors"
        )
    for output, scheduler in (("one", None), ("dask", local)):
        klcal.apply("model", output, to="safetensors", dtype="int4", per="group:20", scheduler=scheduler)
    names = sorted(each.name for each in Path("one").iterdir())
    assert len(names) == 3
    assert filecmp.cmpfiles("one", "dask", names, shallow=False)[0] == names
    with pytest.raises(UsageError, match="scheduler is for calibration"):
        klcal.apply("model", "two", to="safetensors", table=klcal.calibrate_files("model"), scheduler=local)


def text_of(table: klcal.Table) -> str:
    return json.dumps(table.to_dict())


RUNS = {
    "sketch": ("sketch", "acts", "-o", "{}.safetensors"),
    "calibrate": ("calibrate", "acts", "--per", "channel:1", "-o", "{}.json"),
    "compare": ("compare", "acts", "acts", "-o", "{}.json"),
    "inspect": ("inspect", "acts", "--stats", "-o", "{}.json"),
    "apply": ("apply", "acts", "--to", "npz", "--per", "channel:1", "-o", "{}"),
}
"""What is run, and where it writes."""


def run_of(name: str, output: str, *more: str) -> list[str]:
    return command(*(word.format(output) for word in RUNS[name]), *more)


def files_of(path: Path) -> dict[str, bytes]:
    """A file, or all of a directory."""
    files = [*path.parent.glob(f"{path.name}.*"), *path.glob("*")]
    return {each.name.removeprefix(path.name): each.read_bytes() for each in files}


def test_a_worker_that_is_killed_costs_nothing(batches, tmp_path, scheduler):
    names = ("sketch", "calibrate", "apply")
    with workers_of(scheduler, tmp_path, *[SLOW.format(folder=str(tmp_path))] * (len(names) + 1)):
        for name in names:
            run = subprocess.Popen(run_of(name, f"d_{name}", "--scheduler", scheduler), cwd=tmp_path, stderr=PIPE)
            until(lambda: len(list(tmp_path.glob("begun_*"))) >= 2)
            os.kill(int(next(tmp_path.glob("begun_*")).name.partition("_")[2]), signal.SIGKILL)
            _, told = run.communicate(timeout=DEADLINE)
            for each in tmp_path.glob("begun_*"):
                each.unlink()
            alone = subprocess.run(run_of(name, f"one_{name}"), cwd=tmp_path, check=True, stderr=PIPE)
            assert run.returncode == 0, told
            assert told == alone.stderr.replace(b" one_", b" d_")
            found = files_of(tmp_path / f"d_{name}")
            assert found
            assert found == files_of(tmp_path / f"one_{name}")


@pytest.mark.parametrize("name", ["sketch", "calibrate", "apply"])
def test_a_scheduler_that_goes_away_leaves_no_output_and_one_line(batches, tmp_path, name):
    with (
        scheduler_in(tmp_path) as (address, process),
        workers_of(address, tmp_path, SLOW.format(folder=str(tmp_path))),
    ):
        run = subprocess.Popen(run_of(name, "d", "--scheduler", address), cwd=tmp_path, stderr=PIPE)
        until(lambda: list(tmp_path.glob("begun_*")))
        process.kill()
        _, told = run.communicate(timeout=DEADLINE)
    assert run.returncode == 4, told
    assert told.count(b"\n") == 1, told.decode()
    assert told.decode().startswith(f"klcal: error: the scheduler at {address} has gone away")
    assert not files_of(tmp_path / "d")
    assert not list(tmp_path.glob(".*"))


def test_a_worker_without_the_files_is_told_before_anything_is_read(batches, tmp_path, scheduler):
    with workers_of(scheduler, tmp_path, SLOW.format(folder=str(tmp_path)), BLIND):
        for name in RUNS:
            words = run_of(name, "d", "--scheduler", scheduler)
            run = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False, timeout=DEADLINE)
            assert run.returncode == 2, run.stderr
            assert run.stderr.count(b"\n") == 1, run.stderr
            assert b" does not see 'acts/x_" in run.stderr
            assert b"there is no such file; all workers have to have the files" in run.stderr
    assert not files_of(tmp_path / "d")
    assert not list(tmp_path.glob("begun_*"))


def test_a_tensor_that_kills_its_workers_is_an_error_and_the_rest_is_calibrated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fatal.py").write_text(FATAL)
    np.save("a.npy", normal(100_000))
    np.save("b.npy", normal(100_000).astype(np.float16))
    with (
        dask_config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            dashboard_address=cluster.ANY_PORT,
            preload=["fatal.py"],
            silence_logs=logging.CRITICAL + 1,
        ) as found,
    ):
        for turns in (32, 1):  # each tensor alone, or both together
            monkeypatch.setattr(cluster, "TURNS", turns)
            table = klcal.calibrate_files(["a.npy", "b.npy"], scheduler=found.scheduler_address)
            assert [row.status for row in table.rows] == ["ok", "failed"]
            assert table.rows[1].reason.startswith("the workers that counted it died, one after the other; look at the")


def test_answers_come_through_a_scheduler_where_no_worker_can_be_reached(model, local, monkeypatch):
    monkeypatch.setattr(cluster, "REACH", 1e-9)
    with cluster.cluster_at(local) as found:
        assert not found._client.direct_to_workers
    assert text_of(klcal.calibrate_files(model, scheduler=local)) == text_of(klcal.calibrate_files(model))
    monkeypatch.undo()
    with cluster.cluster_at(local) as found:
        assert found._client.direct_to_workers


def test_no_scheduler_is_wrong_usage(batches, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", "1s")
    for address in ("tcp://127.0.0.1:9", "nowhere", ""):
        with pytest.raises(UsageError, match="there is no scheduler at"), cluster.cluster_at(address):
            pass
    for run in (
        lambda: klcal.sketch_files("-", tmp_path / "s.safetensors", scheduler="local"),
        lambda: klcal.calibrate_files("-", scheduler="local"),
        lambda: klcal.compare("-", batches / "x_0.npy", scheduler="local"),
    ):
        with pytest.raises(UsageError, match="other machines cannot read this one's standard input"):
            run()


@pytest.mark.parametrize("name", RUNS)
def test_the_processes_of_a_scheduler_are_not_chosen_here(batches, tmp_path, name):
    run = subprocess.run(
        run_of(name, "d", "--scheduler", "tcp://x:1", "--jobs", "2"), cwd=tmp_path, capture_output=True, check=False
    )
    assert run.returncode == 2
    assert b"--jobs counts processes of this machine" in run.stderr
