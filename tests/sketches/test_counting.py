"""Counting: the same integers whoever counts, checked against a count of single values."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.errors import UsageError
from klcal.sketches import numpy_counting
from klcal.sketches.counting import FLOAT_DTYPES, count
from klcal.sketches.device_counting import usable_device, usable_devices
from klcal.sketches.patterns import FEW, TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from tests.support.devices import TORCH_DTYPES, as_tensor, counted_on_a_device, idle_devices
from tests.support.lazy import torch
from tests.support.sketches import RESOLUTIONS, one_by_one
from tests.support.strategies import floats

NARROW = [dtype for dtype in FLOAT_DTYPES if dtype not in ("float64", "float32")]
SIGN = 1 << 31
WIDTHS = {np.uint8: 1 << 8, np.uint16: 1 << 16, np.float16: 1 << 16}


def numpy_type(dtype: str) -> type:
    return np.float16 if dtype == "float16" else getattr(ml_dtypes, dtype)


def counted(chunks, dtype: str = "float32", resolution: Resolution = TENSOR) -> Sketch:
    return count(chunks, dtype, resolution)


def on_a_device(chunks, resolution: Resolution = TENSOR, *, dtype: str = "float32") -> Sketch:
    """By the kernels of a device, on the CPU."""
    return counted_on_a_device([as_tensor(chunk, dtype) for chunk in chunks], dtype, resolution)


@given(floats(), RESOLUTIONS)
def test_counts_are_those_of_single_values(values, resolution):
    assert counted([values], resolution=resolution) == one_by_one([values], resolution)


@given(st.lists(st.floats(), max_size=40), RESOLUTIONS)
def test_float64_is_rounded_and_what_over_or_underflows_is_counted_as_that(values, resolution):
    found = counted([np.float64(values)], "float64", resolution)
    assert found == one_by_one([values], resolution) == on_a_device([np.float64(values)], resolution, dtype="float64")
    assert found.numel[0] == len(values)


def test_a_float64_that_overflows_is_not_infinite_and_one_that_underflows_is_a_zero():
    values = np.float64([1e300, -1e300, math.inf, 1e-300, 0.0, 3.0])
    for found in (counted([values], "float64"), on_a_device([values], dtype="float64")):
        assert (found.overflowed[0], found.pos_inf[0], found.neg_inf[0]) == (2, 1, 0)
        assert (found.underflowed[0], found.zeros[0], found.finite[0], found.numel[0]) == (1, 2, 3, 6)
        assert (found.minimum[0], found.maximum[0]) == (3.0, 3.0)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_pattern_of_a_narrow_float_is_counted_as_the_value_it_stands_for(dtype):
    width = 16 if dtype == "float4_e2m1fn" else WIDTHS[FLOAT_DTYPES[dtype]]
    patterns = np.arange(width, dtype=f"u{np.dtype(FLOAT_DTYPES[dtype]).itemsize}")
    found = counted([patterns.view(FLOAT_DTYPES[dtype])], dtype)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        assert found == one_by_one([patterns.view(numpy_type(dtype)).astype(np.float64)], TENSOR)
    if dtype in TORCH_DTYPES:
        torch_values = as_tensor(patterns, dtype).to(torch.float64)
        assert found == one_by_one([torch_values.tolist()], TENSOR)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bfloat16_and_float16_have_a_bucket_for_every_value(dtype):
    """But for float16's and bfloat16's own subnormals below float32's precision there, nothing is rounded."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        values = patterns.view(numpy_type(dtype)).astype(np.float32)
    distinct = np.unique(values[np.isfinite(values) & (values != 0)]).size
    assert counted([patterns], dtype).keys.size == distinct


def test_signs_subnormals_and_zeros_keep_apart():
    least = 2.0**-149
    found = counted([np.float32([0.0, -0.0, least, -least, 1.0, -1.0])])
    assert (found.zeros[0], found.minimum[0], found.maximum[0]) == (2, -1.0, 1.0)
    assert found.keys.tolist() == [1, 127 << 23, SIGN + 1, SIGN + (127 << 23)]
    in_buckets = counted([np.float32([0.0, -0.0, least, -least, 1.0, -1.0])], resolution=Resolution(few=0))
    assert in_buckets.keys.tolist() == [0, 127 << 23, SIGN, SIGN + (127 << 23)]
    assert in_buckets.zeros[0] == 2


@given(st.lists(st.integers(-9, 9).map(lambda step: step * 2.0**-149), max_size=20), RESOLUTIONS)
def test_subnormals_are_counted_by_value_among_the_few_and_never_as_zeros(values, resolution):
    values = np.float32(values)
    found = counted([values], resolution=resolution)
    assert found == one_by_one([values], resolution)
    assert found.nonzero[0] == np.count_nonzero(values)


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
    for few in (0, 4096):
        for counting_ in (counted, on_a_device):
            found = counting_([np.float32(values)], resolution=Resolution(few=few))
            assert (found.minimum[0], found.maximum[0]) == extremes
            assert (found.min[0], found.max[0]) == (min(values), max(values))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
def test_nan_of_any_payload_and_sign_is_a_nan(patterns):
    values = np.array(patterns, np.uint32).view(np.float32)
    found = counted([values])
    assert found.nan[0] == np.count_nonzero(np.isnan(values))
    assert found.numel[0] == values.size


@given(st.lists(floats(max_size=20), max_size=4), st.integers(2, 30), RESOLUTIONS)
def test_how_the_work_is_blocked_does_not_matter(chunks, block, resolution):
    whole = counted([np.concatenate([np.empty(0, np.float32), *chunks])], resolution=resolution)
    patch = pytest.MonkeyPatch()
    with patch.context() as settings:
        settings.setattr(numpy_counting, "BLOCK", block)
        settings.setattr(numpy_counting, "SMALL", block // 2)
        settings.setattr(numpy_counting, "FLUSH", 2 * block)
        assert counted(chunks, resolution=resolution) == whole


@pytest.mark.parametrize("few", [FEW - 1, FEW, FEW + 1])
def test_few_values_are_kept_whole_and_one_more_is_cut(few):
    """Zeros, infinities and NaN of many payloads are no values among them."""
    own = (np.arange(few, dtype=np.uint32) * 4099 + 0x3F800001).view(np.float32)
    payloads = np.arange(0x7F800001, 0x7F800001 + FEW, dtype=np.uint32).view(np.float32)
    values = np.concatenate([own, own[:100], payloads, np.float32([0.0, -0.0, np.inf])])
    values = values[np.random.default_rng(0).permutation(values.size)]
    found = counted([values])
    assert found.whole[0] == found.exact[0] == (few <= FEW)
    assert found.keys.size == (few if few <= FEW else np.unique(own.view(np.uint32) >> 13).size)
    assert found == on_a_device([values]) == counted(np.array_split(values, 7)) == counted([values[::-1].copy()])
    assert (found.nonzero[0], found.nan[0], found.zeros[0]) == (few + 100, FEW, 2)


def test_few_values_in_much_data_are_whole_and_one_rare_stranger_after_another_is_not_forgotten():
    lattice = np.float32(0.0137) * np.random.default_rng(0).integers(-7, 8, 1 << 18).astype(np.float32)
    found = counted([lattice])
    assert (found.keys.size, found.exact[0]) == (14, True)
    strangers = (np.arange(FEW, dtype=np.uint32) + 0x3F800001).view(np.float32)
    assert counted([lattice, strangers]) == counted([lattice]) + counted([strangers])
    assert not counted([lattice, strangers]).exact[0]


def test_the_small_table_is_emptied_before_it_overflows(monkeypatch):
    """With int32 counters that are never emptied, 2³² values of one kind would come to 0."""
    monkeypatch.setattr(numpy_counting, "FLUSH", np.iinfo(np.int32).max)
    tally = numpy_counting._Tally(4)
    keys = np.ones(1 << 20, np.intp)
    tally.add(keys)
    tally.table[1] = np.iinfo(np.int32).max - 5  # as if so many had been added
    tally.pending = int(tally.table[1])
    tally.add(keys)
    assert tally.buckets()[1].tolist() == [np.iinfo(np.int32).max - 5 + (1 << 20)]
    # the limit that this test sets is the real one
    assert np.iinfo(np.int32).max < numpy_counting.FLUSH + numpy_counting.BLOCK


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
    assert usable_devices("auto") == usable_devices("cpu") == ()


def test_all_devices_are_those_that_torch_finds(monkeypatch):
    idle_devices(monkeypatch, 2)
    assert usable_devices("cuda:all") == ("cuda:0", "cuda:1")
    assert (usable_devices("cuda"), usable_devices("cuda:1")) == (("cuda",), ("cuda:1",))
    idle_devices(monkeypatch, 0)
    with pytest.raises(UsageError, match="there is no device 'cuda:all': torch"):
        usable_devices("cuda:all")


def test_a_driver_that_is_too_old_is_called_that(monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update")

    idle_devices(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UsageError, match=r"the NVIDIA driver is too old for torch .* with CUDA 13\.0; use --device"):
        usable_devices("cuda")
