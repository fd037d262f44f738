"""``klcal sketch`` of many files of 1 MB, against a plain loop over them, each in a process of its own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import klcal
from benchmarks.pooling import LOOP
from benchmarks.side_by_side import ENVIRONMENT, PYTHON, in_turns, process, ratio, report, seconds

FILES, VALUES = 2_000, 1 << 18  # float32: 2 GB, which have to fit into the page cache
WAYS = {"a tensor each": (), "one tensor (--pool dir)": ("--pool", "dir")}


def run() -> None:
    """A sketch of each file, and one of all of them; by one process and by two, from the page cache."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(4 * VALUES, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        acts = Path(folder, "acts")
        acts.mkdir()
        for number in range(FILES):
            first = int(rng.integers(3 * VALUES))
            np.save(acts / f"{number:04}.npy", values[first : first + VALUES] * np.float32(1 + number / FILES))
        for words in WAYS.values():
            _check(acts, folder, words)
        loop = "np.load(file).min() of each"
        runs = {loop: process(PYTHON, "-c", LOOP, str(acts))}
        for name, words in WAYS.items():
            for jobs in ("1", "2"):
                runs[f"{name}, --jobs {jobs}"] = _sketched(acts, Path(folder, "x.safetensors"), jobs, words)
        times = in_turns(runs)
        rows = [(f"{name} / that", f"{ratio(times, name, loop):.2f}") for name in runs if name != loop]
        gains = [(f"{name}: two processes / one", f"{_gain(times, name):.2f} times as fast") for name in WAYS]
        title = f"klcal sketch of {FILES:,} .npy of {VALUES * 4 // 1000:,} kB, whole processes"
        report(title, [(loop, seconds(times[loop])), *rows, *gains])


def _gain(times: dict[str, list[float]], name: str) -> float:
    return ratio(times, f"{name}, --jobs 1", f"{name}, --jobs 2")


def _sketched(acts: Path, output: Path, jobs: str, words: tuple[str, ...]) -> Callable[[], object]:
    """A run that writes a new file: to give an old one back to the system takes 50 ms."""

    def run() -> None:
        output.unlink(missing_ok=True)
        subprocess.run(_command(acts, output, jobs, words), env=ENVIRONMENT, check=True, capture_output=True)

    return run


def _command(acts: Path, output: Path, jobs: str, words: tuple[str, ...]) -> tuple[str, ...]:
    return PYTHON, "-m", "klcal", "sketch", str(acts), "--jobs", jobs, *words, "--output", str(output)


def _check(acts: Path, folder: str, words: tuple[str, ...]) -> None:
    """Both write the same bytes, in which all values are counted."""
    outputs = [Path(folder, f"{jobs}.safetensors") for jobs in "12"]
    for jobs, output in zip("12", outputs, strict=True):
        subprocess.run(_command(acts, output, jobs, words), env=ENVIRONMENT, check=True, capture_output=True)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    found = klcal.load_sketches(outputs[0])
    assert sum(int(each.numel[0]) for each in found.values()) == FILES * VALUES
    assert len(found) == (1 if words else FILES)
    for output in outputs:
        output.unlink()
