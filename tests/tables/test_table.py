"""Rows and units are values; their order is people's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.schema import DIFFERENCE_FIELDS, NUMERIC_FIELDS, UNIT_FIELDS
from klcal.tables.status import FAILURES, STATUSES, UNIT_STATUSES
from klcal.tables.table import Table, in_order
from klcal.tables.units import Units
from tests.support import tables

COLUMNS = {name: [0.5, 1.0] for name in UNIT_FIELDS} | {"zero_point": [0, 1]}
GOOD = {"per": "channel", "axis": 0, "size": None, "shape": [2], **COLUMNS}


# --- order


@given(st.lists(st.text(st.sampled_from("a.b0129"), max_size=6)))
def test_sorting_is_one_order_of_all_names(names):
    keys = sorted(map(in_order, names))
    assert sorted(map(in_order, reversed(names))) == keys
    assert len(set(keys)) == len(set(names)), "different names have different places"


@given(
    st.text(st.sampled_from("ab.-"), max_size=3), st.text(st.sampled_from("ab.-"), max_size=3), *2 * [st.integers(0)]
)
def test_numbers_in_names_count_by_their_value(before, after, one, other):
    names = f"{before}{one}{after}", f"{before}{other}{after}"
    assert (in_order(names[0]) < in_order(names[1])) == (one < other)


def test_sorting_by_characters_is_noticed():
    """The broken twin."""
    assert sorted(["layers.2", "layers.10"]) != sorted(["layers.2", "layers.10"], key=in_order)


def test_a_number_of_a_million_digits_takes_no_time():
    assert in_order("9" * 10**6) < in_order("1" + "0" * 10**6)


def test_rows_are_sorted_by_source_and_then_name():
    places = [("b", "1"), ("a2", "x"), ("a10", "w"), ("a2", "layers.10"), ("a2", "layers.9")]
    rows = Table.of(tables.CONFIG, [tables.ok(name, source=source) for source, name in places]).rows
    assert [(row.source, row.name) for row in rows] == [
        *(("a2", "layers.9"), ("a2", "layers.10"), ("a2", "x")),
        *(("a10", "w"), ("b", "1")),
    ]


# --- fields


def test_the_names_of_fields_are_those_of_the_values():
    assert set(NUMERIC_FIELDS) <= set(Row.__dataclass_fields__)
    assert set(UNIT_FIELDS) <= set(Units.__dataclass_fields__) & set(NUMERIC_FIELDS)
    assert set(DIFFERENCE_FIELDS) <= set(Difference.__dataclass_fields__)
    assert FAILURES | set(UNIT_STATUSES) <= set(STATUSES)


@pytest.mark.parametrize("status", STATUSES)
def test_a_failure_has_a_cause_and_nothing_else_has(status):
    for row in (Row(status=status), Difference(name="x", status=status)):
        assert row.cause == ("data" if status in FAILURES else None)
        assert row.failed == (status in FAILURES)


# --- units


def test_units_are_values():
    units = Units(**GOOD)
    assert units == Units(**GOOD)
    assert len(units) == 2
    with pytest.raises(ValueError, match="read-only"):
        units.scale[0] = 1
    for name in UNIT_FIELDS:
        assert units != Units(**{**GOOD, name: [5, 5]})
    assert units != Units(**{**GOOD, "status": ["ok", "zero"]})
    assert units != "units"


def test_arrays_that_are_handed_in_stay_writable():
    scale = np.array([0.5, 1.0])
    Units(**{**GOOD, "scale": scale})
    scale[0] = 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": [0.5]},
        {"scale": None},
        {"scale": "ab"},
        {"scale": [[0.5, 1.0]]},
        {"scale": [0.5, None]},  # its zero point is there
        {"zero_point": [0, 0.5]},
        {"status": ["ok"]},
        {"status": ["ok", "fine"]},
        {"per": "group"},
        {"size": 2},
        {"axis": [0, 1]},
        {"axis": None},
        {"axis": -1},
        {"axis": 0.0},
        {"shape": 2},
        {"shape": [2.0]},
        {"per": "block", "size": [1, 2]},
    ],
)
def test_fields_of_units_that_do_not_go_together_are_refused(changes):
    with pytest.raises(UsageError):
        Units(**{**GOOD, **changes})


def test_a_row_of_json_is_a_row():
    row = Row(status="ok", shape=[2, 3], aliases=["x"], units=dict(GOOD))
    assert (row.shape, row.aliases, row.units) == ((2, 3), ("x",), Units(**GOOD))
    assert row == Row(status="ok", shape=(2, 3), aliases=("x",), units=Units(**GOOD))
