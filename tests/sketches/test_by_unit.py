"""Units of a tensor, wherever their values lie: against a count of single values, and cut anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klcal.quantizers.granularity import PerBlock, PerChannel, PerGroup
from klcal.quantizers.layout import layout
from klcal.sketches import by_unit, sorted_units
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.counting import count
from klcal.sketches.patterns import UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support.sketches import RESOLUTIONS, one_by_one
from tests.support.strategies import FLOATS

PERS = (PerChannel(0), PerChannel(1), PerGroup(3), PerGroup(2, 0), PerGroup(1), PerGroup(7, 1), PerBlock(2, 3))


def matrices(dtype=np.float32, elements=FLOATS):
    return arrays.arrays(dtype, st.tuples(st.integers(2, 6), st.integers(7, 12)), elements=elements)


def whole(values, per, *, chunk: int = 1 << 20, order=(), dtype="float32", resolution=UNITS) -> Sketch:
    """The sketch of all units, from chunks of a size."""
    flat = values.ravel()
    chunks = (flat[i : i + chunk].copy() for i in range(0, flat.size, chunk))
    shape = values.shape if not order else tuple(values.shape[order.index(axis)] for axis in range(values.ndim))
    return Sketch.stack(unit_sketches(chunks, dtype, layout(per, shape, order), resolution))


def units_of(values, per) -> list[np.ndarray]:
    begins, rows = layout(per, values.shape).runs(0, values.size)
    of_value = np.repeat(rows, np.diff(begins, append=values.size))
    return [values.ravel()[of_value == row] for row in range(rows.max() + 1)]


@given(matrices(), st.sampled_from(PERS), RESOLUTIONS)
def test_every_unit_is_counted_as_its_values_one_by_one(values, per, resolution):
    assert whole(values, per, resolution=resolution) == one_by_one(units_of(values, per), resolution)


@given(matrices(np.float64, st.floats()), st.sampled_from(PERS))
def test_float64_over_and_underflows_in_the_unit_it_belongs_to(values, per):
    assert whole(values, per, dtype="float64") == one_by_one(units_of(values, per), UNITS)


@given(matrices(), st.sampled_from(PERS), st.integers(1, 40), st.integers(1, 30), RESOLUTIONS)
def test_the_answer_does_not_depend_on_where_the_values_were_cut(values, per, chunk, block, resolution):
    expected = whole(values, per, resolution=resolution)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BLOCK", "WIDE_BLOCK", "COUNTER_BLOCK"):
            patch.setattr(by_unit, name, block)
        patch.setattr(sorted_units, "SORTED_ALONE", block)
        assert whole(values, per, chunk=chunk, resolution=resolution) == expected
        for name in ("LONG", "COMPILED_LONG"):
            patch.setattr(by_unit, name, 1)  # each counted as a tensor is
        assert whole(values, per, chunk=chunk, resolution=resolution) == expected


def in_one_buffer(flat: np.ndarray, size: int):
    """Chunks that a reader gives: each is valid until the next is asked for."""
    buffer = np.empty(size, flat.dtype)
    for first in range(0, flat.size, size):
        some = flat[first : first + size]
        buffer[: some.size] = some
        yield buffer[: some.size]
    buffer[:] = np.nan


@given(matrices(), st.sampled_from(PERS), st.integers(1, 40), st.integers(1, 30))
def test_units_may_be_counted_once_all_of_them_were_read(values, per, chunk, block):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BLOCK", "WIDE_BLOCK", "COUNTER_BLOCK"):
            patch.setattr(by_unit, name, block)
        place = layout(per, values.shape)
        counts = list(by_unit.unit_counts(in_one_buffer(values.ravel(), chunk), "float32", place))
        assert Sketch.stack(count() for count in counts) == whole(values, per)


def test_counts_that_share_a_buffer_are_noticed():
    """The broken twin: what is not fresh has to be counted at once."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    place, chunks = layout(PerChannel(), values.shape), in_one_buffer(values.ravel(), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_unit, "_at_once", lambda size: size)
        counts = list(by_unit.unit_counts(chunks, "float32", place, fresh=False))
    assert Sketch.stack(count() for count in counts) != whole(values, PerChannel())


@given(matrices(), st.sampled_from(PERS))
def test_no_unit_depends_on_its_neighbours(values, per):
    found = whole(values, per)
    for number, mine in enumerate(units_of(values, per)):
        assert found[number : number + 1] == count([mine], "float32", UNITS)


@given(matrices(), matrices())
def test_units_of_more_values_are_the_sums_of_the_sketches(a, b):
    rows = min(len(a), len(b))
    a, b = a[:rows], b[:rows]
    both = whole(np.hstack([a, b]), PerChannel(0))
    assert whole(a, PerChannel(0)) + whole(b, PerChannel(0)) == both
    assert whole(b, PerChannel(0)) + whole(a, PerChannel(0)) == both


@given(matrices())
def test_columns_are_the_rows_of_the_transposed_values(values):
    assert whole(values, PerChannel(1)) == whole(values.T.copy(), PerChannel(0))
    assert whole(values.T.copy(), PerChannel(0), order=(1, 0)) == whole(values, PerChannel(0))


@given(matrices())
def test_groups_of_an_array_that_lies_otherwise_come_in_the_order_of_its_axes(values):
    assert sketch(np.asfortranarray(values), per=PerGroup(3)) == sketch(values, per=PerGroup(3))


def test_many_values_are_counted_the_same_in_every_way():
    """More than the few, in every granularity, with the blocks that are used."""
    values = np.random.default_rng(0).standard_t(3, (40, 9000)).astype(np.float32)
    for per, shape in ((PerChannel(0), (40, 9000)), (PerChannel(1), (9000, 40)), (PerGroup(4500), (40, 9000))):
        tensor = values if shape == values.shape else values.T.copy()
        found = whole(tensor, per)
        for number in (0, 17, 39):
            mine = units_of(tensor, per)[number]
            assert found[number : number + 1] == count([mine], "float32", UNITS)
        assert not found.exact.all() or mine.size <= 4500


def test_resolution_is_full_in_the_two_largest_octaves_and_never_below_bfloat16s():
    octave = 1 + np.arange(1024, dtype=np.float32) / 1024
    values = np.concatenate([octave * np.float32(2.0**-k) for k in range(8)])[None]
    keys = whole(values, PerChannel(0)).keys >> 23
    assert values.size > UNITS.few
    assert np.bincount(keys - keys.min()).tolist() == [128, 128, 128, 128, 256, 512, 1024, 1024]
    few = whole(values[:, : UNITS.few], PerChannel(0))
    assert few.keys.size == UNITS.few


@settings(max_examples=20)
@given(matrices(), st.data())
def test_some_units_are_a_sketch_of_their_own(values, data):
    first = data.draw(st.integers(0, len(values) - 1))
    last = data.draw(st.integers(first + 1, len(values)))
    assert whole(values, PerChannel(0))[first:last] == whole(values[first:last], PerChannel(0))


def test_ten_thousand_units_of_three_values():
    values = np.arange(1, 3 * 10_000 + 1, dtype=np.float32).reshape(-1, 3)
    found = whole(values, PerChannel(0))
    assert found[8999:9000] == whole(values[8999:9001], PerChannel(0))[:1]
    assert found == whole(values, PerChannel(0), chunk=100)
    assert found.keys.view(np.float32).tolist() == values.ravel().tolist()


def test_a_sort_that_mixes_neighbours_is_noticed(monkeypatch):
    values = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    expected = one_by_one(list(values), Resolution(few=0))
    assert whole(values, PerChannel(0), resolution=Resolution(few=0)) == expected
    monkeypatch.setattr(sorted_units, "library", lambda: None)
    monkeypatch.setattr(sorted_units, "_sort_each", lambda patterns, _: patterns.sort())
    assert whole(values, PerChannel(0), resolution=Resolution(few=0)) != expected
