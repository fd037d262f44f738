"""The theorems of information theory, by name; values held against scipy; and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import spatial, special, stats

from klcal.divergence import (
    DIVERGENCES,
    NotADistribution,
    cross_entropy,
    entropy,
    hellinger,
    jeffreys,
    js,
    js_distance,
    kl,
    reverse_kl,
    total_variation,
    wasserstein,
)
from klcal.errors import UsageError
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import divergences, sub_bins
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch
from tests.support.laws import SIZES, joints, laws, merges, normalised
from tests.support.lazy import torch

ROUNDING = 1e-12
few = settings(max_examples=10)  # of each of many functions
some = settings(max_examples=20)
ALL = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


def at_most(smaller, greater):
    assert smaller <= greater + ROUNDING * (1 + abs(greater) if math.isfinite(greater) else 1)


def about(value):
    return pytest.approx(value, rel=1e-11, abs=ROUNDING)


def refused(check, *arguments):
    """That a check rejects a broken twin."""
    with pytest.raises(AssertionError):
        check(*arguments)


# --- KL divergence


def check_gibbs(of, p, q):
    assert of(p, q) >= 0
    assert of(p, p) == 0
    assert of(p, q) > 0 or np.allclose(p, q, rtol=1e-14, atol=1e-300)


@some
@given(laws())
def test_gibbs_inequality(pair):
    """D(p‖q) ≥ 0, and 0 iff p = q: at least 0 and 0 without a tolerance, more than 0 but for equality to 14 digits."""
    check_gibbs(kl, *pair)


def test_gibbs_inequality_refuses_what_cancels():
    def cancelling(p, q):
        return cross_entropy(p, q) - entropy(p)

    def check_several():
        p = np.array([0.25, 0.35, 0.4])
        for step in 10.0 ** -np.arange(7, 12):
            check_gibbs(cancelling, p, normalised(p * (1 + step * np.sin(np.arange(3)))))

    refused(check_several)


def test_gibbs_inequality_refuses_what_forgets_the_support():
    def forgetful(p, q):
        return np.sum(special.rel_entr(p, q), where=q > 0)

    refused(check_gibbs, forgetful, np.array([0.5, 0.5]), np.array([1.0, 0.0]))


@pytest.mark.parametrize("step", [1e-3, 1e-6, 1e-8])
def test_kl_of_nearly_equal_laws_is_half_of_chi_squared(step):
    p, q = np.array([0.3, 0.7]), np.array([0.3 + step, 0.7 - step])
    expected = np.sum((p - q) ** 2 / q) / 2
    assert kl(p, q) == pytest.approx(expected, rel=10 * step, abs=0)
    if step < 1e-3:
        assert cross_entropy(p, q) - entropy(p) != pytest.approx(expected, rel=10 * step, abs=0)


def check_decomposition(of, p, q):
    expected_surprise = sum(-a * math.log(b) if b else math.inf for a, b in zip(p, q, strict=True) if a)
    assert cross_entropy(p, q) == about(expected_surprise)
    assert entropy(p) + of(p, q) == about(cross_entropy(p, q))


@some
@given(laws())
def test_kl_is_cross_entropy_less_entropy(pair):
    """D(p‖q) = H(p, q) − H(p) = E_p[−log q] − H(p)."""
    check_decomposition(kl, *pair)
    assert cross_entropy(pair[0], pair[0]) == entropy(pair[0])


def test_the_decomposition_refuses_the_reverse():
    refused(check_decomposition, reverse_kl, *(np.array([0.5, 0.5]), np.array([0.9, 0.1])))


def test_kl_is_not_symmetric():
    """½·log(½/0.9) + ½·log(½/0.1) one way, 0.9·log(0.9/½) + 0.1·log(0.1/½) the other."""
    p, q = [0.5, 0.5], [0.9, 0.1]
    assert kl(p, q) == about(math.log(5 / 3)) == reverse_kl(q, p)
    assert kl(q, p) == about(0.9 * math.log(1.8) - 0.1 * math.log(5)) == reverse_kl(p, q)
    assert jeffreys(p, q) == about(kl(p, q) + kl(q, p)) == jeffreys(q, p)
    assert kl([1, 0], [0.5, 0.5]) == about(math.log(2))
    assert kl([0.5, 0.5], [1, 0]) == math.inf == jeffreys([1, 0], [0.5, 0.5])


def check_chain_rule(of, p, q):
    x, y = p.sum(axis=1), q.sum(axis=1)
    conditional = 0.0
    for share, other, row, column in zip(x, y, p, q, strict=True):
        if share > 0 and other > 0:
            conditional += share * of(normalised(row), normalised(column))
    assert of(p.ravel(), q.ravel()) == about(of(normalised(x), normalised(y)) + conditional)


@some
@given(joints())
def test_chain_rule(pair):
    """D(p(x, y)‖q(x, y)) = D(p(x)‖q(x)) + E_p(x) D(p(y|x)‖q(y|x))."""
    check_chain_rule(kl, *pair)


def test_the_chain_rule_refuses_another_divergence():
    p, q = np.array([[0.4, 0.1], [0.1, 0.4]]), np.array([[0.1, 0.2], [0.3, 0.4]])
    refused(check_chain_rule, js, p, q)
    refused(check_chain_rule, reverse_kl, p, q)


def check_joint_convexity(of, p, q, p2, q2, share):
    mixed = of(normalised(share * p + (1 - share) * p2), normalised(share * q + (1 - share) * q2))
    at_most(mixed, share * of(p, q) + (1 - share) * of(p2, q2))


@few
@given(laws(4), st.floats(0.01, 0.99))
@pytest.mark.parametrize("of", [kl, reverse_kl, jeffreys, js, total_variation])
def test_joint_convexity(of, four, share):
    """D(λp + (1−λ)p′‖λq + (1−λ)q′) ≤ λ·D(p‖q) + (1−λ)·D(p′‖q′)."""
    check_joint_convexity(of, *four, share)


def test_joint_convexity_refuses_a_root():
    refused(check_joint_convexity, js_distance, *np.eye(3)[[0, 1, 2, 2]], 0.5)


def check_pinsker(of, p, q):
    at_most(2 * total_variation(p, q) ** 2, of(p, q))


@some
@given(laws())
def test_pinskers_inequality(pair):
    """D(p‖q) ≥ 2·TV(p, q)², in nats; hence in bits, not in bans."""
    check_pinsker(kl, *pair)


def test_pinskers_inequality_refuses_bans():
    refused(check_pinsker, partial(kl, base=10), np.array([0.5, 0.5]), np.array([0.6, 0.4]))


# --- all that divergences share


def check_data_processing(of, p, q, into):
    def merged(law):
        return normalised(np.bincount(into, law, minlength=law.size))

    at_most(of(merged(p), merged(q)), of(p, q))


@few
@given(merges())
@pytest.mark.parametrize("of", [kl, reverse_kl, jeffreys, js, js_distance, total_variation, hellinger])
def test_data_processing_inequality(of, merge):
    """Merging bins never increases a divergence."""
    check_data_processing(of, *merge)


def test_the_data_processing_inequality_refuses_euclid():
    p, q = np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.5, 0.5])
    refused(check_data_processing, lambda a, b: np.linalg.norm(a - b), p, q, np.array([0, 0, 1, 1]))


def check_metric(of, p, q, r, near=1e-7):
    assert of(p, q) == pytest.approx(of(q, p), abs=near)
    assert of(p, p) <= near
    assert of(p, q) > 0 or total_variation(p, q) < 1e-7
    assert of(p, r) <= of(p, q) + of(q, r) + near


METRICS = [js_distance, total_variation, hellinger, wasserstein, partial(wasserstein, order=2)]


@few
@given(laws(3))
@pytest.mark.parametrize("of", METRICS, ids=["js_distance", "total_variation", "hellinger", "w1", "w2"])
def test_these_are_metrics(of, three):
    """Symmetric, 0 iff equal, and d(p, r) ≤ d(p, q) + d(q, r)."""
    check_metric(of, *three)


@pytest.mark.parametrize("of", [js, kl, jeffreys, cross_entropy])
def test_the_check_of_metrics_refuses_functions_that_are_not_metrics(of):
    refused(check_metric, of, np.array([0.9, 0.1]), np.array([0.5, 0.5]), np.array([0.1, 0.9]))


def check_bounded(of, p, q):
    at_most(of(p, q), math.log(2))


@some
@given(laws())
def test_js_is_at_most_log_2(pair):
    """0 ≤ JS ≤ log 2 for any two laws, the bound where they are disjoint; JS ≤ TV·log 2 (Lin 1991, theorem 3)."""
    check_bounded(js, *pair)
    assert js(*pair) >= 0
    at_most(js(*pair), total_variation(*pair) * math.log(2))
    assert js([1, 0], [0, 1]) == about(math.log(2))


def test_the_bound_refuses_half_of_jeffreys():
    refused(check_bounded, lambda p, q: jeffreys(p, q) / 2, np.array([0.99, 0.01]), np.array([0.01, 0.99]))


def test_js_does_not_underflow():
    tiny = 5e-324
    assert js([tiny, 1], [0, 1]) < 1e-300


def check_hellinger(of, p, q):
    distance, variation = of(p, q), total_variation(p, q)
    at_most(distance**2, variation)
    at_most(variation, distance * math.sqrt(max(2 - distance**2, 0)))


@some
@given(laws())
def test_hellinger_and_total_variation_bound_each_other(pair):
    """H² ≤ TV ≤ H·√(2 − H²) (Le Cam; Tsybakov 2009, lemma 2.3, with its H² twice ours); 1 − H² ≥ exp(−D/2)."""
    check_hellinger(hellinger, *pair)
    at_most(math.exp(-kl(*pair) / 2), 1 - hellinger(*pair) ** 2)


def test_the_bounds_refuse_hellinger_without_its_half():
    refused(check_hellinger, lambda p, q: math.sqrt(2) * hellinger(p, q), np.array([1.0, 0]), np.array([0, 1.0]))


@some
@given(laws())
def test_entropy_upper_bound(pair):
    """0 ≤ H(p) ≤ log n, the bound for the uniform law."""
    for p in pair:
        assert entropy(p) >= 0
        at_most(entropy(p), math.log(p.size))
        assert entropy(np.full(p.size, 1 / p.size)) == about(math.log(p.size))


# --- Wasserstein


def transport(p, q, positions, order):
    """The monotone coupling, piece by piece, in fractions: exact but for the final root.

    The cost is relative to the width, because the square of a tiny distance would be no float but 0.
    """
    width = Fraction(max(positions)) - Fraction(min(positions)) or Fraction(1)
    left = [[x, Fraction(m)] for x, m in sorted(zip(positions, p.tolist(), strict=True)) if m]
    right = [[x, Fraction(m)] for x, m in sorted(zip(positions, q.tolist(), strict=True)) if m]
    cost = Fraction(0)
    while left and right:
        mass = min(left[0][1], right[0][1])
        cost += mass * abs(Fraction(left[0][0]) - Fraction(right[0][0])) ** order
        for side in (left, right):
            side[0][1] -= mass
            if not side[0][1]:
                side.pop(0)
    return float(cost / width**order) ** (1 / order) * float(width)


POSITIONS = st.lists(st.floats(-100, 100), min_size=8, max_size=8, unique=True)


def check_wasserstein(of, p, q, positions, order):
    positions = positions[: p.size]
    width = max(positions) - min(positions)
    rounding = 1e-14 * width if order == 1 else 1e-7 * width  # √ε
    assert of(p, q, positions=positions, order=order) == pytest.approx(
        transport(p, q, positions, order), rel=1e-9, abs=rounding
    )


@some
@example((np.array([0.0, 1.0]), np.array([1.0, 0.0])), [0.0, 5e-324, 1.0, 2.0, 0.5, 0.25, 0.125, 0.0625], 2)
@given(laws(), POSITIONS, st.sampled_from([1, 2]))
def test_wasserstein_is_the_cost_of_the_monotone_coupling(pair, positions, order):
    check_wasserstein(wasserstein, *pair, positions, order)


def cramer(p, q, positions, order=2):
    """A broken twin: the distance of distribution functions, often taken for W₂."""
    gaps = np.diff(np.sort(positions)) * np.abs(np.cumsum(p - q))[:-1] ** order
    return gaps.sum() ** (1 / order)


def test_the_cost_refuses_the_distance_of_distribution_functions():
    refused(check_wasserstein, cramer, np.array([1.0, 0]), np.array([0.5, 0.5]), [0.0, 3.0], 2)


@some
@given(laws(), POSITIONS)
def test_w1_is_that_of_scipy(pair, positions):
    p, q = pair
    positions = positions[: p.size]
    expected = stats.wasserstein_distance(positions, positions, p, q)
    assert wasserstein(p, q, positions=positions) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@some
@given(laws(), st.floats(-50, 50), st.floats(0.1, 50), st.sampled_from([1, 2]))
def test_wasserstein_moves_and_scales_with_the_line(pair, shift, scale, order):
    line = np.arange(pair[0].size)
    at_home = wasserstein(*pair, order=order)
    assert wasserstein(*pair, order=order, positions=shift + scale * line) == pytest.approx(scale * at_home, abs=1e-5)
    mirrored = wasserstein(pair[0][::-1], pair[1][::-1], order=order)
    assert mirrored == pytest.approx(at_home, abs=1e-6)
    at_most(wasserstein(*pair), wasserstein(*pair, order=2) + 1e-7)


def test_wasserstein_of_far_and_of_equal_positions():
    assert wasserstein([1, 0], [0, 1], order=2, positions=[-1e200, 1e200]) == about(2e200)
    assert wasserstein([1, 0], [0, 1], positions=[3, 3]) == 0 == wasserstein([1], [1])


# --- scipy, bases, batches, kinds


@some
@given(laws())
def test_values_are_those_of_scipy(pair):
    p, q = (normalised(np.where(each < 1e-290, 0, each)) for each in pair)  # below, scipy's p/q overflows
    for base in (math.e, 2, 10, 3.5):
        scale = math.log(base)
        assert entropy(p, base=base) == about(stats.entropy(p, base=base))
        assert kl(p, q, base=base) == about(special.rel_entr(p, q).sum() / scale) == about(stats.entropy(p, q, base))
        with np.errstate(invalid="ignore"):  # the root of what cancels to less than 0
            expected = np.nan_to_num(spatial.distance.jensenshannon(p, q, base))
        assert js_distance(p, q, base=base) == pytest.approx(expected, abs=3e-8)
    assert kl(p, q) == about(special.kl_div(p, q).sum())
    assert total_variation(p, q) == about(spatial.distance.cityblock(p, q) / 2)


@ALL
def test_bits_and_bans_are_nats_in_other_units(divergence):
    p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    power = {"nats": 1, "√nats": 0.5}.get(divergence.unit, 0)
    for base in (2, 10):
        assert divergence(p, q, base=base) * math.log(base) ** power == about(divergence(p, q))
    assert [divergence.unit_in(base) for base in (math.e, 2, 10, 3)] == {
        "nats": ["nats", "bits", "bans", "nats / ln 3"],
        "√nats": ["√nats", "√bits", "√bans", "√nats / ln 3"],
    }.get(divergence.unit, [divergence.unit] * 4)


@pytest.mark.parametrize("base", [1, 0, -2, math.inf, math.nan])
def test_a_base_is_above_1(base):
    with pytest.raises(UsageError, match=r"to base .* measures nothing; use e for nats, 2 for bits, 10 for bans"):
        kl([1], [1], base=base)


def check_batches(of, p, q):
    together = of(p, q)
    assert together.shape == np.broadcast_shapes(p.shape[:-1], q.shape[:-1])
    for row in np.ndindex(together.shape):
        a, b = (np.broadcast_to(law, (*together.shape, law.shape[-1]))[row] for law in (p, q))
        assert together[row] == of(a, b)


@few
@given(st.data(), SIZES)
@ALL
def test_batches_are_rows_alone(divergence, data, size):
    rows = data.draw(laws(6, st.just(size)))
    p, q = np.stack(rows[:3])[:, None], np.stack(rows[2:])
    check_batches(divergence, p, q)
    check_batches(divergence, np.asfortranarray(p), q)
    check_batches(divergence, p[:, 0], rows[0])


def test_the_check_of_batches_refuses_a_sum_over_everything():
    def over_everything(p, q):
        return np.full(np.broadcast_shapes(p.shape[:-1], q.shape[:-1]), total_variation(p, q).sum())

    refused(check_batches, over_everything, np.array([[0.5, 0.5], [1.0, 0]]), np.array([0.9, 0.1]))


def test_an_empty_batch_has_no_value():
    assert kl(np.empty((0, 3)), [0.5, 0.5, 0]).shape == (0,)


@few
@given(laws())
@ALL
def test_torch_equals_numpy(divergence, pair):
    expected = divergence(*pair)
    tensors = [torch.tensor(each, requires_grad=True) for each in pair]
    for p, q in (tensors, (pair[0], tensors[1]), (tensors[0], pair[1].tolist())):
        found = divergence(p, q)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        assert found.item() == expected
    assert isinstance(expected, np.float64)
    assert isinstance(divergence(*np.stack([pair, pair], axis=1)), np.ndarray)


def test_narrow_types_are_laws_where_their_sums_are_1():
    halves = [0.5, 0.25, 0.25]
    for kind in (np.float16, np.float32, ml_dtypes.bfloat16):
        assert entropy(np.array(halves, kind), base=2) == 1.5
    assert entropy(torch.tensor(halves, dtype=torch.bfloat16), base=2) == 1.5
    assert kl(np.array([0, 1]), np.array([False, True])) == 0


# --- what is refused


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([1.5, -0.5], "p is not a probability distribution: it holds -0.5 at 1; probabilities are finite"),
        ([0.5, math.nan], "p is not a probability distribution: it holds nan at 1"),
        ([math.inf, 0], "p is not a probability distribution: it holds inf at 0"),
        ([math.inf, -math.inf], "p is not a probability distribution: it holds inf at 0"),
        ([0.5, 0.25], "p is not a probability distribution: it sums to 0.75; nothing is normalised here: divide"),
        ([0, 0], "p is not a probability distribution: it sums to 0.0"),
        ([[1, 0], [0.5, 0.6], [-1, 2]], "row 1 of p is not a probability distribution: it sums to 1.1"),
        ([[1, 0], [-1, 2], [0.5, 0.6]], "row 1 of p is not a probability distribution: it holds -1 at 0"),
        ([[[1, 0]], [[1, 1]]], r"row \(1, 0\) of p is not a probability distribution: it sums to 2.0"),
        (np.float32([0.1, 0.9]), "p is not a probability distribution: it sums to 0.99999"),
    ],
)
def test_an_invalid_distribution_is_named(p, message):
    with pytest.raises(NotADistribution, match=message):
        kl(p, [0.5, 0.5])
    with pytest.raises(NotADistribution, match=message.replace(" p ", " q ").replace("p is", "q is", 1)):
        js([0.5, 0.5], p)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([1], [0.5, 0.5], r"the numbers of outcomes differ: shapes are p \(1,\) and q \(2,\); use common bins"),
        (np.ones((2, 1)), np.ones((3, 1)), r"p \(2, 1\) and q \(3, 1\) do not broadcast; leading axes are batches"),
        (1.0, [1], r"no outcomes: shapes are p \(\) and q \(1,\); the last axis runs over outcomes"),
        (np.empty((3, 0)), np.empty(0), r"no outcomes: shapes are p \(3, 0\) and q \(0,\)"),
        (["a"], [1], "p is not an array of real numbers; hand in a NumPy array, a list or a dense torch tensor"),
        ([1], [1j], "q is not an array of real numbers"),
        ([1], [[1], [1, 2]], "q is not an array of real numbers"),
        ([1], np.zeros(1, "f8,i4"), "q is not an array of real numbers"),
        ([1], None, "q is not an array of real numbers"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(p, q, message):
    with pytest.raises(UsageError, match=message):
        kl(p, q)


def test_sparse_and_complex_tensors_are_refused():
    for q in (torch.ones(1, dtype=torch.complex64), torch.ones(1).to_sparse(), torch.ones(1, device="meta")):
        with pytest.raises(UsageError, match="q is not an array of real numbers"):
            kl([1], q)


def test_wasserstein_refuses_other_orders_and_positions():
    with pytest.raises(UsageError, match="of order 3 is not known; use 1 or 2"):
        wasserstein([1], [1], order=3)
    for positions in ([1, 2, 3], [[1, 2]], [1, math.nan], 4):
        with pytest.raises(UsageError, match="are not 2 finite numbers; give one per outcome"):
            wasserstein([1, 0], [0, 1], positions=positions)


def test_sums_may_be_off_by_rounding():
    assert kl([0.5, 0.5 + 9e-10], [0.5, 0.5]) >= 0
    assert entropy([1 + 9e-10, 0]) == 0
    with pytest.raises(NotADistribution):
        entropy([0.5, 0.5 + 2e-9])


def test_torch_is_not_imported_for_arrays():
    program = "import sys; from klcal.divergence import kl; kl([1], [1]); print({'numpy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "{'numpy'}\n"


# --- the registry, and the calibration's own divergence


def test_the_registry_has_all_functions_of_two_distributions():
    functions = {getattr(entry.function, "func", entry.function) for entry in DIVERGENCES.values()}
    two = {kl, reverse_kl, jeffreys, js, js_distance, cross_entropy, total_variation, hellinger, wasserstein}
    assert functions == two
    assert DIVERGENCES["wasserstein_2"]([1, 0], [0, 1], positions=[0, 5], base=2) == 5
    assert all(entry.title and entry.meaning for entry in DIVERGENCES.values())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_divergence_of_the_search_is_kl(dtype):
    """P on the sub-bins, Q even over the occupied ones of each cell: summed over cells there, over sub-bins here."""
    distribution = Distribution.of(sketch(np.random.default_rng(3).laplace(size=5000).astype(np.float32)))
    sums = distribution.prefix_sums(0)
    scheme, sub = Scheme.parse(dtype, "symmetric"), 8
    scales = np.geomspace(0.2, 1, 7) * max(distribution.max[0], -distribution.min[0]) / 2 ** (int(dtype[3:]) - 1)
    below = np.full(scales.size, 2 ** (int(dtype[3:]) - 1) - 1)
    counts = sub_bins(sums, scheme, scales, below, sub)
    counts[:, 1] += counts[:, 0]
    counts[:, -2] += counts[:, -1]
    p = counts[:, 1:-1].reshape(scales.size, -1, sub) / sums.size
    occupied = np.maximum(np.count_nonzero(p, axis=-1, keepdims=True), 1)
    q = np.where(p > 0, p.sum(axis=-1, keepdims=True) / occupied, 0.0)
    found = kl(p.reshape(scales.size, -1), q.reshape(scales.size, -1))
    assert found == pytest.approx(divergences(sums, scheme, scales, below, sub), rel=1e-9)
    assert found.min() > 0
