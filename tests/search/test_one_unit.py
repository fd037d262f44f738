"""The search against its definition, loop by loop, and against the theorems that bound it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scheme import KINDS, Scheme
from klcal.search.candidate_costs import divergences, squared_errors, sub_bins
from klcal.search.classic import classic_divergences
from klcal.search.methods import KL, MSE, KLClassic, MinMax, Percentile, sub_bins_per_cell
from klcal.search.one_unit import Span, full_choice
from klcal.sketches.distribution import Law
from klcal.sketches.sketch import sketch
from tests.support import reference
from tests.support.strategies import tensors

INTEGERS = ("int2", "int4", "uint4", "int8", "uint8", "int16", "uint16")
SCHEMES = [Scheme(dtype, kind) for dtype in INTEGERS for kind in KINDS]
TO_8_BITS = [scheme for scheme in SCHEMES if scheme.size <= 256] + [Scheme(dtype, "symmetric") for dtype in FLOATS]
ids = {"ids": lambda scheme: f"{scheme.dtype}-{scheme.kind}"}


def law_of(values) -> Law:
    return Law.of(sketch(values))


def exact(values):
    """The values cut to 10 bits of mantissa: each of them is a point of its sketch."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def levels_of(scheme: Scheme, below: int) -> list[float]:
    return FLOATS[scheme.dtype].tolist() if scheme.is_float else reference.integers(scheme.size, below)


def span_of(law: Law) -> Span:
    return Span(law.low, law.high)


def mean_squared_error(law: Law, scheme: Scheme, scale: float, below: int) -> float:
    options = squared_errors(law, scheme, np.array([scale]))[0]
    return float(options[scheme.belows.tolist().index(below)])


def loss(law: Law, scheme: Scheme, method: KL, choice, least: float) -> float:
    sub = sub_bins_per_cell(method.bins, scheme.size)
    nats = divergences(law, scheme, np.array([choice.scale]), np.array([choice.below]), sub)[0]
    return float(nats) + method.weight * mean_squared_error(law, scheme, *choice) / (2 * least)


@st.composite
def candidates(draw, law: Law, scheme: Scheme):
    scale = full_choice(scheme, span_of(law)).scale * 2.0 ** -draw(st.floats(0, 3))
    below = draw(st.sampled_from(scheme.belows.tolist()))
    return scale, below


# --- the objectives, against the definition


@pytest.mark.parametrize("points", [True, False], ids=["points", "intervals"])
@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=20)
@given(data=st.data(), values=tensors(12), sub=st.sampled_from([1, 2, 3, 8]))
def test_objectives_are_those_of_the_definition(data, scheme, points, values, sub):
    found = sketch(exact(values) if points else values)
    assert found.exact or not points
    law, pieces = Law.of(found), reference.pieces_of(found)
    scale, below = data.draw(candidates(law, scheme))
    one = scheme, np.array([scale]), np.array([below]), sub
    expected = reference.mse(pieces, scale, levels_of(scheme, below))
    assert mean_squared_error(law, scheme, scale, below) == pytest.approx(expected, rel=1e-7, abs=1e-13 * law.energy)
    assert divergences(law, *one)[0] == pytest.approx(
        reference.divergence(pieces, scale, levels_of(scheme, below), sub), abs=1e-9
    )
    expected = reference.classic_divergence(pieces, scale, levels_of(scheme, below), sub)
    assert classic_divergences(law, *one)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scheme", [Scheme("int16", "symmetric"), Scheme("uint16", "affine")], **ids)
def test_objectives_at_16_bits_are_those_of_the_definition(scheme):
    found = sketch(np.float32([-1.5, 0.3, 0.31, 2.7, 2.75]))
    law, pieces = Law.of(found), reference.pieces_of(found)
    for shrink in (1.0, 0.7):
        scale, below = full_choice(scheme, span_of(law))
        scale *= shrink
        expected = reference.mse(pieces, scale, levels_of(scheme, below))
        assert mean_squared_error(law, scheme, scale, below) == pytest.approx(expected, rel=1e-5)
        nats = divergences(law, scheme, np.array([scale]), np.array([below]), 2)[0]
        assert nats == pytest.approx(reference.divergence(pieces, scale, levels_of(scheme, below), 2), abs=1e-9)


def test_the_reference_would_notice_a_wrong_cell():
    found = sketch(np.float32([0.3, 0.9, 2.7]))
    pieces = reference.pieces_of(found)
    right = mean_squared_error(Law.of(found), Scheme("int4", "symmetric"), 0.4, 7)
    assert right == pytest.approx(reference.mse(pieces, 0.4, reference.integers(15, 7)), rel=1e-9)
    assert right != pytest.approx(reference.mse(pieces, 0.4, reference.integers(14, 7)), rel=1e-2)
    assert right != pytest.approx(reference.mse(pieces, 0.41, reference.integers(15, 7)), rel=1e-2)


# --- the search, against a search of the reference's own


def check_against_the_reference(values, scheme, method: KL, per_octave: int, octaves: int):
    """Both losses in the unit of the least squared error that either has found."""
    law, pieces = law_of(values), reference.pieces_of(sketch(values))
    grid = reference.candidates(pieces, scheme.size, scheme.kind, per_octave, octaves)
    errors = [(reference.mse(pieces, scale, levels_of(scheme, below)), scale, below) for scale, below in grid]
    least = min(mean_squared_error(law, scheme, *MSE()(law, scheme, span_of(law))), min(errors)[0])
    if least <= 1e-9 * law.energy / law.size:
        return  # the optimum itself is the answer
    sub = sub_bins_per_cell(method.bins, scheme.size)
    best = reference.least_loss(errors, pieces, partial(levels_of, scheme), sub, method.weight, least)
    assert loss(law, scheme, method, method(law, scheme, span_of(law)), least) <= 1.01 * best


@pytest.mark.parametrize("scheme", [scheme for scheme in TO_8_BITS if scheme.size <= 16 and not scheme.is_float], **ids)
@settings(max_examples=12)
@example(values=np.float32([20.625, 1.75, 3.4375, -0.5, 2.6875, 0.25, 0.1875, 2.1875]), bins=45, weight=1.0)
@given(values=tensors(8), bins=st.sampled_from([16, 45, 120]), weight=st.sampled_from([1.0, 4.0]))
def test_kl_finds_a_loss_as_low_as_the_reference_does(scheme, values, bins, weight):
    check_against_the_reference(exact(values), scheme, KL(bins=bins, weight=weight), per_octave=12, octaves=3)


@pytest.mark.parametrize("scheme", [Scheme("int8", "symmetric"), Scheme("uint8", "symmetric")], **ids)
@settings(max_examples=6)
@given(values=tensors(8))
def test_kl_finds_a_loss_as_low_as_the_reference_does_at_8_bits(scheme, values):
    check_against_the_reference(exact(values), scheme, KL(bins=765), per_octave=12, octaves=2)


def test_kl_finds_a_loss_as_low_as_the_reference_does_with_a_zero_point_of_8_bits():
    values = np.random.default_rng(0).standard_t(2, size=6).astype(np.float32)
    check_against_the_reference(exact(values), Scheme("uint8", "affine"), KL(bins=765), per_octave=6, octaves=1)


def loss_to_dense(values, scheme: Scheme) -> float:
    """The loss of the choice of `kl` as a multiple of the least of a search at steps of 0.25 %."""
    law = law_of(values)
    method, sub = KL(), sub_bins_per_cell(2048, scheme.size)
    full = full_choice(scheme, span_of(law)).scale
    scales = full * np.exp2(-np.arange(0, 4, 1 / 280))
    errors = squared_errors(law, scheme, scales)
    if not scheme.symmetric:
        below = np.arange(scheme.size)
        inside = (below <= -law.low / scales[:, None] + 0.5) & (below[::-1] <= law.high / scales[:, None] + 0.5)
        errors = np.where(inside, errors, np.inf)
    least = errors.min()
    if least <= 1e-9 * law.energy / law.size:
        return 1.0  # the optimum itself is the answer
    order = np.argsort(errors, axis=None)[:300]
    rows, options = np.unravel_index(order, errors.shape)
    below = scheme.belows[options]
    dense = divergences(law, scheme, scales[rows], below, sub) + method.weight * errors[rows, options] / (2 * least)
    return loss(law, scheme, method, method(law, scheme, span_of(law)), least) / float(dense.min())


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=8)
@given(values=tensors(400))
def test_kl_loses_at_most_5_percent_to_a_dense_search(scheme, values):
    assert loss_to_dense(values, scheme) <= 1.05


@pytest.mark.parametrize(
    "scheme", [Scheme("int8", "symmetric"), Scheme("int4", "symmetric"), Scheme("uint4", "affine")], **ids
)
def test_kl_is_within_a_percent_of_a_dense_search_on_98_of_100_tensors(scheme):
    rng = np.random.default_rng(0)
    sizes = range(50, 1300, 100)
    values = [rng.standard_normal(n) for n in sizes] + [rng.laplace(size=n) for n in sizes]
    values += [rng.standard_t(3, n) for n in sizes] + [rng.gamma(2, size=n) for n in sizes]
    ratios = [loss_to_dense(each.astype(np.float32), scheme) for each in values]
    assert np.quantile(ratios, 0.98) <= 1.01


# --- theorems


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=15)
@given(values=tensors(300), weight=st.sampled_from([0.5, 4.0, 64.0]))
def test_the_squared_error_of_kl_is_bounded_by_the_divergence_at_the_least(scheme, values, weight):
    """MSE(kl) / MSE* ≤ 1 + 2·D(at the MSE optimum)/w ≤ 1 + 2·ln(m)/w."""
    law, sub = law_of(values), sub_bins_per_cell(2048, scheme.size)
    optimum = MSE()(law, scheme, span_of(law))
    least = mean_squared_error(law, scheme, *optimum)
    assume(least > 1e-9 * law.energy / law.size)
    nats = divergences(law, scheme, np.array([optimum.scale]), np.array([optimum.below]), sub)[0]
    choice = KL(weight=weight)(law, scheme, span_of(law))
    ratio = mean_squared_error(law, scheme, *choice) / least
    assert ratio <= 1 + 2 * nats / weight + 1e-3  # the optimum of a finer grid is slightly lower
    assert nats <= math.log(sub) + 1e-12


@settings(max_examples=60)
@given(values=tensors(60), sub=st.integers(1, 9), scheme=st.sampled_from(TO_8_BITS), data=st.data())
def test_gibbs_inequality(values, sub, scheme, data):
    """0 ≤ D ≤ ln(m) for `kl`, −ln(1 − clipped) ≤ D for `kl-classic`."""
    law = law_of(values)
    scale, below = data.draw(candidates(law, scheme))
    one = scheme, np.array([scale]), np.array([below]), sub
    assert 0 <= divergences(law, *one)[0] <= math.log(sub) + 1e-12
    counts = sub_bins(law, *one)[0]
    clipped = (counts[0] + counts[-1]) / law.size
    assert classic_divergences(law, *one)[0] >= (math.inf if clipped >= 1 else -math.log1p(-clipped) - 1e-9)
    assert counts.sum() == pytest.approx(law.size)


def test_a_uniform_law_has_no_divergence():
    law = Law.of(sketch(np.linspace(-1, 1, 200_001, dtype=np.float32)))
    choice = MinMax()(law, Scheme("int8", "symmetric"), span_of(law))
    assert (
        divergences(law, Scheme("int8", "symmetric"), np.array([choice.scale]), np.array([choice.below]), 8)[0] < 1e-4
    )


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@pytest.mark.parametrize("method", [KL(), MSE(), KLClassic(), MinMax(), Percentile(99.9)], ids=str)
@settings(max_examples=5)
@given(values=tensors(60), power=st.integers(-30, 30))
def test_powers_of_two_are_carried_over(method, scheme, values, power):
    law, scaled = law_of(values), law_of(np.ldexp(values, power))
    choice, other = method(law, scheme, span_of(law)), method(scaled, scheme, span_of(scaled))
    assert (math.ldexp(choice.scale, power), choice.below) == other


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@pytest.mark.parametrize("method", [KL(), MSE(), KLClassic(), MinMax(), Percentile(99.9)], ids=str)
@settings(max_examples=4)
@given(values=tensors(60), zeros=st.integers(1, 10**9))
def test_exact_zeros_change_no_choice(method, scheme, values, zeros):
    found = sketch(values)
    with_zeros = found + sketch(np.zeros(1, np.float32)).repeat(zeros)
    assert with_zeros.zeros == zeros + found.zeros
    law, other = Law.of(found), Law.of(with_zeros)
    assert method(law, scheme, span_of(law)) == method(other, scheme, span_of(other))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@settings(max_examples=10)
@given(values=tensors(60))
def test_mirrored_values_have_the_same_symmetric_scale(dtype, values):
    scheme = Scheme(dtype, "symmetric")
    for method in (KL(), MSE(), KLClassic(), Percentile(99.0)):
        law, mirrored = law_of(values), law_of(-values)
        assert method(law, scheme, span_of(law)) == method(mirrored, scheme, span_of(mirrored))


def test_ties_go_to_the_larger_threshold():
    """Values on a grid that many scales represent without error: the full range is the answer."""
    law = Law.of(sketch(np.float32([-127, -64, 64, 127])))
    for method in (KL(), MSE(), KLClassic()):
        assert method(law, Scheme("int8", "symmetric"), span_of(law)).scale == 1.0


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=8)
@given(values=tensors(60))
def test_classic_is_nowhere_above_the_other_methods(scheme, values):
    law, sub = law_of(values), sub_bins_per_cell(2048, scheme.size)
    choices = [method(law, scheme, span_of(law)) for method in (KLClassic(), KL(), MSE(), MinMax())]
    scale, below = (np.array(column) for column in zip(*choices, strict=True))
    classic, *others = classic_divergences(law, scheme, scale, below, sub)
    assert classic <= min(others) * (1 + 1e-12)  # less is a tie
