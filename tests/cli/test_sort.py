"""`--sort` and `--top`: the worst first, and nothing that is left out goes unsaid or unjudged."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.readers.table_file import read_table
from klcal.tables.rows import Row
from klcal.tables.table import Table
from klcal.writers import BINARY, WRITERS
from tests.support import tables
from tests.support.command import klcal, normal, one_message


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    arrays = {f"layers.{number}.w": normal(600, number).reshape(4, 150) for number in (2, 10)}
    arrays["layers.1.w"] = np.sign(normal(600)).reshape(4, 150)  # exact: an SQNR beyond all numbers
    arrays["layers.2.w"][3, 0] = 40.0  # an outlier ruins its channel, and the tensor
    arrays |= {"n": np.arange(3), "z": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(arrays, "m.safetensors")
    return "m.safetensors"


def names(*arguments: str) -> list[str]:
    result = klcal("calibrate", *arguments, "--dtype", "int4", "--format", "json")
    assert result.code == 0
    return [tensor["name"] for tensor in result.document["tensors"]]


def test_the_worst_row_comes_first_and_rows_without_the_number_last(model):
    assert names(model) == ["layers.1.w", "layers.2.w", "layers.10.w", "n", "z"], "numbers by their value"
    assert names(model, "--sort", "sqnr_db") == ["layers.2.w", "layers.10.w", "layers.1.w", "n", "z"]
    assert names(model, "--sort", "mse") == ["layers.2.w", "layers.10.w", "layers.1.w", "n", "z"]
    assert names(model, "--sort", "zeros")[0] == "z"
    assert names(model, "--sort", "sqnr_db", "--top", "1") == ["layers.2.w"]


def test_the_worst_channels_of_all_tensors(model):
    asked = ("calibrate", model, "--dtype", "int4", "--per", "channel", "--units", "--sort", "sqnr_db", "--top", "2")
    first, second = klcal(*asked, "--format", "json").document["tensors"]
    assert (first["name"], first["unit"]) == ("layers.2.w", 3)
    assert first["sqnr_db"] < second["sqnr_db"]


def test_rows_that_are_left_out_are_counted_and_judged(model):
    asked = ("calibrate", model, "--dtype", "int4", "--sort", "name", "--top", "1")
    assert klcal(*asked).code == 2, "by a name they are sorted anyway"
    asked = ("calibrate", model, "--dtype", "int4", "--top", "1")
    result = klcal(*asked, "--fail-on", "sqnr_db < 100", "--format", "json")
    assert (result.code, len(result.messages)) == (1, 2), "the rows that are not shown have met it"
    assert result.document["warnings"] == ["only the first 1 of 5 rows are here"]
    for format_ in ("table", "md"):
        assert "only the first 1 of 5 rows are here" in klcal(*asked, "--format", format_).out
    assert klcal(*asked[:-1], "5", "--format", "json").document["warnings"] == []


def test_compare_has_top_too(model):
    assert klcal("calibrate", model, "--dtype", "int4", "-o", "t.safetensors", "--top", "3").code == 0
    assert len(read_table("t.safetensors").rows) == 3
    result = klcal("compare", model, "--table", "t.safetensors", "--sort", "sqnr_db", "--top", "1", "--format", "json")
    assert [each["name"] for each in result.document["tensors"]] == ["layers.2.w"]


def test_an_unknown_field_is_refused_before_anything_is_read(model):
    for command in (("calibrate", "absent.npy"), ("compare", "absent.npy", "absent.npy")):
        result = klcal(*command, "--sort", "sqnr")
        assert result.code == 2
        assert "unknown field 'sqnr' to sort by; did you mean sqnr_db?" in one_message(result)


FIELDS = st.sampled_from(["mse", "sqnr_db", "min", "clipped"])
NUMBERS = st.none() | st.floats(-10, 10)


@given(st.lists(NUMBERS, max_size=8), FIELDS)
def test_sorting_is_by_the_number_alone_and_loses_nothing(numbers, field):
    rows = [Row(name=str(place), status="ok", **{field: number}) for place, number in enumerate(numbers)]
    table = Table(tables.CONFIG, tuple(rows))
    found = [getattr(row, field) for row in table.worst_first(field).rows]
    known = sorted((each for each in numbers if each is not None), reverse=field not in ("sqnr_db", "min"))
    assert found == [*known, *[None] * numbers.count(None)]
    assert table.worst_first(field) == Table(tables.CONFIG, tuple(rows[::-1])).worst_first(field)
    assert table.top(3).rows == table.rows[:3]
    assert table.top(3).left_out == max(0, len(rows) - 3)


def test_only_a_number_can_be_sorted_by():
    with pytest.raises(UsageError, match="unknown field 'name' to sort by"):
        tables.TABLE.worst_first("name")


@pytest.mark.parametrize("name", sorted(set(WRITERS) - BINARY - {"table", "md"}))
def test_a_machine_gets_a_document_with_the_first_rows(model, name):
    whole, part = (klcal("calibrate", model, "--format", name, *more).out for more in ((), ("--top", "2")))
    assert part.splitlines()[:2] == whole.splitlines()[:2] if name != "json" else json.loads(part)["warnings"]


def test_columns_that_tell_rows_apart_by_rules_are_shown(model):
    """One number format for all is in the headline; where they differ, each row has its own."""
    for rules, shown in (((), False), (("--dtype", "layers.2.w=int8"), True)):
        out = klcal("calibrate", model, "--dtype", "int4", *rules, "--format", "table").out
        assert ("  target  " in out.splitlines()[0]) == shown
    assert replace(tables.TABLE, rows=()).top(1).left_out == 0
