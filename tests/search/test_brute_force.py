"""The dense search that judges klcal's is itself judged: by the definitions in plain Python, and by broken twins."""

from __future__ import annotations

import math
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import brute_force, slow
from tests.support.brute_force import Levels, Unit
from tests.support.strategies import tensors

SCHEMES = [(dtype, kind) for dtype in ("int2", "uint3", "int4") for kind in slow.KINDS]
SCHEMES += [(dtype, "symmetric") for dtype in ("float4_e2m1fn", "nf4")]
scheme_ids = {"ids": lambda each: each if isinstance(each, str) else "-".join(each)}


def slow_candidates(values, levels: Levels, dtype: str, kind: str, scales) -> list[list[float]]:
    """The mean squared error of each scale and option, value by value."""
    pieces = slow.points(values)
    return [[slow.mse(pieces, scale, option) for option in slow.options(dtype, kind)] for scale in scales]


@pytest.mark.parametrize("scheme", SCHEMES, **scheme_ids)
@settings(max_examples=8)
@given(values=tensors(12), seed=st.integers(0, 99))
def test_squared_errors_are_those_of_the_definition(scheme, values, seed):
    unit, levels = Unit.of(values), Levels.of(*scheme)
    scales = np.random.default_rng(seed).choice(brute_force.grid(unit, levels), 5)
    expected = np.array(slow_candidates(values, levels, *scheme, scales))
    found = brute_force.search(unit, levels, scales).errors
    noise = 1e-13 * unit.energy / unit.size
    assert found == pytest.approx(expected, rel=1e-9, abs=noise)
    for scale, row in zip(scales, expected, strict=True):
        for below, price in zip(levels.belows, row, strict=True):
            direct = brute_force.error(unit, scale, levels.listed(int(below)))
            assert direct == pytest.approx(price, rel=1e-9, abs=noise)


def test_a_search_with_a_level_too_few_or_shifted_is_noticed():
    values = np.random.default_rng(0).standard_normal(12).astype(np.float32)
    unit, levels = Unit.of(values), Levels.of("int3", "affine")
    scales = brute_force.grid(unit, levels)[::100]
    expected = np.array(slow_candidates(values, levels, "int3", "affine", scales))
    assert brute_force.search(unit, levels, scales).errors == pytest.approx(expected, rel=1e-9)
    for broken in (levels._replace(size=7), levels._replace(belows=(levels.belows + 1) % 8)):
        assert brute_force.search(unit, broken, scales).errors != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "scheme", [("int4", "symmetric-signed"), ("uint4", "affine"), ("nf4", "symmetric")], **scheme_ids
)
@settings(max_examples=25)
@given(values=tensors(12), sub=st.integers(1, 9), seed=st.integers(0, 99))
def test_divergences_are_those_of_the_definition(scheme, values, sub, seed):
    unit, levels = Unit.of(values), Levels.of(*scheme)
    rng = np.random.default_rng(seed)
    scale, below = rng.choice(brute_force.grid(unit, levels)), int(rng.choice(levels.belows))
    option = slow.options(*scheme)[below - int(levels.belows[0])]
    least, most = brute_force.divergences(unit, scale, levels.listed(below), sub)
    assert least - 1e-9 <= slow.divergence(slow.points(values), scale, option, sub) <= most + 1e-9
    assert -1e-12 <= least <= most <= math.log(sub) + 1e-9


@settings(max_examples=8)
@given(values=tensors(12), sub=st.sampled_from([2, 5]))
def test_the_search_finds_the_smallest_loss_of_all_candidates(values, sub):
    unit, levels = Unit.of(values), Levels.of("uint2", "affine")
    scales = brute_force.grid(unit, levels)[::60]
    candidates = brute_force.search(unit, levels, scales)
    least = max(candidates.least, 1e-9 * unit.energy)
    losses = [
        4 * error / (2 * least) + brute_force.divergences(unit, scale, levels.listed(below), sub)[1]
        for scale, row in zip(scales, candidates.errors, strict=True)
        for below, error in enumerate(row)
    ]
    assert brute_force.least_loss(unit, levels, candidates, sub, 4.0, least) == pytest.approx(min(losses))


@pytest.mark.parametrize("scheme", [*SCHEMES, ("int8", "symmetric"), ("uint8", "affine")], **scheme_ids)
@settings(max_examples=10)
@given(values=tensors(8))
def test_no_candidate_of_a_dense_search_is_better_than_the_optimum(scheme, values):
    unit, levels = Unit.of(values), Levels.of(*scheme)
    best, dense = brute_force.optimum(unit, levels), brute_force.search(unit, levels).least
    noise = 1e-13 * unit.energy / unit.size
    assert best <= dense * (1 + 1e-9) + noise
    assert dense <= 3 * best + 1e-4 * unit.energy / unit.size  # and the grid lies near it


def test_the_full_scale_is_the_smallest_that_clips_nothing():
    unit = Unit.of([-3.0, 1.0, 7.0])
    assert brute_force.full_scale(unit, Levels.of("int4", "symmetric")) == 1.0
    assert brute_force.full_scale(unit, Levels.of("int4", "symmetric-full")) == 1.0
    assert brute_force.full_scale(unit, Levels.of("int4", "symmetric-signed")) == 7 / 8
    assert brute_force.full_scale(unit, Levels.of("uint4", "affine")) == 0.7
    assert brute_force.full_scale(unit, Levels.of("float4_e2m1fn")) == 7 / 6
    grid = brute_force.grid(unit, Levels.of("int4", "symmetric"))
    assert 1.0 in grid
    assert grid[0] == pytest.approx(1 / 16, rel=3e-3)
    assert grid[-1] == pytest.approx(2, rel=3e-3)
    assert np.diff(np.log(grid)).max() < 0.0026


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_the_references_code_points_are_those_of_ml_dtypes(dtype):
    codes = np.arange(16 if dtype == "float4_e2m1fn" else 256, dtype=np.uint8).view(getattr(ml_dtypes, dtype))
    values = codes.astype(np.float64)
    assert slow.FLOATS[dtype] == np.unique(values[np.isfinite(values)] + 0.0).tolist()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_the_references_rounding_is_that_of_ml_dtypes(dtype):
    levels = slow.FLOATS[dtype]
    middles = [(a + b) / 2 for a, b in pairwise(levels)]
    near = [x for x in [*levels, *middles, *np.random.default_rng(0).uniform(-7, 7, 50)] if abs(x) <= levels[-1]]
    expected = np.float64(near).astype(getattr(ml_dtypes, dtype)).astype(float).tolist()
    assert [slow.rounded(x, 1.0, levels) for x in near] == expected


@given(x=st.one_of(st.floats(-20, 20), st.integers(-40, 40).map(lambda k: k / 2)))
def test_the_references_rounding_of_integers_is_half_even(x):
    for below in (0, 7, 8, 15):
        level = slow.rounded(x, 1.0, slow.integers(16, below))
        assert level == min(max(round(x), -below), 15 - below)
        assert slow.is_clipped(x, 1.0, slow.integers(16, below)) == (not -below <= round(x) <= 15 - below)


def test_the_reference_gives_known_numbers():
    values, levels = [0.0, 0.2, -0.5, 0.5, 7.5, 7.6, -9.0], slow.integers(15, 7)
    assert slow.count_rounded_to_zero(values, 1.0, levels) == 3
    assert slow.count_clipped(values, 1.0, levels) == 3  # 7.5 would round to 8
    assert slow.squared_error(values, 1.0, levels) == pytest.approx(0.04 + 0.25 + 0.25 + 0.25 + 0.36 + 4.0)
    assert slow.percentile([0.0, 0.0, 3.0, -1.0, 2.0], "66.7") == 3.0
    assert slow.percentile([0.0, 0.0, 3.0, -1.0, 2.0], "66.6") == 2.0
    assert [slow.sub_bins(2048, levels) for levels in (15, 255, 256, 65536)] == [137, 8, 8, 1]
