"""Codes, scales and zero points of ONNX models: known by the nodes that take them, and what codes stand for."""

from __future__ import annotations

import numpy as np
import pytest

import klcal
from klcal.readers.onnx_quantized import OPERATORS
from tests.support.command import klcal as command
from tests.support.protobuf import FLOAT, INT8, dequantize, external, held, model, number, tensor

RNG = np.random.default_rng(7)
WHOLES = ("int8", "uint8", "int16", "uint16")


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="the oracle, package onnx, is not installed")


def scales(*shape):
    return RNG.uniform(0.01, 0.1, shape).astype(np.float32)


# shape of the codes, of the scales, attributes
UNITS = {
    "tensor": ((6, 10), (), {}),
    "tensor, one scale": ((6, 10), (1,), {}),
    "rows": ((6, 10), (6,), {"axis": 0}),
    "columns, by default": ((6, 10), (10,), {}),
    "columns of a square": ((8, 8), (8,), {"axis": -1}),
    "rows of a square": ((8, 8), (8,), {"axis": 0}),
    "outputs of a convolution": ((6, 4, 3, 3), (6,), {"axis": 0}),
    "inputs of a convolution": ((6, 4, 3, 3), (4,), {"axis": 1}),
    "one row": ((1, 7), (7,), {"axis": 1}),
    "one column": ((7, 1), (7,), {"axis": 0}),
    "blocks of columns": ((6, 12), (6, 3), {"axis": 1, "block_size": 4}),
    "blocks of rows": ((12, 6), (3, 6), {"axis": 0, "block_size": 4}),
    "one block": ((6, 12), (6, 1), {"axis": 1, "block_size": 12}),
    "a scale for each value": ((3, 5), (3, 5), {"axis": 1, "block_size": 1}),
    "blocks of a middle axis": ((3, 8, 5), (3, 2, 5), {"axis": 1, "block_size": 4}),
}


def saved(onnx, path, initializers, *nodes, constants=(), outputs=("y",)):
    """A model of initializers and Constants by name, and nodes; what it computes is not asked for."""
    of = onnx.numpy_helper.from_array
    made = [onnx.helper.make_node("Constant", [], [name], value=of(array)) for name, array in constants]
    stated = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in outputs]
    tensors = [each if isinstance(each, onnx.TensorProto) else of(each[1], each[0]) for each in initializers]
    whole = onnx.helper.make_model(onnx.helper.make_graph([*made, *nodes], "g", [], stated, tensors))
    onnx.save(whole, str(path))
    return whole


def values(found) -> np.ndarray:
    chunks = [chunk.copy() for part in found.parts for chunk in part.chunks()]
    return np.concatenate(chunks).reshape(found.shape)


def check_restored(onnx, path, made, name="w"):
    """Codes stand for what ONNX's own evaluator makes of them."""
    from onnx import reference

    (expected,) = reference.ReferenceEvaluator(made).run(None, {})
    found = klcal.read(path)
    whole = found[name].dequantized
    assert "--dequantize applies it" in found[name].reason
    assert (whole.dtype, whole.shape, whole.status) == ("float32", expected.shape, "ok")
    np.testing.assert_array_equal(values(whole), expected.astype(np.float32))
    return found


def node_of(onnx, inputs, **attributes):
    return onnx.helper.make_node("DequantizeLinear", inputs, ["y"], **attributes)


@pytest.mark.parametrize("dtype", [*WHOLES, "int4", "uint4", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("case", UNITS)
def test_codes_stand_for_what_the_node_makes_of_them(tmp_path, onnx, case, dtype):
    shape, of_scales, attributes = UNITS[case]
    scale = scales(*of_scales)
    if dtype in WHOLES:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        codes = RNG.integers(low, high + 1, shape).astype(dtype)
        zero = RNG.integers(max(low, -9), 9, of_scales).astype(dtype)
    elif dtype.endswith("int4"):  # two in a byte, the last of which may be half empty
        low = -8 if dtype == "int4" else 0
        kind = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.upper()))
        codes, zero = (RNG.integers(low, low + 16, each).astype(kind) for each in (shape, of_scales))
    else:
        kind = onnx.helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.replace("_", "").upper()))
        codes, zero = RNG.normal(size=shape).astype(kind), np.zeros(of_scales, kind)
    path = tmp_path / "m.onnx"
    for inputs in (["w", "s"], ["w", "s", "z"]):
        initializers = [("w", codes), ("s", scale), *([("z", zero)] if "z" in inputs else [])]
        made = saved(onnx, path, initializers, node_of(onnx, inputs, **attributes))
        found = check_restored(onnx, path, made)
        assert {each.status for each in found.values()} == {"skipped"}


def test_a_wrong_axis_is_noticed(tmp_path, onnx):
    """The broken twin: of a square whose scales are of the other axis."""
    initializers = [("w", RNG.integers(-9, 9, (8, 8)).astype(np.int8)), ("s", scales(8))]
    other = saved(onnx, tmp_path / "m.onnx", initializers, node_of(onnx, ["w", "s"], axis=0))
    saved(onnx, tmp_path / "m.onnx", initializers, node_of(onnx, ["w", "s"], axis=1))
    with pytest.raises(AssertionError, match="not equal"):
        check_restored(onnx, tmp_path / "m.onnx", other)


@pytest.mark.parametrize("dtype", WHOLES)
def test_codes_in_a_list_of_integers(tmp_path, onnx, dtype):
    """Negative ones take ten bytes each there."""
    info = np.iinfo(dtype)
    codes = np.array([info.min, info.max, 0, 1, info.max // 2], dtype)
    data_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensors = [onnx.helper.make_tensor("w", data_type, [5], codes.tolist()), ("s", scales())]
    assert tensors[0].int32_data
    check_restored(onnx, tmp_path / "m.onnx", saved(onnx, tmp_path / "m.onnx", tensors, node_of(onnx, ["w", "s"])))


def test_codes_scales_and_zero_points_may_be_constants(tmp_path, onnx):
    constants = [("w", np.int8([[1, -2], [3, 4]])), ("s", np.float32(0.5)), ("z", np.int8(1))]
    made = saved(onnx, tmp_path / "m.onnx", [], node_of(onnx, ["w", "s", "z"]), constants=constants)
    check_restored(onnx, tmp_path / "m.onnx", made)


def test_codes_beside_the_model(tmp_path, onnx):
    initializers = [("w", RNG.integers(-9, 9, (64, 64)).astype(np.int8)), ("s", scales(64))]
    made = saved(onnx, tmp_path / "m.onnx", initializers, node_of(onnx, ["w", "s"], axis=0))
    (tmp_path / "n").mkdir()
    path = tmp_path / "n" / "m.onnx"
    onnx.save(made, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    found = check_restored(onnx, tmp_path / "n", onnx.load(str(path)))
    assert set(found) == {"w", "s"}  # the file beside the model is none of its own
    plain = command("calibrate", tmp_path / "m.onnx", "--dequantize", "--per", "channel", "--format", "json")
    beside = command("calibrate", path, "--dequantize", "--per", "channel", "--format", "json")
    assert plain.out == beside.out
    assert plain.tensors["w"]["status"] == "ok"


@pytest.mark.parametrize(
    ("scale", "zero", "attributes"),
    [
        (scales(6), None, {"axis": 1}),
        (scales(6), None, {"axis": 5}),
        (scales(6, 1), None, {"axis": 1}),
        (scales(6, 4), None, {"axis": 1, "block_size": 5}),
        (scales(6, 2), None, {"axis": 1, "block_size": -5}),
        (scales(10), np.int8(0), {}),
        (scales(1, 1), None, {"axis": 1, "block_size": 5}),
        (None, None, {}),
    ],
)
def test_a_scale_that_does_not_fit_or_is_computed_leaves_codes_skipped(tmp_path, onnx, scale, zero, attributes):
    given = [("s", scale), ("z", zero)]
    initializers = [("w", np.ones((6, 10), np.int8)), *((name, array) for name, array in given if array is not None)]
    inputs = ["w", "s", *(["z"] if zero is not None else [])]
    saved(onnx, tmp_path / "m.onnx", initializers, node_of(onnx, inputs, **attributes))
    found = klcal.read(tmp_path / "m.onnx")
    assert found["w"].dequantized is None
    assert found["w"].reason.endswith("calibrate the model that they were made from")
    assert {each.status for each in found.values()} == {"skipped"}


def test_codes_that_two_nodes_scale_differently_stay_codes(tmp_path, onnx):
    initializers = [("w", np.ones((6, 10), np.int8)), ("s", scales()), ("t", scales())]
    more = onnx.helper.make_node("DequantizeLinear", ["w", "t"], ["x"])
    saved(onnx, tmp_path / "m.onnx", initializers, node_of(onnx, ["w", "s"]), more)
    assert klcal.read(tmp_path / "m.onnx")["w"].dequantized is None
    again = onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["x"])
    saved(onnx, tmp_path / "m.onnx", initializers[:2], node_of(onnx, ["w", "s"]), again)
    assert klcal.read(tmp_path / "m.onnx")["w"].dequantized is not None


def test_a_scale_by_name_does_not_overrule_the_graph(tmp_path, onnx):
    """Of which the codes' columns have one each, not their rows."""
    codes, scale = RNG.integers(-9, 9, (8, 8)).astype(np.int8), scales(8)
    made = saved(onnx, tmp_path / "m.onnx", [("w", codes), ("w_scale", scale)], node_of(onnx, ["w", "w_scale"]))
    check_restored(onnx, tmp_path / "m.onnx", made)
    saved(onnx, tmp_path / "m.onnx", [("w", codes), ("w_scale", scale)], node_of(onnx, ["w", "w_scale"], axis=9))
    assert klcal.read(tmp_path / "m.onnx")["w"].dequantized is None


def test_weights_that_the_graph_quantizes_are_weights(tmp_path, onnx):
    weights = RNG.normal(size=(6, 10)).astype(np.float32)
    quantize = onnx.helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"])
    initializers = [("w", weights), ("s", scales()), ("z", np.int8(0)), ("b", weights[0])]
    saved(onnx, tmp_path / "m.onnx", initializers, quantize, node_of(onnx, ["q", "s", "z"]))
    found = klcal.read(tmp_path / "m.onnx")
    assert {name: each.status for name, each in found.items()} == {"w": "ok", "s": "skipped", "z": "skipped", "b": "ok"}
    assert "scale or a zero point of QuantizeLinear" in found["s"].reason


@pytest.mark.parametrize("operator", OPERATORS)
def test_scales_and_zero_points_of_every_operator_are_skipped(tmp_path, onnx, operator):
    """All inputs are floats but the codes: of an operator's places, the others are weights."""
    places = OPERATORS[operator]
    last = max(at for each in places for at in each if at is not None)
    codes = {each.codes for each in places} - {None}
    known = {at for each in places for at in each if at is not None}
    arrays = {str(at): np.ones(3, np.uint8 if at in codes else np.float32) for at in range(last + 2)}
    node = onnx.helper.make_node(operator, list(arrays), ["y"], domain="com.microsoft")
    saved(onnx, tmp_path / "m.onnx", arrays.items(), node)
    found = klcal.read(tmp_path / "m.onnx")
    assert {name for name, each in found.items() if each.status == "skipped"} == set(map(str, known))
    assert all(f"codes of {operator}, whose scale" in found[str(at)].reason for at in codes)


@pytest.mark.parametrize(
    "codes",
    [
        tensor("w", (4,), INT8, held(9, b"abc")),
        tensor("w", (-4,), INT8, held(9, b"")),
        tensor("w", (4,), INT8, held(9, b"abcd") + held(5, b"abcd")),
        tensor("w", (4,), INT8, number(14, 1)),
        tensor("w", (4,), 99, held(9, b"abcd")),
        tensor("w", (4,), 22, held(9, b"abc")),
        tensor("w", (4,), 26, held(9, b"a")),
    ],
)
def test_damaged_codes_and_those_of_other_types_are_not_restored(tmp_path, codes):
    (tmp_path / "m.onnx").write_bytes(
        model(codes, tensor("s", (), FLOAT, held(9, bytes(4))), more=dequantize("w", "s"))
    )
    found = klcal.read(tmp_path / "m.onnx")["w"]
    assert (found.status in ("skipped", "unsupported"), found.dequantized) == (True, None)


def test_codes_of_a_scale_without_data_are_not_restored(tmp_path):
    codes, scale = tensor("w", (1, 4), INT8, held(9, bytes(4))), tensor("s", (4,), INT8, held(9, bytes(3)))
    (tmp_path / "m.onnx").write_bytes(model(codes, scale, more=dequantize("w", "s")))
    assert klcal.read(tmp_path / "m.onnx")["w"].dequantized is None


def test_integers_that_a_byte_cannot_hold_are_refused(tmp_path):
    codes = tensor("w", (2,), INT8, held(5, b"\x01\x80\x01"))  # 1 and 128
    scale = tensor("s", (), FLOAT, held(9, np.float32(1).tobytes()))
    (tmp_path / "m.onnx").write_bytes(model(codes, scale, more=dequantize("w", "s")))
    row = command("calibrate", tmp_path / "m.onnx", "--dequantize", "--format", "json").tensors["w"]
    assert row["status"] == "failed"
    assert "does not hold" in row["reason"]


def test_codes_that_share_their_data_are_one_tensor_of_one_scale(tmp_path):
    (tmp_path / "m.onnx_data").write_bytes(bytes(16))
    scale = tensor("s", (), FLOAT, held(9, np.float32(1).tobytes()))
    codes = [tensor(name, (16,), INT8, external()) for name in "vw"]
    nodes = [dequantize(name, "s") for name in "vw"]
    (tmp_path / "m.onnx").write_bytes(model(scale, *codes, more=b"".join(nodes)))
    found = {each.name: each for each in klcal.read(tmp_path).values()}
    assert (set(found), found["v"].aliases) == ({"s", "v"}, ("w",))
    nodes.append(dequantize("w", "t"))
    (tmp_path / "m.onnx").write_bytes(model(scale, *codes, more=b"".join(nodes)))
    assert klcal.read(tmp_path)["v"].dequantized is None


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_tensors_of_dynamic_quantization_are_known_by_their_names(tmp_path, onnx, dtype):
    """MatMulInteger has no scale: a Mul behind it has."""
    end = "_quantized_scale" if dtype == "int32" else "_scale"
    initializers = [("w_quantized", np.ones((4, 4), dtype)), (f"w{end}", scales(4)), ("b", scales(4))]
    multiply = onnx.helper.make_node("MatMulInteger", ["x", "w_quantized"], ["y"])
    saved(onnx, tmp_path / "m.onnx", initializers, multiply)
    found = klcal.read(tmp_path / "m.onnx")
    assert [each.status for each in found.values()] == ["skipped", "skipped", "ok"]
    assert "ONNX Runtime" in found[f"w{end}"].reason
    assert found["w_quantized"].dequantized is None


def test_codes_are_compared_with_the_weight_that_they_were_made_of(tmp_path, onnx):
    """ONNX Runtime names them so; where that name is taken, they keep their own."""
    weight, scale = RNG.normal(size=(64, 8)).astype(np.float32), np.float32(0.05)
    codes = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
    saved(onnx, tmp_path / "p.onnx", [("w", weight)])
    initializers = [("w_quantized", codes), ("w_scale", scale)]
    saved(onnx, tmp_path / "q.onnx", initializers, node_of(onnx, ["w_quantized", "w_scale"]))
    row = command("compare", tmp_path / "p.onnx", tmp_path / "q.onnx", "--dequantize", "--format", "json").tensors["w"]
    assert row["status"] == "ok"
    assert row["sqnr_db"] > 30
    saved(onnx, tmp_path / "q.onnx", [*initializers, ("w", weight)], node_of(onnx, ["w_quantized", "w_scale"]))
    found = klcal.read(tmp_path / "q.onnx")
    assert (found["w_quantized"].dequantized.name, found["w"].status) == ("w_quantized", "ok")


def test_a_node_may_lack_inputs(tmp_path):
    for inputs in ((), ("",), ("w",), ("w", ""), ("w", "absent", "absent too"), ("w", "w", "w")):
        data = model(tensor("w"), more=dequantize(*inputs))
        (tmp_path / "m.onnx").write_bytes(data)
        assert klcal.read(tmp_path / "m.onnx")["w"].status == ("skipped" if inputs == ("w", "w", "w") else "ok")
