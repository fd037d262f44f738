"""``--fail-on`` in a job: nothing that is unknown, mistyped or lost passes in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.pipeline.conditions import LIMITS, OPERATORS, parse_condition
from klcal.tables.rows import Row
from klcal.tables.schema import DIFFERENCE_FIELDS, NUMERIC_FIELDS
from tests.support.command import klcal, klcal_process, normal, one_message

STEPS = np.float32([-1, -0.5, 0.5, 1])  # on the levels of any integer format


def save(path: str, **arrays: np.ndarray) -> str:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", normal())
    np.save("zeros.npy", np.zeros(9, np.float32))
    np.save("steps.npy", np.tile(STEPS, 8).reshape(2, 16))


def tripped(*arguments: str) -> str:
    """What stderr says of a run that ends in 0 or 1."""
    result = klcal(*arguments, "--format", "json")
    assert result.code == (1 if result.err else 0), result.err
    return result.err


# --- what is not known fails


def test_a_changed_shape_fails_each_condition_element_by_element():
    w = normal(12).reshape(3, 4)
    p, q = save("p.safetensors", w=w), save("q.safetensors", w=w.T)
    for condition in ("cosine < 0.99", "max_abs_diff > 1", "mse > 1", "sqnr_db < 1"):
        result = klcal_process("compare", p, q, "--fail-on", condition)
        assert result.code == 1
        assert f"klcal: p.safetensors: w: {condition} cannot be tried: " in result.err
        assert "the shapes [3, 4] and [4, 3] differ; judge it by another field\n" in result.err
    assert tripped("compare", p, q, "--fail-on", "js > 0.1") == "", "which needs no order"


def test_another_order_and_a_side_of_zeros_are_reported():
    np.save("c.npy", normal(6).reshape(2, 3))
    np.save("f.npy", np.asfortranarray(np.load("c.npy")))
    assert "different orders" in tripped("compare", "c.npy", "f.npy", "--fail-on", "cosine < 0.9")
    p, q = save("p.safetensors", w=normal(6)), save("q.safetensors", w=np.zeros(6, np.float32))
    for pair in ((p, q), (q, p)):
        assert "every value of one side is 0" in tripped("compare", *pair, "--fail-on", "cosine < 0.9")


def test_a_format_without_zero_points_has_none_to_judge():
    for per in ("tensor", "channel"):
        options = ("calibrate", "steps.npy", "--dtype", "float8_e4m3fn", "--per", per)
        assert "zero_point > 3 cannot be tried: float8_e4m3fn has none" in tripped(
            *options, "--fail-on", "zero_point > 3"
        )
    assert "relative to none" in tripped("calibrate", "good.npy", "--fail-on", "global_scale > 1")


@pytest.mark.parametrize("field", ["sqnr_db", "unit.sqnr_db"])
@pytest.mark.parametrize("per", ["tensor", "channel", "group:8"])
def test_no_error_at_all_is_an_infinite_ratio(per, field):
    options = ("calibrate", "steps.npy", "--dtype", "int8", "--per", per)
    assert klcal(*options, "--format", "json").tensors["steps"]["sqnr_db"] is None
    assert tripped(*options, "--fail-on", f"{field} < 300") == ""
    assert f"{field.removeprefix('unit.')} inf > 300" in tripped(*options, "--fail-on", f"{field} > 300")


@pytest.mark.parametrize("field", ["kl", "unit.kl"])
@pytest.mark.parametrize("per", ["tensor", "channel", "group:8"])
def test_where_no_cell_is_cut_the_divergence_is_0(per, field):
    options = ("calibrate", "steps.npy", "--dtype", "int16", "--per", per)
    assert klcal(*options, "--format", "json").tensors["steps"]["kl"] is None
    assert tripped(*options, "--fail-on", f"{field} > 1e-9") == ""
    assert "kl 0.0 <= 0" in tripped(*options, "--fail-on", f"{field} <= 0")


def test_groups_have_a_divergence_that_fails():
    np.save("m.npy", normal(2048).reshape(8, 256))
    assert "kl 0.00" in tripped("calibrate", "m.npy", "--per", "group:128", "--fail-on", "kl > 1e-7")


def test_a_row_that_needs_no_scale_meets_nothing_by_lacking_one():
    np.save("n.npy", np.arange(3))
    np.save("empty.npy", normal(0))
    paths = ("good.npy", "zeros.npy", "n.npy", "empty.npy")
    assert tripped("calibrate", *paths, "--fail-on", "sqnr_db < 1", "--fail-on", "scale > 9") == ""


def test_a_channel_of_zeros_meets_nothing_and_the_others_are_judged():
    values = normal(40).reshape(4, 10)
    values[1] = 0
    np.save("m.npy", values)
    options = ("calibrate", "m.npy", "--per", "channel", "--dtype", "int8")
    assert tripped(*options, "--fail-on", "unit.sqnr_db < 20") == ""
    assert "3 of 4 units" in tripped(*options, "--fail-on", "unit.sqnr_db > 20")


def test_two_equal_tensors_of_zeros_are_zero_and_pass():
    p = save("p.safetensors", z=np.zeros(4, np.float32))
    assert (
        tripped("compare", p, p, "--fail-on", "cosine < 0.99", "--fail-on", "kl > 0", "--fail-on", "sqnr_db < 90") == ""
    )
    found = klcal("compare", p, p, "--format", "json").tensors["z"]
    assert (found["status"], found["reason"]) == ("zero", "every value is 0, in P and in Q")
    longer = save("q.safetensors", z=np.zeros(5, np.float32))
    assert "the shapes [4] and [5] differ" in tripped("compare", p, longer, "--fail-on", "cosine < 0.99")


@pytest.mark.parametrize("lost", [np.arange(3), normal(0)], ids=["integers", "no values"])
def test_a_tensor_that_is_no_longer_one_has_no_partner(lost):
    p, q = save("p.safetensors", w=normal(3), b=normal(3)), save("q.safetensors", w=lost, b=normal(3))
    for pair, status in (((p, q), "missing"), ((q, p), "extra")):
        assert klcal("compare", *pair, "--format", "json").tensors["w"]["status"] == status
        assert ": w: " in tripped("compare", *pair, "--fail-on", "js > 0.6")


# --- conditions that say something else than was meant


def test_a_share_may_be_written_in_percent():
    (share,) = (row["clipped"] for row in klcal("calibrate", "good.npy", "--format", "json").document["tensors"])
    assert 0 < share < 0.01
    for more, code in ((0.9, 1), (1.1, 0)):
        for text in (f"clipped > {share * 100 * more}%", f"clipped>{share * 100 * more} %"):
            assert klcal("calibrate", "good.npy", "--fail-on", text).code == code
    assert parse_condition("unit.clipped > 2.5%").number == parse_condition("rounded_to_zero > 2.5%").number == 0.025


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("clipped > 1", "write 'clipped > 1%'"),
        ("clipped > 100%", "clipped is at most 1"),
        ("rounded_to_zero >= 50", "write 'rounded_to_zero >= 50%'"),
        ("unit.clipped < 0", "clipped is at least 0"),
        ("kl < 0", "kl is at least 0"),
        ("mse <= -1", "mse is at least 0"),
        ("low > 0", "low is at most 0"),
        ("sqnr_db < 20%", "sqnr_db is no share"),
    ],
)
def test_a_condition_that_no_value_can_meet_is_a_usage_error(condition, told):
    result = klcal_process("calibrate", "good.npy", "--fail-on", condition)
    assert result.code == 2
    assert told in one_message(result)


def test_a_condition_that_no_comparison_can_meet_is_a_usage_error():
    for options in (
        ["cosine < -1"],
        ["cosine > 1"],
        ["js > 0.7"],
        ["js > 1.01", "--base", "2"],
        ["js > 0.31", "--base", "10"],
    ):
        assert klcal("compare", "good.npy", "good.npy", "--fail-on", *options).code == 2, options
    for options in (["cosine <= -1"], ["js > 0.69"], ["js > 0.99", "--base", "2"], ["js > 0.3", "--base", "10"]):
        assert klcal("compare", "good.npy", "good.npy", "--fail-on", *options).code == 0, options


@given(
    field=st.sampled_from(sorted({*NUMERIC_FIELDS, *DIFFERENCE_FIELDS})),
    op=st.sampled_from(sorted(OPERATORS)),
    number=st.floats(-3, 3).map(lambda number: round(number, 2)),
)
def test_a_condition_is_refused_just_where_no_value_within_the_limits_meets_it(field, op, number):
    low, high = {**LIMITS, "js": (0, math.log(2))}.get(field, (-math.inf, math.inf))
    values = [value for value in [*np.linspace(-4, 4, 801).round(2).tolist(), math.log(2)] if low <= value <= high]
    fields = NUMERIC_FIELDS if field in NUMERIC_FIELDS else DIFFERENCE_FIELDS
    try:
        parse_condition(f"{field} {op} {number}", fields)
    except UsageError:
        assert not any(OPERATORS[op](value, number) for value in values)
    else:
        assert any(OPERATORS[op](value, number) for value in values)


@pytest.mark.parametrize(
    ("twice", "option"),
    [
        (["--bins", "64", "--bins", "65"], "--bins"),
        (["--jobs=1", "--jobs=2"], "--jobs"),
    ],
)
def test_an_option_of_one_value_is_given_once(twice, option):
    result = klcal_process("calibrate", "good.npy", *twice)
    assert (result.code, one_message(result)) == (
        2,
        f"klcal: error: {option} takes one value and is given twice; give it once",
    )
    assert not Path("a.json").exists()


def test_options_of_several_values_and_flags_may_be_given_again():
    options = (
        "--include",
        "good",
        "--include",
        "z*",
        "--units",
        "--units",
        "--fail-on",
        "nan > 0",
        "--fail-on",
        "nan > 1",
    )
    assert klcal("calibrate", "good.npy", "zeros.npy", *options).code == 0


# --- the good file stays


@pytest.mark.parametrize("name", ["good.json", "good.md", "scales.safetensors"])
def test_an_answer_without_a_usable_row_never_replaces_a_file(name):
    assert klcal("calibrate", "good.npy", "-o", name).code == 0
    before, names = Path(name).read_bytes(), sorted(path.name for path in Path().iterdir())
    np.save("nan.npy", np.float32([math.nan]))
    for mistyped in ("goood.npy", "nan.npy"):
        result = klcal_process("calibrate", mistyped, "-o", name)
        assert result.code == 3
        assert f"--output '{name}' is as it was" in result.err
        assert mistyped in result.err
    assert Path(name).read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == sorted([*names, "nan.npy"]), "nothing is left behind"


def test_where_there_is_no_file_yet_the_failures_are_written():
    assert klcal("calibrate", "absent.npy", "-o", "new.json").code == 3
    assert json.loads(Path("new.json").read_text())["errors"][0]["source"] == "absent.npy"


def test_zeros_are_an_answer_that_replaces():
    klcal("calibrate", "good.npy", "-o", "t.json")
    assert klcal("calibrate", "zeros.npy", "-o", "t.json").code == 0
    assert json.loads(Path("t.json").read_text())["tensors"][0]["status"] == "zero"


def test_a_comparison_of_nothing_replaces_no_file():
    klcal("compare", "good.npy", "good.npy", "-o", "c.json")
    before = Path("c.json").read_text()
    result = klcal("compare", "good.npy", "absent.npy", "-o", "c.json")
    assert (result.code, Path("c.json").read_text()) == (3, before)
    assert "is as it was" in result.err


# --- an outlier takes the levels


def test_one_outlier_that_makes_all_others_zero_is_seen():
    np.save("x.npy", np.append(normal(99_900), np.full(100, -65504, np.float32)))
    result = klcal_process("calibrate", "x.npy", "--method", "minmax", "--format", "json")
    row = result.tensors["x"]
    assert (row["rounded_to_zero"], row["clipped"]) == (0.999, 0)
    assert row["sqnr_db"] > 60, "which says nothing of it"
    note = "99.9 % of the nonzero values become 0: the scale 256.9 is for values as far out as -65504"
    assert note in row["note"].split("; ")
    table = klcal("calibrate", "x.npy", "--method", "minmax", "--format", "table").out
    header, _, cells = table.splitlines()[:3]
    assert (header.split("  ")[-1], cells.split()[-1]) == ("to zero %", "99.9")
    assert f"1 tensor: {note}" in table
    assert klcal("calibrate", "x.npy", "--fail-on", "rounded_to_zero > 50%").code == 1


def test_an_outlier_in_a_channel_is_reported_of_the_channel():
    values = normal(400).reshape(4, 100)
    values[2, 7] = 1e4
    np.save("m.npy", values)
    row = klcal("calibrate", "m.npy", "--per", "channel", "--dtype", "int8", "--format", "json").tensors["m"]
    assert "99 % of the nonzero values become 0 in unit 2, and most in 1 of 4 units: " in row["note"]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int2", "float8_e4m3fn"])
def test_values_without_outliers_get_no_such_note(dtype):
    np.save("x.npy", np.random.default_rng(0).laplace(size=20_000).astype(np.float32))
    assert "become 0" not in (
        klcal("calibrate", "x.npy", "--dtype", dtype, "--format", "json").tensors["x"]["note"] or ""
    )


def test_notes_that_differ_in_numbers_are_counted_together():
    arrays = {f"w{i}": np.append(normal(200), np.float32(1e4 * (i + 1))) for i in range(3)}
    table = klcal("calibrate", save("w.safetensors", **arrays), "--dtype", "int8", "--format", "table").out
    assert "\n3 tensors such as w0: 99.5 % of the nonzero values become 0: the scale " in table


def test_a_row_read_back_is_judged_like_one_that_was_made():
    exact = Row(status="ok", target="int8", mse=0.0, sqnr_db=None, kl=None)
    assert parse_condition("sqnr_db < 99").met_by(exact) is None
    assert parse_condition("kl > 0").met_by(exact) is None
    older = Row(status="ok", target="int8", mse=None)
    assert parse_condition("sqnr_db < 99").met_by(older), "of which nothing is known"
