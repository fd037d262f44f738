"""The defaults of `--to onnx`: the tensors of a model that it quantizes, and how."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.granularity import UNIT_WORDS, Per, PerChannel, PerGroup, parse_per
from klcal.quantizers.rules import ALL, Rules, rules_of
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import DTYPES, KINDS
from klcal.readers.description import Description

__all__ = ["DTYPE", "SCALES", "storage_of", "takes", "usual"]

SCALES = ("float32", "float16", "bfloat16")  # types that DequantizeLinear gives: those of its scales
GROUP = 128  # inputs of a block, if the weight of a MatMul or Gemm has at least that number
DTYPE = "use int2 to int16, uint2 to uint16, float8_e4m3fn or float8_e5m2"


def storage_of(dtype: str) -> str | None:
    """The type in which codes are stored; None if ONNX has none for the format.

    >>> storage_of("int5"), storage_of("uint4"), storage_of("float4_e2m1fn")
    ('int8', 'uint4', None)
    """
    if dtype in FLOATS:
        return dtype if dtype in ("float8_e4m3fn", "float8_e5m2") else None
    kind, bits = dtype.rstrip("0123456789"), int(dtype.lstrip("uint"))
    return f"{kind}{next(width for width in (4, 8, 16) if bits <= width)}"


def takes(tensor: Description, include: Sequence[str]) -> bool:
    """Whether a tensor is quantized: the weights of Conv, ConvTranspose, Gemm, MatMul, or any with two axes named."""
    return len(tensor.shape) > 1 and (bool(include) or tensor.outputs is not None)


def usual(_directory: str | None, tensors: Iterable[Description], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a calibration. Options that are not given follow from the number format.

    The default is int8 with a scale for each output; 4 bits have blocks along the inputs. Units without an axis lie
    along the outputs of the operator that takes the tensor, groups along its inputs.

    Raises:
        UsageError: DequantizeLinear has no such number format.
    """
    found = list(tensors)
    dtype = rules_of("dtype", given.get("dtype", ()), "int8", DTYPES, str)
    if other := [each for each in dtype.values if storage_of(each) is None]:
        raise UsageError(f"DequantizeLinear takes no {other[0]}", DTYPE)
    per = rules_of("unit", given["per"], "tensor", UNIT_WORDS, parse_per) if "per" in given else None

    def unit(tensor: Description) -> Per:
        names = tensor.name, *tensor.aliases
        return _along(per.of(names), tensor) if per else _usual_unit(dtype.of(names), tensor)

    scheme = dtype.each(lambda each: "auto" if each in FLOATS or each.startswith("u") else "symmetric-full")
    if "scheme" in given:
        scheme = rules_of("scheme", given["scheme"], "auto", ("auto", *KINDS), str)
    own = Rules(((ALL, "float32"),))
    if "scale_format" in given:
        own = rules_of("scale format", given["scale_format"], "float32", SCALE_FORMATS, str)
    scales = _by_name(own, found, lambda each: each.dtype if each.dtype in SCALES else "float32")
    return {
        **given,
        "dtype": dict(dtype.pairs),
        "scheme": dict(scheme.pairs),
        "per": _by_name(per or Rules(((ALL, PerChannel()),)), found, unit),
        "scale_format": dict(own.pairs) if "scale_format" in given else scales,
    }


def _along(per: Per, tensor: Description) -> Per:
    """A unit with its axis, where that is left to the operator."""
    if tensor.outputs is None:
        return per
    if per == PerChannel():
        return PerChannel(tensor.outputs)
    return PerGroup(per.size, _inputs(tensor)) if isinstance(per, PerGroup) and per.axis == -1 else per


def _inputs(tensor: Description) -> int:
    """The axis of a weight along which the inputs of its operator lie: the other one of the two."""
    rank = len(tensor.shape)
    first = rank - 2 if tensor.outputs == rank - 1 else 0
    return first + 1 if tensor.outputs == first else first


def _usual_unit(dtype: str, tensor: Description) -> Per:
    has_inputs = len(tensor.shape) == 2 and tensor.outputs is not None and tensor.shape[_inputs(tensor)] >= GROUP
    if has_inputs and str(storage_of(dtype)).endswith("int4"):
        return PerGroup(GROUP, _inputs(tensor))
    return _along(PerChannel(), tensor)


def _by_name(rules: Rules[Any], tensors: Iterable[Description], wanted: Callable[[Description], Any]) -> dict[str, Any]:
    """Rules that give each tensor its wanted value. What most of the unmatched tensors want is the default."""
    values = {each.name: (wanted(each), each) for each in tensors}
    *first, last = rules.pairs
    globs = Rules((*first, (ALL, None)))
    free = Counter(value for value, each in values.values() if globs.of((each.name, *each.aliases)) is None)
    whole = Rules((*first, (ALL, free.most_common(1)[0][0] if free else last[1])))
    own = {
        glob.escape(name): value for name, (value, each) in values.items() if whole.of((name, *each.aliases)) != value
    }
    return {**own, **dict(whole.pairs)}
