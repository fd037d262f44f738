"""The sketch is a commutative monoid, and what is sketched in pieces is what is sketched whole."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klcal.errors import InputError, UsageError
from klcal.readers.description import Description
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.sketch import Sketch, sketch
from tests.support.lazy import torch
from tests.support.strategies import FLOATS, SMALL, floats

A, B, C = floats(), floats(), floats(SMALL)


def check_homomorphism(of, a, b):
    assert of(np.concatenate([a, b])) == of(a) + of(b)


def check_monoid(of, a, b, c):
    empty = of(a[:0])
    assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c))
    assert of(a) + of(b) == of(b) + of(a)
    assert of(a) + empty == of(a) == empty + of(a)


@given(A, B)
def test_sketch_is_a_homomorphism(a, b):
    check_homomorphism(sketch, a, b)


@given(A, B, C)
def test_sketches_are_a_commutative_monoid(a, b, c):
    check_monoid(sketch, a, b, c)
    assert Sketch() == sketch(a[:0])
    assert sum([sketch(a), sketch(b), sketch(c)]) == sketch(a) + sketch(b) + sketch(c)


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
        return replace(found, minimum=float(values[0]) if values.size else np.inf)

    with pytest.raises(AssertionError):
        check_homomorphism(forgetful, np.float32([3, 1]), np.float32([2]))


@given(A, st.integers(0, 10), st.integers(0, 10))
def test_coarsening_commutes_with_adding(a, bits, fewer):
    half = a.size // 2
    parts = sketch(a[:half]), sketch(a[half:])
    assert (parts[0] + parts[1]).coarsen(bits) == parts[0].coarsen(bits) + parts[1].coarsen(bits)
    both = min(bits, fewer)
    assert sketch(a).coarsen(bits).coarsen(both) == sketch(a).coarsen(both)
    assert sketch(a).coarsen(10) == sketch(a)


@given(A)
def test_coarse_buckets_are_those_of_fewer_mantissa_bits(a):
    finite = a[np.isfinite(a) & (a != 0)]
    coarse = sketch(a).coarsen(3)
    assert coarse.keys.tolist() == np.unique(finite.view(np.uint32) >> 20).tolist()
    assert coarse.exact == (not (finite.view(np.uint32) & ((1 << 20) - 1)).any())


@given(A, st.integers(0, 2**40))
def test_repeating_is_adding_to_itself(a, times):
    assert sketch(a).repeat(3) == sketch(a) + sketch(a) + sketch(a)
    assert sketch(a).repeat(times).numel == times * a.size


def test_counts_beyond_32_bits_are_exact():
    many = sketch(np.float32([1.5, 0, np.nan, np.inf]))
    for _ in range(31):
        many = many + many
    assert many.counts.tolist() == [2**31]
    assert (many.zeros, many.nan, many.pos_inf, many.numel) == (2**31, 2**31, 2**31, 2**33)
    assert (many + sketch([1.5])).counts.tolist() == [2**31 + 1]


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


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
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
    assert sketch(1.5).numel == sketch(np.float16(1.5)).numel == sketch(torch.tensor(1.5)).numel == 1
    assert sketch(np.empty((3, 0), np.float32)) == sketch(torch.empty(0, 3)) == Sketch()


@pytest.mark.parametrize("values", [[1, 2], np.ones(3, bool), "int8", np.ones(2, complex)], ids=repr)
def test_what_is_no_float_is_refused(values):
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


def test_sketches_of_different_widths_are_not_added():
    with pytest.raises(UsageError, match="10 and 7 mantissa bits cannot be added; coarsen the finer one first"):
        sketch([1.0]) + sketch([1.0]).coarsen(7)
    with pytest.raises(UsageError, match="has no 11"):
        sketch([1.0]).coarsen(11)
    with pytest.raises(TypeError):
        sketch([1.0]) + 1
    assert sketch([1.0]) != 1.0
