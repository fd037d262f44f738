"""Sound and hostile files to begin from: a mutation of one of them gets deeper into a parser than noise does."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy

import klcal
from klcal.tables.table import Table
from klcal.writers import WRITERS
from tests.support import gguf, protobuf, tables
from tests.support.files import zipped
from tests.support.imatrix import imatrix, imatrix_gguf
from tests.support.pickles import (
    FLOAT,
    GOOD,
    OLD_GOOD,
    array,
    checkpoint,
    dict_of,
    gadgets,
    legacy_checkpoint,
    name,
    number,
    pickled,
    storage,
    tensor,
    text,
    tuple_of,
)
from tests.support.sketch_files import sketch_file

__all__ = ["SEEDS", "WORDS"]

GOLDEN = Path(__file__).parent.parent / "tests" / "writers" / "golden" / "runtimes"

TABLE_1 = Path(__file__).parent.parent / "tests" / "readers" / "tables" / "version_1.json"


def _safetensors() -> list[bytes]:
    tensors = {"a": np.ones(3, np.float32), "b.c": np.zeros((2, 2), np.int8), "é": np.ones(0, np.float16)}
    return [safetensors.numpy.save(tensors, {"format": "pt"}), safetensors.numpy.save({}), b"\2\0\0\0\0\0\0\0{}"]


def _sketches() -> list[bytes]:
    values = np.array([[1.0, -2.5, 0.0, np.nan], [3.0, 3.0, 1e-40, 7.0]], np.float32)
    alone = [{"x": klcal.sketch(values)}, {"x": klcal.sketch(values).coarsen(2)}, {"x": klcal.Sketch.empty()}]
    weighed = {"w": klcal.sketch(values, importance=np.arange(4.0)), "c": klcal.sketch(values, per="channel:1")}
    return [sketch_file(each) for each in (*alone, weighed)]


def _npy() -> list[bytes]:
    seeds = []
    for values in (np.ones((2, 3), ">f4"), np.zeros(1, "f4,i8"), np.array([b"x"]), np.asfortranarray(np.ones((2, 2)))):
        for version in ((1, 0), (2, 0), (3, 0)):
            out = io.BytesIO()
            np.lib.format.write_array(out, values, version)
            seeds.append(out.getvalue())
    seeds += [b"\x93NUMPY\1\0\x3d\0{'descr': 'bfloat16', 'fortran_order': False, 'shape': (1L,)}" + bytes(2)]
    return seeds


def _onnx() -> list[bytes]:
    packed = protobuf.held(5, protobuf.integer(0x3C00) + protobuf.integer(0x8000))
    tensors = [
        protobuf.tensor(),
        protobuf.tensor("h", (2,), protobuf.FLOAT16, packed),
        protobuf.tensor("i", (), 3, b""),
    ]
    tensors += [protobuf.tensor("l", (2, 2), more=protobuf.held(4, protobuf.VALUES))]
    inner = protobuf.branch(protobuf.graph(protobuf.tensor("é"), more=protobuf.constant("c", protobuf.tensor(None))))
    beside = protobuf.tensor("x", more=protobuf.external(checksum="0"))
    sparse = protobuf.held(15, protobuf.held(1, protobuf.tensor("s")))
    codes = [protobuf.tensor("q", (2, 4), protobuf.INT8, protobuf.held(9, bytes(8))), protobuf.tensor("z", (4,))]
    codes += [protobuf.tensor("n", (5,), 23, protobuf.held(5, b"\x21\x0f\x01"))]
    group = b"\x0b\x13\x08\x01\x14\x0c"
    return [
        protobuf.model(*tensors),
        protobuf.model(more=inner),
        protobuf.model(beside, more=sparse),
        protobuf.model(*codes, more=protobuf.dequantize("q", "z", axis=1)),
        protobuf.model(*codes, more=protobuf.dequantize("q", "z", axis=1, block_size=1)),
        group + protobuf.model(),
    ]


def _zip() -> list[bytes]:
    members = {"w.npy": _npy()[0], "a/data.pkl": pickled(GOOD), "é": b""}
    return [zipped(members), zipped(members, zipfile.ZIP_DEFLATED), zipped({}), checkpoint(GOOD, FLOAT * 4)]


def _values(good: bytes) -> list[bytes]:
    """Values in a pickle: tensors of every kind, containers, code."""
    parameter = name("torch._utils._rebuild_parameter") + tuple_of(
        good, b"\x88", name("collections.OrderedDict") + b")R"
    )
    sparse = (
        name("torch._utils._rebuild_sparse_tensor") + tuple_of(b"N", tuple_of(good, good, tuple_of(number(4)))) + b"R"
    )
    typed = name("torch._tensor._rebuild_from_type_v2")
    typed += tuple_of(name("torch._utils._rebuild_tensor_v2"), name("torch.Tensor"), b"N", b"N") + b"R"
    plain = [good, dict_of(w=good, x=parameter + b"R"), b"](" + good + b"K\x01G" + bytes(8) + b"e", sparse, typed]
    plain += [b"]q\0(h\0h\0t", dict_of(a=b"X\x01\0\0\0aq\1", b=b"h\1"), name("torch.Size") + b"](K\x01e\x85R"]
    plain += [tensor(storage(4, "0"), 1, (2, 2), (1, 0)), text("é") + b"\x8a\x00", b"\x8f\x85\x86\x87"]
    foreign = name("x.Y") + b")\x81q\2" + dict_of(me=b"h\2", held=good) + b"b" + b"(K\1Nu"
    plain += [dict_of(x=foreign, w=good, a=array(), b=array("f8", (2,), order=">")), b"}(" + foreign + good + b"u"]
    plain += [name("collections.defaultdict") + tuple_of(name("x.z")) + b"R(" + array() + array() + b"e"]
    plain += [typed.replace(b"torch\nTensor\n", b"x\nDTensor\n")]
    return plain + [value for value, _ in gadgets("true", good).values()]


def _pickle() -> list[bytes]:
    return [pickled(value) for value in _values(GOOD)]


def _legacy_pt() -> list[bytes]:
    values = {"0": FLOAT * 4, "1": FLOAT}
    return [legacy_checkpoint(value, **values) for value in _values(OLD_GOOD)] + [
        legacy_checkpoint(OLD_GOOD, **{"0": FLOAT * 4})
    ]


def _index() -> list[bytes]:
    shards = ["1.safetensors", "../x", "/etc/passwd", "", ".", "a/b", "a\\b", "é", "\ud800"]
    return [json.dumps({"metadata": {"total_size": 8}, "weight_map": {"w": shard}}).encode() for shard in shards]


def _table() -> list[bytes]:
    out = io.StringIO()
    WRITERS["json"](Table.of(tables.CONFIG, [*tables.of_each_kind(), *tables.units("w").rows, tables.ok("x")]), out)
    return [out.getvalue().encode(), TABLE_1.read_bytes()]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "safetensors": _safetensors,
    "sketches": _sketches,
    "npy": _npy,
    "gguf": lambda: [gguf.gguf(), gguf.gguf(version=2, align=1, keys=[gguf.alignment(1)]), gguf.gguf({}, [])],
    "imatrix": lambda: [imatrix(), imatrix(end=b""), imatrix({"": (0, [1.0])})],
    "imatrix_gguf": lambda: [imatrix_gguf(), imatrix_gguf({"": ([[1.0]], [0])})],
    "onnx": _onnx,
    "zip": _zip,
    "pickle": _pickle,
    "legacy_pt": _legacy_pt,
    "index": _index,
    "table": _table,
    "runtimes": lambda: [path.read_bytes() for path in sorted(GOLDEN.iterdir())],
}

_JSON = ["{", "}", "[", "]", ":", ",", '""', "null", "true", "NaN", "-0", "1e999", "18446744073709551615", "\\ud800"]
WORDS: dict[str, list[bytes]] = {
    "sketches": [w.encode() for w in (*_JSON, "I64", "I32", "numbers", "extremes", "keys", "counts", "grid", "shape")],
    "safetensors": [w.encode() for w in (*_JSON, '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"__metadata__"')],
    "npy": [
        b"'descr'",
        b"'fortran_order'",
        b"'shape'",
        b"(",
        b",)",
        b"True",
        b"'<f4'",
        b"'|O'",
        b"[('a', '<i2', (2,))]",
    ],
    "gguf": [
        b"GGUF\3\0\0\0",
        gguf.text("general.alignment"),
        b"\x08\0\0\0",
        b"\x09\0\0\0",
        b"\xff" * 8,
        bytes(8),
        bytes(24),
    ],
    "imatrix": [bytes(4), b"\1\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"],
    "onnx": [
        b"\x0a",
        b"\x12",
        b"\x2a",
        b"\x3a",
        b"\x42",
        b"\x4a",
        b"\x70\1",
        b"Constant",
        b"DequantizeLinear",
        b"\xff" * 9 + b"\1",
        b"location",
    ],
    "zip": [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\1\0\x1c\0", b"\xff\xff\xff\xff", b"\x08\0"],
    "pickle": [
        *(
            b"ctorch._utils\n_rebuild_" + word + b"\n"
            for word in (b"tensor_v2", b"tensor_v3", b"parameter", b"qtensor")
        ),
        *(b"ctorch\n" + word + b"\n" for word in (b"FloatStorage", b"Size", b"float8_e5m2", b"device")),
        *(
            b"ccollections\nOrderedDict\n",
            b"cos\nsystem\n",
            b")R",
            b"cx\nY\n",
            b")\x81",
            b"Nb",
            b"NtR",
            b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
            b"Q",
            b"}(u",
        ),
    ],
    "index": [w.encode() for w in (*_JSON, '"weight_map"', '"metadata"', '"../x"', '".index.json"', "\\u0000")],
    "runtimes": [
        w.encode() for w in (*_JSON, '"axis": 0', '"y_scale"', '"bw"', '"version"', '"int8"', "-0.5", "3d4ccccd")
    ],
    "table": [w.encode() for w in (*_JSON, '"units"', '"status"', '"per"', '"block"', '["ok", "zero"]', "-0.5")],
}
"""What the formats are made of, for the fuzzer to put together."""
WORDS["legacy_pt"] = WORDS["pickle"]
WORDS["imatrix_gguf"] = [*WORDS["gguf"], b".in_sum2", b".counts"]
