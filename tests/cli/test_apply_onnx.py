"""``klcal apply --to onnx``: the file, byte by byte; which tensors; what is refused. tests/consumers has the proofs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import klcal as library
from klcal.writers.forms import onnx
from tests.support.command import klcal
from tests.support.protobuf import branch, constant, external, graph, held, number, tensor

F32, I8, F16, I4, U4, F64 = 1, 3, 10, 22, 21, 11
REST = held(1000, "a field to come")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def values(rows: int = 4, columns: int = 6, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, columns)).astype(dtype)


def weight(name: str, array: np.ndarray, kind: int = F32) -> bytes:
    return tensor(name, array.shape, kind, held(9, array.tobytes()))


def node(op: str, *inputs: str, output: str = "y", more: bytes = b"") -> bytes:
    return held(1, b"".join(held(1, each) for each in inputs) + held(2, output) + held(4, op) + more)


def attribute(name: str, value: int) -> bytes:
    return held(5, held(1, name) + number(3, value) + number(20, 2))


MATMUL = node("MatMul", "x", "w")


def model(*tensors: bytes, more: bytes = MATMUL, ir: int = 10, opset: int = 21, behind: bytes = REST) -> bytes:
    return number(1, ir) + held(8, number(2, opset)) + held(7, graph(*tensors, more=more)) + behind


def save(*tensors: bytes, path: str = "base.onnx", **options) -> None:
    Path(path).write_bytes(model(*tensors, **options))


def apply(*options: str, base: str = "base.onnx") -> str:
    Path("out.onnx").unlink(missing_ok=True)
    done = klcal("apply", base, "--to", "onnx", "-o", "out.onnx", *options)
    assert done.code == 0, done.err
    return done.err


def refused(what: str, *options: str, base: str = "base.onnx", code: int = 2) -> None:
    done = klcal("apply", base, "--to", "onnx", "-o", "new.onnx", *options)
    assert done.code == code, done.err
    assert what in done.err
    assert not Path("new.onnx").exists()
    assert not [*Path().glob(".klcal*")]


def row_of(array: np.ndarray, **options) -> library.Row:
    return library.calibrate(array, **options)


# --- the file, byte by byte


def test_a_weight_becomes_codes_and_a_node_and_all_else_is_as_it_was():
    """Fields in places where no library writes them, and fields that nobody knows, too."""
    array, bias = values(), values(1, 6)[0]
    before = held(2, "graph") + node("Relu", "x0", output="x")
    behind = MATMUL + held(5, weight("bias", bias)) + held(999, b"\x08\x01")
    save(more=before + held(5, weight("w", array)) + behind)
    apply()
    row = row_of(array, dtype="int8", scheme="symmetric-full", per="channel:1")
    codes, scales = library.quantize(array, row).astype(np.int8), np.float32(row.units.scale)
    made = held(1, "w_quantized") + held(1, "w_scale") + held(2, "w") + held(3, "w_DequantizeLinear")
    new = held(1, made + held(4, "DequantizeLinear") + attribute("axis", 1))
    new += held(5, weight("w_quantized", codes, I8)) + held(5, weight("w_scale", scales))
    expected = number(1, 10) + held(8, number(2, 21)) + held(7, new + before + behind) + REST
    assert Path("out.onnx").read_bytes() == expected


@pytest.mark.parametrize(("columns", "size"), [(6, 2), (7, 2), (5, 4), (3, 4)])
def test_four_bits_lie_two_a_byte_the_first_in_the_lower_half(columns, size):
    """Row by row, whatever the rows' ends; zero points as well."""
    array = values(5, columns) + 1
    save(weight("w", array), more=node("Gemm", "x", "w", more=attribute("transB", 1)))
    options = {"dtype": "uint4", "per": f"group:{min(size, columns)},1"}
    apply("--dtype", "uint4", "--per", f"group:{min(size, columns)}")
    row = row_of(array, **options)
    codes = library.quantize(array, row)
    data = Path("out.onnx").read_bytes()
    for name, integers in (("w_quantized", codes), ("w_zero_point", row.units.zero_point.reshape(row.units.shape))):
        flat = [*integers.ravel(), 0]
        pairs = bytes(int(low) | int(high) << 4 for low, high in zip(flat[:-1:2], flat[1::2], strict=True))
        assert tensor(name, integers.shape, U4, held(9, pairs)) in data
    assert tensor("w_scale", row.units.shape, F32, held(9, np.float32(row.units.scale).tobytes())) in data
    assert attribute("axis", 1) + attribute("block_size", min(size, columns)) in data


# --- versions


@pytest.mark.parametrize(
    ("options", "opset", "ir"),
    [
        (("--per", "tensor"), 13, 3),
        (("--per", "channel"), 13, 7),
        (("--dtype", "float8_e4m3fn"), 19, 9),
        (("--dtype", "int4"), 21, 10),
        (("--per", "group:2"), 21, 10),
        (("--dtype", "int16"), 21, 10),
    ],
)
def test_a_model_is_raised_as_far_as_it_has_to_be(options, opset, ir):
    save(weight("w", values()), ir=3, opset=13)
    apply(*options)
    wanted = max(ir, 5)  # DequantizeLinear is of IR 5
    assert Path("out.onnx").read_bytes().startswith(number(1, wanted) + held(8, number(2, opset)))


@pytest.mark.parametrize(
    ("more", "opset", "what"),
    [
        (node("ReduceMean", "x"), 17, "needs opset 21, the model has 17, and ReduceMean is another operator since 18"),
        (node("AveragePool", "x", more=attribute("ceil_mode", 1)), 13, "AveragePool is another operator since 19"),
        (b"", 12, "needs opset 21, the model has 12, and operators before 13 are others; raise it: onnx.version_conv"),
    ],
)
def test_a_model_that_would_be_another_one_is_not_raised(more, opset, what):
    save(weight("w", values()), more=MATMUL + more, opset=opset)
    refused(what, "--dtype", "int4")
    apply("--per", "tensor")


def test_operators_of_other_domains_are_ignored():
    more = node("ReduceMean", "x", more=held(7, "com.microsoft")) + node("AveragePool", "x")
    save(weight("w", values()), more=MATMUL + more, opset=13)
    apply("--dtype", "int4")
    save(weight("w", values()), opset=17, behind=held(25, held(1, "f")))
    refused("and functions that go by it", "--dtype", "int4")


# --- which tensors


def names(path: str = "out.onnx") -> set[str]:
    return {row.name for row in library.calibrate_files(path).rows}


def test_what_is_quantized_unless_it_is_said():
    """Weights of the four operators, of the model's own graph; a Constant too."""
    inside = graph(weight("inner", values()), more=node("MatMul", "x", "inner"))
    gather = node("Gather", "table", "x")
    conv = node("Conv", "x", "k", "bias")
    more = MATMUL + gather + conv + branch(inside) + constant("c", weight("c", values(3, 5))) + node("MatMul", "x", "c")
    kernel = tensor("k", (4, 6, 1), F32, held(9, values().tobytes()))
    save(*(weight(name, values()) for name in ("w", "table")), kernel, weight("bias", values(1, 4)[0]), more=more)
    apply()
    quantized = {"w", "k", "c"}
    new = {f"{name}_{what}" for name in quantized for what in ("quantized", "scale")}
    assert names() == {"table", "bias", "inner"} | new
    apply("--include", "table")
    assert {"w", "table_quantized"} <= names()
    refused("'inner': it lies in a graph within a node", "--include", "inner")


def test_one_node_serves_all_and_a_name_that_is_there_is_not_taken():
    save(weight("w", values()), more=MATMUL + node("Add", "w_scale", "w", output="w_quantized"))
    apply()
    data = Path("out.onnx").read_bytes()
    assert data.count(b"DequantizeLinear") == 2  # its name, and what it does
    assert held(1, "w_quantized_1") + held(1, "w_scale_1") + held(2, "w") in data


def test_an_input_of_the_graph_is_one_no_longer():
    entry = held(11, held(1, "w"))
    save(weight("w", values()), more=held(11, held(1, "x")) + entry + MATMUL)
    assert "warning: no longer input of the graph, which could replace the weight: 'w'" in apply()
    assert entry not in Path("out.onnx").read_bytes()
    assert held(11, held(1, "x")) in Path("out.onnx").read_bytes()
    save(weight("w", values()), more=entry + MATMUL, ir=3)
    assert "warning" not in apply()


# --- what is refused


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("DequantizeLinear takes no float4_e2m1fn; use int2 to int16", ("--dtype", "float4_e2m1fn")),
        ("DequantizeLinear has no blocks along two axes; use --per channel", ("--per", "block:2,2")),
    ],
)
def test_settings_that_the_node_does_not_take_are_refused_before_calibrating(what, options):
    save(weight("w", np.full((4, 6), np.nan, np.float32)))
    refused(what, *options)


def test_other_models_and_settings_that_are_refused():
    save(weight("w", values(dtype=np.float64), F64))
    refused("w: DequantizeLinear gives no float64; leave it out: --exclude")
    save(weight("w", values()), more=node("QuantizeLinear", "w", "s"))
    refused("no tensor", code=3)
    refused("'w': the model quantizes it already", "--include", "w")
    save(weight("w", values(dtype=np.float16), F16), opset=18)
    refused("its scales are no float16, as DequantizeLinear has them here", "--scale-format", "float32")
    np.save("w.npy", values())
    refused("'w.npy' is no .onnx file, whose graph the quantized one needs", base="w.npy")
    Path("cut.onnx").write_bytes(model(weight("w", values()))[:-40])
    refused("", base="cut.onnx", code=3)


def test_data_beside_the_model_are_brought_into_it():
    """Of what is not quantized, too, whatever its type; a field that nobody knows stays."""
    integers = np.arange(3, 7)
    Path("m.onnx_data").write_bytes(values().tobytes() + values(2, 2).tobytes() + integers.tobytes())
    some = held(77, "?")
    kept = tensor("kept", (2, 2), F32, external(offset=96) + some)
    ids = tensor("ids", (4,), 7, external(offset=112, length=None))
    save(kept, tensor("w", (4, 6), F32, external(length=96)), ids)
    apply()
    data = Path("out.onnx").read_bytes()
    assert held(5, tensor("kept", (2, 2), F32, some + held(9, values(2, 2).tobytes()))) in data
    assert held(5, tensor("ids", (4,), 7, held(9, integers.tobytes()))) in data
    assert b"m.onnx_data" not in data
    Path("m.onnx_data").write_bytes(Path("m.onnx_data").read_bytes()[:-33])
    refused("'kept': it needs 112 bytes, the file has 111", code=3)
    Path("m.onnx_data").write_bytes(bytes(112))
    save(tensor("w", (4, 6), F32, external(length=96)), tensor("ids", (4,), 7, external(offset=112, length=32)))
    refused("'ids': it needs 144 bytes, the file has 112", code=3)
    save(weight("w", values()), tensor("ids", (4,), 7, external(location="../a")))
    refused("'ids': its data would be in '../a', which is not below the model's folder", code=3)


def test_data_beside_the_model_that_stay_there_are_refused():
    Path("m.onnx_data").write_bytes(values().tobytes())
    save(weight("w", values()), more=MATMUL + constant("c", tensor("c", (4, 6), F32, external(length=96))))
    refused("the data of 'c', which is no initializer, lie in another file; save the model again with onnx.save")
    apply("--include", "c")


def test_tied_weights_are_stored_once_and_made_twice():
    """Two names of the same data beside the model; one of which the operator takes."""
    Path("m.onnx_data").write_bytes(values().tobytes())
    save(*(tensor(name, (4, 6), F32, external(length=96)) for name in ("first", "w")))
    apply()
    data = Path("out.onnx").read_bytes()
    for name in ("first", "w"):
        assert held(1, "first_quantized") + held(1, "first_scale") + held(2, name) in data
    assert data.count(held(8, "first_quantized")) == 1
    assert attribute("axis", 1) in data


def test_a_model_that_no_protobuf_message_can_hold_is_refused(monkeypatch):
    save(weight("w", values()))
    apply()
    size = Path("out.onnx").stat().st_size
    monkeypatch.setattr(onnx, "MOST_BYTES", size)
    apply()
    monkeypatch.setattr(onnx, "MOST_BYTES", size - 1)
    refused(f"it would have {size} bytes; protobuf allows {size - 1}")


def test_the_input_is_not_replaced():
    save(weight("w", values()))
    before = Path("base.onnx").read_bytes()
    done = klcal("apply", "base.onnx", "--to", "onnx", "-o", "base.onnx")
    assert done.code == 2
    assert Path("base.onnx").read_bytes() == before


def test_every_cut_of_a_model_is_refused_and_leaves_nothing():
    whole = model(weight("w", values()), behind=b"")
    for length in range(0, len(whole), 5):
        Path("base.onnx").write_bytes(whole[:length])
        refused("", code=3)


def test_half_precision_has_scales_of_its_own():
    array = values(dtype=np.float16)
    save(weight("w", array, F16), opset=18)
    apply()
    row = row_of(array, dtype="int8", scheme="symmetric-full", per="channel:1", scale_format="float16")
    data = Path("out.onnx").read_bytes()
    assert weight("w_scale", np.float16(row.units.scale), F16) in data
    assert held(8, number(2, 19)) in data


# --- activations; tests/consumers has the proofs


@pytest.mark.parametrize(("version", "why"), [(None, "which is not installed"), ("1.26.0", "1.26.0 is too old")])
def test_without_onnx_runtime_that_is_said_and_nothing_is_read(version, why, monkeypatch):
    for name in ("onnxruntime", "onnxruntime.quantization"):
        module = None if version is None else SimpleNamespace(__version__=version)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(library.UsageError, match=why) as told:
        library.apply("absent.onnx", "out.onnx", to="onnx", activations="absent.npz")
    assert "pip install 'klcal[onnxruntime]'" in str(told.value)


def test_activations_are_for_onnx_alone():
    with pytest.raises(library.UsageError, match="activations are quantized in ONNX alone, not in npz"):
        library.apply("absent.onnx", "out.npz", to="npz", activations="absent.npz")
