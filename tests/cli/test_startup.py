"""What a run imports: help is text, and an everyday file needs no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import SAMPLES, environment

HEAVY = ("torch", "numpy", "rich", "scipy", "pandas")
IMPORTED = """
import atexit, json, os, sys
modules = lambda: os.write(2, json.dumps(sorted({name.partition(".")[0] for name in sys.modules})).encode())
atexit.register(modules)
from klcal.__main__ import main
sys.argv = ["klcal", *sys.argv[1:]]
FIRST
main()
"""


def imported(*arguments: str, first: str = "") -> set[str]:
    """The heavy packages that a run of the command has imported when it ends."""
    program = IMPORTED.replace("FIRST", first)
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, env=environment(), check=True)
    return set(json.loads(done.stderr)) & set(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["calibrate", "--help"], ["export", "--help"], ["check", "--help"], ["--version"]]
)
def test_help_needs_neither_numpy_nor_rich(arguments):
    assert imported(*arguments) == set()


@pytest.mark.parametrize("name", ["mtcnn_pnet.pt", "silero_vad_convs.safetensors", "minilm_l0_ffn_in.npy"])
@pytest.mark.parametrize("format_", ["json", "plain"])
def test_an_everyday_file_needs_no_torch_and_without_a_table_no_rich(name, format_):
    assert imported("calibrate", str(SAMPLES / name), "--output", os.devnull, "--format", format_) == {"numpy"}


def test_an_export_needs_neither_torch_nor_rich(tmp_path):
    imported("calibrate", str(SAMPLES / "minilm_l0_ffn_in.npy"), "--output", str(tmp_path / "t.json"))
    assert imported("export", str(tmp_path / "t.json"), "--to", "ort-cache", "-o", str(tmp_path / "c")) == {"numpy"}


def test_two_tables_are_compared_with_neither_torch_nor_rich(tmp_path):
    table = str(tmp_path / "t.safetensors")
    imported("calibrate", str(SAMPLES / "mtcnn_pnet.pt"), "--per", "channel", "--output", table)
    assert imported("diff", table, table) == {"numpy"}


def test_values_are_counted_without_what_searches(tmp_path):
    first = "atexit.register(lambda: os.write(1, repr(sorted(sys.modules)).encode()))"
    words = ["sketch", str(SAMPLES / "mtcnn_pnet.pt"), "--pool", "name", "-o", str(tmp_path / "x.safetensors")]
    command = [sys.executable, "-c", IMPORTED.replace("FIRST", first), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert "klcal.sketches.counting" in done.stdout
    assert "klcal.search" not in done.stdout
    assert "klcal.calibration" not in done.stdout


def test_headers_are_looked_at_without_what_counts_and_searches():
    first = "atexit.register(lambda: os.write(1, repr(sorted(sys.modules)).encode()))"
    command = [sys.executable, "-c", IMPORTED.replace("FIRST", first), "inspect", str(SAMPLES / "mtcnn_pnet.pt")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert "klcal.readers.pt" in done.stdout
    for module in ("klcal.search", "klcal.calibration", "klcal.sketches.counting"):
        assert f"'{module}'" not in done.stdout, module


def test_a_table_needs_rich():
    assert imported("calibrate", str(SAMPLES / "mtcnn_pnet.pt"), "--format", "table") == {"numpy", "rich"}


def test_the_check_sees_what_is_imported():
    """The broken twin: a command that imports more is found out."""
    assert imported("--help", first="import numpy") == {"numpy"}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
def test_an_everyday_file_starts_no_threads():
    """NumPy's linear algebra would, and interrupts the process where their memory is not to be had."""
    first = "atexit.register(lambda: os.write(1, b'%d threads' % len(os.listdir('/proc/self/task'))))"
    program = IMPORTED.replace("FIRST", first)
    command = [sys.executable, "-c", program, "calibrate", str(SAMPLES / "mtcnn_pnet.pt"), "--output", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "1 threads"


def test_without_torch_everything_but_a_device_works():
    first = "sys.modules['torch'] = None"
    assert "numpy" in imported("calibrate", str(SAMPLES / "mtcnn_pnet.pt"), first=first)
    command = [sys.executable, "-c", IMPORTED.replace("FIRST", first), "calibrate", "x.pt", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "--device cuda needs torch; pip install 'klcal[cuda]'" in done.stderr
