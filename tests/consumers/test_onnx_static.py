"""`klcal apply --activations`: ONNX Runtime's answers are NumPy's of the tables, to the bit, optimizations off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import klcal as library
from tests.support import small_network
from tests.support.command import klcal
from tests.support.small_network import TABLES, calibrate, numpys, rows, weights_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
helper = onnx.helper


@pytest.fixture(scope="module")
def network():
    return small_network.module()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    network.main([])
    calibrate()


def apply(*options: str, activations: str = TABLES[0], code: int = 0, model: str = "model.onnx") -> str:
    """Write quantized.onnx, and give what was said."""
    done = klcal("apply", model, "--activations", activations, *options, "--to", "onnx", "-o", "quantized.onnx")
    assert done.code == code, done.err
    assert Path("quantized.onnx").exists() == (code == 0)
    return done.err


def by_tables(*options: str, **given: str) -> str:
    return apply("--table", TABLES[1], *options, **given)


def check(network, *, before_relu: bool = False) -> None:
    """ONNX Runtime's answer is NumPy's for every input that was recorded."""
    x, known = np.load("activations.npz")["x"], rows()
    ours = np.float32(numpys(x, known, weights_of("model.onnx"), before_relu=before_relu))
    theirs = network.answers("quantized.onnx", x)["y"]
    if known["y"].target.endswith("16"):  # levels so near that a sum in float32 may fall on the other side of a tie
        assert np.abs(theirs - ours).max() < 1.01 * known["y"].scale
        assert (theirs != ours).mean() < 0.02
    else:
        np.testing.assert_array_equal(theirs, ours)
    onnx.checker.check_model(onnx.load("quantized.onnx"), full_check=True)


def saved(nodes: list, weights: dict[str, np.ndarray], inputs: dict[str, list], outputs: dict[str, list]) -> np.ndarray:
    """Another model.onnx, and all that flows through it for some inputs in activations.npz."""
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (inputs | outputs).items()
    ]
    held = [onnx.numpy_helper.from_array(each, name) for name, each in weights.items()]
    graph = helper.make_graph(nodes, "made", values[: len(inputs)], values[len(inputs) :], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    return model


def record(network, model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    there = {each.name for each in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name not in there]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, made))
    found = {"x": x, **network.answers(model, x)}
    np.savez("activations.npz", **found)
    return found


# --- the proofs


def test_two_tables_give_numpys_numbers_and_the_float_models_answers_nearly(network):
    said = by_tables()
    assert said == "klcal: quantized.onnx: 2 weights and 3 activations quantized, 1 kept as they were; 3,239 bytes\n"
    check(network)
    recorded = np.load("activations.npz")
    ours, theirs = network.answers("quantized.onnx", recorded["x"])["y"].ravel(), recorded["y"].ravel()
    assert ours @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)) > 0.999


def test_one_command_calibrates_both_as_the_tables_were(network):
    calibrate(weights=("--dtype", "int8", "--scheme", "symmetric-full"))
    by_tables()
    tables = Path("quantized.onnx").read_bytes()
    Path("quantized.onnx").unlink()
    apply(activations="activations.npz")
    assert Path("quantized.onnx").read_bytes() == tables
    check(network)


TYPES = [
    (("--dtype", "int8"), ("--dtype", "int8", "--scheme", "symmetric-full")),
    (("--dtype", "int8", "--scheme", "affine"), ("--dtype", "int8", "--scheme", "affine")),
    (("--dtype", "uint8"), ("--dtype", "uint8")),
    (("--dtype", "int8"), ("--dtype", "uint8")),
    (("--dtype", "uint8", "--scheme", "symmetric"), ("--dtype", "int4")),
    (("--dtype", "uint16"), ("--dtype", "int8")),
    (("--dtype", "int16"), ("--dtype", "uint4")),
    (("--dtype", "x=uint16", "--dtype", "y=int8", "--dtype", "uint8"), ("--dtype", "fc*=int4", "--dtype", "int8")),
]


@pytest.mark.parametrize(("activations", "weights"), TYPES, ids=str)
def test_all_types_and_schemes_each_tensor_its_own(network, activations, weights):
    calibrate(activations, weights)
    by_tables()
    known = rows()
    check(network, before_relu=known["relu_out"].low < 0)


def test_a_relu_stays_where_its_output_could_go_below_zero(network):
    calibrate(("--dtype", "int8"))
    by_tables()
    kept = [node.op_type for node in onnx.load("quantized.onnx").graph.node]
    assert "Relu" in kept
    check(network, before_relu=True)
    Path("quantized.onnx").unlink()
    calibrate(("--dtype", "int8", "--exclude", "conv_out"))
    said = by_tables(code=4)
    assert "klcal: error: 'conv_out': it has no scale, and the Relu or Clip behind it stays" in said


def test_wrong_numbers_would_be_found(network):
    document = json.loads(Path(TABLES[0]).read_text())
    (row,) = [each for each in document["tensors"] if each["name"] == "relu_out"]
    row["scale"] *= 1.25
    Path("other.json").write_text(json.dumps(document))
    by_tables(activations="other.json")
    with pytest.raises(AssertionError):
        check(network)


# --- names


def test_a_quantized_tensor_without_a_scale_is_an_error(network):
    calibrate(("--exclude", "relu_out", "--exclude", "y"))
    said = by_tables(code=4)
    assert "klcal: error: 'relu_out', 'y' (2 tensors): ONNX Runtime quantizes it, and it has no scale" in said


def test_the_reason_of_a_tensor_without_a_scale_is_reported(network):
    recorded = dict(np.load("activations.npz"))
    recorded["y"][0, 0] = np.nan
    np.savez("activations.npz", **recorded)
    said = apply(activations="activations.npz", code=4)
    assert "klcal: error: 'y': it has no scale: 1 NaN among 320 values" in said


def test_unknown_names_and_unused_scales_are_reported(network):
    recorded = dict(np.load("activations.npz"))
    np.savez("activations.npz", **recorded, flat=recorded["relu_out"], mistyped=recorded["x"])
    said = apply(activations="activations.npz")
    assert "klcal: warning: 'mistyped': it is no tensor of model.onnx\n" in said
    assert "klcal: warning: 'flat': its scale is not used: ONNX Runtime gives it that of what its operator" in said


def test_a_weight_that_is_excluded_leaves_its_operator_in_float(network):
    said = apply("--exclude", "fc*", activations="activations.npz")
    assert "1 weight and 2 activations quantized, 2 kept as they were" in said
    held = weights_of("quantized.onnx")
    assert held["fc.weight"].dtype == np.float32
    assert "y_scale" not in held


def test_a_weight_without_a_row_is_reported(network):
    klcal("calibrate", "model.onnx", "--dtype", "int8", "--include", "conv*", "-o", TABLES[1])
    said = by_tables()
    assert "klcal: warning: 'fc.weight': the table has no row for it: it is kept as it is" in said


def test_weights_of_another_shape_axis_or_unit_are_refused(network):
    table = json.loads(Path(TABLES[1]).read_text())
    for each in table["tensors"]:
        each["shape"] = [7, *each["shape"][1:]]
    Path("other.json").write_text(json.dumps(table))
    assert "the shape [7, 3, 3, 3] in the table" in apply("--table", "other.json", code=4)
    said = apply("--dtype", "int4", "--per", "fc*=group:16", "--per", "channel", activations="activations.npz", code=4)
    assert "it has a scale for each group" in said


# --- graphs


def test_operators_whose_tensors_all_have_a_scale_are_quantized_and_others_stay(network):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(8, 8)).astype(np.float32) for name in ("a", "b")}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["left"]),
        helper.make_node("MatMul", ["x", "b"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["y"]),
    ]
    model = saved(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 8]})
    found = record(network, model, rng.normal(size=(32, 8)).astype(np.float32))
    del found["y"]
    np.savez("activations.npz", **found)
    apply(activations="activations.npz")
    held = weights_of("quantized.onnx")
    assert {"left_scale", "right_scale", "sum_scale"} <= held.keys()
    assert "y_scale" not in held
    del found["sum"]
    np.savez("activations.npz", **found)
    Path("quantized.onnx").unlink()
    apply(activations="activations.npz")
    assert not {"sum_scale", "y_scale"} & weights_of("quantized.onnx").keys()


def test_weights_in_constants_and_a_tied_weight(network):
    rng = np.random.default_rng(0)
    value = onnx.numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), "any")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    model = saved(nodes, {}, {"x": ["n", 8]}, {"y": ["n", 8]})
    found = record(network, model, rng.normal(size=(32, 8)).astype(np.float32))
    apply(activations="activations.npz")
    assert weights_of("quantized.onnx")["w_quantized"].dtype == np.int8
    ours = network.answers("quantized.onnx", found["x"])["y"]
    assert np.abs(ours - found["y"]).max() < 0.05 * np.abs(found["y"]).max()


def test_a_scale_that_is_raised_for_a_bias_is_reported(network):
    model = onnx.load("model.onnx")
    (bias,) = [each for each in model.graph.initializer if each.name == "conv.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([1e6, 0, 0, 0]), "conv.bias"))
    onnx.save(model, "model.onnx")
    said = by_tables()
    assert "klcal: warning: 'conv.weight': ONNX Runtime raised its scales" in said


def test_a_model_of_halves_has_scales_of_halves(network):
    model = onnx.load("model.onnx")
    for each in model.graph.initializer:
        each.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(each).astype(np.float16), each.name))
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model.opset_import[0].version = 19
    onnx.save(model, "model.onnx")
    assert "its scale is no float16: calibrate it with --scale-format float16" in by_tables(code=4)
    apply(activations="activations.npz")
    assert weights_of("quantized.onnx")["x_scale"].dtype == np.float16
    x = np.load("activations.npz")
    ours = network.answers("quantized.onnx", x["x"].astype(np.float16))["y"]
    assert np.abs(ours - x["y"]).max() < 0.2


# --- what cannot be


def test_a_model_that_onnx_runtime_cannot_quantize_ends_in_one_line(network):
    model = onnx.load("model.onnx")
    model.graph.node[0].op_type = "Conv"
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, "model.onnx")
    said = by_tables(code=4)
    assert "Traceback" not in said
    assert said.count("\n") == 1


def test_only_onnx_and_only_a_file(network):
    assert (
        "activations are quantized in ONNX alone, not in npz"
        in klcal("apply", "model.onnx", "--activations", "a.json", "--to", "npz", "-o", "o.npz").err
    )
    done = klcal("apply", ".", "--activations", TABLES[0], "--to", "onnx", "-o", "out")
    assert done.code == 2
    assert "is no .onnx" in done.err


def test_the_library_does_the_same_and_raises_what_the_command_prints(network):
    by_tables()
    ours = Path("quantized.onnx").read_bytes()
    table = library.load_table(TABLES[0])
    done = library.apply("model.onnx", "other.onnx", to="onnx", table=TABLES[1], activations=table)
    assert (done.quantized, done.activations, Path("other.onnx").read_bytes()) == (2, 3, ours)
    held = weights_of("other.onnx")
    for row in table.rows:
        if row.name != "conv_out":
            assert held[f"{row.name}_scale"] == np.float32(row.scale)
            assert held[f"{row.name}_zero_point"] == row.zero_point
    less = replace(table, rows=[row for row in table.rows if row.name != "y"])
    with pytest.raises(library.OutputError, match=r"^'y': ONNX Runtime quantizes it"):
        library.apply("model.onnx", "less.onnx", to="onnx", table=TABLES[1], activations=less)
    assert not Path("less.onnx").exists()
