"""Which row a value belongs to: against a loop over all indices, for every unit, shape and order of the axes."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.quantizers.granularity import Layout, PerChannel, PerGroup, PerTensor, layout, parse_per, parse_rules, per_of

SHAPES = [(3, 5), (5, 3), (1, 4), (4, 1), (2, 3, 4), (3, 1, 2), (2, 2, 2, 3), (2, 3, 64)]


def row_by_index(per: PerChannel | PerGroup, shape: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...]:
    """The row of one value, as its own index among the rows."""
    axis = (per.axis or 0) % len(shape)
    if isinstance(per, PerChannel):
        return (index[axis],)
    return (*index[:axis], index[axis] // per.size, *index[axis + 1 :])


def rows_by_value(place: Layout, count: int, start: int = 0) -> np.ndarray:
    begins, rows = place.runs(start, count)
    assert begins[0] == 0
    assert (np.diff(begins) > 0).all()
    return np.repeat(rows, np.diff(begins, append=count))


def units(shape):
    for axis in range(-len(shape), len(shape)):
        yield PerChannel(axis)
        yield from (PerGroup(size, axis) for size in range(1, min(shape[axis], 5) + 1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_is_in_the_row_that_its_index_says(shape):
    for per, order in product(units(shape), permutations(range(len(shape)))):
        place = layout(per, shape, order)
        assert place is not None
        names = place.in_value_order(np.arange(place.rows))
        assert np.array_equal(place.in_own_order(names), np.arange(place.rows))
        shuffled = [shape[axis] for axis in order]
        found = rows_by_value(place, int(np.prod(shape)))
        for position, places in enumerate(np.ndindex(*shuffled)):
            index = tuple(places[order.index(axis)] for axis in range(len(shape)))
            expected = np.ravel_multi_index(row_by_index(per, shape, index), place.shape)
            assert names[found[position]] == expected


@given(st.data())
def test_a_part_of_the_values_has_its_part_of_the_rows(data):
    shape = data.draw(st.sampled_from(SHAPES))
    place = layout(data.draw(st.sampled_from(list(units(shape)))), shape)
    assert place is not None
    whole = rows_by_value(place, int(np.prod(shape)))
    start = data.draw(st.integers(0, whole.size - 1))
    count = data.draw(st.integers(1, whole.size - start))
    assert np.array_equal(rows_by_value(place, count, start), whole[start : start + count])
    if place.ordered:
        last = int(whole[start + count - 1])
        assert place.ends(last, start + count) == (start + count == whole.size or whole[start + count] != last)
        assert (np.diff(whole) >= 0).all()


def test_axes_of_extent_1_may_be_missing_in_an_order():
    assert layout(PerChannel(2), (4, 1, 3), (2, 0)) == layout(PerChannel(2), (4, 1, 3), (2, 0, 1))


def test_channels_are_rows_of_the_first_axis_but_in_a_stack_of_experts():
    assert layout(PerChannel(), (16, 8, 3)).shape == (16,), "a one-dimensional convolution"
    stack = layout(PerChannel(), (4, 16, 64))
    assert stack.shape == (4, 16, 1)
    assert "channel:0" in stack.note
    assert layout(PerChannel(0), (4, 16, 64)).shape == (4,)


@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.parametrize("per", [PerChannel(), PerChannel(3), PerGroup(9)])
def test_what_has_one_axis_has_one_scale(per, shape):
    assert layout(per, shape) is None
    assert layout(PerTensor(), (3, 4)) is None


@pytest.mark.parametrize("text", ["tensor", "channel", "channel:0", "channel:-1", "group:32", "group:32,0"])
def test_a_unit_reads_back_from_its_text(text):
    assert str(parse_per(text)) == text


@pytest.mark.parametrize(
    "text", ["", "row", "channel:", "channel:x", "group", "group:", "group:-1", "group:2,", "tensor:0"]
)
def test_what_is_no_unit_is_told_with_those_there_are(text):
    with pytest.raises(UsageError, match="use tensor, channel, channel:AXIS, group:SIZE"):
        parse_per(text)


def test_a_group_longer_than_its_axis_and_an_axis_that_is_not_there_are_usage_errors():
    with pytest.raises(UsageError, match=r"group:8: axis 1 of the shape \[16, 7\] has 7 values"):
        layout(PerGroup(8), (16, 7))
    with pytest.raises(UsageError, match=r"channel:2: the shape \[16, 7\] has the axes 0 to 1"):
        layout(PerChannel(2), (16, 7))


def test_the_first_rule_that_matches_holds_and_that_without_a_glob_comes_last():
    rules = parse_rules(["group:4", "*.weight=channel:0", "fc.*=channel:1"])
    assert per_of(["fc.weight"], rules) == PerChannel(0)
    assert per_of(["fc.bias"], rules) == PerChannel(1)
    assert per_of(["x"], rules) == PerGroup(4)
    assert per_of(["tied", "fc.weight"], rules) == PerChannel(0), "any of its names"
    assert per_of(["x"], parse_rules(["fc.*=channel"])) == PerTensor()
    assert parse_rules(["a=b=channel"])[0][0] == "a=b", "a name may hold an equals sign"
