"""``klcal inspect`` says what is in files, and what values are like, as NumPy says it."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import klcal
from tests.support.command import SAMPLES
from tests.support.command import klcal as command

VALUES = np.array([0, 0, 1, -2, 3, 4, np.nan, np.inf, 100], np.float32)


def rows(*arguments):
    result = command("inspect", *map(str, arguments), "--format", "json")
    return result, {row["name"]: row for row in result.document["tensors"]}


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"layers.{number}.fc.weight": rng.standard_normal((4, 3)).astype(np.float32) for number in range(11)}
    np.savez(tmp_path / "m.npz", **arrays, ids=np.arange(5), odd=VALUES)
    return tmp_path / "m.npz"


def test_headers_say_what_is_there(model):
    result, found = rows(model)
    assert (result.code, result.document["schema"]) == (0, "klcal.contents/1")
    assert len(found) == 13
    assert found["ids"] == {
        **dict.fromkeys(found["ids"]),
        "name": "ids",
        "source": "m.npz",
        "dtype": "int64",
        "shape": [5],
        "status": "skipped",
        "reason": "int64 values are not calibrated",
        "tensors": 1,
        "numel": 5,
        "nbytes": 40,
        "aliases": [],
    }
    assert found["odd"]["status"] == "ok"
    assert found["odd"]["min"] is None


def test_values_are_as_numpy_counts_them(model):
    _, found = rows(model, "--stats")
    odd = found["odd"]
    assert (odd["min"], odd["max"], odd["zeros"], odd["nan"], odd["pos_inf"], odd["neg_inf"]) == (-2, 100, 2, 1, 1, 0)
    finite = VALUES[np.isfinite(VALUES)]
    assert odd["histogram"] == np.histogram(finite, 16, (-2, 100))[0].tolist()
    assert odd["outlier"] == 1  # 99.9 % of five values are all five
    weight = np.load(model)["layers.3.fc.weight"]
    assert found["layers.3.fc.weight"]["max"] == weight.max()
    assert sum(found["layers.3.fc.weight"]["histogram"]) == 12


def test_an_outlier_is_reported(tmp_path):
    values = np.ones(10_000, np.float32)
    values[7] = -50
    np.save(tmp_path / "x.npy", values)
    assert rows(tmp_path / "x.npy", "--stats")[1]["x"]["outlier"] == 50


def test_tensors_that_are_alike_are_one_row(model):
    _, found = rows(model, "--depth", "2")
    assert list(found) == ["ids", "layers.*.*", "odd"]
    assert (found["layers.*.*"]["tensors"], found["layers.*.*"]["numel"]) == (11, 132)
    assert found["layers.*.*"]["shape"] == [4, 3]


def test_sketch_files_and_quantized_models_are_reported(tmp_path):
    klcal.save_sketches(tmp_path / "s.safetensors", {"x": klcal.sketch(VALUES)})
    assert rows(tmp_path / "s.safetensors", "--stats")[1]["x"]["zeros"] == 2
    klcal.apply(SAMPLES / "mtcnn_pnet.pt", tmp_path / "q.npz", to="npz", dtype="int8", include="conv1.weight")
    assert "codes" in rows(tmp_path / "q.npz")[1]["conv1.weight"]["reason"]


def test_only_headers_are_read(tmp_path):
    """A file of 70 GB that holds nothing: it would take minutes to read."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}).encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 36))
    _, found = rows(tmp_path / "huge.safetensors")
    assert found["w"]["nbytes"] == 1 << 36


def test_a_damaged_file_costs_the_others_nothing(model):
    (model.parent / "bad.npy").write_bytes(b"\x93NUMPY")
    result, found = rows(model, model.parent / "bad.npy")
    assert result.code == 4
    assert len(found) == 13
    assert rows(model.parent / "bad.npy")[0].code == 3


def test_people_see_a_table(model):
    text = command("inspect", str(model), "--stats", "--depth", "1", "--format", "table").out
    titles = "name tensors dtype shape values bytes min max zeros % not finite outlier is"
    assert text.splitlines()[0].split() == titles.split()
    assert "13 tensors, 146 values, 604 bytes" in text
