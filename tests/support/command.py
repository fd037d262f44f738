"""The command, as users run it: in this process where that is enough, in one of its own where it is not."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klcal.cli.main import run

SAMPLES = Path(__file__).parent.parent.parent / "sample_tensors"
COMMAND = (sys.executable, "-m", "klcal")
KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT", "TMPDIR")
DEADLINE = 20.0  # seconds: for a machine that is busy; nothing waits so long where all is well
HUGE = 40 << 30  # bytes of a sparse file: no machine counts it before the signal comes


FULL = Path("/dev/full")
with_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
with_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def tensors(self) -> dict[str, Any]:
        return {tensor["name"]: tensor for tensor in self.document["tensors"]}

    @property
    def messages(self) -> list[str]:
        return self.err.splitlines()


def harmless(result: Result) -> Result:
    """The same result, once nothing in it can act on a terminal: only printable characters, tabs and newlines.

    All that the suite's runs print passes through here, whatever the test is about.
    """
    for text in (result.out, result.err):
        acting = {char for char in set(text) if not char.isprintable() and char not in "\n\t"}
        assert not acting, f"{sorted(map(ascii, acting))} in the output"
    assert "Traceback" not in result.err or os.environ.get("KLCAL_DEBUG") == "1"
    return result


def klcal(*arguments: str | Path) -> Result:
    """In this process, with stdout and stderr redirected."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        code = run([str(argument) for argument in arguments])
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return harmless(Result(int(code), *texts))


def environment(**changes: str) -> dict[str, str]:
    """What a process of its own sees: nothing that a test does not say."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | changes


def klcal_process(*arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> Result:
    """In a process of its own. What is not redirected by an option is captured."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    if "input" in options:
        del streams["stdin"]
    done = subprocess.run([*COMMAND, *map(str, arguments)], env=env or environment(), **(streams | options))
    return harmless(Result(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode()))


def one_message(result: Result) -> str:
    """The only line on stderr, which is whole: no traceback, nothing that acts, not too long."""
    (message,) = result.messages
    assert re.match(r"klcal: (error|warning): ", message)
    assert message.isprintable()
    assert len(message) <= 300
    return message


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition gives once it gives something."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.002)
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its zombie that nobody asks for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def normal(count: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def save_huge(path: Path) -> Path:
    """A sparse .npy: no space on the disk, minutes to count."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (HUGE // 4,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + HUGE)
    return path
