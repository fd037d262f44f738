"""What scripts rely on, by real processes: the same bytes everywhere, every exit code, every error, pipes, races."""

import errno
import inspect
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal
from klcal.errors import ExitCode, InputError, KlcalError
from klcal.writers import BINARY, WRITERS
from tests.support.command import COMMAND, DEADLINE, environment, klcal_process, normal, save_huge
from tests.support.lazy import torch

MACHINE = [name for name in WRITERS if name not in ("table", *BINARY)]
"""Formats that a program reads. ``table`` is for a terminal."""

ANSWERS = {
    "calibrate": ["calibrate", "m.safetensors", "bad.npy", "--per", "w=channel", "--fail-on", "sqnr_db < 60"],
    "compare": ["compare", "m.safetensors", "n.safetensors", "--fail-on", "kl > 0"],
    "check": ["check", "n.safetensors", "--baseline", "t.json"],
    "diff": ["diff", "t.json", "u.json"],
    "inspect": ["inspect", "m.safetensors", "bad.npy", "--stats"],
}
WAYS = [
    {"LC_ALL": "C", "COLUMNS": "20", "PYTHONHASHSEED": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8", "COLUMNS": "200", "TERM": "dumb", "PYTHONHASHSEED": "1", "KLCAL_JOBS": "1"},
    {"FORCE_COLOR": "1", "TERM": "xterm-256color", "TZ": "Asia/Tokyo", "LANGUAGE": "de", "KLCAL_JOBS": "2"},
    {"NO_COLOR": "1", "KLCAL_KERNEL": "numpy", "KLCAL_QUIET": "1"},
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = {"w": normal(600).reshape(20, 30), "名前": normal(50), "\x1b[31m\n": normal(9), "i": np.arange(3)}
    safetensors.numpy.save_file(weights, "m.safetensors")
    safetensors.numpy.save_file({**weights, "w": 2 * weights["w"], "new": normal(5)}, "n.safetensors")
    np.save("bad.npy", np.float32([1, np.nan]))
    np.save("good.npy", normal())
    klcal.calibrate_files("m.safetensors", per={"w": "channel"}).write("t.json")
    klcal.calibrate_files("n.safetensors", per={"w": "channel"}).write("u.json")
    return tmp_path


# --- the same bytes


EVERY = """
import json, os, sys
from klcal.cli.main import run
for name, arguments in json.loads(sys.argv[1]).items():
    file = os.open(name, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.close(file)
    assert run(arguments) in (0, 1, 4)
"""


def test_an_answer_is_the_same_bytes_in_any_run_locale_width_and_terminal(here):
    runs = {f"{command}.{each}": [*ANSWERS[command], "--format", each] for command in ANSWERS for each in MACHINE}
    found: dict[str, set[bytes]] = {name: set() for name in runs}
    for way in WAYS:  # each in a process of its own, whose stdout is one file after the other
        command = [sys.executable, "-c", EVERY, json.dumps(runs)]
        done = subprocess.run(command, stderr=subprocess.PIPE, env=environment(**way))
        assert done.returncode == 0, done.stderr.decode()
        for name in runs:
            found[name].add(Path(name).read_bytes())
            Path(name).unlink()
    for name, texts in found.items():
        assert len(texts) == 1, name
        assert b"\x1b" not in min(texts), name
    assert all(found.values())


@pytest.mark.parametrize(
    "arguments", [["config", "--format", "json"], ["schema", "table"], ["config"], ["schema"]], ids=" ".join
)
def test_what_is_told_of_klcal_itself_is_the_same_bytes(here, arguments):
    ways = [{name: value for name, value in way.items() if not name.startswith("KLCAL")} for way in WAYS]
    assert len({klcal_process(*arguments, env=environment(**way)).out for way in ways}) == 1


# --- every exit code


def ended(*arguments: str) -> int:
    return klcal_process(*arguments).code


def with_a_bug() -> int:
    program = "import klcal.cli.verdict as verdict, sys\nverdict.exit_code = None\nsys.argv[0] = 'klcal'\n"
    program += "from klcal.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, "calibrate", "good.npy"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert re.fullmatch(r"klcal: error: this is a bug in klcal: TypeError in .*; please report it .*\n", done.stderr)
    return done.returncode


TOLD_OF_THE_START = """
import os, sys
import klcal.pipeline.gathered as gathered
from klcal.__main__ import main
find = gathered.find
gathered.find = lambda *paths: os.write(2, b".") and find(*paths)
sys.argv[0] = "klcal"
main()
"""


def stopped_by(number: int) -> int:
    save_huge(Path("huge.npy"))
    command = [sys.executable, "-c", TOLD_OF_THE_START, "calibrate", "huge.npy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as run:
        assert run.stderr is not None
        run.stderr.read(1)
        run.send_signal(number)
        return run.wait(DEADLINE)


def without_a_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return klcal_process("calibrate", "good.npy", stdout=writing).code
    finally:
        os.close(writing)


ENDS = {
    ExitCode.DONE: lambda: ended("calibrate", "good.npy"),
    ExitCode.FINDINGS: lambda: ended("check", "n.safetensors", "--baseline", "t.json"),
    ExitCode.USAGE: lambda: ended("calibrate", "good.npy", "--dtype", "int1"),
    ExitCode.NOTHING_USABLE: lambda: ended("calibrate", "bad.npy"),
    ExitCode.PARTIAL: lambda: ended("calibrate", "good.npy", "bad.npy"),
    ExitCode.BUG: with_a_bug,
    ExitCode.HUNG_UP: lambda: stopped_by(signal.SIGHUP),
    ExitCode.INTERRUPTED: lambda: stopped_by(signal.SIGINT),
    ExitCode.READER_GONE: without_a_reader,
    ExitCode.TERMINATED: lambda: stopped_by(signal.SIGTERM),
}


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_every_exit_code_is_that_of_a_real_process(here, code):
    assert ENDS[code]() == code


# --- every error


def errors_of_klcal() -> set[type]:
    """All classes of errors that klcal defines, wherever."""
    found: set[type] = set()
    for module in pkgutil.walk_packages(klcal.__path__, "klcal."):
        if module.name not in ("klcal.__main__", "klcal.kernels.compiled"):  # which runs, and which is no Python
            members = vars(import_module(module.name)).values()
            found |= {each for each in members if inspect.isclass(each) and issubclass(each, BaseException)}
    public = {
        each for each in found if not each.__name__.startswith("_")
    }  # those that never leave their module are not
    return {each for each in public if each.__module__.startswith("klcal.")}


def cut_short() -> None:
    torch.save({"w": torch.ones(3)}, "x.pt")
    data = Path("x.pt").read_bytes().replace(b"storage", b"\xff\xff\xff\xff\xff\xff\xff")
    Path("x.pt").write_bytes(data)
    from klcal.readers.pt.stream import DamagedPickle

    raise DamagedPickle("its pickle is damaged", "save it again")


def bug() -> None:
    from klcal.pipeline.selection import attempt

    found = attempt(lambda: 1 // 0)
    assert isinstance(found, InputError)
    raise found


def gone() -> None:
    from klcal.cli.output import to_stdout

    class Closed:
        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise ValueError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        to_stdout()


NORMALISE = "nothing is normalised here: divide by the sum, in float64"
RAISED = {
    "KlcalError": (lambda: raises(KlcalError("what is wrong", "what to do")), "what is wrong; what to do"),
    "UsageError": (
        lambda: klcal.calibrate([1.0], method="entropy"),
        "unknown method 'entropy'; use one of kl, kl-classic, mse, percentile, minmax",
    ),
    "InputError": (
        lambda: klcal.read("absent.npy"),
        "absent.npy: there is no such file; the nearest names are 'bad.npy'",
    ),
    "OutputError": (
        lambda: klcal.load_table("u.json").write("t.json"),
        "cannot write 't.json': no space left on device; make room, or name another file",
    ),
    "NotADistribution": (
        lambda: klcal.divergence.kl([0.5, 0.6], [0.5, 0.5]),
        f"p is not a probability distribution: it sums to 1.1; {NORMALISE}",
    ),
    "Bug": (bug, "this is a bug in klcal: ZeroDivisionError; please report it with the output of KLCAL_DEBUG=1"),
    "DamagedPickle": (cut_short, "its pickle is damaged; save it again"),
    "ReaderGone": (gone, ""),
}


def raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("name", RAISED)
def test_an_error_says_what_is_wrong_and_what_to_do_to_the_last_word(here, monkeypatch, name):
    def no_room(_):
        raise OSError(errno.ENOSPC, "told by the system")

    monkeypatch.setattr(os, "fsync", no_room)
    call, text = RAISED[name]
    with pytest.raises(Exception, match=f"^{re.escape(text)}$") as raised:
        call()
    assert type(raised.value).__name__ == name


def test_every_error_that_klcal_has_is_raised_here():
    assert {each.__name__ for each in errors_of_klcal()} == set(RAISED)
    for each in errors_of_klcal():
        assert each.__name__ == "ReaderGone" or issubclass(each, KlcalError)


# --- pipes


PIPED = {
    **ANSWERS,
    "export": ["export", "t2.json", "--to", "ort-cache"],
    "config": ["config"],
    "schema": ["schema", "table"],
    "help": ["diff", "--help"],
    "completion": ["--show-completion"],
}


@pytest.mark.parametrize("command", PIPED)
def test_a_reader_that_goes_away_is_met_with_silence(here, command):
    klcal.calibrate_files("good.npy").write("t2.json")
    reading, writing = os.pipe()
    os.close(reading)
    env = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1") if command == "completion" else environment()
    arguments = [*PIPED[command], *(["bash"] if command == "completion" else [])]
    result = klcal_process(*arguments, stdout=writing, env=env)
    os.close(writing)
    assert (result.code, result.err) == (ExitCode.READER_GONE, "")


# --- two at once

RACES = {
    "out.json": ["calibrate", "IN", "-o", "out.json"],
    "out.safetensors": ["calibrate", "IN", "--per", "w=channel", "-o", "out.safetensors"],
    "out.md": ["inspect", "IN", "-o", "out.md"],
    "sketches.safetensors": ["sketch", "IN", "-o", "sketches.safetensors"],
}


@pytest.mark.parametrize("output", RACES)
def test_two_processes_that_write_the_same_output_leave_one_whole_file(here, output):
    whole = set()
    for name in ("m.safetensors", "n.safetensors"):
        code = ended(*[name if each == "IN" else each for each in RACES[output]])
        assert code in (0, 4)
        whole.add(Path(output).read_bytes())
        Path(output).unlink()
    assert len(whole) == 2
    before = set(Path.cwd().iterdir())
    runs = [
        subprocess.Popen(
            [*COMMAND, *[name if each == "IN" else each for each in RACES[output]]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        for name in ("m.safetensors", "n.safetensors", "m.safetensors", "n.safetensors")
    ]
    for run in runs:
        run.communicate()
    assert {run.returncode for run in runs} == {0}
    assert Path(output).read_bytes() in whole
    assert set(Path.cwd().iterdir()) == before | {Path(output).absolute()}


def test_two_updates_of_a_baseline_leave_one_whole_file(here):
    runs = [
        subprocess.Popen([*COMMAND, "check", "n.safetensors", "--baseline", "t.json", "--update"], env=environment(),
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3)
    ]  # fmt: skip
    for run in runs:
        run.communicate()
    assert json.loads(Path("t.json").read_text()) == json.loads(Path("u.json").read_text())
    assert not list(Path.cwd().glob(".klcal-*"))
