"""``klcal apply``: what is written is what the table says, all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.errors import OutputError
from klcal.pipeline import apply
from klcal.writers.directory import new_directory
from tests.support.command import COMMAND, DEADLINE, klcal, with_proc
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


GUIDE = (Path(__file__).parent.parent.parent / "docs" / "apply.md").read_text()


def in_numpy(path: str, name: str) -> np.ndarray:
    """By the ten lines of docs/apply.md."""
    (program,) = re.findall(r"^def restored.*?\n\n", GUIDE, re.DOTALL | re.MULTILINE)
    known: dict[str, Any] = {"np": np}
    exec(program, known)
    found: np.ndarray = known["restored"](loaded(path), name)
    return found


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


def test_tensors_that_are_not_quantized_are_unchanged():
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


def test_tensors_that_the_table_lacks_are_kept_and_counted():
    path = save("m.safetensors", w=VALUES, v=VALUES)
    assert klcal("calibrate", path, "--include", "w", "-o", "t.json").code == 0
    found = klcal("apply", path, "--table", "t.json", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 0
    assert "no row for 1 floating-point tensor:" in found.err
    np.testing.assert_array_equal(safetensors.numpy.load_file("q.safetensors")["v"], VALUES)


def test_a_unit_without_a_scale_is_reported_with_what_is_to_be_typed():
    """Its values are below what the scale's format can hold."""
    values = VALUES.copy()
    values[3] = 1e-12
    path = save("m.safetensors", w=values)
    options = ("--dtype", "int8", "--per", "channel", "--scale-format", "float16", "--to", "safetensors")
    found = klcal("apply", path, *options, "-o", "q.safetensors")
    assert found.code == 4
    assert "'w': 1 of its 24 units have no scale: underflow; nothing was written; leave it out: --exclude" in found.err
    assert left() == {path}


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


def test_a_file_that_cannot_be_copied_is_refused_by_name():
    np.savez("m.npz", w=VALUES, c=np.zeros(3, np.complex128))
    found = klcal("apply", "m.npz", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert "'c'" in found.err
    assert left() == {"m.npz"}


# --- nothing is ever half written, and a second try goes on


def hidden() -> list[Path]:
    return [path for path in Path().iterdir() if path.name.startswith(".")]


def counted(monkeypatch, fails_at: int = 0) -> list[str]:
    """The files that are written from now on; the one of that number is not."""
    written: list[str] = []
    original = apply._write

    def write(form, file, out):
        written.append(file.name)
        if len(written) == fails_at:
            out.write(b"half")
            raise KeyboardInterrupt
        return original(form, file, out)

    monkeypatch.setattr(apply, "_write", write)
    return written


def tree(path: str) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in Path(path).rglob("*") if each.is_file()}


@pytest.mark.parametrize("to", ["safetensors", "fake"])
def test_a_second_try_goes_on_where_the_first_was_stopped(to, monkeypatch):
    checkpoint("m")
    options = {"to": to, "dtype": "int8", "per": "channel", "include": "*.weight"}
    library.apply("m", "whole", **options)
    with monkeypatch.context() as context:
        counted(context, fails_at=2)
        with pytest.raises(KeyboardInterrupt):
            library.apply("m", "q", **options)
    assert not Path("q").exists()
    assert len(hidden()) == 1
    with monkeypatch.context() as context:  # another request knows nothing of it
        others = counted(context)
        library.apply("m", "other", **{**options, "dtype": "int4"})
        assert len(others) == 2
    with monkeypatch.context() as context:
        written = counted(context)
        context.setattr(apply, "calibrate_files", lambda *_, **__: pytest.fail("its table is there"))
        library.apply("m", "q", **options)
        assert written == ["model-00002-of-00002.safetensors"]
    assert tree("q") == tree("whole")
    assert not hidden()


def test_an_interrupted_run_is_not_continued_if_the_model_has_changed(monkeypatch):
    root = checkpoint("m")
    with monkeypatch.context() as context:
        counted(context, fails_at=2)
        with pytest.raises(KeyboardInterrupt):
            library.apply("m", "q", to="safetensors")
    path = root / "model-00001-of-00002.safetensors"
    save(str(path), **{"a.weight": 2 * VALUES, "a.norm": VALUES[0]})
    os.utime(path, ns=(1, 1))
    written = counted(monkeypatch)
    library.apply("m", "q", to="safetensors")
    assert len(written) == 2


@with_proc
def test_killed_at_any_time_there_is_no_output_or_the_whole():
    checkpoint("m")
    library.apply("m", "whole", to="safetensors")
    process = subprocess.Popen([*COMMAND, "apply", "m", "--to", "safetensors", "-o", "q"])
    until = time.monotonic() + DEADLINE
    while not hidden() and not Path("q").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not Path("q").exists() or tree("q") == tree("whole")
    library.apply("m", "r", to="safetensors")
    assert tree("r") == tree("whole")


def test_two_do_not_write_one_directory():
    checkpoint("m")
    with new_directory("q", "1"), pytest.raises(OutputError, match="another klcal writes"), new_directory("q", "1"):
        pass


def test_no_room_is_reported_and_what_is_done_stays(monkeypatch):
    checkpoint("m")

    def full(*_):
        raise OSError(errno.ENOSPC, "")

    with monkeypatch.context() as context:
        context.setattr(apply, "_write", full)
        found = klcal("apply", "m", "--to", "safetensors", "-o", "q")
    assert found.code == 4
    assert "no space left" in found.err
    assert "run again" in found.err
    assert not Path("q").exists()
    assert klcal("apply", "m", "--to", "safetensors", "-o", "q").code == 0


@pytest.mark.parametrize("output", ["m.safetensors", "other.safetensors", "-", "link.safetensors", "none/x"])
def test_a_file_is_never_written_over_a_model_nor_to_a_stream(output):
    path = save("m.safetensors", w=VALUES)
    save("other.safetensors", w=VALUES)
    Path("link.safetensors").symlink_to(path)
    before = {name: Path(name).read_bytes() for name in left()}
    assert klcal("apply", path, "--to", "safetensors", "-o", output).code == 2
    assert {name: Path(name).read_bytes() for name in left()} == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("absent.safetensors", "--to", "safetensors", "-o", "q.safetensors"), 3, "no such file"),
        (("-", "--to", "safetensors", "-o", "q.safetensors"), 2, "standard input"),
        (("m.safetensors", "-o", "q.safetensors"), 2, "--to"),
        (("m.safetensors", "--to", "safetensors"), 2, "-o OUT"),
        (("m.safetensors", "--to", "fake", "-o", "q", "--include", "x*"), 3, "no tensor"),
        (("m.safetensors", "--to", "fake", "-o", "q", "--table", "m.safetensors"), 2, "table"),
        (("cut.safetensors", "--to", "fake", "-o", "q"), 3, "cut.safetensors"),
    ],
)
def test_errors_are_reported_and_nothing_is_written(arguments, code, words):
    path = save("m.safetensors", w=VALUES)
    Path("cut.safetensors").write_bytes(Path(path).read_bytes()[:-1])
    before = left()
    found = klcal("apply", *arguments)
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert left() == before


def test_a_damaged_shard_costs_the_output_and_is_named():
    root = checkpoint("m")
    path = root / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    found = klcal("apply", "m", "--to", "safetensors", "-o", "q")
    assert found.code == 4
    assert path.name in found.err
    assert not Path("q").exists()
    assert not hidden()


def test_the_library_has_what_the_command_has():
    path = save("m.safetensors", w=VALUES, v=VALUES)
    table = library.calibrate_files(path, dtype="int8", include="w")
    found = library.apply(path, "q.npz", to="npz", table=table)
    assert (found.quantized, found.kept, len(found.warnings)) == (1, 1, 1)
    assert found.nbytes == Path("q.npz").stat().st_size
    with pytest.raises(library.UsageError, match="per is for calibration"):
        library.apply(path, "r.npz", to="npz", table=table, per="channel")
    with pytest.raises(library.UsageError, match="no form"):
        library.apply(path, "r.npz", to="gif")


# --- directories as they are found


def test_a_model_in_the_hub_s_cache_is_its_only_revision():
    checkpoint("plain")
    root = Path("models--a--b")
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for number, path in enumerate(each for each in Path("plain").rglob("*") if each.is_file()):
        (root / "blobs" / str(number)).write_bytes(path.read_bytes())
        link = snapshot / path.relative_to("plain")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to((root / "blobs" / str(number)).resolve())
    (snapshot / "lost.json").symlink_to("nowhere")
    options = {"to": "safetensors", "dtype": "int8"}
    library.apply("plain", "q", **options)
    library.apply(root, "r", **options)
    assert tree("r") == tree("q")
    assert not any(path.is_symlink() for path in Path("r").rglob("*"))
    (root / "snapshots" / "def").mkdir()
    with pytest.raises(library.UsageError, match="2 revisions"):
        library.apply(root, "s", **options)


def test_a_model_in_two_formats_is_written_once_and_said():
    root = checkpoint("m")
    torch.save({"a.weight": torch.from_numpy(VALUES.copy())}, root / "pytorch_model.bin")
    (root / ".cache").mkdir()
    (root / ".cache" / "x").touch()
    found = klcal("apply", "m", "--to", "fake", "-o", "q")
    assert found.code == 0
    assert "'pytorch_model.bin' is not read" in found.err
    assert not any(name.startswith((".cache", "pytorch_model")) for name in tree("q"))


def test_a_pickled_checkpoint_becomes_safetensors_with_an_index_of_its_own():
    root = Path("m")
    root.mkdir()
    weight = torch.from_numpy(VALUES.copy())
    for number, name in enumerate("ab", 1):
        torch.save(
            {f"{name}.weight": weight, f"{name}.tied": weight}, root / f"pytorch_model-0000{number}-of-00002.bin"
        )
    weight_map = {
        f"{name}.{kind}": f"pytorch_model-0000{number}-of-00002.bin"
        for number, name in enumerate("ab", 1)
        for kind in ("weight", "tied")
    }
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    library.apply("m", "q", to="safetensors", dtype="int8")
    assert set(tree("q")) == {
        "pytorch_model-00001-of-00002.safetensors",
        "pytorch_model-00002-of-00002.safetensors",
        "pytorch_model.safetensors.index.json",
    }
    index = json.loads(Path("q/pytorch_model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map.keys() < index.keys()
    assert klcal("compare", "m", "q", "--dequantize", "--include", "*.weight", "--fail-on", "sqnr_db < 30").code == 0


def test_two_files_that_would_be_one_are_refused():
    save("m/a.safetensors", w=VALUES)
    np.save("m/a.npy", VALUES)
    found = klcal("apply", "m", "--to", "safetensors", "-o", "q")
    assert found.code == 2
    assert "'a.safetensors'" in found.err


def test_rows_that_the_model_lacks_are_reported():
    save("m.safetensors", w=VALUES, lost=VALUES)
    table = library.calibrate_files("m.safetensors")
    save("m.safetensors", w=VALUES)
    found = library.apply("m.safetensors", "q.safetensors", to="safetensors", table=table)
    assert found.warnings == ("the model has no tensor for 1 row of the table: 'lost'",)


def test_names_that_would_collide_are_refused():
    path = save("m.safetensors", w=VALUES, w_scale=VALUES)
    found = klcal("apply", path, "--include", "w", "--to", "safetensors", "-o", "q.safetensors")
    assert found.code == 4
    assert "'w_scale'" in found.err
    assert left() == {path}


def test_a_quantized_model_is_carried_along_as_it_is():
    """What is codes already stays, beside what is quantized now."""
    save("m.safetensors", w=VALUES, v=VALUES)
    options = {"to": "safetensors", "dtype": "int8"}
    library.apply("m.safetensors", "once.safetensors", include="w", **options)
    library.apply("once.safetensors", "twice.safetensors", **options)
    library.apply("m.safetensors", "both.safetensors", **options)
    once, both = loaded("twice.safetensors"), loaded("both.safetensors")
    assert once.keys() == both.keys()
    for name, array in both.items():
        np.testing.assert_array_equal(once[name], array)


@pytest.mark.parametrize("name", ["a\0b", "x" * 70_000, ""])
def test_names_that_no_archive_can_have_are_refused(name):
    path = save("m.safetensors", **{name: VALUES})
    found = klcal("apply", path, "--to", "npz", "-o", "q.npz")
    assert found.code == 4
    assert left() == {path}


def test_an_absent_table_is_wrong_usage_for_a_directory_too():
    checkpoint("m")
    found = klcal("apply", "m", "--table", "absent.json", "--to", "fake", "-o", "q")
    assert found.code == 2
    assert "absent.json" in found.err
    assert not hidden()


def test_a_table_is_not_replaced_by_the_model():
    path = save("m.safetensors", w=VALUES)
    assert klcal("calibrate", path, "-o", "t.safetensors").code == 0
    before = Path("t.safetensors").read_bytes()
    assert klcal("apply", path, "--table", "t.safetensors", "--to", "safetensors", "-o", "t.safetensors").code == 2
    assert Path("t.safetensors").read_bytes() == before


def test_nan_is_refused_before_anything_is_written_and_infinity_is_clipped():
    values = VALUES.copy()
    values[0, :2] = [np.inf, -np.inf]
    path = save("m.safetensors", w=values)
    options = ("--nonfinite", "ignore", "--dtype", "int8", "--to", "safetensors", "-o", "q.safetensors")
    assert klcal("apply", path, *options).code == 0
    assert loaded("q.safetensors")["w"][0, :2].tolist() == [127, -127]
    values[0, 0] = np.nan
    save("n.safetensors", w=values)
    found = klcal("apply", "n.safetensors", *options[:-1], "r.safetensors")
    assert found.code == 4
    assert "1 NaN" in found.err
