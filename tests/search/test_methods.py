"""Methods as values, and what tells them apart: a method that does nothing fails here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import klcal
from klcal.calibration.values import calibrate
from klcal.errors import UsageError
from klcal.quantizers.scheme import Scheme, parse_range
from klcal.search.methods import KL, METHODS, MSE, KLClassic, MinMax, Percentile, parse, sub_bins_per_cell
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch
from tests.support.command import SAMPLES

RNG = np.random.default_rng
NORMAL = RNG(0).standard_normal(100_000).astype(np.float32)
HEAVY = {
    "t(3)": RNG(1).standard_t(3, size=100_000),
    "laplace": RNG(2).laplace(size=100_000),
    "lognormal": RNG(3).lognormal(0, 1, size=100_000),
    "normal and outliers": np.append(NORMAL, [30, -40]),
}
LIGHT = {
    "uniform": RNG(4).uniform(-1, 1, size=100_000),
    "relu6": np.clip(RNG(5).normal(2, 3, size=100_000), 0, 6),
    "image": RNG(6).integers(0, 256, size=100_000) / 255,
}


@pytest.mark.parametrize("method", [KL(), KL(bins=100, weight=0.5), KLClassic(), MSE(), MinMax(), Percentile(99.99)])
def test_a_method_is_read_back_from_its_text(method):
    assert parse(str(method)) == method
    assert str(method).partition(":")[0] in METHODS


@given(st.floats(1e-3, 1e9), st.integers(1, 1 << 16), st.floats(1e-3, 100))
def test_any_method_is_read_back_from_its_text(weight, bins, percent):
    for method in (KL(weight=weight, bins=bins), KLClassic(bins=bins), Percentile(percent)):
        assert parse(str(method)) == method
    assert str(Percentile(99)) == str(Percentile(99.0)) == "percentile:99"


@pytest.mark.parametrize(
    ("values", "dtype", "scale"),
    [
        (RNG(7).integers(-100, 101, 1000), "int8", 1.0),
        (RNG(7).integers(0, 201, 1000), "uint8", 1.0),
        (RNG(7).integers(-2, 3, 1000), "int4", 1 / 3),  # of 1, 1/2 and 1/3, the nearest to the full range's
        (RNG(7).integers(-5, 6, 1000), "int4", 1.0),
        (RNG(7).integers(-100, 101, 1000) * 0.015625, "int8", 0.015625),
        ([3.0, 3.0], "int8", 3 / 127),
        ([-127, -64, 64, 127], "int8", 1.0),
    ],
)
@pytest.mark.parametrize("method", ["kl", "mse"])
def test_values_on_a_lattice_that_leaves_levels_unused_are_represented_exactly(values, dtype, scale, method):
    row = calibrate(np.float32(values), dtype=dtype, method=method)
    assert row.scale == pytest.approx(scale)
    assert row.mse == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("layer", [2, 3])
def test_of_bfloat16_values_few_lie_between_levels_of_a_power_of_two(layer):
    """Most of these are whole numbers of 2⁻⁸, the rest of 2⁻⁹; the scale of their range has 20 times the error."""
    tensors = klcal.read(SAMPLES / "minilm_layernorms_bf16.safetensors")
    values = tensors[f"encoder.layer.{layer}.output.LayerNorm.weight"]
    row, power = (calibrate(values, dtype="uint8", method="mse", scale_format=each) for each in ("float32", "e8m0"))
    assert power.scale == 1 / 256
    assert row.mse <= 1.01 * power.mse


def test_texts_of_methods():
    assert str(parse("kl")) == "kl:bins=2048,weight=4"
    assert str(parse("kl", bins=512)) == str(parse("kl:bins=512")) == "kl:bins=512,weight=4"
    assert str(parse("percentile:99.9")) == str(parse("percentile:percent=99.9")) == "percentile:99.9"
    assert [str(parse(name)) for name in ("mse", "minmax", "kl-classic")] == ["mse", "minmax", "kl-classic:bins=2048"]


@pytest.mark.parametrize(
    ("text", "bins", "message"),
    [
        ("kll", None, "unknown method 'kll'; did you mean kl"),
        ("xyz", None, "use one of kl, kl-classic, mse, percentile, minmax"),
        ("", None, "unknown method ''"),
        ("kl:weigth=1", None, "method kl has no parameter 'weigth'; it takes bins, weight"),
        ("kl:weight", None, "'weight' in method 'kl:weight' is no parameter; write name:field=number"),
        ("kl:weight=1e-9", None, "the weight is 1e-09"),
        ("kl:weight=abc", None, "is not a number; write name:field=number"),
        ("kl:weight=0", None, "the weight is 0.0; it is a number, at least 0.001 and finite"),
        ("kl:weight=-1", None, "the weight is -1.0"),
        ("kl:weight=nan", None, "the weight is nan"),
        ("kl:weight=inf", None, "the weight is inf"),
        ("kl:bins=0", None, "the number of bins is 0; it is an int, at least 1"),
        ("kl:bins=2.5", None, "the number of bins is 2.5"),
        ("kl-classic:bins=-4", None, "the number of bins is -4"),
        ("kl:bins=64", 64, "bins are given twice"),
        ("kl:bins=64,bins=65", None, "a parameter is given twice"),
        ("mse", 64, "method mse has no parameter 'bins'; it takes no parameters"),
        ("minmax:x=1", None, "it takes no parameters"),
        ("percentile", None, "write percentile:99.99"),
        ("percentile:0", None, "percentile 0 is not in"),
        ("percentile:101", None, "percentile 101 is not in"),
        ("percentile:nan", None, "percentile nan is not in"),
        ("percentile:", None, "write percentile:99.99"),
    ],
)
def test_an_unknown_method_is_explained(text, bins, message):
    with pytest.raises(UsageError) as caught:
        parse(text, bins)
    assert message in str(caught.value)


@pytest.mark.parametrize("bins", [10**9, 2**20])
def test_more_bins_than_memory_has_room_for_are_refused(bins):
    with pytest.raises(UsageError, match="at most"):
        parse("kl", bins)


def test_cells_are_cut_into_as_many_sub_bins_as_the_bins_allow():
    assert [
        sub_bins_per_cell(2048, Scheme(dtype, "symmetric").size) for dtype in ("int2", "int4", "int8", "int16")
    ] == [
        683,
        137,
        8,
        1,
    ]
    assert sub_bins_per_cell(1, 255) == 1


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint8", "uint4"])
@pytest.mark.parametrize("values", HEAVY.values(), ids=HEAVY)
def test_a_heavy_tail_is_clipped(values, dtype):
    values = values.astype(np.float32)
    full = calibrate(values, dtype=dtype, method="minmax")
    for method in ("kl", "mse", "percentile:99.9"):
        row = calibrate(values, dtype=dtype, method=method)
        assert row.high - row.low < 0.995 * (full.high - full.low), method
        assert row.clipped > 0, method


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("values", LIGHT.values(), ids=LIGHT)
def test_a_light_tail_is_not(values, dtype):
    values = values.astype(np.float32)
    full = calibrate(values, dtype=dtype, method="minmax")
    for method in ("kl", "mse", "percentile:100"):
        row = calibrate(values, dtype=dtype, method=method)
        assert row.high - row.low == pytest.approx(full.high - full.low, rel=0.02), method


def test_min_max_is_the_range_of_the_data_and_zero():
    for values, low, high in (([-1, 3], -1, 3), ([2, 3], 0, 3), ([-3, -2], -3, 0)):
        row = calibrate(np.float32(values), method="minmax")
        step = row.scale
        assert (row.low, row.high) == (pytest.approx(low, abs=step), pytest.approx(high, abs=step))
        row = calibrate(np.float32(values), dtype="int8", method="minmax")
        assert row.high == -row.low == pytest.approx(max(-low, high))


@pytest.mark.parametrize("percent", [50, 90, 99.9, 99.99, 100])
def test_a_symmetric_percentile_is_numpys(percent):
    row = calibrate(NORMAL, dtype="int8", method=f"percentile:{percent}")
    assert row.high == pytest.approx(np.percentile(np.abs(NORMAL), percent), rel=5e-3)


@pytest.mark.parametrize("percent", [90, 99.9, 100])
def test_an_affine_percentile_leaves_half_the_rest_at_each_end(percent):
    row = calibrate(NORMAL, dtype="uint8", method=f"percentile:{percent}")
    rest = (100 - percent) / 2
    low, high = np.percentile(NORMAL, [rest, 100 - rest])
    assert (row.low, row.high) == (pytest.approx(low, abs=row.scale), pytest.approx(high, abs=row.scale))


def test_the_divergence_of_the_literature_ignores_how_far_values_are_clipped_and_a_fixed_histogram_does_not_see_them():
    """Two values at 500 and -700 beside 10⁵ of N(0,1): bins that follow the candidate keep the body in view."""
    values = np.append(NORMAL, np.float32([500, -700]))
    assert 3 < calibrate(values, dtype="int8", method="kl-classic").high < 6
    assert not 3 < _threshold_of_a_fixed_histogram(values) < 6


def _threshold_of_a_fixed_histogram(values, bins: int = 2048, levels: int = 128) -> float:
    """S7310 on |x| over the full range, as most tools have it: all of the body is in the first dozen bins."""
    counts, edges = np.histogram(np.abs(values), bins)
    best = (np.inf, 0)
    for kept in range(levels, bins + 1):
        p = counts[:kept].astype(float)
        level = np.arange(kept) * levels // kept
        inside = np.bincount(level, p, levels)
        occupied = np.maximum(np.bincount(level, p > 0, levels), 1)
        q = np.where(p > 0, (inside / occupied)[level], 0)
        p[-1] += counts[kept:].sum()
        if (q[p > 0] > 0).all():
            divergence = np.sum(p[p > 0] / p.sum() * np.log(p[p > 0] / p.sum() / (q[p > 0] / q.sum())))
            best = min(best, (divergence, kept))
    return edges[best[1]]


def test_the_range_bounds_what_is_kept():
    for method in ("kl", "mse", "minmax", "percentile:99.99", "kl-classic"):
        row = calibrate(NORMAL, method=method, bounds=(-1.0, 0.5))
        assert row.low >= -1.0 - row.scale
        assert row.high <= 0.5 + row.scale
        assert row.clipped == pytest.approx(
            np.mean((row.low - row.scale / 2 > NORMAL) | (row.high + row.scale / 2 < NORMAL)), abs=2e-3
        )
    wide = calibrate(NORMAL, method="minmax", bounds=(-100.0, 100.0))
    assert wide == calibrate(NORMAL, method="minmax")


@pytest.mark.parametrize("text", ["1", "1,2", "-2,-1", "0,0", "a,b", "nan,1", "-inf,1", "1,-1", "-1,1,2", ""])
def test_a_range_without_zero_or_width_is_refused(text):
    with pytest.raises(UsageError, match="range"):
        parse_range(text)


def test_the_search_of_an_adversary_s_sketch_ends():
    """Buckets over all octaves, each with one value: the deepest search there is."""
    values = np.ldexp(np.float32(1.37), np.arange(-126, 128)).astype(np.float32)
    values = np.concatenate([values, -values])
    assert Distribution.of(sketch(values)).size == 508
    for dtype in ("int8", "uint8", "int4"):
        for method in ("kl", "mse", "kl-classic"):
            assert calibrate(values, dtype=dtype, method=method).status == "ok"
