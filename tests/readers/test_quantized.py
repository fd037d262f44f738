"""Quantized checkpoints, written by the library, are known by what lies beside what."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from klcal.errors import InputError
from klcal.readers import read, restored
from tests.support.command import klcal
from tests.support.lazy import torch

FLOAT8, BFLOAT16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16


def save(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def bytes_of(*shape):
    return zeros(*shape, dtype=np.uint8)


CHECKPOINTS = {
    "float8, a tensor": ("float8", {"weight": zeros(8, 8, dtype=FLOAT8), "weight_scale": zeros(1)}),
    "float8, channels": (
        "float8",
        {"weight": zeros(8, 8, dtype=FLOAT8), "weight_scale": zeros(8, 1), "input_scale": zeros(1)},
    ),
    "float8, blocks": ("float8", {"weight": zeros(200, 130, dtype=FLOAT8), "weight_scale_inv": zeros(2, 2)}),
    "int8": (
        "int8",
        {
            "weight": zeros(8, 8, dtype=np.int8),
            "weight_scale": zeros(8, 1),
            "weight_zero_point": zeros(8, 1, dtype=np.int8),
        },
    ),
    "compressed-tensors": (
        "compressed-tensors",
        {
            "weight_packed": zeros(8, 4, dtype=np.int32),
            "weight_scale": zeros(8, 1),
            "weight_shape": zeros(2, dtype=np.int64),
            "weight_zero_point": zeros(1, 1, dtype=np.int32),
        },
    ),
    "NVFP4 of compressed-tensors": (
        "compressed-tensors",
        {"weight_packed": bytes_of(8, 8), "weight_scale": zeros(8, 1, dtype=FLOAT8), "weight_global_scale": zeros(1)},
    ),
    "GPTQ": (
        "GPTQ",
        {
            "qweight": zeros(4, 8, dtype=np.int32),
            "qzeros": zeros(1, 1, dtype=np.int32),
            "scales": zeros(1, 8, dtype=np.float16),
            "g_idx": zeros(32, dtype=np.int32),
        },
    ),
    "AWQ": (
        "AWQ or GPTQ",
        {
            "qweight": zeros(32, 1, dtype=np.int32),
            "qzeros": zeros(1, 1, dtype=np.int32),
            "scales": zeros(1, 8, dtype=np.float16),
        },
    ),
    "bitsandbytes, 4 bits": (
        "bitsandbytes, 4 bits",
        {
            "weight": bytes_of(32, 1),
            "weight.absmax": bytes_of(1),
            "weight.quant_map": zeros(16),
            "weight.nested_absmax": zeros(1),
            "weight.nested_quant_map": zeros(256),
        },
    ),
    "bitsandbytes, 8 bits": ("bitsandbytes, 8 bits", {"weight": zeros(8, 8, dtype=np.int8), "SCB": zeros(8)}),
    "MX": ("MX", {"weight": bytes_of(8, 16), "weight_scale": bytes_of(8, 1)}),
    "MX, powers": ("MX", {"weight": bytes_of(8, 16), "weight_scale": zeros(8, 1, dtype=ml_dtypes.float8_e8m0fnu)}),
    "MX, blocks": ("MX", {"proj_blocks": bytes_of(8, 1, 16), "proj_scales": bytes_of(8, 1)}),
    "float8, static experts": (
        "float8",
        {
            "up": zeros(2, 8, 8, dtype=FLOAT8),
            "up_scale_inv": zeros(2, 1, 1),
            "up_activation_scale": zeros(2),
        },
    ),
    "float8, ComfyUI": (
        "float8",
        {"weight": zeros(8, 8, dtype=FLOAT8), "scale_weight": zeros(), "scale_input": zeros(1)},
    ),
    "float8, Mistral": (
        "float8",
        {"weight": zeros(8, 8, dtype=FLOAT8), "qscale_weight": zeros(), "qscale_act": zeros()},
    ),
    "float8, DeepSeek": ("float8", {"weight": zeros(8, 8, dtype=FLOAT8), "scale": zeros(1, 1)}),
    "MX, DeepSeek": (
        "MX",
        {"weight": zeros(8, 16, dtype=np.int8), "scale": zeros(8, 1, dtype=ml_dtypes.float8_e8m0fnu)},
    ),
    "int4, Model-Optimizer": (
        "packed",
        {"weight": bytes_of(8, 4), "weight_scale": zeros(8, 1), "pre_quant_scale": zeros(8), "input_scale": zeros()},
    ),
    "BitNet": ("packed", {"weight": bytes_of(2, 8), "weight_scale": zeros(1, dtype=BFLOAT16)}),
    "compressed-tensors, sparse": (
        "compressed-tensors",
        {
            "compressed": zeros(8, 4, dtype=FLOAT8),
            "bitmask": bytes_of(8, 1),
            "weight_scale": zeros(8, 1),
            "shape": zeros(2, dtype=np.int64),
        },
    ),
    "GPTQ, symmetric": (
        "AWQ or GPTQ",
        {"qweight": zeros(4, 8, dtype=np.int32), "scales": zeros(1, 8, dtype=np.float16)},
    ),
    "SVDQuant": (
        "SVDQuant",
        {"qweight": zeros(8, 4, dtype=np.int8), "wscales": zeros(1, 8), "smooth": zeros(8), "smooth_orig": zeros(8)},
    ),
    "int8, scales": ("int8", {"weight": zeros(8, 8, dtype=np.int8), "scales": zeros(8, dtype=BFLOAT16)}),
    "float8, TensorRT-LLM": (
        "float8",
        {
            "weight": zeros(8, 8, dtype=FLOAT8),
            "weights_scaling_factor": zeros(1),
            "activation_scaling_factor": zeros(1),
        },
    ),
    "NVFP4, TensorRT-LLM": (
        "NVFP4",
        {
            "weight": bytes_of(8, 8),
            "weights_scaling_factor": zeros(8, 1, dtype=FLOAT8),
            "weights_scaling_factor_2": zeros(1),
        },
    ),
    "int4, TensorRT-LLM": (
        "TensorRT-LLM",
        {
            "weight": zeros(8, 4, dtype=np.int8),
            "weights_scaling_factor": zeros(8, 1),
            "prequant_scaling_factor": zeros(8),
        },
    ),
    "int8, TensorRT-LLM": ("TensorRT-LLM", {"weight": zeros(8, 8, dtype=np.int8), "per_channel_scale": zeros(8)}),
    "NVFP4, experts": (
        "NVFP4",
        {
            "up": bytes_of(2, 8, 8),
            "up_weight_scale": zeros(2, 8, 1, dtype=FLOAT8),
            "up_weight_scale_2": zeros(2),
            "up_input_scale": zeros(2),
        },
    ),
    "float8, experts": (
        "float8",
        {"up": zeros(2, 8, 8, dtype=FLOAT8), "up_weight_scale": zeros(2), "up_input_scale": zeros(2)},
    ),
    "EXL2": (
        "EXL2",
        {
            "q_weight": zeros(8, 4, dtype=np.int32),
            "q_scale": zeros(1, 4, dtype=np.int32),
            "q_scale_max": zeros(1, dtype=np.float16),
            "q_groups": zeros(2, dtype=np.int16),
            "q_invperm": zeros(8, dtype=np.int32),
        },
    ),
    "EXL3": (
        "EXL3",
        {
            "trellis": zeros(1, 1, 64, dtype=np.int16),
            "suh": zeros(8, dtype=np.float16),
            "svh": zeros(8, dtype=np.float16),
        },
    ),
    "HQQ": ("HQQ", {"W_q": bytes_of(4, 8), "scale": zeros(8, 1), "zero": zeros(8, 1)}),
    "HQQ, a view as floats": ("HQQ", {"W_q": zeros(4, 4, dtype=np.float16), "scale": zeros(8, 1), "zero": zeros(8, 1)}),
    "HQQ, nested": ("HQQ", {"W_q": bytes_of(4, 8), "meta.scale": zeros(8, 1), "meta.zero": zeros(8, 1)}),
    "MLX": ("MLX", {"weight": zeros(8, 4, dtype=np.uint32), "scales": zeros(8, 1), "biases": zeros(8, 1)}),
    "MLX, mxfp4": ("MLX", {"weight": zeros(8, 4, dtype=np.uint32), "scales": bytes_of(8, 1)}),
    "EETQ": ("EETQ", {"weight": zeros(8, 8, dtype=np.int8), "weight_scales": zeros(8, dtype=np.float16)}),
    "HIGGS": (
        "HIGGS",
        {
            "weight": zeros(2, 8, dtype=np.int16),
            "scales": zeros(8, 1),
            "tables": zeros(16),
            "tables2": zeros(16, 16, 2),
        },
    ),
    "QuIP#": ("QuIP#", {"Qidxs": zeros(8, 1, dtype=np.int64), "SU": zeros(8), "SV": zeros(8), "Wscale": zeros()}),
    "quanto": (
        "quanto",
        {
            "weight._data": zeros(8, 8, dtype=np.int8),
            "weight._scale": zeros(8, 1),
            "input_scale": zeros(),
            "output_scale": zeros(),
        },
    ),
    "quanto, 4 bits": (
        "quanto",
        {"weight._data._data": bytes_of(4, 8), "weight._scale": zeros(8, 1), "weight._shift": zeros(8, 1)},
    ),
    "torchao": (
        "torchao",
        {
            "_weight_qdata": zeros(8, 8, dtype=FLOAT8),
            "_weight_scale": zeros(8, 1),
            "_weight_act_quant_scale": zeros(),
            "_weight_act_pre_scale": zeros(8),
        },
    ),
    "torchao, 4 bits": (
        "torchao",
        {"_weight_qdata": bytes_of(8, 4), "_weight_scale": zeros(1, 8), "_weight_zero_point": zeros(1, 8)},
    ),
    "torchao, tiles": (
        "torchao",
        {"_weight_qdata": zeros(1, 1, 32, 4, dtype=np.int32), "_weight_scale_and_zero": zeros(1, 8, 2)},
    ),
    "torchao, NVFP4": (
        "torchao",
        {
            "_weight_qdata": bytes_of(8, 8),
            "_weight_scale": zeros(8, 1, dtype=FLOAT8),
            "_weight_per_tensor_scale": zeros(),
        },
    ),
    "NVFP4": (
        "NVFP4",
        {"weight": bytes_of(8, 8), "weight_scale": zeros(8, 1, dtype=FLOAT8), "weight_scale_2": zeros(1)},
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_codes_and_scales_are_skipped_and_said(tmp_path, case):
    kind, tensors = CHECKPOINTS[case]
    ramp = np.arange(9, dtype=np.float32)
    path = save(tmp_path / "m.safetensors", {f"a.b.{name}": each for name, each in tensors.items()} | {"a.bias": ramp})
    found = read(path)
    for name in tensors:
        each = found[f"a.b.{name}"]
        assert (each.status, each.parts) == ("skipped", ()), name
        assert f"{kind} codes" in each.reason, name
    assert found["a.bias"].status == "ok"
    result = klcal("calibrate", path, "--format", "json")
    assert result.code == 0
    assert result.tensors["a.b." + next(iter(tensors))]["status"] == "skipped"


@pytest.mark.parametrize(
    "name",
    [
        "l.self_attn.k_scale",
        "l.self_attn.attn.v_scale",
        "l.self_attn.qkv_proj.q_scale",
        "l.self_attn.k_proj.output_scale",
        "l.self_attn.prob_scale",
        "l.attention.kv_fake_quantizer.qscale_act",
        "l.norm.input_scale",
        "l.attention.kv_cache_scaling_factor",
    ],
)
def test_scales_of_activations_are_not_weights(tmp_path, name):
    """Where nothing else is quantized; a vector of that name may be a weight."""
    for shape, status in (((), "skipped"), ((1,), "skipped"), ((8,), "ok")):
        found = read(save(tmp_path / "m.safetensors", {name: zeros(*shape), "l.weight": np.ones((8, 8), np.float32)}))
        assert (found[name].status, found["l.weight"].status) == (status, "ok")
    assert read(save(tmp_path / "n.safetensors", {"x_scale": zeros(1)}))["x_scale"].status == "ok"


@pytest.mark.parametrize(
    "name",
    [
        "l.weight_quantizer._amax",
        "l._input_quantizer._amax",
        "l.weight_fake_quant.scale",
        "l.weight_fake_quant.activation_post_process.min_val",
        "l.activation_post_process.scale",
        "l.activation_post_process_0.histogram",
    ],
)
def test_ranges_of_quantizers_are_no_weights(tmp_path, name):
    """Of models that are prepared for quantization: their weights are weights."""
    found = read(save(tmp_path / "m.safetensors", {name: zeros(8), "l.weight": np.ones((8, 8), np.float32)}))
    assert (found[name].status, found["l.weight"].status) == ("skipped", "ok")
    assert "range of a quantizer" in found[name].reason


@pytest.mark.parametrize(
    ("codes", "scale", "zero_point", "weight"),
    [
        ("weight._data", "weight._scale", None, "weight"),
        ("_weight_qdata", "_weight_scale", "_weight_zero_point", "weight"),
        ("weight", "scale_weight", None, "weight"),
        ("weight", "qscale_weight", None, "weight"),
        ("weight", "scale", None, "weight"),
        ("weight", "weights_scaling_factor", None, "weight"),
    ],
)
def test_codes_stand_for_the_weight_of_their_module(tmp_path, codes, scale, zero_point, weight):
    dtype = np.int8 if "_" in codes else FLOAT8
    values, scales, zeros_of = RNG.integers(-9, 9, (6, 10)).astype(dtype), uniform(6, 1), np.full((6, 1), 3, np.int8)
    tensors = {f"m.{codes}": values, f"m.{scale}": scales} | ({f"m.{zero_point}": zeros_of} if zero_point else {})
    whole = read(save(tmp_path / "m.safetensors", tensors))[f"m.{codes}"].dequantized
    expected = (values.astype(np.float32) - (3 if zero_point else 0)) * scales
    assert whole.name == f"m.{weight}"
    np.testing.assert_array_equal(values_in(whole), expected)


def test_packed_float4_beside_its_scale_is_codes(tmp_path):
    packed = torch.zeros(8, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    powers = torch.ones(8, 1).to(torch.float8_e8m0fnu)
    save_torch = pytest.importorskip("safetensors.torch").save_file
    save_torch(
        {"weight": packed, "weight_scale": powers, "v": packed.clone(), "u_scale": powers.clone()},
        tmp_path / "m.safetensors",
    )
    found = read(tmp_path / "m.safetensors")
    statuses = {name: each.status for name, each in found.items()}
    assert statuses == {"weight": "skipped", "weight_scale": "skipped", "v": "ok", "u_scale": "ok"}
    assert "MX codes" in found["weight"].reason


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": zeros(8, 8, dtype=FLOAT8)},
        {"w": zeros(8, 8, dtype=FLOAT8), "v_scale": zeros(1)},
        {"a.w": zeros(8, 8, dtype=FLOAT8), "b.w_scale": zeros(1)},
        {"w": zeros(8, 8), "w_scale": zeros(1)},
        {"scales": zeros(8, 8), "g_idx": zeros(8, dtype=np.int32)},
        {"weight": zeros(8, 8), "SCB": zeros(8)},
        {"w": bytes_of(8), "w_scale": zeros(1)},
    ],
)
def test_a_tensor_without_a_partner_is_not_taken_for_codes(tmp_path, tensors):
    found = read(save(tmp_path / "m.safetensors", tensors))
    for name, each in tensors.items():
        assert (found[name].status == "ok") == (each.dtype.kind not in "iu"), name


def test_codes_and_scales_may_lie_in_different_shards(tmp_path):
    save(tmp_path / "a.safetensors", {"w": zeros(8, 8, dtype=FLOAT8)})
    save(tmp_path / "b.safetensors", {"w_scale_inv": zeros(1, 1)})
    index = {"weight_map": {"w": "a.safetensors", "w_scale_inv": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {each.status for each in read(tmp_path).values()} == {"skipped"}


def test_codes_are_known_though_their_scale_is_in_a_lost_shard(tmp_path):
    save(tmp_path / "a.safetensors", {"w": zeros(8, 8, dtype=FLOAT8), "b": np.ones(3, np.float32)})
    index = {"weight_map": {"w": "a.safetensors", "b": "a.safetensors", "w_scale_inv": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    result = klcal("calibrate", tmp_path, "--dequantize", "--format", "json")
    assert {name: row["status"] for name, row in result.tensors.items()} == {
        "w": "skipped",
        "b": "ok",
        "w_scale_inv": "failed",
    }
    assert result.code == 4


def test_a_float8_copy_is_not_compared_as_if_codes_were_weights(tmp_path):
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    p = save(tmp_path / "p.safetensors", {"w": values, "b": values[0]})
    codes = {"w": (values * 100).astype(FLOAT8), "w_scale": np.float32([0.01]), "b": values[0]}
    result = klcal("compare", p, save(tmp_path / "q.safetensors", codes), "--format", "json")
    assert result.tensors["w"]["status"] == "missing"
    assert "float8 codes" in result.tensors["w"]["reason"]
    assert result.tensors["b"]["status"] == "ok"


# --- what codes stand for

RNG = np.random.default_rng(5)


def uniform(*shape):
    return RNG.uniform(0.001, 0.01, shape).astype(np.float32)


def blocks(scale: np.ndarray, rows: int, columns: int, side: int = 128) -> np.ndarray:
    """Each scale where its block is: by hand."""
    return np.repeat(np.repeat(scale, side, -2), side, -1)[..., :rows, :columns]


SCALED = {
    "tensor": ((6, 10), uniform(1), lambda s: s),
    "tensor, no axis": ((6, 10), uniform(), lambda s: s),
    "one axis": ((60,), uniform(1), lambda s: s),
    "channel": ((6, 10), uniform(6, 1), lambda s: s),
    "channel, one axis": ((6, 10), uniform(6), lambda s: s[:, None]),
    "channel of a convolution": ((6, 4, 3, 3), uniform(6, 1, 1, 1), lambda s: s),
    "square": ((8, 8), uniform(8, 1), lambda s: s),
    "columns": ((6, 10), uniform(1, 10), lambda s: s),
    "blocks": ((256, 384), uniform(2, 3), lambda s: blocks(s, 256, 384)),
    "ragged blocks": ((200, 300), uniform(2, 3), lambda s: blocks(s, 200, 300)),
    "one block of each row": ((3, 200), uniform(3, 2), lambda s: np.repeat(s, 128, 1)[:, :200]),
    "blocks of 64": ((128, 192), uniform(2, 3), lambda s: blocks(s, 128, 192, 64)),
    "experts": ((2, 200, 130), uniform(2, 2, 2), lambda s: blocks(s, 200, 130)),
    "rows of experts": ((2, 20, 30), uniform(2, 20), lambda s: s[..., None]),
    "a matrix each": ((2, 20, 30), uniform(2, 1, 1), lambda s: s),
}


def values_in(description) -> np.ndarray:
    chunks = [chunk.copy() for part in description.parts for chunk in part.chunks()]
    return np.concatenate(chunks).reshape(description.shape)


@pytest.mark.parametrize("end", ["_scale", "_scale_inv"])
@pytest.mark.parametrize("case", SCALED)
def test_a_code_times_the_scale_of_its_unit_is_what_it_stands_for(tmp_path, case, end):
    shape, scale, of_each = SCALED[case]
    codes = RNG.normal(size=shape).astype(FLOAT8)
    path = save(tmp_path / "m.safetensors", {"w": codes, f"w{end}": scale})
    found = read(path)["w"].dequantized
    expected = codes.astype(np.float32) * of_each(scale)
    np.testing.assert_array_equal(values_in(found), expected)
    assert (found.dtype, found.shape, found.status) == ("float32", shape, "ok")
    np.save(tmp_path / "w.npy", expected)
    plain = klcal("calibrate", tmp_path / "w.npy", "--format", "json", "--per", "channel").tensors["w"]
    result = klcal("calibrate", path, "--dequantize", "--format", "json", "--per", "channel", "--include", "w")
    assert {**result.tensors["w"], "source": ""} == {**plain, "source": ""}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("case", ["tensor", "channel", "ragged blocks"])
def test_codes_and_scales_of_a_pt_lie_in_any_order(tmp_path, case, order):
    shape, scale, of_each = SCALED[case]
    codes = torch.from_numpy(RNG.normal(size=[shape[axis] for axis in order])).to(torch.float8_e4m3fn).permute(order)
    scales = torch.from_numpy(scale) if scale.ndim < 2 else torch.from_numpy(scale.T.copy()).T
    torch.save({"w": codes, "w_scale_inv": scales}, tmp_path / "m.pt")
    np.save(tmp_path / "w.npy", codes.float().numpy() * of_each(scale))
    plain = klcal("calibrate", tmp_path / "w.npy", "--per", "channel", "--format", "json").tensors["w"]
    result = klcal("calibrate", tmp_path / "m.pt", "--dequantize", "--per", "channel", "--format", "json")
    assert {**result.tensors["w"], "source": ""} == {**plain, "source": ""}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", ["tensor", "channel", "ragged blocks"])
def test_int8_codes_of_a_pt_stand_for_the_same(tmp_path, case, legacy):
    """Also those that are a transposed part of a storage, as no writer of arrays alone would leave them."""
    shape, scale, of_each = SCALED[case]
    whole = torch.from_numpy(RNG.integers(-128, 128, (shape[1], shape[0] + 3)).astype(np.int8))
    codes = whole[:, 1:-2].T
    zero = torch.from_numpy(RNG.integers(-8, 8, scale.shape).astype(np.int8))
    model = {"w": codes, "w_scale": torch.from_numpy(scale), "w_zero_point": zero}
    torch.save(model, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    found = read(tmp_path / "m.pt")["w"].dequantized
    np.save(tmp_path / "w.npy", (codes.numpy() - of_each(zero.numpy()).astype(np.float32)) * of_each(scale))
    assert found.order == (1, 0)
    plain = klcal("calibrate", tmp_path / "w.npy", "--per", "channel", "--format", "json").tensors["w"]
    result = klcal("calibrate", tmp_path / "m.pt", "--dequantize", "--per", "channel", "--format", "json")
    assert {**result.tensors["w"], "source": ""} == {**plain, "source": ""}


@pytest.mark.parametrize("strided", [False, True])
def test_damaged_codes_of_a_pt_fail(tmp_path, strided):
    codes = torch.arange(-100, 100, dtype=torch.int8).reshape(20, 10)
    torch.save({"w": codes[:, 1:] if strided else codes, "w_scale": torch.ones(1)}, tmp_path / "m.pt")
    data = (tmp_path / "m.pt").read_bytes()
    at = data.index(codes.numpy().tobytes()) + 50
    (tmp_path / "m.pt").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    row = klcal("calibrate", tmp_path / "m.pt", "--dequantize", "--format", "json").tensors["w"]
    assert row["status"] == "failed"


def test_codes_of_a_pt_that_share_a_storage_are_not_read_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("klcal.readers.pt.views.MIN_REREAD_BYTES", 0)
    whole = torch.zeros(1 << 16, dtype=torch.int8)
    views = {f"{n}.w": whole[n:] for n in range(40)}
    torch.save({**views, **{f"{name}_scale": torch.ones(1) for name in views}}, tmp_path / "m.pt")
    found = [each for name, each in read(tmp_path / "m.pt").items() if name in views]
    usable = [each for each in found if each.dequantized is not None and each.dequantized.parts]
    assert len(usable) < 20
    assert all(each.status == "skipped" for each in found)


def test_a_wrong_scale_is_noticed(tmp_path):
    """The broken twin: of blocks whose scales are transposed."""
    shape, scale, of_each = SCALED["blocks of 64"]
    codes = RNG.normal(size=shape).astype(FLOAT8)
    found = read(save(tmp_path / "m.safetensors", {"w": codes, "w_scale": scale[::-1]}))["w"].dequantized
    assert (values_in(found) != codes.astype(np.float32) * of_each(scale)).any()


def test_scales_may_be_powers_of_two(tmp_path):
    codes = RNG.normal(size=(256, 256)).astype(FLOAT8)
    scale = np.float32([[0.5, 2**-20], [4, 1]])
    powers = scale.astype(ml_dtypes.float8_e8m0fnu)
    found = read(save(tmp_path / "m.safetensors", {"w": codes, "w_scale_inv": powers}))["w"].dequantized
    np.testing.assert_array_equal(values_in(found), codes.astype(np.float32) * blocks(scale, 256, 256))


def test_values_in_several_pieces_have_their_own_scales(tmp_path, monkeypatch):
    shape, scale, of_each = SCALED["ragged blocks"]
    codes = RNG.normal(size=shape).astype(FLOAT8)
    found = read(save(tmp_path / "m.safetensors", {"w": codes, "w_scale": scale}))["w"].dequantized
    for size in (77, 4096):
        monkeypatch.setattr(restored, "PIECE", size)
        np.testing.assert_array_equal(values_in(found), codes.astype(np.float32) * of_each(scale))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
def test_int8_has_scales_of_any_float_and_zero_points(tmp_path, dtype):
    codes = RNG.integers(-128, 128, (6, 10)).astype(np.int8)
    scale, zero = uniform(6, 1).astype(dtype), RNG.integers(-8, 8, (6, 1)).astype(np.int8)
    tensors = {"w": codes, "w_scale": scale, "w_zero_point": zero}
    found = read(save(tmp_path / "m.safetensors", tensors))["w"].dequantized
    shifted = codes.astype(np.float32) - zero.astype(np.float32)
    np.testing.assert_array_equal(values_in(found), shifted * scale.astype(np.float32))
    del tensors["w_zero_point"]
    found = read(save(tmp_path / "n.safetensors", tensors))["w"].dequantized
    np.testing.assert_array_equal(values_in(found), codes.astype(np.float32) * scale.astype(np.float32))


@pytest.mark.parametrize(
    "more",
    [
        {"w_scale": uniform(5, 1)},
        {"w_scale": uniform(4, 3)},
        {"w_scale": uniform(10)},
        {"w_scale": uniform(0)},
        {"w_scale": uniform(6, 1), "w_zero_point": zeros(1, dtype=np.int8)},
        {"w_scale": uniform(6, 1), "w_scale_2": uniform(1)},
    ],
)
def test_codes_whose_scales_do_not_fit_stay_skipped(tmp_path, more):
    path = save(tmp_path / "m.safetensors", {"w": zeros(6, 10, dtype=FLOAT8), **more})
    found = read(path)["w"]
    assert found.dequantized is None
    assert found.reason.endswith("calibrate the model that they were made from")
    assert klcal("calibrate", path, "--dequantize").code == 3


def test_codes_without_a_scale_are_as_before(tmp_path):
    path = save(tmp_path / "m.safetensors", {"w": RNG.normal(size=(6, 10)).astype(FLOAT8)})
    before, after = (klcal("calibrate", path, "--format", "json", *more) for more in ((), ("--dequantize",)))
    assert before.out == after.out
    assert after.tensors["w"]["status"] == "ok"


def test_a_quantized_copy_is_compared_as_what_it_stands_for(tmp_path):
    values = RNG.normal(size=(300, 200)).astype(np.float32)
    p = save(tmp_path / "p.safetensors", {"w": values})
    scale = np.abs(values).max(1, keepdims=True) / np.float32(448)
    q = save(tmp_path / "q.safetensors", {"w": (values / scale).astype(FLOAT8), "w_scale": scale, "b": values[0]})
    assert klcal("compare", p, q).code == 3
    for paths in ((p, q), (q, p)):
        result = klcal(
            "compare", *paths, "--dequantize", "--include", "w*", "--format", "json", "--fail-on", "js > 0.5"
        )
        assert result.code == 0  # what only one side has is no finding where it is a scale
        assert result.tensors["w_scale"]["status"] == "skipped"
        found = result.tensors["w"]
        assert found["status"] == "ok"
        assert 30 < found["sqnr_db"] < 33  # three bits of mantissa
    (tmp_path / "t.json").write_text(klcal("calibrate", q, "--dequantize", "--dtype", "int8", "--format", "json").out)
    result = klcal("compare", q, "--dequantize", "--table", tmp_path / "t.json", "--format", "json").tensors["w"]
    assert result["status"] == "ok"


def test_a_scale_that_is_cut_off_costs_only_its_codes(tmp_path):
    """Of a file that shrinks after it was described."""
    codes = RNG.normal(size=(6, 10)).astype(FLOAT8)
    path = save(tmp_path / "m.safetensors", {"w": codes, "w_scale": uniform(6, 1)})
    found = read(path)["w"].dequantized
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="the scale 'w_scale' cannot be read"):
        values_in(found)


def test_large_codes_and_several_workers_give_the_same_row(tmp_path):
    codes = RNG.normal(size=(1 << 12, 1 << 11)).astype(FLOAT8)
    path = save(tmp_path / "m.safetensors", {"w": codes, "w_scale": uniform(32, 16), "v": codes, "v_scale": uniform(1)})
    one, two = (klcal("calibrate", path, "--dequantize", "--jobs", jobs, "--format", "json") for jobs in ("1", "2"))
    assert one.out == two.out
    assert one.tensors["w"]["status"] == "ok"


# --- what klcal apply wrote


def written(codes: np.ndarray, **beside: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": codes, **{f"w_{name}": array for name, array in beside.items()}}


GROUPS = {"scale": uniform(6, 3), "unit_shape": np.array([1, 4])}  # of ten values: 4, 4 and 2
BY_GROUP = np.repeat(GROUPS["scale"], 4, 1)[:, :10]
CODES = RNG.integers(0, 16, (6, 10))
LEVELS = np.linspace(-1, 1, 16, dtype=np.float32)
WRITTEN = {
    "int8": (written(CODES.astype(np.int8), **GROUPS), CODES * BY_GROUP),
    "int16": (written(CODES.astype(np.int16), scale=uniform(6, 1), unit_shape=np.array([1, 10])), None),
    "uint8": (
        written(CODES.astype(np.uint8), **GROUPS, zero_point=np.full((6, 3), 3, np.uint8)),
        (CODES.astype(np.float32) - 3) * BY_GROUP,
    ),
    "uint16": (written(CODES.astype(np.uint16), scale=uniform(), zero_point=np.array(9, np.uint16)), None),
    "levels": (written(CODES.astype(np.uint8), **GROUPS, levels=LEVELS), LEVELS[CODES] * BY_GROUP),
}


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
@pytest.mark.parametrize("case", WRITTEN)
def test_files_that_apply_wrote_have_codes_in_any_container(tmp_path, case, suffix):
    arrays, expected = WRITTEN[case]
    path = tmp_path / f"m.{suffix}"
    if suffix == "safetensors":
        save(path, arrays)
    elif suffix == "npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)
    found = read(path)
    assert {each.status for each in found.values()} == {"skipped"}
    assert "codes, whose scale is 'w_scale'" in found["w"].reason
    if expected is None:
        zero = arrays.get("w_zero_point", np.zeros(1))
        expected = (CODES.astype(np.float32) - zero) * arrays["w_scale"]
    np.testing.assert_array_equal(values_in(found["w"].dequantized), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (written(CODES.astype(np.uint8), scale=GROUPS["scale"], levels=LEVELS, unit_shape=np.array([2, 4])), "fit"),
        (written(CODES.astype(np.uint8), scale=GROUPS["scale"], levels=LEVELS, unit_shape=np.array([0, -1])), "fit"),
        (written(CODES.astype(np.uint8), scale=uniform(), levels=LEVELS[:3]), "levels"),
    ],
)
def test_units_and_levels_that_do_not_fit_are_said_with_the_tensor(tmp_path, arrays, words):
    result = klcal("calibrate", save(tmp_path / "m.safetensors", arrays), "--dequantize", "--format", "json")
    row = result.tensors["w"]
    assert row["status"] == "failed"
    assert words in row["reason"]


@pytest.mark.parametrize(
    "more", [{"unit_shape": np.array([4])}, {"unit_shape": np.ones(2, np.float32)}, {"levels": zeros(257)}]
)
def test_companions_of_another_kind_leave_codes_skipped(tmp_path, more):
    arrays = written(CODES.astype(np.uint8), **{"scale": GROUPS["scale"], "levels": LEVELS, **more})
    found = read(save(tmp_path / "m.safetensors", arrays))["w"]
    assert (found.status, found.dequantized) == ("skipped", None)


def test_unsigned_values_beside_a_scale_alone_are_no_codes(tmp_path):
    """Two codes may be packed in each of them: nobody says it."""
    found = read(save(tmp_path / "m.safetensors", {"w": bytes_of(8, 8), "w_scale": zeros(8, 1)}))
    assert found["w"].dequantized is None
    assert "uint8 values are not calibrated" in found["w"].reason
