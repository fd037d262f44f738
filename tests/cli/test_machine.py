"""Machines that are full, poor, broken or pulled from under the run: what can be done is done, the rest is told."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from klcal.cli.output import destination
from klcal.errors import UsageError
from klcal.readers import regular
from klcal.sketches import device_counting
from klcal.tables.table import Table
from klcal.writers import WRITERS
from tests.cli.test_terminal import on_terminal
from tests.support.command import (
    COMMAND,
    Result,
    environment,
    harmless,
    klcal,
    klcal_process,
    normal,
    one_message,
    with_proc,
)
from tests.support.devices import idle_devices
from tests.support.lazy import torch
from tests.support.tables import TABLE


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal())
    return tmp_path


def statuses(document) -> dict[str, str]:
    return {row["name"]: row["status"] for row in document["tensors"]}


# --- memory

BOUNDED = """
import resource, sys
from klcal.cli.main import run
run(["calibrate", "x.npy", "--format", "json", "--output", "warm.json"])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(run(["calibrate", "x.npy", "large.pt", "y.npy", "--format", "json", "--jobs", "1"]))
"""


@with_proc
def test_a_tensor_that_does_not_fit_in_memory_fails_alone(here):
    """Two chunks of 4 MB are needed for a strided view, of which there is room for one."""
    np.save("y.npy", normal(10))
    torch.save({"wide": torch.ones(3 << 20)[::2]}, "large.pt")
    command = [sys.executable, "-c", BOUNDED]
    done = subprocess.run([*command, str(6 << 20)], capture_output=True, text=True, env=environment())
    result = harmless(Result(done.returncode, done.stdout, done.stderr))
    assert statuses(result.document) == {"x": "ok", "wide": "failed", "y": "ok"}
    assert (result.code, "not enough memory" in one_message(result)) == (4, True)
    done = subprocess.run([*command, str(1 << 30)], capture_output=True, text=True, env=environment())
    assert done.returncode == 0


# --- files that change while they are read


@pytest.mark.parametrize("change", ["cut", "append", "replace in place"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_that_changes_while_it_is_read_costs_its_tensors(here, monkeypatch, change, jobs):
    np.save("large.npy", normal(3 << 20))
    preadv, reads = os.preadv, []

    def meanwhile(descriptor, buffers, offset):
        reads.append(offset)
        if len(reads) == 2:
            match change:
                case "cut":
                    os.truncate("large.npy", 1 << 20)
                case "append":
                    with Path("large.npy").open("ab") as file:
                        file.write(b"more")
                case _:
                    Path("large.npy").write_bytes(Path("x.npy").read_bytes())
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(regular.os, "preadv", meanwhile)
    result = klcal("calibrate", "large.npy", "x.npy", "--format", "json", "--jobs", jobs)
    assert (result.code, statuses(result.document)) == (4, {"large": "failed", "x": "ok"})
    assert "while it was read; wait until it is written" in one_message(result)


def test_a_file_that_is_replaced_by_another_is_read_as_it_was(here, monkeypatch):
    np.save("large.npy", normal(3 << 20))
    expected = klcal("calibrate", "large.npy", "--format", "json").out
    preadv, reads = os.preadv, []

    def meanwhile(descriptor, buffers, offset):
        reads.append(offset)
        if len(reads) == 2:
            Path("new").write_bytes(b"new")
            Path("new").replace("large.npy")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(regular.os, "preadv", meanwhile)
    assert klcal("calibrate", "large.npy", "--format", "json").out == expected
    assert Path("large.npy").read_bytes() == b"new"


# --- surroundings


def test_a_working_directory_that_is_gone_is_done_without(here):
    Path("gone").mkdir()
    shell = f"cd gone && rmdir ../gone && {' '.join(COMMAND)} calibrate"
    done = subprocess.run(["sh", "-c", f"{shell} {here}/x.npy"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == klcal("calibrate", "x.npy").out
    Path("gone").mkdir()
    done = subprocess.run(["sh", "-c", f"{shell} x.npy"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (3, "klcal: error: x.npy: there is no such file; check its name\n")


@pytest.mark.parametrize(
    "without", [["HOME"], ["HOME", "PATH"], ["HOME", "PATH", "TMPDIR"]], ids=lambda names: ", ".join(names)
)
def test_variables_that_are_not_set_are_done_without(here, without):
    env = {name: value for name, value in environment(LANG="C", LC_ALL="C").items() if name not in without}
    assert klcal_process("calibrate", "x.npy", env=env).out == klcal("calibrate", "x.npy").out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_working_directory_that_may_not_be_written_is_no_obstacle(here):
    here.chmod(0o500)
    try:
        assert klcal_process("calibrate", "x.npy").code == 0
    finally:
        here.chmod(0o700)


def test_nothing_is_written_but_the_output(here):
    """No cache, no bytecode, no file beside the input."""
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    assert klcal_process("calibrate", ".", env=environment(HOME=str(here), XDG_CACHE_HOME=str(here))).code == 0
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before


@pytest.mark.parametrize("width", [1, 2, 20])
@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_no_terminal_is_too_narrow(here, width, streams):
    np.save("nan.npy", np.array([np.nan], np.float32))
    shown, elsewhere = on_terminal("x.npy", "nan.npy", width=width, streams=streams)
    assert "Traceback" not in shown + elsewhere
    assert "bug" not in shown + elsewhere


# --- full disks


def with_file_limit(size: int):
    """As a disk that is full: writing more than ``size`` bytes to one file fails."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_disk_that_is_full_leaves_the_old_output_and_no_other_file(here, size):
    Path("out.json").write_text("old")
    result = klcal_process("calibrate", "x.npy", "-o", "out.json", preexec_fn=with_file_limit(size))
    assert result.code == 4
    assert "cannot write 'out.json': file too large" in one_message(result)
    assert Path("out.json").read_text() == "old"
    assert sorted(path.name for path in here.iterdir()) == ["out.json", "x.npy"]
    with Path("stdout").open("wb") as out:
        result = klcal_process("calibrate", "x.npy", stdout=out, preexec_fn=with_file_limit(size))
    assert (result.code, "cannot write to stdout: file too large" in one_message(result)) == (4, True)


def test_a_copy_of_standard_input_that_does_not_fit_is_reported(here):
    data = Path("x.npy").read_bytes()
    result = klcal_process("calibrate", "-", "x.npy", input=data, preexec_fn=with_file_limit(1000))
    assert (result.code, result.out.count("\n")) == (4, 2)
    assert "no room for a copy of standard input; set TMPDIR" in one_message(result)
    assert [path.name for path in here.iterdir()] == ["x.npy"]


# --- the end in the middle of writing

NEW = Table.of(TABLE.config, TABLE.rows * 5)


def rewrite(first: Table, second: Table) -> None:
    """Never comes back."""
    while True:
        for table in (first, second):
            with destination("out.json", []) as deliver:
                deliver(lambda out, table=table: WRITERS["json"](table, out), True)


def forked(work) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def rendered(table: Table, path: Path) -> str:
    with path.open("w") as out:
        WRITERS["json"](table, out)
    return path.read_text()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_any_moment_leaves_the_old_output_or_the_new_one(here):
    whole = [rendered(table, here / "whole") for table in (TABLE, NEW)]
    chance, seen = random.Random(4), set()
    for _ in range(30):
        Path("out.json").write_text(whole[0])
        pid = forked(lambda: rewrite(TABLE, NEW))
        time.sleep(chance.uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        content = Path("out.json").read_text()
        assert content in whole
        seen.add(whole.index(content))
    assert seen == {0, 1}
    litter = {path.name for path in here.iterdir()} - {"out.json", "x.npy", "whole"}
    assert all(name.startswith(".klcal-") for name in litter)  # hidden, and never taken for an answer


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_of_two_that_write_at_once_one_wins_and_no_answer_is_mixed(here):
    whole = {rendered(table, here / "whole") for table in (TABLE, NEW)}
    Path("out.json").write_text(rendered(TABLE, here / "whole"))
    pids = [forked(lambda: rewrite(TABLE, NEW)), forked(lambda: rewrite(NEW, TABLE))]
    try:
        seen = {Path("out.json").read_text() for _ in range(500)}
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert seen <= whole


# --- devices


def broken(*_):
    raise RuntimeError("the driver on your system is too old")


@pytest.mark.parametrize(("name", "stand_in"), [("is_available", broken), ("device_count", broken)])
def test_a_driver_that_is_broken_is_a_usage_error(here, monkeypatch, name, stand_in):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, name, stand_in)
    result = klcal("calibrate", "x.npy", "--device", "cuda")
    assert (result.code, result.out) == (2, "")
    assert "torch cannot reach 'cuda': its installation or the driver is broken; use" in one_message(result)


def test_a_torch_that_cannot_be_loaded_is_a_usage_error(monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "torch":
                raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UsageError, match="torch cannot reach 'cuda'"):
        device_counting.usable_device("cuda")


def test_a_device_without_memory_costs_the_tensor_and_is_not_exchanged_for_another(here, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    np.save("y.npy", normal(10))
    idle_devices(monkeypatch, 1)
    monkeypatch.setattr(device_counting, "none_counted", full)
    result = klcal("calibrate", ".", "--device", "cuda", "--format", "json")
    assert (result.code, statuses(result.document)) == (3, {"x": "failed", "y": "failed"})
    assert all("there is not enough memory for it on the device 'cuda'; free some" in line for line in result.messages)
