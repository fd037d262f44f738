"""transformers loads what ``klcal apply --to compressed-tensors`` writes, and computes with it what the table says.

What cannot be loaded is printed, and the weight is random: so each check looks at what the loader reports, at every
weight bit by bit, and at what the model computes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import klcal as library
from tests.support.command import klcal, klcal_process

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="make test-consumers installs it")
load_file = pytest.importorskip("safetensors.torch").load_file
save_file = pytest.importorskip("safetensors.torch").save_file

LINEAR = "*_proj.weight"
TOKENS = torch.arange(1, 17)[None]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Models of random weights, by dtype; "tied" has its head and its embedding in common."""
    found = {}
    for name, dtype in {**DTYPES, "tied": torch.float32, "shards": torch.float32}.items():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=name == "tied",
        )
        model = transformers.LlamaForCausalLM(config).to(dtype)
        found[name] = str(tmp_path_factory.mktemp(name) / "base")
        model.save_pretrained(found[name], **({"max_shard_size": "700KB"} if name == "shards" else {}))
        Path(found[name], "tokenizer.json").write_text("{}")
    return found


def applied(base: str, out: Path, *options: str) -> str:
    """The path of a quantized model."""
    done = klcal("apply", base, "--to", "compressed-tensors", "-o", str(out), *options)
    assert done.code == 0, done.err
    return str(out)


def loaded(path: str):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[what], f"{what}: {info[what]}"
    return model


def by_table(base: str, table: str) -> dict[str, np.ndarray]:
    """(q − z) · s of each weight that the table has a row for."""
    state, found = load_file(f"{base}/model.safetensors"), {}
    for row in library.load_table(table).rows:
        values = state[row.name].to(torch.float32).numpy()
        found[row.name] = library.dequantize(library.quantize(values, row), row)
    assert found
    return found


def check(base: str, out: str, weights: dict[str, np.ndarray]) -> None:
    """A quantized model is the float one with these weights, rounded to its dtype: to the bit."""
    model, dense = loaded(out), transformers.AutoModelForCausalLM.from_pretrained(base)
    state = dense.state_dict()
    for name, values in weights.items():
        state[name].copy_(torch.from_numpy(values).to(state[name].dtype))
    with torch.no_grad():
        logits, expected = model(TOKENS).logits, dense(TOKENS).logits  # the first forward unpacks
    for name, wanted in dense.named_parameters():
        found = model.get_parameter(name)
        assert found.dtype == wanted.dtype, name
        assert torch.equal(found, wanted), name
    assert torch.equal(logits, expected)


def check_options(base: str, tmp_path: Path, *options: str) -> str:
    """Calibrated with these options, and applied by that table."""
    table = str(tmp_path / "table.safetensors")
    done = klcal("calibrate", base, "--include", LINEAR, *options, "-o", table)
    assert done.code == 0, done.err
    out = applied(base, tmp_path / "out", "--table", table)
    check(base, out, by_table(base, table))
    return out


FULL = ("--scheme", "symmetric-full")
CASES = {
    "int4 groups": ("--dtype", "int4", *FULL, "--per", "group:128"),
    "int4 groups, negative scales": ("--dtype", "int4", "--scheme", "symmetric-signed", "--per", "group:32"),
    "uint4 groups around 8": ("--dtype", "uint4", *FULL, "--per", "group:32"),
    "int3 channels": ("--dtype", "int3", *FULL, "--per", "channel"),
    "int8 channels": ("--dtype", "int8", "--per", "channel"),
    "int8 groups": ("--dtype", "int8", *FULL, "--per", "group:64"),
    "int8 tensor": ("--dtype", "int8", *FULL),
    "int8 channels, affine": ("--dtype", "int8", "--scheme", "affine", "--per", "channel"),
    "uint8 tensor, affine": (
        "--dtype",
        "uint8",
    ),
    "float8 channels": ("--dtype", "float8_e4m3fn", "--per", "channel"),
    "float8 tensor": ("--dtype", "float8_e4m3fn"),
    "float8 blocks": ("--dtype", "float8_e4m3fn", "--per", "block:64,64"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_logits_are_those_of_the_table(bases, tmp_path, case, dtype) -> None:
    check_options(bases[dtype], tmp_path, *CASES[case], "--scale-format", dtype)


FLOAT4 = ("--dtype", "float4_e2m1fn", "--include", LINEAR)


def test_mxfp4(bases, tmp_path) -> None:
    """Which transformers computes in bfloat16 alone."""
    check_options(bases["bfloat16"], tmp_path, *FLOAT4, "--per", "group:32", "--scale-format", "e8m0")


def test_nvfp4(bases, tmp_path) -> None:
    """The scale that runs is a quotient of what is in the file, and it is what values were divided by."""
    base = bases["bfloat16"]
    out = applied(base, tmp_path / "out", *FLOAT4, "--per", "group:16")
    stored = load_file(f"{out}/model.safetensors")
    originals, weights = load_file(f"{base}/model.safetensors"), {}
    for name in (name.removesuffix("_packed") for name in stored if name.endswith("_packed")):
        packed = stored[f"{name}_packed"].numpy()
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
        magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        levels = np.concatenate([magnitudes, -magnitudes])
        running = stored[f"{name}_scale"].to(torch.float32).numpy() / stored[f"{name}_global_scale"].numpy()
        scales = np.repeat(running, 16, axis=1)
        weights[name] = levels[nibbles] * scales
        values = originals[name].to(torch.float32).numpy()
        nearest = np.abs(values[..., None] / scales[..., None] - levels).min(axis=-1)
        assert (np.abs(values / scales - levels[nibbles]) <= nearest * (1 + 1e-6)).all(), name
    assert len(weights) == 14
    check(base, out, weights)


def test_without_a_table_scales_are_of_the_model_s_dtype_and_nothing_is_rounded(bases, tmp_path) -> None:
    base = bases["bfloat16"]
    out = applied(base, tmp_path / "out")
    config = json.loads(Path(out, "config.json").read_text())["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["num_bits"] == 4
    stored = load_file(f"{out}/model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name.endswith("_scale")} == {torch.bfloat16}
    table = str(tmp_path / "t.json")
    options = (*FULL, "--dtype", "int4", "--per", "group:128", "--scale-format", "bfloat16")
    assert klcal("calibrate", base, "--include", LINEAR, *options, "-o", table).code == 0
    check(base, out, by_table(base, table))


def test_float16(bases, tmp_path) -> None:
    check_options(bases["float16"], tmp_path, *CASES["int4 groups"], "--scale-format", "float16")


def test_shards_are_as_one_file(bases, tmp_path) -> None:
    assert len(list(Path(bases["shards"]).glob("*.safetensors"))) == 2
    out, whole = (applied(bases[name], tmp_path / name) for name in ("shards", "float32"))
    assert len(list(Path(out).glob("*.safetensors"))) == 2
    with torch.no_grad():
        assert torch.equal(loaded(out)(TOKENS).logits, loaded(whole)(TOKENS).logits)


def test_a_head_that_is_the_embedding_stays_as_it_is(bases, tmp_path) -> None:
    base = bases["tied"]
    model = loaded(applied(base, tmp_path / "out"))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    original = load_file(f"{base}/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.lm_head.weight, original)


def test_experts_and_a_process_of_its_own(tmp_path) -> None:
    """Which transformers puts together; beside the model in which the values are replaced."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 3, "max_position_embeddings": 64}
    base, table = str(tmp_path / "base"), str(tmp_path / "t.safetensors")
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads)).save_pretrained(base)
    options = ("--dtype", "int4", *FULL, "--per", "group:32", "--exclude", "*embed*", "--exclude", "*lm_head*")
    assert (
        klcal("calibrate", base, *options, "--include", "*_proj.weight", "--include", "*.w?.weight", "-o", table).code
        == 0
    )
    logits = []
    for form in ("compressed-tensors", "fake"):
        done = klcal_process("apply", base, "--to", form, "--table", table, "-o", str(tmp_path / form))
        assert done.code == 0, done.err
        with torch.no_grad():
            logits.append(loaded(str(tmp_path / form))(TOKENS).logits)
    written = load_file(tmp_path / "compressed-tensors" / "model.safetensors")
    assert sum(name.endswith("_packed") for name in written) == 4 + 3 * 3
    assert torch.equal(*logits)


MIXED = ("--dtype", "*self_attn*=int8", "--dtype", "int4", *FULL, "--per", "*self_attn*=channel", "--per", "group:128")


def test_formats_by_rules(bases, tmp_path) -> None:
    out = check_options(bases["float32"], tmp_path, *MIXED)
    groups = json.loads(Path(out, "config.json").read_text())["quantization_config"]["config_groups"]
    assert sorted(group["weights"]["num_bits"] for group in groups.values()) == [4, 8]


def test_integers_beside_floats_and_modules_that_are_left_out(bases, tmp_path) -> None:
    rules = ("--dtype", "*mlp*=float8_e4m3fn", "--dtype", "int4", "--per", "*mlp*=channel", "--per", "group:32")
    out = applied(bases["float32"], tmp_path / "out", *rules, "--exclude", "*layers.1.mlp.up*", "--exclude", "*o_proj*")
    config = json.loads(Path(out, "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    model = loaded(out)
    with torch.no_grad():
        model(TOKENS)
    original = load_file(f"{bases['float32']}/model.safetensors")
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.weight"):
        assert torch.equal(model.get_parameter(name), original[name])
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
        found = model.get_parameter(name)
        assert 0 < (found - original[name]).abs().max() < 0.02


def test_packed_zero_points_load_as_the_warning_says(bases, tmp_path) -> None:
    table = str(tmp_path / "t.json")
    options = ("--dtype", "int4", "--scheme", "affine", "--per", "group:32", "--include", LINEAR)
    assert klcal("calibrate", bases["float32"], *options, "-o", table).code == 0
    done = klcal("apply", bases["float32"], "--to", "compressed-tensors", "-o", tmp_path / "out", "--table", table)
    assert done.code == 0
    assert "CompressedTensorsConfig(dequantize=True)" in done.err
    by = transformers.CompressedTensorsConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), quantization_config=by)
    for name, wanted in by_table(bases["float32"], table).items():
        assert torch.equal(model.get_parameter(name), torch.from_numpy(wanted)), name


# --- inputs that are quantized by a scale known before


def dumped(base: str, path: Path) -> str:
    """A file with what goes into each Linear that is quantized."""
    model, found = transformers.AutoModelForCausalLM.from_pretrained(base), {}
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            keep = lambda _, args, name=name: found.__setitem__(f"{name}.input", args[0].clone().contiguous())  # noqa: E731
            module.register_forward_pre_hook(keep)
    with torch.no_grad():
        model(torch.arange(20, 36)[None])  # others than those that are compared
    save_file(found, str(path))
    return str(path)


def fake_quantized(row, values):
    """As the consumer does it: integers are clipped to all of 8 bits."""
    if row.target == "float8_e4m3fn":
        return (values / row.scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(torch.float32) * row.scale
    zero = row.zero_point - (128 if row.target == "uint8" else 0)
    return (((values / row.scale).round() + zero).clamp(-128, 127) - zero) * row.scale


INPUTS = {
    "int8": ("--dtype", "int8", "--scheme", "symmetric-full"),
    "int8, affine inputs": ("--dtype", "*.input=uint8", "--dtype", "int8"),
    "float8": ("--dtype", "float8_e4m3fn"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_are_quantized_by_the_rows_of_the_table(bases, tmp_path, case) -> None:
    base, table = bases["float32"], str(tmp_path / "t.json")
    inputs = dumped(base, tmp_path / "inputs.safetensors")
    options = (*INPUTS[case], "--per", "*.weight=channel", "--include", LINEAR, "--include", "*.input", "-o", table)
    assert klcal("calibrate", base, inputs, *options).code == 0
    out = applied(base, tmp_path / "out", "--table", table)
    rows = {row.name: row for row in library.load_table(table).rows}
    model, dense = loaded(out), transformers.AutoModelForCausalLM.from_pretrained(base)
    state, originals = dense.state_dict(), load_file(f"{base}/model.safetensors")
    for name, module in dense.named_modules():
        if name.endswith("_proj"):
            row = rows[f"{name}.weight"]
            values = originals[f"{name}.weight"].numpy()
            restored = library.dequantize(library.quantize(values, row), row)
            state[f"{name}.weight"].copy_(torch.from_numpy(restored))
            quantize = lambda _, args, row=rows[f"{name}.input"]: (fake_quantized(row, args[0]),)  # noqa: E731
            module.register_forward_pre_hook(quantize)
    with torch.no_grad():
        logits, expected = model(TOKENS).logits, dense(TOKENS).logits
        floats = transformers.AutoModelForCausalLM.from_pretrained(base)(TOKENS).logits
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, floats)


# --- a check that cannot fail is none


@pytest.mark.parametrize("wrong", ["weight_scales", "weight_shape"])
def test_a_wrong_name_is_found(bases, tmp_path, wrong) -> None:
    out = applied(bases["float32"], tmp_path / "out")
    stored = load_file(f"{out}/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_scale"
    stored[name.removesuffix("weight_scale") + wrong] = stored.pop(name)
    save_file(stored, f"{out}/model.safetensors")
    with pytest.raises((AssertionError, RuntimeError)):
        loaded(out)


def test_another_weight_is_found(bases, tmp_path) -> None:
    base, table = bases["float32"], str(tmp_path / "t.json")
    options = ("--dtype", "int4", "--per", "group:128", "--include", LINEAR)
    assert klcal("calibrate", base, *options, "-o", table).code == 0
    out = applied(base, tmp_path / "out", "--table", table)
    weights = by_table(base, table)
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-6
    with pytest.raises(AssertionError, match="up_proj"):
        check(base, out, weights)
