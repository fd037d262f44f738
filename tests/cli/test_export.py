"""``klcal export``: all of it or nothing; no name too many or too few; what a runtime changes is said."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import klcal as library
from klcal.errors import InputError, UsageError
from klcal.pipeline.consumers import renaming
from klcal.readers.onnx_graph import graph_inputs_and_nodes
from klcal.tables.table import Config, FileError, Table
from klcal.writers.runtimes import FORMATS, runtime_of
from klcal.writers.runtimes.runtime import Tensors
from tests.support.command import klcal, klcal_process, normal, one_message
from tests.support.files import damaged, file_of
from tests.support.protobuf import FLOAT, branch, graph, held, integer, model, number, tensor
from tests.writers.test_runtimes import ACTIVATIONS, SIGNED, WEIGHTS, of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("acts.json", *ACTIVATIONS, source="acts.npz")
    save("weights.json", *WEIGHTS, source="m.pt")
    save("signed.json", *SIGNED, source="acts.npz")


def save(path: str, *rows, source: str = "m.pt") -> str:
    Table.of(Config("mse", "int8", "symmetric"), [replace(row, source=source) for row in rows]).write(path)
    return path


def refused(*arguments: str, to: str = "ort", code: int = 3) -> str:
    """The only message of an export that is refused; an older file is as it was."""
    Path("out").write_text("old")
    done = klcal("export", *arguments, "--to", to, "-o", "out")
    assert (done.code, done.out) == (code, "")
    assert Path("out").read_text() == "old"
    assert not list(Path().glob(".klcal*"))
    return one_message(done)


# --- a model, byte by byte


def node(op: str, inputs: list[str], outputs: list[str], **integers: int) -> bytes:
    attributes = (held(5, held(1, name) + number(3, value)) for name, value in integers.items())
    names = [held(1, name) for name in inputs] + [held(2, name) for name in outputs]
    return held(1, b"".join([*names, held(4, op), *attributes]))


def weight(name: str, *shape: int) -> bytes:
    return tensor(name, shape, FLOAT, held(9, bytes(4 * int(np.prod(shape)))))


NODES = (
    node("Conv", ["x", "conv.weight", "conv.bias"], ["conv_out"]),
    node("Relu", ["conv_out"], ["relu_out"]),
    node("Flatten", ["relu_out"], ["flat"]),
    node("MatMul", ["flat", "fc.weight"], ["y"]),
)
TENSORS = (weight("conv.weight", 4, 3, 3, 3), weight("conv.bias", 4), weight("fc.weight", 144, 5))
INPUT = held(11, held(1, "x"))
MODEL = model(*TENSORS, more=INPUT + b"".join(NODES))


@pytest.fixture
def onnx_model() -> str:
    Path("m.onnx").write_bytes(MODEL)
    return "m.onnx"


# --- it writes what there is


@pytest.mark.parametrize("to", FORMATS)
def test_each_format_is_written_to_a_file_and_to_stdout(to):
    tables = {"ort-cache": ["acts.json"], "tensorrt-cache": ["signed.json"]}
    given_tables = tables.get(to, ["acts.json", "--weights", "weights.json"])
    assert klcal("export", *given_tables, "--to", to, "-o", "out.x").code == 0
    text = runtime_of(to).write(Tensors(*(sorted(rows, key=lambda row: row.name) for rows in of(to))))
    assert Path("out.x").read_text() == text
    assert klcal("export", *given_tables, "--to", to).out == text


def test_the_command_as_users_run_it_from_files_of_both_kinds(onnx_model):
    save("weights.safetensors", *WEIGHTS)
    done = klcal_process("export", "acts.json", "weights.safetensors", "--to", "ort", "--model", onnx_model)
    assert done.code == 0
    assert list(json.loads(done.out)) == ["relu_out", "x", "conv.weight", "fc.weight"]
    assert "'y': it is in m.onnx and in no table: ONNX Runtime takes their scales from the data" in done.err
    cache = klcal("export", "acts.json", "--to", "ort-cache", "--model", onnx_model)
    assert "'conv_out', 'y' (2 tensors): it is in m.onnx and in no table: ONNX Runtime stops" in cache.err
    assert "--activation_type quint8 --weight_type qint8" in done.err


def test_the_library_does_the_same(onnx_model):
    table = library.load_table("acts.json")
    told = library.export([table, Path("weights.json")], "ort", Path("a"), model=onnx_model, exclude="x")
    command = ("acts.json", "weights.json", "--to", "ort", "--model", onnx_model, "--exclude", "x", "-o", "b")
    assert klcal("export", *command).code == 0
    assert Path("a").read_bytes() == Path("b").read_bytes()
    assert len(told) == 4
    with pytest.raises(InputError, match=r"'conv.weight', 'fc.weight' .2 tensors.: it is a weight") as caught:
        library.export(table, "ort-cache", "c", weights="weights.json")
    assert "--" not in str(caught.value)
    assert not Path("c").exists()
    with pytest.raises(UsageError, match="unknown format 'onnx'"):
        library.export(table, "onnx", "c")
    with pytest.raises(UsageError, match="is a pipe or a device"):
        library.export(table, "ort", os.devnull)


def test_skipped_tensors_are_not_exported_and_a_table_of_only_such_is_an_error():
    skipped = replace(ACTIVATIONS[0], name="shape", status="skipped", reason="integers", scale=None, zero_point=None)
    save("more.json", *ACTIVATIONS, skipped)
    assert '"shape"' not in klcal("export", "more.json", "--to", "ort").out
    assert "there is no tensor to export" in refused(save("none.json", skipped))


# --- weights and activations


def test_a_weight_is_one_by_option_by_file_or_by_model(onnx_model):
    entries = {}
    for how, arguments in {
        "option": ["acts.json", "--weights", "weights.json"],
        "file": ["acts.json", save("w.json", *WEIGHTS, source="m.onnx")],
        "model": ["acts.json", "weights.json", "--model", onnx_model],
    }.items():
        entries[how] = klcal("export", *arguments, "--to", "aimet-1.0.0").document["param_encodings"]
    assert entries["option"] == entries["file"] == entries["model"]
    assert [each["name"] for each in entries["model"]] == ["conv.weight", "fc.weight"]
    assert "which only weights may have: hand in its table as one of weights" in refused("weights.json")


def test_types_are_one_of_all_activations_and_one_of_all_weights():
    message = refused("acts.json", "signed.json")
    assert "one type for all activations, these have uint8 ('relu_out'), int8 (" in message


def test_biases_are_left_out_where_the_runtime_has_no_scales_of_them(onnx_model):
    bias = replace(WEIGHTS[1], name="conv.bias", shape=(4,))
    save("w.json", *WEIGHTS, bias, source="m.onnx")
    done = klcal("export", "w.json", "--to", "ort", "--model", onnx_model)
    assert "'conv.bias': left out: ONNX Runtime takes no scales of biases" in done.err
    assert "conv.bias" not in done.document
    assert "conv.bias" not in klcal("export", "w.json", "--to", "aimet-2.0.0").out
    alone = replace(WEIGHTS[1], name="conv.bias", shape=None)
    assert "left out" in klcal("export", save("b.json", *WEIGHTS, alone), "--to", "ort", "--model", onnx_model).err


# --- names


def test_a_name_too_many_is_an_error_with_the_nearest(onnx_model):
    message = refused("acts.json", "--rename", "s/^x$/xx/", "--model", onnx_model)
    assert message.startswith("klcal: error: 'xx': it is not in m.onnx, the nearest names there are 'x'")


def test_a_list_of_names_has_no_more_and_no_fewer():
    Path("names.txt").write_text("x\r\n\r\nrelu_out\r\n")
    assert klcal("export", "acts.json", "--to", "ort-cache", "--names", "names.txt").code == 0
    Path("names.txt").write_text("x\nrelu_out\ny\n")
    message = refused("acts.json", "--names", "names.txt", to="ort-cache")
    assert "error: 'y': it is in names.txt and in no table: ONNX Runtime stops" in message
    Path("names.txt").write_text("x\n")
    assert "'relu_out': it is not in names.txt" in refused("acts.json", "--names", "names.txt", to="ort-cache")


def test_of_a_model_and_a_list_the_list_says_what_is_needed(onnx_model):
    Path("names.txt").write_text("x\nrelu_out\nconv.weight\nfc.weight\n")
    arguments = ("acts.json", "weights.json", "--to", "aimet-1.0.0", "--model", onnx_model, "--names", "names.txt")
    assert len(klcal("export", *arguments).document["param_encodings"]) == 2
    Path("names.txt").write_text("x\nrelu_out\nconv.weight\nfc.weight\ny\n")
    assert klcal("export", *arguments).code == 3


def test_two_rows_of_one_name_are_an_error_also_after_renaming():
    other = save("other.json", ACTIVATIONS[0], source="b.npz")
    assert "'x': 2 rows have this name, of 'acts.npz', 'b.npz'" in refused("acts.json", other)
    assert "2 rows have this name" in refused("acts.json", "--rename", "s/.*/x/")


def test_tied_weights_have_the_names_that_the_model_has(onnx_model):
    tied = replace(WEIGHTS[0], name="a", aliases=("b", "conv.weight"))
    arguments = ("--weights", save("w.json", tied), "--to", "ort")
    assert list(klcal("export", *arguments, "--model", onnx_model).document) == ["conv.weight"]
    assert list(klcal("export", *arguments).document) == ["a", "b", "conv.weight"]
    assert list(klcal("export", *arguments, "--exclude", "a").document) == ["b", "conv.weight"]
    assert "'a': it is not in" in refused("--weights", save("w.json", replace(tied, aliases=())), "--model", onnx_model)


def test_weights_of_another_shape_or_along_another_axis_are_reported(onnx_model):
    turned = replace(WEIGHTS[1], shape=(5, 144))
    message = refused("--weights", save("w.json", turned), "--model", onnx_model)
    assert "the shape [5, 144] in the table and [144, 5] in m.onnx; calibrate m.onnx itself" in message
    Path("w.onnx").write_bytes(model(weight("fc.weight", 4, 3, 3, 3), more=node("MatMul", ["x", "fc.weight"], ["y"])))
    wrong = save("w.json", replace(WEIGHTS[0], name="fc.weight"))
    said = klcal("export", "--weights", wrong, "--to", "ort", "--model", "w.onnx").err
    assert "its channels lie along axis 0, its outputs along 3; calibrate it per channel:3" in said
    assert "its outputs along 3" in refused("--weights", wrong, "--model", "w.onnx", to="aimet-1.0.0")
    assert klcal("export", "--weights", wrong, "--to", "aimet-2.0.0", "--model", "w.onnx").code == 0


def test_weights_of_another_file_than_the_model_are_reported(onnx_model):
    done = klcal("export", "--weights", "weights.json", "--to", "ort", "--model", onnx_model)
    assert "'conv.weight', 'fc.weight' (2 tensors): calibrated in m.pt: exporters fold BatchNorm" in done.err
    same = save("same.json", *WEIGHTS, source="models/m.onnx")
    assert "BatchNorm" not in klcal("export", same, "--to", "ort", "--model", onnx_model).err


def test_tensors_that_a_table_lacks_are_reported():
    table = library.load_table("acts.json")
    replace(table, errors=(FileError("broken.npy", "cut short"),)).write("less.json")
    assert "a table has nothing of 'broken.npy'" in klcal("export", "less.json", "--to", "ort").err


@pytest.mark.parametrize(
    ("texts", "before", "after"),
    [
        ([], "a.b", "a.b"),
        (["s/a/b/"], "aa", "ba"),
        (["s/a/b/g"], "aa", "bb"),
        ([r"s|^module\.||"], "module.fc", "fc"),
        ([r"s/(\d+)\.w/\1_w/"], "fc.3.w", "fc.3_w"),
        ([r"s/\//./g"], "a/b/c", "a.b.c"),
        (["s/a/b/", "s/b/c/"], "a", "c"),
        ([r"s/(?P<n>x)/\g<n>\g<n>/"], "x", "xx"),
    ],
)
def test_names_are_changed_as_sed_does(texts, before, after):
    assert renaming(texts)(before) == after


NO_SUBSTITUTIONS = ["", "s", "s/a", "s/a/b", "s/a/b/c/", "s/a/b/x", "y/a/b/", "sabcb", "s/(/b/", r"s/a/\1/", r"s/a/\q/"]


@pytest.mark.parametrize("text", NO_SUBSTITUTIONS)
def test_an_invalid_substitution_is_a_usage_error(text):
    assert "the substitution" in refused("acts.json", "--rename", text, code=2)


# --- what is wrong costs the whole file


def test_every_tensor_that_cannot_be_exported_is_named():
    zero = replace(ACTIVATIONS[0], name="z", status="zero", reason="every value is 0", scale=None, zero_point=None)
    lost = replace(zero, name="n", status="nonfinite", reason="1 NaN")
    save("bad.json", *ACTIVATIONS, zero, lost)
    Path("out").write_text("old")
    done = klcal("export", "bad.json", "--to", "ort", "-o", "out")
    assert done.code == 3
    assert Path("out").read_text() == "old"
    assert [line.split(";")[0] for line in done.messages] == [
        "klcal: error: 'n': it has no scale: 1 NaN",
        "klcal: error: 'z': it has no scale: every value is 0",
    ]
    assert klcal("export", "bad.json", "--to", "ort", "--exclude", "[nz]", "-o", "out").code == 0


def test_many_tensors_are_one_message():
    save("many.json", *(replace(ACTIVATIONS[0], name=f"t{k}", scale=-1.0) for k in range(100)))
    assert "'t0', 't1', 't2', … (100 tensors): the scale is -1" in refused("many.json")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "there is no table"),
        (("absent.json",), "the table 'absent.json'"),
        (("damaged.json",), "the table 'damaged.json'"),
        (("acts.json", "--model", "absent.onnx"), "the model 'absent.onnx'"),
        (("acts.json", "--model", "acts.json"), "is no .onnx"),
        (("acts.json", "--model", "damaged.onnx"), "the model 'damaged.onnx'"),
        (("acts.json", "--names", "absent.txt"), "the list of names 'absent.txt'"),
        (("acts.json", "--names", "binary"), "is no text"),
        (("acts.json", "--names", "empty"), "has no names"),
    ],
)
def test_wrong_usage_is_reported_and_nothing_written(arguments, told):
    Path("damaged.json").write_text('{"schema": "klcal.table/2"')
    Path("damaged.onnx").write_bytes(MODEL[:-3])
    Path("binary").write_bytes(b"\xff\xfe")
    Path("empty").write_text("\n \n")
    assert told in refused(*arguments, code=2)


@pytest.mark.parametrize("target", ["acts.json", "m.onnx", "absent/out", "names.txt", "."])
def test_no_input_is_overwritten_and_an_output_that_cannot_be_is_found_first(target, onnx_model):
    Path("names.txt").write_text("x\nrelu_out\n")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    done = klcal("export", "acts.json", "--to", "ort", "--model", onnx_model, "--names", "names.txt", "-o", target)
    assert done.code == 2
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_to_is_needed_and_one_of_the_formats():
    assert "missing option '--to'" in one_message(klcal("export", "acts.json"))
    assert "'onnx' is not one of 'ort'" in one_message(klcal("export", "acts.json", "--to", "onnx"))


def test_globs_that_match_nothing_are_reported():
    done = klcal("export", "acts.json", "--to", "ort", "--exclude", "conv*")
    assert "--exclude 'conv*' matches no tensor; the nearest names are" in done.err


# --- end to end: from values to the file


def test_from_values_to_overrides(onnx_model):
    safetensors.numpy.save_file({"x": normal(500), "relu_out": np.maximum(normal(500), 0)}, "acts.safetensors")
    assert klcal("calibrate", "acts.safetensors", "-o", "a.json").code == 0
    document = klcal("export", "a.json", "--to", "ort", "--model", onnx_model).document
    rows = {row.name: row for row in library.load_table("a.json").rows}
    for name, (entry,) in document.items():
        assert np.float32(entry["scale"]) == np.float32(rows[name].scale)
        assert entry["zero_point"] == rows[name].zero_point


# --- the graph of a model


def test_the_nodes_of_a_graph_and_of_graphs_within_it(tmp_path):
    inner = graph(more=node("Gemm", ["y", "w", ""], ["z"], transB=1))
    inputs, nodes = graph_inputs_and_nodes(file_of(tmp_path, model(more=INPUT + NODES[0] + branch(inner)), ".onnx"))
    assert inputs == ["x"]
    assert [(each.op, each.inputs, each.outputs, each.integers) for each in nodes] == [
        ("Conv", ("x", "conv.weight", "conv.bias"), ("conv_out",), {}),
        ("If", (), (), {}),
        ("Gemm", ("y", "w", ""), ("z",), {"transB": 1}),
    ]


def test_graphs_within_each_other_have_a_limit(tmp_path):
    data = graph()
    for _ in range(40):
        data = graph(more=branch(data))
    with pytest.raises(InputError, match="graphs are nested more than"):
        graph_inputs_and_nodes(file_of(tmp_path, integer(7 << 3 | 2) + integer(len(data)) + data, ".onnx"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@given(st.data())
def test_a_damaged_graph_is_an_error_or_one_that_can_be_walked(folder, data):
    Path(folder / "m.onnx").write_bytes(data.draw(damaged(MODEL)))
    with contextlib.suppress(InputError, UsageError):
        library.export("acts.json", "ort", folder / "out", model=folder / "m.onnx")


def test_a_graph_that_goes_in_circles_is_walked():
    Path("m.onnx").write_bytes(
        model(*TENSORS, more=INPUT + node("Reshape", ["a"], ["a"]) + node("MatMul", ["a", "x"], ["relu_out"]))
    )
    assert klcal("export", "acts.json", "--to", "ort", "--model", "m.onnx").code == 0
