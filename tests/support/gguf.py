"""GGUF files, sound and not: written here, so that they can lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

F32, F16, Q4_0, Q8_0, I32, F64, BF16 = 0, 1, 2, 8, 26, 28, 30
UINT32, TEXT, ARRAY = 4, 8, 9
TYPES = {"float32": F32, "float16": F16, "float64": F64, "int32": I32}


class Tensor(NamedTuple):
    """A tensor; its offset is where it has to be, if none is given."""

    type: int
    shape: Sequence[int]  # as NumPy has it
    data: bytes
    offset: int | None = None


def of(array: np.ndarray) -> Tensor:
    return Tensor(TYPES[array.dtype.name], array.shape, array.tobytes())


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def alignment(value: int) -> bytes:
    return key("general.alignment", UINT32, struct.pack("<I", value))


def texts(*values: str) -> bytes:
    """The value of a key that is an array."""
    return struct.pack("<IQ", TEXT, len(values)) + b"".join(map(text, values))


KEYS = (
    key("general.architecture", TEXT, text("llama")),
    key("tokenizer.ggml.tokens", ARRAY, texts("<s>", "", "été")),
    key("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ3f", 6, 3, 0.0, -1.0, 2.0)),
    key("llama.rope.freq_base", 6, struct.pack("<f", 10000.0)),
    key("llama.use_x", 7, b"\1"),
    key("llama.block_count", 10, struct.pack("<Q", 1)),
)
TENSORS: Mapping[str, Tensor] = {
    "blk.0.attn_q.weight": of(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "blk.0.ffn_down.weight": Tensor(Q4_0, (2, 32), bytes(range(36))),
    "b16": Tensor(BF16, (3,), np.float32([1, -2, 0.5]).view("<u4").__rshift__(16).astype("<u2").tobytes()),
    "half": of(np.float16([[[1.5]], [[-2.0]]])),
    "é": of(np.arange(2, dtype=np.int32)),
    "none": of(np.zeros((0, 4), np.float64)),
    "last": of(np.float64([1 / 3, -4.0])),
}


def gguf(
    tensors: Mapping[str, Tensor] = TENSORS,
    keys: Sequence[bytes] = KEYS,
    *,
    version: int = 3,
    align: int = 32,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
    repeat: int = 1,
) -> bytes:
    """A file; ``counts`` of tensors and keys are true if they are not given, ``repeat`` lists all tensors again."""
    infos, data = [], b""
    for name, tensor in [*tensors.items()] * repeat:
        offset = len(data) if tensor.offset is None else tensor.offset
        extents = tuple(tensor.shape)[::-1]
        infos.append(text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, tensor.type, offset))
        data += padded(tensor.data, align)
    stated = counts or (len(infos), len(keys))
    head = magic + struct.pack("<I2Q", version, *stated) + b"".join(keys) + b"".join(infos)
    return padded(head, align) + data


def padded(data: bytes, align: int) -> bytes:
    return data + bytes(-len(data) % align)


# --- files that lie

HUGE = (1 << 64) - 1
ONE = of(np.float32([1, 2, 3, 4]))
DATA = "the data of 'b' do not begin where those before it end"


def one(**changes) -> dict[str, Tensor]:
    return {"a": ONE._replace(**changes)}


def two(offset: int) -> dict[str, Tensor]:
    return {"a": ONE, "b": ONE._replace(offset=offset)}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file ends inside its header, after 0 bytes"),
    "another file": (b"FUNK" + bytes(99), "it is not a .gguf file"),
    "big endian": (b"GGUF" + struct.pack(">I2Q", 3, 0, 0) + bytes(99), "it is a big-endian GGUF file"),
    "big endian by its mark": (b"FUGG" + struct.pack(">I2Q", 3, 0, 0) + bytes(99), "it is a big-endian GGUF file"),
    "version 0": (gguf(version=0), "its GGUF version is 0; 2 and 3 are known"),
    "version 1": (gguf(version=1), "its GGUF version is 1; 2 and 3 are known"),
    "version 4": (gguf(version=4), "its GGUF version is 4; 2 and 3 are known"),
    "tensors without end": (gguf(counts=(HUGE, 0)), "it would have 18,446,744,073,709,551,615 tensors"),
    "keys without end": (gguf(counts=(0, HUGE)), "it would have 18,446,744,073,709,551,615 keys"),
    "more tensors than fit": (gguf(counts=(32_768, 0)), "it needs 786,456 bytes, the file has"),
    "more keys than fit": (gguf(counts=(0, 65_536)), "it needs 851,992 bytes, the file has"),
    "tensors that are zeros": (gguf({}, [], counts=(3, 0)) + bytes(99), "two of its tensors are called ''"),
    "a long key": (gguf(keys=[struct.pack("<Q", HUGE) + bytes(99)]), "the name of a key would have 18,446"),
    "a long name": (gguf({"a" * 70_000: ONE}), "the name of a tensor would have 70,000 bytes; 65,535 are"),
    "a key that is not UTF-8": (gguf(keys=[text(b"\xff") + bytes(9)]), "the name of a key is not UTF-8"),
    "a value of no type": (gguf(keys=[key("k", 13, bytes(99))]), "a key has a value of the unknown type 13"),
    "an array in an array": (
        gguf(keys=[key("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(99))]),
        "a key has a value of the unknown type 9",
    ),
    "a text without end": (gguf(keys=[key("k", TEXT, struct.pack("<Q", HUGE))]), "ends inside its header"),
    "numbers without end": (
        gguf(keys=[key("k", ARRAY, struct.pack("<IQ", 12, HUGE))]),
        "the file ends inside its header",
    ),
    "texts without end": (
        gguf(keys=[key("k", ARRAY, struct.pack("<IQ", TEXT, HUGE))]),
        "its keys would have more than 1,500,000 texts",
    ),
    "more texts than there are": (
        gguf(keys=[key("k", ARRAY, struct.pack("<IQ", TEXT, 1_500_000))]),
        "the file ends inside its header",
    ),
    "texts whose lengths leap": (
        gguf(keys=[key("k", ARRAY, struct.pack("<IQQ", TEXT, 3, HUGE // 2))]),
        "the file ends inside its header",
    ),
    "alignment 0": (gguf(keys=[alignment(0)]), "its alignment is 0, which is not a power of two"),
    "alignment 24": (gguf(keys=[alignment(24)]), "its alignment is 24, which is not a power of two"),
    "alignment 2^31": (gguf(keys=[alignment(1 << 31)]), "the data of 'blk.0.attn_q.weight' end at 2,147,483,672"),
    "alignment twice": (gguf(keys=[alignment(32)] * 2), "its key general.alignment is given twice"),
    "alignment as text": (
        gguf(keys=[key("general.alignment", TEXT, text("32"))]),
        "its key general.alignment is given twice, or has the wrong type",
    ),
    "two of one name": (gguf({"a": ONE}, repeat=2), "two of its tensors are called 'a'"),
    "five dimensions": (gguf(one(shape=(1, 1, 1, 1, 4))), "'a' would have 5 dimensions; 4 are allowed"),
    "dimensions without end": (
        gguf({}, [text("a") + struct.pack("<I", 1 << 31)], counts=(1, 0)) + bytes(99),
        "'a' would have 2,147,483,648 dimensions",
    ),
    "a shape that wraps": (gguf(one(shape=(1 << 32, 1 << 32))), "the shape of 'a' is larger than any memory"),
    "a shape that wraps and is 0": (gguf(one(shape=(1 << 62, 4, 0))), "the shape of 'a' is larger than any"),
    "bytes that wrap and are 0": (gguf(one(shape=(1 << 61, 4, 0))), "the shape of 'a' is larger than any memory"),
    "a shape beyond the file": (gguf(one(shape=(1 << 40,))), "the data of 'a' end at 4,398,046,51"),
    "half a block": (gguf(one(type=Q4_0, shape=(2, 16))), "the rows of 'a' are not whole blocks of Q4_0"),
    "a block without dimensions": (gguf(one(type=Q4_0, shape=())), "the rows of 'a' are not whole blocks"),
    "data far away": (gguf(one(offset=1 << 40)), "the data of 'a' do not begin where"),
    "data before the start": (gguf(one(offset=HUGE - 31)), "the data of 'a' do not begin where"),
    "data that are not aligned": (gguf(two(33)), DATA),
    "data that overlap": (gguf(two(0)), DATA),
    "a gap between data": (gguf(two(64)), DATA),
    "data cut": (gguf(one(), [])[:-17], "the data of 'a' end at 80, the file at 79; "),
    "overlap behind an unknown type": (
        gguf({"x": Tensor(777, (4,), bytes(16)), "y": ONE, "b": ONE._replace(offset=32)}),
        DATA,
    ),
}
"""Files that are refused, and part of the reason."""
