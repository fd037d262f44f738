"""``klcal apply --to onnx``, loaded by ONNX Runtime: what it computes is what NumPy does with the codes, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.command import klcal

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
from onnx import helper, numpy_helper  # noqa: E402

SHAPES = {
    "conv.weight": (6, 3, 3, 3),
    "conv.bias": (6,),
    "up.weight": (6, 5, 1, 1),
    "gemm.weight": (180, 320),
    "fc.weight": (9, 180),
    "w": (9, 7),
}
AXES = {"conv.weight": 0, "up.weight": 1, "gemm.weight": 1, "fc.weight": 0, "w": 1}
BLOCKED = {"gemm.weight": 0, "fc.weight": 1}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(dtype=np.float32, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """Every operator whose weight is quantized; of two the weight is the same; one is a Constant."""
    rng = np.random.default_rng(0)
    held = {name: (0.2 * rng.normal(size=shape)).astype(dtype) for name, shape in SHAPES.items()}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["conv_out"]),
        helper.make_node("Relu", ["conv_out"], ["relu_out"]),
        helper.make_node("ConvTranspose", ["relu_out", "up.weight"], ["up_out"]),
        helper.make_node("Reshape", ["up_out", "rows"], ["flat"]),
        helper.make_node("Gemm", ["flat", "gemm.weight"], ["wide"], "gemm"),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["narrow"], transB=1),
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(held.pop("w"), "w")),
        helper.make_node("MatMul", ["narrow", "w"], ["once"]),
        helper.make_node("MatMul", ["narrow", "w"], ["twice"]),
        helper.make_node("Add", ["once", "twice"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 180]), "rows"))
    shapes = {"x": ["n", 3, 8, 8], "wide": [None, 320], "y": [None, 7]}
    x, *outputs = (helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "network", [x], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def answers(path: str, dtype=np.float32, weights: dict[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """All outputs, optimizations off; with other weights, which are inputs then.

    Weights that are known are laid out anew, and summed up in another order.
    """
    model = onnx.load(path)
    for where in (model.graph.node, model.graph.initializer):
        for each in [each for each in where if {each.name, *getattr(each, "output", ())} & (weights or {}).keys()]:
            where.remove(each)
    for name, value in (weights or {}).items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(dtype)
    return session.run(None, {"x": x, **(weights or {})})


def apply(*options: str, to: str = "onnx", out: str = "out.onnx", base: str = "base.onnx") -> str:
    Path(out).unlink(missing_ok=True)
    done = klcal("apply", base, "--to", to, "-o", out, *options)
    assert done.code == 0, done.err
    return done.err


def calibrate(*options: str) -> None:
    """A table, for two forms."""
    assert klcal("calibrate", "base.onnx", *options, "-o", "table.safetensors").code == 0


def tensors(path: str) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def nodes(path: str) -> dict[str, onnx.NodeProto]:
    found = onnx.load(path).graph.node
    return {node.output[0]: node for node in found if node.op_type == "DequantizeLinear"}


def by_numpy(path: str) -> dict[str, np.ndarray]:
    """What each DequantizeLinear gives, as its specification says."""
    held, found = tensors(path), {}
    for name, node in nodes(path).items():
        codes, scale, *point = (held[each].astype(np.float32) for each in node.input)
        attributes = {each.name: each.i for each in node.attribute}
        if scale.ndim:
            axis, size = attributes["axis"], attributes.get("block_size")
            of = range(codes.shape[axis])
            index = np.array([each // size for each in of]) if size else np.array(of)
            shape = [-1 if each == axis else 1 for each in range(codes.ndim)]
            scale, *point = (each.take(index, axis) if size else each[index].reshape(shape) for each in (scale, *point))
        found[name] = (codes - point[0] if point else codes) * scale
    return found


CASES = {
    "int8 in channels": (("--dtype", "int8"), 17),
    "int8, one scale": (("--dtype", "int8", "--per", "tensor"), 17),
    "uint8": (("--dtype", "uint8"), 17),
    "int4 in blocks": (("--dtype", "int4"), 21),
    "uint4, two of them in blocks": (
        ("--dtype", "uint4", "--per", "channel", "--per", "gemm*=group:64", "--per", "fc*=group:60"),
        21,
    ),
    "int8 in blocks": (("--per", "channel", "--per", "[gf]*=group:32"), 21),
    "float8": (("--dtype", "float8_e4m3fn"), 19),
    "int3": (("--dtype", "int3"), 21),
    "int12": (("--dtype", "int12"), 21),
    "mixed": (("--dtype", "gemm*=int4", "--dtype", "w=float8_e5m2", "--dtype", "int8"), 21),
}


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_computes_what_numpy_does(case):
    options, opset = CASES[case]
    onnx.save(network(), "base.onnx")
    apply(*options)
    model = onnx.load("out.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset
    restored = by_numpy("out.onnx")
    assert restored.keys() == AXES.keys()
    for ours, theirs in zip(answers("out.onnx"), answers("base.onnx", weights=restored), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(ours).all()
