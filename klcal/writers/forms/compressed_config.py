"""`quantization_config`, the part of config.json that describes a compressed-tensors checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from klcal.errors import UsageError
from klcal.quantizers.granularity import Grid
from klcal.quantizers.packing import MOST_BITS
from klcal.quantizers.scheme import Scheme
from klcal.tables.rows import Row
from klcal.tables.units import Units

__all__ = ["FLOAT", "INTEGERS", "MXFP4", "NVFP4", "PACKED", "Inputs", "Storage", "quantization_config", "storage_of"]

PACKED, INTEGERS, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
MXFP4, NVFP4 = "mxfp4-pack-quantized", "nvfp4-pack-quantized"
MIXED = "mixed-precision"
MX_SIZE, NV_SIZE = 32, 16  # values of a group
FLOAT4 = "use --per group:32 with --scale-format e8m0 (MXFP4), or --per group:16 with float8_e4m3fn (NVFP4)"
HEAD = "lm_head"  # a Linear of most language models; one that is tied to the embedding has no tensor of its own


Place: TypeAlias = Units | Grid
"""Where the units of a tensor lie."""


@dataclass(frozen=True)
class Inputs:
    """The static quantizer of a module's inputs: one scale, which is known before the model runs."""

    type: Literal["int", "float"]
    symmetric: bool

    @staticmethod
    def of(row: Row) -> Inputs:
        """The quantizer of inputs from a row that was calibrated on recorded inputs.

        Raises:
            UsageError: the format has no such quantizer.
        """
        if row.units is not None or row.scale is None:
            raise UsageError(f"no single scale for '{row.name}'", "calibrate inputs --per tensor, or leave them out")
        if row.target not in ("int8", "uint8", "float8_e4m3fn"):
            raise UsageError(f"{row.target} values of '{row.name}'", "use int8 or float8_e4m3fn for inputs")
        is_float = row.target.startswith("float8")
        return Inputs("float" if is_float else "int", row.scheme != "affine")

    @property
    def arguments(self) -> dict[str, Any]:
        """As ``QuantizationArgs`` has it."""
        of_one = {"num_bits": MOST_BITS, "type": self.type, "symmetric": self.symmetric, "strategy": "tensor"}
        return {**of_one, "dynamic": False}


@dataclass(frozen=True)
class Storage:
    """The form in which the weight of a module is stored, and its quantizer in the words of ``QuantizationArgs``."""

    format: str
    num_bits: int
    type: Literal["int", "float"]
    symmetric: bool
    strategy: Literal["tensor", "channel", "group", "block", "tensor_group"]
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    scale_dtype: str | None = None
    inputs: Inputs | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The ``QuantizationArgs`` of the weight, without those that do not apply."""
        others = ("format", "inputs")
        fields = {name: value for name, value in vars(self).items() if name not in others and value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def storage_of(scheme: Scheme, units: Place | None, shape: tuple[int, ...], inputs: Inputs | None = None) -> Storage:
    """The form in which codes of a scheme are stored.

    Integers without zero points are packed, whatever their width: all readers have that format for weights alone. With
    zero points, 8-bit codes of channels are stored one by one, which more readers accept. So are all 8-bit codes if
    inputs are quantized, too.

    Args:
        scheme: of the weight.
        units: the units with their own scales; None for one scale.
        shape: [out, in].
        inputs: the quantizer of the inputs; None if they stay float.

    Raises:
        UsageError: the format has no such quantizer.
    """
    found = _of_weight(scheme, units, shape)
    if inputs is None:
        return found
    if found.type != inputs.type or found.num_bits != MOST_BITS or found.strategy == "group":
        what = f"{scheme.dtype} per {found.strategy} beside inputs in 8 bits ({inputs.type})"
        raise UsageError(what, "use int8 in channels beside int8 inputs, float8_e4m3fn beside those, or leave them out")
    return replace(found, format=INTEGERS if found.type == "int" else FLOAT, inputs=inputs)


def _of_weight(scheme: Scheme, units: Place | None, shape: tuple[int, ...]) -> Storage:
    strategy, size = _strategy(units, shape)
    if scheme.dtype == "float8_e4m3fn":
        if strategy == "group":
            raise UsageError("float8 in groups", "use --per channel, block:128,128 or tensor")
        return Storage(FLOAT, MOST_BITS, "float", True, strategy, block_structure=size if strategy == "block" else None)
    if scheme.dtype == "float4_e2m1fn":
        return _float4(scheme, strategy, size)
    bits = _bits(scheme)
    if bits is None:
        raise UsageError(f"{scheme.dtype} values", "use int2 to int8, float8_e4m3fn or float4_e2m1fn")
    if strategy == "block":
        raise UsageError("integers in blocks", "use --per channel or group:128")
    if scheme.symmetric:
        return Storage(PACKED, bits, "int", True, strategy, size)
    if bits == MOST_BITS and strategy != "group":
        return Storage(INTEGERS, bits, "int", False, strategy)
    if strategy == "tensor":
        raise UsageError(f"a single zero point of {bits} bits", "use --per channel, or --scheme symmetric-full")
    return Storage(PACKED, bits, "int", False, strategy, size)


def _strategy(units: Place | None, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The strategy, by its name in compressed-tensors, and the size of a group or of a block."""
    if units is None:
        return "tensor", None
    if isinstance(units.size, tuple):
        return "block", units.size
    if units.size is None:
        if units.axis != 0:
            raise UsageError("channels that are columns", "use --per channel")
        return "channel", None
    if units.axis != len(shape) - 1:
        raise UsageError("groups along another axis than the last", "use --per group:128")
    if shape[-1] % units.size:
        what = f"{shape[-1]} columns in groups of {units.size}: the last one would be shorter"
        raise UsageError(what, "use a size that divides them, by a rule 'GLOB=group:SIZE', or leave it out: --exclude")
    return "group", units.size


def _float4(scheme: Scheme, strategy: str, size: Any) -> Storage:
    if (strategy, size, scheme.scale_format) == ("group", MX_SIZE, "e8m0"):
        return Storage(MXFP4, 4, "float", True, "group", MX_SIZE, scale_dtype="torch.uint8")
    if (strategy, size, scheme.scale_format) == ("group", NV_SIZE, "float8_e4m3fn"):
        return Storage(NVFP4, 4, "float", True, "tensor_group", NV_SIZE, scale_dtype="torch.float8_e4m3fn")
    raise UsageError(f"float4 per {strategy}{f' of {size}' if size else ''} with {scheme.scale_format} scales", FLOAT4)


def _bits(scheme: Scheme) -> int | None:
    """The number of bits of an integer format that can be stored."""
    match = re.fullmatch(r"u?int(\d+)", scheme.dtype)
    return int(match[1]) if match and int(match[1]) <= MOST_BITS else None


def quantization_config(quantized: Mapping[str, Storage], others: Iterable[str]) -> dict[str, Any]:
    """The entry of a model.

    Args:
        quantized: the storage of each module, by its name; at least one.
        others: names of the modules that are not quantized and may be Linear.
    """
    members: dict[Storage, list[str]] = defaultdict(list)
    for name, stored in quantized.items():
        members[stored].append(name)
    kept = list(others)
    kept += [] if any(name.split(".")[-1] == HEAD for name in (*quantized, *kept)) else [HEAD]
    formats = sorted({stored.format for stored in members})
    groups = {
        f"group_{number}": {
            "targets": ["Linear"] if len(members) == 1 else _patterns(names, {*quantized, *kept} - {*names}),
            "weights": stored.arguments,
            "format": stored.format,
            **({} if stored.inputs is None else {"input_activations": stored.inputs.arguments}),
        }
        for number, (stored, names) in enumerate(members.items())
    }
    return {
        "quant_method": "compressed-tensors",
        "format": formats[0] if len(formats) == 1 else MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _patterns(kept, {*quantized}),
    }


def _patterns(names: Iterable[str], others: Iterable[str]) -> list[str]:
    r"""Names as the config has them: one expression for those that differ in numbers alone, if no other name fits it.

    >>> _patterns(["h.0.up", "h.10.up", "h.0.down", "h.2.down", "lm_head"], ["h.1.down"])
    ['re:^h\\.\\d+\\.up$', 'h.0.down', 'h.2.down', 'lm_head']
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_numberless(name)].append(name)
    taken = {_numberless(name) for name in others}
    found = []
    for pattern, same in alike.items():
        found += [f"re:^{pattern}$"] if len(same) > 1 and pattern not in taken else same
    return found


def _numberless(name: str) -> str:
    return re.sub(r"\d+", r"\\d+", re.escape(name))
