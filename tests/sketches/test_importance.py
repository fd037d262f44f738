"""Weights of values: integers that add up exactly, beside a sketch that is otherwise what it is without them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import klcal
from klcal.errors import UsageError
from klcal.quantizers.granularity import PerBlock, PerChannel, PerGroup
from klcal.quantizers.layout import layout
from klcal.sketches import weighted
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.counting import count
from klcal.sketches.distribution import Distribution
from klcal.sketches.importance import Importance, checked_importance
from klcal.sketches.patterns import UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.weighted import weighted_sketch, weighted_unit_sketches
from tests.support.lazy import torch
from tests.support.sketches import RESOLUTIONS
from tests.support.strategies import FLOATS, SMALL

PERS = (PerChannel(0), PerChannel(1), PerGroup(3), PerGroup(2, 0), PerGroup(7, 1), PerBlock(2, 4))
WEIGHTS = st.one_of(st.just(0.0), st.floats(0, 1), st.sampled_from([1.0, 1e-12, 1e9]), st.floats(1e-300, 1e300))


@st.composite
def weighed(draw):
    """A matrix, and a weight for each column or each value."""
    shape = draw(st.tuples(st.integers(2, 6), st.integers(7, 12)))
    values = draw(arrays.arrays(np.float32, shape, elements=FLOATS))
    of = shape if draw(st.booleans()) else shape[1:]
    return values, draw(arrays.arrays(np.float64, of, elements=WEIGHTS))


def whole(values, importance, per, *, chunk=1 << 20, resolution=UNITS, order=()) -> Sketch:
    """The sketch of all units, from chunks of a size; the values lie in an order of their axes."""
    there = values.transpose(order).ravel() if order else values.ravel()
    chunks = (there[i : i + chunk].copy() for i in range(0, there.size, chunk))
    place = None if per is None else layout(per, values.shape, order)
    weights = Importance.of(importance, values.shape, order, place)
    if place is None:
        return weighted_sketch(chunks, "float32", weights, resolution)
    return Sketch.stack(weighted_unit_sketches(chunks, "float32", place, weights, resolution))


def units_of(array, per) -> list[np.ndarray]:
    begins, rows = layout(per, array.shape).runs(0, array.size)
    of_value = np.repeat(rows, np.diff(begins, append=array.size))
    return [array.ravel()[of_value == row] for row in range(rows.max() + 1)]


def one_by_one(found: Sketch, values: np.ndarray, importance: np.ndarray) -> list[list[int]]:
    """What the values in each piece of the only unit of a sketch weigh, and how many weigh something."""
    weights, numbers = [0] * found.keys.size, [0] * found.keys.size
    heaviest = float(importance.max(initial=0))
    for value, weight in zip(values, importance, strict=True):
        if not np.isfinite(value) or value == 0:
            continue
        piece = int(np.searchsorted(found.keys, value.view(np.uint32), side="right")) - 1
        share = round(Fraction(float(weight) / heaviest) * 2**40) if weight else 0
        weights[piece] += max(share, 1) if weight else 0
        numbers[piece] += weight > 0
    return [weights, numbers]


def weights_of(found: Sketch) -> list[int]:
    """What the values of each piece weigh together, in Python's integers, which do not wrap around."""
    return [high * 2**20 + low for high, low in found.weights[:2].T.tolist()]


@given(weighed(), st.sampled_from(PERS), RESOLUTIONS)
def test_every_piece_weighs_what_its_values_weigh_one_by_one(drawn, per, resolution):
    values, importance = drawn
    found = whole(values, importance, per, resolution=resolution)
    each = np.broadcast_to(importance, values.shape)
    for number, (mine, weights) in enumerate(zip(units_of(values, per), units_of(each, per), strict=True)):
        unit = found[number : number + 1]
        assert [weights_of(unit), unit.weights[2].tolist()] == one_by_one(unit, mine, weights)
        assert unit.heaviest[0] == weights.max()
        assert unit.weighed[0] == np.count_nonzero(np.isfinite(mine) & (mine != 0) & (weights > 0))


@given(weighed(), st.sampled_from((None, *PERS)), RESOLUTIONS)
def test_all_else_is_as_without_importance(drawn, per, resolution):
    values, importance = drawn
    found = whole(values, importance, per, resolution=resolution)
    if per is None:
        expected = count([values.ravel()], "float32", resolution)
    else:
        expected = Sketch.stack(unit_sketches([values.ravel()], "float32", layout(per, values.shape), resolution))
    assert replace(found, weights=None, heaviest=np.zeros(found.units)) == expected


@given(arrays.arrays(np.float64, (3, 8), elements=st.floats()), arrays.arrays(np.float64, 8, elements=WEIGHTS))
def test_float64_over_and_underflows_as_without_importance(values, importance):
    for per in ("tensor", "channel", "channel:1"):
        found, expected = klcal.sketch(values, per=per, importance=importance), klcal.sketch(values, per=per)
        assert replace(found, weights=None, heaviest=np.zeros(found.units)) == expected


@given(weighed(), st.sampled_from((None, *PERS)), st.integers(1, 40), st.integers(1, 30), RESOLUTIONS)
def test_the_answer_does_not_depend_on_where_the_values_were_cut(drawn, per, chunk, block, resolution):
    values, importance = drawn
    expected = whole(values, importance, per, resolution=resolution)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BLOCK", "TENSOR_BLOCK", "WIDE_BLOCK", "SLAB"):
            patch.setattr(weighted, name, block)
        assert whole(values, importance, per, chunk=chunk, resolution=resolution) == expected


def test_weights_that_begin_anew_with_each_chunk_are_noticed(monkeypatch):
    values, importance = np.arange(1, 15, dtype=np.float32).reshape(2, 7), np.arange(1.0, 8)
    expected = whole(values, importance, None)
    monkeypatch.setattr(weighted, "TENSOR_BLOCK", 5)
    assert whole(values, importance, None, chunk=5) == expected
    monkeypatch.setattr(Importance, "at", lambda self, _, size: self.weights.flat[:size])
    assert whole(values, importance, None, chunk=5) != expected


@given(weighed(), st.sampled_from((None, *PERS)))
def test_weights_follow_the_values_in_any_order_of_the_axes(drawn, per):
    values, importance = drawn
    found = whole(values, importance, per, order=(1, 0))
    place = None if per is None else layout(per, values.shape, (1, 0))
    own = found if place is None else found.take(place.in_own_order(np.arange(place.rows)))
    assert own == whole(values, importance, per)


@given(weighed(), st.sampled_from(("tensor", *map(str, PERS))))
def test_a_weight_for_each_column_is_the_same_for_all_its_values(drawn, per):
    values, importance = drawn
    found = klcal.sketch(values, per=per, importance=importance)
    assert klcal.sketch(values, per=per, importance=np.broadcast_to(importance, values.shape)) == found
    for other in (np.asfortranarray(values), torch.from_numpy(values)):
        assert klcal.sketch(other, per=per, importance=torch.from_numpy(importance)) == found


@pytest.mark.parametrize("per", ["tensor", "channel", "channel:1", "channel:2", "group:3", "group:2,1", "block:2,4"])
def test_matrices_may_have_weights_for_their_columns(per):
    made = np.random.default_rng(5)
    values, importance = made.normal(size=(4, 5, 7)).astype(np.float32), np.exp(made.normal(size=(4, 7)))
    found = klcal.sketch(values, per=per, importance=importance)
    assert found == klcal.sketch(values, per=per, importance=np.repeat(importance[:, None], 5, axis=1))
    assert found != klcal.sketch(values, per=per, importance=importance[0])


# --- adding


def check_homomorphism(of, a, b):
    assert of(*(np.concatenate(pair) for pair in zip(a, b, strict=True))) == of(*a) + of(*b)


@st.composite
def batches(draw):
    """Some values and weights, three times: the largest weight is the same."""
    drawn = []
    for _ in range(3):
        size = draw(st.integers(1, 20))
        weights = draw(arrays.arrays(np.float64, size, elements=st.floats(0, 1)))
        weights[draw(st.integers(0, size - 1))] = 1.0
        drawn.append((draw(arrays.arrays(np.float32, size, elements=FLOATS | SMALL)), weights))
    return drawn


def of(values, weights, resolution=UNITS):
    chunks = [values]
    return weighted_sketch(chunks, "float32", Importance.of(weights, values.shape, (), None), resolution)


@given(batches(), RESOLUTIONS)
def test_sketches_with_weights_are_a_commutative_monoid(drawn, resolution):
    one, two, three = (of(*each, resolution) for each in drawn)
    check_homomorphism(lambda *each: of(*each, resolution), *drawn[:2])
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    empty = Sketch.empty(1, resolution)
    assert one + empty == one == empty + one
    assert one.repeat(3) == one + one + one
    assert (one + two).coarsen(3) == one.coarsen(3) + two.coarsen(3)


def test_the_check_rejects_weights_that_lose_their_reference():
    def forgetful(values, weights):
        return replace(klcal.sketch(values, importance=weights), heaviest=np.zeros(1))

    a, b = (np.float32([1, 2]), np.array([1.0, 0.5])), (np.float32([1]), np.array([2.0]))
    with pytest.raises(AssertionError):
        check_homomorphism(forgetful, a, b)
    with pytest.raises(UsageError, match="relative to different ones cannot be added; sketch both with the same"):
        check_homomorphism(lambda values, weights: klcal.sketch(values, importance=weights), a, b)


@pytest.mark.parametrize("per", ["tensor", "channel:1"])
def test_batches_of_activations_add_up(per):
    rng = np.random.default_rng(0)
    batches, importance = rng.standard_normal((4, 3, 5)).astype(np.float32), rng.random(5)
    found = sum(klcal.sketch(batch, per=per, importance=importance) for batch in batches)
    assert found == klcal.sketch(np.concatenate(batches), per=per, importance=importance)


def test_sketches_with_and_without_weights_do_not_add():
    with_weights, without = klcal.sketch([1.0], importance=[1.0]), klcal.sketch([1.0])
    for one, other in ((with_weights, without), (without, with_weights)):
        with pytest.raises(UsageError, match="with weights and one without"):
            one + other
        with pytest.raises(UsageError, match="with weights and one without"):
            Sketch.stack([one, other])
    zeros = klcal.sketch([0.0, np.nan])
    assert (with_weights + zeros).weights.tolist() == with_weights.weights.tolist()


@given(weighed(), st.data())
def test_slices_and_selections_keep_their_weights(drawn, data):
    values, importance = drawn
    found = klcal.sketch(values, per="channel", importance=np.broadcast_to(importance, values.shape))
    each = [found[number : number + 1] for number in range(found.units)]
    assert Sketch.stack(each, found.grid) == found
    order = data.draw(st.permutations(range(found.units)))
    assert found.take(order) == Sketch.stack(each[number] for number in order)


def test_weights_beyond_64_bits_are_exact():
    found = klcal.sketch([1.5, 1.5, 2.0], importance=[1.0, 1 / 3, 0.0])
    many = found.repeat(2**35)
    assert weights_of(many) == [2**35 * (2**40 + round(2**40 / 3)), 0]
    assert weights_of(many + many) == [2 * weight for weight in weights_of(many)]
    assert (many + many).weighed.tolist() == [2**37]
    assert replace(many.coarsen(0), exact=many.exact).weights.sum() == many.weights.sum()


# --- from an importance to integers


@settings(max_examples=50)
@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(-200, 200))
def test_no_weight_above_0_becomes_0_and_only_ratios_matter(one, other, power):
    weights = weights_of(klcal.sketch([1.0, 2.0], importance=[one, other]))
    assert min(weights) >= 1
    assert max(weights) == 2**40
    scaled = [each * 2.0**power for each in (one, other)]
    if all(1e-300 < each < 1e300 for each in scaled):
        assert weights_of(klcal.sketch([1.0, 2.0], importance=scaled)) == weights


def test_a_ratio_of_a_trillion_is_kept():
    found = klcal.sketch([1.0, 2.0, 3.0], importance=[1e12, 1.0, 0.0])
    assert weights_of(found) == [2**40, 1, 0]
    assert found.weights[2].tolist() == [1, 1, 0]


def test_a_weight_is_relative_to_the_largest_of_its_own_unit():
    values = np.ones((2, 4), np.float32)
    found = klcal.sketch(values, per="group:2", importance=[1.0, 2.0, 8.0, 4.0])
    assert found.heaviest.tolist() == [2.0, 8.0, 2.0, 8.0]
    assert weights_of(found) == [3 * 2**39] * 4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"the importance has the shape \[3\], the tensor \[2, 4\]; it needs \[4\], a weight for each col"),
        (np.ones((4, 2)), r"the shape \[4, 2\], the tensor \[2, 4\]; .* or \[2, 4\], one for each value"),
        (np.array([1, np.nan, np.inf, 1]), r"2 of 4 weights of the importance are not finite, the first at \[1\]"),
        (np.array([[1.0] * 4, [0, 0, -1, 1]]), r"1 of 8 weights of the importance are negative, the first at \[1, 2\]"),
    ],
)
def test_an_importance_that_does_not_fit_is_an_error_that_says_why(weights, message):
    with pytest.raises(UsageError, match=message):
        checked_importance(weights, (2, 4))
    with pytest.raises(UsageError, match=message):
        klcal.sketch(np.ones((2, 4)), importance=weights)


def test_an_importance_that_does_not_fit_matrices_says_what_would():
    fits = r"it needs \[4\], a weight for each column, or \[2, 4\], for each column of each matrix, or"
    with pytest.raises(UsageError, match=fits):
        checked_importance(np.ones((3, 4)), (2, 3, 4))


def test_importance_may_be_an_array_of_numpy_or_torch():
    values = np.float32([[1, 2], [3, 4]])
    expected = klcal.sketch(values, importance=[1.0, 2.0])
    half = torch.tensor([1, 2], dtype=torch.bfloat16)
    for same in ([1, 2], np.array([1, 2], np.uint8), np.float16([1, 2]), np.array([1, 2], ">f4"), half, half.long()):
        assert klcal.sketch(values, importance=same) == expected
    with pytest.raises(UsageError, match="complex128 values are not calibrated"):
        klcal.sketch(values, importance=[1j, 2])
    with pytest.raises(UsageError, match="their lengths differ"):
        klcal.sketch(values, importance=[[1, 2], [1]])
    with pytest.raises(UsageError, match="a sketch has no columns to weigh"):
        klcal.sketch(expected, importance=[1.0, 2.0])


def test_tensors_of_any_rank_have_an_importance():
    assert weights_of(klcal.sketch(np.float32(2), importance=np.float32(3))) == [2**40]
    for shape, weights in (((3, 0), 0), ((0, 3), 3)):
        assert klcal.sketch(np.empty(shape, np.float32), per="channel", importance=np.ones(weights)) == Sketch.empty()
    cube = klcal.sketch(np.ones((2, 3, 4), np.float32), per="channel:1", importance=[1.0, 2.0, 4.0, 1.0])
    assert weights_of(cube) == [2 * 2 * 2**40] * 3


def test_a_bucket_from_zero_on_keeps_its_end_whatever_the_unit_beside_it_loses():
    """Its key is the pattern of zero, of either sign."""
    for sign in (1, -1):
        values = np.float32([[sign * 5e-42, sign * 4e-42], [1, 2]])
        found = whole(values, np.array([[1.0, 1.0], [1.0, 0.0]]), PerChannel(0), resolution=Resolution(few=0))
        alone, beside = Distribution.weighted(found[:1]), Distribution.weighted(found)
        assert found.keys[0] << 1 == 0
        assert (
            (beside.min[0], beside.max[0])
            == (alone.min[0], alone.max[0])
            == (min(values[0, 0], 0), max(values[0, 0], 0))
        )


@given(
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.data(),
)
def test_the_weights_of_any_stretch_of_values_are_those_of_a_flat_array(shape, shared, data):
    own = [1 if each else extent for extent, each in zip(shape, shared, strict=False)]
    weights = np.broadcast_to(np.arange(prod(own)).reshape(own), shape)
    weights = weights.transpose(data.draw(st.permutations(range(len(shape)))))
    start = data.draw(st.integers(0, weights.size))
    count = data.draw(st.integers(0, weights.size - start))
    found = Importance(weights, np.ones(1)).at(start, count)
    assert np.array_equal(found, weights.ravel()[start : start + count])
