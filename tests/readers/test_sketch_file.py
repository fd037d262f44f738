"""Sketch files are what was counted, to the bit; and nothing else is taken for one."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

import klcal
from klcal.errors import InputError, UsageError

NORMAL = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)


def sketches():
    wide = klcal.sketch([1.0, 2.5, 2.5]).repeat((1 << 53) + 1)
    odd = np.array([0.0, np.nan, np.inf, -np.inf, 1e-45, -3e38, 1e300, 1e-300])
    return {
        "tensor": klcal.sketch(NORMAL),
        "wide": wide,
        "channels": klcal.sketch(NORMAL, per="channel:1"),
        "groups": klcal.sketch(NORMAL, per="group:32"),
        "blocks": klcal.sketch(NORMAL, per="block:16,64"),
        "stack": klcal.sketch(NORMAL.reshape(4, 64, 64), per="channel"),
        "weighed": klcal.sketch(NORMAL, importance=np.arange(256.0)),
        "coarse": klcal.sketch(NORMAL).coarsen(5),
        "many": klcal.sketch(np.random.default_rng(1).normal(size=(2, 30000)), per="channel"),
        "odd": klcal.sketch(odd),
        "zeros": klcal.sketch(np.zeros((3, 4)), per="channel"),
        "empty": klcal.Sketch.empty(),
        "ß/\n": klcal.sketch(NORMAL.astype(np.float16)),
    }


def test_a_file_has_every_field_of_its_sketches(tmp_path):
    path = tmp_path / "s.safetensors"
    klcal.save_sketches(path, sketches())
    found = klcal.load_sketches(path)
    assert found == sketches()
    assert found["wide"].numel[0] == 3 * ((1 << 53) + 1)
    assert found["groups"].grid == sketches()["groups"].grid


def test_the_order_does_not_change_the_bytes(tmp_path):
    klcal.save_sketches(tmp_path / "a.safetensors", sketches())
    klcal.save_sketches(tmp_path / "b.safetensors", dict(reversed(sketches().items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_sketch_of_another_value_is_another_file(tmp_path):
    klcal.save_sketches(tmp_path / "a.safetensors", {"x": klcal.sketch([1.0, 2.0])})
    klcal.save_sketches(tmp_path / "b.safetensors", {"x": klcal.sketch([1.0, 2.5])})
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "b.safetensors").read_bytes()


def test_numpy_and_safetensors_read_it(tmp_path, monkeypatch):
    """The ten lines of docs/sketch-format.md."""
    monkeypatch.chdir(tmp_path)
    klcal.save_sketches("counts.safetensors", {"x": klcal.sketch(NORMAL, per="channel")})
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "sketch-format.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    assert len(program.strip().splitlines()) <= 10
    names: dict = {}
    exec(compile(program, "sketch-format.md", "exec"), names)
    assert names["counted"]["x"][5] == {
        float(v): int(c) for v, c in zip(*np.unique(NORMAL[5], return_counts=True), strict=True)
    }


def test_an_existing_file_that_is_not_a_sketch_file_is_not_replaced(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    save_file({"x": NORMAL}, path)
    with pytest.raises(UsageError, match="would replace a tensor file"):
        klcal.save_sketches(path, {"x": klcal.sketch(NORMAL)})
    assert (load_file(path)["x"] == NORMAL).all()
    with pytest.raises(InputError, match="not a sketch file"):
        klcal.load_sketches(path)


def test_every_cut_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    klcal.save_sketches(path, {"x": klcal.sketch(NORMAL[:1, :8])})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            klcal.load_sketches(path)


CHANGES = {
    "keys": [lambda a: a[::-1], lambda a: a * 0, lambda a: a + np.uint32(1 << 25)],
    "counts": [lambda a: a * 0, lambda a: -a],
    "numbers": [lambda a: -a, lambda a: a + 1],
    "extremes": [lambda a: a + 1, lambda a: a * np.nan],
}


@pytest.mark.parametrize(("key", "number"), [(key, i) for key, all_ in CHANGES.items() for i in range(len(all_))])
def test_numbers_that_are_those_of_no_sketch_are_refused(tmp_path, key, number):
    path = tmp_path / "s.safetensors"
    klcal.save_sketches(path, {"x": klcal.sketch([1.0, -2.5, 3.0, 0.0])})
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    entry = header[f"0.{key}"]
    begin, end = (8 + length + each for each in entry["data_offsets"])
    kind = {"I64": "<i8", "F64": "<f8", "I32": "<i4", "U32": "<u4"}[entry["dtype"]]
    changed = CHANGES[key][number](np.frombuffer(whole[begin:end], kind)).astype(kind).tobytes()
    path.write_bytes(whole[:begin] + changed + whole[end:])
    with pytest.raises(InputError, match="damaged"):
        klcal.load_sketches(path)


def test_a_sketch_saves_and_loads_itself(tmp_path):
    path = tmp_path / "s.safetensors"
    klcal.sketch(NORMAL).save(path)
    assert klcal.Sketch.load(path) == klcal.sketch(NORMAL)
    klcal.save_sketches(path, {"a": klcal.sketch(NORMAL), "b": klcal.sketch(NORMAL)})
    with pytest.raises(InputError, match="the file has 2 sketches, not one"):
        klcal.Sketch.load(path)
