"""Quantized checkpoints: which tensors of a file are codes, scales and the like, told by their names and neighbours.

Only names, dtypes and shapes are looked at. Codes and scales are not weights: both are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from klcal.readers.description import Description
from klcal.readers.quoting import quoted

__all__ = ["recognised"]

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
SINGLES = ("float32", "bfloat16", "float16", "float64")
LOST = ""  # the dtype of a tensor in a shard that cannot be read
POWERS = ("float8_e8m0fnu", "uint8")  # of two, the scales of MX; NumPy and others store them as bytes
BYTES = ("int8", "uint8")
PACKED = ("float4_e2m1fn", "uint8")  # uint8 holds two codes


@dataclass(frozen=True)
class Kind:
    """A way to store codes: their name ends in ``codes``, and their scale's name begins with the part before it."""

    name: str
    codes: str
    dtypes: tuple[str, ...]
    scale: str  # the end of the scale's name
    scales: tuple[str, ...]  # dtypes of it
    beside: tuple[str, ...] = ()  # ends of names that have to be there, too
    others: tuple[str, ...] = ()  # ends of names that may be there
    is_one_each: bool = False  # a code is a value, which a scale multiplies
    weight: str | None = None  # the end of the name of the restored tensor; None for that of the codes


SECOND = ("_scale_2", "_global_scale")  # ends of the names of global scales
UNIT_SHAPE = "_unit_shape"  # of a unit: how many values along each axis
BLOCKS = ("_zero_point", "_shape", "_activation_scale", UNIT_SHAPE, *SECOND)
PACKED_CODES = "weight_packed"
PACKED_OTHERS = ("weight_shape", "weight_zero_point", "weight_global_scale", "weight_g_idx")
MAPS = ("weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")
ACTIVATIONS = (
    *("input_scale", "input_scale_ub", "input_zero_point", "input_global_scale", "output_scale", "activation_scale"),
    *("pre_quant_scale", "scale_input", "qscale_act", "activation_scaling_factor", "prequant_scaling_factor"),
)
"""Tensors that a quantized module may have beside its weight: quantizers of its activations."""
THROUGH = re.compile(
    r".*\.((input|output|[qkv]|kv|prob)_scale|kv_cache_scaling_factor|kv_fake_quantizer\.qscale_act)", re.DOTALL
)
"""The scale of what goes through a module, and of the cache of an attention, as vLLM 0.11 and quanto 0.2.7 know them:
also where no weight is quantized. Of one value: a vector may be a weight."""
TORCHAO = (
    *("_weight_zero_point", "_weight_act_quant_scale", "_weight_act_quant_zero_point", "_weight_act_pre_scale"),
    *("_weight_output_act_quant_scale", "_weight_per_tensor_scale", "_weight_act_per_tensor_scale"),
)
OBSERVERS = re.compile(
    r".*_quantizer\._(amax|pre_quant_scale|scale)|.*\.(weight_fake_quant|activation_post_process(_[0-9]+)?)\.\w+",
    re.DOTALL,
)
"""Ranges that Model-Optimizer and torch.ao record beside the weights of a model before it is quantized."""
SVDQUANT = ("wtscale", "wcscales", "smooth", "smooth_orig")
VIEWS = ("uint8", "int32", *SINGLES)  # packed codes may be stored with a floating dtype

KINDS = (
    Kind("compressed-tensors", PACKED_CODES, ("int32", "uint8"), "weight_scale", (), (), PACKED_OTHERS),
    Kind("compressed-tensors", "compressed", ("int8", *FLOAT8), "weight_scale", SINGLES, ("bitmask",), ("shape",)),
    Kind("GPTQ", "qweight", ("int32",), "scales", SINGLES, ("g_idx",), ("qzeros",)),
    Kind("AWQ or GPTQ", "qweight", ("int32",), "scales", SINGLES, (), ("qzeros",)),
    Kind("SVDQuant", "qweight", ("int8",), "wscales", (*SINGLES, *FLOAT8), (), SVDQUANT),
    Kind("bitsandbytes, 4 bits", "weight", ("uint8",), "weight.absmax", (), (), MAPS),
    Kind("bitsandbytes, 8 bits", "weight", ("int8",), "SCB", SINGLES),
    Kind("EXL2", "q_weight", ("int32",), "q_scale", ("int32",), (), ("q_scale_max", "q_groups", "q_invperm", "q_perm")),
    Kind("EXL3", "trellis", ("int16",), "suh", SINGLES, (), ("svh",)),
    Kind("HQQ", "W_q", VIEWS, "scale", SINGLES, ("zero",)),
    Kind("HQQ", "W_q", VIEWS, "meta.scale", SINGLES, ("meta.zero",)),
    Kind("MLX", "weight", ("uint32",), "scales", (*SINGLES, "uint8"), (), ("biases",)),
    Kind("int8", "weight", ("int8",), "scales", SINGLES),
    Kind("EETQ", "weight", ("int8",), "weight_scales", SINGLES),
    Kind("HIGGS", "weight", ("int16",), "scales", SINGLES, ("tables",), ("tables2",)),
    Kind("QuIP#", "Qidxs", ("int16", "int32", "int64"), "SU", SINGLES, ("SV",), ("Wscale",)),
    Kind("quanto", "weight._data", ("int8", *FLOAT8), "weight._scale", SINGLES, (), (), True, "weight"),
    Kind("quanto", "weight._data._data", ("uint8",), "weight._scale", SINGLES, ("weight._shift",)),
    Kind("torchao", "_weight_qdata", ("int8", *FLOAT8), "_weight_scale", SINGLES, (), TORCHAO, True, "weight"),
    Kind("torchao", "_weight_qdata", (), "_weight_scale", (), (), TORCHAO),
    Kind("torchao", "_weight_qdata", (), "_weight_scale_and_zero", (), (), TORCHAO),
    Kind("ONNX Runtime", "_quantized", ("int8", "uint8", *FLOAT8), "_scale", SINGLES, (), ("_zero_point",)),
    Kind("ONNX Runtime", "_quantized", ("int32",), "_quantized_scale", SINGLES),
    Kind("MX", "_blocks", ("uint8",), "_scales", POWERS),
    Kind("MX", "", PACKED, "_scale", POWERS, (), BLOCKS),
    Kind("NVFP4", "", PACKED, "_scale", FLOAT8, (), BLOCKS),
    Kind("float8", "", FLOAT8, "_scale_inv", (*SINGLES, *POWERS), (), BLOCKS, True),
    Kind("float8", "", FLOAT8, "_scale", (*SINGLES, *POWERS), (), BLOCKS, True),
    Kind("int8", "", ("int8",), "_scale", SINGLES, (), BLOCKS, True),
    Kind("int16", "", ("int16",), "_scale", SINGLES, (), BLOCKS, True),
    Kind("level", "", ("uint8",), "_scale", SINGLES, ("_levels",), (UNIT_SHAPE,), True),
    Kind("float8", "weight", FLOAT8, "scale_weight", SINGLES, (), (), True),
    Kind("float8", "weight", FLOAT8, "qscale_weight", SINGLES, (), (), True),
    Kind("float8", "weight", FLOAT8, "scale", (*SINGLES, *POWERS), (), (), True),
    Kind("float8", "weight", FLOAT8, "weights_scaling_factor", SINGLES, (), (), True),
    Kind("NVFP4", "weight", PACKED, "weights_scaling_factor", FLOAT8, (), ("weights_scaling_factor_2",)),
    Kind(
        "TensorRT-LLM",
        "weight",
        ("int8", "uint8"),
        "weights_scaling_factor",
        SINGLES,
        (),
        ("weights_scaling_factor_2",),
    ),
    Kind("TensorRT-LLM", "weight", ("int8", "uint8"), "per_channel_scale", SINGLES),
    Kind("NVFP4", "", PACKED, "_weight_scale", FLOAT8, (), ("_weight_scale_2", "_input_scale")),
    Kind("float8", "", FLOAT8, "_weight_scale", SINGLES, (), ("_input_scale",), True),
    Kind("MX", "weight", ("int8", "float4_e2m1fn"), "scale", POWERS),
    Kind("unsigned", "", ("uint8", "uint16"), "_scale", SINGLES, ("_zero_point",), BLOCKS, True),
    Kind("packed", "weight", ("uint8",), "weight_scale", SINGLES, (), SECOND),
)
"""The first that fits holds; empty ``dtypes`` or ``scales`` mean any dtype.

Names are those of compressed-tensors, GPTQ, AWQ and bitsandbytes; exllamav2 0.3.2, exllamav3 1.6.5, hqq 0.2.8, mlx-lm
0.32, QuIP#, SVDQuant; optimum-quanto 0.2.7; torchao 0.18, flattened for .safetensors; ONNX Runtime's quantizers;
Model-Optimizer, TensorRT-LLM; ComfyUI (``scale_weight``); transformers 5.24 (EETQ, HIGGS, BitNet, MXFP4, float8;
``scale`` in DeepSeek's own files, ``qscale_weight`` in Mistral's).
"""


def recognised(tensors: Iterable[Description]) -> list[Description]:
    """The tensors of one source; those of a quantized checkpoint are skipped, with a reason.

    Codes of one value each have ``dequantized``, their values, if their scale fits.
    """
    tensors = list(tensors)
    named = {name: each for each in tensors for name in (each.name, *each.aliases)}
    found: dict[str, Description] = {}
    for each in tensors:
        if each.status == "failed" or each.dequantized is not None or (kind := _kind_of(each, named)) is None:
            continue
        scale, *others = _companions(each.name, kind)
        what = f"it holds {kind.name} codes, whose scale is {quoted(scale)}"
        whole = _dequantized(each, kind, named)
        todo = "calibrate the model that they were made from" if whole is None else "--dequantize applies it"
        found[each.name] = replace(_skipped(each, f"{what}; {todo}"), dequantized=whole)
        for companion in (named[name] for name in (scale, *others) if name in named):
            reason = f"it belongs to the {kind.name} codes in {quoted(each.name)}"
            found.setdefault(companion.name, _skipped(companion, reason))
    for each in tensors:
        if each.status == "ok" and each.name not in found and (what_else := _no_weight(each)):
            found[each.name] = _skipped(each, what_else)
    return [found.get(each.name, each) for each in tensors]


def _no_weight(tensor: Description) -> str | None:
    """The kind of a tensor that its name alone gives away; None for a weight."""
    if OBSERVERS.fullmatch(tensor.name):
        return "it is the range of a quantizer, not a weight"
    is_through = prod(tensor.shape) == 1 and THROUGH.fullmatch(tensor.name)
    return "it is a scale of a module's activations, not a weight" if is_through else None


def _companions(codes: str, kind: Kind) -> list[str]:
    """The names of tensors that may lie beside codes with a name, the scale first."""
    stem = codes[: len(codes) - len(kind.codes)]
    module = stem[: stem.rfind(".") + 1]
    own = [stem + end for end in (kind.scale, *kind.beside, *kind.others)]
    return [*own, *(module + end for end in ACTIVATIONS)]


def _kind_of(codes: Description, named: Mapping[str, Description]) -> Kind | None:
    for kind in _kinds_of(codes.dtype):
        if not codes.name.endswith(kind.codes):
            continue
        stem = codes.name[: len(codes.name) - len(kind.codes)]
        scale = named.get(stem + kind.scale)
        fits = scale is not None and (not kind.scales or scale.dtype in (*kind.scales, LOST))
        if fits and all(stem + end in named for end in kind.beside):
            return kind
    return None


@lru_cache
def _kinds_of(dtype: str) -> tuple[Kind, ...]:
    """The kinds whose codes may have a dtype: for most dtypes few."""
    return tuple(kind for kind in KINDS if not kind.dtypes or dtype in kind.dtypes)


def _skipped(tensor: Description, reason: str) -> Description:
    raw = tensor.raw or tensor.parts
    return tensor if tensor.status == "failed" else replace(tensor, parts=(), raw=raw, status="skipped", reason=reason)


def _dequantized(codes: Description, kind: Kind, named: Mapping[str, Description]) -> Description | None:
    """The values of codes, if it is known how they are stored."""
    stem = codes.name[: len(codes.name) - len(kind.codes)]
    if kind.codes == PACKED_CODES:
        from klcal.readers.packed import unpacked_weight

        return unpacked_weight(stem, named)
    if not kind.is_one_each or any(stem + end in named for end in SECOND):
        return None
    levels = named[stem + "_levels"] if "_levels" in kind.beside else None
    from klcal.readers.restored import dequantized  # most runs need none, and some are short

    scale, zero_point = named[stem + kind.scale], named.get(stem + kind.scale.partition("_scale")[0] + "_zero_point")
    whole = dequantized(codes, scale, zero_point, levels, named.get(stem + UNIT_SHAPE))
    return whole if whole is None or kind.weight is None else replace(whole, name=stem + kind.weight)
