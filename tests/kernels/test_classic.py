"""`kl-classic` in C gives what NumPy gives, to the bit, and leaves out nothing that could win."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.kernels.threads import at_most_threads
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import KINDS, Scheme
from klcal.search import classic
from klcal.search.choices import Spans, full_choices
from klcal.search.classic import classic_divergences, classic_grid
from klcal.search.methods import KL, MSE, KLClassic
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch
from tests.support.kernels import IS_COMPILED, both, differing, kernel
from tests.support.samples import DISTRIBUTIONS, cut, sample

INTEGERS = ("int2", "int3", "int4", "uint4", "int5", "int8", "uint8")
METHODS = ("kl-classic", "kl-classic:bins=300", "kl-classic:bins=777", "kl-classic:bins=2")
SIZES = st.sampled_from([1, 2, 5, 9, 40, 130, 700, 4_096, 9_000])  # beyond 4,096 distinct values there are buckets


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """How a tensor is calibrated."""
    dtype = draw(st.sampled_from((*INTEGERS, *FLOATS)))
    return {
        "dtype": dtype,
        "scheme": "auto" if dtype in FLOATS else draw(st.sampled_from(KINDS)),
        "method": draw(st.sampled_from(METHODS)),
        "scale_format": draw(st.one_of(st.just("float32"), st.sampled_from(sorted(SCALE_FORMATS)))),
        "bounds": draw(st.one_of(st.none(), st.none(), st.sampled_from([(-2.0, 0.7), (0.0, 3.0), (-0.3, 0.0)]))),
    }


@given(requests(), SIZES, st.sampled_from(sorted(DISTRIBUTIONS)), st.booleans(), st.booleans(), st.integers(0, 999))
@settings(max_examples=60)
def test_both_kernels_choose_alike_to_the_bit(asked, size, name, is_cut, is_weighed, seed):
    rng = np.random.default_rng(seed)
    units = np.stack([sample(rng, name, size), -np.roll(sample(rng, name, size), 1)])
    values = (cut(units) if is_cut else units).astype(np.float32)
    if is_weighed:
        weights = 10.0 ** rng.uniform(-6, 6, size)
        asked["importance"] = np.where(rng.random(size) < 0.1, 0.0, weights).astype(np.float32)
    try:
        one, other = both(lambda: klcal.calibrate(values, per="channel", **asked))
    except UsageError:  # a scheme without such scales
        return
    assert not differing(one, other)


EXTREMES = [
    [1e-45, 3e-45, -1e-40, 2e-38],
    [3.4e38, -3.4e38, 1.0, 1e-30],
    [5.0],
    [-5.0, -5.0, -5.0],
    [1e-30] * 40 + [1e30],
    list(np.linspace(-1, 1, 255)),
    list(np.arange(-64, 64) / 8),
    [0.0] * 50 + [1.0],
]


@pytest.mark.parametrize("values", EXTREMES, ids=range(len(EXTREMES)))
@pytest.mark.parametrize("dtype", ["int4", "uint8", "float4_e2m1fn", "float8_e5m2", "nf4"])
@pytest.mark.parametrize("times", [1, 5])
def test_both_kernels_choose_alike_at_the_ends_of_floats(values, dtype, times):
    array = np.float32(values * times)
    assert not differing(*both(lambda: klcal.calibrate(array, dtype=dtype, method="kl-classic")))


@pytest.mark.parametrize("dtype", ["int8", "uint4", "float8_e4m3fn"])
def test_both_kernels_choose_alike_for_a_tensor_of_many_buckets(dtype):
    values = np.random.default_rng(5).laplace(size=60_000).astype(np.float32)
    assert not differing(*both(lambda: klcal.calibrate(values, dtype=dtype, method="kl-classic")))


@pytest.mark.parametrize(("dtype", "bins"), [("int4", 60), ("uint4", 64), ("float4_e2m1fn", 60)])
@pytest.mark.parametrize("weighed", [False, True])
def test_both_kernels_choose_alike_where_values_lie_on_the_edges_of_sub_bins(dtype, bins, weighed):
    """Whole numbers of a quarter of many scales: on which side of an edge a value is counted decides what is chosen."""
    rng = np.random.default_rng(7)
    values = (np.round(rng.normal(size=(100, 60)) * 12) / 4).astype(np.float32)
    asked: dict[str, Any] = {"dtype": dtype, "method": f"kl-classic:bins={bins}", "per": "channel"}
    if weighed:
        asked["importance"] = rng.integers(1, 9, 60).astype(np.float32)
    assert not differing(*both(lambda: klcal.calibrate(values, **asked)))


@IS_COMPILED
@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
@pytest.mark.parametrize("dtype", ["int8", "int4", "float4_e2m1fn"])
def test_no_scale_of_the_whole_grid_has_a_lower_divergence(name, dtype):
    """Neither bound is used here: every scale of twelve octaves is judged, but for what clips all values."""
    values = sample(np.random.default_rng(3), name, 400).astype(np.float32)
    scheme, method = Scheme.parse(dtype), KLClassic()
    distribution = Distribution.of(sketch(values))
    spans = Spans.of(distribution, None)
    with kernel("compiled"):
        scale, below = method(distribution, scheme, spans)
    sub = round(method.bins / scheme.size)
    scales = np.append(scale, full_choices(scheme, spans).scale * classic_grid(scheme).ratios[::5])
    loss = classic_divergences(
        distribution.prefix_sums(0), scheme, scales, np.full(scales.size, below[0], np.int64), sub
    )
    assert loss[0] <= loss.min() * (1 + 1e-12)


@IS_COMPILED
def test_one_thread_and_three_choose_alike():
    values = np.random.default_rng(8).laplace(size=(20, 2_000)).astype(np.float32)
    rows = []
    for number in (1, 3):
        with at_most_threads(number):
            rows.append(klcal.calibrate(values, dtype="uint4", method="kl-classic", per="channel"))
    assert not differing(*rows)


@IS_COMPILED
def test_choices_that_are_known_are_candidates_and_not_searched_again(monkeypatch):
    values = np.random.default_rng(4).standard_t(3, size=(5, 300)).astype(np.float32)
    distribution = Distribution.of(klcal.sketch(values, per="channel"))
    scheme, method = Scheme.parse("uint4"), KLClassic()
    spans = Spans.of(distribution, None)
    wanted = method(distribution, scheme, spans)
    also = [each(distribution, scheme, spans) for each in (MSE(), KL())]
    monkeypatch.setattr("klcal.search.methods.least_loss", None)
    found = method.among(distribution, scheme, spans, also)
    assert np.array_equal(wanted.scale, found.scale)
    assert np.array_equal(wanted.below, found.below)


@IS_COMPILED
def test_a_bound_that_is_too_sharp_is_noticed(monkeypatch):
    """The broken twin: the grid ends after the first batch, as if nothing behind it could win."""
    values = np.random.default_rng(6).laplace(size=(4, 4_096)).astype(np.float32)
    right = klcal.calibrate(values, dtype="int4", method="kl-classic", per="channel")
    grid = classic_grid(Scheme.parse("int4"))
    monkeypatch.setattr(
        "klcal.search.compiled_outcomes.classic_grid", lambda _: grid._replace(ratios=grid.ratios[: classic.BATCH // 4])
    )
    assert "unit.scale" in differing(right, klcal.calibrate(values, dtype="int4", method="kl-classic", per="channel"))
