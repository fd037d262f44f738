"""The sketch is a commutative monoid, and what is sketched in pieces is what is sketched whole."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import klcal
from klcal.errors import InputError, UsageError
from klcal.quantizers.granularity import Grid
from klcal.readers.description import Description
from klcal.sketches.counting import count
from klcal.sketches.patterns import FEW, TENSOR, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support.devices import TORCH_DTYPES
from tests.support.lazy import torch
from tests.support.sketches import RESOLUTIONS, differences, one_by_one
from tests.support.strategies import FLOATS, SMALL, floats

A, B, C = floats(), floats(), floats(SMALL)


def of(values: np.ndarray, resolution: Resolution = TENSOR) -> Sketch:
    return count([values], "float32", resolution)


def check_homomorphism(of, a, b):
    assert of(np.concatenate([a, b])) == of(a) + of(b)


def check_monoid(of, a, b, c):
    empty = of(a[:0])
    assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c))
    assert of(a) + of(b) == of(b) + of(a)
    assert of(a) + empty == of(a) == empty + of(a)


@given(A, B, RESOLUTIONS)
def test_sketch_is_a_homomorphism(a, b, resolution):
    check_homomorphism(partial(of, resolution=resolution), a, b)
    check_homomorphism(sketch, a, b)


@given(A, B, C, RESOLUTIONS)
def test_sketches_are_a_commutative_monoid(a, b, c, resolution):
    check_monoid(partial(of, resolution=resolution), a, b, c)
    check_monoid(sketch, a, b, c)
    assert Sketch.empty() == sketch(a[:0])
    assert sum([sketch(a), sketch(b), sketch(c)]) == sketch(a) + sketch(b) + sketch(c)


@given(st.lists(A, min_size=1, max_size=6), st.randoms(), RESOLUTIONS)
def test_neither_order_nor_grouping_of_batches_matters(batches, random, resolution):
    whole = of(np.concatenate(batches), resolution)
    parts = [of(batch, resolution) for batch in batches]
    while len(parts) > 1:
        parts.append(parts.pop(random.randrange(len(parts))) + parts.pop(random.randrange(len(parts))))
    assert parts[0] == whole


class Adaptive:
    """A broken twin: a histogram over the range of its own first data, as most calibrators have."""

    def __init__(self, values):
        values = values[np.isfinite(values)]
        self.range = (values.min(), values.max()) if values.size else (0.0, 0.0)
        self.counts = np.histogram(values.astype(float), 8, self.range)[0] if values.size else np.zeros(8, int)

    def __add__(self, other):
        merged = Adaptive(np.empty(0, np.float32))
        merged.range, merged.counts = self.range, self.counts + other.counts
        return merged

    def __eq__(self, other):
        return np.array_equal(self.counts, other.counts)

    __hash__ = None


def test_the_checks_reject_a_histogram_over_the_range_of_the_first_batch():
    a, b = np.float32([1, 2, 3]), np.float32([100, -7])
    with pytest.raises(AssertionError):
        check_homomorphism(Adaptive, a, b)


def test_the_checks_reject_a_sketch_that_forgets_its_extremes():
    def forgetful(values):
        found = sketch(values)
        return replace(found, minimum=values[:1].astype(float) if values.size else np.array([np.inf]))

    with pytest.raises(AssertionError):
        check_homomorphism(forgetful, np.float32([3, 1]), np.float32([2]))


def test_the_checks_reject_a_sketch_that_is_exact_because_each_batch_has_few_values(monkeypatch):
    """Few must be judged of the union: at whose resolution is then known."""
    a, b = np.float32([1.0001, 1.0002]), np.float32([1.0003, 1000])
    narrow = Resolution(few=2)
    check_homomorphism(partial(of, resolution=narrow), a, b)
    monkeypatch.setattr("klcal.sketches.sketch.added", lambda *_: None)  # the compiled kernel would do it right
    monkeypatch.setattr("klcal.sketches.sketch.settled", lambda found: found)
    with pytest.raises(AssertionError):
        check_homomorphism(partial(of, resolution=narrow), a, b)


def test_the_checks_reject_buckets_that_do_not_follow_the_largest_magnitude(monkeypatch):
    """Near one half the resolution of a unit is finer than beside a thousand."""
    a, b = np.float32([0.50048828, 0.25]), np.float32([1000.0, 3.0])
    units = partial(of, resolution=Resolution(10, 7, few=0))
    check_homomorphism(units, a, b)
    both = units(np.concatenate([a, b]))
    monkeypatch.setattr("klcal.sketches.sketch.added", lambda *_: None)
    monkeypatch.setattr(Resolution, "dropped", lambda _, keys, __: np.full(keys.size, 13, np.uint32))
    assert units(a) + units(b) != both


@given(A, RESOLUTIONS)
def test_an_exact_sketch_is_the_multiset_of_its_values(a, resolution):
    found = of(a, resolution)
    kept = np.sort(a[np.isfinite(a) & (a != 0)])
    held = np.sort(np.repeat(found.keys.view(np.float32), found.counts))
    assert found.exact[0] == np.array_equal(held, kept)
    assert found.whole[0] == (np.unique(kept).size <= resolution.few)
    assert found.exact[0] or not found.whole[0]


@given(A, st.integers(0, 10), st.integers(0, 10), RESOLUTIONS)
def test_coarsening_commutes_with_adding(a, bits, fewer, resolution):
    half = a.size // 2
    parts = of(a[:half], resolution), of(a[half:], resolution)
    assert (parts[0] + parts[1]).coarsen(bits) == parts[0].coarsen(bits) + parts[1].coarsen(bits)
    both = min(bits, fewer)
    assert of(a, resolution).coarsen(bits).coarsen(both) == of(a, resolution).coarsen(both)


@given(A, st.integers(0, 10))
def test_coarse_buckets_are_those_of_fewer_mantissa_bits(a, bits):
    finite = a[np.isfinite(a) & (a != 0)]
    coarse = sketch(a).coarsen(bits)
    below = 23 - bits
    assert (coarse.keys >> below).tolist() == np.unique(finite.view(np.uint32) >> below).tolist()
    assert coarse.exact[0] == (not (finite.view(np.uint32) & ((1 << below) - 1)).any())
    assert coarse == of(a, Resolution(bits, bits, few=0))


@given(A, st.integers(0, 2**40))
def test_repeating_is_adding_to_itself(a, times):
    assert sketch(a).repeat(3) == sketch(a) + sketch(a) + sketch(a)
    assert sketch(a).repeat(times).numel[0] == times * a.size
    assert sketch(a).repeat(0) == Sketch.empty()


def test_counts_beyond_32_bits_are_exact():
    many = sketch(np.float32([1.5, 0, np.nan, np.inf]))
    for _ in range(31):
        many = many + many
    assert many.counts.tolist() == [2**31]
    assert (many.zeros[0], many.nan[0], many.pos_inf[0], many.numel[0]) == (2**31, 2**31, 2**31, 2**33)
    assert (many + sketch([1.5])).counts.tolist() == [2**31 + 1]
    cut = sketch(np.float32([1.0001, 1.0002])).repeat(2**31 - 1).coarsen(3)
    assert cut.counts.tolist() == [2**32 - 2]


# --- units


@st.composite
def several(draw, resolutions=RESOLUTIONS):
    """The values of some units, twice, and a resolution."""
    count = draw(st.integers(1, 4))
    batches = st.lists(floats(max_size=20), min_size=count, max_size=count)
    return draw(batches), draw(batches), draw(resolutions)


def stacked(units, resolution: Resolution) -> Sketch:
    return Sketch.stack(of(values, resolution) for values in units)


@given(several())
def test_units_add_as_each_alone_whatever_stands_beside_them(drawn):
    a, b, resolution = drawn
    both = stacked(a, resolution) + stacked(b, resolution)
    assert both == one_by_one([np.concatenate(pair) for pair in zip(a, b, strict=True)], resolution)
    for unit, (mine, more) in enumerate(zip(a, b, strict=True)):
        assert both[unit : unit + 1] == of(np.concatenate([mine, more]), resolution)


@given(several(), st.data())
def test_slices_and_selections_are_sketches_of_their_own(drawn, data):
    units, _, resolution = drawn
    whole = stacked(units, resolution)
    first = data.draw(st.integers(0, len(units) - 1))
    last = data.draw(st.integers(first + 1, len(units)))
    assert whole[first:last] == stacked(units[first:last], resolution)
    order = data.draw(st.permutations(range(len(units))))
    assert whole.take(order) == stacked([units[unit] for unit in order], resolution)
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units))))
    assert whole.select(wanted).units == wanted.sum()
    if wanted.any():
        assert whole.select(wanted) == stacked([units[unit] for unit in np.flatnonzero(wanted)], resolution)


def test_units_are_added_a_stretch_at_a_time_and_each_once(monkeypatch):
    values = np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32)
    expected = klcal.sketch(values, per="channel")
    parts = [klcal.sketch(values[:, some], per="channel") for some in (slice(0, 9), slice(9, 40))]
    for pieces in (1, 41, 90):
        monkeypatch.setattr("klcal.sketches.sketch.ADDED_AT_ONCE", pieces)
        assert parts[0] + parts[1] == expected
    nothing = expected[3:3]
    assert nothing + nothing == nothing


@settings(max_examples=30)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(1, 4)), elements=FLOATS))
def test_activations_per_channel_stream_and_add(values):
    for per in (klcal.PerChannel(1), "channel:1", klcal.PerChannel(-1)):
        batches = np.array_split(values, 3)
        streamed = sum(klcal.sketch(batch, per=per) for batch in batches if batch.size)
        assert streamed == klcal.sketch(values, per=per) == klcal.sketch(torch.from_numpy(values), per=per)
    assert streamed.grid == Grid(klcal.PerChannel(2), 2, None, (values.shape[2],))
    for channel in range(values.shape[2]):
        alone = of(values[:, :, channel].ravel(), UNITS)
        assert streamed[channel : channel + 1] == alone


@given(floats(max_size=40).filter(len))
def test_a_channel_that_is_the_whole_tensor_is_the_tensor_where_nothing_is_lost(values):
    for lossless in (values, (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)):
        channel, tensor = klcal.sketch(lossless[None], per="channel"), klcal.sketch(lossless)
        assert replace(channel, resolution=tensor.resolution, grid=None) == tensor
        assert channel.exact[0]


def test_bfloat16_is_lossless_as_tensor_and_as_channel_beyond_the_few():
    bits = np.arange(0x3D00, 0x4F00, dtype=np.uint32) << 16
    channel, tensor = klcal.sketch(bits.view(np.float32)[None], per="channel"), klcal.sketch(bits.view(np.float32))
    assert channel.exact[0]
    assert channel.keys.size == bits.size > FEW
    assert replace(channel, resolution=tensor.resolution, grid=None) == tensor


def test_a_tensor_with_one_axis_or_no_values_is_one_unit():
    assert klcal.sketch([1.0, 2.0], per="channel") == klcal.sketch([1.0, 2.0])
    assert klcal.sketch(np.empty((3, 0), np.float32), per="channel") == Sketch.empty()


def test_4096_channels_stream_in_less_than_400_megabytes():
    """As many values as each channel keeps whole, in batches: 33 kB a channel, twice while they are added."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        found = sum(
            klcal.sketch(rng.standard_normal((512, 4096), dtype=np.float32), per=klcal.PerChannel(1)) for _ in range(8)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.numel.tolist() == [4096] * 4096
    assert found.keys.nbytes + found.counts.nbytes <= 4096 * 33_000
    assert peak < 400e6


def test_a_channel_of_a_million_values_takes_less_than_100_kilobytes():
    values = np.random.default_rng(0).standard_normal((2, 1 << 20), dtype=np.float32)
    found = klcal.sketch(values, per="channel")
    assert found.keys.nbytes + found.counts.nbytes < 2 * 100e3


# --- what can be handed in


@settings(max_examples=40)
@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=5), elements=FLOATS), st.randoms())
def test_shape_order_strides_and_byte_order_do_not_matter(array, random):
    expected = sketch(array.ravel())
    axes = random.sample(range(array.ndim), array.ndim)
    for same in (
        array,
        np.asfortranarray(array),
        array.transpose(axes),
        array.astype(">f4"),
        array[::-1],
        array.tolist(),
    ):
        assert sketch(same) == expected
    doubled = np.repeat(array, 2, axis=0)
    assert sketch(doubled[::2]) == expected
    assert sketch(np.broadcast_to(array, (3, *array.shape))) == expected.repeat(3)
    tensor = torch.from_numpy(array)
    for same in (tensor, tensor.permute(axes), torch.nn.Parameter(tensor), torch.from_numpy(doubled)[::2]):
        assert sketch(same) == expected


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_arrays_and_tensors_of_any_float_dtype_are_the_same_to_it(dtype):
    values = np.random.default_rng(1).standard_t(2, size=(7, 300))
    tensor = torch.from_numpy(values).to(getattr(torch, dtype))
    found = sketch(tensor.double().numpy())
    assert sketch(tensor) == found == sketch(tensor.T) == sketch(tensor, device="cpu")
    numpy_type = getattr(np, dtype, None) or getattr(ml_dtypes, dtype)
    assert sketch(tensor.double().numpy().astype(numpy_type)) == found


def test_large_arrays_are_read_in_pieces():
    values = np.random.default_rng(2).standard_normal((300, 1000)).astype(np.float32)
    assert sketch(values.T) == sketch(values) == sum(map(sketch, values[::-1]))


def test_scalars_and_empty_shapes():
    assert [sketch(one).numel[0] for one in (1.5, np.float16(1.5), torch.tensor(1.5))] == [1, 1, 1]
    assert sketch(np.empty((3, 0), np.float32)) == sketch(torch.empty(0, 3)) == Sketch.empty()


@pytest.mark.parametrize("values", [[1, 2], np.ones(3, bool), "int8", np.ones(2, complex)], ids=repr)
def test_values_that_are_not_floats_are_refused(values):
    values = torch.ones(2, dtype=torch.int8) if isinstance(values, str) else values
    with pytest.raises(
        UsageError, match=r"(int64|bool|int8|complex128) values are not calibrated; hand in one of float64"
    ):
        sketch(values)


def test_a_device_is_for_tensors():
    with pytest.raises(UsageError, match="arrays are counted on the CPU, not on 'cuda'"):
        sketch([1.0], device="cuda")


def test_a_tensor_in_a_file_that_cannot_be_calibrated_has_no_sketch():
    with pytest.raises(InputError, match="it is sparse"):
        sketch(Description("x", "float32", (2,), status="unsupported", reason="it is sparse"))


def test_sketches_that_count_otherwise_are_not_added():
    with pytest.raises(UsageError, match="10 and 7 mantissa bits cannot be added; coarsen the finer one first"):
        sketch([1.0]) + sketch([1.0]).coarsen(7)
    with pytest.raises(UsageError, match="of different resolutions cannot be added"):
        sketch([1.0]) + sketch([1.0]).coarsen(10)
    with pytest.raises(UsageError, match="has no 11"):
        sketch([1.0]).coarsen(11)
    with pytest.raises(TypeError):
        sketch([1.0]) + 1
    assert sketch([1.0]) != 1.0


def test_sketches_of_other_units_are_not_added():
    values = np.ones((4, 6), np.float32)
    channels = klcal.sketch(values, per="channel")
    with pytest.raises(UsageError, match=re.escape("4 units (channel:0) and of 6 units (channel:1) cannot be added")):
        channels + klcal.sketch(values, per="channel:1")
    with pytest.raises(UsageError, match=re.escape("4 units (channel:0) and of 4 units (group:6,1) cannot be added")):
        channels + klcal.sketch(values, per="group:6")
    with pytest.raises(UsageError, match="of different resolutions"):
        channels + klcal.sketch(values)
    with pytest.raises(UsageError, match="3 units and of 4 units"):
        channels[:3] + channels[:]
    with pytest.raises(UsageError, match="a sketch has no axes to sketch per channel"):
        klcal.sketch(channels, per="channel")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exact": np.array([True, False])}, "exact of unit 1: True is not False"),
        ({"counts": np.array([1, 2])}, "unit 1, key 0x40000000: 1 is not 2"),
        ({"resolution": Resolution(few=1)}, "resolution: "),
    ],
)
def test_sketches_that_differ_in_one_field_are_not_equal_and_a_failing_test_says_in_what(change, why):
    one = klcal.sketch(np.float32([[1.0], [2.0]]), per="channel")
    other = replace(one, **change)
    assert one != other
    assert any(line.startswith(why) for line in differences(one, other))
    assert differences(one, one) == []
