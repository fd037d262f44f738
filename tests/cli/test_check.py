"""klcal check: calibrates again and compares with the table that was committed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.pipeline.check import asked_again
from klcal.pipeline.request import Request
from klcal.tables.table import Table
from tests.cli.test_exit_codes import closed_pipe
from tests.cli.test_rules import RULES
from tests.support.command import klcal, klcal_process, normal, one_message

ARRAYS = {"a.weight": normal(900).reshape(9, 100), "b": normal(500, 1), "zeros": np.zeros(9, np.float32)}


def save(**changed: np.ndarray) -> None:
    arrays = {**ARRAYS, "counter": np.arange(9), **changed}
    safetensors.numpy.save_file(arrays, "m.safetensors")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save()
    assert klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "base.json").code == 0
    return tmp_path


# --- codes, each of a process


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["m.safetensors"], 0),
        (["drifted.safetensors"], 1),
        (["drifted.safetensors", "--fail-on", "d.scale > 51%"], 0),
        (["m.safetensors", "--fail-on", "sqnr_db < 99"], 1),
        (["m.safetensors", "--fail-on", "gone"], 2),
        (["m.safetensors", "--dtype", "uint8"], 2),
        (["m.safetensors", "--dtype", "int8", "--per", "tensor"], 0),
        (["m.safetensors", "--baseline", "absent.json"], 2),
        (["absent.safetensors"], 3),
        (["m.safetensors", "--include", "nothing"], 3),
        (["other.npy"], 3),
        (["m.safetensors", "other.npy", "--fail-on", "missing"], 0),
        (["broken.safetensors"], 4),
        (["broken.safetensors", "--update"], 4),
        (["drifted.safetensors", "--update"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_code_of_a_process(here, arguments, code):
    np.save("other.npy", normal())
    if "drifted.safetensors" in arguments:
        save(b=np.float32(1.5) * ARRAYS["b"])
    if "broken.safetensors" in arguments:
        save(b=np.array([1, np.nan], np.float32))
    arguments = ["m.safetensors" if each.split(".")[0] in ("drifted", "broken") else each for each in arguments]
    was = Path("base.json").read_text()
    result = klcal_process("check", *(() if "--baseline" in arguments else ("--baseline", "base.json")), *arguments)
    assert result.code == code
    assert (Path("base.json").read_text() == was) == ("--update" not in arguments or code != 0)
    assert bool(result.err) == (code != 0 or "--update" in arguments)


def test_each_finding_says_tensor_rule_was_and_is(here):
    save(b=np.float32(1.5) * ARRAYS["b"], **{"a.weight": np.float32(1.1) * ARRAYS["a.weight"]})
    result = klcal("check", "m.safetensors", "--baseline", "base.json", "--format", "json")
    found = result.document["findings"]
    assert [(each["name"], each["rule"]) for each in found] == [("b", "|d.scale| > 2%"), ("a.weight", "|d.scale| > 2%")]
    was = {each["name"]: each["scale"] for each in json.loads(Path("base.json").read_text())["tensors"]}
    now = klcal("calibrate", "m.safetensors", "--dtype", "int8", "--format", "json").tensors
    assert [(each["was"], each["is"]) for each in found] == [(was[n], now[n]["scale"]) for n in ("b", "a.weight")]
    assert result.messages == [f"klcal: m.safetensors: {each['name']}: {each['text']}" for each in found]


def test_a_tensor_that_is_gone_new_or_of_another_shape(here):
    arrays = {**ARRAYS, "new": normal(), "b": normal(500, 1).reshape(5, 100)}
    del arrays["a.weight"]
    safetensors.numpy.save_file({**arrays, "counter": np.arange(9)}, "m.safetensors")
    result = klcal("check", "m.safetensors", "--baseline", "base.json")
    assert result.code == 1
    assert result.messages == [
        "klcal: m.safetensors: a.weight: missing: the baseline has it",
        "klcal: m.safetensors: b: shape was [500], is [5, 100]",
        "klcal: m.safetensors: new: extra: the baseline does not have it",
    ]


# --- nothing changed


@pytest.mark.parametrize(
    "options",
    [
        ["--dtype", "int4", "--per", "group:16", "--include", "a.*"],
        ["--dtype", "int4", "--dtype", "*b=int8", "--scheme", "*b=affine", "--per", "*.weight=channel"],
        ["--dtype", "float8_e4m3fn", "--method", "mse"],
        ["--dtype", "int16", "--method", "percentile:99.9"],
        ["--dtype", "float4_e2m1fn", "--per", "group:16", "--scale-format", "float8_e4m3fn", "--include", "a.*"],
        ["--scale-format", "e8m0", "--range=-1,1"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_an_unchanged_model_passes_and_update_changes_no_byte(here, options, suffix):
    baseline = f"base.{suffix}"
    Path("base.json").unlink()
    assert klcal("calibrate", "m.safetensors", *options, "-o", baseline).code == 0
    was = Path(baseline).read_bytes()
    kept = [each for each in options if each.startswith("--range")]
    if "--include" in options:
        kept += options[options.index("--include") :][:2]
    result = klcal("check", "m.safetensors", "--baseline", baseline, "--format", "json", *kept)
    assert (result.code, result.err) == (0, "")
    assert result.document["tensors"] == []
    assert klcal("check", "m.safetensors", "--baseline", baseline, "--update", *kept).code == 0
    assert Path(baseline).read_bytes() == was


def test_the_configuration_of_a_table_is_read_back_whole():
    request = Request.parse(**RULES)
    assert asked_again(Table(request.config), {}).config == request.config
    assert asked_again(Table(request.config), {}) == request


def test_pooled_activations_and_importance_are_asked_for_again(here):
    Path("acts").mkdir()
    for number in range(2):
        np.save(f"acts/x_{number}.npy", normal(100, number))
    klcal("calibrate", "acts", "--pool", "stem", "-o", "acts.json")
    assert klcal("check", "acts", "--pool", "stem", "--baseline", "acts.json").code == 0
    assert klcal("check", "acts", "--baseline", "acts.json").code == 3
    np.savez("energy.npz", **{"a.weight": np.arange(1, 101, dtype=np.float32)})
    klcal("calibrate", "m.safetensors", "--importance", "energy.npz", "-o", "weighed.json")
    arguments = ("check", "m.safetensors", "--baseline", "weighed.json")
    assert klcal(*arguments, "--importance", "energy.npz").code == 0
    told = one_message(klcal(*arguments))
    assert told.endswith("the baseline was chosen with importance; give --importance as it was given for it")


# --- what cannot be judged by


def test_a_configuration_that_differs_is_reported_and_update_takes_it(here):
    arguments = ("check", "m.safetensors", "--baseline", "base.json", "--dtype", "uint8")
    told = one_message(klcal(*arguments))
    assert told.startswith("klcal: error: --dtype is uint8, and int8 in the baseline; leave it out, or make ")
    assert klcal(*arguments, "--scheme", "affine", "--update").code == 0
    assert json.loads(Path("base.json").read_text())["config"]["dtype"] == "uint8"
    assert klcal("check", "m.safetensors", "--baseline", "base.json").code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("klcal.table/2", "klcal.table/1"),
        lambda text: text.replace("klcal.table/2", "klcal.table/3"),
        lambda text: text.replace('"kl:bins', '"kl2:bins'),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"int8"', '"int99"', 1),
        lambda _: '{"x": [{"scale": 0.5, "zero_point": 0}]}',
        lambda _: "",
    ],
)
def test_a_baseline_that_cannot_be_judged_by_is_an_error(here, change):
    Path("base.json").write_text(change(Path("base.json").read_text()))
    for more in ((), ("--update",)):
        was = Path("base.json").read_bytes()
        result = klcal("check", "m.safetensors", "--baseline", "base.json", *more)
        assert result.code == 2
        assert one_message(result)
        assert Path("base.json").read_bytes() == was


def test_a_table_of_version_1_is_refused_by_its_name(here):
    one = Path(__file__).parent.parent / "readers" / "tables" / "version_1.json"
    told = one_message(klcal("check", "m.safetensors", "--baseline", str(one)))
    assert "is of schema klcal.table/1, not klcal.table/2; klcal calibrate ... -o " in told


# --- update


def test_update_changes_only_the_lines_of_changed_tensors(here):
    save(b=np.float32(1.5) * ARRAYS["b"])
    was = Path("base.json").read_text().splitlines()
    result = klcal("check", "m.safetensors", "--baseline", "base.json", "--update")
    assert one_message_of(result) == "klcal: written: base.json → m.safetensors · 3 same, 1 changed"
    now = Path("base.json").read_text().splitlines()
    assert [line[:14] for line, other in zip(now, was, strict=True) if line != other] == ['  {"name": "b"']
    assert klcal("check", "m.safetensors", "--baseline", "base.json").code == 0


def one_message_of(result) -> str:
    (message,) = result.messages
    return message


def test_update_never_loses_a_scale_that_was_there(here):
    save(b=np.array([1, np.nan], np.float32))
    was = Path("base.json").read_bytes()
    result = klcal("check", "m.safetensors", "--baseline", "base.json", "--update")
    assert result.code == 4
    assert "'base.json' is as it was: the new one would lack tensors that failed" in result.messages[-1]
    assert Path("base.json").read_bytes() == was
    assert {path.name for path in here.iterdir()} == {"m.safetensors", "base.json"}


def test_update_never_loses_a_file_that_cannot_be_read(here):
    np.save("x.npy", normal())
    arguments = ("check", "m.safetensors", "x.npy", "--baseline", "base.json")
    assert klcal(*arguments, "--update").code == 0
    was = Path("base.json").read_bytes()
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:-100])
    assert klcal(*arguments).code == klcal(*arguments, "--update").code == 4
    assert Path("base.json").read_bytes() == was


def test_update_keeps_what_was_not_looked_at(here):
    save(b=np.float32(1.5) * ARRAYS["b"], **{"a.weight": np.float32(1.5) * ARRAYS["a.weight"]})
    was = Path("base.json").read_text().splitlines()
    arguments = ("check", "m.safetensors", "--baseline", "base.json")
    result = klcal(*arguments, "--include", "b", "--format", "json")
    assert [(each["name"], each["status"]) for each in result.document["tensors"]] == [("b", "changed")]
    assert klcal(*arguments, "--include", "b", "--update").code == 0
    now = Path("base.json").read_text().splitlines()
    assert [line[:14] for line, other in zip(now, was, strict=True) if line != other] == ['  {"name": "b"']
    result = klcal(*arguments, "--exclude", "a.*", "--dtype", "uint8", "--scheme", "affine", "--update")
    assert (result.code, "the baseline has tensors that are left out" in one_message(result)) == (2, True)
    assert Path("base.json").read_text().splitlines() == now
    assert klcal(*arguments, "--include", "nothing*").code == 3


def test_update_drops_no_file_that_was_not_named(here):
    np.save("x.npy", normal())
    arguments = ("check", "m.safetensors", "--baseline", "base.json", "--update")
    assert klcal(*arguments, "x.npy").code == 0
    was = Path("base.json").read_bytes()
    result = klcal(*arguments)
    assert result.code == 2
    assert "'base.json' is as it was: it has tensors of 'x.npy', of which nothing was looked at" in one_message(result)
    assert Path("base.json").read_bytes() == was


def test_a_baseline_that_cannot_be_written_is_reported_before_anything_is_read(here):
    Path("base.json").rename("base.pt")
    result = klcal("check", "absent", "--baseline", "base.pt", "--update")
    assert (result.code, "would replace a tensor file" in one_message(result)) == (2, True)


def test_the_report_is_no_baseline(here):
    result = klcal("check", "m.safetensors", "--baseline", "base.json", "-o", "base.json")
    assert (result.code, "is one of the inputs" in one_message(result)) == (2, True)


def test_where_the_reader_went_away_nothing_is_said(here):
    result = klcal_process("check", "m.safetensors", "--baseline", "base.json", stdout=closed_pipe())
    assert (result.code, result.err) == (141, "")
