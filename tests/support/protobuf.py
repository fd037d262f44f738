"""ONNX models byte by byte: also those that no library would write."""

from __future__ import annotations

import struct

FLOAT, INT8, FLOAT16 = 1, 3, 10
VALUES = struct.pack("<4f", 0.5, -1.0, 0.0, 2.0)


def integer(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative ones as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return integer(field << 3) + integer(value)


def held(field: int, data: bytes | str, length: int | None = None) -> bytes:
    """A field of bytes, which may lie about its length."""
    data = data.encode() if isinstance(data, str) else data
    return integer(field << 3 | 2) + integer(len(data) if length is None else length) + data


def tensor(name: str | None = "w", dims=(4,), data_type: int = FLOAT, more: bytes = held(9, VALUES)) -> bytes:
    """A TensorProto; ``more`` are the fields that have its values."""
    named = b"" if name is None else held(8, name)
    return b"".join(number(1, n) for n in dims) + number(2, data_type) + named + more


def external(*, length: int | None = 16, **entries: str | int) -> bytes:
    """The fields of a tensor whose values are in another file, four float32 by default."""
    entries = {"location": "m.onnx_data", "offset": 0, **entries} | ({} if length is None else {"length": length})
    pairs = (held(1, key) + held(2, str(value)) for key, value in entries.items())
    return b"".join(held(13, pair) for pair in pairs) + number(14, 1)


def graph(*tensors: bytes, more: bytes = b"") -> bytes:
    return b"".join(held(5, each) for each in tensors) + more


def constant(output: str, value: bytes) -> bytes:
    """A node of a graph."""
    return held(1, held(2, output) + held(4, "Constant") + held(5, held(1, "value") + held(5, value)))


def dequantize(*inputs: str, operator: str = "DequantizeLinear", **attributes: int) -> bytes:
    """A node that quantizes, or takes what is quantized."""
    numbers = b"".join(held(5, held(1, name) + number(3, value)) for name, value in attributes.items())
    return held(1, b"".join(held(1, name) for name in inputs) + held(2, "y") + held(4, operator) + numbers)


def branch(*graphs: bytes) -> bytes:
    """A node with graphs in its attributes."""
    return held(1, held(4, "If") + b"".join(held(5, held(1, "then_branch") + held(6, each)) for each in graphs))


def model(*tensors: bytes, more: bytes = b"") -> bytes:
    """A ModelProto. Its graph comes last, so that every cut is one of the graph."""
    return number(1, 10) + held(8, number(2, 21)) + held(7, graph(*tensors, more=more))
