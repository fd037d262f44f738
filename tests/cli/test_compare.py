"""``klcal compare``: the figures are those of the tensors themselves, and nothing that is missing passes unseen."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.calibration.values import calibrate
from klcal.divergence import entropy, js, kl
from klcal.divergence.elementwise import side_by_side
from klcal.divergence.samples import common_bins
from klcal.errors import UsageError
from klcal.pipeline.compare import compare_files
from klcal.pipeline.quantized_copy import read_quantizers
from klcal.pipeline.selection import Selected
from klcal.quantizers.rounding import dequantize, quantize
from klcal.readers import read
from klcal.readers.table_file import read_table
from klcal.sketches.values import sketch
from tests.support.command import klcal
from tests.support.lazy import torch
from tests.support.strategies import FINITE, floats, tensors

RNG = np.random.default_rng(0)


def saved(path, **arrays):
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return str(path)


def rows(table) -> dict:
    return {row.name: row for row in table.rows}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# --- element by element


@settings(max_examples=60)
@given(floats(FINITE), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_elementwise_figures_are_numpys_however_the_values_are_chunked(values, seed, one, other):
    copy = np.where(np.random.default_rng(seed).random(values.size) < 0.5, values, values * np.float32(0.9))
    streams = (
        [stream[i : i + size] for i in range(0, stream.size, size)] for stream, size in ((values, one), (copy, other))
    )
    found = side_by_side(next(streams), "float32", next(streams), "float32").elements
    x, y = values.astype(float), copy.astype(float)
    assert found.numel == values.size
    if values.size:
        assert found.max_abs_diff == pytest.approx(np.max(np.abs(x - y)), rel=1e-6)
        assert found.mse == pytest.approx(np.mean((x - y) ** 2), rel=1e-5, abs=1e-40)
        norms = np.linalg.norm(x) * np.linalg.norm(y)
        if found.cosine is not None and norms > 1e-30:
            assert found.cosine == pytest.approx(np.dot(x, y) / norms, abs=1e-5)


def test_elementwise_of_all_dtypes():
    values = RNG.standard_normal(100_000)
    for dtype in ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn"):
        tensor = torch.from_numpy(values).to(getattr(torch, dtype))
        stored = (
            tensor.view(torch.uint16 if tensor.element_size() == 2 else torch.uint8)
            if "b" in dtype[:1] or "8" in dtype
            else tensor
        )
        found = side_by_side([values], "float64", [stored.numpy()], dtype).elements
        error = values - tensor.double().numpy()
        assert found.mse == pytest.approx(np.mean(error**2), rel=1e-5, abs=1e-30)
        if dtype != "float64":
            assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(values**2) / np.sum(error**2)), abs=1e-3)


def test_equal_tensors_have_an_infinite_ratio_and_zeros_have_none():
    ones = [np.ones(5, np.float32)]
    assert side_by_side(ones, "float32", ones, "float32").elements.sqnr_db == math.inf
    zeros = [np.zeros(5, np.float32)]
    found = side_by_side(zeros, "float32", zeros, "float32").elements
    assert found.sqnr_db is found.cosine is None
    assert side_by_side(zeros, "float32", ones, "float32").elements.sqnr_db == -math.inf
    assert side_by_side(
        [np.float32([3e38])], "float32", [np.float32([-3e38])], "float32"
    ).elements.cosine == pytest.approx(-1)


# --- the table of differences


def test_the_figures_are_those_of_the_library(tmp_path):
    a, b = normal(40, 50), normal(40, 50)
    row = compare_files(saved(tmp_path / "a.safetensors", w=a), saved(tmp_path / "b.safetensors", w=b), base="2").rows[
        0
    ]
    pair = common_bins(sketch(a), sketch(b))
    assert row.kl == pytest.approx(float(kl(pair.p, pair.q, base=2)))
    assert row.reverse_kl == pytest.approx(float(kl(pair.q, pair.p, base=2)))
    assert row.js == pytest.approx(float(js(pair.p, pair.q, base=2)))
    assert row.cross_entropy == pytest.approx(row.entropy + row.kl)
    assert row.entropy == pytest.approx(float(entropy(pair.p, base=2)))
    exact = np.mean(np.abs(np.sort(a.ravel()) - np.sort(b.ravel())))
    assert row.wasserstein == pytest.approx(exact, rel=1e-3)
    assert row.max_abs_diff == pytest.approx(np.max(np.abs(a - b)))


def test_a_tensor_against_itself_is_at_no_distance(tmp_path):
    path = saved(
        tmp_path / "a.safetensors", w=normal(40, 50), zeros=np.zeros(4, np.float32), one=np.ones(1, np.float32)
    )
    for row in compare_files(path, path).rows:
        status = "zero" if row.name == "zeros" else "ok"
        assert (row.status, row.kl, row.js, row.wasserstein, row.mse) == (status, 0, 0, 0, 0)
        assert row.sqnr_db in (math.inf, None)


def test_layouts_dtypes_and_formats_may_differ(tmp_path):
    values = normal(6, 8)
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    np.save(tmp_path / "c.npy", values.astype(">f8"))
    torch.save({"x": torch.from_numpy(values.T.copy()).T}, tmp_path / "t.pt")
    torch.save({"x": torch.from_numpy(values)}, tmp_path / "p.pt")
    reference = str(tmp_path / "p.pt")
    in_order = compare_files(reference, str(tmp_path / "c.npy")).rows[0]
    assert (in_order.status, in_order.sqnr_db, in_order.js) == ("ok", math.inf, 0)
    np.save(tmp_path / "g.npy", np.asfortranarray(values))
    row = compare_files(str(tmp_path / "f.npy"), str(tmp_path / "g.npy")).rows[0]
    assert (row.sqnr_db, row.cosine) == (math.inf, pytest.approx(1))
    assert compare_files(str(tmp_path / "f.npy"), str(tmp_path / "t.pt")).rows[0].mse == 0
    for other in ("f.npy", "t.pt"):
        row = compare_files(reference, str(tmp_path / other)).rows[0]
        assert (row.status, row.js, row.sqnr_db, row.max_abs_diff) == ("ok", 0, None, None), "not compared out of order"


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_number_of_workers_does_not_matter(tmp_path, monkeypatch, jobs):
    monkeypatch.setattr("klcal.pipeline.mapping.PARALLEL_SECONDS", 0.0)
    arrays = {f"w{i}": normal(20, 30) for i in range(9)}
    p = saved(tmp_path / "a.safetensors", **arrays)
    q = saved(tmp_path / "b.safetensors", **{name: array + normal(20, 30) / 10 for name, array in arrays.items()})
    found = compare_files(p, q, jobs=jobs)
    assert found == compare_files(p, q)
    assert [row.js for row in found.rows] == sorted((row.js for row in found.rows), reverse=True)


def test_tensors_without_a_partner_or_figures_are_listed(tmp_path):
    w = normal(50)
    p = saved(tmp_path / "a.safetensors", w=w, only=w, n=np.arange(3), nan=np.float32([1, math.nan]), e=w[:0], s=w)
    q = saved(tmp_path / "b.safetensors", w=w, new=w, n=np.arange(3), nan=w[:2], e=w[:0], s=w[:40])
    found = rows(compare_files(p, q))
    assert {name: row.status for name, row in found.items()} == {
        "w": "ok",
        "s": "ok",
        "only": "missing",
        "new": "extra",
        "n": "skipped",
        "nan": "nonfinite",
        "e": "empty",
    }
    assert found["nan"].reason == "1 NaN in P"
    assert found["s"].kl is not None
    assert found["s"].sqnr_db is None
    assert found["new"].other_source == "b.safetensors"


def test_tied_weights_and_shards_are_matched_by_any_name(tmp_path):
    w = torch.randn(6)
    torch.save({"a": w, "b": w}, tmp_path / "tied.pt")
    torch.save({"b": w.clone(), "a": w.clone()}, tmp_path / "free.pt")
    assert {row.status for row in compare_files(str(tmp_path / "tied.pt"), str(tmp_path / "free.pt")).rows} == {
        "ok",
        "extra",
    }
    assert {row.status for row in compare_files(str(tmp_path / "free.pt"), str(tmp_path / "tied.pt")).rows} == {"ok"}


def test_directories_are_matched_file_by_file(tmp_path):
    for folder in ("x", "y"):
        for name in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            saved(tmp_path / folder / f"{name}.safetensors", w=np.full(5, len(name + folder), np.float32))
            np.save(tmp_path / folder / f"{name}.npy", np.ones(3, np.float32))
    found = compare_files(str(tmp_path / "x"), str(tmp_path / "y"))
    assert [(row.source, row.other_source, row.js) for row in found.rows if row.name == "w"] == [
        ("one.safetensors", "one.safetensors", 0),
        ("two.safetensors", "two.safetensors", 0),
    ]
    assert all(row.status == "ok" for row in found.rows)


# --- a table of scales


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "float8_e4m3fn", "float4_e2m1fn", "nf4"])
@settings(max_examples=3)
@given(values=tensors(400))
def test_a_comparison_measures_the_figures_of_the_calibration(tmp_path_factory, dtype, values):
    """Re-measured on the tensors, element by element; exactly, where buckets hold the values exactly."""
    folder = tmp_path_factory.mktemp("promise")
    exact = (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    path = saved(folder / "a.safetensors", w=exact)
    assert klcal("calibrate", path, "--dtype", dtype, "-o", str(folder / "scales.json")).code == 0
    (promised,) = json.loads((folder / "scales.json").read_text())["tensors"]
    (row,) = compare_files(path, None, table=str(folder / "scales.json")).rows
    assert row.mse == pytest.approx(promised["mse"], rel=1e-3, abs=1e-12 * float(np.mean(exact.astype(float) ** 2)))
    if promised["sqnr_db"] is not None and promised["sqnr_db"] < 100:
        assert row.sqnr_db == pytest.approx(promised["sqnr_db"], abs=0.01)


def test_the_promise_for_float32_is_kept_to_a_percent(tmp_path):
    laws = {
        name: getattr(RNG, name)(size=2000).astype(np.float32) for name in ("standard_normal", "laplace", "exponential")
    }
    path = saved(tmp_path / "a.safetensors", **laws)
    for dtype in ("int8", "uint8", "int4"):
        klcal("calibrate", path, "--dtype", dtype, "-o", str(tmp_path / "scales.json"))
        for row in compare_files(path, None, table=str(tmp_path / "scales.json")).rows:
            assert row.mse == pytest.approx(calibrate(laws[row.name], dtype=dtype).mse, rel=0.01)


def test_tensors_that_a_table_does_not_know_are_missing(tmp_path):
    path = saved(tmp_path / "a.safetensors", w=normal(9), z=np.zeros(3, np.float32), y=np.zeros(3, np.float32))
    klcal("calibrate", path, "-o", str(tmp_path / "scales.json"))
    saved(tmp_path / "a.safetensors", w=normal(9), v=normal(9), z=np.zeros(3, np.float32), y=normal(3))
    found = rows(compare_files(path, None, table=str(tmp_path / "scales.json")))
    assert (found["v"].status, found["v"].reason) == (
        "missing",
        "the table has no tensor of this name; it has 'w', 'y', 'z'",
    )
    assert (found["y"].status, found["y"].reason) == ("missing", "the table has no scale for it: every value was 0")
    assert (found["z"].status, found["w"].status) == ("zero", "ok")


def table_of(paths, name, *options):
    assert klcal("calibrate", *paths, "--dtype", "int8", "-o", str(name), *options).code == 0
    return str(name)


def test_scales_from_one_batch_are_tried_on_another(tmp_path):
    """Whatever the files are called: by the tensors' names, and a single tensor by being the only one."""
    for number in (0, 1):
        np.save(tmp_path / f"batch{number}.npy", normal(40, 3) * (1 + number))
        saved(tmp_path / f"acts{number}.safetensors", a=normal(90), b=normal(90) * 9)
    for suffix, names in ((".npy", ["batch1"]), (".safetensors", ["a", "b"])):
        first, other = (str(next(tmp_path.glob(f"*{number}{suffix}"))) for number in (0, 1))
        table = table_of([first], tmp_path / "scales.json")
        scales = {row.name: row for row in read_table(table).rows}
        found = rows(compare_files(other, None, table=table))
        assert {name: row.status for name, row in found.items()} == dict.fromkeys(names, "ok")
        for name, tensor in read(other).items():
            row = scales["batch0" if suffix == ".npy" else name]
            values = np.concatenate([chunk.copy() for part in tensor.parts for chunk in part.chunks()])
            error = values.astype(float) - dequantize(quantize(values, row), row)
            assert found[name].mse == pytest.approx(np.mean(error**2), rel=1e-6)


def test_a_table_of_a_checkpoint_is_tried_on_a_shard_and_on_a_renamed_file(tmp_path):
    arrays = {f"layers.{i}.w": normal(8, 8) for i in range(3)}
    whole = saved(tmp_path / "model.safetensors", **arrays)
    table = table_of([whole], tmp_path / "scales.safetensors", "--per", "channel")
    shard = saved(tmp_path / "model-00002-of-00002.safetensors", **{"layers.2.w": arrays["layers.2.w"]})
    expected = {row.name: row for row in compare_files(whole, None, table=table).rows}
    (row,) = compare_files(shard, None, table=table).rows
    assert (row.status, row.mse) == ("ok", expected["layers.2.w"].mse)
    torch.save({"a": (w := torch.from_numpy(arrays["layers.1.w"])), "layers.1.w": w}, tmp_path / "tied.pt")
    (row,) = compare_files(str(tmp_path / "tied.pt"), None, table=table).rows
    assert (row.name, row.mse) == ("a", expected["layers.1.w"].mse), "found by its alias"


def test_of_equal_names_the_one_of_the_file_is_taken_and_without_it_none(tmp_path):
    for name, size in (("x", 1), ("y", 100), ("z", 1)):
        saved(tmp_path / f"{name}.safetensors", w=normal(500) * size)
    table = table_of([str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")], tmp_path / "t.json")
    for name in "xy":
        (row,) = compare_files(str(tmp_path / f"{name}.safetensors"), None, table=table).rows
        assert row.sqnr_db > 35, "the other one's scale would lose everything"
    (row,) = compare_files(str(tmp_path / "z.safetensors"), None, table=table).rows
    assert (row.status, row.reason) == (
        "missing",
        "the table has it for 'x.safetensors', 'y.safetensors', and not for 'z.safetensors'; rename the file",
    )


def test_rows_are_found_by_file_before_name(tmp_path):
    """Tied weights: the first name is found in another file, the second one in this."""
    wide, narrow = normal(500) * 100, normal(500)
    saved(tmp_path / "wide.safetensors", a=wide)
    path = saved(tmp_path / "x.safetensors", b=narrow)
    table = table_of([str(tmp_path / "wide.safetensors"), path], tmp_path / "t.json")
    tied = replace(read(path)["b"], name="a", aliases=("b",))
    found = read_quantizers(table).of(Selected("x.safetensors", tied), alone=True)
    assert (found.source, found.name) == ("x.safetensors", "b")


def test_a_miss_says_what_differs(tmp_path):
    p = saved(tmp_path / "p.safetensors", w=normal(4, 6), other=normal(5), bad=np.float32([1, 2]))
    q = saved(tmp_path / "q.safetensors", w=normal(6, 4), v=normal(3, 3), bad=np.float32([1, math.nan]))
    klcal("calibrate", q, "--per", "channel", "-o", str(tmp_path / "t.json"))
    found = rows(compare_files(p, None, table=str(tmp_path / "t.json")))
    assert {row.status for row in found.values()} == {"missing"}
    assert found["w"].reason == (
        "in the table: scales of [6] units per channel:0 do not fit the shape [4, 6]; "
        "hand in a tensor of the shape that was calibrated"
    )
    assert found["other"].reason == "the table has no tensor of this name; it has 'bad', 'v', 'w'"
    assert found["bad"].reason.startswith("the table has no scale for it: 1 NaN among 2 values")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "x", '{"schema": "klcal.table/1"}', '{"schema": "other", "tensors": []}', ""]
)
def test_a_file_that_is_not_a_table_is_a_usage_error(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match="the table"):
        compare_files(saved(tmp_path / "a.safetensors", w=normal(3)), None, table=str(tmp_path / "t.json"))


# --- the command


def test_exit_codes(tmp_path):
    w = normal(500)
    a, b = saved(tmp_path / "a.safetensors", w=w), saved(tmp_path / "b.safetensors", w=w + normal(500) / 100)
    c = saved(tmp_path / "c.safetensors", v=w, u=w)
    assert klcal("compare", a, b).code == 0
    assert klcal("compare", a, b, "--fail-on", "sqnr_db < 20").code == 0
    found = klcal("compare", a, b, "--fail-on", "sqnr_db < 60")
    assert found.code == 1
    assert "w: sqnr_db" in found.err
    assert klcal("compare", a, c).code == 3
    assert klcal("compare", a, str(tmp_path / "absent.pt")).code == 3
    assert klcal("compare", a).code == klcal("compare", a, b, "--table", a).code == 2
    assert klcal("compare", a, b, "--sort", "nothing").code == klcal("compare", a, b, "--base", "7").code == 2
    assert klcal("compare", a, b, "--fail-on", "scale < 1").code == 2


def test_a_condition_fails_towards_the_unknown(tmp_path):
    """An infinite divergence and a tensor that has vanished are findings, though neither is a number."""
    far = saved(tmp_path / "far.safetensors", w=normal(500) + 1000, v=normal(5))
    a, less = (
        saved(tmp_path / "a.safetensors", w=normal(500), v=normal(5)),
        saved(tmp_path / "l.safetensors", w=normal(500)),
    )
    found = klcal("compare", a, far, "--include", "w", "--fail-on", "kl > 0.1")
    assert (found.code, "kl inf > 0.1" in found.err) == (1, True)
    found = klcal("compare", a, less, "--fail-on", "wasserstein > 100")
    assert (found.code, "v: Q does not have it" in found.err) == (1, True)


@pytest.mark.parametrize("format_", ["table", "plain", "json", "jsonl", "csv", "md"])
def test_every_format_has_every_tensor(tmp_path, format_):
    a = saved(tmp_path / "a.safetensors", **{"[red]x": normal(9), "gone": normal(3)})
    found = klcal("compare", a, saved(tmp_path / "b.safetensors", **{"[red]x": normal(9)}), "--format", format_)
    assert found.code == 0
    assert "[red]x" in found.out
    assert "gone" in found.out
    if format_ == "json":
        document = json.loads(found.out)
        assert document["schema"] == "klcal.comparison/1"
        assert document["config"] == {"base": "e", "bins": 64, "quantized_by": None}
