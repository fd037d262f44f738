"""Quantized checkpoints: which tensors of a file are codes, scales and the like, by what lies beside what.

Nothing but names, dtypes and shapes is looked at. Codes are no weights, and scales are none either: both are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from klcal.readers.description import Description
from klcal.readers.quoting import quoted

__all__ = ["recognised"]

FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
SINGLES = ("float32", "bfloat16", "float16", "float64")
LOST = ""  # the dtype of what lies in a shard that cannot be read
POWERS = ("float8_e8m0fnu", "uint8")  # of two, the scales of MX; NumPy and others store them as bytes
PACKED = ("float4_e2m1fn", "uint8")  # uint8 holds two codes


@dataclass(frozen=True)
class Kind:
    """How codes are stored: their name ends in ``codes``, and what is before that is theirs and their scale's."""

    name: str
    codes: str
    dtypes: tuple[str, ...]
    scale: str  # what the scale's name ends in instead
    scales: tuple[str, ...]  # dtypes of it
    beside: tuple[str, ...] = ()  # what has to be there too
    others: tuple[str, ...] = ()  # what may be
    is_one_each: bool = False  # a code is a value, which a scale multiplies


SECOND = ("_scale_2", "_global_scale")  # what scales are relative to
UNIT_SHAPE = "_unit_shape"  # of a unit: how many values along each axis
BLOCKS = ("_zero_point", "_shape", UNIT_SHAPE, *SECOND)
PACKED_OTHERS = ("weight_shape", "weight_zero_point", "weight_global_scale", "weight_g_idx")
MAPS = ("weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")
ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "activation_scale")
"""What a module of a quantized checkpoint may have beside its weight: quantizers of what goes through it."""

KINDS = (
    Kind("compressed-tensors", "weight_packed", ("int32", "uint8"), "weight_scale", (), (), PACKED_OTHERS),
    Kind("GPTQ", "qweight", ("int32",), "scales", SINGLES, ("g_idx",), ("qzeros",)),
    Kind("AWQ or GPTQ", "qweight", ("int32",), "scales", SINGLES, ("qzeros",)),
    Kind("bitsandbytes, 4 bits", "weight", ("uint8",), "weight.absmax", (), (), MAPS),
    Kind("bitsandbytes, 8 bits", "weight", ("int8",), "SCB", SINGLES),
    Kind("MX", "_blocks", ("uint8",), "_scales", POWERS),
    Kind("MX", "", PACKED, "_scale", POWERS, (), BLOCKS),
    Kind("NVFP4", "", PACKED, "_scale", FLOAT8, (), BLOCKS),
    Kind("float8", "", FLOAT8, "_scale_inv", (*SINGLES, *POWERS), (), BLOCKS, True),
    Kind("float8", "", FLOAT8, "_scale", (*SINGLES, *POWERS), (), BLOCKS, True),
    Kind("int8", "", ("int8",), "_scale", SINGLES, (), BLOCKS, True),
    Kind("int16", "", ("int16",), "_scale", SINGLES, (), BLOCKS, True),
    Kind("level", "", ("uint8",), "_scale", SINGLES, ("_levels",), (UNIT_SHAPE,), True),
    Kind("unsigned", "", ("uint8", "uint16"), "_scale", SINGLES, ("_zero_point",), BLOCKS, True),
)
"""The first that fits holds; an empty ``scales`` means any dtype."""


def recognised(tensors: Iterable[Description]) -> list[Description]:
    """The tensors of one source, of which those of a quantized checkpoint are skipped, with what they are.

    Codes of one value each have ``dequantized`` where their scale fits: what they stand for.
    """
    tensors = list(tensors)
    named = {name: each for each in tensors for name in (each.name, *each.aliases)}
    found: dict[str, Description] = {}
    for each in tensors:
        if each.status == "failed" or (kind := _kind_of(each, named)) is None:
            continue
        scale, *others = _companions(each.name, kind)
        what = f"it holds {kind.name} codes, whose scale is {quoted(scale)}"
        whole = _dequantized(each, kind, named)
        todo = "calibrate the model that they were made from" if whole is None else "--dequantize applies it"
        found[each.name] = replace(_skipped(each, f"{what}; {todo}"), dequantized=whole)
        for companion in (named[name] for name in (scale, *others) if name in named):
            reason = f"it belongs to the {kind.name} codes in {quoted(each.name)}"
            found.setdefault(companion.name, _skipped(companion, reason))
    return [found.get(each.name, each) for each in tensors]


def _companions(codes: str, kind: Kind) -> list[str]:
    """The names of what may lie beside codes of that name, the scale first."""
    stem, module = codes[: len(codes) - len(kind.codes)], codes[: codes.rfind(".") + 1]
    own = [stem + end for end in (kind.scale, *kind.beside, *kind.others)]
    return [*own, *(module + end for end in ACTIVATIONS)]


def _kind_of(codes: Description, named: Mapping[str, Description]) -> Kind | None:
    for kind in KINDS:
        if codes.dtype not in kind.dtypes or not codes.name.endswith(kind.codes):
            continue
        stem = codes.name[: len(codes.name) - len(kind.codes)]
        scale = named.get(stem + kind.scale)
        fits = scale is not None and (not kind.scales or scale.dtype in (*kind.scales, LOST))
        if fits and all(stem + end in named for end in kind.beside):
            return kind
    return None


def _skipped(tensor: Description, reason: str) -> Description:
    raw = tensor.raw or tensor.parts
    return tensor if tensor.status == "failed" else replace(tensor, parts=(), raw=raw, status="skipped", reason=reason)


def _dequantized(codes: Description, kind: Kind, named: Mapping[str, Description]) -> Description | None:
    """What codes stand for, where a code is a value and nothing but its scale and zero point has to be known."""
    stem = codes.name[: len(codes.name) - len(kind.codes)]
    if not kind.is_one_each or any(stem + end in named for end in SECOND):
        return None
    levels = named[stem + "_levels"] if "_levels" in kind.beside else None
    from klcal.readers.restored import dequantized  # most runs need none, and some are short

    return dequantized(
        codes, named[stem + kind.scale], named.get(stem + "_zero_point"), levels, named.get(stem + UNIT_SHAPE)
    )
