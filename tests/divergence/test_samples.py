"""Bins hold all values, the bias of an estimate is what is said, and merging bins never tells laws further apart."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from klcal.divergence import DIVERGENCES, entropy, kl, wasserstein
from klcal.divergence.densities import kl_normal
from klcal.divergence.samples import (
    Pair,
    common_bins,
    even_bins,
    kl_bias,
    mass_bins,
    plug_in_entropy,
    plug_in_kl,
    sketch_bins,
)
from klcal.errors import InputError, UsageError
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support.strategies import FINITE, floats, tensors

VALUES = floats(FINITE).filter(len)
BINNINGS = [sketch_bins, partial(sketch_bins, mantissa_bits=2), even_bins, partial(even_bins, bins=7), mass_bins]
some = settings(max_examples=20)
ALL = pytest.mark.parametrize("binned", BINNINGS, ids=["buckets", "coarse", "even", "even-7", "mass"])


def check_binning(binned, a, b):
    pair = binned(sketch(a), sketch(b))
    assert pair.counts_p.shape == pair.counts_q.shape == pair.positions.shape
    for counts, values in ((pair.counts_p, a), (pair.counts_q, b)):
        assert counts.min() >= 0
        assert counts.sum() == pytest.approx(values.size)
        for sign in (-1, 0, 1):
            at = np.sign(pair.positions) == sign
            if binned not in (BINNINGS[2], BINNINGS[3]):  # whose bins around zero hold both signs
                assert counts[at].sum() == np.count_nonzero(np.sign(values) == sign)
    assert (np.diff(pair.positions) >= 0).all()


@some
@given(VALUES, VALUES)
@ALL
def test_bins_hold_all_values_in_order(binned, a, b):
    check_binning(binned, a, b)


def test_the_check_refuses_bins_over_the_range_of_p():
    def of_p(a, b):
        pair = even_bins(a, b)
        inside = pair.positions <= a.maximum
        return Pair(pair.counts_p[inside], pair.counts_q[inside], pair.positions[inside])

    with pytest.raises(AssertionError):
        check_binning(of_p, np.float32([1, 2]), np.float32([3, 4]))


@some
@given(tensors(60), tensors(60))
@ALL
def test_the_order_of_the_samples_does_not_matter(binned, a, b):
    pair, other = binned(sketch(a), sketch(b)), binned(sketch(b), sketch(a))
    assert pair.counts_p == pytest.approx(other.counts_q)
    assert pair.counts_q == pytest.approx(other.counts_p)
    assert plug_in_kl(binned(sketch(a), sketch(a))) == 0 == wasserstein(*[binned(sketch(a), sketch(a)).p] * 2)


@some
@given(VALUES, VALUES)
def test_buckets_are_counts_of_the_values(a, b):
    a, b = ((each.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for each in (a, b))
    pair = sketch_bins(sketch(a), sketch(b))
    assert pair.positions.tolist() == np.unique(np.concatenate([a, b]) + 0.0).tolist()
    for values, counts in ((a, pair.counts_p), (b, pair.counts_q)):
        assert counts.tolist() == [np.count_nonzero(values == position) for position in pair.positions]


@some
@given(tensors(60), tensors(60), st.integers(1, 60))
def test_even_bins_are_those_of_numpy(a, b, bins):
    """But for values on edges, and buckets that are cut."""
    a, b = (np.round(each / np.abs(each).max() * 64).astype(np.float32) for each in (a, b))
    assume(a.any() and b.any())
    pair = even_bins(sketch(a), sketch(b), bins)
    both = np.concatenate([a[a != 0], b[b != 0]])
    edges = np.linspace(both.min(), both.max(), bins + 1)
    assume(not set(edges[1:-1]) & set(both.tolist()))
    atom = [np.count_nonzero(pair.positions < 0)] if (a == 0).any() or (b == 0).any() else []
    for values, counts in ((a, pair.counts_p), (b, pair.counts_q)):
        assert np.delete(counts, atom).tolist() == np.histogram(values[values != 0], edges)[0].tolist()


@some
@given(tensors(200), tensors(200), st.integers(0, 10))
def test_data_processing_inequality_of_sketches(a, b, bits):
    """Coarser buckets, and runs of buckets, never tell two samples further apart."""
    fine = sketch_bins(sketch(a), sketch(b))
    for coarse in (sketch_bins(sketch(a), sketch(b), bits), mass_bins(sketch(a), sketch(b), 5)):
        for name in ("kl", "reverse_kl", "js", "total_variation", "hellinger"):
            divergence = DIVERGENCES[name]
            assert divergence(coarse.p, coarse.q) <= divergence(fine.p, fine.q) + 1e-12


@some
@given(tensors(60), tensors(60))
def test_w1_of_buckets_is_that_of_the_samples_to_half_a_bucket(a, b):
    pair = sketch_bins(sketch(a), sketch(b))
    expected = stats.wasserstein_distance(a.astype(float), b.astype(float))
    width = float(np.abs(a).mean() + np.abs(b).mean()) * 2.0**-10
    assert wasserstein(pair.p, pair.q, positions=pair.positions) == pytest.approx(expected, abs=width)


def test_mass_bins_have_equal_shares():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20_000), np.concatenate([rng.normal(3, 2, 5_000), np.zeros(100)])
    pair = mass_bins(sketch(a), sketch(b), 16)
    assert pair.positions.size in (17, 18)  # one at 0, and one is cut there
    shares = np.sort((pair.p + pair.q) / 2)[3:]
    assert shares == pytest.approx(np.full(shares.size, 1 / 16), rel=0.05)
    assert pair.counts_q[pair.positions == 0].tolist() == [100]


def test_the_estimate_of_normal_distributions_is_near_the_closed_form():
    rng = np.random.default_rng(1)
    a, b = sketch(rng.normal(0, 1, 100_000)), sketch(rng.normal(0.5, 1.5, 100_000))
    assert plug_in_kl(mass_bins(a, b)) == pytest.approx(kl_normal(0, 1, 0.5, 1.5), rel=0.02)
    assert plug_in_kl(mass_bins(b, a)) == pytest.approx(kl_normal(0.5, 1.5, 0, 1), rel=0.1)  # tails are merged
    assert plug_in_kl(mass_bins(b, a, 8)) < plug_in_kl(mass_bins(b, a)) < kl_normal(0.5, 1.5, 0, 1)
    assert plug_in_kl(even_bins(a, b)) == math.inf  # in the tails, where bins are nearly empty


# --- common bins


def check_common(binned, a, b):
    """All values are there, each bin has some of both or none was merged, and nothing is told further apart."""
    pair, bins = binned(a, b), max(2, min(64, int(min(a.finite[0], b.finite[0])) // 2))
    fine = mass_bins(a, b, bins)
    assert (pair.counts_p.sum(), pair.counts_q.sum()) == (a.finite[0], b.finite[0])
    assert (np.diff(pair.positions) > 0).all()
    assert pair.positions.size + pair.merged == fine.positions.size
    if pair.merged:
        assert (pair.counts_p > 0).all()
        assert (pair.counts_q > 0).all()
        assert pair.positions.size > 1 or np.ptp(fine.positions) <= 2.0**-10 * np.abs(fine.positions).max()
    for zeros in (each.counts_p[each.positions == 0] for each in (pair, fine) if a.zeros[0] and b.zeros[0]):
        assert zeros.tolist() == [a.zeros[0]], "a bin of their own"
    for name in ("kl", "reverse_kl", "js", "total_variation", "hellinger"):
        divergence = DIVERGENCES[name]
        assert divergence(pair.p, pair.q) <= divergence(fine.p, fine.q) + 1e-12


@settings(max_examples=200)
@given(tensors(60), tensors(60), st.integers(0, 3))
def test_common_bins_are_merged_where_one_side_is_alone(a, b, step):
    copy = (np.rint(a * 2.0**step) / 2.0**step).astype(np.float32)
    for other in (b, copy):
        check_common(common_bins, sketch(a), sketch(other))
        pair, turned = common_bins(sketch(a), sketch(other)), common_bins(sketch(other), sketch(a))
        assert (pair.counts_p.tolist(), pair.counts_q.tolist()) == (turned.counts_q.tolist(), turned.counts_p.tolist())


@pytest.mark.parametrize("keep", ["both", "zeros"])
def test_the_check_refuses_bins_that_are_dropped(keep):
    def dropped(a, b):
        pair = mass_bins(a, b, 4)
        kept = (pair.counts_p > 0) & (pair.counts_q > 0) if keep == "both" else pair.positions != 0
        return Pair(pair.counts_p[kept], pair.counts_q[kept], pair.positions[kept], int((~kept).sum()))

    with pytest.raises(AssertionError):
        check_common(dropped, sketch([0.0, 1, 1, 2, 2, 3, 3, 4]), sketch([0.0, 1, 1, 1, 3, 3, 3, 3]))


def bins_of(p, q):
    pair = common_bins(sketch(np.float32(p)), sketch(np.float32(q)))
    return list(zip(pair.counts_p.tolist(), pair.counts_q.tolist(), strict=True)), pair.merged


def test_common_bins_by_hand():
    """Four bins of eight values, one for each distinct one: 2 lies between 1 and 3, and goes towards zero."""
    assert bins_of([1, 1, 2, 2, 3, 3, 4, 4], [1, 1, 1, 1, 3, 3, 3, 3]) == ([(4, 4), (4, 4)], 2)
    assert bins_of([-1, -1, -2, -2, -3, -3, -4, -4], [-1, -1, -1, -1, -3, -3, -3, -3]) == ([(4, 4), (4, 4)], 2)
    assert bins_of([0, 1, 1, 1, 3, 3, 3, 3], [0, 0, 1, 1, 3, 3, 3, 3]) == ([(1, 2), (3, 2), (4, 4)], 0)
    assert bins_of([1, 1, 1, 1, 4, 4, 4, 4], [0, 0, 1, 1, 4, 4, 4, 4]) == ([(4, 4), (4, 4)], 1)  # zeros of one side
    assert bins_of([1, 1, 2, 2], [5, 5, 6, 6]) == ([(4, 0), (0, 4)], 0)  # beside each other
    assert bins_of([-9, 9, -9, 9], [-1, -1, 1, 1]) == ([(2, 2), (2, 2)], 0)  # too few to tell
    assert bins_of([-9, 9] * 8, [-1, 1] * 8) == ([(8, 0), (0, 8), (0, 8), (8, 0)], 0)
    assert bins_of([1.0] * 8, [1.0 - 2.0**-24] * 8) == ([(8, 8)], 1)  # a rounding error
    assert bins_of([1.0] * 8, [1.01] * 8) == ([(8, 0), (0, 8)], 0)


def test_very_many_bins_are_merged_as_few_are():
    rng = np.random.default_rng(0)
    pair = common_bins(sketch(rng.normal(size=100_000)), sketch(rng.normal(size=100_000)), 10**9)
    assert plug_in_kl(pair) < math.inf


# --- bias

WHOLE = np.full(20, 1 / 20)


def check_bias(estimate, truth, expected, seed=2):
    """That the mean over many samples is the truth and the bias said, within a fifth of the bias."""
    rng = np.random.default_rng(seed)
    mean = np.mean([estimate(rng.multinomial(400, WHOLE)) for _ in range(2000)])
    assert mean - truth == pytest.approx(expected, abs=19 / 800 / 5)


def test_the_plug_in_entropy_is_too_small_by_k_less_1_over_2n():
    check_bias(plug_in_entropy, entropy(WHOLE), -19 / 800)
    with pytest.raises(AssertionError):
        check_bias(plug_in_entropy, entropy(WHOLE), 0)


def test_miller_madow_takes_off_the_bias_of_an_entropy():
    check_bias(partial(plug_in_entropy, miller_madow=True), entropy(WHOLE), 0)


def test_the_plug_in_divergence_from_a_known_distribution_is_too_large_by_k_less_1_over_2n():
    check_bias(lambda counts: kl(counts / 400, WHOLE), 0, 19 / 800)


def test_two_samples_of_one_distribution_are_apart_by_the_bias():
    rng = np.random.default_rng(3)
    pairs = [mass_bins(*(sketch(rng.normal(size=n)) for n in (2000, 4000)), bins=16) for _ in range(100)]
    found, said = np.mean([plug_in_kl(pair) for pair in pairs]), np.mean([kl_bias(pair) for pair in pairs])
    assert said == pytest.approx(15 / 2 * (1 / 2000 + 1 / 4000), rel=0.15)
    assert found == pytest.approx(said, rel=0.15)
    assert kl_bias(pairs[0], base=2) == pytest.approx(kl_bias(pairs[0]) / math.log(2))


def test_the_bias_is_infinite_where_the_estimate_is():
    pair = sketch_bins(sketch([1.0, 2.0]), sketch([1.0]))
    assert plug_in_kl(pair) == kl_bias(pair) == math.inf
    assert plug_in_kl(sketch_bins(sketch([1.0]), sketch([1.0, 2.0]))) == pytest.approx(math.log(2))


# --- corners


@ALL
def test_zeros_and_constants(binned):
    zeros, ones, nothing_finite = sketch([0.0, -0.0]), sketch([1.0, 0.0]), sketch([math.nan, math.inf])
    assert plug_in_kl(binned(zeros, zeros)) == 0
    assert plug_in_kl(binned(zeros, ones), base=2) == 1
    assert plug_in_kl(binned(ones, zeros)) == math.inf
    assert plug_in_kl(binned(sketch([-2.0]), sketch([-2.0]))) == 0
    assert plug_in_kl(binned(ones + nothing_finite, ones)) == 0
    for name, pair in (("p", (nothing_finite, ones)), ("q", (ones, Sketch.empty()))):
        with pytest.raises(InputError, match=f"the sample of {name} has no finite value: there is nothing to compare"):
            binned(*pair)


def test_sketches_of_different_widths_meet_at_the_coarser():
    fine, coarse = sketch([1.0, 1.01, 3.0]), sketch([1.0, 1.01, 3.0]).coarsen(3)
    assert plug_in_kl(sketch_bins(fine, coarse)) == 0
    assert sketch_bins(fine, coarse).positions.size == 2
    with pytest.raises(UsageError, match="a sketch with 3 mantissa bits has no 4"):
        sketch_bins(fine, coarse, 4)


def test_invalid_samples_are_refused():
    for binned in (even_bins, mass_bins):
        with pytest.raises(UsageError, match="0 bins hold nothing; use 1 or more"):
            binned(sketch([1.0]), sketch([1.0]), 0)
    for counts in ([], [0, 0], [-1, 2], [[1]], [math.nan], [math.inf]):
        with pytest.raises(UsageError, match="not the counts of one sample; hand in numbers of values, one per bin"):
            plug_in_entropy(counts)
