"""What a quantizer costs many rows: against the reference, which looks at one row, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.granularity import PerChannel, layout
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import divergences
from klcal.search.one_unit import Span
from klcal.search.row_law import RowLaw, row_clipped, row_divergences, row_errors
from klcal.sketches.distribution import Law
from klcal.sketches.row_sketch import row_sketches
from klcal.sketches.sketch import sketch
from tests.support import slow

SCHEMES = [
    Scheme.parse(dtype, scheme)
    for dtype, scheme in (("int4", "symmetric"), ("uint4", "affine"), ("uint3", "symmetric"), ("nf4", "auto"))
]
BUCKET = 2.0**-7  # the widest of a row: of its small values
ids = {"ids": lambda scheme: f"{scheme.dtype}-{scheme.name}"}


@st.composite
def matrices(draw) -> np.ndarray:
    """Values of two octaves, where the buckets of a row are those of a tensor."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(3, 30))
    values = rng.uniform(0.51, 1.99, (rows, columns)) * rng.choice([-1, 1], (rows, columns))
    if draw(st.booleans()):
        values = np.round(values * 64) / 64  # all of them exact
    return (values * 2.0 ** rng.integers(-9, 9, (rows, 1))).astype(np.float32)


def law_of(values: np.ndarray) -> tuple[RowLaw, np.ndarray]:
    place = layout(PerChannel(0), values.shape)
    (found,) = row_sketches([values.ravel()], "float32", place)
    return RowLaw.of(found), found.tops


def quantizers(values: np.ndarray, scheme: Scheme, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scale and a zero point for each row, somewhere near its range."""
    rng = np.random.default_rng(seed)
    scale = np.abs(values).max(axis=1) / scheme.above[-1] * rng.uniform(0.4, 1.3, len(values))
    below = np.full(len(values), scheme.zero) if scheme.symmetric else rng.integers(0, scheme.size, len(values))
    return scale.astype(np.float32).astype(float), below


def levels_of(scheme: Scheme, below: int) -> list[float]:
    return FLOATS[scheme.dtype].tolist() if scheme.is_float else slow.integers(scheme.size, below)


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
@settings(max_examples=25)
@given(values=matrices(), seed=st.integers(0, 999))
def test_errors_are_the_references(scheme, values, seed):
    law, _ = law_of(values)
    scale, below = quantizers(values, scheme, seed)
    found = row_errors(law, scheme, scale, below) / law.size
    for row, channel in enumerate(values):
        pieces = slow.pieces_of(sketch(channel))
        expected = slow.mse(pieces, scale[row], levels_of(scheme, int(below[row])))
        assert found[row] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES, **ids)
@settings(max_examples=25)
@given(values=matrices(), seed=st.integers(0, 999), sub=st.integers(2, 9))
def test_divergences_are_those_of_each_row_alone(scheme, values, seed, sub):
    law, _ = law_of(values)
    scale, below = quantizers(values, scheme, seed)
    found = row_divergences(law, scheme, scale, below, sub)
    for row, channel in enumerate(values):
        alone = divergences(Law.of(sketch(channel)), scheme, scale[row : row + 1], below[row : row + 1], sub)[0]
        assert found[row] == pytest.approx(alone, rel=1e-9, abs=1e-12)


@settings(max_examples=25)
@given(values=matrices(), seed=st.integers(0, 999))
def test_what_is_clipped_is_what_rounds_beyond_the_ends(values, seed):
    """Of values that are points of their sketch: one by one."""
    values = np.round(values * 64 * 512) / (64 * 512)
    for scheme in SCHEMES[:3]:
        law, _ = law_of(values)
        scale, below = quantizers(values, scheme, seed)
        steps = values.astype(float) / scale[:, None]
        level = np.rint(steps)
        clear = np.abs(steps - np.floor(steps) - 0.5).min() > 1e-9
        beyond = (level < -below[:, None]) | (level > scheme.size - 1 - below[:, None])
        if clear:
            exact = np.array([sketch(channel).exact for channel in values])
            assert np.array_equal(row_clipped(law, scheme, scale, below)[exact], beyond.sum(axis=1)[exact])


@settings(max_examples=25)
@given(values=matrices())
def test_a_row_as_a_law_of_its_own_is_that_of_the_tensor(values):
    law, tops = law_of(values)
    for row, channel in enumerate(values):
        mine, alone = law.law(row, int(tops[row])), Law.of(sketch(channel))
        for a, b in ((mine.positive, alone.positive), (mine.negative, alone.negative)):
            assert np.array_equal(a.inner, b.inner)
            assert np.array_equal(a.outer, b.outer)
            assert np.allclose(a.counts, b.counts)
        assert Span(law.low[row], law.high[row]) == Span(alone.low, alone.high)


def test_a_row_as_a_law_of_its_own_spreads_wide_buckets_evenly():
    """Far below the row's maximum a bucket is eight of a tensor's: the values of one are spread over all."""
    values = np.float32([[1.0, *(np.linspace(0.001, 0.0011, 900))]])
    law, tops = law_of(values)
    mine = law.law(0, int(tops[0])).positive
    assert mine.counts.sum() == pytest.approx(901)
    within = mine.inner < 0.5
    density = mine.counts[within] / (mine.outer - mine.inner)[within]
    assert np.quantile(density, 0.9) / np.quantile(density, 0.1) < 1.3
    assert (mine.inner[1:] >= mine.outer[:-1]).all()


def test_some_rows_are_a_law_of_their_own():
    values = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    law, _ = law_of(values)
    wanted = np.array([True, False, False, True, True, False])
    some, expected = law.select(wanted), law_of(values[wanted])[0]
    for name in ("keys", "row", "inner", "outer", "counts", "low", "high", "size", "energy", "before", "pieces"):
        assert np.array_equal(getattr(some, name), getattr(expected, name)), name
    assert law.select(np.ones(6, bool)) is law


@pytest.mark.parametrize("percent", [0.5, 10, 50, 99, 100])
def test_quantiles_keep_the_share_that_is_asked_for(percent):
    values = np.random.default_rng(0).standard_normal((4, 999)).astype(np.float32)
    law, _ = law_of(values)
    expected = np.sort(np.abs(values), axis=1)[:, int(np.ceil(percent / 100 * 999)) - 1]
    assert np.allclose(law.quantiles(law.size * percent / 100, None), expected, rtol=BUCKET)
    for negative, sign in ((False, 1), (True, -1)):
        side = [np.sort(sign * channel[sign * channel > 0]) for channel in values]
        ranks = np.array([each.size * percent / 100 for each in side])
        expected = [each[int(np.ceil(rank)) - 1] for each, rank in zip(side, ranks, strict=True)]
        assert np.allclose(law.quantiles(ranks, negative), expected, rtol=BUCKET)
    assert law.quantiles(np.zeros(4), None).tolist() == [0, 0, 0, 0]
