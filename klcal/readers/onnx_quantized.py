"""Quantized tensors of an ONNX model, told by the nodes that use them: codes, scales and zero points.

The operators are those of ONNX and of ONNX Runtime (com.microsoft); each is described by the positions of its inputs.
Stored codes of a DequantizeLinear node can be restored to their values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import NamedTuple

from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.readers.restored import dequantized

__all__ = ["DEQUANTIZE", "OPERATORS", "Node", "recognised_by", "values_needed"]

DEQUANTIZE = "DequantizeLinear"
SUFFIX = "_quantized"  # that ONNX Runtime's quantizers put behind the name of a weight
CODES = ("int", "uint", "float8", "float4")  # the beginnings of the names of their types


class Places(NamedTuple):
    """The positions of the inputs of an operator that belong together; None for one that the operator does not have."""

    codes: int | None
    scale: int | None
    zero_point: int | None


FIRST, SECOND = Places(0, 1, 2), Places(3, 4, 5)
ONE_TO_ONE = (FIRST, Places(None, 3, 4))  # the scale of the output follows
TWO_TO_ONE = (FIRST, SECOND, Places(None, 6, 7))
OPERATORS: dict[str, tuple[Places, ...]] = {
    DEQUANTIZE: (FIRST,),
    "QuantizeLinear": (Places(None, 1, 2),),
    "QLinearConv": TWO_TO_ONE,
    "QLinearMatMul": TWO_TO_ONE,
    "QLinearAdd": TWO_TO_ONE,
    "QLinearMul": TWO_TO_ONE,
    "QGemm": (FIRST, SECOND, Places(None, 7, 8)),  # 6 is the bias
    "QLinearSigmoid": ONE_TO_ONE,
    "QLinearLeakyRelu": ONE_TO_ONE,
    "QLinearSoftmax": ONE_TO_ONE,
    "QLinearReduceMean": ONE_TO_ONE,
    "QLinearAveragePool": ONE_TO_ONE,
    "QLinearGlobalAveragePool": ONE_TO_ONE,
    "QLinearConcat": (Places(None, 0, 1), *(Places(at, at + 1, at + 2) for at in range(2, 194, 3))),  # 64 inputs
    "MatMulIntegerToFloat": (Places(0, 2, 4), Places(1, 3, 5)),
    "DynamicQuantizeMatMul": (Places(1, 2, 3),),
    "QAttention": (Places(0, 3, 6), Places(1, 4, 7)),
    "MatMulNBits": (Places(1, 2, 3),),
    "MatMulBnb4": (Places(1, 2, None),),
    "GatherBlockQuantized": (Places(0, 2, 3),),
    "QMoE": (Places(2, 3, 11), Places(5, 6, 12), Places(8, 9, 13), Places(None, 15, None), Places(None, 16, None)),
}


class Node(NamedTuple):
    """A node of one of these operators."""

    operator: str
    inputs: tuple[str, ...]  # "" for one that is left out
    axis: int = 1
    block: int = 0  # values along the axis that share a scale; 0 where none do but those of an index, or all


class Use(NamedTuple):
    """Tensors that belong together, by their names; "" for none."""

    node: Node
    codes: str
    scale: str
    zero_point: str


def values_needed(nodes: Iterable[Node]) -> set[str]:
    """The names of the tensors whose values a node needs, even if they are integers."""
    uses = [use for use in _uses(nodes) if use.node.operator == DEQUANTIZE]
    return {name for use in uses for name in (use.codes, use.scale, use.zero_point)}


def recognised_by(nodes: Iterable[Node], tensors: Iterable[Description]) -> list[Description]:
    """The tensors of a model; codes, scales and zero points are skipped, with a reason.

    Codes have ``dequantized`` where a DequantizeLinear with a stored scale takes them.
    """
    tensors = list(tensors)
    named = {name: each for each in tensors for name in (each.name, *each.aliases)}
    found: dict[str, Description] = {}
    of_codes: dict[str, list[Use]] = defaultdict(list)
    for use in _uses(nodes):
        for each in (named[name] for name in (use.scale, use.zero_point) if name in named):
            if each.status == "ok":
                reason = f"it is a scale or a zero point of {use.node.operator}, not a weight"
                found.setdefault(each.name, replace(each, parts=(), raw=each.parts, status="skipped", reason=reason))
        codes = named.get(use.codes)
        if codes is not None and codes.dtype.startswith(CODES) and codes.status in ("ok", "skipped"):
            of_codes[codes.name].append(use)
    found |= {name: _codes(named[name], uses, named) for name, uses in of_codes.items()}
    return [found.get(each.name, each) for each in tensors]


def _uses(nodes: Iterable[Node]) -> Iterator[Use]:
    for node in nodes:
        for places in OPERATORS[node.operator]:
            inputs = (node.inputs[at] if at is not None and at < len(node.inputs) else "" for at in places)
            yield Use(node, *inputs)


def _codes(codes: Description, uses: list[Use], named: Mapping[str, Description]) -> Description:
    """Codes, skipped, with their values if all nodes that use them agree."""
    use, *more = uses
    whole = None if any(each != use for each in more) else _dequantized(codes, use, named)
    todo = "calibrate the model that they were made from" if whole is None else "--dequantize applies it"
    original = codes.name.removesuffix(SUFFIX)
    if whole is not None and original not in named:
        whole = replace(whole, name=original or codes.name)
    scale = f"whose scale is {quoted(use.scale)}" if use.scale in named else "whose scale is computed"
    reason = f"it holds {codes.dtype} codes of {use.node.operator}, {scale}; {todo}"
    raw = () if whole is None else codes.parts or codes.raw  # that no name of another tensor can make something of them
    return replace(codes, parts=(), raw=raw, status="skipped", reason=reason, dequantized=whole)


def _dequantized(codes: Description, use: Use, named: Mapping[str, Description]) -> Description | None:
    """The values that a DequantizeLinear makes of codes; None for another node, or if the scale does not fit."""
    scale, zero_point = named.get(use.scale), named.get(use.zero_point)
    if use.node.operator != DEQUANTIZE or scale is None or (zero_point is None and use.zero_point):
        return None
    if zero_point is not None and zero_point.shape != scale.shape:
        return None
    if not use.node.block and prod(scale.shape) == 1 and len(scale.shape) < 2:
        return dequantized(codes, scale, zero_point)
    rank = len(codes.shape)
    axis = use.node.axis + rank * (use.node.axis < 0)
    if not 0 <= axis < rank or use.node.block < 0:
        return None
    unit, stored, cells = _units(codes.shape, axis, use.node.block)
    if scale.shape != stored:
        return None
    whole = None if zero_point is None else replace(zero_point, shape=cells)
    return dequantized(codes, replace(scale, shape=cells), whole, unit=unit)


def _units(shape: tuple[int, ...], axis: int, block: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """How many values along each axis share a scale, the shape of the scales, and that with all of the axes.

    >>> _units((24, 480), 1, 0), _units((24, 480), 1, 50)
    (((24, 1), (480,), (1, 480)), ((1, 50), (24, 10), (24, 10)))
    """
    extent = shape[axis]
    if not block:
        unit = tuple(1 if each == axis else size for each, size in enumerate(shape))
        return unit, (extent,), tuple(size if each == axis else 1 for each, size in enumerate(shape))
    units = tuple(-(-size // block) if each == axis else size for each, size in enumerate(shape))
    return tuple(min(block, extent) if each == axis else 1 for each in range(len(shape))), units, units
