"""klcal diff: two tables, rules, findings, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from klcal.errors import UsageError
from klcal.pipeline.conditions import parse_condition
from klcal.pipeline.rules import RULE_WORDS, asked_rules, drift, parse_rule
from klcal.tables.diff import diff
from klcal.tables.schema import DEFAULT_RULES
from klcal.tables.table import Table
from tests.cli.test_exit_codes import closed_pipe
from tests.support.command import klcal, klcal_process, normal, one_message
from tests.support.tables import CONFIG, NASTY, channels, lost, named, ok


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {"a": normal(900).reshape(9, 100), "b": normal(500, 1), "n": np.arange(9)}
    safetensors.numpy.save_file(arrays, "m.safetensors")
    assert klcal("calibrate", "m.safetensors", "-o", "was.json").code == 0
    arrays["a"] = np.float32(1.5) * arrays["a"]
    safetensors.numpy.save_file(arrays, "m.safetensors")
    assert klcal("calibrate", "m.safetensors", "-o", "is.json").code == 0
    return tmp_path


def found(was, now, *rules: str) -> list[str]:
    """What is found between two rows."""
    changes = diff(Table.of(CONFIG, [was]), Table.of(CONFIG, [now]), "a", "b")
    return [each.text for each in drift(changes, [parse_rule(rule) for rule in rules] or asked_rules(None))]


# --- codes, each of a process


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["was.json", "was.json"], 0),
        (["was.json", "is.json"], 1),
        (["was.json", "is.json", "--fail-on", "missing"], 0),
        (["was.json", "is.json", "--fail-on", "d.scale > 49%"], 1),
        (["was.json", "is.json", "--fail-on", "d.scale > 51%"], 0),
        (["was.json", "is.json", "--fail-on", "d.scale < 0"], 0),
        (["was.json", "is.json", "--fail-on", "scale > 0"], 1),
        (["was.json", "absent.json"], 2),
        (["was.json", "m.safetensors"], 2),
        (["was.json", "is.json", "--fail-on", "gone"], 2),
        (["was.json", "is.json", "--format", "safetensors"], 2),
        (["was.json", "other.json"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_code_of_a_process(here, arguments, code):
    Path("other.json").write_text(Path("was.json").read_text().replace('"name": "', '"name": "x.'))
    result = klcal_process("diff", *arguments)
    assert result.code == code
    assert bool(result.err) == bool(code)


def test_each_finding_says_tensor_rule_was_and_is_and_the_worst_comes_first(here):
    result = klcal(
        "diff", "was.json", "is.json", "--format", "json", "--fail-on", "d.high>1", "--fail-on", "d.scale > 2%"
    )
    assert result.document["config"]["rules"] == ["d.high>1", "d.scale > 2%"]
    first, second = result.document["findings"]
    assert (first["name"], first["rule"]) == ("a", "d.scale > 2%")
    was, now = (json.loads(Path(each).read_text())["tensors"][0] for each in ("was.json", "is.json"))
    assert (first["was"], first["is"]) == (was["scale"], now["scale"])
    assert second["rule"] == "d.high>1"
    assert result.messages[0] == f"klcal: m.safetensors: a: {first['text']}"
    assert first["text"] == f"d.scale +50 % > 2 %: was {was['scale']}, is {now['scale']}"


def test_the_output_is_the_same_bytes_for_any_width_and_run(here):
    for format_ in ("json", "jsonl", "csv", "plain", "md"):
        runs = [klcal_process("diff", "was.json", "is.json", "--format", format_).out for _ in range(2)]
        assert runs[0] == runs[1] != ""


def test_where_the_reader_went_away_nothing_is_said(here):
    result = klcal_process("diff", "was.json", "is.json", stdout=closed_pipe())
    assert (result.code, result.err) == (141, "")


def test_an_input_is_not_overwritten_and_a_failed_diff_replaces_no_file(here):
    assert "is one of the inputs" in one_message(klcal("diff", "was.json", "is.json", "-o", "is.json"))
    Path("kept.json").write_text("kept")
    Path("other.json").write_text(Path("was.json").read_text().replace('"name": "', '"name": "x.'))
    assert klcal("diff", "was.json", "other.json", "-o", "kept.json").code == 3
    assert Path("kept.json").read_text() == "kept"


# --- any form


@pytest.mark.parametrize("to", ["ort", "ort-cache", "litert", "aimet-2.0.0", "aimet-1.0.0", "aimet-0.6.1"])
def test_an_export_equals_its_table_and_differs_from_another(here, to):
    klcal("export", "was.json", "--to", to, "-o", "x")
    assert klcal("diff", "was.json", "x").code == klcal("diff", "x", "was.json").code == 0
    result = klcal("diff", "x", "is.json")
    assert result.code == 1
    assert "a: |d.scale| 50 % > 2 %: was " in result.messages[0]
    absolute = klcal("diff", "was.json", "x", "--fail-on", "sqnr_db < 20").messages[0]
    assert absolute.endswith("sqnr_db < 20 cannot be tried: it is not in the table; judge it by another field")
    unknown = klcal("diff", "x", "was.json", "--fail-on", "d.sqnr_db < -0.5")
    assert "d.sqnr_db < -0.5 cannot be tried: it was not in the table" in unknown.messages[0]
    assert unknown.code == 1


def test_tensorrt_s_cache_and_a_binary_table_are_tables(here):
    klcal("calibrate", "m.safetensors", "--dtype", "int8", "-o", "int8.safetensors")
    klcal("export", "int8.safetensors", "--to", "tensorrt-cache", "-o", "cache")
    assert klcal("diff", "int8.safetensors", "cache").code == 0


@pytest.mark.parametrize("to", ["ort", "aimet-2.0.0"])
def test_units_that_one_side_lacks_are_found(here, to):
    klcal("calibrate", "m.safetensors", "--per", "channel", "-o", "units.json")
    klcal("export", "is.json", "--to", to, "-o", "whole")
    result = klcal("diff", "units.json", "whole")
    assert result.code == 1
    assert "units have scales in one table only" in result.messages[0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"x": []}', '{"version": "2.0.0"}', '{"schema": "klcal.x"}', "TRT"]
)
def test_a_file_that_is_not_a_table_is_reported(here, text):
    Path("x").write_text(text)
    for arguments in (("x", "was.json"), ("was.json", "x")):
        result = klcal("diff", *arguments)
        assert result.code == 2
        assert one_message(result)


def test_a_cut_table_is_reported(here):
    text = Path("was.json").read_bytes()
    for length in range(1, len(text) - 3, 97):
        Path("x").write_bytes(text[:length])
        assert klcal("diff", "x", "was.json").code == 2


# --- rules


def test_a_change_is_signed_and_bars_take_the_sign_off():
    half, whole = ok("w", scale=0.25), ok("w", scale=0.5)
    assert found(whole, half, "d.scale > 2%") == []
    assert found(whole, half, "d.scale < -2%") == ["d.scale -50 % < -2 %: was 0.5, is 0.25"]
    assert found(whole, half, "|d.scale| > 2%") == ["|d.scale| 50 % > 2 %: was 0.5, is 0.25"]
    assert found(half, whole, "d.scale >= 100%") == ["d.scale +100 % >= 100 %: was 0.25, is 0.5"]


def test_a_bare_field_is_what_it_is_now():
    assert found(ok("w", sqnr_db=10.0), ok("w", sqnr_db=30.0), "sqnr_db < 20") == []
    assert found(ok("w", sqnr_db=30.0), ok("w", sqnr_db=10.0), "sqnr_db < 20") == ["sqnr_db 10.0 < 20"]


@pytest.mark.parametrize("word", ["dtype", "target", "scheme", "method", "per", "scale_format"])
def test_words(word):
    was, now = ok("w"), ok("w", **{word: "other"})
    told = [f"{word} was {getattr(was, word)}, is other"]
    assert found(was, now, word) == found(was, now, "changed") == found(was, now) == told
    assert found(was, now, "shape") == []


def test_a_tensor_that_has_no_scale_any_more_is_a_finding_of_every_condition():
    was, now = ok("w", shape=()), lost("w", "nonfinite", "3 NaN; save it again")
    assert found(was, now, "status") == ["status was ok, is nonfinite: 3 NaN; save it again"]
    assert found(was, now, "d.scale > 2%") == [
        "d.scale > 2% cannot be tried: it was ok, is nonfinite; judge it by another field"
    ]
    assert found(now, now, "d.scale > 2%") == []
    assert found(was, now) == ["status was ok, is nonfinite: 3 NaN; save it again"], "and nothing twice"


def test_a_field_that_a_format_lacks_is_not_tried_by_default_and_fails_if_it_is_asked_for():
    was, now = (ok("w", target="float8_e4m3fn", zero_point=None, scale=each) for each in (1.0, 1.01))
    assert found(was, now) == []
    for field in ("zero_point", "global_scale"):
        (told,) = found(was, now, f"|d.{field}| > 0")
        assert told.startswith(f"|d.{field}| > 0 cannot be tried: it was and it is not in the table")
        assert len(found(was, now, f"{field} > 1")) == 1, "as the plain field does"
    units = of_channels(1.0, 2.0)
    assert found(units, units) == []
    assert "cannot be tried" in found(units, units, "|d.zero_point| > 0")[0]


def of_channels(*scales: float, status: list[str] | None = None):
    columns = dict.fromkeys(("low", "high", "mse", "clipped"), [1.0] * len(scales))
    units = channels(len(scales), {**columns, "scale": list(scales), "sqnr_db": [20 / each for each in scales]}, status)
    return ok("w", scale=None, zero_point=None, low=None, high=None, units=units)


def test_the_worst_unit_and_how_many():
    was, now = of_channels(1.0, 2.0, 4.0), of_channels(1.0, 2.5, 6.0)
    assert found(was, now, "d.scale > 2%") == ["d.scale +50 % > 2 %: was 4.0, is 6.0 in unit 2, 2 of 3 units"]
    assert found(was, now, "d.unit.sqnr_db < -1.9") == [
        "d.unit.sqnr_db -2 < -1.9: was 10.0, is 8.0 in unit 1, 1 of 3 units"
    ]
    assert found(was, now, "d.sqnr_db < 0") == []
    assert "its units are other ones" in found(was, of_channels(1.0, 2.0), "d.scale > 2%")[0]


def test_a_unit_that_lost_its_scale_is_found():
    was, now = of_channels(1.0, 2.0), of_channels(1.0, 2.0, status=["ok", "zero"])
    assert found(was, now, "status") == ["status of 1 of 2 units is another one"]
    assert "units have another status" in found(was, now, "|d.scale| > 2%")[0]
    assert len(found(was, now)) == 1


@pytest.mark.parametrize("status", ["skipped", "empty"])
def test_a_tensor_that_needs_no_scale_is_not_missing(status):
    other = Table.of(CONFIG, [ok("w"), lost("counter", status)])
    for was, now in ((other, Table.of(CONFIG, [ok("w")])), (Table.of(CONFIG, [ok("w")]), other)):
        changes = diff(was, now, "a", "b")
        assert drift(changes, asked_rules(None)) == ()
        assert changes.config.missing + changes.config.extra == 1  # it is told all the same


def test_a_field_that_neither_table_has_is_a_finding_only_if_it_is_asked_for():
    older = ok("w", mse=None, sqnr_db=None, kl=None, clipped=None)
    assert found(older, older) == []
    assert "cannot be tried: it was and it is not in the table" in found(older, older, "d.sqnr_db < -0.5")[0]
    assert "cannot be tried: it was not in the table" in found(older, ok("w"))[0]


def test_the_defaults_pass_noise_and_are_met_beyond_it():
    was = ok("w")
    assert found(was, ok("w", scale=0.0101, zero_point=130, sqnr_db=40.8, clipped=0.0011)) == []
    worse = found(was, ok("w", scale=0.0103, zero_point=131, sqnr_db=40.7, clipped=0.0013))
    assert [text.partition(" ")[0] for text in worse] == ["|d.scale|", "|d.zero_point|", "d.clipped", "d.sqnr_db"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d.scale", "is not a condition"),
        ("|d.scale > 2%", "is not a condition"),
        ("|scale| > 2", "scale is no change; write |d.scale|, or scale without bars"),
        ("misssing", "is not a condition; did you mean missing? write"),
        ("d.cosine > 1", "no field 'd.cosine'; use one of"),
        ("d.unit.scal > 1", "did you mean d.unit.scale?"),
        ("d.scales > 2%", "no field 'd.scales'; did you mean d.scale?"),
        ("d.sqnr_db < -5%", "d.sqnr_db is no share"),
        ("d.clipped > 100%", "can never be met: the change of clipped is at most 1"),
        ("|d.kl| < 0", "can never be met: the change of kl is at least 0"),
        ("d.mse < -1", "can never be met: the change of mse is at least -1"),
    ],
)
def test_a_rule_that_cannot_be_read_is_reported(text, message):
    with pytest.raises(UsageError) as told:
        parse_rule(text)
    assert message in str(told.value)


def test_changes_are_no_conditions_where_there_is_one_table():
    with pytest.raises(UsageError, match=r"no field 'd\.scale'"):
        parse_condition("d.scale > 2%")


def test_help_has_all_words_and_defaults():
    text = " ".join(klcal("diff", "--help").out.split())
    assert "; ".join(DEFAULT_RULES) in text
    for word in RULE_WORDS:
        assert word in text


# --- names


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv", "plain", "md", "table"])
def test_names_are_data(tmp_path, format_, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named(*NASTY).write("a.json")
    Table.of(CONFIG, [ok(name, scale=0.5) for name in NASTY]).write("b.json")
    result = klcal("diff", "a.json", "b.json", "--format", format_)  # which looks for characters that act
    assert result.code == 1
    assert result.out
