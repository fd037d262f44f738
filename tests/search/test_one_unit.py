"""The costs of candidates against their definition, loop by loop, and the theorems that bound the search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import divergences, squared_errors, sub_bins
from klcal.search.classic import classic_divergences
from klcal.search.methods import KL, MSE, KLClassic, MinMax, Percentile, sub_bins_per_cell
from klcal.search.one_unit import Span, full_choice
from klcal.sketches.distribution import Law
from klcal.sketches.sketch import sketch
from tests.support import slow
from tests.support.strategies import tensors

INTEGERS = ("int2", "int4", "uint4", "int8", "uint8", "int16", "uint16")
SCHEMES = [Scheme(dtype, symmetric) for dtype in INTEGERS for symmetric in (True, False)]
TO_8_BITS = [scheme for scheme in SCHEMES if scheme.size <= 256] + [Scheme(dtype, True) for dtype in FLOATS]
ids = {"ids": lambda scheme: f"{scheme.dtype}-{scheme.name}"}


def law_of(values) -> Law:
    return Law.of(sketch(values))


def exact(values):
    """The values cut to 10 bits of mantissa: each of them is a point of its sketch."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def levels_of(scheme: Scheme, below: int) -> list[float]:
    return FLOATS[scheme.dtype].tolist() if scheme.is_float else slow.integers(scheme.size, below)


def span_of(law: Law) -> Span:
    return Span(law.low, law.high)


def mean_squared_error(law: Law, scheme: Scheme, scale: float, below: int) -> float:
    options = squared_errors(law, scheme, np.array([scale]))[0]
    return float(options[0 if scheme.symmetric else below])


@st.composite
def candidates(draw, law: Law, scheme: Scheme):
    scale = full_choice(scheme, span_of(law)).scale * 2.0 ** -draw(st.floats(0, 3))
    below = scheme.zero if scheme.symmetric else draw(st.integers(0, scheme.size - 1))
    return scale, below


# --- the objectives, against the definition


@pytest.mark.parametrize("points", [True, False], ids=["points", "intervals"])
@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=20)
@given(data=st.data(), values=tensors(12), sub=st.sampled_from([1, 2, 3, 8]))
def test_objectives_are_those_of_the_definition(data, scheme, points, values, sub):
    found = sketch(exact(values) if points else values)
    assert found.exact or not points
    law, pieces = Law.of(found), slow.pieces_of(found)
    scale, below = data.draw(candidates(law, scheme))
    one = scheme, np.array([scale]), np.array([below]), sub
    expected = slow.mse(pieces, scale, levels_of(scheme, below))
    assert mean_squared_error(law, scheme, scale, below) == pytest.approx(expected, rel=1e-7, abs=1e-13 * law.energy)
    assert divergences(law, *one)[0] == pytest.approx(
        slow.divergence(pieces, scale, levels_of(scheme, below), sub), abs=1e-9
    )
    expected = slow.classic_divergence(pieces, scale, levels_of(scheme, below), sub)
    assert classic_divergences(law, *one)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scheme", [Scheme("int16", True), Scheme("uint16", False)], **ids)
def test_objectives_at_16_bits_are_those_of_the_definition(scheme):
    found = sketch(np.float32([-1.5, 0.3, 0.31, 2.7, 2.75]))
    law, pieces = Law.of(found), slow.pieces_of(found)
    for shrink in (1.0, 0.7):
        scale, below = full_choice(scheme, span_of(law))
        scale *= shrink
        expected = slow.mse(pieces, scale, levels_of(scheme, below))
        assert mean_squared_error(law, scheme, scale, below) == pytest.approx(expected, rel=1e-5)
        nats = divergences(law, scheme, np.array([scale]), np.array([below]), 2)[0]
        assert nats == pytest.approx(slow.divergence(pieces, scale, levels_of(scheme, below), 2), abs=1e-9)


def test_the_reference_would_notice_a_wrong_cell():
    found = sketch(np.float32([0.3, 0.9, 2.7]))
    pieces = slow.pieces_of(found)
    right = mean_squared_error(Law.of(found), Scheme("int4", True), 0.4, 7)
    assert right == pytest.approx(slow.mse(pieces, 0.4, slow.integers(15, 7)), rel=1e-9)
    assert right != pytest.approx(slow.mse(pieces, 0.4, slow.integers(14, 7)), rel=1e-2)
    assert right != pytest.approx(slow.mse(pieces, 0.41, slow.integers(15, 7)), rel=1e-2)


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
    choice = MinMax()(law, Scheme("int8", True), span_of(law))
    assert divergences(law, Scheme("int8", True), np.array([choice.scale]), np.array([choice.below]), 8)[0] < 1e-4


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
    scheme = Scheme(dtype, symmetric=True)
    for method in (KL(), MSE(), KLClassic(), Percentile(99.0)):
        law, mirrored = law_of(values), law_of(-values)
        assert method(law, scheme, span_of(law)) == method(mirrored, scheme, span_of(mirrored))


def test_ties_go_to_the_larger_threshold():
    """Values on a grid that many scales represent without error: the full range is the answer."""
    law = Law.of(sketch(np.float32([-127, -64, 64, 127])))
    for method in (KL(), MSE(), KLClassic()):
        assert method(law, Scheme("int8", True), span_of(law)).scale == 1.0


@pytest.mark.parametrize("scheme", TO_8_BITS, **ids)
@settings(max_examples=8)
@given(values=tensors(60))
def test_classic_is_nowhere_above_the_other_methods(scheme, values):
    law, sub = law_of(values), sub_bins_per_cell(2048, scheme.size)
    choices = [method(law, scheme, span_of(law)) for method in (KLClassic(), KL(), MSE(), MinMax())]
    scale, below = (np.array(column) for column in zip(*choices, strict=True))
    classic, *others = classic_divergences(law, scheme, scale, below, sub)
    assert classic <= min(others) * (1 + 1e-12)  # less is a tie
