"""What klcal exports, loaded by ONNX Runtime: its outputs are NumPy's to the bit, optimizations off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import klcal as library
from tests.support import small_network
from tests.support.command import klcal
from tests.support.guides import programs
from tests.support.small_network import calibrate, export, numpys, rows, weights_of

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
quantization = pytest.importorskip("onnxruntime.quantization")


@pytest.fixture(scope="module")
def network():
    return small_network.module()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    network.main([])
    calibrate()


def run_their_command(*more: str, activations: str = "quint8", weights: str = "qint8") -> None:
    """Quantize the model as users do, with the exported overrides."""
    module = "onnxruntime.quantization.static_quantize_runner"
    types = ("--activation_type", activations, "--weight_type", weights)
    files = ("-i", "./model.onnx", "-o", "quantized.onnx", "--tensor_quant_overrides", "out.json")
    subprocess.run([sys.executable, "-m", module, *files, *types, *more], check=True, capture_output=True)


def check(network, *, before_relu: bool = False) -> None:
    """ONNX Runtime's answer is NumPy's for every input that was recorded."""
    x = np.load("activations.npz")["x"]
    ours = numpys(x, rows(), weights_of("model.onnx"), before_relu=before_relu)
    np.testing.assert_array_equal(network.answers("quantized.onnx", x)["y"], np.float32(ours))


def qtype(target: str) -> str:
    return f"Q{'UI' if target.startswith('u') else 'I'}nt{target.removeprefix('u')[3:]}"


# --- the proofs


def test_overrides_give_numpys_numbers_and_the_float_models_answers_nearly(network):
    export("ort", "weights.json")
    run_their_command()
    check(network)
    recorded = np.load("activations.npz")
    ours, theirs = network.answers("quantized.onnx", recorded["x"])["y"].ravel(), recorded["y"].ravel()
    assert ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)) > 0.999


TYPES = [
    (("--dtype", "int8"), ("--dtype", "int8", "--scheme", "symmetric-full")),
    (("--dtype", "int8", "--scheme", "affine"), ("--dtype", "int8", "--scheme", "affine")),
    (("--dtype", "uint8"), ("--dtype", "uint8")),
    (("--dtype", "uint8", "--scheme", "symmetric"), ("--dtype", "int4")),
    (("--dtype", "uint8"), ("--dtype", "uint4")),
]


KEEP = "--qdq_keep_removable_activations"


@pytest.mark.parametrize(("activations", "weights"), TYPES, ids=str)
def test_other_types_and_schemes_too(network, activations, weights):
    calibrate(activations, weights)
    told = export("ort", "weights.json")
    types = {option: f"q{how[1]}" for option, how in (("activations", activations), ("weights", weights))}
    assert f"--activation_type {types['activations']} --weight_type {types['weights']}" in told
    run_their_command(KEEP, **types)
    check(network, before_relu=True)


def test_a_relu_that_is_lost_is_reported(network):
    """ONNX Runtime drops it, as if the least integer stood for 0."""
    calibrate(("--dtype", "int8"))
    told = export("ort", "weights.json")
    assert "'relu_out': ONNX Runtime drops the Relu before it" in told
    assert KEEP in told
    run_their_command(activations="qint8")
    with pytest.raises(AssertionError):
        check(network)
    run_their_command(KEEP, activations="qint8")
    check(network, before_relu=True)


@pytest.mark.parametrize("name", ["x", "relu_out", "y"])
def test_a_zero_point_of_another_convention_is_found(network, name):
    export("ort", "weights.json")
    document = json.loads(Path("out.json").read_text())
    document[name][0]["zero_point"] = 255 - document[name][0]["zero_point"]
    Path("out.json").write_text(json.dumps(document))
    run_their_command()
    with pytest.raises(AssertionError):
        check(network)


def test_all_scales_of_the_produced_model_are_the_tables():
    export("ort", "weights.json")
    run_their_command()
    held = weights_of("quantized.onnx")
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
    assert weights_of("quantized.onnx")["conv.bias_quantized"].dtype == np.int8


def test_names_that_the_model_lacks_are_lost_in_silence():
    """Why klcal looks at names itself: ONNX Runtime looks at the first alone."""
    export("ort", "weights.json")
    document = json.loads(Path("out.json").read_text())
    document["misspelt"] = document.pop("relu_out")
    Path("out.json").write_text(json.dumps(document))
    run_their_command()
    ours = ("export", "activations.json", "--to", "ort", "--model", "model.onnx", "--rename", "s/relu_out/misspelt/")
    assert klcal(*ours).code == 3


@pytest.mark.parametrize("target", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine", "symmetric-full"])
def test_the_cache_gives_the_zero_points_and_the_scales_to_the_last_place(target, scheme):
    calibrate(("--dtype", target, "--scheme", scheme))
    said = export("ort-cache")
    kinds = {"activation_type": qtype(target), "weight_type": "QInt8"}
    options = {option: getattr(quantization.QuantType, kind) for option, kind in kinds.items()}
    quantization.quantize_static("model.onnx", "quantized.onnx", None, calibration_cache_path="out.json", **options)
    held = weights_of("quantized.onnx")
    told = "".join(message for message in said.splitlines() if "off in the last place" in message)
    for row in library.load_table("activations.json").rows:
        if row.name == "conv_out":  # which is quantized after Relu
            continue
        assert held[f"{row.name}_zero_point"] == row.zero_point
        scale, ours = held[f"{row.name}_scale"], np.float32(row.scale)
        assert abs(scale - ours) <= np.spacing(ours)
        assert (scale != ours) == (f"'{row.name}'" in told), "what moves is said"


def test_in_python_overrides_are_what_the_guide_makes_of_them(network):
    export("ort-cache")
    Path("out.json").rename("cache.json")
    export("ort", "weights.json")
    guide: dict = {}
    (program,) = programs("onnxruntime.md")
    exec(compile(program, "onnxruntime.md", "exec"), guide)
    types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    options = {"extra_options": {"TensorQuantOverrides": guide["overrides"]("out.json")}, **types}
    quantization.quantize_static("model.onnx", "quantized.onnx", None, calibration_cache_path="cache.json", **options)
    check(network)
