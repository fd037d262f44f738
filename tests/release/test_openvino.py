"""What klcal writes for ONNX, run by OpenVINO on the CPU, against ONNX Runtime without optimizations and NumPy.

Activations and weights of the small network: equal to the bit. Weights alone: nearly, and only where OpenVINO is told
not to quantize activations on the fly.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino
import pytest

from tests.support import small_network
from tests.support.command import klcal
from tests.support.small_network import TABLES, calibrate, numpys, rows, weights_of

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
WEIGHTS_ALONE = {**EXACT, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_network.module().main([])


def answers(path: str, options: dict[str, str]) -> np.ndarray:
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return np.array(compiled(np.load("activations.npz")["x"])[0])


def theirs(path: str) -> np.ndarray:
    return small_network.module().answers(path, np.load("activations.npz")["x"])["y"]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("scheme", ["symmetric", "symmetric-full"])
def test_activations_and_weights_give_numpys_numbers(activations, scheme):
    calibrate(("--dtype", activations, "--scheme", "affine"), ("--dtype", "int8", "--scheme", scheme))
    tables = ("--table", TABLES[1], "--activations", TABLES[0])
    assert klcal("apply", "model.onnx", *tables, "--to", "onnx", "-o", "quantized.onnx").code == 0
    known = rows()
    before = known["relu_out"].low < 0
    ours = numpys(np.load("activations.npz")["x"], known, weights_of("model.onnx"), before_relu=before)
    np.testing.assert_array_equal(answers("quantized.onnx", EXACT), np.float32(ours))
    np.testing.assert_array_equal(answers("quantized.onnx", EXACT), theirs("quantized.onnx"))


@pytest.mark.parametrize("options", [("int8",), ("int4", "--per", "fc*=group:16", "--per", "channel")], ids=str)
def test_weights_alone_give_those_of_onnx_runtime_nearly(options):
    done = klcal("apply", "model.onnx", "--dtype", *options, "--to", "onnx", "-o", "quantized.onnx")
    assert done.code == 0, done.err
    assert np.abs(theirs("quantized.onnx") - theirs("model.onnx")).max() > 1e-3
    np.testing.assert_allclose(answers("quantized.onnx", WEIGHTS_ALONE), theirs("quantized.onnx"), atol=2e-6)


def test_a_wrong_scale_would_be_found():
    calibrate()
    document = json.loads(Path(TABLES[0]).read_text())
    (row,) = [each for each in document["tensors"] if each["name"] == "relu_out"]
    row["scale"] *= 1.25
    Path("other.json").write_text(json.dumps(document))
    tables = ("--table", TABLES[1], "--activations", "other.json")
    assert klcal("apply", "model.onnx", *tables, "--to", "onnx", "-o", "quantized.onnx").code == 0
    ours = numpys(np.load("activations.npz")["x"], rows(), weights_of("model.onnx"))
    assert (answers("quantized.onnx", EXACT) != np.float32(ours)).any()
