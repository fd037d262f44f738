"""``klcal explain`` from end to end: which tensor, which unit, in which form, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import numpy as np
import pytest

import klcal
from tests.support.command import COMMAND, FULL, SAMPLES, environment, klcal_process, normal, one_message, with_full
from tests.support.command import klcal as command


@pytest.fixture
def model(tmp_path):
    arrays = {"fc.weight": normal(2400).reshape(24, 100), "fc.bias": np.zeros(5, np.float32), "ids": np.arange(3)}
    np.savez(tmp_path / "m.npz", **arrays, broken=np.array([1, np.nan], np.float32))
    return tmp_path / "m.npz"


def test_it_explains_what_calibrate_says(model):
    options = ["--dtype", "int8", "--method", "mse"]
    found = command("explain", model, "fc.weight", *options, "--format", "json")
    table = command("calibrate", model, "--include", "fc.weight", *options, "--format", "json")
    assert (found.code, found.err) == (0, "")
    assert found.document["tensor"] == table.document["tensors"][0]
    assert found.document["config"] == table.document["config"]
    assert found.document["methods"][0]["scale"] == table.document["tensors"][0]["scale"]


def test_a_channel_is_explained_as_calibrate_has_it(model):
    options = ["--dtype", "int8", "--per", "channel"]
    units = command("calibrate", model, "--include", "fc.weight", "--units", *options, "--format", "json")
    for number in (0, 7, 23):
        row = command("explain", model, "fc.weight", *options, "--unit", str(number), "--format", "json")
        assert row.code == 0
        wanted = units.document["tensors"][number]
        for field in ("unit", "scale", "zero_point", "low", "high", "mse", "sqnr_db", "clipped", "per"):
            assert row.document["tensor"][field] == wanted[field]


def test_units_lie_along_any_axis_and_in_any_order(tmp_path):
    values = np.asfortranarray(normal(4 * 6 * 10).reshape(4, 6, 10))
    np.save(tmp_path / "w.npy", values)
    whole = klcal.calibrate(values, per="channel:1")
    for number in range(6):
        found = command("explain", tmp_path / "w.npy", "--per", "channel:1", "--unit", str(number), "--format", "json")
        assert found.document["tensor"]["scale"] == np.float32(whole.units.scale[number])


def test_a_sketch_is_explained_as_its_values_are(model, tmp_path):
    sketches = tmp_path / "s.safetensors"
    assert command("sketch", model, "--include", "fc.weight", "--per", "channel", "--output", sketches).code == 0
    options = ["--dtype", "int4", "--per", "channel", "--unit", "3", "--format", "json"]
    one, other = (command("explain", path, "fc.weight", *options).document for path in (model, sketches))
    assert one["tensor"] | {"source": ""} == other["tensor"] | {"source": ""}
    assert {name: one[name] for name in ("curve", "methods", "histogram", "words")} == {
        name: other[name] for name in ("curve", "methods", "histogram", "words")
    }


def test_the_only_tensor_needs_no_name():
    found = command("explain", SAMPLES / "minilm_l0_ffn_in.npy")
    assert found.code == 0
    assert found.out.startswith("minilm_l0_ffn_in\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fc.wieght"], 3, "has no tensor 'fc.wieght'; the nearest names are 'fc.weight'"),
        ([], 2, "has several tensors; name one of them, such as"),
        (["fc.weight", "--per", "channel", "--unit", "24"], 2, "it has no unit 24; its units are 0 to 23"),
        (["fc.weight", "--unit", "0"], 2, "it has one scale for all; leave out --unit"),
        (["fc.weight", "--per", "channel:5"], 2, "the shape [24, 100] has the axes 0 to 1"),
        (["fc.weight", "--output", "x.tiff"], 2, "the suffix of 'x.tiff' names no format"),
        (["fc.weight", "--dtype", "int99"], 2, "unknown dtype"),
        (["broken"], 3, "1 NaN among 2 values"),
        (["ids"], 3, "1 skipped"),
    ],
)
def test_a_tensor_that_cannot_be_explained_is_reported(model, arguments, code, said):
    result = command("explain", model, *arguments)
    assert result.code == code
    assert said in one_message(result)


def test_absent_files_and_tensors_of_several_files(model, tmp_path):
    assert command("explain", tmp_path / "no.npy").code == 3
    other = tmp_path / "other.npz"
    other.write_bytes(model.read_bytes())
    result = command("explain", tmp_path, "fc.weight")
    assert (result.code, "several files" in result.err) == (2, True)


def test_zeros_are_an_answer(model):
    result = command("explain", model, "fc.bias")
    assert (result.code, result.err) == (0, "")
    assert "It has no scale, status zero: every value is 0." in result.out


def test_units_of_a_sketch_that_are_not_there(model, tmp_path):
    sketches = tmp_path / "s.safetensors"
    command("sketch", model, "--include", "fc.weight", "--per", "channel", "--output", sketches)
    result = command("explain", sketches, "fc.weight", "--per", "channel", "--unit", "99")
    assert result.code == 3
    assert "it has no unit 99; its units are 0 to 23" in result.err


@pytest.mark.parametrize("suffix", ["txt", "json", "svg", "png"])
def test_files_are_written_whole(model, tmp_path, suffix):
    if suffix in ("svg", "png"):
        pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    path = tmp_path / f"x.{suffix}"
    result = command("explain", model, "fc.weight", "--output", path)
    assert (result.code, result.out) == (0, "")
    begins = {"txt": b"fc.weight", "json": b'{"schema"', "svg": b"<?xml", "png": b"\x89PNG"}[suffix]
    assert path.read_bytes().startswith(begins)


def test_an_answer_without_a_scale_replaces_no_file(model, tmp_path):
    path = tmp_path / "x.json"
    command("explain", model, "fc.weight", "--output", path)
    before = path.read_bytes()
    result = command("explain", model, "broken", "--output", path)
    assert result.code == 3
    assert path.read_bytes() == before


def test_pictures_without_matplotlib_say_what_to_install(model, monkeypatch):
    monkeypatch.setattr("klcal.writers.explained_picture.find_spec", lambda _: None)
    result = command("explain", model, "fc.weight", "--output", "x.png")
    assert result.code == 2
    assert "pip install 'klcal[plot]'" in one_message(result)


@with_full
def test_a_full_disk_is_reported(model):
    with FULL.open("w") as full:
        result = klcal_process("explain", model, "fc.weight", stdout=full)
    assert result.code == 4
    assert "no space left" in one_message(result)


@pytest.mark.parametrize(
    ("changes", "ascii_"), [({"LC_ALL": "C"}, True), ({"TERM": "dumb"}, True), ({"LC_ALL": "C.UTF-8"}, False)]
)
def test_terminals_without_blocks_get_ascii(model, changes, ascii_):
    ours, theirs = pty.openpty()
    env = environment(**{"TERM": "xterm", "COLUMNS": "90"} | changes)
    with subprocess.Popen([*COMMAND, "explain", model, "fc.weight"], stdout=theirs, env=env) as process:
        os.close(theirs)
        text = b""
        try:
            while some := os.read(ours, 1 << 16):
                text += some
        except OSError:  # the terminal is gone
            pass
        os.close(ours)
    assert process.returncode == 0
    shown = text.decode()
    assert ("█" not in shown) is ascii_
    assert all(len(line) <= 90 for line in shown.splitlines())
    assert json.loads(command("explain", model, "fc.weight", "--format", "json").out)["words"][0].split()[0] in shown
