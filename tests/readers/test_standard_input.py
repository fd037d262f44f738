"""Standard input becomes a regular file: copied once, in bounded memory, and gone with the process."""

import errno
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from klcal.errors import InputError
from klcal.readers import standard_input
from klcal.readers.regular import open_regular
from klcal.readers.standard_input import spooled
from tests.support.command import klcal_process, one_message
from tests.support.lazy import torch

READ = """
import resource, sys
from klcal.errors import InputError
from klcal.readers.regular import open_regular
from klcal.readers.standard_input import spooled
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    file = open_regular(spooled(0))
except InputError as error:
    sys.exit(f"refused: {error}")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(file.size, sum(map(sum, file.blocks(0, min(file.size, 1000)))), grown < 32_000)
"""


def run(shell: str, folder: Path, **options) -> str:
    """What the reader prints as the end of a pipeline; $READ is the reader."""
    environment = {**os.environ, "READ": READ, "PY": sys.executable, "TMPDIR": str(folder)}
    done = subprocess.run(["sh", "-c", shell], env=environment, capture_output=True, text=True, cwd=folder, **options)
    return (done.stdout + done.stderr).strip()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").write_bytes(b"\1" * 300)
    return tmp_path


@pytest.fixture
def pipe():
    """The end of a pipe that 100 bytes were sent into."""
    reader, writer = os.pipe()
    os.write(writer, bytes(range(100)))
    os.close(writer)
    yield reader
    os.close(reader)


def test_a_pipe_is_copied(folder):
    assert run('cat data | "$PY" -c "$READ"', folder) == "300 300 True"
    assert run('(cat data; cat data) | "$PY" -c "$READ"', folder) == "600 600 True"


def test_a_redirected_file_is_used_in_place(folder):
    assert run('"$PY" -c "$READ" < data', folder) == "300 300 True"
    with (folder / "data").open("rb") as file:
        path = spooled(file.fileno())
    assert Path(path).stat().st_ino == (folder / "data").stat().st_ino
    assert open_regular(path).read(0, 3) == b"\1\1\1"  # though the descriptor was closed


def test_a_file_that_was_read_in_part_is_copied_from_there(folder):
    assert run('(head -c 0 > /dev/null; dd bs=100 count=1 status=none > first; "$PY" -c "$READ") < data', folder) == (
        "200 200 True"
    )


def test_a_copy_leaves_no_file_behind(folder):
    before = set(folder.iterdir())
    assert run('cat data | "$PY" -c "$READ"', folder) == "300 300 True"
    assert set(folder.iterdir()) == before


def test_large_standard_input_is_copied_in_pieces(folder):
    with (folder / "large").open("wb") as out:
        out.truncate(100 << 20)
    assert run('cat large | "$PY" -c "$READ"', folder) == f"{100 << 20} 0 True"


@pytest.mark.parametrize(
    ("shell", "says"),
    [
        ('"$PY" -c "$READ" <&-', "refused: standard input is closed; send a"),
        ('"$PY" -c "$READ" < /dev/null', "0 0 True"),
        (': | "$PY" -c "$READ"', "0 0 True"),
    ],
)
def test_nothing_to_read_is_reported(folder, shell, says):
    assert run(shell, folder).startswith(says)


@pytest.mark.parametrize("name", ["old.pt", "new.pt"])
def test_a_pytorch_file_without_its_name_is_sent_back_for_it(folder, name):
    torch.save({"w": torch.ones(3)}, folder / name, _use_new_zipfile_serialization=name == "new.pt")
    with (folder / name).open("rb") as file:
        result = klcal_process("calibrate", "-", stdin=file)
    assert result.code == 3
    assert "give it by" in one_message(result)
    assert "suffix" not in one_message(result)


def test_a_terminal_is_refused_and_not_waited_for():
    leader, terminal = os.openpty()
    with pytest.raises(InputError, match="standard input is a terminal; send a"):
        spooled(terminal)
    os.close(leader)
    os.close(terminal)


def test_a_directory_is_refused(folder):
    number = os.open(folder, os.O_RDONLY)
    with pytest.raises(InputError, match="it is a directory"):
        spooled(number)
    os.close(number)


def test_a_closed_descriptor_is_refused(folder):
    with (folder / "data").open("rb") as file:
        number = os.dup(file.fileno())
    os.close(number)
    with pytest.raises(InputError, match="standard input is closed"):
        spooled(number)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_reported_with_a_way_out(pipe, monkeypatch, code):
    def full(*_):
        raise OSError(code, "the system's words")

    monkeypatch.setattr(standard_input.os, "write", full)
    with pytest.raises(InputError, match=r"no room for a copy of standard input; set TMPDIR"):
        spooled(pipe)


def test_short_writes_are_completed(pipe, monkeypatch):
    write = os.write
    monkeypatch.setattr(standard_input.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    assert open_regular(spooled(pipe)).read(0, 100) == bytes(range(100))


def test_a_disk_error_is_reported_in_our_words(pipe, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "the system's words")

    monkeypatch.setattr(standard_input.os, "read", broken)
    with pytest.raises(InputError, match=r"^the disk reports an input/output error; copy"):
        spooled(pipe)


def test_no_place_for_temporary_files_is_reported(pipe, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    with pytest.raises(InputError, match="no room for a copy of standard input; set TMPDIR"):
        spooled(pipe)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_that_never_ends_is_not_copied(folder):
    assert run('"$PY" -c "$READ" < /dev/zero', folder) == (
        "refused: standard input is a device, not a file; send a file through a pipe"
    )


@pytest.mark.parametrize(("sent", "says"), [("yes", "text file"), ("cat /dev/zero", "its format is not known")])
def test_a_pipe_that_never_ends_has_to_be_a_tensor_file(folder, sent, says):
    small = READ.replace(
        "before =", "from klcal.readers import standard_input as s; s.UNKNOWN_BYTES = 1 << 20; before ="
    )
    assert says in run(f'{sent} | "$PY" -c {shlex.quote(small)}', folder)
    header = shlex.quote("\\223NUMPY")
    assert run(f'(printf {header}; head -c 2000000 data) | "$PY" -c {shlex.quote(small)}', folder).startswith("306 ")


def test_another_process_can_read_the_copy(pipe):
    """As a worker does: it opens the parent's descriptor again by its path."""
    path = spooled(pipe)
    code = f"import pathlib; print(len(pathlib.Path({path!r}).read_bytes()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "100\n"


def test_the_check_of_standard_input_can_fail(folder):
    assert run('head -c 299 data | "$PY" -c "$READ"', folder) != "300 300 True"


def test_two_arrays_one_behind_the_other_are_refused_and_not_read_as_one(tmp_path):
    for name in "ab":
        np.save(tmp_path / name, np.ones(3, np.float32))
    command = shlex.join([sys.executable, "-m", "klcal", "calibrate", "-"])
    done = subprocess.run(["sh", "-c", f"cat a.npy b.npy | {command}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert "-: 140 more bytes stand behind its array; save each array in a file of its own" in done.stderr
