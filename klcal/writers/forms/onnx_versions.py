"""The version of ONNX's operators that a quantized weight needs, and whether a model can be raised to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from klcal.errors import UsageError
from klcal.readers.onnx_graph import Node
from klcal.tables.rows import Row
from klcal.writers.forms.onnx_usual import storage_of
from klcal.writers.onnx_file import ONNX, Parts

__all__ = ["CHANGED", "OLDEST", "changed", "check_version", "ir_of", "opset_of", "wanted_opset"]

BLOCKS = FEW_BITS = 21  # DequantizeLinear takes blocks; 4 and 16 bits
FLOAT8 = HALVES = 19  # it takes float8; and gives float16 and bfloat16
CHANNELS = 13  # it has an axis
FIRST = 10  # there is one
IR = {21: 10, 19: 9, 13: 7, 10: 5}
"""The version of the format with which a version of the operators came."""

OLDEST = 13
"""A model that is older is not raised: Softmax, Squeeze, ReduceSum and others are not what they were before."""
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
CHANGED: Mapping[str, tuple[int, str]] = {
    **{f"Reduce{each}": (18, "") for each in REDUCTIONS},  # axes became an input
    "AveragePool": (19, "ceil_mode"),  # values behind the padding no longer count
    "DFT": (20, ""),  # the axis became an input
    "GridSample": (20, ""),  # modes have other names
    "GroupNormalization": (21, ""),  # a scale for each channel, no longer for each group
    "RoiAlign": (16, ""),  # half a pixel is subtracted by default
    "Split": (18, ""),  # equal parts have to be asked for
}
"""Operators that are not what they were since a version after ``OLDEST`` up to 21; some only with an attribute.

All others of these versions take more types, or attributes whose default is what was so before.
"""


def wanted_opset(storage: str, dtype: str, unit: str) -> int:
    """The first version of ONNX's operators in which DequantizeLinear supports a combination of types.

    Args:
        storage: the type of the codes.
        dtype: of the scales and of the output.
        unit: "tensor", "channel" or "block".

    >>> wanted_opset("int8", "float32", "channel"), wanted_opset("int4", "float32", "tensor")
    (13, 21)
    """
    by_storage = {"int8": FIRST, "uint8": FIRST, "float8_e4m3fn": FLOAT8, "float8_e5m2": FLOAT8}
    by_unit = {"tensor": FIRST, "channel": CHANNELS, "block": BLOCKS}
    return max(by_storage.get(storage, FEW_BITS), by_unit[unit], FIRST if dtype == "float32" else HALVES)


def opset_of(row: Row, dtype: str) -> int:
    """The first version of ONNX's operators that supports the quantizer of a row, if floats have the type ``dtype``."""
    unit = "tensor" if row.units is None else "channel" if row.units.size is None else "block"
    return wanted_opset(str(storage_of(row.target or "")), dtype, unit)


def ir_of(opset: int) -> int:
    """The first version of the file format that has a version of the operators: one of ``wanted_opset``."""
    return IR[opset]


def changed(nodes: Iterable[Node], version: int, wanted: int) -> str | None:
    """Why a model cannot be raised to another version; None if it can.

    >>> changed([Node("ReduceMean", ("x",), ("y",), {})], 17, 21)
    'ReduceMean is another operator since 18'
    """
    own = [node for node in nodes if node.domain in ONNX]
    if version < OLDEST and own:
        return f"operators before {OLDEST} are others"
    for node in own:
        since, only_with = CHANGED.get(node.op, (0, ""))
        if version < since <= wanted and (not only_with or node.integers.get(only_with)):
            return f"{node.op} is another operator since {since}"
    return None


def check_version(what: str, parts: Parts, nodes: Iterable[Node], wanted: int) -> None:
    """Refuses a model that cannot be raised to a version of ONNX's operators.

    Args:
        what: the thing that needs the version, for messages.
        parts: of the model.
        nodes: of its graph.
        wanted: the version.

    Raises:
        UsageError: an operator of the model would change.
    """
    why = "functions that go by it" if parts.has_functions else changed(nodes, parts.version, wanted)
    if wanted > parts.version and why:
        hint = f"raise it: onnx.version_converter.convert_version(model, {wanted})"
        raise UsageError(f"{what} needs opset {wanted}, the model has {parts.version}, and {why}", hint)
