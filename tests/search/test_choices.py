"""Choices: the quantizer that covers a range, which candidates a range allows, and which of equal ones is taken."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scale_formats import FLOAT32_MAX
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Candidates, Spans, allowed_belows, full_choices, least, scales_of, valid
from klcal.sketches.distribution import Distribution
from klcal.sketches.values import sketch
from tests.support import brute_force, slow
from tests.support.brute_force import Levels, Unit

SCHEMES = [(dtype, kind) for dtype in ("int2", "uint4", "int8") for kind in slow.KINDS]
SCHEMES += [(dtype, "auto") for dtype in slow.FLOATS]
ALL = pytest.mark.parametrize("asked", SCHEMES, ids="-".join)
ENDS = st.tuples(st.floats(-8, 0), st.floats(0, 8)).filter(lambda ends: ends[1] - ends[0] > 1e-3)
ROUNDING = 1e-9


def span(low: float, high: float, bounded: bool = False) -> Spans:
    return Spans(np.array([low]), np.array([high]), np.array([bounded]))


# --- the whole range


@ALL
@given(ends=ENDS)
def test_the_full_choice_has_the_smallest_scale_that_covers_the_range(asked, ends):
    scheme = Scheme.parse(*asked)
    choice = full_choices(scheme, span(*ends))
    scale = float(choice.scale[0])
    under, above = (float(end[0]) for end in level_ends(choice.below, scheme))
    half = scale / 2 if scheme.kind == "affine" else 0.0  # by which the zero point is rounded
    assert -under * scale <= ends[0] + half + ROUNDING
    assert above * scale >= ends[1] - half - ROUNDING
    kind = "symmetric" if scheme.is_float else scheme.kind
    if scheme.kind == "affine":
        assert scale == pytest.approx((ends[1] - ends[0]) / (scheme.size - 1))
    else:
        assert scale == pytest.approx(brute_force.full_scale(Unit.of(list(ends)), Levels.of(scheme.dtype, kind)))


@pytest.mark.parametrize("scale_format", ["float16", "bfloat16", "e8m0"])
@given(ends=ENDS)
def test_in_a_narrower_format_it_is_the_next_scale_that_covers_the_range(scale_format, ends):
    wide, narrow = (Scheme.parse("int8", "symmetric", each) for each in ("float32", scale_format))
    full, found = (float(full_choices(scheme, span(*ends)).scale[0]) for scheme in (wide, narrow))
    assert full <= found <= 2 * full
    assert scales_of(narrow, np.array([found])) == found


def test_spans_have_zero_and_the_values_within_the_bounds():
    distribution = Distribution.of(sketch(np.float32([2.0, 3.0])))

    class Ends(NamedTuple):
        low: float
        high: float
        bounded: bool

    def found(bounds) -> Ends:
        return Ends(*(column[0].item() for column in Spans.of(distribution, bounds)))

    assert found(None) == (0.0, 3.0, False)
    assert found((-1.0, 4.0)) == (0.0, 3.0, False)
    assert found((-1.0, 2.5)) == (0.0, 2.5, True)
    assert found((-1.0, 0.0)) == (-1.0, 0.0, True), "nothing lies within"


# --- what may be chosen


@ALL
@given(ends=ENDS, seed=st.integers(0, 99))
def test_no_candidate_keeps_more_than_a_range_but_for_half_a_step_of_a_zero_point(asked, ends, seed):
    """A symmetric scheme keeps as much on both sides: there the wider side of the range counts."""
    scheme, rng = Scheme.parse(*asked), np.random.default_rng(seed)
    full = float(full_choices(scheme, span(*ends)).scale[0])
    scale = full * 2.0 ** rng.uniform(-2, 1, (1, 200))
    scale[0, :50] = full * (1 + rng.uniform(-0.01, 0.01, 50))
    near = np.rint(-ends[0] / scale) + rng.integers(-2, 3, scale.shape)
    below = np.clip(near, 0, scheme.size - 1).astype(np.int64)
    if scheme.kind != "affine":
        below = rng.choice(scheme.belows, scale.shape)
    under, above = (each * scale for each in level_ends(below, scheme))
    is_valid = valid(scheme, scale, below, span(*ends, bounded=True))
    if scheme.kind == "affine":
        within = (under <= -ends[0] + scale / 2 + ROUNDING) & (above <= ends[1] + scale / 2 + ROUNDING)
        inside = (under <= -ends[0]) & (above <= ends[1])
    else:
        within = (under <= -ends[0] + ROUNDING) | (above <= ends[1] + ROUNDING)
        inside = (under <= -ends[0]) & (above <= ends[1])
    assert within[is_valid].all()
    assert is_valid[inside].all()
    assert valid(scheme, scale, below, span(*ends)).all(), "where no range was asked for"


@ALL
@given(ends=ENDS)
def test_the_full_choice_may_always_be_chosen(asked, ends):
    scheme = Scheme.parse(*asked)
    choice = full_choices(scheme, span(*ends))
    for bounded in (False, True):
        assert valid(scheme, choice.scale[None], choice.below[None], span(*ends, bounded)).all()


@ALL
def test_no_scale_and_an_end_beyond_float32_may_not_be_chosen(asked):
    scheme = Scheme.parse(*asked)
    below = np.full((1, 3), scheme.belows[0])
    under, above = level_ends(below[0, 0], scheme)
    most = FLOAT32_MAX / float(max(under, above))
    assert valid(scheme, np.array([[0.0, most, most * 1.001]]), below, span(-1, 1)).tolist() == [[False, True, False]]


@given(ends=ENDS, power=st.floats(-3, 0))
def test_belows_that_a_range_allows_are_all_that_keep_no_more_than_it(ends, power):
    scheme = Scheme.parse("uint4", "affine")
    scale = float(full_choices(scheme, span(*ends)).scale[0]) * 2**power
    low, high = -ends[0] / scale, ends[1] / scale
    steps = np.array([abs(2 * end - round(2 * end)) for end in (low, high)])
    assume((steps > 1e-6).all())  # else rounding decides
    fewest, most = allowed_belows(scheme, np.array([[scale]]), span(*ends, bounded=True))
    allowed = [below for below in range(16) if below <= low + 0.5 and 15 - below <= high + 0.5]
    assert [*range(int(fewest[0, 0]), int(most[0, 0]) + 1)] == allowed
    free = allowed_belows(scheme, np.array([[scale]]), span(*ends))
    assert [int(each[0, 0]) for each in free] == [0, 15]


# --- which is taken


def taken(candidates: list[tuple[float, float, int]], full: float = 1.0, beside: int = 0) -> tuple[float, int]:
    """Of (loss, scale, below)."""
    loss, scale, below = (np.array([column]) for column in zip(*candidates, strict=True))
    below = below.astype(np.int64)
    rows = [np.concatenate([each, np.ones((beside, each.shape[1]), each.dtype)]) for each in (loss, scale, below)]
    found = least(rows[0], Candidates(rows[1], rows[2], rows[0]), np.full(1 + beside, full))
    return float(found.scale[0]), int(found.below[0])


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([(3.0, 0.5, 7), (2.0, 0.7, 7), (2.5, 1.0, 7)], (0.7, 7)),
        ([(2.0, 0.5, 7), (2.0, 0.7, 7), (2.5, 1.0, 7)], (0.7, 7)),  # the largest up to the full one
        ([(2.0, 0.5, 7), (2.0, 1.0, 7), (2.0, 1.2, 7)], (1.0, 7)),
        ([(2.0, 1.5, 7), (2.0, 1.2, 7), (2.5, 1.0, 7)], (1.2, 7)),  # else the smallest above it
        ([(2.0, 0.7, 7), (2.0, 0.7, 8), (2.5, 0.7, 9)], (0.7, 8)),  # then more levels below zero
        ([(2.0, 0.5, 9), (2.0, 0.7, 8)], (0.7, 8)),
        ([(2.0, 0.5, 7), (2.0 * (1 + 1e-13), 0.7, 7)], (0.7, 7)),  # equal within rounding
        ([(2.0, 0.5, 7), (2.0 * (1 + 1e-9), 0.7, 7)], (0.5, 7)),
        ([(np.inf, 0.5, 7), (2.0, 0.1, 7)], (0.1, 7)),
        ([(0.0, 0.5, 7), (0.0, 0.7, 7), (1e-30, 0.9, 7)], (0.7, 7)),
    ],
)
def test_of_equal_losses_the_tie_rule_decides(candidates, expected):
    assert taken(candidates) == expected


LOSSES = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0.5, 0.8, 1.2, 1.5]), st.integers(0, 3)), min_size=1
)


@given(LOSSES, st.randoms(use_true_random=False), st.integers(0, 3))
def test_neither_the_order_of_candidates_nor_other_units_matter(candidates, random, beside):
    expected = taken(candidates)
    random.shuffle(candidates)
    assert taken(candidates, beside=beside) == expected


def test_the_first_of_equal_losses_would_depend_on_the_order():
    """The broken twin: argmin."""
    candidates = [(1.0, 0.5, 0), (1.0, 0.8, 0)]
    first = [ordered[int(np.argmin([loss for loss, _, _ in ordered]))] for ordered in (candidates, candidates[::-1])]
    assert first[0] != first[1]
    assert taken(candidates) == taken(candidates[::-1])
