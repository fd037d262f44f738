"""Whatever call to the system fails, and however often: the old output or the new one, whole; a true code; a message.

The N-th call of a kind fails, N = 1, 2, 3 … until a run meets none that fails, once and for ever after.
"""

import errno
import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.cli import main
from klcal.writers import file
from tests.support.command import klcal, normal, one_message
from tests.support.pickles import checkpoint, dict_of, storage, tensor

FAST = ("--method", "minmax")
FAILURES = {
    "EIO": OSError(errno.EIO, "as told"),
    "ENOSPC": OSError(errno.ENOSPC, "as told"),
    "EACCES": OSError(errno.EACCES, "as told"),
    "no memory": MemoryError(),
}
CALLS = {
    **dict.fromkeys(("open", "pread", "preadv", "write"), ("EIO", "no memory")),
    **dict.fromkeys(("fstat", "stat", "listdir", "close"), ("EIO",)),
    **dict.fromkeys(("fchmod", "fsync", "replace"), tuple(FAILURES)),
}
CLOSE = os.close
MOST = 6  # five tensors, and an index whose shard is then read as a file of its own


class Anomaly:
    """From the N-th call on, or only then, a function fails."""

    def __init__(self, error, number, for_ever):
        self.error, self.number, self.for_ever = error, number, for_ever
        self.calls = self.failed = 0

    def happen(self):
        self.calls += 1
        if self.calls == self.number or (self.for_ever and self.calls > self.number):
            self.failed += 1
            raise self.error

    def around(self, function):
        def call(*arguments, **options):
            if function is CLOSE:
                CLOSE(*arguments)  # as Linux does, whatever it says
                return self.happen()
            self.happen()
            return function(*arguments, **options)

        return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A tensor file of each kind, some with several parts to read."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    np.save("in/x.npy", normal())
    np.savez_compressed("in/x.npz", a=normal(50))
    held = dict_of(a=tensor(storage(99, "0"), 0, (99,)), b=tensor(storage(99, "0"), 1, (9, 9), (10, 1)))
    Path("in/x.pt").write_bytes(checkpoint(held, normal(99).tobytes()))
    safetensors.numpy.save_file({"c": normal(7)}, "in/1.safetensors")
    Path("in/m.safetensors.index.json").write_text('{"weight_map": {"c": "1.safetensors"}}')
    return tmp_path


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def check(result, anomaly, new: str) -> None:
    """The promise. ``result`` is of a run that was to replace ``out.json``, which held "old"."""
    content = Path("out.json").read_text()
    assert sorted(path.name for path in Path().iterdir()) == ["in", "out.json"]
    assert result.out == ""
    assert "Traceback" not in result.err
    if result.code == 0:
        assert content == new
        return
    assert anomaly.failed
    assert result.code in (2, 3, 4)
    assert result.messages
    assert all(line.startswith("klcal: ") and line.isprintable() for line in result.messages)
    if result.code == 3:
        assert content == "old", "which no answer without a usable row replaces"
    if content not in ("old", new):
        stopped = "cannot write" in result.err or "memory" in result.err  # after the answer was in its place
        assert told(json.loads(content), 4 if stopped else result.code)


def told(document, code: int) -> bool:
    """A document of a run that did not do everything says so, and loses nothing else."""
    lost = document["errors"] + [row for row in document["tensors"] if row["status"] != "ok"] + document["warnings"]
    done = sum(row["status"] == "ok" for row in document["tensors"])
    return bool(lost) and (code == 4 or done == 0) and done + len(lost) <= MOST


def runs(arguments, patched, error, for_ever):
    """The runs in which the first, second, … call fails, until one meets no failure."""
    for number in count(1):
        anomaly = Anomaly(error, number, for_ever)
        Path("out.json").write_text("old")
        with pytest.MonkeyPatch.context() as patch:
            patched(patch, anomaly)
            result = klcal("calibrate", *arguments, *FAST)
        yield result, anomaly
        if not anomaly.failed:
            assert result.code == 0
            return
        assert number < 1000


def fails(name):
    return lambda patch, anomaly: patch.setattr(os, name, anomaly.around(getattr(os, name)))


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails_costs_what_it_was_made_for_and_no_more(here, name, for_ever):
    assert klcal("calibrate", "in", "-o", "new.json", *FAST).code == 0
    new = Path("new.json").read_text()
    Path("new.json").unlink()
    before = descriptors()
    for error in CALLS[name][:1] if for_ever else CALLS[name]:
        for result, anomaly in runs(["in", "-o", "out.json"], fails(name), FAILURES[error], for_ever):
            check(result, anomaly, new)
    assert descriptors() == before


class Disk(io.FileIO):
    """A file whose writes can fail, in the middle too."""

    def __init__(self, descriptor, anomaly):
        super().__init__(descriptor, "w")
        self.anomaly = anomaly

    def write(self, data):
        self.anomaly.happen()
        return super().write(bytes(data)[:100])  # a short write is completed by another one


def on_disk(anomaly):
    def fdopen(descriptor, *_, **options):
        return io.TextIOWrapper(io.BufferedWriter(Disk(descriptor, anomaly), 64), **options)

    return fdopen


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_write_that_fails_leaves_the_old_output(here, error, for_ever):
    assert klcal("calibrate", "in/x.npy", "-o", "new.json", *FAST).code == 0
    new = Path("new.json").read_text()
    Path("new.json").unlink()
    writes = 0
    arguments = ["in/x.npy", "-o", "out.json"]
    for result, anomaly in runs(
        arguments, lambda patch, anomaly: patch.setattr(file.os, "fdopen", on_disk(anomaly)), error, for_ever
    ):
        check(result, anomaly, new)
        if anomaly.failed:
            assert result.code == 4
            assert Path("out.json").read_text() == "old"
            one_message(result)
        writes += 1
    assert writes > 5


NOWHERE = os.open(os.devnull, os.O_WRONLY)


class Broken(io.TextIOWrapper):
    """A standard stream whose N-th write fails."""

    def __init__(self, anomaly):
        super().__init__(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
        self.anomaly = anomaly

    def write(self, text):
        self.anomaly.happen()
        return super().write(text)

    def fileno(self):
        return NOWHERE


@pytest.mark.parametrize(
    "error", [*FAILURES.values(), BrokenPipeError(errno.EPIPE, "as told")], ids=[*FAILURES, "EPIPE"]
)
@pytest.mark.parametrize("format_", ["json", "plain", "table"])
def test_a_stdout_that_fails_is_reported_once_and_has_a_code(here, error, format_):
    for number in count(1):
        anomaly, err = Anomaly(error, number, True), io.StringIO()
        with redirect_stdout(Broken(anomaly)), redirect_stderr(err):
            code = main.run(["calibrate", "in/x.npy", "--format", format_])
        gone = isinstance(error, BrokenPipeError)
        assert code == (0 if not anomaly.failed else 141 if gone else 4)
        assert err.getvalue().count("\n") == (1 if anomaly.failed and not gone else 0)
        assert "Traceback" not in err.getvalue()
        if not anomaly.failed:
            return


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_stderr_that_fails_changes_neither_the_answer_nor_the_code(here, error):
    expected = klcal("calibrate", "in/x.npy", "absent.npy")
    for number in count(1):
        anomaly, out = Anomaly(error, number, True), io.StringIO()
        with redirect_stdout(out), redirect_stderr(Broken(anomaly)):
            code = main.run(["calibrate", "in/x.npy", "absent.npy"])
        assert (code, out.getvalue()) == (expected.code, expected.out)
        if not anomaly.failed:
            return


def test_the_loop_notices_an_output_that_is_written_in_place(here, monkeypatch):
    """The broken twin: with a temporary file that is the output itself, a failed write loses both."""
    monkeypatch.setattr(file.os, "fdopen", on_disk(Anomaly(FAILURES["EIO"], 3, True)))
    monkeypatch.setattr(file, "_create", lambda *_: file.os.fdopen(os.open("out.json", os.O_WRONLY | os.O_TRUNC)))
    Path("out.json").write_text("old")
    result = klcal("calibrate", "in", "-o", "out.json")
    with pytest.raises((AssertionError, ValueError)):
        check(result, Anomaly(None, 1, True), "new")
