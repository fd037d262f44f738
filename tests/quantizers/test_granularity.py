"""Which unit a value belongs to: against a loop over all indices, for every kind of unit, shape and order of axes."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.quantizers.granularity import (
    UNIT_WORDS,
    Grid,
    Per,
    PerBlock,
    PerChannel,
    PerGroup,
    PerTensor,
    parse_per,
    per_at,
)
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rules import rules_of

SHAPES = [(3, 5), (5, 3), (1, 4), (4, 1), (2, 3, 4), (3, 1, 2), (2, 2, 2, 3), (2, 3, 64)]


def cell_of(per: Per, shape: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...]:
    """The unit of one value, as its own index among the units."""
    if isinstance(per, PerBlock):
        return (*index[:-2], index[-2] // per.rows, index[-1] // per.columns)
    axis = (per.axis or 0) % len(shape)
    if isinstance(per, PerChannel):
        return (index[axis],)
    return (*index[:axis], index[axis] // per.size, *index[axis + 1 :])


def unit_of_each(per: Per, shape: tuple[int, ...], order: tuple[int, ...], place: Layout) -> list[int]:
    """The unit of each value in their order, value by value; units are numbered in the tensor's own order."""
    units = []
    for places in np.ndindex(*(shape[axis] for axis in order)):
        index = tuple(places[order.index(axis)] for axis in range(len(shape)))
        units.append(int(np.ravel_multi_index(cell_of(per, shape, index), place.grid.shape)))
    return units


def units_by_value(place: Layout, count: int, start: int = 0) -> np.ndarray:
    begins, units = place.runs(start, count)
    assert begins[0] == 0
    assert (np.diff(begins) > 0).all()
    return np.repeat(units, np.diff(begins, append=count))


def units_in_own_order(place: Layout, count: int) -> list[int]:
    names = place.in_value_order(np.arange(place.rows))
    assert np.array_equal(place.in_own_order(names), np.arange(place.rows))
    return names[units_by_value(place, count)].tolist()


def kinds(shape):
    for axis in range(-len(shape), len(shape)):
        yield PerChannel(axis)
        yield from (PerGroup(size, axis) for size in range(1, min(shape[axis], 5) + 1))
    yield from (PerBlock(rows, columns) for rows in (1, 2, 3, 7) for columns in (1, 2, 5, 100))


@st.composite
def tensors_of_units(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)))
    return draw(st.sampled_from(list(kinds(shape)))), shape, tuple(draw(st.permutations(range(len(shape)))))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_is_in_the_unit_that_its_index_says(shape):
    for per, order in product(kinds(shape), permutations(range(len(shape)))):
        place = layout(per, shape, order)
        assert place is not None
        assert place.rows == np.prod(place.grid.shape)
        assert units_in_own_order(place, int(np.prod(shape))) == unit_of_each(per, shape, order, place)


@settings(max_examples=300)
@given(tensors_of_units())
def test_every_value_of_any_tensor_is_in_the_unit_that_its_index_says(tensor):
    per, shape, order = tensor
    place = layout(per, shape, order)
    assert units_in_own_order(place, int(np.prod(shape))) == unit_of_each(per, shape, order, place)


def test_the_loop_over_indices_would_notice_a_wrong_tile_and_a_wrong_order():
    per, shape, order = PerBlock(2, 3), (4, 7), (0, 1)
    right = layout(per, shape, order)
    expected = unit_of_each(per, shape, order, right)
    assert units_in_own_order(right, 28) == expected
    shifted = replace(right, axes=(right.axes[0], right.axes[1]._replace(tile=4)), cells=(2, 2))
    swapped = replace(right, order=(1, 0))
    for wrong in (shifted, swapped):
        assert units_in_own_order(wrong, 28) != expected


@given(st.data())
def test_a_part_of_the_values_has_its_part_of_the_units(data):
    per, shape, order = data.draw(tensors_of_units())
    place = layout(per, shape, order)
    assert place is not None
    whole = units_by_value(place, int(np.prod(shape)))
    start = data.draw(st.integers(0, whole.size - 1))
    count = data.draw(st.integers(1, whole.size - start))
    assert np.array_equal(units_by_value(place, count, start), whole[start : start + count])
    together = (np.diff(whole) >= 0).all()
    assert place.ordered == together
    if place.ordered:
        last = int(whole[start + count - 1])
        assert place.ends(last, start + count) == (start + count == whole.size or whole[start + count] != last)


@given(tensors_of_units())
def test_runs_are_as_long_as_they_are_said_to_be_and_periods_repeat(tensor):
    per, shape, order = tensor
    place = layout(per, shape, order)
    whole = units_by_value(place, int(np.prod(shape)))
    begins, _ = place.runs(0, whole.size)
    assert set(range(0, whole.size, place.period)) <= set(begins.tolist())
    assert np.diff(begins, append=whole.size).max() == place.run


@given(tensors_of_units())
def test_units_that_take_turns_are_complete_after_a_slab(tensor):
    per, shape, order = tensor
    place = layout(per, shape, order)
    whole = units_by_value(place, int(np.prod(shape)))

    def is_slab(size: int) -> bool:
        columns = place.period // place.run
        turns = np.arange(whole.size) % place.period // place.run + np.arange(whole.size) // size * columns
        return whole.size % size == 0 and np.array_equal(whole, turns)

    possible = [size for size in range(place.period, whole.size + 1, place.period) if is_slab(size)]
    if place.period % place.run:
        possible = []
    assert possible == [place.slab] * bool(place.slab)


@pytest.mark.parametrize(
    ("per", "shape", "grid"),
    [
        (PerChannel(-1), (4, 5), Grid(PerChannel(1), 1, None, (5,))),
        (PerGroup(2), (4, 5), Grid(PerGroup(2, 1), 1, 2, (4, 3))),
        (PerGroup(3, 0), (4, 5), Grid(PerGroup(3, 0), 0, 3, (2, 5))),
        (PerBlock(128, 128), (256, 300), Grid(PerBlock(128, 128), (0, 1), (128, 128), (2, 3))),
        (PerBlock(128, 128), (64, 4096), Grid(PerBlock(128, 128), (0, 1), (128, 128), (1, 32))),
        (PerBlock(128, 128), (3, 130, 100), Grid(PerBlock(128, 128), (1, 2), (128, 128), (3, 2, 1))),
    ],
)
def test_the_grid_lists_the_units(per, shape, grid):
    for order in permutations(range(len(shape))):
        assert layout(per, shape, order).grid == grid
    assert layout(per_at(grid.axis, grid.size), shape).grid == grid, "as a table keeps it"


def test_axis_and_size_that_do_not_go_together_are_no_units():
    for axis, size in (((0, 1), 3), (1, (2, 3)), ((0, 1), None), ((0, 1, 2), (1, 1, 1))):
        with pytest.raises(UsageError, match="a block has two of each"):
            per_at(axis, size)


def test_axes_of_extent_1_may_be_missing_in_an_order():
    assert layout(PerChannel(2), (4, 1, 3), (2, 0)) == layout(PerChannel(2), (4, 1, 3), (2, 0, 1))


def test_channels_are_those_of_the_first_axis_but_in_a_stack_of_experts():
    assert layout(PerChannel(), (16, 8, 3)).grid.shape == (16,), "a one-dimensional convolution"
    stack = layout(PerChannel(), (4, 16, 64)).grid
    assert (stack.per, stack.shape) == (PerGroup(64, 2), (4, 16, 1))
    assert "channel:0" in stack.note
    assert layout(PerChannel(0), (4, 16, 64)).grid.shape == (4,)


@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.parametrize("per", [PerChannel(), PerChannel(3), PerGroup(9), PerBlock(9, 9)])
def test_a_tensor_with_one_axis_has_one_scale(per, shape):
    assert layout(per, shape) is None
    assert layout(PerTensor(), (3, 4)) is None


@pytest.mark.parametrize(
    "text", ["tensor", "channel", "channel:0", "channel:-1", "group:32", "group:32,0", "block:128,128"]
)
def test_a_unit_reads_back_from_its_text(text):
    assert str(parse_per(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "row", "channel:", "channel:x", "group", "group:", "group:-1", "group:2,", "tensor:0", "block:2", "block:0,1"],
)
def test_an_unknown_unit_is_reported_with_the_known_ones(text):
    with pytest.raises(UsageError, match=r"use tensor, channel, channel:AXIS, group:SIZE|sizes are ints, at least 1"):
        parse_per(text)


def test_a_group_longer_than_its_axis_and_an_axis_that_is_not_there_are_usage_errors():
    with pytest.raises(UsageError, match=r"group:8: axis 1 of the shape \[16, 7\] has 7 values"):
        layout(PerGroup(8), (16, 7))
    with pytest.raises(UsageError, match=r"channel:2: the shape \[16, 7\] has the axes 0 to 1"):
        layout(PerChannel(2), (16, 7))


def test_the_first_rule_that_matches_holds_and_that_without_a_glob_comes_last():
    rules = units("group:4", "*.weight=channel:0", "fc.*=channel:1")
    assert rules.of(["fc.weight"]) == PerChannel(0)
    assert rules.of(["fc.bias"]) == PerChannel(1)
    assert rules.of(["x"]) == PerGroup(4)
    assert rules.of(["tied", "fc.weight"]) == PerChannel(0), "any of its names"
    assert units("fc.*=channel").of(["x"]) == PerTensor()
    assert str(rules) == "*.weight=channel:0; fc.*=channel:1; group:4"
    mapping = rules_of("unit", {"*.weight": PerChannel(0), "*": "group:4"}, "tensor", UNIT_WORDS, parse_per)
    assert mapping == units("group:4", "*.weight=channel:0")


def units(*texts):
    return rules_of("unit", texts, "tensor", UNIT_WORDS, parse_per)


@pytest.mark.parametrize(
    ("text", "glob", "value"),
    [
        ("a=b=channel", "a=b", "channel"),  # a name may hold an equals sign
        ("*=kl:weight=1", "*", "kl:weight=1"),
        ("kl:weight=1", "*", "kl:weight=1"),
        ("kl:weight=1,bins=64", "*", "kl:weight=1,bins=64"),
        ("*e*=kl:weight=1,bins=64", "*e*", "kl:weight=1,bins=64"),
        ("kl=kl", "kl", "kl"),
        ("*e*=klx:weight=1", "*e*", "klx:weight=1"),  # unknown: what is told is the value, without the glob
        ("kl:wieght=x", "*", "kl:wieght=x"),
        ("=kl", "", "kl"),
        ("fc=", "fc", ""),
    ],
)
def test_a_rule_is_cut_where_a_value_begins(text, glob, value):
    pairs = rules_of("method", [text], "minmax", ("kl", "channel"), str).pairs
    assert pairs == (((glob, value), ("*", "minmax")) if glob != "*" else (("*", value),))


def test_two_values_for_all_are_refused():
    with pytest.raises(UsageError, match="unit is given twice for all tensors, as channel and tensor"):
        units("channel", "a=group:4", "tensor")
