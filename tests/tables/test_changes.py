"""What changed between two tables: pairs, numbers and words, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.tables.changes import WORDS, Change, change
from klcal.tables.diff import diff
from klcal.tables.rows import Row
from klcal.tables.schema import NUMERIC_FIELDS
from klcal.tables.table import Config, Table
from klcal.writers.json_table import as_dict
from tests.support.tables import CONFIG, TABLE, channels, lost, ok, units


def table(*rows: Row) -> Table:
    return Table.of(CONFIG, rows)


def changes(was: Table, now: Table) -> list[Any]:
    return [row for row in diff(was, now, "a", "b").rows if row.status != "same"]


@pytest.mark.parametrize("whole", [TABLE, units("x")], ids=["names", "units"])
def test_a_table_is_the_same_as_itself_and_as_what_it_reads_back_as(whole):
    import io

    from klcal.readers.table_file import parse_table
    from klcal.writers.json_table import write

    text = io.StringIO()
    write(whole, text)
    again = parse_table(text.getvalue().encode())
    for other in (whole, again):
        found = diff(whole, other, "a", "b")
        assert found.config.same == len(found.rows) == len(whole.rows)


def test_the_two_directions_have_the_same_tensors_and_opposite_changes():
    was, now = table(ok("a", scale=0.5), ok("b")), table(ok("a", scale=0.25), ok("c"))
    there, back = changes(was, now), changes(now, was)
    assert [(each.name, each.status) for each in there] == [("a", "changed"), ("b", "missing"), ("c", "extra")]
    assert [(each.name, each.status) for each in back] == [("a", "changed"), ("b", "extra"), ("c", "missing")]
    assert (there[0].d("scale"), back[0].d("scale")) == (-0.5, 1.0)


@pytest.mark.parametrize(
    ("field", "was", "now", "moved"),
    [
        ("scale", 0.5, 0.75, 0.5),
        ("scale", -0.5, -0.75, 0.5),  # a magnitude that grows
        ("scale", 0.5, -0.5, -2.0),
        ("mse", 0.0, 1e-9, math.inf),
        ("mse", 4.0, 1.0, -0.75),
        ("sqnr_db", 40.0, 39.5, -0.5),
        ("zero_point", 128, 130, 2),
        ("sqnr_db", math.inf, 40.0, -math.inf),
        ("sqnr_db", math.inf, math.inf, 0.0),
        ("clipped", 0.25, 0.5, 0.25),
        ("kl", None, 0.5, None),
    ],
)
def test_a_change_by_hand(field, was, now, moved):
    assert change(field, was, now) == moved


def test_no_error_at_all_is_infinite_and_a_cell_that_is_not_cut_has_no_kl():
    (found,) = changes(table(ok("a", mse=0.0, sqnr_db=None, kl=None)), table(ok("a", mse=1.0, sqnr_db=40.0, kl=0.25)))
    assert (found.d("sqnr_db"), found.d("mse"), found.d("kl")) == (-math.inf, math.inf, 0.25)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_that_differs_is_reported(word):
    other = {"status": "zero", "shape": (1,), "importance": True}.get(word, "another")
    row = ok("a")
    now = replace(row, **{word: other, **({"scale": None, "zero_point": None} if word == "status" else {})})
    (found,) = changes(table(row), table(now))
    assert word in found.changed
    assert {each for each in found.changed if each in WORDS} == {word}


@pytest.mark.parametrize("field", NUMERIC_FIELDS)
def test_each_number_that_differs_is_reported(field):
    row = replace(ok("a"), **{field: 1.0})
    (found,) = changes(table(row), table(replace(row, **{field: 2.0})))
    assert found.changed == (field,)
    (found,) = changes(table(row), table(replace(row, **{field: None})))
    assert found.changed == (field,)


def test_units_count_and_the_one_that_moved_most_is_reported():
    columns = {name: [1.0, 2.0, 4.0, 8.0] for name in ("scale", "low", "high", "mse", "sqnr_db", "clipped")}
    moved = {**columns, "scale": [1.0, 2.5, 3.0, 8.0]}
    rows = [ok("a", scale=None, zero_point=None, units=channels(4, each)) for each in (columns, moved)]
    (found,) = changes(table(rows[0]), table(rows[1]))
    assert (found.units_changed, found.d("scale")) == (2, 0.25)  # +25 % and −25 %: the first
    told = found.values()
    assert (told["changed"], told["unit"], told["units_changed"]) == (["units"], 1, 2)


def test_channels_along_another_axis_are_other_ones_and_lost_ones_are_no_other_ones():
    columns = {name: [1.0, 2.0] for name in ("scale", "low", "high", "mse", "sqnr_db", "clipped")}
    units_ = channels(2, columns)
    row = ok("a", scale=None, zero_point=None, per="channel:0", units=units_)
    (found,) = changes(table(row), table(replace(row, units=replace(units_, axis=1))))
    assert (found.changed, found.units) == (("per",), None)
    (found,) = changes(table(row), table(replace(row, status="nonfinite", target=None, units=None)))
    assert found.changed == ("status",)


def test_a_field_that_an_older_table_lacks_is_no_change():
    assert changes(table(ok("a", per=None, scale_format=None)), table(ok("a"))) == []


def test_a_unit_that_has_another_status_is_changed():
    columns = {name: [1.0, 2.0] for name in ("scale", "low", "high", "mse", "sqnr_db", "clipped")}
    rows = [ok("a", scale=None, units=channels(2, columns, status=each)) for each in (["ok", "ok"], ["ok", "zero"])]
    (found,) = changes(table(rows[0]), table(rows[1]))
    assert found.units_changed == 1


# --- pairs


def test_equal_names_in_two_files_stay_two_tensors():
    was = table(ok("w", source="a.pt"), ok("w", source="b.pt", scale=0.5))
    now = table(ok("w", source="b.pt", scale=0.5), ok("w", source="a.pt"))
    assert changes(was, now) == []


def test_a_renamed_file_is_no_change_where_one_row_alone_has_the_name():
    assert changes(table(ok("w", source="a.pt")), table(ok("w", source="b.pt"))) == []
    twice = table(ok("w", source="b.pt"), ok("w", source="c.pt"))
    assert [each.status for each in changes(table(ok("w", source="a.pt")), twice)] == ["missing", "extra", "extra"]


def test_tied_weights_are_found_by_any_of_their_names():
    assert changes(table(ok("a", aliases=("b",))), table(ok("b", source="other.pt", aliases=("a",)))) == []


def test_two_rows_of_one_tensor_are_refused():
    rows = (ok("w"), ok("w"))
    with pytest.raises(UsageError, match=r"^a table has two rows for 'w'; write it again with klcal calibrate$"):
        diff(table(*rows), table(ok("w")), "a", "b")


NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(NAMES, NAMES)
def test_every_tensor_of_either_table_is_counted_once(was, now):
    config = diff(table(*map(ok, was)), table(*map(ok, now)), "a", "b").config
    assert (config.missing, config.extra) == (len(set(was) - set(now)), len(set(now) - set(was)))
    assert config.same + config.changed == len(set(was) & set(now))


# --- files that have scales and nothing else


def exported(name: str, **known: Any) -> Row:
    return Row(name=name, status="ok", **known)


def test_a_field_that_an_exported_file_cannot_hold_is_no_change():
    whole = table(ok("a"), lost("counter", "skipped"), lost("none", "empty"))
    bare = Table.of(
        Config("", "", "", "", ""), [exported("a", scale=0.01, zero_point=128, target="uint8", qmin=0, qmax=255)]
    )
    assert changes(whole, bare) == changes(bare, whole) == []
    other = Table.of(bare.config, [exported("a", scale=0.01, zero_point=127, target="int8")])
    assert [each.changed for each in changes(whole, other)] == [("target", "zero_point")]


def test_a_range_is_judged_by_the_integers_of_its_partner():
    whole = table(ok("a", scale=0.5, zero_point=100, low=-50.0, high=77.5))
    same = Table.of(Config("", "", "", "", ""), [exported("a", low=-50.0, high=77.5)])
    wider = Table.of(same.config, [exported("a", low=-100.0, high=155.0)])
    assert changes(whole, same) == changes(same, whole) == []
    assert [each.d("scale") for each in changes(whole, wider)] == [1.0]


def test_the_document_says_what_was_and_is():
    found = as_dict(diff(table(ok("a", scale=0.5)), table(ok("a", scale=0.25, dtype="float16")), "a", "b"))
    assert found["schema"] == "klcal.changes/1"
    (row,) = found["tensors"]
    assert row["was"] == {"dtype": "float32", "scale": 0.5}
    assert row["is"] == {"dtype": "float16", "scale": 0.25}
    assert row["d.scale"] == -0.5
    assert isinstance(changes(table(ok("a")), table())[0], Change)
