"""``klcal compare``: what a figure is called is what it is, and no copy is infinitely far from its original."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.pipeline.compare import compare_files
from tests.support.command import SAMPLES, klcal, klcal_process, normal
from tests.support.samples import cut


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path: str, **arrays: np.ndarray) -> str:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


# --- kl of a table is what calibrate called kl

LAPLACE = np.random.default_rng(0).laplace(size=(24, 480)).astype(np.float32)

PROMISES = [
    ("--dtype", "int8"),
    ("--dtype", "uint8"),
    ("--dtype", "int4", "--scheme", "symmetric-signed"),
    ("--dtype", "int4", "--scheme", "symmetric-full", "--scale-format", "float16"),
    ("--dtype", "uint8", "--scheme", "symmetric"),
    ("--dtype", "int8", "--method", "minmax"),
    ("--dtype", "int8", "--method", "kl:bins=512"),
    ("--dtype", "uint4", "--method", "mse", "--per", "channel"),
    ("--dtype", "int4", "--scheme", "symmetric-signed", "--per", "group:32"),
    ("--dtype", "uint8", "--per", "channel:1"),
    ("--dtype", "float8_e4m3fn", "--per", "block:8,100"),
    ("--dtype", "float4_e2m1fn", "--per", "group:16", "--scale-format", "float8_e4m3fn"),
    ("--dtype", "nf4", "--per", "group:64,1"),
]


@pytest.mark.parametrize("options", PROMISES, ids=" ".join)
def test_kl_is_what_calibration_called_kl(options):
    """Exactly, where the values are few or in buckets of their own; and the SQNR is still the one promised."""
    values = cut(LAPLACE)
    path = save("a.safetensors", w=values, flat=values.ravel()[:3000], t=np.maximum(values, 0))
    assert klcal("calibrate", path, *options, "-o", "scales.json").code == 0
    promised = klcal("calibrate", path, *options, "--format", "json").tensors
    found = klcal("compare", path, "--table", "scales.json", "--format", "json").tensors
    bits = klcal("compare", path, "--table", "scales.json", "--base", "2", "--format", "json").tensors
    for name, row in promised.items():
        assert found[name]["kl"] == pytest.approx(row["kl"], abs=1e-6)
        assert bits[name]["kl"] == pytest.approx(row["kl"] / math.log(2), abs=1e-6)
        assert row["kl"] > 0


def test_another_batch_is_measured_on_the_cells_of_the_first(tmp_path):
    first, second = cut(LAPLACE), cut(LAPLACE * np.float32(0.9))
    save("a.safetensors", w=first)
    klcal("calibrate", "a.safetensors", "--dtype", "int8", "-o", "scales.json")
    save("a.safetensors", w=second)
    (found,) = klcal("compare", "a.safetensors", "--table", "scales.json", "--format", "json").document["tensors"]
    scale = klcal("calibrate", "a.safetensors", "--format", "json", "--dtype", "int8").tensors["w"]["scale"]
    assert found["kl"] == pytest.approx(divergence(second, library.load_table("scales.json").rows[0].scale), abs=1e-6)
    assert abs(found["kl"] - divergence(second, scale)) > 1e-5, "as it would be with a scale of its own"


def divergence(values: np.ndarray, scale: float) -> float:
    """D(P‖Q) of int8 with 8 sub-bins for each cell, by hand."""
    steps = values.ravel().astype(float) / scale
    level = np.clip(np.rint(steps), -127, 127)
    part = np.clip(np.floor((steps - level + 0.5) * 8), 0, 7)
    p, total = {}, steps.size
    for place in zip(level.tolist(), part.tolist(), strict=True):
        p[place] = p.get(place, 0) + 1
    cells = {}
    for (cell, _), count in p.items():
        cells.setdefault(cell, []).append(count)
    return sum(n / total * math.log(n * len(each) / sum(each)) for each in cells.values() for n in each)


def test_at_16_bits_no_cell_is_cut():
    np.save("x.npy", normal())
    klcal("calibrate", "x.npy", "--dtype", "int16", "-o", "scales.json")
    assert klcal("compare", "x.npy", "--table", "scales.json", "--fail-on", "kl > 0").code == 0


def test_the_others_stay_on_common_bins_and_the_output_says_so():
    np.save("x.npy", LAPLACE)
    klcal("calibrate", "x.npy", "--dtype", "int4", "-o", "scales.json")
    options = ("compare", "x.npy", "--table", "scales.json")
    (row,) = klcal(*options, "--format", "json").document["tensors"]
    assert row["kl"] != row["kl_common"] == pytest.approx(row["cross_entropy"] - row["entropy"], abs=1e-6)
    assert "common bins were merged with others" in row["note"]
    text = klcal(*options, "--format", "table").out
    assert "kl on the quantizers' cells, all else on 64 common bins, in nats" in text
    assert "  kl common  " in text
    assert "lower bounds of divergences: " in text
    np.save("y.npy", LAPLACE * 2)
    (row,) = klcal("compare", "x.npy", "y.npy", "--format", "json").document["tensors"]
    assert row["kl"] == row["kl_common"]
    assert row["note"] is None
    assert "kl common" not in klcal("compare", "x.npy", "y.npy", "--format", "table").out


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize(
    "change",
    [
        ('"target": "int8"', '"target": null'),
        ('"target": "int8"', '"target": "uint4"'),
        ('"scheme": "symmetric"', '"scheme": "other"'),
        ('"scheme": "symmetric"', '"scheme": "affine"'),
        ('"zero_point": 0', '"zero_point": 999999'),
        ('"zero_point": [0', '"zero_point": [-999999'),
        ('"zero_point": [0', '"zero_point": [128'),
        ('"method": "kl:bins=2048,weight=4"', '"method": "other"'),
        ('"method": "kl:bins=2048,weight=4"', '"method": null'),
    ],
)
def test_numbers_that_are_no_quantizer_are_not_measured(per, change):
    """A table of somebody else's: nothing is assumed, a gate fails, and only what is known is told."""
    np.save("x.npy", normal().reshape(4, 250))
    klcal("calibrate", "x.npy", "--dtype", "int8", "--per", per, "-o", "scales.json")
    before = Path("scales.json").read_text()
    promised = klcal("compare", "x.npy", "--table", "scales.json", "--format", "json").tensors["x"]["kl"]
    head, rows = before.split('"tensors"')
    Path("scales.json").write_text(f'{head}"tensors"{rows.replace(*change)}')
    result = klcal("compare", "x.npy", "--table", "scales.json", "--format", "json", "--fail-on", "kl > 9")
    row = result.tensors["x"]
    if rows.replace(*change) == rows or "method" in change[0]:
        assert (result.code, row["kl"]) == (0, promised)
    elif row["status"] == "ok":
        assert (result.code, row["kl"]) == (1, None)
        assert "kl > 9 cannot be tried: no kl: " in result.err
    else:
        assert (result.code, row["status"]) in ((3, "missing"), (3, "nonfinite"))


# --- copies


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8_e4m3fn"])
def test_every_sample_tensor_is_finitely_far_from_its_copy(dtype):
    paths = [path for path in sorted(SAMPLES.iterdir()) if path.suffix in (".npy", ".pt", ".safetensors")]
    assert len(paths) > 5
    for path in paths:
        assert klcal("calibrate", str(path), "--dtype", dtype, "-o", "scales.json").code == 0
        by_table = compare_files(str(path), None, table="scales.json").rows
        save("copy.safetensors", **copies(path))
        between = compare_files(str(path), "copy.safetensors").rows
        back = compare_files("copy.safetensors", str(path)).rows
        for row in (*by_table, *between, *back):
            assert row.status == "ok", row
            assert math.isfinite(row.kl + row.kl_common + row.reverse_kl + row.cross_entropy), row


def copies(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, quantized by scales.json and restored."""
    rows = {row.name: row for row in library.load_table("scales.json").rows}
    found = {}
    for name, tensor in library.read(path).items():
        chunks = [np.array(chunk) for part in tensor.parts for chunk in part.chunks()]
        values = np.concatenate(chunks).ravel()
        if tensor.dtype == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        values = values.astype(np.float32).reshape(tensor.shape)
        found[name] = library.dequantize(library.quantize(values, rows[name]), rows[name])
    return found


@pytest.mark.parametrize(
    ("today", "least"),
    [
        (lambda x: x + 3, 3),
        (lambda x: x + 8, 3),
        (lambda x: x + 1000, math.inf),
        (lambda x: x * np.float32(0.01), 3),
        (lambda x: x * np.float32(1e-6), 3),
        (lambda x: x * 0, math.inf),
        (lambda x: x * 0 + np.float32(0.3), math.inf),
        (lambda x: np.where(x > 0, 100, -100) + x, math.inf),
    ],
    ids=["3 sigma", "8 sigma", "elsewhere", "shrunk", "shrunk to nothing", "dead", "constant", "two modes"],
)
def test_merging_bins_hides_no_drift(today, least):
    """What bins of one side alone are merged with is the nearest: it could be everything."""
    np.save("yesterday.npy", normal(20_000))
    np.save("today.npy", today(normal(20_000, seed=1)).astype(np.float32))
    result = klcal_process("compare", "yesterday.npy", "today.npy", "--fail-on", f"kl >= {min(least, 9)}")
    assert result.code == 1, result.out
    (row,) = compare_files("yesterday.npy", "today.npy").rows
    assert row.kl >= least
    assert row.js > 0.2


# --- names with something in front


NAMES = {"fc.weight": normal(6), "fc.bias": normal(2), "norm.weight": normal(3)}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "x"])
def test_a_prefix_is_taken_off_either_side(prefix):
    plain, wrapped = save("p.safetensors", **NAMES), save("q.safetensors", **{prefix + k: v for k, v in NAMES.items()})
    for pair in ((plain, wrapped), (wrapped, plain), (wrapped, wrapped)):
        result = klcal("compare", *pair, "--strip-prefix", prefix, "--format", "json", "--fail-on", "mse > 0")
        assert (result.code, result.err) == (0, "")
        assert result.tensors.keys() == NAMES.keys()
    klcal("calibrate", plain, "-o", "scales.json")
    save("p.safetensors", **{prefix + k: v for k, v in NAMES.items()})
    result = klcal("compare", plain, "--table", "scales.json", "--strip-prefix", prefix, "--format", "json")
    assert (result.code, result.tensors.keys()) == (0, NAMES.keys())
    save("q.safetensors", both=normal(2), **{f"{prefix}both": normal(3)})
    assert (
        len(klcal("compare", "q.safetensors", "q.safetensors", "--strip-prefix", prefix, "--format", "json").tensors)
        == 2
    )


def test_a_prefix_that_all_names_differ_by_is_named():
    plain = save("p.safetensors", **NAMES)
    wrapped = save("q.safetensors", **{f"module.{k}": v for k, v in NAMES.items()}, step=normal(1))
    for pair, side, other in (((plain, wrapped), "Q", "P"), ((wrapped, plain), "P", "Q")):
        result = klcal("compare", *pair)
        assert result.code == 3
        hint = f"without 'module.' 3 of {side} are in {other}: add --strip-prefix 'module.'"
        assert f"klcal: warning: no name is in both P and Q, but {hint}" in result.messages
    klcal("calibrate", wrapped, "-o", "scales.json")
    assert (
        "3 of the table are in P: add --strip-prefix 'module.'" in klcal("compare", plain, "--table", "scales.json").err
    )
    for other in ({"fc.weight": normal(6), "module.fc.bias": normal(2)}, {"a.b": normal(2), "c": normal(2)}):
        assert "strip-prefix" not in klcal("compare", plain, save("r.safetensors", **other)).err


# --- files that cannot be read


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x08\0\0\0\0\0\0\0"], ids=["absent", "empty", "text", "cut"])
def test_a_file_that_cannot_be_read_is_one_error(content):
    good = save("p.safetensors", **NAMES)
    if content is not None:
        Path("q.safetensors").write_bytes(content)
    for pair in ((good, "q.safetensors"), ("q.safetensors", good)):
        result = klcal("compare", *pair, "--format", "json", "--fail-on", "kl > 1")
        assert (result.code, len(result.messages)) == (3, 1)
        assert result.document["tensors"] == []
        assert [error["source"] for error in result.document["errors"]] == ["q.safetensors"]


def test_a_file_of_a_directory_that_cannot_be_read_costs_the_others_nothing():
    for folder in ("x", "y"):
        Path(folder).mkdir()
        for name in ("one", "two"):
            save(f"{folder}/{name}.safetensors", **{f"{name}.{k}": v for k, v in NAMES.items()})
    Path("y/two.safetensors").write_bytes(b"text")
    for pair in (("x", "y"), ("y", "x")):
        result = klcal("compare", *pair, "--format", "json")
        assert (result.code, len(result.messages)) == (4, 1)
        assert sorted(result.tensors) == sorted(f"one.{name}" for name in NAMES)
