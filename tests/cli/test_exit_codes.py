"""How the process ends: its exit code, one line on stderr, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from klcal.cli import verdict
from klcal.cli.verdict import exit_code
from klcal.errors import ExitCode
from klcal.tables.findings import Finding
from klcal.tables.rows import Row
from klcal.tables.status import FAILURES
from klcal.tables.table import Config, FileError, Table
from tests.support.command import (
    COMMAND,
    FULL,
    environment,
    is_running,
    klcal,
    klcal_process,
    normal,
    one_message,
    save_huge,
    until,
    with_full,
    with_proc,
)

CONFIG = Config("kl:bins=2048,weight=4", "uint8", "affine")
STATUSES = ("ok", "zero", "empty", "skipped", *sorted(FAILURES))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", normal())
    np.save("nan.npy", np.array([1, np.nan], np.float32))
    np.save("zeros.npy", np.zeros(9, np.float32))
    np.save("integers.npy", np.arange(9))
    Path("text.npy").write_text("text")
    return tmp_path


# --- which code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["good.npy"], 0),
        (["zeros.npy"], 0),  # which is an answer
        (["zeros.npy", "integers.npy"], 0),
        (["good.npy", "--fail-on", "numel > 999"], 1),
        (["good.npy", "--fail-on", "numel > 1000"], 0),
        (["good.npy", "--fail-on", "numel > 1000", "--fail-on", "scale>0"], 1),
        (["zeros.npy", "--fail-on", "scale < 1"], 0),  # it needs no scale
        (["zeros.npy", "--fail-on", "zeros >= 9"], 1),
        (["good.npy", "--dtype", "foo"], 2),
        (["absent.npy"], 3),
        (["nan.npy"], 3),
        (["text.npy"], 3),
        (["integers.npy"], 3),
        (["integers.npy", "nan.npy", "--fail-on", "numel > 0"], 3),
        (["good.npy", "--include", "nothing"], 3),
        (["good.npy", "nan.npy"], 4),
        (["good.npy", "absent.npy"], 4),
        (["good.npy", "text.npy"], 4),
        (["good.npy", "nan.npy", "--fail-on", "numel > 0"], 4),
        (["zeros.npy", "nan.npy"], 4),
        (["nan.npy", "--nonfinite", "ignore"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_code_of_a_run(here, arguments, code):
    result = klcal("calibrate", *arguments)
    assert result.code == code
    assert bool(result.err) == (code != 0 or "ignore" in arguments)
    assert bool(result.out) == (code != 2)


@given(
    statuses=st.lists(st.sampled_from(STATUSES), max_size=4),
    lost=st.booleans(),
    tripped=st.booleans(),
    bug=st.booleans(),
)
def test_the_highest_of_1_4_5_but_3_where_there_is_no_answer(statuses, lost, tripped, bug):
    rows = [Row(name=str(number), status=status, reason=status) for number, status in enumerate(statuses)]
    errors = [FileError("x", "damaged")] * lost + [FileError("x", "KeyError", "bug")] * bug
    findings = [Finding(source="x", name="x", rule="scale > 0", text="scale 1.0 > 0")] * tripped
    expected = max(
        1 if tripped else 0,
        4 if lost or FAILURES & set(statuses) else 0,
        5 if bug else 0,
    )
    if not {"ok", "zero"} & set(statuses):
        expected = 3
    assert exit_code(Table.of(CONFIG, rows, errors), findings) == expected


def test_a_bug_is_reported_in_one_line_and_without_its_text(here, monkeypatch):
    def broken(*_):
        raise RuntimeError("use weights_only=False")

    monkeypatch.setattr(verdict, "exit_code", broken)
    result = klcal("calibrate", "good.npy")
    assert result.code == ExitCode.BUG
    assert "klcal: error: this is a bug in klcal: RuntimeError in " in one_message(result)
    assert "weights_only" not in result.err
    monkeypatch.setenv("KLCAL_DEBUG", "1")
    assert "weights_only" in klcal("calibrate", "good.npy").err


WARNS = """
import warnings
from klcal.__main__ import main
from klcal.cli import main as cli
cli.run = lambda _: warnings.warn("overflow in some library", RuntimeWarning)
main()
"""


@pytest.mark.parametrize(("option", "is_seen"), [([], False), (["-Wdefault"], True)])
def test_a_library_s_warning_is_no_message_of_ours(option, is_seen):
    done = subprocess.run([sys.executable, *option, "-c", WARNS], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert ("overflow" in done.stderr) == is_seen


# --- the reader of stdout


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "arguments", [("calibrate", "good.npy"), ("--help",), ("--version",), ("calibrate", "nan.npy")]
)
def test_where_the_reader_went_away_the_code_is_141_and_nothing_is_said(here, arguments):
    pipe = closed_pipe()
    result = klcal_process(*arguments, stdout=pipe)
    os.close(pipe)
    assert (result.code, result.err) == (ExitCode.READER_GONE, "")


def test_head_reads_the_first_of_many_lines_in_silence(here):
    safetensors.numpy.save_file({f"{'long' * 40}{i}": normal(2) for i in range(600)}, "x.safetensors")
    klcal_head = f"{' '.join(COMMAND)} calibrate x.safetensors --method minmax | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", klcal_head], capture_output=True, text=True, env=environment())
    assert done.stdout.endswith("\n141\n")
    assert done.stdout.startswith("name\tsource")
    assert done.stderr == ""


@with_full
def test_a_full_disk_behind_stdout_is_reported(here):
    with FULL.open("w") as full:
        result = klcal_process("calibrate", "good.npy", stdout=full)
    assert result.code == 4
    assert "no space left on device" in one_message(result)


@with_full
def test_a_full_disk_behind_stderr_changes_no_code(here):
    with FULL.open("w") as full:
        result = klcal_process("calibrate", "good.npy", "nan.npy", stderr=full)
    assert (result.code, result.out.count("\n")) == (4, 3)


def shell(redirected: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", f"{' '.join(COMMAND)} {redirected}"], capture_output=True, text=True)


def test_closed_streams_are_reported_or_done_without(here):
    done = shell("calibrate good.npy >&-")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    for question in ("--version", "--help", "calibrate -h"):
        done = shell(f"{question} >&-")
        assert (done.returncode, done.stderr) == (4, "klcal: error: stdout is closed; redirect it\n")
    done = shell("calibrate nan.npy 2>&-")
    assert (done.returncode, done.stdout.count("\n")) == (3, 2)
    done = shell("calibrate good.npy --output x.json >&- 2>&- <&-")
    assert done.returncode == 0
    assert Path("x.json").read_text().startswith('{"schema"')


# --- signals

ENDINGS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def reads(pid: int, path: Path) -> bool:
    """Whether a process has the file open."""
    try:
        return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


class Counting:
    """A run that counts a file which it will not finish, in a process group of its own."""

    def __init__(self, path: Path, jobs: int, *arguments: str, **options):
        command = [*COMMAND, "calibrate", str(path), "--jobs", str(jobs), *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        self.process = subprocess.Popen(command, start_new_session=True, env=environment(), text=True, **streams)
        self.pid = self.process.pid
        until(lambda: any(reads(pid, path) for pid in self.counters(jobs)), "the reading of the file")
        self.workers = children(self.pid)
        assert len(self.workers) == (jobs if jobs > 1 else 0)

    def counters(self, jobs: int) -> list[int]:
        found = children(self.pid) if jobs > 1 else [self.pid]
        return found if len(found) == jobs else []

    def ended(self) -> tuple[int, str, str, float]:
        start = time.monotonic()
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err, time.monotonic() - start


@pytest.fixture
def counting(tmp_path):
    runs = []

    def start(jobs, *arguments, **options):
        runs.append(Counting(save_huge(tmp_path / "huge.npy"), jobs, *arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        for pid in (run.pid, *run.workers):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        run.process.communicate()


@with_proc
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_a_signal_ends_the_run_at_once_and_leaves_nothing(tmp_path, counting, jobs, number, code, kill):
    (tmp_path / "scales.json").write_text("old")
    run = counting(jobs, "--output", str(tmp_path / "scales.json"))
    kill(run.pid, number)
    found, out, err, seconds = run.ended()
    assert (found, out, err) == (code, "", "klcal: interrupted\n")
    assert seconds < 3  # a tenth of it where the machine is not busy
    assert not any(map(is_running, run.workers))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["huge.npy", "scales.json"]
    assert (tmp_path / "scales.json").read_text() == "old"


@with_proc
def test_an_impatient_second_signal_does_not_stop_the_cleaning_up(tmp_path, counting):
    run = counting(2, "--output", str(tmp_path / "scales.json"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.killpg(run.pid, number)
    found, _, err, _ = run.ended()
    assert found in (130, 143)
    assert err == "klcal: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["huge.npy"]


IMPATIENT = """
import atexit, os, signal
from klcal.__main__ import main
from klcal.cli import main as cli
def run(_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("cleaned up")
cli.run = run
atexit.register(os.kill, os.getpid(), signal.SIGINT)
main()
"""


def test_a_second_signal_is_ignored_until_the_process_has_ended():
    done = subprocess.run([sys.executable, "-c", IMPATIENT], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "klcal: interrupted\n")


@with_proc
def test_an_ignored_signal_stays_ignored(tmp_path, counting):
    run = counting(2, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.killpg(run.pid, signal.SIGHUP)
    time.sleep(0.1)
    assert run.process.poll() is None
    assert all(map(is_running, run.workers))


@with_proc
@with_full
def test_a_signal_has_its_code_where_nobody_reads_stderr(counting):
    with FULL.open("w") as full:
        run = counting(1, stderr=full)
    os.kill(run.pid, signal.SIGTERM)
    assert run.ended()[0] == 143


@with_proc
def test_workers_do_not_outlive_a_run_that_is_killed(counting):
    run = counting(2)
    os.kill(run.pid, signal.SIGKILL)
    run.process.wait()
    until(lambda: not any(map(is_running, run.workers)), "the end of the workers")


@with_proc
def test_where_workers_are_killed_the_answer_is_still_complete(here):
    with Path("big.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 27,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (1 << 29))
    with Path("big.npy").open("r+b") as file:
        file.seek(1 << 28)
        file.write(normal().tobytes())
    run = Counting(here / "big.npy", 2, "--format", "json")
    os.kill(run.workers[0], signal.SIGKILL)
    code, out, err, _ = run.ended()
    assert (code, err) == (0, "")
    assert out == klcal("calibrate", "big.npy", "--format", "json", "--jobs", "1").out
