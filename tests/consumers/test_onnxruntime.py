"""What klcal exports, loaded by ONNX Runtime: its outputs are NumPy's to the bit, optimizations off.

NumPy rounds half to even of x / s in float32, clips at the ends of the type, adds the zero point; biases are int32 with
the scale of the input times that of the weight. Then layers are computed of what the integers stand for.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import klcal as library
from tests.support.command import klcal
from tests.support.guides import programs

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
quantization = pytest.importorskip("onnxruntime.quantization")

NETWORK = Path(__file__).parent.parent.parent / "docs" / "small_network.py"


@pytest.fixture(scope="module")
def network():
    spec = importlib.util.spec_from_file_location(NETWORK.stem, NETWORK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, network):
    """The network, its recorded activations, and their tables: weights per channel of each operator's outputs."""
    monkeypatch.chdir(tmp_path)
    network.main([])
    per = ("--per", "conv*=channel", "--per", "fc*=channel:1")
    assert klcal("calibrate", "model.onnx", "--dtype", "int8", *per, "-o", "weights.json").code == 0
    assert klcal("calibrate", "activations.npz", "-o", "activations.json").code == 0


def export(to: str, *arguments: str) -> None:
    done = klcal("export", "activations.json", *arguments, "--to", to, "--model", "model.onnx", "-o", "out.json")
    assert done.code == 0, done.err


def run_their_command(*more: str) -> None:
    """Quantize the model as users do, with the exported overrides."""
    module = "onnxruntime.quantization.static_quantize_runner"
    types = ("--activation_type", "quint8", "--weight_type", "qint8")
    files = ("-i", "./model.onnx", "-o", "quantized.onnx", "--tensor_quant_overrides", "out.json")
    subprocess.run([sys.executable, "-m", module, *files, *types, *more], check=True, capture_output=True)


def weight(name: str) -> np.ndarray:
    (found,) = [each for each in onnx.load("model.onnx").graph.initializer if each.name == name]
    return onnx.numpy_helper.to_array(found)


# --- NumPy's answer


def integers(values: np.ndarray, scale: np.ndarray, point: int, low: int, high: int) -> np.ndarray:
    return np.clip(np.round(values.astype(np.float32) / np.float32(scale)) + point, low, high)


def passed(values: np.ndarray, row: library.Row) -> np.ndarray:
    """What uint8 makes of activations."""
    return np.float32(integers(values, row.scale, row.zero_point, 0, 255) - row.zero_point) * np.float32(row.scale)


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows.astype(np.float64), w)


def numpys(x: np.ndarray, rows: dict[str, library.Row]) -> np.ndarray:
    """The quantized network's answer, from the table alone."""
    scales = {name: np.float32(rows[name].units.scale) for name in ("conv.weight", "fc.weight")}
    by_channel = {"conv.weight": scales["conv.weight"].reshape(-1, 1, 1, 1), "fc.weight": scales["fc.weight"]}
    conv, fc = (integers(weight(name), s, 0, -128, 127) * np.float64(s) for name, s in by_channel.items())
    step = np.float32(rows["x"].scale) * scales["conv.weight"]
    bias = np.round(weight("conv.bias") / step) * np.float64(step)
    hidden = convolved(passed(x, rows["x"]), conv) + bias.reshape(-1, 1, 1)
    hidden = passed(np.maximum(hidden, 0), rows["relu_out"])
    return passed(hidden.reshape(len(x), -1).astype(np.float64) @ fc, rows["y"])


def rows() -> dict[str, library.Row]:
    tables = [library.load_table(path) for path in ("activations.json", "weights.json")]
    return {row.name: row for table in tables for row in table.rows}


def check(network, known: dict[str, library.Row]) -> None:
    """ONNX Runtime's answer is NumPy's for every input that was recorded."""
    x = np.load("activations.npz")["x"]
    np.testing.assert_array_equal(network.answers("quantized.onnx", x)["y"], numpys(x, known))


# --- the proofs


def test_overrides_give_numpys_numbers_and_the_float_models_answers_nearly(network):
    export("ort", "weights.json")
    run_their_command()
    check(network, rows())
    recorded = np.load("activations.npz")
    ours, theirs = network.answers("quantized.onnx", recorded["x"])["y"].ravel(), recorded["y"].ravel()
    assert ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)) > 0.999


@pytest.mark.parametrize("name", ["x", "relu_out", "y"])
def test_a_zero_point_of_another_convention_is_found(network, name):
    export("ort", "weights.json")
    document = json.loads(Path("out.json").read_text())
    document[name][0]["zero_point"] = 255 - document[name][0]["zero_point"]
    Path("out.json").write_text(json.dumps(document))
    run_their_command()
    with pytest.raises(AssertionError):
        check(network, rows())


def test_all_scales_of_the_produced_model_are_the_tables():
    export("ort", "weights.json")
    run_their_command()
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load("quantized.onnx").graph.initializer}
    for name, row in rows().items():
        if name not in ("conv.bias", "conv_out"):  # which is quantized after Relu
            scale = row.scale if row.units is None else row.units.scale
            np.testing.assert_array_equal(held[f"{name}_scale"], np.float32(scale))
    assert held["conv.bias_quantized"].dtype == np.int32


def test_a_bias_among_the_overrides_would_become_eight_bits():
    """Why biases are left out."""
    export("ort", "weights.json")
    document = json.loads(Path("out.json").read_text())
    assert "conv.bias" not in document
    Path("out.json").write_text(json.dumps({**document, "conv.bias": [{"scale": 0.01, "zero_point": 0}]}))
    run_their_command()
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load("quantized.onnx").graph.initializer}
    assert held["conv.bias_quantized"].dtype == np.int8


def test_names_that_the_model_has_not_are_lost_in_silence():
    """Why klcal looks at names itself: ONNX Runtime looks at the first alone."""
    export("ort", "weights.json")
    document = json.loads(Path("out.json").read_text())
    document["misspelt"] = document.pop("relu_out")
    Path("out.json").write_text(json.dumps(document))
    run_their_command()
    assert (
        klcal("export", "activations.json", "--to", "ort", "--model", "model.onnx", "--rename", "s/relu/mu/").code == 3
    )


@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine", "symmetric-full"])
def test_the_cache_gives_the_zero_points_and_the_scales_to_the_last_place(target, scheme):
    how = ("--dtype", target, "--scheme", scheme, "-o", "activations.json")
    assert klcal("calibrate", "activations.npz", *how).code == 0
    done = klcal("export", "activations.json", "--to", "ort-cache", "--model", "model.onnx", "-o", "cache.json")
    kind = getattr(quantization.QuantType, f"Q{'UI' if target[0] == 'u' else 'I'}nt{target.removeprefix('u')[3:]}")
    options = {"weight_type": quantization.QuantType.QInt8, "activation_type": kind}
    quantization.quantize_static("model.onnx", "quantized.onnx", None, calibration_cache_path="cache.json", **options)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load("quantized.onnx").graph.initializer}
    told = "".join(message for message in done.messages if "off in the last place" in message)
    for row in library.load_table("activations.json").rows:
        if row.name == "conv_out":  # which is quantized after Relu
            continue
        assert held[f"{row.name}_zero_point"] == row.zero_point
        scale, ours = held[f"{row.name}_scale"], np.float32(row.scale)
        assert abs(scale - ours) <= np.spacing(ours)
        assert (scale != ours) == (f"'{row.name}'" in told), "what moves is said"


def test_in_python_overrides_are_what_the_guide_makes_of_them(network):
    export("ort", "weights.json")
    guide: dict = {}
    exec(compile(*programs("onnxruntime.md"), "onnxruntime.md", "exec"), guide)
    types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    cache = {"calibration_cache_path": "cache.json"}
    assert klcal("export", "activations.json", "--to", "ort-cache", "-o", "cache.json").code == 0
    options = {"extra_options": {"TensorQuantOverrides": guide["overrides"]("out.json")}}
    quantization.quantize_static("model.onnx", "quantized.onnx", None, **types, **cache, **options)
    check(network, rows())
