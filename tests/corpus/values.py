"""Values, types and layouts that are rare and right, and those that have no scale."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from tests.corpus.cases import Case, facts, later, read, refused
from tests.corpus.headers import document, entry, safetensors_file
from tests.corpus.pickles import saved
from tests.support.checkpoints import saved as torch_saved
from tests.support.files import unzipped, zipped
from tests.support.lazy import torch

NORMAL = np.random.default_rng(11).normal(size=(24, 8)).astype(np.float32)
MAX = float(np.finfo(np.float32).max)


def cases(_: Path) -> Iterator[Case]:
    """All of them."""
    for made in (values(), numpy_types(), safetensors_types(), torch_types(), layouts(), structures(), many()):
        for case in made:
            yield Case(**{**vars(case), "kind": "values"})


def values() -> Iterator[Case]:
    """The edges of the numbers: a rule each, and never a scale that is zero, infinite or made up."""
    nan, inf = np.nan, np.inf
    single: dict[str, tuple[Any, str]] = {
        "zeros": (np.zeros(50), "zero"),
        "negative zeros": (-np.zeros(50), "zero"),
        "both zeros": (np.array([0.0, -0.0]), "zero"),
        "one zero": (np.zeros(()), "zero"),
        "one value": (np.array([0.7]), "ok"),
        "no dimensions": (np.array(-3.0), "ok"),
        "a constant": (np.full(100, -7.5), "ok"),
        "two values": (np.array([-1.0, 2.0] * 9), "ok"),
        "one among zeros": (np.array([0.0] * 1000 + [5.0]), "ok"),
        "a great outlier": (np.array([1e30] + [1e-3] * 999), "ok"),
        "the largest": (np.array([MAX, -MAX, 1.0]), "ok"),
        "only the largest": (np.full(5, MAX), "ok"),
        "only the least": (np.full(5, -MAX), "ok"),
        "the smallest normals": (np.array([1.2e-38, -1.2e-38]), "ok"),
        "large subnormals": (np.array([1e-39, -1e-39, 5e-40]), "ok"),
        "the smallest subnormal": (np.array([1e-45, -1e-45]), "underflow"),
        "NaN": (np.full(9, nan), "nonfinite: no finite value"),
        "infinity": (np.full(9, inf), "nonfinite: no finite value"),
        "both infinities": (np.array([inf, -inf]), "nonfinite: no finite value"),
        "some NaN": (np.array([nan, 1.0, 2.0, nan]), "nonfinite: 2 NaN among 4"),
        "some infinity": (np.array([inf, 1.0, -inf]), "nonfinite: 1 -inf, 1 +inf among 3"),
        "an infinity among zeros": (np.array([inf, 0.0]), "nonfinite"),
        "no values": (np.zeros((0, 7)), "empty"),
        "no values in no rows": (np.zeros((5, 0, 0)), "empty"),
        "a ramp": (np.linspace(-1, 1, 1001), "ok"),
        "powers of two": (2.0 ** np.arange(-120, 120), "ok"),
        "one sided": (np.abs(NORMAL), "ok"),
        "one sided below": (-np.abs(NORMAL), "ok"),
    }
    for title, (array, status) in single.items():
        array = np.asarray(array, np.float32)
        known = {"x": facts(array)} if status == "ok" else {}
        yield read(f"{title} in float32", "x.npy", saved(array), {"x": status}, facts=known)
        held = safetensors.numpy.save({"w": array})
        yield read(f"{title} in a .safetensors", "x.safetensors", held, {"w": status})
        yield read(f"{title} in a .pt", "x.pt", torch_saved({"w": torch.from_numpy(array)}), {"w": status})
    wide: dict[str, tuple[Any, str]] = {
        "beyond float32": (np.array([1e300, 1.0]), "overflow: 1 of 2 values"),
        "just beyond float32": (np.array([3.5e38]), "overflow: 1 of 1 values"),
        "below float32": (np.array([1e-300, -1e-300]), "underflow: every value is 0 as float32"),
        "the largest of float32": (np.array([MAX]), "ok"),
        "more digits than float32": (np.array([1 / 3, -1 / 7]), "ok"),
        "subnormals": (np.array([5e-324]), "underflow"),
    }
    for title, (array, status) in wide.items():
        yield read(f"{title} in float64", "x.npy", saved(array), {"x": status})
    half = {"6e-8": "ok", "65504": "ok", "-6e-8": "ok", "0": "zero", "inf": "nonfinite"}
    for text, status in half.items():
        yield read(f"{text} in float16", "x.npy", saved(np.array([text], np.float16)), {"x": status})


def numpy_types() -> Iterator[Case]:
    """Every dtype that NumPy saves."""
    for dtype in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
        array = NORMAL.astype(dtype)
        yield read(f"dtype {dtype}", "x.npy", saved(array), facts={"x": facts(array)})
        yield read(
            f"dtype {dtype} in a .npz",
            "x.npz",
            zipped({"w.npy": saved(array)}, 8),
            {"w": "ok"},
            facts={"w": facts(array)},
        )
    for dtype in ("?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", ">u8"):
        yield read(f"dtype {dtype}", "x.npy", saved(np.ones(4, dtype)), {"x": "skipped"})
    wide = ("g",) if np.dtype("g").itemsize > 8 else ()
    for dtype in ("c8", "c16", "S3", "U3", "M8[s]", "m8[s]", "V4", "f4,i4", *wide):
        yield read(f"dtype {dtype}", "x.npy", saved(np.zeros(4, dtype)), {"x": "unsupported"})
    fortran = np.asfortranarray(NORMAL)
    yield read("Fortran's order", "x.npy", saved(fortran), facts={"x": facts(fortran)})
    for rank in (0, 1, 5, 32):
        yield read(
            f"{rank} dimensions", "x.npy", saved(np.full((1,) * rank, 2.5)), facts={"x": facts(np.float32([2.5]))}
        )
    for version in ((1, 0), (2, 0), (3, 0)):
        out = io.BytesIO()
        np.lib.format.write_array(out, NORMAL, version)
        yield read(f"a .npy of version {version[0]}", "x.npy", out.getvalue(), facts={"x": facts(NORMAL)})
    old = saved(NORMAL).replace(b"(%d," % len(NORMAL), b"(%dL," % len(NORMAL)).replace(b" \n", b"\n", 1)
    yield read("a .npy that Python 2 wrote", "x.npy", old, facts={"x": facts(NORMAL)})
    halves = b"{'descr': 'bfloat16', 'fortran_order': False, 'shape': (2,)}" + b"\x80\x3f" * 2
    head = b"\x93NUMPY\1\0" + (len(halves) - 4).to_bytes(2, "little")
    yield read(
        "a .npy of bfloat16 by its name", "x.npy", head + halves, facts={"x": {"numel": 2, "min": 1.0, "max": 1.0}}
    )
    for title, more in {"bytes": b"more", "an array": saved(NORMAL)}.items():
        yield refused(f"{title} behind an array", "x.npy", saved(NORMAL) + more, "more bytes stand behind its array")


def safetensors_types() -> Iterator[Case]:
    """Every dtype of the format."""
    small = np.array([1.5, -0.25, 0.0, 0.5])
    floats = {
        "F64": "f8",
        "F32": "f4",
        "F16": "f2",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    }
    for name, dtype in floats.items():
        data = small.astype(dtype).tobytes()
        header = document(w=entry(name, (4,), (0, len(data))))
        yield read(
            f"type {name}", "x.safetensors", safetensors_file(header, data), {"w": "ok"}, facts={"w": facts(small)}
        )
    for name, size in (
        ("BOOL", 1),
        ("U8", 1),
        ("I8", 1),
        ("U16", 2),
        ("I16", 2),
        ("U32", 4),
        ("I32", 4),
        ("U64", 8),
        ("I64", 8),
    ):
        header = document(w=entry(name, (2,), (0, 2 * size)))
        yield read(f"type {name}", "x.safetensors", safetensors_file(header, bytes(2 * size)), {"w": "skipped"})
    for name, size in (("C64", 16), ("F6_E2M3", 3), ("NF4", 1), ("[red]\x1b", 7)):
        header = document(w=entry(name, (4,) if name == "F6_E2M3" else (2,), (0, size)))
        yield read(f"type {name!a}", "x.safetensors", safetensors_file(header, bytes(size)), {"w": "unsupported: "})


def torch_types() -> Iterator[Case]:
    """Every dtype and kind of tensor that torch saves."""
    small = torch.tensor([1.5, -0.25, 0.0, 0.5])
    known = facts(small.numpy())
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ):
        data = torch_saved({"w": small.to(getattr(torch, name))})
        yield read(f"torch's {name}", "x.pt", data, {"w": "ok"}, facts={"w": known})
    for name in ("uint8", "int8", "int16", "int32", "int64", "bool", "uint16", "uint32", "uint64"):
        yield read(
            f"torch's {name}", "x.pt", torch_saved({"w": torch.ones(3, dtype=getattr(torch, name))}), {"w": "skipped"}
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {
            "complex": torch.ones(3, dtype=torch.complex64),
            "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
            "sparse": torch.eye(3).to_sparse(),
            "compressed": torch.eye(3).to_sparse_csr(),
            "quantized": torch.quantize_per_tensor(small, 0.1, 0, torch.qint8),
            "meta": torch.empty(3, device="meta"),
        }
    for title, tensor in kinds.items():
        data = torch_saved({"bad": tensor, "good": small})
        yield read(f"a {title} tensor", "x.pt", data, {"bad": "unsupported", "good": "ok"})


def layouts() -> Iterator[Case]:
    """The same values, whatever way they lie."""
    base = torch.arange(1.0, 241.0).reshape(10, 24)
    views = {
        "contiguous": base,
        "transposed": base.t(),
        "sliced": base[2:7, 3:9],
        "strided": base[::3, ::5],
        "a column": base[:, 7],
        "expanded": base[:1].expand(50, 24),
        "overlapping": base.reshape(-1).as_strided((9, 9), (2, 3)),
        "permuted": base.reshape(2, 5, 24).permute(2, 0, 1),
        "flattened": base.flatten(),
        "one value": base[3, 3],
        "no values": base[:0],
        "channels last": base.reshape(1, 4, 6, 10).contiguous(memory_format=torch.channels_last),
    }
    for title, view in views.items():
        status = "ok" if view.numel() else "empty"
        known = {"w": facts(view.numpy())} if view.numel() else {}
        yield read(f"a {title} tensor", "x.pt", torch_saved({"w": view}), {"w": status}, facts=known)
        yield read(
            f"a {title} tensor in the old form",
            "x.pt",
            torch_saved({"w": view}, legacy=True),
            {"w": status},
            facts=known,
        )
    members = unzipped(torch_saved({"w": base}))
    swapped = {**members, "archive/byteorder": b"big", "archive/data/0": base.numpy().astype(">f4").tobytes()}
    known = {"w": facts(base.numpy())}
    yield read("a big-endian .pt", "x.pt", zipped(swapped), {"w": "ok"}, facts=known)
    without = {name: content for name, content in members.items() if "byteorder" not in name}
    yield read("a .pt without a byte order", "x.pt", zipped(without), {"w": "ok"}, facts=known)
    for device in (b"cuda:7", b"mps", b"xla:0"):
        moved = {
            **members,
            "archive/data.pkl": members["archive/data.pkl"].replace(
                b"\3\0\0\0cpu", bytes([len(device), 0, 0, 0]) + device
            ),
        }
        yield read(f"a tensor of {device.decode()}", "x.pt", zipped(moved), {"w": "ok"}, facts=known)
    odd = {name.replace("archive/", "odd root é/"): content for name, content in members.items()}
    yield read("a .pt with an odd root", "x.pt", zipped(odd), {"w": "ok"}, facts=known)


def structures() -> Iterator[Case]:
    """What stands around the tensors of a checkpoint."""
    small = torch.tensor([1.5, -0.25])
    shared = torch.ones(3)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    state = dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"), "ok")
    state |= {"1.bias": "ok", "1.num_batches_tracked": "skipped"}
    made: dict[str, tuple[Any, dict[str, str]]] = {
        "a list": ([small, small + 1], {"0": "ok", "1": "ok"}),
        "a tensor alone": (small, {"x": "ok"}),
        "numbers as keys": ({1: small, "1": small + 1, None: small + 2}, {"1": "ok", "1#2": "ok", "None": "ok"}),
        "keys that meet": ({"a.b": small, "a": {"b": small + 1}}, {"a.b": "ok", "a.b#2": "ok"}),
        "an empty key": ({"": small}, {"": "ok"}),
        "tied weights": ({"a": shared, "b": shared}, {"a": "ok"}),
        "a parameter": ({"w": torch.nn.Parameter(small)}, {"w": "ok"}),
    }
    for title, (value, rows) in made.items():
        yield read(f"{title}", "x.pt", torch_saved(value), rows)
        yield read(f"{title} in the old form", "x.pt", torch_saved(value, legacy=True), rows)
    rows = {**state, "1.running_mean": "ok"}
    yield Case("a state dict", {"x.pt": torch_saved(module.state_dict())}, rows=rows)
    yield Case("a whole module", {"x.pt": torch_saved(module)}, error="needs torch.nn")
    yield Case("a compiled program", {"x.pt": scripted()}, error="TorchScript")


def scripted() -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), out)
    return out.getvalue()


def many() -> Iterator[Case]:
    """Many small tensors, and one large one."""
    thousand = safetensors.numpy.save({f"layer.{i}.weight": NORMAL[0] for i in range(1000)})
    yield read(
        "a thousand tensors", "x.safetensors", thousand, {f"layer.{i}.weight": "ok" for i in range(1000)}, heavy=True
    )
    header = {f"layer.{i}.weight": entry("I32", (2,), (8 * i, 8 * i + 8)) for i in range(100_000)}
    data = safetensors_file(document(**header), bytes(800_000))
    yield read("a hundred thousand tensors", "x.safetensors", data, dict.fromkeys(header, "skipped"), heavy=True)

    def parameters() -> bytes:
        whole = torch.ones(2, dtype=torch.int32)
        return torch_saved({name: torch.nn.Parameter(whole.clone(), requires_grad=False) for name in header})

    rows = dict.fromkeys(header, "skipped")
    yield read("a hundred thousand parameters", "x.pt", later(parameters), rows, heavy=True)
