"""How far the work is: inside a large tensor, too, and a line a minute where nobody can see a bar move."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from klcal.cli import progress as progress_module
from klcal.cli.progress import Lines
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from klcal.pipeline.worked import _watched
from klcal.pipeline.workers import Tally, workers
from tests.support.command import DEADLINE, environment, klcal_process, normal, save_huge

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are not forked on this system")


# --- what is counted


class Told:
    """A progress that keeps all it was told."""

    def __init__(self) -> None:
        self.watched: list[int] = []
        self.advanced: list[int] = []

    def watch(self):
        return self.watched.append

    def start(self, tensors: int, nbytes: int) -> None:
        self.tensors, self.nbytes = tensors, nbytes

    def advance(self, nbytes: int) -> None:
        assert sum(self.watched) == 0  # a task that is done is told of once
        self.advanced.append(nbytes)

    def finish(self, name: str) -> None:
        self.name = name


def test_the_progress_of_a_large_tensor_moves_with_each_chunk(tmp_path):
    np.save(tmp_path / "w.npy", normal(5 << 20).reshape(1 << 10, 5 << 10))  # 20 MiB: 5 chunks
    told = Told()
    request = Request.parse(dtype="int8", method="minmax", per="channel")
    calibrate_files([str(tmp_path / "w.npy")], request, jobs=1, progress=told)
    assert told.advanced == [told.nbytes] == [20 << 20]
    assert told.watched == [*[4 << 20] * 5, -(20 << 20)]


def test_a_tensor_that_fails_leaves_no_progress_behind():
    def broken():
        yield np.zeros(8, np.float32)
        raise ValueError("cut short")

    told: list[int] = []
    with pytest.raises(ValueError, match="cut short"):
        list(_watched(broken(), told.append))
    assert (sum(told), len(told)) == (0, 2)


def add(tally: Tally, numbers: list[int]) -> int:
    for number in numbers:
        tally(number)
    return os.getpid()


@ON_LINUX
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_tally_has_what_all_processes_added():
    from functools import partial

    tally = Tally()
    tally(5)
    with workers(partial(add, tally), [[1, 2], [10, -3], [100], [1000] * 200], 2) as found:
        pids = set(found)
    assert os.getpid() not in pids
    assert tally.total == 5 + 3 + 7 + 100 + 200_000


def test_progress_never_goes_back():
    lines = Lines()
    tally = lines.watch() or Tally()
    lines._tally = tally
    lines.start(2, 1000)
    tally(400)
    assert lines.read == 400
    tally(-400)  # the task is done, and not yet told of
    assert lines.read == 400
    lines.advance(500)
    assert lines.read == 500
    tally(900)  # more than there is: values that are read twice
    assert lines.read == 1000


# --- a line a minute

FASTER = """
import sys
import klcal.cli.progress as progress
progress.MINUTE = 0.2
from klcal.__main__ import main
sys.argv[0] = "klcal"
main()
"""


def first_lines(*arguments: str, count: int) -> list[str]:
    """The first lines on stderr of a run that is then stopped."""
    command = [sys.executable, "-c", FASTER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as run:
        try:
            return [run.stderr.readline() for _ in range(count)]
        finally:
            run.terminate()


@pytest.mark.parametrize("options", [[], ["--per", "channel"], ["--jobs", "1"]], ids=" ".join)
def test_a_long_run_without_a_terminal_tells_a_line_a_minute(tmp_path, options):
    save_huge(tmp_path / "x.npy")
    found = first_lines("calibrate", str(tmp_path / "x.npy"), *options, count=3)
    told = [re.fullmatch(r"klcal: 0 of 1 tensors, ([0-9.]+) of 42\.9 GB, ([0-9]+) minutes?\n", line) for line in found]
    for values in ([float(each[1]) for each in told if each], [int(each[2]) for each in told if each]):
        assert (len(values), values) == (3, sorted(values))


def test_a_short_run_and_a_quiet_one_tell_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", normal())
    assert klcal_process("calibrate", tmp_path / "x.npy").err == ""
    monkeypatch.setattr(progress_module, "MINUTE", 0.0)
    lines = Lines()
    with lines:
        lines.start(1, 1 << 20)
        assert lines._thread is None


def test_the_line_of_a_thread_ends_with_the_work(monkeypatch):
    told: list[list[str]] = []
    monkeypatch.setattr(progress_module, "MINUTE", 0.01)
    monkeypatch.setattr(progress_module, "remark", told.append)
    with Lines() as lines:
        lines.start(1, 1 << 40)
        thread = lines._thread
        assert thread is not None
        while len(told) < 2:
            assert thread.is_alive()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_quiet_leaves_errors_and_findings_alone(tmp_path):
    np.save(tmp_path / "x.npy", normal())
    np.save(tmp_path / "bad.npy", np.float32([np.nan, 1]))
    arguments = (
        "calibrate",
        tmp_path,
        "--nonfinite",
        "ignore",
        "--include",
        "*",
        "--include",
        "nothing",
        "--fail-on",
        "numel < 5",
    )
    loud, quiet = klcal_process(*arguments), klcal_process(*arguments, "--quiet")
    assert (loud.out, loud.code) == (quiet.out, quiet.code)
    assert {line.split(":")[1] for line in loud.messages} == {" warning", " bad.npy"}
    assert quiet.messages == [line for line in loud.messages if not line.startswith("klcal: warning")] != []
    absent = klcal_process("calibrate", "absent.npy", "-q")
    assert absent.messages == klcal_process("calibrate", "absent.npy").messages != []
