"""Headers of .npy, .safetensors and .gguf files that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.cases import Case, later, read, refused
from tests.corpus.pickles import FOUR, npy
from tests.support import gguf


def cases(_: Path) -> Iterator[Case]:
    """Headers of all three formats."""
    for made in (npy_headers(), safetensors_headers(), gguf_headers()):
        for case in made:
            yield Case(**{**vars(case), "kind": "hostile"})


def npy_headers() -> Iterator[Case]:
    """Headers of a .npy that lie, overflow or are no literal."""

    def of(descr: str = "'<f4'", shape: str = "(4,)", order: str = "False") -> bytes:
        return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}".encode(), FOUR)

    huge = "(" + "1, " * 65 + ")"
    shapes = ["(1000000000000,)", "(-1,)", "(-1, -4)", "(4294967296, 4294967296)", "(4611686018427387904, 4, 0)", huge]
    shapes += [f"({'9' * 5000},)", "(99999999999999999999,)", "[4]", "(True,)", "(4.0,)", "'4'", "4", "((4,),)"]
    for shape in shapes:
        yield refused(f"a .npy of shape {shape[:30]}", "x.npy", of(shape=shape))
    for descr in (
        "'|S2147483647'",
        "'nonsense'",
        "None",
        "'<f4' * 9",
        "['<f4']",
        "[" * 90 + "'<f4'" + "]" * 90,
        "'<f3'",
    ):
        yield refused(f"a .npy of dtype {descr[:30]}", "x.npy", of(descr=descr))
    texts = {
        "five thousand minus signs": b"-" * 5000 + b"1",
        "five thousand brackets": b"(" * 5000,
        "a NUL": b"\0",
        "a field more": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}",
        "a field less": b"{'descr': '<f4', 'fortran_order': False}",
        "a list": b"[1]",
        "a power": b"{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}",
        "a call": b"{'descr': '<f4', 'fortran_order': False, 'shape': tuple([4])}",
        "half a literal": b"{'descr': '<f4', 'fortran",
    }
    for title, literal in texts.items():
        yield refused(f"a .npy with {title} as header", "x.npy", npy(literal, FOUR))
    yield refused("a .npy whose header claims 4 GB", "x.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(50), "needs")
    long = b"\x93NUMPY\2\0" + struct.pack("<L", 20_000) + b" " * 20_000
    yield refused("a .npy with a header above the limit", "x.npy", long, "10,000 are allowed")
    yield refused("a .npy of version 9", "x.npy", b"\x93NUMPY\x09\0" + bytes(100), "version")


def safetensors_file(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def document(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def safetensors_headers() -> Iterator[Case]:
    """What the library's own tests refuse, and what it accepts and two readers take differently."""
    a = json.dumps(entry()).encode()
    headers = {
        "an overlap": (document(a=entry(), b=entry()), "overlap"),
        "a part of an overlap": (document(a=entry(), b=entry(offsets=(8, 24))), "overlap"),
        "a gap": (document(a=entry(), b=entry(offsets=(20, 36))), "gap"),
        "a gap at the start": (document(a=entry(offsets=(4, 20))), "gap"),
        "offsets reversed": (document(a=entry(offsets=(16, 0))), "not possible"),
        "negative offsets": (document(a=entry(offsets=(-16, 0))), "not possible"),
        "offsets of 2**63": (document(a=entry(offsets=(1 << 63, (1 << 63) + 16))), ""),
        "offsets beyond the file": (document(a=entry(shape=(1 << 40,), offsets=(0, 1 << 42))), "need "),
        "a negative shape": (document(a=entry(shape=(-4,))), "not possible"),
        "a shape that overflows": (document(a=entry(shape=(1 << 62, 4, 0), offsets=(0, 0))), "larger than any memory"),
        "a shape that wraps around": (document(a=entry(shape=((1 << 62) + 1, 4))), "larger than any memory"),
        "a shape of fractions": (document(a=entry(shape=(4.0,))), "not possible"),
        "a shape of bools": (document(a=entry(shape=(True, 4))), "not possible"),
        "a shape of text": (document(a=entry(shape="4")), "not possible"),
        "a shape of another size": (document(a=entry(shape=(5,))), "do not fit its shape"),
        "a number of 5,000 digits": (
            b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, 16]}}' % (b"9" * 5000),
            "",
        ),
        "a tensor twice": (b'{"a": %s, "a": %s}' % (a, a), "a key twice"),
        "a tensor twice in two types": (b'{"a": %s, "a": %s}' % (a, a.replace(b"F32", b"I32")), "a key twice"),
        "a field twice": (b'{"a": {"shape": [1], %s}' % a[1:], "a key twice"),
        "metadata twice": (b'{"__metadata__": {"k": "1", "k": "2"}, "a": %s}' % a, "a key twice"),
        "a field more": (document(a={**entry(), "x": 1}), "not described by"),
        "a field less": (b'{"a": {"dtype": "F32", "shape": [4]}}', "not described by"),
        "a null": (b'{"a": null}', "not described by"),
        "metadata of numbers": (document(__metadata__={"a": 1}), "__metadata__"),
        "metadata that are a list": (document(__metadata__=[]), "__metadata__"),
        "100,000 brackets": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "damaged"),
        "NaN": (b'{"a": NaN}', "which is not JSON"),
        "minus zero": (b'{"a": {"dtype": "F32", "shape": [-0], "data_offsets": [0, 0]}}', "not possible"),
        "half a surrogate pair": (b'{"\\ud800": %s}' % a, "surrogate"),
        "a control character": (b'{"\n": %s}' % a, "damaged"),
        "bytes that are no UTF-8": (b'{"\xff": %s}' % a, "not UTF-8"),
        "more JSON behind it": (document(a=entry()) + b"{}", "damaged"),
    }
    for title, (header, says) in headers.items():
        yield refused(f"a header with {title}", "x.safetensors", safetensors_file(header, FOUR), says)
    starts = {
        "a byte order mark": b"\xef\xbb\xbf{}",
        "UTF-16": "{}".encode("utf-16"),
        "a list": b"[]",
        "a space": b" {}",
    }
    for title, header in starts.items():
        yield refused(f"a header that begins with {title}", "x.safetensors", safetensors_file(header))
    for length in (1 << 63, 100_000_000, 100_000_001, 3, 0):
        yield refused(f"a header of {length} bytes", "x.safetensors", struct.pack("<Q", length) + b"{}")
    left = safetensors_file(document(a=entry()), FOUR + b"PK\3\4")
    yield refused("bytes behind the last tensor", "x.safetensors", left, "belong to no tensor")
    big = {
        "millions of lists": lambda: b'{"a":[' + b"[]," * 30_000_000 + b"[]]}",
        "millions of numbers": lambda: b'{"a":[' + b"1," * 30_000_000 + b"1]}",
        "millions of keys": lambda: b'{"a":{' + b",".join(b'"%d":0' % i for i in range(6_000_000)) + b"}}",
        "one text of 90 MB": lambda: b'{"a":"' + b"x" * 90_000_000 + "😀".encode() + b'"}',
        "90 MB of spaces": lambda: b'{"a":' + b" " * 90_000_000 + b"0}",
    }
    for title, header in big.items():
        yield refused(f"a header of {title}", "x.safetensors", later(header, safetensors_file), heavy=True)


def many() -> bytes:
    tensors = {f"blk.{number}.weight": gguf.Tensor(gguf.F32, (0,), b"") for number in range(32_766)}
    data = gguf.Tensor(gguf.F32, (4,), FOUR)
    return gguf.gguf({**tensors, "a": data, "z": data._replace(offset=0)})


def texts() -> bytes:
    value = struct.pack("<IQ", gguf.TEXT, 1_500_000) + bytes(11_999_990)
    return gguf.gguf({}, [gguf.key("tokens", gguf.ARRAY, value)])[:-32]


def gguf_headers() -> Iterator[Case]:
    """Headers of a .gguf whose counts, lengths, shapes and offsets lie, and what is merely odd."""
    for title, (data, says) in gguf.HOSTILE.items():
        yield refused(f"a .gguf with {title}", "x.gguf", data, says if data else "")
    yield refused("a .gguf of many tensors, the last over the first", "x.gguf", later(many), "'z' do not", heavy=True)
    yield refused("a .gguf whose texts end too early", "x.gguf", later(texts), "ends inside", heavy=True)
    rows = dict(zip(gguf.TENSORS, ("ok", "skipped: Q4_0", "ok", "ok", "skipped: int32", "empty", "ok"), strict=True))
    yield read("a .gguf of many types", "x.gguf", gguf.gguf(), rows)
    yield read("a .gguf of version 2", "x.gguf", gguf.gguf(version=2), rows)
    unknown = {"new": gguf.Tensor(777, (4,), bytes(16)), "b": gguf.of(np.ones(4, np.float32))}
    yield read("a .gguf of an unknown type", "x.gguf", gguf.gguf(unknown), {"new": "unsupported: 777", "b": "ok"})
    sums = gguf.gguf(keys=[gguf.key("general.type", gguf.TEXT, gguf.text("imatrix"))])
    yield read("an importance matrix", "x.gguf", sums, dict.fromkeys(gguf.TENSORS, "skipped: --importance"))
