"""`--importance` through the real command: files of each format, names, shapes, and what is said of what is left."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import klcal as library
from klcal.errors import ExitCode
from klcal.pipeline import tasks as pipeline
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.request import Request
from klcal.readers import regular
from tests.support.command import klcal, normal, one_message
from tests.support.gguf import gguf, of
from tests.support.imatrix import imatrix, imatrix_gguf
from tests.support.lazy import torch

INT4 = ("--dtype", "int4", "--per", "*.weight=group:16", "--method", "mse")
OPTIONS = {"dtype": "int4", "method": "mse"}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def energy(size: int, seed: int = 0) -> np.ndarray:
    return np.exp(2 * normal(size, seed)).astype(np.float32)


WEIGHTS = {"a.weight": energy(32), "b.weight": energy(48, 1)}


def model() -> dict[str, np.ndarray]:
    return {
        "a.weight": normal(8 * 32).reshape(8, 32),
        "b.weight": normal(6 * 48, 2).reshape(6, 48),
        "b.bias": normal(6),
    }


@pytest.fixture
def saved(here):
    safetensors.numpy.save_file(model(), "m.safetensors")
    np.savez("energy.npz", **WEIGHTS)
    return here


def calibrated(*arguments) -> dict:
    result = klcal("calibrate", *arguments, *INT4, "--format", "json")
    assert result.code == 0, result.err
    return result.tensors


def same_choice(found: dict, expected) -> bool:
    """Whether the JSON of a row has the scales and figures of a row of the library."""
    if expected.units is None:
        return (np.float32(found["scale"]), np.float32(found["mse"])) == (expected.scale, np.float32(expected.mse))
    return np.array_equal(np.float32(found["units"]["scale"]), np.float32(expected.units.scale))


# --- formats and routes


def test_every_format_gives_what_the_library_gives(saved):
    safetensors.numpy.save_file(WEIGHTS, "energy.safetensors")
    Path("energy.gguf").write_bytes(imatrix_gguf({name: ([8 * each], [8]) for name, each in WEIGHTS.items()}))
    Path("energy.dat").write_bytes(imatrix({name: (9, each.tolist()) for name, each in WEIGHTS.items()}))
    torch.save({name: torch.from_numpy(each).bfloat16() for name, each in WEIGHTS.items()}, "half.pt")
    expected = {
        name: library.calibrate(values, per="group:16", importance=WEIGHTS[name], **OPTIONS)
        for name, values in model().items()
        if name in WEIGHTS
    }
    for file in ("energy.npz", "energy.safetensors", "energy.dat", "energy.gguf"):
        found = calibrated("m.safetensors", "--importance", file)
        assert all(same_choice(found[name], row) for name, row in expected.items())
        assert {name: row["importance"] for name, row in found.items()} == {
            "a.weight": True,
            "b.weight": True,
            "b.bias": False,
        }
    plain = calibrated("m.safetensors")
    assert not any(same_choice(plain[name], row) for name, row in expected.items())
    assert plain["b.bias"] == found["b.bias"]
    assert calibrated("m.safetensors", "--importance", "half.pt")["a.weight"]["importance"]


def test_experts_have_the_mean_squares_of_their_own_inputs(here):
    """Models and importance matrices of llama.cpp: an expert that has seen nothing counts all of its columns alike."""
    name, sums, counts = "blk.0.ffn_up_exps.weight", [energy(32, seed) for seed in range(3)], [7, 0, 300]
    values = normal(3 * 4 * 32).reshape(3, 4, 32)
    Path("m.gguf").write_bytes(gguf({name: of(values)}))
    Path("imatrix.gguf").write_bytes(imatrix_gguf({name: (sums, counts)}))
    result = klcal("calibrate", "m.gguf", "--importance", "imatrix.gguf", *INT4, "--format", "json")
    assert (result.code, result.err) == (0, "")
    means = np.stack([sums[0] / np.float32(7), np.ones(32, np.float32), sums[2] / np.float32(300)])
    each = np.broadcast_to(means[:, None], values.shape)
    assert same_choice(result.tensors[name], library.calibrate(values, per="group:16", importance=each, **OPTIONS))
    assert not same_choice(
        result.tensors[name], library.calibrate(values, per="group:16", importance=means[0], **OPTIONS)
    )


def test_files_in_any_layout_give_the_same(saved):
    values = model()["a.weight"]
    expected = [library.calibrate(values, per=per, importance=WEIGHTS["a.weight"], **OPTIONS) for per in PERS]
    np.save("a.weight.npy", np.asfortranarray(values))
    torch.save({"a.weight": torch.from_numpy(values.T.copy()).T}, "a.pt")
    np.savez_compressed("a.npz", **{"a.weight": values})
    for file in ("a.weight.npy", "a.pt", "a.npz"):
        described = next(iter(library.read(file).values()))
        assert described.name == "a.weight"
        for per, row in zip(PERS, expected, strict=True):
            result = klcal("calibrate", file, "--dtype", "int4", "--method", "mse", "--per", per, "--format", "json",
                           "--importance", "energy.npz")  # fmt: skip
            assert same_choice(result.tensors["a.weight"], row)
            entry = library.read("energy.npz")["a.weight"]
            assert same_choice(
                result.tensors["a.weight"], library.calibrate(described, per=per, importance=entry, **OPTIONS)
            )


PERS = ("tensor", "channel", "channel:1", "group:16", "block:3,8")


def test_an_array_alone_is_for_the_only_tensor(here):
    np.save("x.npy", model()["a.weight"])
    np.save("energy.npy", np.broadcast_to(WEIGHTS["a.weight"], (8, 32)).copy(order="F"))
    result = klcal("calibrate", "x.npy", "--importance", "energy.npy", "--format", "json", "--dtype", "int4")
    assert (result.code, result.err) == (0, "")
    expected = library.calibrate(model()["a.weight"], dtype="int4", importance=WEIGHTS["a.weight"])
    assert same_choice(result.tensors["x"], expected)
    np.save("y.npy", model()["a.weight"])
    several = klcal("calibrate", "x.npy", "y.npy", "--importance", "energy.npy", "--format", "json")
    assert several.document["warnings"] == [
        "--importance has entries that match no tensor, 1 of 1: 'energy'",
        "--importance has nothing for 2 of 2 tensors: 'x', 'y'",
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_neither_parts_nor_workers_change_anything(saved, monkeypatch, jobs):
    weights = {**WEIGHTS, "b.bias": energy(6, 3)}
    np.savez("energy.npz", **weights)
    request = Request.parse(method="mse", dtype="int4", importance="energy.npz")
    expected = calibrate_files(["m.safetensors"], request)
    monkeypatch.setattr(regular, "PART_BYTES", 64)
    monkeypatch.setattr(pipeline, "PART_BYTES", 64)
    monkeypatch.setattr(pipeline, "SMALL_BYTES", 0)
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0)
    assert calibrate_files(["m.safetensors"], request, jobs=jobs) == expected
    for row in expected.rows:
        assert row.importance
        alone = library.calibrate(model()[row.name], importance=weights[row.name], **OPTIONS)
        assert (row.scale, row.mse) == (alone.scale, alone.mse)


def test_tied_weights_have_the_importance_of_any_of_their_names(here):
    tensor = torch.from_numpy(model()["a.weight"])
    torch.save({"embed": tensor, "head": tensor}, "tied.pt")
    np.savez("energy.npz", head=WEIGHTS["a.weight"])
    result = klcal("calibrate", "tied.pt", "--importance", "energy.npz", "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert result.tensors["embed"]["importance"]


# --- names and shapes


def test_tensors_without_importance_and_importance_without_tensors_are_warnings(saved):
    np.savez("energy.npz", **{"a.weight": WEIGHTS["a.weight"]}, **{f"blk.{i}": np.ones(3) for i in range(5)})
    result = klcal("calibrate", "m.safetensors", "--importance", "energy.npz", *INT4, "--format", "json")
    assert result.code == 0
    assert result.messages == [
        f"klcal: warning: {text}"
        for text in (
            "--importance has entries that match no tensor, 5 of 6: 'blk.0', 'blk.1', 'blk.2', …",
            "--importance has nothing for 2 of 3 tensors: 'b.bias', 'b.weight'",
        )
    ]
    some = klcal(
        "calibrate", "m.safetensors", "--include", "a.*", "--importance", "energy.npz", *INT4, "--format", "json"
    )
    assert len(some.messages) == 1, "of the tensors that are not wanted nothing is said"


def test_experts_of_an_old_file_follow_one_another(here):
    """It does not say of how many matrices a vector is: the tensor does, as in llama-quantize."""
    of_each = np.stack([energy(32, seed) for seed in range(3)])
    values = {"blk.0.ffn_up_exps.weight": normal(3 * 4 * 32).reshape(3, 4, 32), "short": normal(12).reshape(2, 3, 2)}
    np.savez("m.npz", **values)
    np.savez("energy.npz", **dict.fromkeys(values, of_each))
    entries = {name: (7, of_each.ravel().tolist()) for name in values}
    Path("energy.dat").write_bytes(imatrix(entries))
    old, new = (
        klcal("calibrate", "m.npz", "--importance", f"energy.{end}", *INT4, "--format", "json")
        for end in ("dat", "npz")
    )
    name = "blk.0.ffn_up_exps.weight"
    assert old.tensors[name] == new.tensors[name]
    assert old.tensors[name]["importance"] is True
    assert old.tensors["short"]["reason"].startswith(
        "the importance has the shape [96], the tensor [2, 3, 2]; it needs"
    )


@pytest.mark.parametrize(
    ("importance", "reason"),
    [
        (
            np.ones(31),
            "the importance has the shape [31], the tensor [8, 32]; it needs [32], a weight for each column, or",
        ),
        (np.ones((32, 8)), "the importance has the shape [32, 8], the tensor [8, 32]"),
        (-np.ones(32), "32 of 32 weights of the importance are negative, the first at [0]; use finite weights"),
        (np.full(32, np.nan), "32 of 32 weights of the importance are not finite"),
        (np.ones(32, int), "the importance cannot be used: int64 values are not calibrated; save it as"),
    ],
    ids=["short", "transposed", "negative", "nan", "int"],
)
def test_an_importance_that_does_not_fit_costs_its_tensor_alone(saved, importance, reason):
    np.savez("energy.npz", **{**WEIGHTS, "a.weight": importance, "b.bias": np.ones(6)})
    result = klcal("calibrate", "m.safetensors", "--importance", "energy.npz", *INT4, "--format", "json")
    assert result.code == ExitCode.PARTIAL
    assert (result.tensors["a.weight"]["status"], result.tensors["a.weight"]["cause"]) == ("failed", "data")
    assert result.tensors["a.weight"]["reason"].startswith(reason)
    assert result.tensors["b.weight"]["status"] == "ok"
    assert one_message(result).startswith(f"klcal: error: m.safetensors: a.weight: {reason}")


def test_a_damaged_importance_costs_its_tensor_alone(saved):
    damaged = bytearray(Path("energy.npz").read_bytes())
    damaged[damaged.index(WEIGHTS["a.weight"].tobytes())] ^= 1
    Path("energy.npz").write_bytes(damaged)
    result = klcal(
        "calibrate", "m.safetensors", "--include", "*.weight", "--importance", "energy.npz", "--format", "json"
    )
    assert result.code == ExitCode.PARTIAL
    assert {name: row["status"] for name, row in result.tensors.items()} == {"a.weight": "failed", "b.weight": "ok"}
    assert "the importance cannot be used: " in one_message(result)


def test_a_tensor_whose_values_repeat_has_no_order_to_weigh(here):
    torch.save({"w": torch.arange(1.0, 4).expand(5, 3)}, "w.pt")
    np.savez("energy.npz", w=np.ones(3))
    result = klcal("calibrate", "w.pt", "--importance", "energy.npz", "--format", "json")
    assert result.code == ExitCode.NOTHING_USABLE
    assert result.tensors["w"]["status"] == "unsupported"
    reason = "a value of it stands for several elements; save a contiguous copy to weigh them"
    assert result.tensors["w"]["reason"] == reason
    with pytest.raises(library.InputError, match=reason):
        library.calibrate(library.read("w.pt")["w"], importance=np.ones(3))


# --- usage


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npz", None, "there is no such file"),
        ("cut.dat", imatrix()[:40], "it needs 52 bytes, the file has 40"),
        ("hostile.dat", b"\xff\xff\xff\x7f", "it would have 2,147,483,647 entries"),
        ("cut.gguf", b"GGUF\3\0\0\0", "the file ends inside its header, after 8 bytes"),
        ("model.gguf", gguf(), "it is a GGUF file, but not an importance matrix"),
        ("big.dat", b"GGUF\0\0\0\3", "it is a big-endian GGUF file"),
        ("text.npz", b"hello", "it is a text file"),
        ("empty.safetensors", b"\2\0\0\0\0\0\0\0{}", "it has no tensors; name a file with a weight for each column"),
    ],
)
def test_an_importance_that_cannot_be_used_is_wrong_usage(saved, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    result = klcal("calibrate", "m.safetensors", "--importance", name, "-o", "out.json")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert one_message(result).startswith(f"klcal: error: the importance '{name}': ")
    assert message in result.err
    assert not Path("out.json").exists()


def test_a_method_without_a_cost_is_wrong_usage(saved):
    result = klcal("calibrate", "m.safetensors", "--importance", "energy.npz", "--method", "minmax")
    assert result.code == ExitCode.USAGE
    assert one_message(result) == (
        "klcal: error: importance changes nothing for the method minmax; use kl, mse or kl-classic"
    )


def test_the_importance_is_never_replaced(saved):
    table = json.loads(klcal("calibrate", "m.safetensors", "--format", "json").out)
    Path("energy.json").write_text(json.dumps(table))
    result = klcal("calibrate", "m.safetensors", "--importance", "energy.json", "--output", "energy.json")
    assert result.code == ExitCode.USAGE
    assert "is one of the inputs" in one_message(result)


# --- tables


@pytest.mark.parametrize("name", ["scales.json", "scales.safetensors"])
def test_a_table_says_it_and_is_read_so(saved, name):
    klcal("calibrate", "m.safetensors", "--importance", "energy.npz", *INT4, "--output", name)
    rows = {row.name: row.importance for row in library.load_table(name).rows}
    assert rows == {"a.weight": True, "b.weight": True, "b.bias": False}


def test_a_table_that_does_not_know_it_is_read(saved):
    document = json.loads(klcal("calibrate", "m.safetensors", "--format", "json").out)
    for row in document["tensors"]:
        del row["importance"]
    Path("old.json").write_text(json.dumps(document))
    assert not any(row.importance for row in library.load_table("old.json").rows)
    document["tensors"][0]["importance"] = 1
    Path("old.json").write_text(json.dumps(document))
    with pytest.raises(library.InputError, match="a field is missing or of another kind"):
        library.load_table("old.json")


def test_people_see_it(saved):
    arguments = ("calibrate", "m.safetensors", "--importance", "energy.npz", *INT4)
    assert "importance for 2 of 3 · 3 ok" in klcal(*arguments, "--format", "table").out
    assert "importance" not in klcal("calibrate", "m.safetensors", *INT4, "--format", "table").out
    rows = list(csv.DictReader(io.StringIO(klcal(*arguments, "--format", "csv").out)))
    assert [row["importance"] for row in rows] == ["true", "false", "true"]
