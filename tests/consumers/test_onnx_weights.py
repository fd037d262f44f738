"""``klcal apply --to onnx``, loaded by ONNX Runtime: what it computes is what NumPy does with the codes, to the bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from klcal.writers.forms.onnx_versions import CHANGED, OLDEST
from tests.support.command import klcal

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SHAPES = {
    "conv.weight": (6, 3, 3, 3),
    "conv.bias": (6,),
    "up.weight": (6, 5, 1, 1),
    "gemm.weight": (180, 320),
    "fc.weight": (9, 180),
    "w": (9, 7),
}
AXES = {"conv.weight": 0, "up.weight": 1, "gemm.weight": 1, "fc.weight": 0, "w": 1}


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


def loaded(model: str | bytes) -> runtime.InferenceSession:
    """Optimizations off."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers(path: str, dtype=np.float32, weights: dict[str, np.ndarray] | None = None) -> list[np.ndarray]:
    """All outputs; with other weights, which are inputs then.

    Weights that are known are laid out anew, and summed up in another order.
    """
    model = onnx.load(path)
    for where in (model.graph.node, model.graph.initializer, model.graph.input):
        for each in [each for each in where if {each.name, *getattr(each, "output", ())} & (weights or {}).keys()]:
            where.remove(each)
    for name, value in (weights or {}).items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    session = loaded(model.SerializeToString())
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


@pytest.mark.parametrize("options", [(), ("--dtype", "int4"), ("--dtype", "float8_e4m3fn")], ids=str)
def test_it_is_the_model_whose_values_are_rounded(options):
    """What --to fake writes by the same table."""
    onnx.save(network(opset=21, ir=10), "base.onnx")
    per = [word for name, axis in AXES.items() for word in ("--per", f"{name}=channel:{axis}")]
    names = [word for name in AXES for word in ("--include", name)]
    calibrate(*options, *per, *names)
    for to in ("onnx", "fake"):
        apply("--table", "table.safetensors", to=to, out=f"{to}.onnx")
    rounded = {**tensors("fake.onnx"), **constants("fake.onnx")}
    restored = by_numpy("onnx.onnx")
    for name in AXES:
        np.testing.assert_array_equal(restored[name], rounded[name])
    for ours, theirs in zip(answers("onnx.onnx"), answers("fake.onnx", weights=restored), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def constants(path: str) -> dict[str, np.ndarray]:
    found = [node for node in onnx.load(path).graph.node if node.op_type == "Constant"]
    return {node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in found}


# --- what must be found


def broken(change) -> None:
    """The node of the square weight takes something else: what NumPy restored is no longer what is computed."""
    rng = np.random.default_rng(0)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "square",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
            [numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, "base.onnx")
    apply(*(("--dtype", "int4", "--per", "group:32") if change is halves else ()))
    x = rng.normal(size=(4, 64)).astype(np.float32)
    restored = by_numpy("out.onnx")["w"]
    assert_same(x, restored)
    model = onnx.load("out.onnx")
    change(model)
    onnx.save(model, "out.onnx")
    with pytest.raises(AssertionError):
        assert_same(x, restored)


def assert_same(x: np.ndarray, weight: np.ndarray) -> None:
    model = onnx.load("out.onnx")
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape))
    session = loaded(model.SerializeToString())
    np.testing.assert_array_equal(session.run(["w"], {"x": x})[0], weight)


def other_axis(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute[0]
    assert attribute.name == "axis"
    attribute.i = 1 - attribute.i


def halves(model: onnx.ModelProto) -> None:
    """The first code of a byte in the upper half."""
    codes = model.graph.initializer[0]
    codes.raw_data = bytes(each >> 4 | (each & 0xF) << 4 for each in codes.raw_data)


def one_scale_less(model: onnx.ModelProto) -> None:
    scales = model.graph.initializer[1]
    scales.raw_data = scales.raw_data[4:] + scales.raw_data[:4]


@pytest.mark.parametrize("change", [other_axis, halves, one_scale_less])
def test_a_wrongly_written_model_is_found(change):
    broken(change)


# --- other models


def test_an_old_model_whose_weights_are_all_inputs():
    model = network(opset=13, ir=3)
    for each in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    onnx.save(model, "base.onnx")
    apply("--dtype", "float8_e4m3fn")
    onnx.checker.check_model(onnx.load("out.onnx"), full_check=True)
    restored = by_numpy("out.onnx")
    for ours, theirs in zip(answers("out.onnx"), answers("base.onnx", weights=restored), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)  # biases are inputs there, and laid out anew


@pytest.mark.parametrize("opset", [13, 17, 19])
def test_a_model_that_is_raised_answers_as_before(opset):
    """The same codes where they need no other version, and where they do."""
    onnx.save(network(opset=opset), "base.onnx")
    apply("--per", "channel")
    before = answers("out.onnx")
    assert onnx.load("out.onnx").opset_import[0].version == opset
    apply("--per", "channel", "--dtype", "w=int4", "--dtype", "int8")
    raised = onnx.load("out.onnx")
    assert raised.opset_import[0].version == 21
    np.testing.assert_array_equal(answers("out.onnx")[0], before[0])


def test_half_precision():
    """float16 scales; the product is rounded once."""
    onnx.save(network(np.float16, opset=19, ir=9), "base.onnx")
    apply()
    onnx.checker.check_model(onnx.load("out.onnx"), full_check=True)
    model = onnx.load("out.onnx")
    made = nodes("out.onnx")
    for name in made:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT16, SHAPES[name]))
    onnx.save(model, "shown.onnx")
    held, found = tensors("out.onnx"), answers("shown.onnx", np.float16)[2:]
    for (name, node), values in zip(made.items(), found, strict=True):
        codes, scale = (held[each].astype(np.float32) for each in node.input)
        shape = [-1 if axis == AXES[name] else 1 for axis in range(codes.ndim)]
        np.testing.assert_array_equal(values, (codes * scale.reshape(shape)).astype(np.float16))


def test_a_model_with_its_data_beside_it():
    Path("m").mkdir()
    onnx.save(network(), "m/model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    onnx.save(network(), "base.onnx")
    apply()
    inline = answers("out.onnx")
    apply(base="m/model.onnx")
    for ours, theirs in zip(answers("out.onnx"), inline, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "model.onnx_data" in Path("m/model.onnx").read_text(errors="ignore")  # the bias was there, too


def test_all_operators_that_are_others_are_known():
    """By what onnx says of each version: an input or attribute that is gone, or has another default."""
    versions: dict[str, dict[int, onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, {})[schema.since_version] = schema
    found = {}
    for name, each in versions.items():
        known = sorted(version for version in each if version <= 21)
        for old, new in pairwise(known):
            if new > OLDEST and is_other(each[old], each[new]):
                found[name] = new
    assert found.items() <= {name: version for name, (version, _) in CHANGED.items()}.items()
    assert {f"Reduce{each}" for each in ("Mean", "Max", "SumSquare")} <= found.keys()


def is_other(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    gone = old.attributes.keys() - new.attributes.keys()
    others = [
        name
        for name, each in old.attributes.items()
        if name in new.attributes and each.default_value != new.attributes[name].default_value
    ]
    added = [name for name, each in new.attributes.items() if name not in old.attributes and each.required]
    options = [each.option for each in new.inputs[: len(old.inputs)]]
    narrower = len(new.inputs) < len(old.inputs)
    return bool(
        gone
        or others
        or added
        or new.deprecated
        or narrower
        or any(
            was.option != now and now != onnx.defs.OpSchema.FormalParameterOption.Optional
            for was, now in zip(old.inputs, options, strict=False)
        )
    )
