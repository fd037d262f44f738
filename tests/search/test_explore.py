"""The candidates of the search: deep enough, dense where the error is least, and of their format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.quantizers.scheme import Scheme
from klcal.search import explore as module
from klcal.search.choices import Spans, full_choices, scales_of
from klcal.search.density import How, density_of
from klcal.search.explore import explore, judged, ratios_around, times
from klcal.search.point_costs import PointCosts
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support import brute_force
from tests.support.brute_force import Levels, Unit
from tests.support.samples import Values
from tests.support.strategies import tensors

SCHEMES = [("int4", "symmetric"), ("int3", "symmetric-signed"), ("uint4", "affine"), ("nf4", "auto"), ("int8", "auto")]
ALL = pytest.mark.parametrize("asked", SCHEMES, ids="-".join)
GOOD = 1.05  # of the least error of a dense search: what no search may lose


def costs_of(values: Values | Sketch, asked: tuple[str, str], scale_format: str = "float32", bounds=None) -> PointCosts:
    distribution = Distribution.of(values if isinstance(values, Sketch) else sketch(values))
    return PointCosts.of(distribution, Scheme.parse(*asked, scale_format), Spans.of(distribution, bounds))


def found_by(costs: PointCosts, how: int = How.TINY):
    full = full_choices(costs.scheme, costs.spans).scale
    return explore(costs, costs, costs.scheme, full, density=density_of(costs.scheme, how))


def deep(octaves: int, times: int = 1) -> Sketch:
    """A body of some values, each so many times, and one value that lies so many octaves beyond it."""
    body = np.random.default_rng(octaves).uniform(-1, 1, 100).astype(np.float32) * np.float32(2.0**-octaves)
    return sketch(body).repeat(times) + sketch([1.0])


def check_deep(asked, octaves: int) -> None:
    levels = Levels.of(asked[0], "symmetric" if asked[1] == "auto" else asked[1])
    found = deep(octaves, levels.size**2 * 4**octaves)  # what the body loses at the full scale is more than 1
    distribution = Distribution.of(found)
    unit = Unit(np.where(distribution.negative, -1, 1) * distribution.inner, distribution.counts)
    scales = brute_force.grid(unit, levels, below=octaves + 3)[::8]
    dense = brute_force.search(unit, levels, scales)
    best = scales[np.argmin(dense.errors.min(axis=1))]
    assert best < brute_force.full_scale(unit, levels) * 2.0 ** (2 - octaves), "the body is what counts"
    assert found_by(costs_of(found, asked)).error.min() <= GOOD * dense.least * unit.size


@pytest.mark.parametrize("octaves", range(9))
@ALL
def test_no_octave_that_can_win_is_missed(asked, octaves):
    check_deep(asked, octaves)


def test_a_search_that_stops_an_octave_too_early_is_noticed(monkeypatch):
    """The broken twin: as soon as the outermost value is clipped."""
    check_deep(("int4", "symmetric"), 3)
    monkeypatch.setattr(module, "_is_too_small", lambda _costs, _scheme, found, _limit: found.scale[:, -1] < np.inf)
    with pytest.raises(AssertionError):
        check_deep(("int4", "symmetric"), 3)


@ALL
@pytest.mark.parametrize("how", [How.MINI, How.TINY, How.SHORT])
@given(values=tensors(30))
def test_the_full_scale_is_a_candidate_and_errors_are_those_of_the_values(asked, how, values):
    costs = costs_of(values, asked)
    found = found_by(costs, how)
    full = full_choices(costs.scheme, costs.spans)
    assert scales_of(costs.scheme, full.scale)[0] in found.scale[0]
    unit, kind = Unit.of(values), "symmetric" if asked[1] == "auto" else asked[1]
    for place in {0, int(np.argmin(found.error)), found.scale.shape[1] - 1}:
        listed = Levels.of(asked[0], kind).listed(int(found.below[0, place]))
        expected = brute_force.error(unit, float(found.scale[0, place]), listed) * unit.size
        noise = 1e-9 * unit.energy if np.isfinite(found.error[0, place]) else np.inf
        assert found.error[0, place] == pytest.approx(expected, rel=1e-4, abs=noise)


@pytest.mark.parametrize("scale_format", ["float32", "float16", "bfloat16", "e8m0"])
@pytest.mark.parametrize("asked", [each for each in SCHEMES if "signed" not in each[1]], ids="-".join)
def test_every_candidate_has_a_scale_of_its_format(asked, scale_format):
    found = found_by(costs_of(deep(3), asked, scale_format))
    scheme = Scheme.parse(*asked, scale_format)
    assert np.array_equal(scales_of(scheme, found.scale), found.scale)
    assert (found.scale[np.isfinite(found.error)] > 0).all()


def test_where_a_range_is_asked_for_no_candidate_that_can_win_is_wider():
    for asked in (("int4", "symmetric"), ("nf4", "auto")):
        costs = costs_of(deep(2), asked, bounds=(-0.25, 0.25))
        found = found_by(costs)
        reach = found.scale[np.isfinite(found.error)] * float(costs.scheme.above[-1])
        assert reach.max() <= 0.25 * (1 + 1e-6)
        assert reach.max() == pytest.approx(0.25, rel=1e-6), "and the range itself is kept"


def test_a_candidate_that_may_not_be_chosen_has_an_infinite_error():
    costs = costs_of(np.float32([0.3, -0.7, 1.0]), ("int8", "symmetric"))
    found = judged(costs, costs.scheme, np.array([[0.0, 1e-60, 0.01]]))
    assert np.isfinite(found.error).tolist() == [[False, False, True]]


def test_a_candidate_whose_ends_would_pass_float32_is_narrower():
    costs = costs_of(np.float32([0.3, -0.7, 1.0]), ("int8", "symmetric"))
    found = judged(costs, costs.scheme, np.array([[1e37]]))
    assert found.scale * 127 == pytest.approx(np.finfo(np.float32).max, rel=1e-6)


@given(st.floats(1e-30, 1e30), st.integers(1, 6), st.sampled_from([1 / 16, 1 / 140]))
def test_scales_around_another_are_at_even_ratios_on_both_sides(scale, number, step):
    found = times(np.array([[scale, 2 * scale]]), ratios_around(number, step))
    assert found.shape == (1, 4 * number)
    ratios = np.log2(found[0, : 2 * number] / scale) / step
    wanted = [k for k in range(number, -number - 1, -1) if k]
    assert ratios == pytest.approx(wanted, abs=1e-9)
    assert found[0, 2 * number :] == pytest.approx(2 * found[0, : 2 * number])
