"""``klcal apply --to compressed-tensors``: what lies in the files, and what is refused. tests/consumers loads them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.readers import read
from klcal.readers.regular import RegularFile
from klcal.sketches.stored import stored_values
from tests.support.command import klcal
from tests.support.lazy import torch

LAYERS = [f"model.layers.{number}.{name}" for number in range(2) for name in ("self_attn.q_proj", "mlp.up_proj")]
OTHERS = {"model.embed_tokens.weight": (32, 96), "lm_head.weight": (32, 96), "model.norm.weight": (96,)}
CONFIG = {"model_type": "llama", "eos_token_id": -1, "rms_norm_eps": 1e-06, "name": "ä", "dtype": "float32"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model(path: str = "base", stored: object = np.float32, **changes: object) -> dict[str, np.ndarray]:
    """A directory with the weights of a small model, in two shards."""
    rng = np.random.default_rng(0)
    shapes = {**{f"{name}.weight": (40, 96) for name in LAYERS}, **OTHERS}
    values = {name: rng.laplace(size=shape).astype(stored) for name, shape in shapes.items()}
    Path(path).mkdir()
    config = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    Path(path, "config.json").write_text(json.dumps(config))
    where = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(values)}
    for shard in set(where.values()):
        safetensors.numpy.save_file(
            {name: values[name] for name, its in where.items() if its == shard}, f"{path}/{shard}"
        )
    Path(path, "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return values


def apply(*options: str, base: str = "base", out: str = "out") -> str:
    """The path of the quantized model."""
    done = klcal("apply", base, "--to", "compressed-tensors", "-o", out, *options)
    assert done.code == 0, done.err
    return out


def tensors(path: str) -> dict[str, np.ndarray]:
    """All that lies in it; the library has no float8 for NumPy."""
    files = map(safetensors.numpy.load_file, Path(path).glob("*.safetensors"))
    return {name: each for file in files for name, each in file.items()}


def config(out: str = "out") -> dict:
    return json.loads(Path(out, "config.json").read_text())["quantization_config"]


# --- what lies in the files


def one_row(path: str, values: np.ndarray, **changes: object) -> None:
    Path(path).mkdir()
    Path(path, "config.json").write_text(json.dumps({**CONFIG, **changes}))
    safetensors.numpy.save_file({"up.weight": values}, f"{path}/model.safetensors")


def test_words_computed_by_hand() -> None:
    one_row("base", np.arange(-8, 8, dtype=np.float32)[None] * np.float32(0.5))
    found = tensors(apply("--per", "group:16"))
    assert found["up.weight_packed"].view("<u4").tolist() == [[0x76543210, 0xFEDCBA98]]
    assert found["up.weight_scale"].tolist() == [[0.5]]
    assert found["up.weight_shape"].tolist() == [1, 16]
    assert len(found) == 3


def test_zero_points_computed_by_hand() -> None:
    """Columns of zero points are packed: those of nine rows take two words."""
    points = np.array([-8, -3, 0, 7, 1, 2, 3, 4, 5])
    one_row("base", (np.arange(-8, 8) - points[:, None]).astype(np.float32) * np.float32(0.25))
    found = tensors(apply("--scheme", "affine", "--per", "group:16"))
    assert found["up.weight_zero_point"].view("<u4").tolist() == [[0xCBA9F850], [0x0000000D]]
    assert found["up.weight_packed"].view("<u4").tolist() == [[0x76543210, 0xFEDCBA98]] * 9


def test_patterns_of_float4_and_exponents_computed_by_hand() -> None:
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    one_row("base", np.tile(levels, 2)[None] * np.float32(0.25))
    found = tensors(apply("--dtype", "float4_e2m1fn"))
    assert found["up.weight_packed"].tobytes().hex(" ") == "10 32 54 76 90 ba dc fe " + "10 32 54 76 90 ba dc fe"
    assert found["up.weight_scale"].tolist() == [[125]]


FULL = "symmetric-full"
CASES = {
    "int4": ("int4", FULL, "group:32"),
    "int4, signed scales": ("int4", "symmetric-signed", "group:32"),
    "int4, affine": ("int4", "affine", "group:32"),
    "int3, channels": ("int3", FULL, "channel"),
    "int5, affine channels": ("int5", "affine", "channel"),
    "uint2, groups of 12": ("uint2", FULL, "group:12"),
    "uint4, affine": ("uint4", "affine", "group:32"),
    "int8": ("int8", "symmetric", "channel"),
    "int8, affine": ("int8", "affine", "channel"),
    "uint8, tensor": ("uint8", "affine", "tensor"),
    "int7, tensor": ("int7", FULL, "tensor"),
    "float8": ("float8_e4m3fn", "symmetric", "channel"),
    "float8, blocks": ("float8_e4m3fn", "symmetric", "block:20,32"),
    "MXFP4": ("float4_e2m1fn", "symmetric", "group:32"),
    "NVFP4": ("float4_e2m1fn", "symmetric", "group:16"),
}
SCALE_FORMATS = {"MXFP4": "e8m0", "NVFP4": "float8_e4m3fn"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_written_model_reads_back_as_the_quantized_values(case, dtype) -> None:
    originals = model(stored=np.float32 if dtype == "float32" else ml_dtypes.bfloat16, dtype=dtype)
    words = dict(zip(("--dtype", "--scheme", "--per"), CASES[case], strict=True))
    options = [word for pair in words.items() for word in pair]
    options += ["--scale-format", SCALE_FORMATS.get(case, dtype), "--include", "*_proj.weight"]
    assert klcal("calibrate", "base", *options, "-o", "t.safetensors").code == 0
    apply("--table", "t.safetensors")
    found = {
        each.dequantized.name: stored_values(each.dequantized) for each in read("out").values() if each.dequantized
    }
    rows = {row.name: row for row in library.load_table("t.safetensors").rows}
    assert found.keys() == rows.keys() == {f"{name}.weight" for name in LAYERS}
    for name, row in rows.items():
        original = originals[name].astype(np.float32)
        expected = library.dequantize(library.quantize(original, row), row)
        if case == "NVFP4":  # of which the scales that run are quotients: a value halfway may go either way
            near, wanted = np.abs(found[name] - original), np.abs(expected - original)
            assert (np.abs(near - wanted) <= 1e-6 * np.abs(original)).all()
        else:
            np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("dtype", ["int3", "int4", "int8", "float8_e4m3fn"])
def test_rows_may_begin_anywhere_in_what_is_read_at_a_time(monkeypatch, dtype) -> None:
    values = np.random.default_rng(0).laplace(size=(11, 97)).astype(np.float32)
    one_row("base", values)
    options = ("--dtype", dtype, "--per", "channel", "--method", "minmax")
    whole = apply(*options, out="whole")
    monkeypatch.setattr("klcal.writers.codes.PIECE", 50)
    assert Path(apply(*options), "model.safetensors").read_bytes() == Path(whole, "model.safetensors").read_bytes()
    (expected,) = (stored_values(each.dequantized) for each in read("out").values() if each.dequantized)
    monkeypatch.setattr(RegularFile.blocks, "__defaults__", (64,))
    (found,) = (stored_values(each.dequantized) for each in read("out").values() if each.dequantized)
    np.testing.assert_array_equal(found, expected)


def test_compare_measures_what_was_written() -> None:
    model()
    apply("--per", "group:32", "--method", "mse")
    done = klcal("compare", "base", "out", "--dequantize", "--format", "json", "--fail-on", "sqnr_db < 15")
    assert done.code == 0, done.err
    measured = {name: each for name, each in done.tensors.items() if each["status"] == "ok"}
    assert {f"{name}.weight" for name in LAYERS} < measured.keys()
    assert measured["lm_head.weight"]["mse"] == 0
    worse = klcal("compare", "base", "out", "--dequantize", "--format", "json", "--fail-on", "sqnr_db < 25")
    assert worse.code == 1


def test_the_library_writes_the_same() -> None:
    model()
    apply("--per", "group:32", out="by_command")
    done = library.apply("base", "by_library", to="compressed-tensors", per=library.PerGroup(32))
    assert (done.quantized, done.kept, done.warnings) == (4, 3, ())
    for path in Path("by_command").iterdir():
        assert Path("by_library", path.name).read_bytes() == path.read_bytes()


def test_tensors_that_are_not_quantized_are_copied() -> None:
    originals = model()
    Path("base", "tokenizer.json").write_text("{}")
    found = tensors(apply("--per", "group:32"))
    for name in OTHERS:
        np.testing.assert_array_equal(found[name], originals[name])
    assert Path("out", "tokenizer.json").read_text() == "{}"
    index = json.loads(Path("out", "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == found.keys()
    given, written = (json.loads(Path(path, "config.json").read_text()) for path in ("base", "out"))
    assert written.pop("quantization_config")
    assert written == given


# --- what the config says


def test_one_way_for_all_linear_modules() -> None:
    model()
    apply("--per", "group:32")
    (group,) = config()["config_groups"].values()
    arguments = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    assert group == {"targets": ["Linear"], "weights": arguments, "format": "pack-quantized"}
    assert config()["format"] == "pack-quantized"
    assert sorted(config()["ignore"]) == ["lm_head", "model.embed_tokens"]


def test_groups_have_their_modules_by_expressions_where_no_other_name_fits() -> None:
    model()
    rules = ("--dtype", "*mlp*=float8_e4m3fn", "--dtype", "int4", "--per", "*mlp*=channel", "--per", "group:32")
    apply(*rules, "--exclude", "*layers.1.self_attn*")
    targets = {group["format"]: group["targets"] for group in config()["config_groups"].values()}
    assert targets == {
        "float-quantized": [r"re:^model\.layers\.\d+\.mlp\.up_proj$"],
        "pack-quantized": ["model.layers.0.self_attn.q_proj"],
    }
    assert config()["format"] == "mixed-precision"
    assert "model.layers.1.self_attn.q_proj" in config()["ignore"]


def test_a_head_without_a_tensor_of_its_own_is_ignored() -> None:
    one_row("base", np.ones((4, 128), np.float32))
    apply()
    assert config()["ignore"] == ["lm_head"]


# --- what is quantized, and how


def quantized(found: dict[str, np.ndarray]) -> set[str]:
    return {name.removesuffix(".weight_packed") for name in found if name.endswith("_packed")}


def test_embeddings_and_heads_are_taken_where_they_are_asked_for() -> None:
    model()
    assert quantized(tensors(apply("--per", "group:32"))) == {*LAYERS}
    assert quantized(tensors(apply("--per", "group:32", "--exclude", "*mlp*", out="fewer"))) == {*LAYERS[::2]}
    found = tensors(apply("--per", "group:32", "--include", "*.weight", "--exclude", "*embed*", out="more"))
    assert quantized(found) == {*LAYERS, "lm_head"}
    assert "lm_head" not in config("more")["ignore"]


def test_an_option_that_is_not_given_is_by_the_number_format() -> None:
    model(stored=ml_dtypes.bfloat16, torch_dtype="bfloat16", dtype=None)
    found = tensors(apply("--dtype", "*mlp*=int8", "--dtype", "float4_e2m1fn"))
    shapes = {name.removeprefix("model.layers.0."): (each.dtype, each.shape) for name, each in found.items()}
    assert shapes["mlp.up_proj.weight_scale"] == (ml_dtypes.bfloat16, (40, 1))
    assert shapes["self_attn.q_proj.weight_scale"] == (np.uint8, (40, 3))
    assert not {name for name in found if name.endswith("zero_point")}


def test_weights_of_zeros_are_stored_like_all_others() -> None:
    values = np.random.default_rng(0).laplace(size=(4, 128)).astype(np.float32)
    values[0, :32] = 0
    Path("base").mkdir()
    Path("base", "config.json").write_text(json.dumps(CONFIG))
    safetensors.numpy.save_file({"a.weight": values, "b.weight": values * 0}, "base/model.safetensors")
    found = tensors(apply("--per", "group:32"))
    assert found["b.weight_scale"].tolist() == np.ones((4, 4)).tolist()
    assert found["b.weight_packed"].view(np.uint32).ravel().tolist() == [0x88888888] * 64
    assert found["a.weight_scale"][0, 0] == 1
    assert len(config()["config_groups"]) == 1


def test_weights_of_a_pt_that_are_tied_to_an_embedding_stay(tmp_path) -> None:
    Path("base").mkdir()
    Path("base", "config.json").write_text(json.dumps(CONFIG))
    shared = torch.ones(4, 128)
    other = torch.ones(4, 128)
    state = {"out.weight": shared, "embed_tokens.weight": shared, "up.weight": torch.ones(4, 128)}
    torch.save({**state, "table.weight": other, "table.of_words": other}, "base/pytorch_model.bin")
    found = tensors(apply())
    assert {path.name for path in Path("out").iterdir()} == {"config.json", "model.safetensors"}
    assert quantized(found) == {"up"}
    for name in ("out.weight", "embed_tokens.weight", "table.weight", "table.of_words"):
        assert (found[name] == 1).all()


# --- inputs that were dumped


def with_inputs(*options: str) -> None:
    """A model of one weight, what went into it, and a table of both."""
    one_row("base", np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128))
    safetensors.numpy.save_file(
        {"up.input": np.linspace(-1, 3, 640, dtype=np.float32).reshape(5, 128)}, "i.safetensors"
    )
    assert klcal("calibrate", "base", "i.safetensors", *options, "-o", "t.json").code == 0


def test_scales_of_inputs_stand_beside_those_of_weights() -> None:
    with_inputs("--dtype", "int8", "--per", "up.weight=channel", "--scheme", "symmetric-full")
    found = tensors(apply("--table", "t.json"))
    rows = {row.name: row for row in library.load_table("t.json").rows}
    assert found["up.input_scale"].tolist() == [np.float32(rows["up.input"].scale)]
    assert {name: each.dtype for name, each in found.items() if name == "up.weight"} == {"up.weight": np.int8}
    (group,) = config()["config_groups"].values()
    of_inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
    assert group["input_activations"] == of_inputs
    assert group["format"] == "int-quantized"


def test_a_zero_point_of_inputs_is_signed() -> None:
    with_inputs("--dtype", "*.input=uint8", "--dtype", "int8", "--per", "up.weight=channel")
    found = tensors(apply("--table", "t.json"))
    row = next(row for row in library.load_table("t.json").rows if row.name == "up.input")
    assert found["up.input_zero_point"].tolist() == [row.zero_point - 128]
    assert found["up.input_zero_point"].dtype == np.int8


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            ("--dtype", "*.input=int8", "--dtype", "int4", "--per", "up.weight=channel"),
            "int4 per channel beside inputs",
        ),
        (("--dtype", "*.input=float8_e4m3fn", "--dtype", "int8"), "int8 per tensor beside inputs in 8 bits (float)"),
        (("--dtype", "int8", "--per", "up.weight=group:32"), "int8 per group beside inputs"),
        (("--dtype", "int8", "--per", "channel"), "no single scale for 'up.input'"),
        (("--dtype", "*.input=int6", "--dtype", "int8"), "int6 values of 'up.input'"),
    ],
)
def test_inputs_that_do_not_go_with_their_weight_are_refused(options, what) -> None:
    with_inputs(*options)
    done = klcal("apply", "base", "--to", "compressed-tensors", "--table", "t.json", "-o", "out")
    assert done.code == 2
    assert what in done.err
    assert not Path("out").exists()


def test_a_form_that_has_no_inputs_says_that_their_rows_are_not_used() -> None:
    with_inputs("--dtype", "int8")
    done = klcal("apply", "base", "--to", "safetensors", "--table", "t.json", "-o", "out")
    assert done.code == 0
    assert "no tensor for 1 row of the table: 'up.input'" in done.err
    assert "no tensor" not in klcal("apply", "base", "--to", "compressed-tensors", "--table", "t.json", "-o", "ct").err


# --- what is refused


REFUSED = {
    "no config": ({"remove": "config.json"}, (), "there is no config.json", "--to safetensors"),
    "quantized": ({"quantization_config": {}}, (), "the model is quantized", "the one that it was made from"),
    "no Linear": ({"model_type": "gpt2"}, (), "are no Linear's", "--to safetensors"),
    "wide integers": ({}, ("--dtype", "int16", "--per", "channel"), "int16 values", "use int2 to int8"),
    "nf4": ({}, ("--dtype", "nf4", "--per", "group:32"), "nf4 values", "float4_e2m1fn"),
    "another float8": ({}, ("--dtype", "float8_e5m2"), "float8_e5m2 values", "float8_e4m3fn"),
    "float8 in groups": ({}, ("--dtype", "float8_e4m3fn", "--per", "group:32"), "float8 in groups", "--per channel"),
    "integers in blocks": ({}, ("--per", "block:8,8"), "integers in blocks", "--per channel"),
    "columns": ({}, ("--per", "channel:1"), "channels that are columns", "--per channel"),
    "groups of rows": ({}, ("--per", "group:8,0"), "another axis", "--per group:128"),
    "a shorter group": ({}, ("--per", "group:64"), "96 columns in groups of 64", "a rule"),
    "float4 in channels": ({}, ("--dtype", "float4_e2m1fn", "--per", "channel"), "float4 per channel", "MXFP4"),
    "a zero point": ({}, ("--scheme", "affine", "--per", "tensor"), "a single zero point", "--per channel"),
    "mixed zero points": (
        {},
        ("--dtype", "*mlp*=int8", "--scheme", "affine", "--per", "group:32"),
        "packed zero points beside",
        "--scheme symmetric-full",
    ),
    "wide scales": (
        {"dtype": "bfloat16"},
        ("--per", "group:32", "--scale-format", "float32"),
        "its scales are no bfloat16",
        "--scale-format bfloat16",
    ),
    "narrow scales": (
        {"torch_dtype": "float16", "dtype": None},
        ("--per", "group:32", "--scale-format", "float32"),
        "its scales are no float16",
        "--scale-format float16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_could_not_be_loaded_is_refused_with_the_next_step(case) -> None:
    changes, options, what, hint = REFUSED[case]
    changes = dict(changes)
    remove = changes.pop("remove", None)
    model(**changes)
    if remove:
        Path("base", remove).unlink()
    done = klcal("apply", "base", "--to", "compressed-tensors", "-o", "out", *options)
    assert done.code == 2, done.err
    error = next(line for line in done.messages if "error" in line)
    assert what in error
    assert hint in error
    assert not Path("out").exists()


@pytest.mark.parametrize("case", ["a shorter group", "wide integers", "float4 in channels"])
def test_nothing_is_calibrated_for_what_cannot_be_stored(monkeypatch, case) -> None:
    model()
    monkeypatch.setattr("klcal.pipeline.apply.calibrate_files", None)
    options = REFUSED[case][1]
    assert klcal("apply", "base", "--to", "compressed-tensors", "-o", "out", *options).code == 2
    assert klcal("apply", "base", "--to", "compressed-tensors", "-o", "out", "--per", "channel").code == 5


def test_a_file_alone_is_refused() -> None:
    model()
    shard = "base/model-00001-of-00002.safetensors"
    done = klcal("apply", shard, "--to", "compressed-tensors", "-o", "out.safetensors")
    assert done.code == 2
    assert "give the directory of the model" in done.err


def test_weights_below_the_config_are_refused_and_the_index_is_the_way_out() -> None:
    model()
    Path("base/original").mkdir()
    safetensors.numpy.save_file({"up.weight": np.ones((4, 96), np.float32)}, "base/original/consolidated.safetensors")
    done = klcal("apply", "base", "--to", "compressed-tensors", "--per", "group:32", "-o", "out")
    assert done.code == 2
    assert "give the index" in done.err
    assert quantized(tensors(apply("--per", "group:32", base="base/model.safetensors.index.json"))) == {*LAYERS}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "\xff"])
def test_a_damaged_config_is_refused(text) -> None:
    model()
    Path("base", "config.json").write_text(text, encoding="latin-1")
    done = klcal("apply", "base", "--to", "compressed-tensors", "-o", "out")
    assert done.code == 2
    assert "config.json" in done.err
    assert not Path("out").exists()


def test_a_config_that_is_no_file_is_refused() -> None:
    model()
    Path("base/config.json").unlink()
    os.mkfifo("base/config.json")
    done = klcal("apply", "base", "--to", "compressed-tensors", "-o", "out")
    assert done.code == 2
    assert "the config.json cannot be read" in done.err
