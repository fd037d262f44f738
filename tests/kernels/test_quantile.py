"""The method percentile in C, on the CPU and as a device has it: NumPy's answers, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import KINDS, Scheme
from klcal.search.chosen import outcomes_of
from klcal.search.methods import Percentile
from klcal.search.settings import Settings
from klcal.sketches.sketch import Sketch
from tests.kernels.test_device_search import agree, spoiled
from tests.kernels.test_hostile_units import BOUNDS, DTYPES, units
from tests.kernels.test_weighed import laws
from tests.sketches.test_importance import PERS, RESOLUTIONS, whole
from tests.support.devices import Shim
from tests.support.kernels import IS_COMPILED, kernel
from tests.support.lazy import torch
from tests.support.samples import DISTRIBUTIONS, cut, sample

pytestmark = IS_COMPILED

LEAST = 5e-324
PERCENTS = st.one_of(
    st.sampled_from([100.0, 99.99, 99.0, 50.0, 100 / 3, 1e-3, LEAST]), st.floats(0, 100, exclude_min=True)
)


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    dtype = draw(st.sampled_from(DTYPES))
    kind = "auto" if dtype in FLOATS else draw(st.sampled_from(KINDS))
    scale_format = draw(st.sampled_from(["float32", *SCALE_FORMATS]))
    try:
        found = Scheme.parse(dtype, kind, scale_format)
    except UsageError:  # a scheme without such scales
        return Scheme.parse(dtype, kind)
    return replace(found, global_scale=draw(st.sampled_from([1.0, 2.0**-30]))) if found.is_relative else found


@st.composite
def sampled(draw: st.DrawFn) -> Sketch:
    """Two channels, of which the second has the values of the first with other signs; kept whole, or in buckets."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    size = draw(st.sampled_from([1, 3, 40, 300, 9_000]))
    values = sample(rng, draw(st.sampled_from(sorted(DISTRIBUTIONS))), size)
    if draw(st.booleans()):
        values = cut(values)
    found = klcal.sketch(np.stack([values, values * rng.choice(np.float32([-1, 1]), size)]), per="channel")
    bits = draw(st.sampled_from([None, 0, 2, 6]))
    return found if bits is None else found.coarsen(bits)


def differing_columns(found: Sketch, how: Settings) -> list[str]:
    """The columns in which the outcomes by the two kernels differ, by a bit: of the scale before it is rounded, too."""
    outcomes = []
    for name in ("compiled", "numpy"):
        with kernel(name):
            outcomes.append(outcomes_of(found, how)._asdict())
    one, other = outcomes
    return [name for name in one if repr(one[name].tolist()) != repr(other[name].tolist())]


@given(st.one_of(units(), sampled()), PERCENTS, st.sampled_from(BOUNDS), schemes())
@settings(max_examples=400)
def test_both_kernels_keep_the_same_values_to_the_bit(found, percent, bounds, scheme):
    assert not differing_columns(found, Settings(Percentile(percent), scheme, bounds))


@given(laws(), RESOLUTIONS, PERCENTS)
@settings(max_examples=100)
def test_values_that_weigh_something_count_alike(drawn, resolution, percent):
    """Where rules give tensors with an importance different methods, a percentile may be one of them."""
    found = whole(*drawn, PERS[0], resolution=resolution)
    assert not differing_columns(found, Settings(Percentile(percent), Scheme.parse("uint8")))


@pytest.mark.parametrize("bits", [0, 2, 5])
def test_the_sums_of_overlapping_buckets_have_one_order(bits):
    """A last bit of the sums is seen in few quantiles, so there are many."""
    values = np.random.default_rng(bits).laplace(size=(300, 700)).astype(np.float32)
    found = klcal.sketch(values, per="channel").coarsen(bits)
    assert not found.exact.any()
    for percent in (99.99, 99, 90, 70, 50, 30, 10):
        assert not differing_columns(found, Settings(Percentile(percent), Scheme.parse("int8")))


@given(st.integers(1, 700), st.sampled_from(sorted(DISTRIBUTIONS)), st.booleans(), st.integers(0, 999), PERCENTS)
@settings(max_examples=40)
def test_a_device_keeps_the_values_that_the_cpu_keeps(size, name, is_cut, seed, percent):
    rng = np.random.default_rng(seed)
    values = np.stack([sample(rng, name, size), -sample(rng, name, size)])
    tensor = torch.from_numpy((cut(values) if is_cut else values).astype(np.float32))
    for asked in ({"dtype": "int8"}, {"dtype": "uint4", "bounds": (-0.3, 2.0), "scale_format": "float16"}):
        assert not agree(tensor, method=f"percentile:{percent!r}", **asked)


@pytest.mark.parametrize("percent", [99.99, 90, 1e-3])
def test_each_thread_of_a_device_finds_a_percentile(percent):
    """Of 300 units, in two blocks, and of units in buckets."""
    for shape, per in (((30, 1280), "group:128"), ((9, 20_000), "channel")):
        tensor = torch.from_numpy(spoiled(*shape))
        assert not agree(tensor, per, Shim(has_threads=True), dtype="int8", method=f"percentile:{percent}")


def test_the_kernel_is_not_handed_on_to_numpy(monkeypatch):
    """The broken twin of the tests above: they compare two kernels."""
    monkeypatch.setattr(Percentile, "__call__", None)
    with kernel("compiled"):
        assert klcal.calibrate(np.arange(9.0), method="percentile:50", dtype="int8").scale == np.float32(4 / 127)
    with kernel("numpy"), pytest.raises(TypeError):
        klcal.calibrate(np.arange(9.0), method="percentile:50", dtype="int8")
