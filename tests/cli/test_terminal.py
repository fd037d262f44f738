"""On a terminal: a table that fits, a bar on stderr that goes away, and nothing of either anywhere else."""

import errno
import fcntl
import os
import re
import struct
import subprocess
import termios

import numpy as np
import pytest
import safetensors.numpy
from rich.cells import cell_len

from tests.support.command import COMMAND, environment, klcal, normal

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def model(tmp_path):
    names = ("model.language_model.layers.31.self_attn.q_proj.weight", "[/red]\x1b[31m\n", "名前")
    tensors = {name: normal(99) for name in names} | {"bad": np.array([np.nan], np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def on_terminal(
    *arguments: str, command="calibrate", width: int = 80, streams=("stdout", "stderr"), **env: str
) -> tuple[str, str]:
    """What a terminal gets to see, and what is sent elsewhere."""
    leader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    elsewhere = dict.fromkeys({"stdout", "stderr"} - set(streams), subprocess.PIPE)
    process = subprocess.Popen(
        [*COMMAND, command, *arguments],
        stdin=subprocess.DEVNULL,
        env=environment(**{"TERM": "xterm-256color", **env}),
        **dict.fromkeys(streams, terminal),
        **elsewhere,
    )
    os.close(terminal)
    shown = read_all(leader)
    out, err = process.communicate()
    assert process.returncode in (0, 4)
    return shown.replace("\r\n", "\n"), (out or err or b"").decode()


def read_all(leader: int) -> str:
    pieces = []
    try:
        while piece := os.read(leader, 1 << 16):
            pieces.append(piece)
    except OSError as error:  # how Linux says that nobody holds the terminal any more
        if error.errno != errno.EIO:
            raise
    os.close(leader)
    return b"".join(pieces).decode()


def lines(shown: str) -> list[str]:
    return ESCAPE.sub("", shown).splitlines()


@pytest.mark.parametrize("width", [20, 80, 200])
def test_the_table_fits(model, width):
    shown, errors = on_terminal(model, width=width, streams=("stdout",))
    assert max(map(cell_len, lines(shown))) <= width
    assert "\x1b[1m" in shown  # the header
    assert "\x1b[31m" not in shown  # the name
    assert "\t" not in shown
    assert errors.count("\n") == 1
    if width == 200:
        assert "model.language_model.layers.31.self_attn.q_proj.weight" in shown


@pytest.mark.parametrize("width", [20, 80, 200])
def test_progress_is_shown_on_the_terminal_and_taken_away(model, width):
    shown, answer = on_terminal(model, "--format", "json", width=width, streams=("stderr",))
    assert "\x1b[2K" in shown  # a line is taken away
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor comes back
    assert lines(shown)[-1].startswith("klcal: error: model.safetensors: bad: ")
    assert answer == klcal("calibrate", model, "--format", "json").out


@pytest.mark.parametrize(
    "env",
    [
        {"TERM": "dumb"},
        {"NO_COLOR": "1"},
        {"COLUMNS": "1"},
        {"COLUMNS": "x"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"TERM": ""},
    ],
    ids=str,
)
def test_no_terminal_is_too_poor(model, env):
    shown, _ = on_terminal(model, **env)
    assert "Traceback" not in shown
    assert "bug" not in shown
    if env.get("TERM") == "dumb":
        assert "\x1b" not in shown
    if "NO_COLOR" in env:
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)


def test_a_dumb_terminal_and_a_pipe_are_as_wide_as_columns_says(model):
    for columns in (60, 100):
        shown, _ = on_terminal(model, "--dtype", "int8", streams=("stdout",), TERM="dumb", COLUMNS=str(columns))
        assert columns - 10 < max(map(cell_len, lines(shown))) <= columns
        env = environment(COLUMNS=str(columns))
        piped = subprocess.run([*COMMAND, "calibrate", model, "--format", "table"], env=env, capture_output=True)
        assert columns - 10 < max(map(cell_len, piped.stdout.decode().splitlines())) <= columns
    shown, _ = on_terminal(model, width=70, streams=("stdout",), TERM="dumb")
    assert 60 < max(map(cell_len, lines(shown))) <= 70, "without it, what the terminal says"


def test_redirected_output_has_no_escape_sequences(model):
    """With the terminal still behind the other stream."""
    _, answer = on_terminal(model, streams=("stderr",))
    assert answer == klcal("calibrate", model, "--format", "plain").out
    assert "\x1b" not in answer
    _, answer = on_terminal(model, "--format", "table", streams=("stderr",))
    assert "\x1b" not in answer
    assert "model.language_model.layers.31.self_attn.q_proj.weight" in answer
    _, messages = on_terminal(model, streams=("stdout",))
    assert "\x1b" not in messages


def test_colours_that_are_forced_do_not_reach_a_machine_format(model):
    env = environment(FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="xterm-256color")
    done = subprocess.run([*COMMAND, "calibrate", model], env=env, capture_output=True)
    assert b"\x1b" not in done.stdout + done.stderr


def test_apply_has_one_bar_after_the_other(model, tmp_path):
    output = str(tmp_path / "q.safetensors")
    arguments = (model, "--exclude", "bad", "--to", "safetensors", "-o", output)
    shown, _ = on_terminal(*arguments, command="apply", width=120)
    assert "/3 tensors" in shown  # calibrated
    assert "/4 tensors" in shown  # written
    assert ESCAPE.sub("", shown).splitlines()[-1].endswith("bytes")
    assert "Traceback" not in shown
