"""A .onnx is described as the onnx package loads it; damaged tensors cost themselves, damaged messages the file."""

from __future__ import annotations

import math
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import klcal
from klcal.errors import InputError
from klcal.readers import onnx_file, protobuf
from klcal.readers.onnx_data import BLOCK_BYTES, IntegersSpan, data_path
from klcal.readers.onnx_file import KINDS, describe
from klcal.readers.regular import open_regular
from tests.support.files import check_words, damaged, file_of
from tests.support.protobuf import (
    FLOAT,
    FLOAT16,
    INT8,
    VALUES,
    branch,
    constant,
    external,
    graph,
    held,
    integer,
    model,
    number,
    tensor,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="the oracle, package onnx, is not installed")


def found_in(folder, data: bytes) -> dict:
    found = describe(file_of(folder, data, ".onnx"))
    for each in found:
        assert (each.status == "ok") == (each.reason is None)
        if each.reason:
            check_words(each.reason)
            assert each.parts == ()
    return {each.name: each for each in found}


def statuses(folder, data: bytes) -> dict[str, str]:
    return {name: each.status for name, each in found_in(folder, data).items()}


def refusal(folder, data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        found_in(folder, data)
    check_words(str(caught.value))
    return str(caught.value)


def values(found) -> np.ndarray:
    chunks = [chunk.copy() for part in found.parts for chunk in part.chunks()]
    return np.concatenate(chunks or [np.empty(0, np.float32)])


# --- the oracle


def check_agreement(found, array) -> None:
    assert (found.dtype, found.shape) == (array.dtype.name, array.shape)
    ours = values(found)
    np.testing.assert_array_equal(ours.view(f"u{ours.itemsize}"), array.ravel().view(f"u{array.itemsize}"))


FLOAT4, E8M0 = 23, 24
FLOATS = [number for number, kind in KINDS.items() if kind.storage]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("data_type", FLOATS)
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 2), (300,)])
def test_tensors_are_those_that_onnx_loads(folder, onnx, data_type, raw, shape):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    array = np.random.default_rng(data_type).normal(size=shape).astype(dtype)
    made = onnx.numpy_helper.from_array(array, "w")
    if not raw:
        made = onnx.helper.make_tensor("w", data_type, shape, [float(each) for each in array.ravel()])
    assert bool(made.raw_data) == (raw and array.size > 0)
    whole = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [made]))
    found = found_in(folder, whole.SerializeToString())
    assert KINDS[data_type].name == array.dtype.name
    check_agreement(found["w"], onnx.numpy_helper.to_array(made))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("count", [1, (1 << 22) + 1])
def test_float4_in_several_chunks(tmp_path, onnx, count, beside):
    array = np.random.default_rng(4).normal(size=count).astype(onnx.helper.tensor_dtype_to_np_dtype(FLOAT4))
    whole = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(array, "w")]))
    onnx.save(whole, str(tmp_path / "m.onnx"), save_as_external_data=beside, location="m.bin", size_threshold=0)
    (found,) = klcal.read(tmp_path).values()  # the file beside it is none of its own
    assert (found.status, (tmp_path / "m.bin").exists()) == ("ok", beside)
    check_agreement(found, array)


def test_float4_does_not_share_data(tmp_path):
    """As no other values may, in part."""
    (tmp_path / "m.onnx_data").write_bytes(bytes(64))
    two = [tensor(name, (32,), FLOAT4, external(offset=at)) for name, at in (("a", 0), ("b", 8))]
    (tmp_path / "m.onnx").write_bytes(model(*two))
    found = describe(open_regular(str(tmp_path / "m.onnx")))
    assert [each.status for each in found] == ["ok", "failed"]


def test_types_have_the_names_that_onnx_gives_them(onnx):
    names = {"BOOL": "bool", "STRING": "string", "FLOAT": "float32", "DOUBLE": "float64"}
    for name, data_type in onnx.TensorProto.DataType.items():
        if data_type in KINDS:
            ours = KINDS[data_type].name.replace("_", "").removesuffix("fn")
            assert ours == names.get(name, name.lower().removesuffix("fn").replace("e8m0", "e8m0fnu"))


def whole_model(onnx):
    """What exporters write: initializers, Constants, graphs within nodes, sparse tensors, external data later."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    arrays = {name: np.full((3, 4), value, np.float32) for name, value in [("conv.weight", 1), ("then.w", 2), ("c", 3)]}
    inner = helper.make_graph([], "then", [], [], [to_tensor(arrays["then.w"], "then.w")])
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "else", [], [])),
        helper.make_node("Constant", [], ["c"], value=to_tensor(arrays["c"], "other")),
        helper.make_node("ConstantOfShape", ["s"], ["z"], value=to_tensor(np.ones(1, np.float32), "not a weight")),
    ]
    sparse = helper.make_sparse_tensor(
        to_tensor(np.ones(2, np.float32), "sparse"), to_tensor(np.array([1, 5]), "at"), [3, 4]
    )
    tensors = [to_tensor(arrays["conv.weight"], "conv.weight"), to_tensor(np.array([1, 2]), "shape")]
    tensors.append(helper.make_tensor("names", onnx.TensorProto.STRING, [1], [b"x"]))
    made = helper.make_graph(nodes, "g", [], [], tensors, sparse_initializer=[sparse])
    return helper.make_model(made), arrays


@pytest.mark.parametrize("beside", [False, True])
def test_a_whole_model_inline_and_with_data_beside_it(tmp_path, onnx, beside):
    made, arrays = whole_model(onnx)
    options = {"location": "m.onnx_data", "size_threshold": 0, "convert_attribute": True} if beside else {}
    onnx.save(made, str(tmp_path / "m.onnx"), save_as_external_data=beside, **options)
    assert (tmp_path / "m.onnx_data").exists() == beside
    found = {each.name: each for each in describe(open_regular(str(tmp_path / "m.onnx")))}
    for name, array in arrays.items():
        check_agreement(found[name], array)
    assert found["sparse"].shape == (3, 4)
    others = {name: each.status for name, each in found.items() if name not in arrays}
    assert others == {"shape": "skipped", "names": "unsupported", "sparse": "unsupported"}


def test_the_agreement_checker_can_fail(folder):
    found = found_in(folder, model(tensor()))["w"]
    check_agreement(found, np.frombuffer(VALUES, np.float32))
    with pytest.raises(AssertionError):
        check_agreement(found, np.frombuffer(VALUES, np.float32)[::-1])
    with pytest.raises(AssertionError):
        check_agreement(found, np.frombuffer(VALUES, np.float32).reshape(2, 2))


@given(st.data())
def test_of_a_damaged_model_the_tensors_are_read_that_onnx_reads(folder, data):
    onnx = pytest.importorskip("onnx", reason="the oracle, package onnx, is not installed")
    from google.protobuf.message import DecodeError

    packed = integer(0x3C00) + integer(0x8000)
    whole = model(tensor(), tensor("h", (2,), FLOAT16, held(5, packed)), more=constant("c", tensor(None)))
    changed = data.draw(damaged(whole, b"\0\xff\x7f\x80\x0a\x12"))
    try:
        found = describe(file_of(folder, changed, ".onnx"))
        ours = {each.name: values(each) for each in found if each.status == "ok"}
    except InputError as error:
        check_words(str(error))
        return
    try:
        theirs = onnx.ModelProto.FromString(changed).graph
    except DecodeError:  # in a message that holds no tensor, which is not looked at
        return
    loaded = {each.name: each for each in theirs.initializer}
    loaded |= {node.output[0]: node.attribute[0].t for node in theirs.node if node.output and node.attribute}
    for each in found:
        if each.name in ours and each.name in loaded:
            check_agreement(each, onnx.numpy_helper.to_array(loaded[each.name]))


# --- what is found, and its names


def test_initializers_constants_and_graphs_within_nodes(folder):
    inner = graph(tensor("inner"), more=constant("deep", tensor("its own name")))
    data = model(tensor("a/b.weight"), tensor(None), more=constant("c", tensor()) + branch(inner))
    assert list(statuses(folder, data)) == ["a/b.weight", "", "c", "inner", "deep"]


def test_where_the_outputs_of_a_weights_operator_lie(folder):
    """By the node that takes it, in whatever graph that is; of the model's own tensors alone."""

    def node(op: str, weight: str, more: bytes = b"") -> bytes:
        return held(1, held(4, op) + held(1, "x") + held(1, weight) + more)

    def square(name: str, rank: int = 2) -> bytes:
        return tensor(name, (1,) * rank, more=held(9, VALUES[:4]))

    transposed = held(5, held(1, "transB") + number(3, 1))
    nodes = [node("Conv", "conv"), node("ConvTranspose", "up"), node("Gemm", "gemm"), node("Gemm", "fc", transposed)]
    nodes += [node("MatMul", "experts"), node("MatMul", "vector"), node("Gather", "table")]
    inner = graph(square("inner"), more=node("MatMul", "inner") + node("MatMul", "outer"))
    ranks = {"conv": 4, "up": 3, "gemm": 2, "fc": 2, "experts": 3, "vector": 1, "table": 2, "outer": 2}
    data = model(*(square(*each) for each in ranks.items()), more=b"".join(nodes) + branch(inner))
    axes = {"conv": 0, "up": 1, "gemm": 1, "fc": 0, "experts": 2, "vector": None, "table": None, "outer": 1}
    assert {name: each.outputs for name, each in found_in(folder, data).items()} == {**axes, "inner": None}


def test_the_kind_of_a_node_may_follow_its_attributes(folder):
    node = held(5, held(5, tensor())) + held(4, "Constant") + held(2, "c")
    assert list(statuses(folder, model(more=held(1, node)))) == ["c"]


def test_one_value_in_a_constant_node_is_no_weight(folder):
    """Exporters write the -inf of an attention mask so: it must not cost the run."""
    one = tensor(None, (1, 1), more=held(9, struct.pack("<f", -math.inf)))
    nodes = constant("mask", one) + constant("scalar", tensor(None, ())) + constant("bias", tensor(None))
    assert statuses(folder, model(more=nodes)) == {"mask": "skipped", "scalar": "skipped", "bias": "ok"}


def test_one_name_in_two_graphs_is_no_name(folder):
    data = model(tensor("a"), more=branch(graph(tensor("w")), graph(tensor("w", more=held(9, VALUES[::-1])))))
    assert statuses(folder, data) == {"a": "ok", "w": "unsupported"}
    whole = tensor("i", data_type=INT8)
    assert statuses(folder, model(whole, whole)) == {"i": "skipped"}


def test_values_in_several_lists_are_one_after_the_other(folder):
    found = found_in(folder, model(tensor(more=held(4, VALUES[:4]) + held(4, VALUES[4:]))))["w"]
    check_agreement(found, np.frombuffer(VALUES, np.float32))


def test_lists_of_shapes_and_fields_of_the_future_are_read(folder):
    unknown = number(100, 1) + held(101, b"x") + integer(102 << 3 | 1) + bytes(8) + integer(103 << 3 | 5) + bytes(4)
    group = integer(104 << 3 | 3) + integer(1 << 3 | 3) + number(5, 1) + integer(1 << 3 | 4) + integer(104 << 3 | 4)
    packed = held(1, integer(2) + integer(2)) + number(2, FLOAT) + held(8, "w") + held(9, VALUES)
    data = unknown + group + model(unknown + group + packed, more=group)
    assert found_in(folder, data)["w"].shape == (2, 2)


def test_integers_become_patterns_also_across_blocks(folder):
    count = BLOCK_BYTES  # of up to three bytes each
    patterns = np.random.default_rng(0).integers(0, 1 << 16, count, np.uint16)
    data = b"".join(map(integer, patterns.tolist()))
    found = found_in(folder, model(tensor("w", (count,), FLOAT16, held(5, data))))["w"]
    np.testing.assert_array_equal(values(found).view(np.uint16), patterns)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (integer(1), 2),
        (integer(1) + integer(2), 1),
        (integer(1 << 16), 1),
        (integer(-1), 1),
        (b"\x80" * 11 + b"\0", 1),
        (b"\x80" * 11, 1),
        (b"\x81", 1),
    ],
)
def test_integers_that_are_no_patterns_are_refused(folder, data, count):
    file = file_of(folder, data)
    with pytest.raises(InputError):
        list(IntegersSpan(file, 0, len(data), count, "<f2").chunks())


# --- data beside the model


def beside(tmp_path, *tensors: bytes, data: bytes = VALUES) -> dict:
    (tmp_path / "m.onnx").write_bytes(model(*tensors))
    (tmp_path / "m.onnx_data").write_bytes(data)
    found = describe(open_regular(str(tmp_path / "m.onnx")))
    for each in found:
        check_words(each.reason or "x")
    return {each.name: each for each in found}


def test_data_without_a_length_end_with_their_file(tmp_path):
    found = beside(tmp_path, tensor("w", (2,), more=external(offset=8, length=None)))["w"]
    np.testing.assert_array_equal(values(found), [0, 2])


def test_tied_weights_are_one_tensor(tmp_path):
    found = beside(tmp_path, *(tensor(name, more=external()) for name in "abc"))
    assert [(each.name, each.aliases) for each in found.values()] == [("a", ("b", "c"))]


@pytest.mark.parametrize("shape", [(1,), (2, 1), (3,)])
def test_data_that_overlap_are_refused(tmp_path, shape):
    length = 4 * int(np.prod(shape))
    tensors = tensor("a", more=external()), tensor("b", shape, more=external(length=length, offset=4))
    for data in (VALUES, VALUES * 2):
        found = beside(tmp_path, *tensors, data=data)
        assert [each.status for each in found.values()] == ["ok", "failed"]
        assert "its data overlap those of" in found["b"].reason


def test_data_that_overlap_do_not_multiply(tmp_path):
    """A data file of a terabyte that takes no room, and a thousand tensors who all want nearly all of it."""
    terabyte = 1 << 40
    tensors = (
        tensor(str(n), ((terabyte >> 2) - n,), more=external(offset=4 * n, length=terabyte - 4 * n))
        for n in range(1000)
    )
    (tmp_path / "m.onnx").write_bytes(model(*tensors))
    (tmp_path / "m.onnx_data").touch()
    os.truncate(tmp_path / "m.onnx_data", terabyte)
    first, *others = describe(open_regular(str(tmp_path / "m.onnx")))
    assert first.status == "ok"
    assert all("overlap" in each.reason for each in others)


LIES = {
    "an absent file": (external(location="absent"), "'absent' cannot be used: there is no such file; download it"),
    "a directory": (external(location="."), "not below the model's folder"),
    "no location": (external(location=""), "not below the model's folder"),
    "an absolute path": (external(location="/etc/passwd"), "not below the model's folder"),
    "a path that climbs": (external(location="a/../../m.onnx_data"), "not below the model's folder"),
    "a path of Windows": (external(location="..\\x"), "not below the model's folder"),
    "a long path": (external(location="x/" * 2048), "not below the model's folder"),
    "a NUL": (external(location="x\0y"), "not below the model's folder"),
    "an offset beyond the file": (external(offset=4), "needs 20 bytes, the file has 16"),
    "a huge offset": (external(offset="9" * 19), "the file has 16"),
    "an offset of many digits": (external(offset="9" * 20), "is not a number of bytes"),
    "a negative offset": (external(offset=-4), "is not a number of bytes"),
    "a length that does not fit the shape": (external(length=12), "12 bytes in 'm.onnx_data', its shape needs 16"),
    "a length of text": (external(length="x"), "is not a number of bytes"),
    "many entries": (external(**{str(n): n for n in range(64)}), "64 are allowed"),
    "a location twice": (external() + held(13, held(1, "location")), "gives the"),
    "values here and there": (external() + held(9, VALUES), "or in two"),
}


@pytest.mark.parametrize(("more", "says"), LIES.values(), ids=LIES)
def test_lies_about_data_beside_the_model_cost_their_tensor(tmp_path, more, says):
    (tmp_path.parent / "m.onnx_data").write_bytes(VALUES)
    found = beside(tmp_path, tensor("good"), tensor("w", more=more))
    assert (found["good"].status, found["w"].status) == ("ok", "failed")
    assert says in found["w"].reason


def test_a_path_below_the_folder_is_followed():
    assert data_path("/a/m.onnx", "b/./c") == "/a/b/c"
    assert data_path("m.onnx", "m.data") == "m.data"


# --- lies


DAMAGED = {
    "too few raw bytes": (tensor(dims=(5,)), "failed", "its values have 16 bytes, its shape needs 20"),
    "no values": (tensor(more=b""), "failed", "its values have 0 bytes"),
    "a negative shape": (tensor(dims=(-4,)), "failed", "is not possible"),
    "a shape that overflows": (tensor(dims=(1 << 62, 1 << 62, 0)), "failed", "larger than any memory"),
    "a shape that wraps around": (tensor(dims=((1 << 62) + 1, 4)), "failed", "larger than any memory"),
    "values twice": (tensor(more=held(9, VALUES) + held(4, VALUES)), "failed", "or in two"),
    "values of another type": (tensor(more=held(10, VALUES)), "failed", "wrong field"),
    "more integers than bytes": (tensor("w", (9,), FLOAT16, held(5, b"\1")), "failed", "needs 9 values"),
    "a place that is not known": (tensor(more=held(9, VALUES) + number(14, (1 << 32) + 1)), "failed", "unknown kind"),
    "segments": (tensor(more=held(3, b"") + held(9, VALUES)), "unsupported", "tensors in segments"),
    "half a byte more": (tensor("w", (17,), FLOAT4, held(9, bytes(8))), "failed", "its shape needs 9"),
    "no type": (tensor(data_type=0), "unsupported", "type 0"),
    "a type of the future": (tensor(data_type=99), "unsupported", "type 99"),
    "complex numbers": (tensor(data_type=14), "unsupported", "complex64"),
    "integers": (tensor(data_type=INT8), "skipped", "int8"),
    "four bits": (tensor(data_type=22), "skipped", "int4"),
}


@pytest.mark.parametrize(("data", "status", "says"), DAMAGED.values(), ids=DAMAGED)
def test_one_bad_tensor_costs_only_itself(folder, data, status, says):
    found = found_in(folder, model(data, tensor("good")))
    assert (found["w"].status, found["good"].status) == (status, "ok")
    assert says in found["w"].reason


def nested(depth: int) -> bytes:
    inner = graph(tensor())
    for _ in range(depth):
        inner = branch(inner)
    return model(more=inner)


HOSTILE = {
    "nothing": (number(1, 8), "has no graph"),
    "two graphs": (model(tensor()) * 2, "has 2 graphs"),
    "a graph longer than the file": (held(7, b"", 1 << 40), "its message ends after"),
    "a tensor longer than its graph": (held(7, held(5, tensor(), 1 << 62)), "its message ends after"),
    "a length of 2**64": (held(7, b"", (1 << 64) - 1), "its message ends after"),
    "a number of eleven bytes": (b"\x08" + b"\xff" * 11, "more than 64 bits"),
    "a number that is cut": (b"\x08\xff", "has no end"),
    "field 0": (b"\0\0", "no field"),
    "a field of a kind that is none": (b"\x0e", "no field"),
    "a field above 2**29": (integer(1 << 35) + b"\0", "no field"),
    "a group without an end": (b"\x0b", "has no end"),
    "a group without a start": (b"\x0c", "not possible"),
    "a group that ends as another": (b"\x0b\x14", "not possible"),
    "groups within each other": (b"\x0b" * 1000, "not possible"),
    "graphs within each other": (nested(40), "graphs are nested more than"),
    "many axes": (model(tensor(dims=(1,) * 65)), "more than 64 axes"),
    "a list of many axes": (model(held(1, b"\1" * 65) + tensor()), "more than 64"),
    "a name twice": (model(tensor() + held(8, "x")), "a field twice"),
    "a type twice": (model(tensor() + number(2, INT8)), "a field twice"),
    "a name of a megabyte": (model(tensor("x" * (1 << 20))), "a text at position"),
    "a name that is no UTF-8": (model(tensor(None) + held(8, b"\xff")), "not UTF-8"),
}


@pytest.mark.parametrize(("data", "says"), HOSTILE.values(), ids=HOSTILE)
def test_damaged_messages_cost_the_file(folder, data, says):
    assert says in refusal(folder, data)


def test_graphs_within_each_other_are_read_as_deep_as_protobuf_reads_them(folder):
    assert statuses(folder, nested(29)) == {"w": "ok"}


def test_a_file_cut_anywhere_is_refused(folder):
    whole = model(tensor(), tensor("b"))
    for length in range(2, len(whole)):
        assert refusal(folder, whole[:length])


@pytest.mark.parametrize(
    ("module", "limit", "says"),
    [(protobuf, "MAX_FIELDS", "more than 10 fields"), (onnx_file, "MAX_TENSORS", "more than 10 tensors")],
)
def test_counts_have_limits(folder, monkeypatch, module, limit, says):
    data = model(*(tensor(str(n)) for n in range(11)))
    assert len(statuses(folder, data)) == 11
    monkeypatch.setattr(module, limit, 10)
    assert says in refusal(folder, data)


def test_values_are_not_read_before_they_are_asked_for(tmp_path):
    large = 1 << 26
    inner = tensor("w", (large // 4,), more=integer(9 << 3 | 2) + integer(large))
    message = integer(5 << 3 | 2) + integer(len(inner) + large) + inner
    with (tmp_path / "m.onnx").open("wb") as out:
        out.write(integer(7 << 3 | 2) + integer(len(message) + large) + message)
        out.truncate(out.tell() + large)
    file = open_regular(str(tmp_path / "m.onnx"))
    tracemalloc.start()
    (found,) = describe(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 18
    assert (found.status, sum(part.nbytes for part in found.parts)) == ("ok", large)
