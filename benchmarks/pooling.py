"""One tensor of very many small files, against a plain loop over them, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.side_by_side import ENVIRONMENT, PYTHON, in_turns, process, ratio, report, seconds

FILES, SHAPE = 10_000, (4, 8, 32)  # of 4 KB each
LOOP = "import os, sys, numpy as np; print(min(np.load(file.path).min() for file in os.scandir(sys.argv[1])))"


def run() -> None:
    """Pools them per tensor and per channel, from the page cache, with all cores and with one."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        acts = Path(folder, "acts")
        acts.mkdir()
        whole = rng.standard_normal((FILES, *SHAPE), np.float32)
        for number, batch in enumerate(whole):
            np.save(acts / f"conv1_{number:05}.npy", batch)
        np.save(Path(folder, "whole.npy"), whole.reshape(-1, *SHAPE[1:]))
        ways = {
            "per tensor": (),
            "per tensor, one process": ("--jobs", "1"),
            "per channel of axis 1, one process": ("--per", "channel:1", "--jobs", "1"),
        }
        for words in ways.values():
            _check(_row(acts, "--pool", "stem", *words), _row(Path(folder, "whole.npy"), *words))
        loop, *names = "np.load(file).min() of each", *ways
        times = in_turns(
            {loop: process(PYTHON, "-c", LOOP, str(acts))}
            | {name: process(*_command(acts, "--pool", "stem", *ways[name])) for name in names}
        )
        report(
            f"{FILES:,} files of 4 KB as one tensor, whole processes",
            [
                (loop, seconds(times[loop])),
                *((f"{name} / that", f"{ratio(times, name, loop):.2f}") for name in names),
            ],
        )


def _command(path: Path, *words: str) -> tuple[str, ...]:
    return PYTHON, "-m", "klcal", "calibrate", str(path), "--format", "json", *words


def _row(path: Path, *words: str) -> dict[str, object]:
    done = subprocess.run(_command(path, *words), env=ENVIRONMENT, check=True, capture_output=True)
    row: dict[str, object] = json.loads(done.stdout)["tensors"][0]
    return row


def _check(found: dict[str, object], whole: dict[str, object]) -> None:
    """The pool is what one file with all of it is."""
    named = {name: found[name] for name in ("name", "source", "note")}
    assert found == {**whole, **named}
    assert named == {"name": "conv1", "source": "conv1", "note": f"{FILES:,} batches"}
