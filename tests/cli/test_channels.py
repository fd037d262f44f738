"""`--per` through the real command: rules, files of every layout, what cannot be cut, and what comes of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.calibration.values import calibrate
from klcal.errors import ExitCode
from klcal.pipeline import workers
from klcal.readers import read
from tests.support.command import klcal, normal, one_message
from tests.support.lazy import torch

FEW = "chosen by mse: fewer than 8,160 nonzero values"  # of int8: too few for `kl` to decide by a divergence


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def matrix(rows: int = 8, columns: int = 96, seed: int = 0) -> np.ndarray:
    return normal(rows * columns, seed).reshape(rows, columns) * np.exp(normal(rows, 1))[:, None]


def calibrated(*arguments: str | Path) -> dict:
    result = klcal("calibrate", *arguments, "--format", "json", "--dtype", "int8")
    assert result.code == 0, result.err
    return result.tensors


# --- rules


def test_one_run_covers_a_checkpoint_with_a_rule_for_each_kind(here):
    safetensors.numpy.save_file(
        {"fc.weight": matrix(), "fc.bias": normal(8), "act.input": matrix(5, 7), "head.weight": matrix(4, 64)},
        "m.safetensors",
    )
    rules = ("--per", "head.*=group:16", "--per", "*.weight=channel", "--per", "tensor")
    result = klcal("calibrate", "m.safetensors", *rules, "--format", "json", "--dtype", "int8")
    assert result.document["config"]["per"] == "head.*=group:16; *.weight=channel; tensor"
    found = result.tensors
    assert [found["fc.weight"]["units"][key] for key in ("per", "axis", "shape")] == ["channel", 0, [8]]
    assert [found["head.weight"]["units"][key] for key in ("per", "size", "shape")] == ["group", 16, [4, 4]]
    for name in ("act.input", "fc.bias"):
        assert isinstance(found[name]["scale"], float)
        assert found[name]["note"] == FEW, "nobody asked for channels of it"


def test_a_tensor_with_one_axis_gets_one_scale_and_a_note_in_table_and_json(here):
    safetensors.numpy.save_file({"fc.weight": matrix(), "fc.bias": normal(8)}, "m.safetensors")
    bias = calibrated("m.safetensors", "--per", "channel")["fc.bias"]
    assert isinstance(bias["scale"], float)
    assert bias["note"] == f"one scale for all: the tensor has a single axis; {FEW}"
    table = klcal("calibrate", "m.safetensors", "--per", "channel", "--format", "table").out
    assert "1 tensor: one scale for all: the tensor has a single axis" in table
    assert "2 tensors: chosen by mse: fewer than" in table, "`kl` had too few values"


def test_a_rule_that_no_tensor_matches_is_warned_of(here):
    np.save("fc.npy", matrix())
    result = klcal("calibrate", "fc.npy", "--per", "cf=channel", "--format", "json")
    assert result.code == 0
    assert one_message(result) == "klcal: warning: --per 'cf' matches no tensor; the nearest names are 'fc'"


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("channel:2", "m.npy: m: per channel:2: the shape [8, 96] has the axes 0 to 1; use one of these, or a rule"),
        ("channel:-3", "m.npy: m: per channel:-3: the shape [8, 96] has the axes 0 to 1"),
        ("block:0,2", "a block of 0 by 2 values; sizes are ints, at least 1: block:128,128"),
        ("group:97", "m.npy: m: per group:97: axis 1 of the shape [8, 96] has 96 values, fewer than a group"),
        ("group:9,0", "m.npy: m: per group:9,0: axis 0 of the shape [8, 96] has 8 values, fewer than a group"),
    ],
)
def test_units_that_a_tensor_does_not_have_are_a_usage_error_before_anything_is_counted(here, monkeypatch, unit, told):
    np.save("m.npy", matrix())
    monkeypatch.setattr("klcal.pipeline.worked._counted", None)
    result = klcal("calibrate", "m.npy", "--per", unit, "--output", "scales.json")
    assert result.code == ExitCode.USAGE
    assert one_message(result).startswith(f"klcal: error: {told}")
    assert not Path("scales.json").exists()


def test_scales_in_float8_need_units_that_have_them(here):
    np.save("m.npy", matrix())
    arguments = ("calibrate", "m.npy", "--dtype", "float4_e2m1fn", "--scale-format", "float8_e4m3fn")
    for rules in ((), ("--per", "tensor")):
        result = klcal(*arguments, *rules)
        assert result.code == ExitCode.USAGE
        assert "float8_e4m3fn scales are relative to a global scale of their tensor; give its" in one_message(result)
    assert klcal(*arguments, "--per", "group:16").code == 0


def test_blocks_and_negative_scales_come_back_from_a_table(here):
    """The error that calibration promised is the one that the table makes."""
    np.save("m.npy", matrix(50, 70))
    arguments = ("--dtype", "int4", "--scheme", "symmetric-signed", "--per", "block:16,32", "--method", "mse")
    assert klcal("calibrate", "m.npy", *arguments, "-o", "scales.json").code == 0
    row = json.loads(Path("scales.json").read_text())["tensors"][0]
    assert (row["units"]["shape"], row["qmin"], row["qmax"]) == ([4, 3], -8, 7)
    assert min(row["units"]["scale"]) < 0 < max(row["units"]["scale"])
    compared = klcal("compare", "m.npy", "--table", "scales.json", "--format", "json").tensors["m"]
    assert compared["mse"] == pytest.approx(row["mse"], rel=0.01)
    sizes = np.outer([16, 16, 16, 2], [32, 32, 6]).ravel()
    assert row["mse"] == pytest.approx(np.average(row["units"]["mse"], weights=sizes))


# --- files


def test_the_layout_of_a_file_does_not_matter(here):
    """C order, Fortran order, a transposed view of torch's, big-endian, shards, and a column of a larger tensor."""
    values = matrix(12, 40)
    np.save("c.npy", values)
    np.save("f.npy", np.asfortranarray(values))
    np.save("b.npy", values.astype(">f4"))
    wide = torch.zeros(12, 100)
    wide[:, 30:70] = torch.from_numpy(values)
    transposed = torch.from_numpy(values.T.copy()).T
    torch.save({"t": transposed, "s": wide[:, 30:70]}, "m.pt")
    torch.save({"old": transposed}, "old.pt", _use_new_zipfile_serialization=False)
    np.savez_compressed("z.npz", z=values)
    safetensors.numpy.save_file({"st": values}, "m.safetensors")
    for unit in ("channel", "channel:1", "group:7", "group:5,0", "block:5,7"):
        found = list(calibrated(".", "--per", unit, "--method", "mse").values())
        assert len(found) == 8
        for tensor in found:
            for field in ("units", "mse", "sqnr_db", "clipped"):
                assert tensor[field] == found[0][field], (unit, tensor["name"], field)


def test_rows_longer_than_a_chunk_and_shorter_ones_give_the_same_bytes(here, monkeypatch):
    np.save("m.npy", matrix(5, 3000))
    arguments = ("calibrate", "m.npy", "--per", "channel", "--dtype", "uint8", "--format", "json")
    expected = klcal(*arguments).out
    for size in (1 << 10, 12_344, 1 << 15):
        monkeypatch.setattr("klcal.readers.npy_file.CHUNK_BYTES", size, raising=False)
        monkeypatch.setattr("klcal.readers.regular.CHUNK_BYTES", size, raising=False)
        assert klcal(*arguments).out == expected


@pytest.mark.parametrize("per", ["channel", "channel:1", "group:32", "block:3,50"])
def test_neither_jobs_nor_shards_matter(here, monkeypatch, per):
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0.0)
    tensors = {f"layer.{i}.weight": matrix(16, 96, i) for i in range(6)}
    Path("one").mkdir()
    Path("two").mkdir()
    safetensors.numpy.save_file(tensors, "one/model.safetensors")
    names, weight_map = list(tensors), {}
    for shard in range(3):
        file = f"model-{shard}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names[shard::3]}, f"two/{file}")
        weight_map |= dict.fromkeys(names[shard::3], file)
    Path("two/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    options = ("--per", per, "--dtype", "int4", "--format", "json", "--method", "mse")
    outputs = {klcal("calibrate", folder, *options, "--jobs", jobs).out for folder in ("one", "two") for jobs in "12"}
    assert len(outputs) == 1


def test_work_on_channels_is_long_enough_for_workers_where_it_is_long(here, monkeypatch):
    np.save("a.npy", np.ones((12_288, 1024), np.float32))
    np.save("b.npy", np.ones((12_288, 1024), np.float32))
    started = []
    whole = workers.workers

    def noticed(*arguments, **options):
        started.append(arguments)
        return whole(*arguments, **options)

    monkeypatch.setattr(workers, "workers", noticed)
    for per in ("tensor", "channel"):
        assert klcal("calibrate", "a.npy", "b.npy", "--per", per, "--jobs", "2", "--method", "minmax").code == 0
        assert bool(started) == (per == "channel")


def test_a_view_whose_values_stand_for_several_has_no_channels_and_costs_nobody_else(here):
    torch.save({"expanded": torch.ones(1, 4).expand(3, 4), "good": torch.from_numpy(matrix())}, "m.pt")
    result = klcal("calibrate", "m.pt", "--per", "channel", "--format", "json")
    assert result.code == ExitCode.PARTIAL
    assert result.tensors["expanded"]["status"] == "unsupported"
    assert "save a contiguous copy" in result.tensors["expanded"]["reason"]
    assert len(result.tensors["good"]["units"]["scale"]) == 8


def test_a_file_that_is_cut_while_its_channels_are_read_fails_alone(here):
    np.save("good.npy", matrix())
    np.save("cut.npy", matrix())
    data = Path("cut.npy").read_bytes()
    Path("cut.npy").write_bytes(data[:-400])
    result = klcal("calibrate", "cut.npy", "good.npy", "--per", "channel", "--format", "json")
    assert result.code == ExitCode.PARTIAL
    assert result.tensors["good"]["status"] == "ok"


def test_tensors_in_files_have_channels_in_the_library_too(here):
    values = matrix()
    torch.save({"w": torch.from_numpy(values.T.copy()).T, "e": torch.ones(1, 4).expand(3, 4)}, "m.pt")
    stored = read("m.pt")
    row = calibrate(stored["w"], dtype="int4", per="group:32")
    assert (row.name, row.shape) == ("w", (8, 96))
    assert row.units == calibrate(values, dtype="int4", per="group:32").units
    with pytest.raises(Exception, match="save a contiguous copy"):
        calibrate(stored["e"], per="channel")


# --- what comes of it


def test_a_bad_channel_is_a_partial_failure_that_names_what_was_lost(here):
    values = matrix()
    values[3, 5], values[6] = np.nan, 0
    np.save("m.npy", values)
    result = klcal("calibrate", "m.npy", "--per", "channel", "--format", "json", "--dtype", "int8")
    assert result.code == ExitCode.PARTIAL
    assert one_message(result) == "klcal: error: m.npy: m: of 8 units: 6 ok, 1 zero, 1 nonfinite"
    tensor = result.tensors["m"]
    assert tensor["units"]["status"] == ["ok", "ok", "ok", "nonfinite", "ok", "ok", "zero", "ok"]
    assert [scale is None for scale in tensor["units"]["scale"]] == [x != "ok" for x in tensor["units"]["status"]]
    ignored = klcal("calibrate", "m.npy", "--per", "channel", "--format", "json", "--nonfinite", "ignore")
    assert ignored.code == 0
    assert "1 NaN of 768 values were left out" in one_message(ignored)


def test_a_condition_is_met_by_the_worst_channel(here):
    values = matrix()
    values[5, 0] *= 1000
    np.save("m.npy", values)
    result = klcal("calibrate", "m.npy", "--per", "channel", "--dtype", "int8", "--fail-on", "unit.sqnr_db<36")
    assert result.code == ExitCode.FINDINGS
    assert " < 36 in unit 5, 1 of 8 units" in result.err


def test_a_divergence_that_is_null_is_0_to_a_condition(here):
    np.save("m.npy", matrix())
    for dtype, code in (("int8", ExitCode.FINDINGS), ("int16", 0)):  # whose cells are not cut: there is no divergence
        assert klcal("calibrate", "m.npy", "--per", "channel", "--dtype", dtype, "--fail-on", "kl>0").code == code


def test_a_condition_is_on_the_tensor_or_on_its_worst_unit_and_on_every_scale(here):
    np.save("m.npy", matrix())
    options = ("calibrate", "m.npy", "--per", "channel", "--dtype", "int8", "--format", "json")
    row = klcal(*options).tensors["m"]
    worst = min(row["units"]["sqnr_db"])
    assert worst < row["sqnr_db"]
    between = (worst + row["sqnr_db"]) / 2
    assert klcal(*options, "--fail-on", f"sqnr_db < {between}").code == 0
    found = klcal(*options, "--fail-on", f"unit.sqnr_db < {between}")
    assert (found.code, f"sqnr_db {worst!r} < " in found.err) == (1, True)
    largest = max(row["units"]["scale"])
    unit = row["units"]["scale"].index(largest)
    assert klcal(*options, "--fail-on", f"scale > {largest}").code == 0, "as it is printed"
    found = klcal(*options, "--fail-on", f"scale >= {largest}")
    assert f"scale {largest!r} >= " in found.err
    assert f"in unit {unit}, 1 of 8 units" in found.err
    found = klcal(*options, "--fail-on", "zero_point < 1")
    assert "zero_point 0 < 1 in unit 0, 8 of 8 units" in found.err
    assert klcal(*options, "--fail-on", "unit.nan > 1").code == 2


def test_a_condition_on_units_is_on_the_tensor_where_it_has_none(here):
    np.save("m.npy", matrix())
    for field in ("sqnr_db", "unit.sqnr_db"):
        assert klcal("calibrate", "m.npy", "--dtype", "int8", "--fail-on", f"{field} < 90").code == 1


@pytest.mark.parametrize("format_", ["csv", "jsonl", "plain"])
def test_a_line_for_each_channel_has_what_the_lists_have(here, format_):
    safetensors.numpy.save_file({"w": matrix(), "b": normal(8)}, "m.safetensors")
    options = ("calibrate", "m.safetensors", "--per", "channel", "--dtype", "int8")
    lists = klcal(*options, "--format", "json").tensors
    text = klcal(*options, "--units", "--format", format_).out
    if format_ == "jsonl":
        lines = [json.loads(line) for line in text.splitlines()[:-1]]
    else:
        lines = list(csv.DictReader(io.StringIO(text), delimiter="\t" if format_ == "plain" else ","))
    assert [line["name"] for line in lines] == ["b", *["w"] * 8]
    assert [line["unit"] for line in lines][1:] in ([*range(8)], [str(unit) for unit in range(8)])
    assert [float(line["scale"]) for line in lines] == [lists["b"]["scale"], *lists["w"]["units"]["scale"]]


# --- what the table made of the tensor


@pytest.mark.parametrize(
    ("dtype", "per"),
    [
        ("int8", "channel"),
        ("uint4", "channel:1"),
        ("float8_e4m3fn", "group:40"),
        ("nf4", "group:4,0"),
        ("uint8", "group:7"),
    ],
)
def test_comparing_with_a_table_of_channels_measures_what_it_promised(here, dtype, per):
    values = matrix(12, 320)
    torch.save({"w": torch.from_numpy(values), "t": torch.from_numpy(values.T.copy()).T}, "m.pt")
    assert klcal("calibrate", "m.pt", "--dtype", dtype, "--per", per, "--output", "scales.json").code == 0
    table = {tensor["name"]: tensor for tensor in json.loads(Path("scales.json").read_text())["tensors"]}
    result = klcal("compare", "m.pt", "--table", "scales.json", "--format", "json")
    for name, tensor in result.tensors.items():
        assert tensor["status"] == "ok"
        assert tensor["mse"] == pytest.approx(table[name]["mse"], rel=0.02)


def test_a_pruned_channel_does_not_keep_a_tensor_from_being_compared(here):
    values = matrix()
    values[2] = 0
    np.save("m.npy", values)
    klcal("calibrate", "m.npy", "--dtype", "uint8", "--per", "channel", "--output", "scales.json")
    (tensor,) = klcal("compare", "m.npy", "--table", "scales.json", "--format", "json").document["tensors"]
    assert tensor["status"] == "ok"
    assert tensor["sqnr_db"] > 30


def test_a_table_of_units_for_people_numbers_them(here):
    np.save("m.npy", matrix(3, 20))
    text = klcal("calibrate", "m.npy", "--per", "channel", "--units", "--format", "table").out
    assert [line.split()[:4:3] for line in text.splitlines()[2:5]] == [["m", str(unit)] for unit in range(3)]


def test_a_table_of_other_channels_does_not_know_the_tensor(here):
    np.save("m.npy", matrix())
    klcal("calibrate", "m.npy", "--dtype", "int8", "--per", "channel", "--output", "scales.json")
    np.save("m.npy", matrix(9, 96))
    (tensor,) = klcal("compare", "m.npy", "--table", "scales.json", "--format", "json").document["tensors"]
    assert tensor["status"] == "missing"
    assert tensor["reason"].startswith("in the table: scales of [8] units per channel:0 do not fit the shape [9, 96]; ")
