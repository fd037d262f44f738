"""What shells offer: asked of real shells, as a key press asks them."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.cli.completion import SECONDS, _globs, _within, shortened
from klcal.search.methods import METHODS
from klcal.tables.schema import DIFFERENCE_FIELDS
from tests.support.command import DEADLINE, environment, klcal
from tests.support.guides import ROOT

NAMES = ("conv1.weight", "conv1.bias", "enc.0.q.weight", "enc.1.q.weight", "a b", "$(touch pwned)", "x\\$(touch pwned)")
SHELLS = ("bash", "zsh", "fish")
BASH = """
source <(_KLCAL_COMPLETE=source_bash klcal)
while IFS= read -r COMP_LINE; do
    read -ra COMP_WORDS <<< "$COMP_LINE"
    [[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    _klcal_completion klcal
    printf '%s\\n' "${COMPREPLY[@]}"
done
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with tensors, and a klcal that shells find."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "klcal").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m klcal "$@"\n')
    (tmp_path / "bin" / "klcal").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    safetensors.numpy.save_file({name: np.zeros(2, np.float32) for name in NAMES}, "m.safetensors")
    return tmp_path


def has(shell: str):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell}")


def offered(line: str) -> list[str]:
    """What bash gets."""
    done = subprocess.run(["bash", "-c", BASH], input=line + "\n", capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


CASES = [
    ("klcal calib", ["calibrate"]),
    ("klcal calibrate --sca", ["--scale-format"]),
    ("klcal calibrate --method ", [*METHODS]),
    ("klcal calibrate --dtype float8", ["float8_e4m3fn", "float8_e5m2"]),
    ("klcal calibrate --scheme symmetric-", ["symmetric-full", "symmetric-signed"]),
    ("klcal calibrate --scale-format e", ["e8m0"]),
    ("klcal sketch --per ch", ["channel", "channel:0", "channel:1"]),
    ("klcal calibrate --pool ", ["dir", "stem", "name"]),
    ("klcal calibrate --device c", ["cpu", "cuda", "cuda:all"]),
    ("klcal calibrate --format j", ["json", "jsonl", "junit"]),
    ("klcal calibrate --nonfinite ", ["fail", "ignore"]),
    ("klcal calibrate --sort sq", ["sqnr_db"]),
    ("klcal compare --sort ", [*DIFFERENCE_FIELDS]),
    ("klcal check --fail-on d.s", ["d.scale", "d.sqnr_db"]),
    ("klcal diff --fail-on mis", ["missing"]),
    ("klcal apply --to c", ["compressed-tensors"]),
    ("klcal export --to aimet", ["aimet-2.0.0", "aimet-1.0.0", "aimet-0.6.1"]),
    ("klcal calibrate m.safetensors --include conv1.", ["conv1.bias", "conv1.weight"]),
    ("klcal inspect *.safetensors --exclude enc", ["enc.0.q.weight", "enc.*", "enc.1.q.weight"]),
    ("klcal inspect m.safetensors --exclude enc.", ["enc.0.q.weight", "enc.0.*", "enc.1.q.weight", "enc.1.*"]),
    ("klcal compare m.safetensors m.safetensors --include a", ["a?b"]),
    ("klcal apply m.safetensors --include x", ["x???touch?pwned?"]),
    ("klcal calibrate . --include conv1.w", ["conv1.weight"]),
    ("klcal export t.json --include conv1.w", ["conv1.weight"]),
    ("klcal calibrate --include ", [""]),  # no file, no names
    ("klcal calibrate absent.npy --include ", [""]),
    ("klcal calibrate broken.npy --include ", [""]),
    ("klcal calibrate - --include ", [""]),
    ("klcal calibrate fifo.npy --include ", [""]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words"), CASES, ids=[line for line, _ in CASES])
def test_bash_gets_values_and_names(here, line, words):
    Path("broken.npy").write_text("no array")
    os.mkfifo("fifo.npy")
    if "t.json" in line:
        safetensors.numpy.save_file({"conv1.weight": np.ones(2, np.float32)}, "n.safetensors")
        klcal("calibrate", "n.safetensors", "-o", "t.json")
    assert offered(line) == words


@has("fish")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("klcal calibrate --scheme symmetric-", {"symmetric-full", "symmetric-signed"}),
        ("klcal calibrate m.safetensors --include conv1.", {"conv1.weight", "conv1.bias"}),
        ("klcal calibrate m.safetensors --include x", {"x???touch?pwned?"}),
        ("klcal calibrate --no", {"--nonfinite", "--no-config"}),
    ],
)
def test_fish_gets_the_same(here, line, words):
    program = f"_KLCAL_COMPLETE=source_fish klcal | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, env=environment())
    assert (done.stderr, {each.split("\t")[0] for each in done.stdout.splitlines()}) == ("", words)
    assert not Path("pwned").exists()


class Terminal:
    """A shell that somebody types into."""

    def __init__(self, *command: str) -> None:
        self.pid, self.master = pty.fork()
        if not self.pid:
            os.execvpe(command[0], command, {**environment(), "TERM": "xterm", "PS1": "READY> "})
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, wanted: str) -> None:
        """Wait for a text, and take it off what has come."""
        end = time.monotonic() + DEADLINE
        while wanted not in self.text:
            assert time.monotonic() < end, f"{wanted!r} did not come; {self.text!r} did"
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.master, 4096).decode())
        self.text = self.text.partition(wanted)[2]

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("shell", "start", "setup"),
    [
        pytest.param("bash", ["--norc", "-i"], "source <(_KLCAL_COMPLETE=source_bash klcal)", marks=has("bash")),
        pytest.param(
            "zsh",
            ["-f", "-i"],
            'autoload -Uz compinit; compinit -u -D; eval "$(_KLCAL_COMPLETE=source_zsh klcal)"',
            marks=has("zsh"),
        ),
    ],
)
def test_a_press_of_the_tab_key_completes(here, shell, start, setup):
    terminal = Terminal(shell, *start)
    try:
        terminal.until("READY> ")
        terminal.type(f"{setup}; echo is-$((1 + 1))-set\n")
        terminal.until("is-2-set")
        for typed, completed in (
            ("klcal calib", "klcal calibrate"),
            ("klcal calibrate --scheme symmetric-f", "symmetric-full"),
            ("klcal inspect m.safetensors --include conv1.w", "conv1.weight"),
        ):
            terminal.type(f"{typed}\t")
            terminal.until(completed)
            terminal.type("\x15")  # empties the line
        for line in ("klcal inspect m.safetensors --include ", "klcal inspect m.safetensors --include x"):
            terminal.type(f"{line}\t\t")
            terminal.until("pwned")
            terminal.type("\x15")
        terminal.type("echo is-$((2 + 2))-done\n")
        terminal.until("is-4-done")
    finally:
        terminal.close()
    assert not Path("pwned").exists()  # a name in a file runs nothing


def test_a_name_is_offered_as_a_glob_that_matches_it_and_nothing_acts():
    from fnmatch import fnmatchcase

    for name in [*NAMES, "a[0]", "w*", "é.ü", "onnx::Conv_1", "a\nb", "`id`", "a;b", "-x", "a'b\"c", "~"]:
        whole = next(_globs(name, ""))
        assert fnmatchcase(name, whole)
        assert re.fullmatch(r"[A-Za-z0-9_./@+?-]*", whole)


def test_reading_ends_when_it_takes_too_long(monkeypatch):
    moments = iter([0.0, 0.5, 0.9, SECONDS + 0.1])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    assert list(_within(iter("abcdef"))) == ["a", "b"]


def test_help_beside_a_word_is_short():
    assert shortened("Only tensors; as a glob. May be repeated.") == "Only tensors; as a glob"
    assert len(shortened("x" * 200) or "") == 70
