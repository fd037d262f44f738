"""``klcal apply``: what is written is what the table says, all of it or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from tests.support.command import klcal
from tests.support.lazy import torch
from tests.support.samples import cut

VALUES = np.random.default_rng(0).laplace(size=(24, 480)).astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path: str, metadata: dict[str, str] | None = None, **arrays: np.ndarray) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    return path


def left() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


# --- plain integers and scales

OPTIONS = [
    ("--dtype", "int8"),
    ("--dtype", "uint8"),
    ("--dtype", "uint8", "--scheme", "symmetric"),
    ("--dtype", "int4", "--scheme", "symmetric-signed", "--per", "group:128"),
    ("--dtype", "int4", "--scheme", "affine", "--per", "group:50"),
    ("--dtype", "int16", "--per", "channel:1"),
    ("--dtype", "uint12", "--per", "channel"),
    ("--dtype", "float8_e4m3fn", "--per", "block:8,100"),
    ("--dtype", "float8_e5m2"),
    ("--dtype", "float4_e2m1fn", "--per", "group:16", "--scale-format", "float8_e4m3fn"),
    ("--dtype", "nf4", "--per", "group:5,0"),
]


def in_numpy(path: str, name: str) -> np.ndarray:
    """The ten lines of the README."""
    arrays = loaded(path)
    codes, scale = arrays[name], arrays[f"{name}_scale"]
    zero = arrays.get(f"{name}_zero_point", np.zeros_like(scale))
    for axis, size in enumerate(arrays.get(f"{name}_unit_shape", ())):
        scale, zero = (np.repeat(each, size, axis).take(range(codes.shape[axis]), axis) for each in (scale, zero))
    levels = arrays.get(f"{name}_levels")
    values = codes.astype(np.float32) if levels is None else levels[codes]
    return (values - zero.astype(np.float32)) * scale


def restored(path: str, name: str) -> np.ndarray:
    """The same by klcal's own reader, which knows codes from weights."""
    (found,) = [each for each in library.read(path).values() if each.name == name]
    assert found.status == "skipped"
    assert all(each.status == "skipped" for each in library.read(path).values() if each.name.startswith(f"{name}_"))
    (part,) = found.dequantized.parts
    return np.concatenate([chunk.copy() for chunk in part.chunks()]).reshape(found.shape)


DTYPES = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
DTYPES |= {
    "F32": np.float32,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "I64": np.int64,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
}


def loaded(path: str) -> dict[str, np.ndarray]:
    """What the libraries find, float8 too."""
    if path.endswith(".npz"):
        return dict(np.load(path))
    found = safetensors.deserialize(Path(path).read_bytes())
    return {name: np.frombuffer(each["data"], DTYPES[each["dtype"]]).reshape(each["shape"]) for name, each in found}


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_codes_and_scales_are_those_of_the_reference_rounding(options):
    path = save("m.safetensors", w=cut(VALUES))
    table = klcal("calibrate", path, *options, "-o", "t.json")
    assert table.code == 0
    for how in (("--table", "t.json"), options):
        Path("q.safetensors").unlink(missing_ok=True)
        assert klcal("apply", path, *how, "--to", "safetensors", "-o", "q.safetensors").code == 0
        row = library.load_table("t.json").rows[0]
        values = cut(VALUES)
        expected = library.dequantize(library.quantize(values, row), row)
        np.testing.assert_array_equal(in_numpy("q.safetensors", "w"), expected)
        np.testing.assert_array_equal(restored("q.safetensors", "w"), expected)


def test_what_is_not_quantized_is_as_it_was():
    others = {
        "half": np.arange(6, dtype=np.float16),
        "brain": np.arange(6).astype(ml_dtypes.bfloat16),
        "ids": np.arange(4),
        "mask": np.array([True, False]),
        "none": np.empty((0, 3), np.float32),
        "one": np.array(2.5),
    }
    path = save("m.safetensors", {"format": "pt"}, w=VALUES, **others)
    assert klcal("apply", path, "--include", "w", "--to", "safetensors", "-o", "q.safetensors").code == 0
    found = safetensors.numpy.load_file("q.safetensors")
    for name, array in others.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open("q.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_zeros_are_codes_of_zero_with_scale_one():
    values = np.ones((4, 256), np.float32)
    values[1, :128] = 0
    path = save("m.safetensors", w=values, z=np.zeros((4, 256), np.float32))
    for scheme, zero in (("symmetric", 128), ("affine", 0)):
        options = ("--dtype", "uint8", "--scheme", scheme, "--per", "group:128")
        Path("q.safetensors").unlink(missing_ok=True)
        assert klcal("apply", path, *options, "--to", "safetensors", "-o", "q.safetensors").code == 0
        found = safetensors.numpy.load_file("q.safetensors")
        assert (found["z"] == zero).all()
        assert (found["z_zero_point"] == zero).all()
        assert (found["z_scale"] == 1).all()
        assert (found["w"][1, :128] == zero).all()
        assert found["w_scale"][1, 0] == 1


# --- directories


def checkpoint(path: str) -> Path:
    """Two shards, an index, and what lies beside them."""
    root = Path(path)
    shards = {"model-00001-of-00002.safetensors": "a", "model-00002-of-00002.safetensors": "b"}
    for shard, name in shards.items():
        save(str(root / shard), {"format": "pt"}, **{f"{name}.weight": VALUES, f"{name}.norm": VALUES[0]})
    weight_map = {f"{name}.{kind}": shard for shard, name in shards.items() for kind in ("weight", "norm")}
    document = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (root / "model.safetensors.index.json").write_text(json.dumps(document))
    (root / "config.json").write_text('{"a": 1}\n')
    (root / "sub").mkdir()
    (root / "sub" / "vocab.txt").write_text("x\n")
    return root


@pytest.mark.parametrize("argument", ["m", "m/model.safetensors.index.json"])
def test_a_directory_for_a_directory(argument):
    checkpoint("m")
    options = ("--dtype", "int8", "--per", "channel", "--include", "*.weight")
    assert klcal("apply", argument, *options, "--to", "safetensors", "-o", "q").code == 0
    names = {str(path.relative_to("m")) for path in Path("m").rglob("*")}
    assert {str(path.relative_to("q")) for path in Path("q").rglob("*")} == names
    for name in ("config.json", "sub/vocab.txt"):
        assert Path("q", name).read_bytes() == Path("m", name).read_bytes()
    index = json.loads(Path("q/model.safetensors.index.json").read_text())
    held = {shard: safetensors.numpy.load_file(f"q/{shard}") for shard in set(index["weight_map"].values())}
    assert index["weight_map"] == {name: shard for shard, arrays in held.items() for name in arrays}
    assert index["metadata"]["total_size"] == sum(each.nbytes for arrays in held.values() for each in arrays.values())
    assert klcal("compare", "m", "q", "--dequantize", "--include", "*.weight", "--fail-on", "sqnr_db < 30").code == 0


# --- refusals: nothing is written


def test_what_the_table_has_not_is_kept_and_counted():
    path = save("m.safetensors", w=VALUES, v=VALUES)
    assert klcal("calibrate", path, "--include", "w", "-o", "t.json").code == 0
    found = klcal("apply", path, "--table", "t.json", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 0
    assert "no row for 1 floating-point tensor:" in found.err
    np.testing.assert_array_equal(safetensors.numpy.load_file("q.safetensors")["v"], VALUES)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (VALUES[:12], "shape"),
        (VALUES.astype(np.float16), "float16"),
        (np.where(VALUES.max() == VALUES, np.nan, VALUES), "NaN"),
    ],
)
def test_a_model_that_has_changed_is_refused(changed, words):
    save("m.safetensors", w=VALUES)
    assert klcal("calibrate", "m.safetensors", "-o", "t.json").code == 0
    save("m.safetensors", w=changed.astype(changed.dtype if changed.dtype == np.float16 else np.float32))
    before = left()
    found = klcal("apply", "m.safetensors", "--table", "t.json", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert words in found.err
    assert "w" in found.err
    assert left() == before


def test_a_tensor_without_a_scale_is_named_and_nothing_is_written():
    path = save("m.safetensors", w=VALUES, bad=np.full((4, 4), np.inf, np.float32))
    found = klcal("apply", path, "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert "bad" in found.err
    assert left() == {path}


@pytest.mark.parametrize("output", ["m", "m/q", ".", "full", "a.txt", "none/q"])
def test_an_output_that_cannot_be_is_refused_before_anything_is_read(output):
    checkpoint("m")
    Path("full").mkdir()
    Path("full/x").touch()
    Path("a.txt").touch()
    before = left()
    found = klcal("apply", "m", "--to", "safetensors", "-o", output)
    assert found.code == 2
    assert left() == before


def test_calibration_and_a_table_exclude_each_other():
    path = save("m.safetensors", w=VALUES)
    assert klcal("calibrate", path, "-o", "t.json").code == 0
    found = klcal("apply", path, "--table", "t.json", "--dtype", "int8", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 2
    assert "--dtype" in found.err


# --- other containers


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_any_file_becomes_plain_arrays(to):
    """Transposed and tied tensors, integers, bools, bfloat16."""
    weight = torch.from_numpy(VALUES.copy())
    state = {"w": weight, "tied": weight, "t": weight.T, "brain": weight[:2].to(torch.bfloat16), "ids": torch.arange(3)}
    torch.save(state | {"mask": torch.tensor([True, False]), "ids_t": torch.arange(6).reshape(2, 3).T}, "m.pt")
    options = ("--dtype", "float8_e4m3fn", "--per", "group:24", "--include", "w", "--include", "t*")
    assert klcal("calibrate", "m.pt", *options, "-o", "t.json").code == 0
    found = klcal("apply", "m.pt", "--table", "t.json", "--to", to, "-o", f"q.{to}")
    assert found.code == 0, found.err
    arrays = dict(np.load("q.npz")) if to == "npz" else loaded("q.safetensors")
    np.testing.assert_array_equal(arrays["ids"], np.arange(3))
    np.testing.assert_array_equal(arrays["ids_t"], np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["mask"], [True, False])
    np.testing.assert_array_equal(arrays["brain"].astype(np.float32), state["brain"].float().numpy())
    rows = {name: row for row in library.load_table("t.json").rows for name in (row.name, *row.aliases)}
    for name, values in (("w", VALUES), ("tied", VALUES), ("t", VALUES.T)):
        expected = library.dequantize(library.quantize(values, rows[name]), rows[name])
        np.testing.assert_array_equal(in_numpy(f"q.{to}", name), expected)
        np.testing.assert_array_equal(restored(f"q.{to}", name), expected)


def test_an_expanded_view_is_refused_by_name():
    torch.save({"w": torch.from_numpy(VALUES[0].copy()).expand(5, -1)}, "m.pt")
    found = klcal("apply", "m.pt", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert "'w'" in found.err
    assert left() == {"m.pt"}


def test_what_cannot_be_copied_is_refused_by_name():
    np.savez("m.npz", w=VALUES, c=np.zeros(3, np.complex128))
    found = klcal("apply", "m.npz", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert "'c'" in found.err
    assert left() == {"m.npz"}
