"""Quantized checkpoints, written by the library, are known by what lies beside what."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from klcal.readers import read
from tests.support.command import klcal

FLOAT8, BFLOAT16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
NAMES = {FLOAT8: "F8_E4M3", ml_dtypes.float8_e8m0fnu: "F8_E8M0", BFLOAT16: "BF16"}


def save(path, tensors):
    """By the library where it knows the dtype from NumPy; else in the same form."""
    if not any(np.dtype(each.dtype).type in NAMES for each in tensors.values()):
        safetensors.numpy.save_file(tensors, path)
        return path
    header, data = {}, b""
    known = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64"}
    for name, each in tensors.items():
        dtype = NAMES.get(np.dtype(each.dtype).type) or known[each.dtype.name]
        end = len(data) + each.nbytes
        header[name] = {"dtype": dtype, "shape": each.shape, "data_offsets": [len(data), end]}
        data += each.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    safetensors.deserialize(path.read_bytes())  # which the library takes for its own
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
def test_what_has_no_partner_stays_what_it_is(tmp_path, tensors):
    found = read(save(tmp_path / "m.safetensors", tensors))
    for name, each in tensors.items():
        assert (found[name].status == "ok") == (each.dtype.kind not in "iu"), name


def test_codes_and_scales_may_lie_in_different_shards(tmp_path):
    save(tmp_path / "a.safetensors", {"w": zeros(8, 8, dtype=FLOAT8)})
    save(tmp_path / "b.safetensors", {"w_scale_inv": zeros(1, 1)})
    index = {"weight_map": {"w": "a.safetensors", "w_scale_inv": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {each.status for each in read(tmp_path).values()} == {"skipped"}


def test_a_float8_copy_is_not_compared_as_if_codes_were_weights(tmp_path):
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    p = save(tmp_path / "p.safetensors", {"w": values, "b": values[0]})
    codes = {"w": (values * 100).astype(FLOAT8), "w_scale": np.float32([0.01]), "b": values[0]}
    result = klcal("compare", p, save(tmp_path / "q.safetensors", codes), "--format", "json")
    assert result.tensors["w"]["status"] == "missing"
    assert "float8 codes" in result.tensors["w"]["reason"]
    assert result.tensors["b"]["status"] == "ok"
