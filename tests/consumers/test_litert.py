"""What klcal exports, loaded by ai-edge-quantizer and run by LiteRT: its outputs are NumPy's to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from tests.support.command import klcal
from tests.support.guides import programs

flatbuffers = pytest.importorskip("flatbuffers", reason="make test-consumers installs it")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")
pytest.importorskip("ai_edge_quantizer")

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling .experimental_preserve_all_tensors")  # theirs

RNG = np.random.default_rng(0)
SHAPES = {"x": (1, 8), "fc1/W": (5, 8), "fc1/b": (5,), "h": (1, 5), "fc2/W": (3, 5), "y": (1, 3)}
WEIGHTS = {name: RNG.normal(size=SHAPES[name]).astype(np.float32) for name in ("fc1/W", "fc1/b", "fc2/W")}
INPUTS = RNG.normal(size=(2000, 8)).astype(np.float32)


def network() -> bytes:
    """A .tflite: FULLY_CONNECTED with Relu, FULLY_CONNECTED; one signature."""
    model, graph, signature = schema.ModelT(), schema.SubGraphT(), schema.SignatureDefT()
    model.version, model.subgraphs, model.signatureDefs, model.buffers = 3, [graph], [signature], [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version, model.operatorCodes, graph.tensors, graph.operators = 1, [code], [], []
    for name, shape in SHAPES.items():
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape, tensor.type = name, shape, schema.TensorType.FLOAT32
        tensor.buffer = len(model.buffers)
        if name in WEIGHTS:
            buffer.data = np.frombuffer(WEIGHTS[name].tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    at = {name: number for number, name in enumerate(SHAPES)}
    for inputs, output, activation in ((("x", "fc1/W", "fc1/b"), "h", 1), (("h", "fc2/W"), "y", 0)):
        operator, options = schema.OperatorT(), schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        operator.opcodeIndex, operator.builtinOptionsType = 0, schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = options
        operator.inputs, operator.outputs = [*(at[name] for name in inputs), *([-1] * (3 - len(inputs)))], [at[output]]
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [at["x"]], [at["y"]]
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [], []
    for name, ends in (("x", signature.inputs), ("y", signature.outputs)):
        end = schema.TensorMapT()
        end.name, end.tensorIndex = name, at[name]
        ends.append(end)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.tflite").write_bytes(network())
    hidden = np.maximum(INPUTS @ WEIGHTS["fc1/W"].T + WEIGHTS["fc1/b"], 0)
    values = {"x": INPUTS, "h": hidden, "y": hidden @ WEIGHTS["fc2/W"].T}
    safetensors.numpy.save_file(values, "activations.safetensors")
    safetensors.numpy.save_file(WEIGHTS, "weights.safetensors")
    assert (
        klcal("calibrate", "weights.safetensors", "--dtype", "int8", "--per", "channel", "-o", "weights.json").code == 0
    )


def calibrate(*how: str) -> dict[str, library.Row]:
    """The tables, and the file for ai-edge-quantizer."""
    assert klcal("calibrate", "activations.safetensors", *how, "-o", "activations.json").code == 0
    done = klcal("export", "activations.json", "--weights", "weights.json", "--to", "litert", "-o", "out.json")
    assert done.code == 0, done.err
    assert "'fc1/b': left out: LiteRT takes no scales of biases" in done.err
    tables = [library.load_table(path) for path in ("activations.json", "weights.json")]
    return {row.name: row for table in tables for row in table.rows}


REFERENCE = interpreter.OpResolverType.BUILTIN_REF  # operators as they are defined, without a faster library


def quantized(bits: int, x: np.ndarray) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """LiteRT's answers to integers, in integers; and the scales and zero points that it holds."""
    (program,), guide = programs("litert.md"), {}
    exec(compile(program.replace("wi8_ai8", f"wi8_ai{bits}"), "litert.md", "exec"), guide)
    model = guide["quantized"]("model.tflite", "out.json")
    run = interpreter.Interpreter(model_content=bytes(model), experimental_op_resolver_type=REFERENCE)
    run.allocate_tensors()
    parameters = {each["name"]: each["quantization_parameters"] for each in run.get_tensor_details()}
    held = {name: (each["scales"], each["zero_points"]) for name, each in parameters.items()}
    signature = run.get_signature_runner()
    found = np.array([signature(x=each[None])["y"][0] for each in x])
    nearly = guide["answers"](model, {"x": x[:1]})["y"]  # by faster code than the reference's
    assert np.abs(nearly.astype(np.int64) - found[:1]).max() <= 1
    return found, held


# --- NumPy's answer


def integers(values: np.ndarray, row: library.Row, bits: int) -> np.ndarray:
    """What LiteRT's integers of activations are: signed."""
    half = 1 << (bits - 1)
    return np.clip(np.round(values.astype(np.float32) / np.float32(row.scale)) + point(row), -half, half - 1)


def point(row: library.Row) -> int:
    return row.zero_point - (128 if row.target == "uint8" else 0)


def numpys(x: np.ndarray, rows: dict[str, library.Row], bits: int) -> np.ndarray:
    """The quantized network's answers to integers, from the tables alone."""
    scales = {name: np.float64(rows[name].units.scale) for name in ("fc1/W", "fc2/W")}
    first, second = (
        np.clip(np.round(WEIGHTS[name] / np.float32(s)[:, None]), -127, 127) * s[:, None] for name, s in scales.items()
    )
    step = rows["x"].scale * scales["fc1/W"]
    bias = np.round(WEIGHTS["fc1/b"] / step) * step
    hidden = np.maximum((x - point(rows["x"])) * rows["x"].scale @ first.T + bias, 0)
    hidden = (integers(hidden, rows["h"], bits) - point(rows["h"])) * rows["h"].scale
    return integers(hidden @ second.T, rows["y"], bits)


KINDS = {
    "uint8": (("--dtype", "uint8"), 8),
    "int8 affine": (("--dtype", "int8", "--scheme", "affine"), 8),
    "int8 symmetric": (("--dtype", "int8"), 8),
    "int16": (("--dtype", "int16"), 16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_litert_answers_what_numpy_does(kind):
    how, bits = KINDS[kind]
    rows = calibrate(*how)
    x = integers(INPUTS[:500], rows["x"], bits)
    found, held = quantized(bits, x.astype(f"int{bits}"))
    for name, row in rows.items():
        if name != "fc1/b":
            np.testing.assert_array_equal(
                held[name][0], np.float32(row.scale if row.units is None else row.units.scale)
            )
    assert [held[name][1] for name in ("x", "h", "y")] == [point(rows[name]) for name in ("x", "h", "y")]
    check(found, numpys(x, rows, bits), bits)
    other = {**rows, "y": replace(rows["y"], zero_point=rows["y"].zero_point + 2)}
    with pytest.raises(AssertionError):
        check(found, numpys(x, other, bits), bits)


def check(found: np.ndarray, numpys: np.ndarray, bits: int) -> None:
    """Equal; in 16 bits, where LiteRT multiplies by a scale of 15 bits, all but a few, which are next to each other."""
    if bits == 8:
        np.testing.assert_array_equal(found, numpys)
    else:
        assert np.mean(found == numpys) > 0.99
        assert np.abs(found - numpys).max() <= 1
