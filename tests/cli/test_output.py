"""--output: the old file or the new one, whole; no other file, ever."""

import errno
import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.cli.output import choose_format
from klcal.errors import UsageError
from klcal.pipeline import calibrate, gathered
from klcal.readers.table_file import read_table
from klcal.writers import BINARY, WRITERS, file
from tests.support.command import COMMAND, FULL, klcal, klcal_process, normal, one_message, with_full

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", normal())
    return tmp_path


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def refused(*arguments) -> str:
    """The message of a usage error, found before any input is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "find", None)
        result = klcal("calibrate", *arguments)
    assert (result.code, result.out) == (2, "")
    return one_message(result)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("x.json", "json"),
        ("X.JSON", "json"),
        ("x.jsonl", "jsonl"),
        ("x.csv", "csv"),
        ("x.md", "md"),
        ("x.tsv", "plain"),
    ],
)
def test_the_suffix_names_the_format(here, name, format_):
    assert klcal("calibrate", "x.npy", "--output", name).code == 0
    assert Path(name).read_text() == klcal("calibrate", "x.npy", "--format", format_).out


@pytest.mark.parametrize("format_", sorted(set(WRITERS) - BINARY))
def test_a_named_format_takes_precedence_over_the_suffix(here, format_):
    result = klcal("calibrate", "x.npy", "-o", "x.json", "--format", format_)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert Path("x.json").read_text() == klcal("calibrate", "x.npy", "--format", format_).out


def test_a_binary_table_is_written_to_a_file_or_a_pipe_and_replaces_one(here):
    for _ in range(2):
        result = klcal("calibrate", "x.npy", "--dtype", "int8", "-o", "x.safetensors")
        assert (result.code, result.out, result.err) == (0, "", "")
    (row,) = read_table("x.safetensors").rows
    assert (row.name, row.target) == ("x", "int8")
    command = [*COMMAND, "calibrate", "x.npy", "--dtype", "int8", "--format", "safetensors"]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stdout == Path("x.safetensors").read_bytes()


def test_a_binary_table_replaces_no_model(here):
    safetensors.numpy.save_file({"w": np.ones(3, np.float32)}, "m.safetensors")
    assert "would replace a tensor file" in refused("x.npy", "-o", "m.safetensors")


def test_binary_is_refused_where_only_text_can_be(here):
    assert "binary" in refused("x.npy", "--units", "-o", "x.safetensors")
    for form in (("--format", "safetensors"), ("-o", "y.safetensors")):
        result = klcal("compare", "x.npy", "x.npy", *form)
        assert (result.code, "it is for scales, not for comparisons" in result.err) == (2, True)
    with pytest.raises(UsageError, match="stdout is a terminal; name a file with --output"):
        choose_format("safetensors", None, terminal=True)
    assert choose_format("safetensors", None, terminal=False) == "safetensors"
    assert choose_format("auto", "x.safetensors", terminal=True) == "safetensors"
    assert files() == ["x.npy"]


def test_a_table_among_models_is_recognized(here):
    assert klcal("calibrate", "x.npy", "-o", "x.safetensors").code == 0
    result = klcal("calibrate", ".", "--format", "json")
    assert result.code == 4
    (error,) = result.document["errors"]
    assert error["reason"].startswith("it is a table of klcal calibrate, not a model")
    assert "is one of the inputs" in refused(".", "-o", "x.safetensors")


def test_a_suffix_that_names_no_format_is_refused(here):
    assert ".json, .jsonl, .csv" in refused("x.npy", "-o", "x.yaml")
    assert files() == ["x.npy"]


@pytest.mark.parametrize("name", ["x.npy", "new.pt", "new.CKPT"])
def test_an_output_that_is_named_as_a_tensor_file_is_not_to_be_helped_by_a_format(here, name):
    message = refused("x.npy", "-o", name)
    assert "the name of a tensor file" in message
    assert "--format" not in message


# --- what is refused


@pytest.mark.parametrize("name", ["absent/x.json", ".", "x.npy/x.json", "y" * 300 + ".json", "new/", "d/", ""])
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(here, name):
    Path("d").mkdir()
    assert "cannot write" in refused("x.npy", "--format", "json", "-o", name)
    assert files() == ["d", "x.npy"]


@unprivileged
def test_a_path_that_cannot_be_written_is_refused(here):
    Path("locked").mkdir(mode=0o500)
    Path("old.json").write_text("old")
    Path("old.json").chmod(0o400)
    assert "permission" in refused("x.npy", "-o", "locked/x.json")
    assert "write-protected" in refused("x.npy", "-o", "old.json")


def save_checkpoint() -> None:
    Path("m").mkdir()
    safetensors.numpy.save_file({"w": normal()}, "m/odd.safetensors")
    Path("m/model.safetensors.index.json").write_text('{"weight_map": {"w": "odd.safetensors"}}')


INDEX = "m/model.safetensors.index.json"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("x.npy", "x.npy"),
        ("x.npy", "./m/../x.npy"),
        ("x.npy", "link.json"),
        ("x.npy", "hard.json"),
        ("link.json", "x.npy"),
        ("*.npy", "x.npy"),  # in quotes: no shell has expanded it
        ("no*", "notes.md"),
        ("m", "m/odd.safetensors"),
        ("m", INDEX),
        (INDEX, INDEX),
        (INDEX, "m/odd.safetensors"),  # which is read, although it is not given
        (".", "notes"),
    ],
)
def test_no_input_is_ever_replaced(here, given, name):
    save_checkpoint()
    Path("notes").write_text("notes")
    Path("notes.md").write_text("notes")
    Path("link.json").symlink_to("x.npy")
    Path("hard.json").hardlink_to("x.npy")
    before = {path: Path(path).read_bytes() for path in files() if Path(path).is_file()}
    refused(given, "--format", "json", "-o", name)
    assert before == {path: Path(path).read_bytes() for path in files() if Path(path).is_file()}


def test_an_answer_beside_the_inputs_is_replaced_by_the_next(here):
    """The broken twin of the refusals: a directory may hold its own answers."""
    for _ in range(2):
        assert klcal("calibrate", ".", "-o", "scales.json").code == 0
        assert klcal("calibrate", "*.npy", "-o", "scales.json").code == 0
    assert files() == ["scales.json", "x.npy"]


def test_a_directory_that_is_gone_is_reported(here):
    """The working directory was removed while the shell stood in it."""
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()
    assert "cannot write 'x.json'" in refused(here / "x.npy", "-o", "x.json")


# --- what is kept


def test_mode_and_link_are_kept(here):
    Path("real.json").write_text("old")
    Path("real.json").chmod(0o640)
    Path("link.json").symlink_to("real.json")
    Path("dangling.json").symlink_to("new.json")
    old = os.umask(0o027)
    try:
        assert klcal("calibrate", "x.npy", "-o", "link.json").code == 0
        assert klcal("calibrate", "x.npy", "-o", "dangling.json").code == 0
    finally:
        os.umask(old)
    assert Path("link.json").is_symlink()
    assert Path("real.json").read_text().startswith('{"schema"')
    assert stat.S_IMODE(Path("real.json").stat().st_mode) == 0o640
    assert Path("dangling.json").is_symlink()
    assert stat.S_IMODE(Path("new.json").stat().st_mode) == 0o640  # as the umask says
    assert files() == ["dangling.json", "link.json", "new.json", "real.json", "x.npy"]


def test_where_nothing_is_usable_the_failures_are_written_and_no_file_is_replaced(here):
    Path("bad.npy").write_text("text")
    assert klcal("calibrate", "bad.npy", "-o", "x.json").code == 3
    assert '"source": "bad.npy"' in Path("x.json").read_text()
    Path("x.json").write_text("old")
    assert klcal("calibrate", "bad.npy", "-o", "x.json").code == 3
    assert Path("x.json").read_text() == "old"


def failing(call, number, code):
    """A system call that fails when it is made for the n-th time."""
    made = []

    def replaced(*arguments, **options):
        made.append(call)
        if len(made) == number:
            raise OSError(code, "as told")
        return call(*arguments, **options)

    return replaced


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["open", "fchmod", "fsync", "replace", "write"])
@pytest.mark.parametrize("number", [1, 2])
def test_whatever_fails_the_file_is_the_old_or_the_new_one(here, name, code, number):
    Path("x.json").write_text("old")
    assert klcal("calibrate", "x.npy", "-o", "new.json").code == 0
    new = Path("new.json").read_text()
    with pytest.MonkeyPatch.context() as patch:
        if name == "replace":
            patch.setattr(Path, "replace", failing(Path.replace, number, code))
        elif name == "write":
            patch.setitem(WRITERS, "json", failing(WRITERS["json"], number, code))
        else:
            patch.setattr(file.os, name, failing(getattr(os, name), number, code))
        result = klcal("calibrate", "x.npy", "-o", "x.json")
    assert files() == ["new.json", "x.json", "x.npy"]
    content = Path("x.json").read_text()
    if result.code == 0:
        assert content == new
    else:
        assert result.code in (2, 3, 4)  # 3 where it was the input that could not be read
        kept, told = result.messages if result.code == 3 else ("is as it was", one_message(result))
        assert "is as it was" in kept
        assert told
        assert content == "old" or json.loads(content)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError()])
def test_a_run_that_stops_leaves_the_old_file(here, monkeypatch, error):
    def broken(*_, **__):
        raise error

    Path("x.json").write_text("old")
    for place in (gathered, file):
        monkeypatch.setattr(place, "find" if place is gathered else "sync", broken)
        code = klcal("calibrate", "x.npy", "-o", "x.json").code
        assert code != 0
    assert files() == ["x.json", "x.npy"]


# --- what is no regular file


@with_full
def test_a_full_device_is_reported_and_stays_a_device(here):
    result = klcal("calibrate", "x.npy", "-o", FULL)
    assert result.code == 4
    assert "cannot write '/dev/full': no space left on device" in one_message(result)
    assert stat.S_ISCHR(FULL.stat().st_mode)


def test_output_to_dev_null_leaves_no_file(here):
    result = klcal("calibrate", "x.npy", "-o", os.devnull)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_stdout_has_several_names(here, name):
    expected = klcal("calibrate", "x.npy").out
    assert klcal_process("calibrate", "x.npy", "-o", name).out == expected
    with Path("out.txt").open("w") as redirected:
        assert klcal_process("calibrate", "x.npy", "-o", name, stdout=redirected).code == 0
    assert Path("out.txt").read_text() == expected


def test_a_pipe_with_a_name_is_written_through(here):
    os.mkfifo("pipe.json")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe.json").read_text()))
    reader.start()
    assert klcal("calibrate", "x.npy", "-o", "pipe.json").code == 0
    reader.join()
    assert read == [klcal("calibrate", "x.npy", "--format", "json").out]
    assert stat.S_ISFIFO(Path("pipe.json").stat().st_mode)


def test_a_file_that_becomes_a_device_is_not_replaced(here, monkeypatch):
    calibrate_files = calibrate.calibrate_files

    def meanwhile(*arguments, **options):
        os.mkfifo("x.json")
        return calibrate_files(*arguments, **options)

    monkeypatch.setattr(calibrate, "calibrate_files", meanwhile)
    result = klcal("calibrate", "x.npy", "-o", "x.json")
    assert result.code == 4
    assert "it has become a pipe or a device" in one_message(result)
    assert files() == ["x.json", "x.npy"]
