"""ONNX models through the real command: rows by name, values from beside the model, one bad tensor among good ones."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from tests.support.command import klcal, normal
from tests.support.protobuf import INT8, VALUES, external, held, model, tensor

WEIGHT = normal(64 * 16).reshape(64, 16).astype(np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_weight(more: bytes | None = None) -> bytes:
    return tensor("conv.weight", WEIGHT.shape, more=held(9, WEIGHT.tobytes()) if more is None else more)


def rows(*arguments: str, code: int = 0) -> list[dict]:
    result = klcal(*arguments, "--format", "json")
    assert result.code == code, result.err
    return result.document["tensors"]


@pytest.mark.parametrize("per", ["tensor", "channel:0", "group:8"])
def test_a_model_has_the_rows_of_the_same_tensors_elsewhere(here, per):
    (here / "m.onnx").write_bytes(model(of_weight()))
    (here / "d").mkdir()
    (here / "d" / "m.onnx").write_bytes(model(of_weight(external(location="m.bin", length=WEIGHT.nbytes))))
    (here / "d" / "m.bin").write_bytes(WEIGHT.tobytes())
    safetensors.numpy.save_file({"conv.weight": WEIGHT}, "m.safetensors")
    found = [rows("calibrate", path, "--per", per) for path in ("m.onnx", "d", "m.safetensors")]
    for each in found:
        assert each[0].pop("source").startswith("m.")
    assert found[0] == found[1] == found[2]


def test_one_bad_tensor_costs_only_itself(here):
    data = model(of_weight(), tensor("bad", (5,)), tensor("shape", data_type=INT8), tensor("x", more=external()))
    (here / "m.onnx").write_bytes(data)
    found = {row["name"]: row["status"] for row in rows("calibrate", "m.onnx", code=4)}
    assert found == {"bad": "failed", "conv.weight": "ok", "shape": "skipped", "x": "failed"}


def test_a_normalisation_that_was_folded_into_a_weight_is_seen(here):
    """Exporters multiply each channel as a BatchNorm would; some keep the name of the weight."""
    folded = WEIGHT * np.linspace(1, 3, 64, dtype=np.float32)[:, None]
    more = held(9, folded.tobytes())
    (here / "m.onnx").write_bytes(model(of_weight(more)))
    safetensors.numpy.save_file({"conv.weight": WEIGHT}, "m.safetensors")
    (row,) = rows("compare", "m.safetensors", "m.onnx")
    assert row["sqnr_db"] < 3
    (own,) = rows("calibrate", "m.onnx")
    assert own["max"] == pytest.approx(folded.max())


def test_data_beside_a_model_that_were_cut_are_reported(here):
    (here / "m.onnx").write_bytes(model(tensor(more=external())))
    (here / "m.onnx_data").write_bytes(VALUES[:-1])
    (row,) = rows("calibrate", "m.onnx", code=3)
    assert row["status"] == "failed"
    assert "the file has 15" in row["reason"]
