"""Counting: the same integers whoever counts, checked against a count of single values."""

from __future__ import annotations

import math
import struct
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.sketches import counting, device_counting
from klcal.sketches.counting import FLOAT_DTYPES, SIGN_KEY, count
from klcal.sketches.device_counting import as_tensor, count_on_device, usable_device
from klcal.sketches.sketch import Sketch
from tests.support.lazy import torch
from tests.support.strategies import floats

NARROW = [dtype for dtype in FLOAT_DTYPES if dtype not in ("float64", "float32")]
WIDTHS = {np.uint8: 1 << 8, np.uint16: 1 << 16, np.float16: 1 << 16}


def numpy_type(dtype: str) -> type:
    return np.float16 if dtype == "float16" else getattr(ml_dtypes, dtype)


def one_by_one(values: list[float]) -> Sketch:
    """The sketch of float32 values, from struct and a Counter."""
    finite = [value for value in values if math.isfinite(value)]
    patterns = [struct.unpack("<I", struct.pack("<f", value))[0] for value in finite if value != 0]
    buckets = Counter(pattern >> 13 for pattern in patterns)
    keys = sorted(buckets)
    return Sketch(
        np.array(keys, np.int64),
        np.array([buckets[key] for key in keys], np.int64),
        zeros=sum(value == 0 for value in finite),
        nan=sum(map(math.isnan, values)),
        neg_inf=values.count(-math.inf),
        pos_inf=values.count(math.inf),
        minimum=min((value for value in finite if value), default=math.inf),
        maximum=max((value for value in finite if value), default=-math.inf),
        exact=all(pattern % 8192 == 0 for pattern in patterns),
    )


def counted(chunks, dtype: str = "float32") -> Sketch:
    return Sketch.of(count(chunks, dtype))


@given(floats())
def test_counts_are_those_of_single_values(values):
    assert counted([values]) == one_by_one(values.tolist())


@given(st.lists(floats(), max_size=5))
def test_a_device_counts_the_same(chunks):
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        assert Sketch.of(count_on_device(map(torch.from_numpy, chunks), device)) == counted(chunks)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_device_counts_a_million_values_of_any_dtype_the_same(dtype, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    values = torch.from_numpy(np.random.default_rng(0).standard_t(1, size=1 << 20) * 1e3).to(getattr(torch, dtype))
    stored = values.view({1: torch.uint8, 2: torch.uint16, 4: torch.float32, 8: torch.float64}[values.element_size()])
    chunk = stored.numpy().view(FLOAT_DTYPES[dtype])
    found = counted([chunk], dtype)
    assert Sketch.of(count_on_device([values], device)) == found
    assert torch.equal(as_tensor(chunk, dtype).view(torch.uint8), values.view(torch.uint8))
    assert found.numel == 1 << 20


@pytest.mark.parametrize("dtype", NARROW)
def test_every_pattern_of_a_narrow_float_is_counted_as_the_value_it_stands_for(dtype):
    patterns = np.arange(WIDTHS[FLOAT_DTYPES[dtype]], dtype=f"u{np.dtype(FLOAT_DTYPES[dtype]).itemsize}")
    found = counted([patterns.view(FLOAT_DTYPES[dtype])], dtype)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        assert found == one_by_one(patterns.view(numpy_type(dtype)).astype(np.float64).tolist())


@pytest.mark.parametrize("dtype", NARROW)
def test_a_pattern_of_a_narrow_float_stands_for_the_value_that_torch_takes_it_for(dtype):
    patterns = np.arange(WIDTHS[FLOAT_DTYPES[dtype]], dtype=f"u{np.dtype(FLOAT_DTYPES[dtype]).itemsize}")
    values = torch.from_numpy(patterns).view(getattr(torch, dtype)).to(torch.float64)
    assert counted([patterns.view(FLOAT_DTYPES[dtype])], dtype) == one_by_one(values.tolist())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bfloat16_and_float16_have_a_bucket_for_every_value(dtype):
    """But for float16's and bfloat16's own subnormals below float32's precision there, nothing is rounded."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        values = patterns.view(numpy_type(dtype)).astype(np.float32)
    distinct = np.unique(values[np.isfinite(values) & (values != 0)]).size
    assert counted([patterns], dtype).keys.size == distinct


@given(st.lists(st.floats(), max_size=40))
def test_float64_is_rounded_to_float32_and_what_overflows_is_infinite(values):
    with np.errstate(over="ignore"):
        expected = np.float64(values).astype(np.float32)
    assert counted([np.float64(values)], "float64") == counted([expected])


def test_signs_subnormals_and_zeros_keep_apart():
    least = 2.0**-149
    found = counted([np.float32([0.0, -0.0, least, -least, 1.0, -1.0])])
    assert (found.zeros, found.minimum, found.maximum) == (2, -1.0, 1.0)
    assert found.keys.tolist() == [0, 127 << 10, SIGN_KEY, SIGN_KEY + (127 << 10)]


@pytest.mark.parametrize(
    ("values", "extremes"),
    [
        ([0.0, 3.0, 1.0], (1.0, 3.0)),
        ([-0.0, 3.0, 1.0], (1.0, 3.0)),
        ([0.0, -3.0, -1.0], (-3.0, -1.0)),
        ([0.0, -0.0, -(2.0**-149)], (-(2.0**-149), -(2.0**-149))),
        ([0.0, -0.0, 2.0**-149], (2.0**-149, 2.0**-149)),
        ([0.0, -0.0], (math.inf, -math.inf)),
        ([-0.0], (math.inf, -math.inf)),
        ([0.0, -3.0, 1.0], (-3.0, 1.0)),
    ],
)
def test_extremes_are_those_of_the_values_that_are_not_zero(values, extremes):
    for found in (counted([np.float32(values)]), Sketch.of(count_on_device([torch.tensor(values)], "cpu"))):
        assert (found.minimum, found.maximum) == extremes
        assert (found.min, found.max) == (min(values), max(values))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
def test_nan_of_any_payload_and_sign_is_a_nan(patterns):
    values = np.array(patterns, np.uint32).view(np.float32)
    found = counted([values])
    assert found.nan == np.count_nonzero(np.isnan(values))
    assert found.numel == values.size


@settings(max_examples=20)  # a table of all buckets for each block on a device
@given(st.lists(floats(max_size=20), max_size=4), st.integers(2, 30))
def test_how_the_work_is_blocked_does_not_matter(chunks, block):
    whole = counted([np.concatenate([np.empty(0, np.float32), *chunks])])
    patch = pytest.MonkeyPatch()
    with patch.context() as settings:
        settings.setattr(counting, "BLOCK", block)
        settings.setattr(counting, "SMALL", block // 2)
        settings.setattr(counting, "FLUSH", 2 * block)
        settings.setattr(device_counting, "DEVICE_BLOCK", block)
        assert counted(chunks) == whole
        assert Sketch.of(count_on_device(map(torch.from_numpy, chunks), "cpu")) == whole


def test_the_small_table_is_emptied_before_it_overflows(monkeypatch):
    """With int32 counters that are never emptied, 2³² values of one kind would come to 0."""
    monkeypatch.setattr(counting, "FLUSH", np.iinfo(np.int32).max)
    tally = counting._Tally(4)
    keys = np.ones(1 << 20, np.intp)
    tally.add(keys)
    tally.table[1] = np.iinfo(np.int32).max - 5  # as if so many had been added
    tally.pending = int(tally.table[1])
    tally.add(keys)
    assert tally.buckets()[1].tolist() == [np.iinfo(np.int32).max - 5 + (1 << 20)]
    assert np.iinfo(np.int32).max < counting.FLUSH + counting.BLOCK  # the limit that this test sets is the real one


def test_more_values_than_a_float32_can_count():
    ones = np.ones(1 << 16, np.float32)
    found = counted([*([ones] * (1 << 8)), ones[:5]])
    assert found.counts.tolist() == [2**24 + 5]
    assert torch.ones(2**24 + 5).histc(1, 0.5, 1.5).item() != 2**24 + 5, "the broken twin: a float32 counter"


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "", "cuda:"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UsageError, match="use auto, cpu, cuda or cuda:N"):
        usable_device(name)


def test_an_absent_device_is_refused():
    absent = f"cuda:{torch.cuda.device_count() + 99}"
    with pytest.raises(UsageError, match=f"there is no device '{absent}'"):
        usable_device(absent)
    assert usable_device("auto") == usable_device("cpu") == "cpu"
