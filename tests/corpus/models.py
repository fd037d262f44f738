"""ONNX models that lie about lengths, shapes and what is beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.corpus.cases import Case, facts, later, read, refused
from tests.corpus.damaged import VALUES as FLOATS
from tests.support.protobuf import (
    FLOAT16,
    INT8,
    VALUES,
    branch,
    constant,
    external,
    graph,
    held,
    integer,
    model,
    number,
    tensor,
)

FACTS = {"numel": 4, "min": -1.0, "max": 2.0, "zeros": 1}


def cases(_: Path) -> Iterator[Case]:
    """All of them."""
    for made in (sound(), messages(), tensors(), beside()):
        for case in made:
            yield Case(**{**vars(case), "kind": "hostile"})


def sound() -> Iterator[Case]:
    """What exporters write."""
    halves = b"".join(integer(pattern) for pattern in FLOATS.astype("<f2").view("<u2").tolist())
    data = model(
        tensor("a/b.weight"),
        tensor("list", more=held(4, VALUES)),
        tensor("half", (FLOATS.size,), FLOAT16, held(5, halves)),
        tensor("shape", data_type=INT8),
        more=constant("c", tensor(None)) + branch(graph(tensor("inner"))) + held(15, held(1, tensor("sparse"))),
    )
    rows = dict.fromkeys(("a/b.weight", "list", "half", "c", "inner"), "ok")
    rows |= {"shape": "skipped", "sparse": "unsupported: sparse"}
    known = {"half": facts(FLOATS.astype(np.float16))} | dict.fromkeys(("a/b.weight", "list", "c", "inner"), FACTS)
    yield read("a model of every kind of tensor", "x.onnx", data, rows, facts=known)
    files = {"m.onnx": model(tensor(more=external())), "m.onnx_data": VALUES}
    yield Case("a model with data beside it", files, {"w": "ok"}, facts={"w": FACTS})
    files = {"m.onnx": model(tensor(more=external(location="d/w.bin"))), "d/w.bin": VALUES}
    yield Case("a model with data below it in a file called .bin", files, {"w": "ok"}, facts={"w": FACTS})


def messages() -> Iterator[Case]:
    """Messages that could be taken for anything."""
    deep = graph(tensor())
    for _ in range(200):
        deep = branch(deep)
    lies = {
        "no graph": (number(1, 8), "has no graph"),
        "two graphs": (model(tensor()) * 2, "has 2 graphs"),
        "a graph of a terabyte": (number(1, 8) + held(7, b"", 1 << 40), "its message ends"),
        "a tensor of 2**62 bytes": (held(7, held(5, tensor(), 1 << 62)), "its message ends"),
        "a name of 2**31 bytes": (model(tensor(None) + held(8, b"", 1 << 31)), "its message ends"),
        "graphs within each other": (model(more=deep), "nested more than"),
        "groups within each other": (b"\x0b" * 4000, "group"),
        "a group without an end": (model(tensor()) + b"\x0b", "group"),
        "a number without an end": (b"\x08" + b"\x80" * 100, "64 bits"),
        "field 0": (model(tensor()) + b"\0\0", "no field"),
        "a tensor of 65 axes": (model(tensor(dims=(1,) * 65)), "64 axes"),
        "a name twice": (model(tensor() + held(8, "v")), "twice"),
        "a name that is no UTF-8": (model(tensor(None) + held(8, b"\xff\xfe")), "UTF-8"),
        "a name of a megabyte": (model(tensor("n" * (1 << 20))), "a text"),
    }
    for title, (data, says) in lies.items():
        yield refused(f"a model with {title}", "x.onnx", data, says)
    many = later(lambda: model(more=b"\x52\0" * 30_000_000))
    yield refused("a model of millions of fields", "x.onnx", many, "fields", heavy=True)
    some = later(lambda: model(*(tensor(str(n), (0,), more=b"") for n in range((1 << 17) + 1))))
    yield refused("a model of too many tensors", "x.onnx", some, "tensors", heavy=True)


def tensors() -> Iterator[Case]:
    """Tensors that cost themselves."""
    lies = {
        "a shape that is larger than its data": (tensor(dims=(1 << 40,)), "failed: its values have 16 bytes"),
        "a shape that wraps around": (tensor(dims=((1 << 62) + 1, 4)), "failed: larger than any memory"),
        "a negative shape": (tensor(dims=(-1, -4)), "failed: not possible"),
        "no data": (tensor(more=b""), "failed: 0 bytes"),
        "data twice": (tensor(more=held(9, VALUES) + held(4, VALUES)), "failed: in two"),
        "data of another type": (tensor(more=held(10, VALUES)), "failed: wrong field"),
        "integers that are no float16": (tensor("w", (1,), FLOAT16, held(5, integer(-1))), "failed: bit patterns"),
        "too few integers": (tensor("w", (2,), FLOAT16, held(5, integer(1 << 14))), "failed: too early"),
        "a type that does not exist": (tensor(data_type=1000), "unsupported: type 1000"),
        "segments": (tensor(more=held(3, b"") + held(9, VALUES)), "unsupported: segments"),
    }
    for title, (data, says) in lies.items():
        yield read(f"a tensor of a model with {title}", "x.onnx", model(data, tensor("g")), {"w": says, "g": "ok"})
    same = model(tensor("g"), tensor(), tensor(dims=(2, 2)))
    yield read("two tensors of one name", "x.onnx", same, {"g": "ok", "w": "unsupported: this name"})


def beside() -> Iterator[Case]:
    """Data that are not beside the model, or not there for this tensor."""
    out = "failed: not below the model's folder"
    lies = {
        "above the model": (external(location="../m.onnx_data"), out),
        "above it on a detour": (external(location="d/../../m.onnx_data"), out),
        "at an absolute path": (external(location="/etc/passwd"), out),
        "at a device": (external(location="/dev/zero"), out),
        "at a path of Windows": (external(location="..\\m.onnx_data"), out),
        "in an absent file": (external(location="absent"), "failed: no such file"),
        "beyond the end": (external(offset=4), "failed: the file has 16"),
        "at a negative offset": (external(offset=-16), "failed: not a number of bytes"),
        "at an offset of 2**63": (external(offset=1 << 63), "failed: the file has 16"),
        "of another length": (external(length=1 << 40), "failed: its shape needs 16"),
        "here and there": (external() + held(9, VALUES), "failed: in two"),
    }
    for title, (more, says) in lies.items():
        files = {"m.onnx": model(tensor("g", more=external()), tensor(more=more)), "m.onnx_data": VALUES}
        yield Case(f"data {title}", files, {"w": says, "g": "ok"})
    shifted = (tensor(str(n), (3,), more=external(offset=n, length=12)) for n in range(5))
    files = {"m.onnx": model(*shifted), "m.onnx_data": VALUES}
    rows = {"0": "ok"} | {str(n): "failed: overlap" for n in range(1, 5)}
    yield Case("data that overlap", files, rows)
    files = {"m.onnx": model(*(tensor(str(n), more=external()) for n in range(1000))), "m.onnx_data": VALUES}
    yield Case("a thousand tensors in one place", files, {"0": "ok"})
