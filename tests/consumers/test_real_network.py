"""A real network, end to end: recorded activations and weights into one model, the float model's answers beside it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import klcal as library
from tests.support import small_network
from tests.support.command import SAMPLES, klcal
from tests.support.small_network import TABLES, calibrate, export, rows, weights_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="make test-consumers installs it")

LAYERS = {"conv1": "x", "conv2": "pool1", "conv3": "act2", "conv4_1": "act3", "conv4_2": "act3"}
RECORDED = ["x", *LAYERS, "pool1", "act2", "act3"]


def face_detector() -> onnx.ModelProto:
    """MTCNN's P-Net, of the sample tensors."""
    helper = onnx.helper
    tensors = {
        name: np.concatenate([chunk.copy() for part in each.parts for chunk in part.chunks()]).reshape(each.shape)
        for name, each in library.read(SAMPLES / "mtcnn_pnet.pt").items()
    }
    nodes = []
    for name, source in LAYERS.items():
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [name]))
        if (number := name.removeprefix("conv")) in "123":
            tensors[f"prelu{number}.weight"] = tensors[f"prelu{number}.weight"].reshape(-1, 1, 1)
            nodes.append(helper.make_node("PRelu", [name, f"prelu{number}.weight"], [f"act{number}"]))
        if name == "conv1":
            nodes.append(
                helper.make_node("MaxPool", ["act1"], ["pool1"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
            )
    float32 = onnx.TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", float32, ["n", 3, "h", "w"])
    ends = [helper.make_tensor_value_info(name, float32, None) for name in ("conv4_1", "conv4_2")]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "pnet", [x], ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def pictures(seed: int) -> np.ndarray:
    """Smooth ones, in -1..1."""
    noise = np.random.default_rng(seed).normal(size=(8, 3, 40, 40))
    smooth = np.cumsum(np.cumsum(noise, 2), 3)
    return np.float32(smooth / np.abs(smooth).max((1, 2, 3), keepdims=True))


def by_their_command(seen: np.ndarray, network: ModuleType) -> None:
    network.INPUT.parent.mkdir()
    network.INPUT.write_bytes(onnx.numpy_helper.from_array(seen[:1], "x").SerializeToString())
    told = export("ort", "weights.json")
    assert "in no table" not in told
    module = "onnxruntime.quantization.static_quantize_runner"
    files = ("-i", "./model.onnx", "-o", "quantized.onnx", "--tensor_quant_overrides", "out.json")
    types = ("--activation_type", "quint8", "--weight_type", "qint8")
    subprocess.run([sys.executable, "-m", module, *files, *types], check=True, capture_output=True)


def by_ours(_seen: np.ndarray, _network: ModuleType) -> None:
    tables = ("--table", TABLES[1], "--activations", TABLES[0])
    done = klcal("apply", "model.onnx", *tables, "--to", "onnx", "-o", "quantized.onnx")
    assert "5 weights and 9 activations quantized, 8 kept as they were" in done.err
    assert "not used" not in done.err


@pytest.mark.parametrize("quantize", [by_their_command, by_ours])
def test_a_face_detector_in_eight_bits_answers_nearly_as_in_float(tmp_path, monkeypatch, quantize):
    monkeypatch.chdir(tmp_path)
    network, model = small_network.module(), face_detector()
    onnx.save(model, "model.onnx")
    extra = [name for name in RECORDED[1:] if not name.startswith("conv4")]
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, extra))
    seen = pictures(0)
    np.savez("activations.npz", x=seen, **network.answers(model, seen))
    calibrate()
    quantize(seen, network)
    held = weights_of("quantized.onnx")
    for name, row in rows().items():
        if f"{name}_scale" in held and not name.endswith(".bias"):
            np.testing.assert_array_equal(held[f"{name}_scale"], np.float32(row.scale or row.units.scale))
    assert {f"{name}_scale" for name in [*RECORDED, *(f"{each}.weight" for each in LAYERS)]} <= held.keys()
    new = pictures(1)
    for name, answer in network.answers("model.onnx", new).items():
        ours, theirs = network.answers("quantized.onnx", new)[name].ravel(), answer.ravel()
        assert ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)) > 0.99
