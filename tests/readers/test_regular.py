"""Files are opened without waiting, read exactly, and noticed when they change."""

import os
import pickle
import socket
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import InputError
from klcal.readers import regular
from klcal.readers.description import CHUNK_BYTES
from klcal.readers.regular import FileSpan, RegularFile, open_regular, spans


def a_file(folder: Path, data: bytes) -> RegularFile:
    path = folder / "data"
    path.write_bytes(data)
    return open_regular(str(path))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    return a_file(tmp_path_factory.mktemp("regular"), bytes(i % 251 for i in range(1000)))


@given(offset=st.integers(-5, 1100), length=st.integers(-5, 1100), block=st.integers(1, 300))
def test_a_range_is_read_exactly_or_not_at_all(thousand, offset, length, block):
    whole = Path(thousand.path).read_bytes()
    if offset >= 0 and length >= 0 and offset + length <= 1000:
        assert thousand.read(offset, length) == whole[offset : offset + length]
        blocks = [bytes(piece) for piece in thousand.blocks(offset, length, block)]
        assert b"".join(blocks) == whole[offset : offset + length]
        assert all(len(piece) == block for piece in blocks[:-1])
    else:
        with pytest.raises(InputError):
            thousand.read(offset, length)
        with pytest.raises(InputError):
            list(thousand.blocks(offset, length, block))


def test_a_length_beyond_the_file_is_refused_before_memory_is_taken(thousand):
    tracemalloc.start()
    with pytest.raises(InputError, match=r"1,099,511,627,776 bytes, the file has 1,000; .*incomplete"):
        thousand.read(0, 1 << 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_memory_is_bounded_by_a_chunk(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.truncate(16 * CHUNK_BYTES)
    (part,) = spans(open_regular(str(path)), 0, 16 * CHUNK_BYTES, "<f4")
    tracemalloc.start()
    assert sum(chunk.nbytes for chunk in part.chunks()) == 16 * CHUNK_BYTES
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * CHUNK_BYTES


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "socket", "absent", "circle", "nul", "long"])
def test_a_file_that_is_not_regular_is_refused_at_once(tmp_path, kind):
    path = str(tmp_path / "x")
    if kind == "pipe":
        os.mkfifo(path)  # would block for ever: nobody writes to it
    elif kind == "directory":
        Path(path).mkdir()
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
    elif kind == "circle":
        Path(path).symlink_to(path)
    elif kind == "nul":
        path += "\0"
    elif kind == "long":
        path += "x" * 300
    with pytest.raises(InputError) as caught:
        open_regular(path)
    assert "errno" not in str(caught.value).lower()
    assert path not in str(caught.value)


def test_links_are_followed(tmp_path):
    file = a_file(tmp_path, b"abc")
    (tmp_path / "link").symlink_to(file.path)
    assert open_regular(str(tmp_path / "link")).read(0, 3) == b"abc"


@pytest.mark.parametrize("change", ["touch", "append", "cut", "replace", "remove"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_changes_is_noticed(tmp_path, change, when):
    file = a_file(tmp_path, bytes(100))
    path = Path(file.path)

    def happen():
        if change == "touch":
            os.utime(path, ns=(1, 1))
        elif change == "append":
            path.write_bytes(bytes(101))
        elif change == "cut":
            os.truncate(path, 50)
        elif change == "replace":
            (tmp_path / "new").write_bytes(bytes(100))
            os.utime(tmp_path / "new", ns=(1, 1))
            (tmp_path / "new").replace(path)
        else:
            path.unlink()

    blocks = file.blocks(0, 100, 10)
    if when == "before":
        happen()
        with pytest.raises(InputError):
            file.read(0, 100)
        with pytest.raises(InputError):
            next(blocks)
        return
    next(blocks)
    happen()
    if change in ("replace", "remove"):
        assert len(list(blocks)) == 9  # the open file is still the old one, whole
    else:
        with pytest.raises(InputError, match="while it was read"):
            list(blocks)


def test_a_disk_error_is_reported_in_our_words(tmp_path, monkeypatch):
    file = a_file(tmp_path, bytes(100))

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(regular.os, "pread", broken)
    with pytest.raises(InputError, match="the disk reports"):
        file.read(0, 100)


def test_short_reads_are_completed(tmp_path, monkeypatch):
    file = a_file(tmp_path, bytes(range(100)))
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(regular.os, "pread", lambda fd, n, at: pread(fd, min(n, 7), at))
    monkeypatch.setattr(regular.os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:7]], at))
    assert file.read(3, 90) == bytes(range(3, 93))
    assert b"".join(bytes(block) for block in file.blocks(3, 90, 40)) == bytes(range(3, 93))


@pytest.mark.parametrize("storage", ["<f4", ">f4", "<f8", ">f8", ">f2", "<u2", ">u2", "|u1"])
def test_chunks_are_the_values_in_native_order(tmp_path, storage):
    values = np.arange(1000).astype(storage)
    file = a_file(tmp_path, b"xyz" + values.tobytes())
    span = FileSpan(file, 3, values.nbytes, storage)
    (chunk,) = span.chunks()
    assert chunk.dtype.isnative
    np.testing.assert_array_equal(chunk, values)
    assert (span.nbytes, span.repeats) == (values.nbytes, 1)


@given(values=st.integers(0, 100), part=st.integers(1, 30))
def test_parts_cover_the_values_once_and_in_order(thousand, values, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regular, "PART_BYTES", 8 * part)
        parts = spans(thousand, 5, 8 * values, "<f8")
    assert sum(span.nbytes for span in parts) == 8 * values
    found = b"".join(chunk.tobytes() for span in parts for chunk in span.chunks())
    assert found == thousand.read(5, 8 * values)


def test_half_a_value_is_refused(thousand):
    with pytest.raises(InputError, match="whole number of values"):
        spans(thousand, 0, 10, "<f4")


def test_parts_can_be_sent_to_another_process(thousand):
    parts = spans(thousand, 0, 1000, "<f8")
    assert pickle.loads(pickle.dumps(parts)) == parts


def test_no_descriptor_is_left_open(tmp_path):
    file = a_file(tmp_path, bytes(100))
    before = len(list(Path("/dev/fd").iterdir()))
    blocks = file.blocks(0, 100, 10)
    next(blocks)
    assert len(list(Path("/dev/fd").iterdir())) == before + 1
    blocks.close()
    file.read(0, 100)
    with pytest.raises(InputError):
        open_regular(str(tmp_path))
    assert len(list(Path("/dev/fd").iterdir())) == before
