"""What several processes lay aside is there as they wrote it; what one that is killed had begun is not referred to."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest

from klcal.pipeline.workers import workers
from klcal.writers import spool as module
from klcal.writers.spool import Spool


def read(spool: Spool, begin: int, nbytes: int) -> bytes:
    return b"".join(spool.read(begin, nbytes))


def pieces(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, 9, number % 7, np.int64), rng.random((2, number % 5))]


def whole(number: int) -> bytes:
    return b"".join(each.tobytes() for each in pieces(number))


class Append:
    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    def __call__(self, number: int) -> int:
        if number == 13 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.spool.append(pieces(number))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_append_each_its_own(tmp_path, monkeypatch, start):
    monkeypatch.setattr("klcal.pipeline.workers.CONTEXT", multiprocessing.get_context(start))
    with Spool(str(tmp_path / "x")) as spool:
        with workers(Append(spool), range(200), 2) as found:
            begins = list(found)
        for number, begin in enumerate(begins):
            assert read(spool, begin, len(whole(number))) == whole(number)
        assert list(tmp_path.iterdir()) == []  # it has no name


def test_a_sketch_longer_than_a_piece_is_read_in_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 3)
    with Spool(str(tmp_path / "x")) as spool:
        spool.append([b"before"])
        begin = spool.append([b"", b"abcd", b"efgh"])
        assert list(spool.read(begin, 8)) == [b"abc", b"def", b"gh"]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "no space left on device")

    with Spool(str(tmp_path / "x")) as spool:
        monkeypatch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="no space"):
            spool.append([b"abc"])
        monkeypatch.undo()
        assert spool.append([b"abc"]) == 0  # the lock is free


def test_what_the_system_takes_in_pieces_is_written_whole(tmp_path, monkeypatch):
    written = os.pwritev

    def some(descriptor, pieces, position):
        return written(descriptor, [memoryview(pieces[0]).cast("B")[:3]], position)

    with Spool(str(tmp_path / "x")) as spool:
        monkeypatch.setattr(os, "pwritev", some)
        begin = spool.append([np.arange(2, dtype=np.int64), b"", b"abcd"])
        monkeypatch.undo()
        assert read(spool, begin, 20) == np.arange(2, dtype=np.int64).tobytes() + b"abcd"
