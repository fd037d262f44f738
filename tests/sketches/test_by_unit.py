"""Sketches of rows: against a loop over the values, and the laws that make them mergeable."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klcal.quantizers.granularity import PerChannel, PerGroup, layout
from klcal.sketches import row_sketch as row_sketching
from klcal.sketches.row_sketch import KEY_BITS, RowSketch, _merged, row_sketches
from klcal.sketches.values import sketch
from tests.support.strategies import FLOATS, SMALL

UNITS = (PerChannel(0), PerChannel(1), PerGroup(3), PerGroup(2, 0), PerGroup(1), PerGroup(7, 1))


def matrices(elements=FLOATS):
    return arrays.arrays(np.float32, st.tuples(st.integers(2, 6), st.integers(7, 12)), elements=elements)


def whole(values: np.ndarray, per, chunk: int = 1 << 20, order=()) -> RowSketch:
    """The sketch of all rows, from chunks of a size."""
    flat = values.ravel()
    chunks = (flat[i : i + chunk].copy() for i in range(0, flat.size, chunk))
    shape = values.shape if not order else tuple(values.shape[order.index(axis)] for axis in range(values.ndim))
    pieces = list(row_sketches(chunks, "float32", layout(per, shape, order)))
    found = pieces[0]
    for piece in pieces[1:]:
        found = row_sketching._joined(found, piece)
    return found


def counted(values: np.ndarray) -> tuple[Counter[int], bool]:
    """The buckets of a row's values, one by one, and whether each is the edge of its bucket."""
    kept = [np.float32(v) for v in values if np.isfinite(v) and v != 0]
    patterns = [int(v.view(np.uint32)) for v in kept]
    top = max(((p >> 23) & 255 for p in patterns), default=0)
    found: Counter[int] = Counter()
    exact = True
    for pattern in patterns:
        dropped = min(3, max(0, top - ((pattern >> 23) & 255) - 1))
        key = pattern >> (13 + dropped) << dropped
        exact = exact and key << 13 == pattern
        found[key] += 1
    return found, exact


@given(matrices(), st.sampled_from(UNITS))
def test_every_row_is_counted_as_a_loop_over_its_values_counts(values, per):
    found = whole(values, per)
    begins, rows = layout(per, values.shape).runs(0, values.size)
    of_value = np.repeat(rows, np.diff(begins, append=values.size))
    for row in range(found.rows):
        mine = values.ravel()[of_value == row]
        alone = found[row : row + 1]
        buckets, exact = counted(mine)
        assert dict(zip(alone.keys.tolist(), alone.counts.tolist(), strict=True)) == buckets
        assert list(alone.exact) == [exact]
        same = sketch(mine)
        for name in ("zeros", "nan", "neg_inf", "pos_inf", "minimum", "maximum"):
            assert getattr(alone, name)[0] == getattr(same, name)
        assert alone.nonzero[0] == same.counts.sum()


@given(matrices(), st.sampled_from(UNITS), st.integers(1, 40), st.integers(1, 9))
def test_the_answer_does_not_depend_on_where_the_values_were_cut(values, per, chunk, block):
    expected = whole(values, per)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_sketching, "BLOCK", block)
        patch.setattr(row_sketching, "WIDE_BLOCK", block)
        assert whole(values, per, chunk) == expected


@given(matrices(), matrices())
def test_rows_of_more_columns_are_the_sums_of_the_sketches(a, b):
    rows = min(len(a), len(b))
    a, b = a[:rows], b[:rows]
    both = whole(np.hstack([a, b]), PerChannel(0))
    assert whole(a, PerChannel(0)) + whole(b, PerChannel(0)) == both
    assert whole(b, PerChannel(0)) + whole(a, PerChannel(0)) == both


@given(matrices(SMALL), matrices(), matrices())
def test_addition_is_associative_and_has_an_identity(a, b, c):
    rows = min(map(len, (a, b, c)))
    x, y, z = (whole(each[:rows], PerChannel(0)) for each in (a, b, c))
    assert (x + y) + z == x + (y + z)
    assert x + RowSketch.empty(rows) == x


def test_a_sum_that_keeps_the_precision_of_its_parts_breaks_the_law(monkeypatch):
    """Near one half the row's own resolution is finer than beside a thousand."""
    a, b = np.float32([[0.50048828, 0.25]]), np.float32([[1000.0, 3.0]])
    both = whole(np.hstack([a, b]), PerChannel(0))
    x, y = whole(a, PerChannel(0)), whole(b, PerChannel(0))
    assert x + y == both
    monkeypatch.setattr(row_sketching, "dropped_bits", lambda keys, _: np.zeros_like(keys))
    assert _merged(x, y) != both


@given(matrices())
def test_columns_are_the_rows_of_the_transposed_values(values):
    assert whole(values, PerChannel(1)) == whole(values.T.copy(), PerChannel(0))
    assert whole(values.T.copy(), PerChannel(0), order=(1, 0)) == whole(values, PerChannel(0))


def test_resolution_is_full_in_the_two_greatest_octaves_and_never_below_bfloat16s():
    octave = 1 + np.arange(1024, dtype=np.float32) / 1024
    values = np.concatenate([octave * np.float32(2.0**-k) for k in range(8)])[None]
    keys = whole(values, PerChannel(0)).keys >> 10
    assert np.bincount(keys - keys.min()).tolist() == [128, 128, 128, 128, 256, 512, 1024, 1024]


def test_bfloat16_is_lossless():
    bits = np.arange(0x3D00, 0x4300, dtype=np.uint32) << 16
    found = whole(bits.view(np.float32)[None], PerChannel(0))
    assert found.exact.all()
    assert found.keys.size == bits.size


@settings(max_examples=20)
@given(matrices(), st.data())
def test_some_rows_are_a_sketch_of_their_own(values, data):
    first = data.draw(st.integers(0, len(values) - 1))
    last = data.draw(st.integers(first + 1, len(values)))
    assert whole(values, PerChannel(0))[first:last] == whole(values[first:last], PerChannel(0))


def test_many_rows_are_sorted_by_wide_keys():
    values = np.arange(1, 3 * 9000 + 1, dtype=np.float32).reshape(-1, 3)
    assert values.shape[0] > 1 << (32 - KEY_BITS)
    found = whole(values, PerChannel(0))
    assert found[8999:9000] == whole(values[8999:], PerChannel(0))
    assert found == whole(values, PerChannel(0), chunk=100)


def test_sketches_that_differ_in_one_field_are_not_equal():
    one = whole(np.float32([[1.0, 2.0]]), PerChannel(0))
    assert one != replace(one, exact=~one.exact)
    assert one != "a sketch"
