"""Closed forms against torch.distributions, against quadrature, and against each other; and what is refused."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from klcal.divergence import NotADistribution, kl
from klcal.divergence.densities import (
    kl_density,
    kl_distributions,
    kl_normal,
    kl_normal_diagonal,
    kl_normal_full,
    kl_standard_normal,
)
from klcal.errors import UsageError
from tests.support.lazy import torch

MEANS, STDS = st.floats(-20, 20), st.floats(-3, 3).map(math.exp)
SEEDS = st.integers(0, 2**32 - 1)
some = settings(max_examples=20)


def covariance(rng, *shape):
    root = np.tril(rng.normal(size=(*shape, shape[-1])))
    return root @ root.swapaxes(-2, -1) + 0.1 * np.eye(shape[-1])


# --- closed forms


def check_normal(of, mean_p, std_p, mean_q, std_q):
    p = torch.distributions.Normal(torch.tensor(mean_p, dtype=torch.float64), std_p)
    q = torch.distributions.Normal(torch.tensor(mean_q, dtype=torch.float64), std_q)
    expected = torch.distributions.kl_divergence(p, q).item()
    assert of(mean_p, std_p, mean_q, std_q) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@some
@given(MEANS, STDS, MEANS, STDS)
def test_kl_of_normal_distributions_is_that_of_torch(mean_p, std_p, mean_q, std_q):
    check_normal(kl_normal, mean_p, std_p, mean_q, std_q)


def test_the_check_refuses_variances_taken_for_deviations():
    with pytest.raises(AssertionError):
        check_normal(lambda m, s, n, t: kl_normal(m, s**2, n, t**2), 0.0, 2.0, 1.0, 1.0)
    with pytest.raises(AssertionError):
        check_normal(lambda m, s, n, t: kl_normal(n, t, m, s), 0.0, 2.0, 1.0, 1.0)


@some
@given(MEANS, STDS, MEANS, STDS)
def test_gibbs_inequality_of_normal_distributions(mean_p, std_p, mean_q, std_q):
    """D ≥ 0, and 0 iff equal; unchanged by a change of unit."""
    assert kl_normal(mean_p, std_p, mean_p, std_p) == 0
    found = kl_normal(mean_p, std_p, mean_q, std_q)
    assert found > 0 or (mean_p, std_p) == pytest.approx((mean_q, std_q), rel=1e-13)
    assert kl_normal(8 * mean_p, 8 * std_p, 8 * mean_q, 8 * std_q) == pytest.approx(found)


def test_nearly_equal_and_far_normal_distributions_are_told_apart():
    step = 1e-9
    assert kl_normal(0, 1 + step, 0, 1) == pytest.approx(step**2, rel=1e-6, abs=0)  # ½·(s² − 1 − 2·ln s) ≈ (s − 1)²
    assert kl_normal(0, 1e-200, 0, 1) == pytest.approx(200 * math.log(10) - 0.5)
    assert kl_normal(0, 1e200, 0, 1) == kl_standard_normal([1e200], [0]) == math.inf


@pytest.mark.parametrize("size", [1, 2, 5])
def test_kl_of_multivariate_normal_distributions_is_that_of_torch(size):
    rng = np.random.default_rng(size)
    mean_p, mean_q = rng.normal(size=(2, 3, size))
    cov_p, cov_q = covariance(rng, 3, size), covariance(rng, size)
    p, q = (
        torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(cov))
        for mean, cov in ((mean_p, cov_p), (mean_q, np.broadcast_to(cov_q, (3, size, size)).copy()))
    )
    found = kl_normal_full(mean_p, cov_p, mean_q, cov_q)
    assert found == pytest.approx(torch.distributions.kl_divergence(p, q).numpy())
    assert [kl_normal_full(*row, cov_q) for row in zip(mean_p, cov_p, mean_q, strict=True)] == pytest.approx(found)
    assert kl_normal_full(mean_p, cov_p, mean_p, cov_p) == pytest.approx(np.zeros(3), abs=1e-12)


@some
@given(SEEDS, st.integers(1, 4))
def test_a_diagonal_covariance_is_independent_coordinates(seed, size):
    rng = np.random.default_rng(seed)
    mean_p, mean_q = rng.normal(size=(2, 2, size))
    std_p, std_q = np.exp(rng.normal(size=(2, 2, size)))
    expected = kl_normal(mean_p, std_p, mean_q, std_q).sum(axis=-1)
    assert kl_normal_diagonal(mean_p, std_p, mean_q, std_q) == pytest.approx(expected)
    full = [np.eye(size) * std[..., None] ** 2 for std in (std_p, std_q)]
    assert kl_normal_full(mean_p, full[0], mean_q, full[1]) == pytest.approx(expected)
    assert kl_normal_diagonal(mean_p, std_p, 0, 1) == pytest.approx(kl_standard_normal(mean_p, 2 * np.log(std_p)))


@some
@given(SEEDS)
def test_kl_is_the_same_in_any_coordinates(seed):
    """D is invariant under x → Ax + b."""
    rng = np.random.default_rng(seed)
    mean_p, mean_q, shift = rng.normal(size=(3, 3))
    cov_p, cov_q = covariance(rng, 2, 3)
    change = covariance(rng, 3)
    moved = [change @ mean_p + shift, change @ cov_p @ change.T, change @ mean_q + shift, change @ cov_q @ change.T]
    expected = kl_normal_full(mean_p, cov_p, mean_q, cov_q)
    assert kl_normal_full(*moved) == pytest.approx(expected, rel=1e-6)


@some
@given(SEEDS)
def test_chain_rule_of_normal_distributions(seed):
    """D of the whole is at least D of its marginal: what is lost is the conditional's."""
    rng = np.random.default_rng(seed)
    mean_p, mean_q = rng.normal(size=(2, 3))
    cov_p, cov_q = covariance(rng, 2, 3)
    part = kl_normal_full(mean_p[:2], cov_p[:2, :2], mean_q[:2], cov_q[:2, :2])
    assert part <= kl_normal_full(mean_p, cov_p, mean_q, cov_q) + 1e-9


def test_torch_in_torch_out_in_any_base():
    mean, std = torch.tensor([[0.5, -1.0]]), torch.tensor([1.5, 0.25], requires_grad=True)
    found = kl_normal_diagonal(mean, std, 0, 1)
    assert (found.dtype, tuple(found.shape), found.requires_grad) == (torch.float64, (1,), False)
    assert found.numpy() == pytest.approx(kl_normal_diagonal(mean.numpy(), [1.5, 0.25], 0, 1))
    assert kl_standard_normal(mean, 2 * std.log()).numpy() == pytest.approx(found.numpy(), rel=1e-6)
    assert kl_normal(0, 1, 1, 1, base=2) * math.log(2) == pytest.approx(0.5)
    assert kl_normal_full([0], [[1]], [1], torch.eye(1), base=10).item() * math.log(10) == pytest.approx(0.5)


# --- any two laws


def test_other_pairs_are_those_of_torch():
    p, q = torch.distributions.Gamma(torch.tensor(2.0, requires_grad=True), 1.0), torch.distributions.Gamma(3.0, 1.0)
    found = kl_distributions(p, q, base=2)
    assert found.item() == pytest.approx(torch.distributions.kl_divergence(p, q).item() / math.log(2))
    assert found.requires_grad


def pdf(law):
    return lambda x: float(law.pdf(x))


PAIRS = [
    (stats.norm(0, 1), stats.norm(1, 2), {}, float(kl_normal(0, 1, 1, 2))),
    (stats.norm(1000, 1), stats.norm(1001, 1), {"points": [995, 1000, 1001, 1006]}, 0.5),
    (stats.expon(scale=1), stats.expon(scale=2), {"low": 0}, math.log(2) - 0.5),
    (stats.uniform(0, 1), stats.uniform(0, 4), {"low": 0, "high": 4, "points": [1]}, math.log(4)),
    (stats.cauchy(0, 1), stats.cauchy(1, 3), {}, math.log((4**2 + 1) / (4 * 3))),
    (stats.beta(0.5, 0.5), stats.uniform(0, 1), {"low": 0, "high": 1}, math.log(4 / math.pi)),
]


@pytest.mark.parametrize(("p", "q", "options", "expected"), PAIRS)
def test_quadrature_gives_the_closed_form(p, q, options, expected):
    """Cauchy: Chyzak & Nielsen, 2019; the others by hand."""
    assert kl_density(pdf(p), pdf(q), **options) == pytest.approx(expected, rel=1e-6)
    assert kl_density(p.logpdf, q.logpdf, log=True, base=2, **options) == pytest.approx(
        expected / math.log(2), rel=1e-6
    )


def test_quadrature_is_the_limit_of_fine_bins():
    edges = np.linspace(-8, 8, 1001)
    p, q = (np.diff(stats.norm(mean, 1).cdf(edges)) for mean in (0, 0.7))
    assert kl(p / p.sum(), q / q.sum()) == pytest.approx(kl_density(stats.norm.pdf, stats.norm(0.7).pdf), rel=1e-4)


def test_a_support_that_is_not_contained_is_infinitely_far():
    wide, narrow = stats.uniform(0, 1), stats.uniform(0, 0.9)
    assert kl_density(wide.pdf, narrow.pdf, 0, 1, points=[0.9]) == math.inf
    assert kl_density(wide.pdf, narrow.pdf, 0, 1) == math.inf
    assert kl_density(narrow.pdf, wide.pdf, 0, 1, points=[0.9]) == pytest.approx(-math.log(0.9))
    assert kl_density(stats.norm.pdf, stats.expon.pdf, points=[0]) == math.inf


def test_underflow_is_no_lack_of_support_where_p_has_nothing():
    assert kl_density(stats.norm.pdf, stats.norm(0, 0.5).pdf) == pytest.approx(kl_normal(0, 1, 0, 0.5))
    assert kl_density(stats.norm.pdf, stats.norm(0, 0.02).pdf, points=[-0.1, 0.1]) == math.inf
    log_densities = stats.norm.logpdf, stats.norm(0, 0.02).logpdf
    assert kl_density(*log_densities, log=True, points=[-0.1, 0.1]) == pytest.approx(kl_normal(0, 1, 0, 0.02))


# --- what is refused

NORMAL, WIDER = stats.norm.pdf, stats.norm(0, 2).pdf


@pytest.mark.parametrize(
    ("p", "q", "options", "message"),
    [
        (NORMAL, lambda x: 2 * WIDER(x), {}, r"the density q integrates to 2 over \(-inf, inf\); normalise it; where"),
        (NORMAL, WIDER, {"low": 0}, r"the density p integrates to 0\.5 over \(0, inf\)"),
        (stats.norm(1e4, 1).pdf, WIDER, {}, r"the density p integrates to .*name them: points="),
        (
            NORMAL,
            lambda _: -1.0,
            {"low": -9, "high": 9},
            r"the density q is -1 at .*; densities are finite and not neg",
        ),
        (lambda _: math.nan, NORMAL, {}, "the density p is nan at"),
        (lambda _: math.inf, NORMAL, {}, "the density p is inf at"),
    ],
)
def test_an_invalid_density_is_named(p, q, options, message):
    with pytest.raises(NotADistribution, match=message):
        kl_density(p, q, **options)


def test_quadrature_refuses_what_it_cannot_do(monkeypatch):
    with pytest.raises(UsageError, match=r"\(1, 0\) is no interval; low has to be below high"):
        kl_density(NORMAL, WIDER, 1, 0)
    with pytest.raises(UsageError, match=r"does not converge; name its peaks and jumps: points=\[…\]"):
        kl_density(lambda x: 1 / x, WIDER, 0, 1)
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with pytest.raises(UsageError, match=r"quadrature needs scipy; pip install 'klcal\[scipy\]'"):
        kl_density(NORMAL, WIDER)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (kl_normal, (0, 0, 0, 1), "std_p is 0; it has to be positive and finite"),
        (kl_normal, (0, 1, 0, [1, -2]), "row 1 of std_q is -2; it has to be positive and finite"),
        (kl_normal, (0, 1, 0, math.inf), "std_q is inf"),
        (kl_normal, (math.nan, 1, 0, 1), "mean_p is nan; it has to be finite"),
        (kl_normal, ([0, 1], [1, 1, 1], 0, 1), r"the shapes mean_p \(2,\), std_p \(3,\), .* do not broadcast"),
        (kl_normal, ("x", 1, 0, 1), "mean_p is not an array of real numbers"),
        (kl_normal_diagonal, (0, 1, 0, 1), "no axis of coordinates; kl_normal is for one dimension"),
        (kl_standard_normal, (0, 0), "no axis of coordinates; hand in arrays"),
        (kl_standard_normal, ([0], [math.nan]), "row 0 of log_var is nan; it has to be finite"),
        (kl_standard_normal, ([0, 1], [0, 1, 2]), "do not broadcast"),
        (kl_normal_full, ([0, 0], np.eye(3), [0, 0], np.eye(2)), r"mean_p has shape \(2,\); means are \(\*rows, n\)"),
        (kl_normal_full, ([0, 0], np.ones(2), [0, 0], np.eye(2)), r"cov_p has shape \(2,\)"),
        (kl_normal_full, (0, 1, 0, 1), r"mean_p has shape \(\)"),
        (kl_normal_full, (np.ones((2, 1)), np.eye(1), np.ones((3, 1)), np.eye(1)), "do not broadcast"),
        (kl_normal_full, ([math.nan], [[1]], [0], [[1]]), "row 0 of mean_p is nan"),
        (kl_normal_full, ([0, 0], [[1, 2], [0, 1]], [0, 0], np.eye(2)), "cov_p is not symmetric; hand in a covariance"),
        (kl_normal_full, ([0], [[1]], [0], [[math.nan]]), "cov_q is not symmetric"),
        (kl_normal_full, ([0, 0], np.eye(2), [0, 0], [[1, 2], [2, 1]]), "cov_q is not positive definite; its eigenva"),
        (kl_normal_full, ([0], [[[1]], [[0]]], [0], [[1]]), "row 1 of cov_p is not positive definite"),
        (kl_distributions, (1, 2), "these are not two torch.distributions; kl_density takes functions"),
    ],
)
def test_parameters_that_are_none_are_named(function, arguments, message):
    with pytest.raises(UsageError, match=message):
        function(*arguments)


def test_a_pair_without_a_closed_form_is_named():
    pair = torch.distributions.Cauchy(0.0, 1.0), torch.distributions.Normal(0.0, 1.0)
    with pytest.raises(UsageError, match="no closed form for Cauchy and Normal; kl_density integrates their densities"):
        kl_distributions(*pair)
