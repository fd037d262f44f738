"""Gates from Python: what the commands say, and wrong arguments in the library's own words."""

from pathlib import Path

import pytest
import safetensors.numpy

import klcal
from klcal.tables.schema import DEFAULT_RULES
from tests.support.command import klcal as command
from tests.support.command import normal


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A model, its baseline, and the model as it is now."""
    monkeypatch.chdir(tmp_path)
    save("m.safetensors", 1.0)
    klcal.calibrate_files("m.safetensors", dtype="int8", per={"w": "channel"}).write("t.json")
    save("m.safetensors", 1.5)
    return tmp_path


def save(name: str, factor: float) -> None:
    weights = {"w": factor * normal(600).reshape(20, 30), "b": normal(20), "c": factor * normal(30)}
    safetensors.numpy.save_file(weights, name)


def test_a_check_finds_what_the_command_finds(here):
    found = klcal.check("m.safetensors", "t.json")
    result = command("check", "m.safetensors", "--baseline", "t.json", "--format", "json")
    assert result.code == 1
    assert found.to_dict() == result.document
    assert found.config.rules == DEFAULT_RULES
    assert {(each.name, each.rule) for each in found.findings} == {("w", "|d.scale| > 2%"), ("c", "|d.scale| > 2%")}
    assert {row.name for row in found.rows} == {"w", "c"}
    some = klcal.check([Path("m.safetensors")], Path("t.json"), rules="d.sqnr_db < -3", include="w", jobs=2)
    assert (some.findings, [row.name for row in some.rows]) == ((), ["w"])


def test_tables_are_compared_as_the_command_does(here):
    now = klcal.calibrate_files("m.safetensors", dtype="int8", per={"w": "channel"})
    now.write("u.safetensors")
    rules = ["missing", "|d.scale| > 10%"]
    found = klcal.diff("t.json", "u.safetensors", rules=rules)
    options = [each for rule in rules for each in ("--fail-on", rule)]
    assert found.to_dict() == command("diff", "t.json", "u.safetensors", *options, "--format", "json").document
    in_memory = klcal.diff(klcal.load_table("t.json"), now, rules=rules)
    assert (in_memory.findings, in_memory.config.baseline) == (found.findings, "a")
    assert klcal.diff("t.json", "t.json").findings == klcal.diff(now, now).rows == ()
    against = klcal.check("m.safetensors", now)
    assert (against.findings, against.config.baseline) == ((), "the baseline")


def test_a_file_that_cannot_be_read_is_among_the_errors(here):
    Path("broken.npy").write_text("no array")
    found = klcal.check(["m.safetensors", "broken.npy"], "t.json")
    assert [each.source for each in found.errors] == ["broken.npy"]


NO_TABLE = "it is not a table of klcal calibrate: it has no schema; write one with klcal calibrate --output table.json"
OTHER = "--dtype is int4, and int8 in the baseline; leave it out, or make another baseline with --update"
NOTHING = "nothing could be judged: no tensor with a scale in t.json is in other.safetensors"
WHERE = "download it, or check its name"
USAGE = [
    (lambda: klcal.diff("t.json", 1), "b is 1; give the path of a file, a text or a pathlib.Path"),
    (lambda: klcal.diff("absent.json", "t.json"), f"the table 'absent.json': there is no such file; {WHERE}"),
    (lambda: klcal.diff("t.json", "t.json", rules=1), "rules is 1; give a text, or a list of them"),
    (lambda: klcal.check("m.safetensors", "m.safetensors"), f"the table 'm.safetensors': {NO_TABLE}"),
    (lambda: klcal.check("m.safetensors", "t.json", dtype="int4"), OTHER),
    (lambda: klcal.check("m.safetensors", "t.json", jobs=0), "jobs is 0; it is an int, at least 1"),
    (lambda: klcal.check([], "t.json"), "paths is []; name a file"),
]


@pytest.mark.parametrize(("call", "told"), USAGE, ids=[told for _, told in USAGE])
def test_a_wrong_argument_is_an_error_that_says_it_whole(here, call, told):
    with pytest.raises(klcal.UsageError) as raised:
        call()
    assert str(raised.value) == told


def test_a_check_that_cannot_judge_does_not_pass(here):
    safetensors.numpy.save_file({"other": normal(9)}, "other.safetensors")
    with pytest.raises(klcal.InputError) as raised:
        klcal.check("other.safetensors", "t.json")
    assert str(raised.value) == f"{NOTHING}; compare tables of the same tensors"
