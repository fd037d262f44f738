"""Pieces whose values have weights, by the text that the CPU and a device share: what NumPy computes, to the bit."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.kernels.cuda import SOURCE
from klcal.kernels.library import address, compiled
from klcal.search.c_types import Weighed
from klcal.search.structures import Structure, units_of
from klcal.sketches.distribution import Distribution
from klcal.sketches.patterns import SIGN, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from tests.kernels.test_units import LAWS
from tests.sketches.test_importance import PERS, RESOLUTIONS, weighed, whole
from tests.support.devices import Shim
from tests.support.kernels import IS_COMPILED, both, differing

pytestmark = IS_COMPILED

JUNK = 0xA5


class Found(NamedTuple):
    """What is written for the units of a sketch, at the places of its pieces."""

    keys: np.ndarray
    counts: np.ndarray
    masses: np.ndarray
    ends: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    number: np.ndarray
    weighed: np.ndarray

    @staticmethod
    def room(sketch: Sketch) -> Found:
        """Room for it, full of junk."""
        pieces, units = sketch.keys.size, sketch.units
        of_pieces = np.uint32, sketch.counts.dtype, np.float64
        of_units = np.int64, np.float64, np.float64, np.float64, np.int64
        arrays = [np.empty(pieces, each) for each in of_pieces] + [np.empty(units, each) for each in of_units]
        for each in arrays:
            each.view(np.uint8)[:] = JUNK
        return Found(*arrays)


def of_kernel(sketch: Sketch, launcher: Shim | None = None, team: int = 32) -> Found:
    """The pieces by the compiled kernel, or by that of a device."""
    found, units = Found.room(sketch), units_of(Distribution.of(sketch))
    weights = np.ascontiguousarray(sketch.weights)
    to = Structure(Weighed(address(weights), sketch.keys.size, *map(address, found)), [weights])
    told = ctypes.addressof(units.structure), ctypes.addressof(to.structure)
    if launcher is None:
        compiled().klcal_weighed(*map(ctypes.c_void_p, told), ctypes.c_int64(0), ctypes.c_int64(sketch.units))
    else:
        macros = f"TEAM={team}", "THREADS=256", "RESIDENT=4"
        launcher.launch("device_weighed.cu", "weigh_units", 2, 256, 1 << 14, *told, sketch.units, macros=macros)
    return found


def agree(sketch: Sketch, found: Found) -> bool:
    """Whether these are the pieces that NumPy finds."""
    expected = Distribution.weighted(sketch)
    once = expected.unweighted
    assert once is not None
    firsts = sketch.starts[:-1]
    some = [slice(first, end) for first, end in zip(firsts.tolist(), found.ends.tolist(), strict=True)]
    pieces = zip(
        (found.keys, found.counts, found.masses),
        (expected.sketch.keys, once.sketch.counts, expected.weights),
        strict=True,
    )
    units = zip(
        (found.ends - firsts, found.minimum, found.maximum, found.number, found.weighed),
        (expected.pieces, expected.sketch.minimum, expected.sketch.maximum, expected.number, sketch.weighed),
        strict=True,
    )
    are_pieces = all(np.array_equal(np.concatenate([mine[each] for each in some]), theirs) for mine, theirs in pieces)
    return are_pieces and all(np.array_equal(mine, theirs) for mine, theirs in units)


RATIOS = st.one_of(st.just(0.0), st.floats(1e-14, 1), st.sampled_from([1e-13, 1e-6, 1.0, 1.0, 1.0]))


@st.composite
def laws(draw):
    """Units of a law, of which some are one-sided, and weights of any ratios, of which whole ends may be 0."""
    units, size = draw(st.integers(1, 5)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    values = draw(st.sampled_from(list(LAWS.values())))(rng, units * size).reshape(units, size).astype(np.float32)
    values[0] = np.copysign(values[0], np.float32(draw(st.sampled_from([1, -1]))))
    some = np.array(draw(st.lists(RATIOS, min_size=1, max_size=6)))
    weights = rng.choice(some, values.shape)
    if draw(st.booleans()):  # the outermost values weigh nothing
        magnitudes = values.view(np.uint32) & ~SIGN
        weights[magnitudes > rng.choice(magnitudes.ravel())] = 0
    if draw(st.booleans()):
        weights[-1] = 0
    return values, weights


@settings(max_examples=100)
@given(st.one_of(weighed(), laws()), st.sampled_from((None, *PERS[:2])), RESOLUTIONS)
def test_the_kernel_weighs_pieces_as_numpy_does(drawn, per, resolution):
    sketch = whole(*drawn, per, resolution=resolution)
    assert agree(sketch, of_kernel(sketch))
    wide = replace(sketch, counts=sketch.counts.astype(np.int64))
    assert agree(wide, of_kernel(wide))
    many = sketch.repeat(1 << 35)
    assert agree(many, of_kernel(many))


@given(st.one_of(weighed(), laws()), RESOLUTIONS)
@settings(max_examples=25)
def test_a_device_weighs_pieces_as_numpy_does(drawn, resolution):
    sketch = whole(*drawn, PERS[0], resolution=resolution)
    for team in (32, 256):
        assert agree(sketch, of_kernel(sketch, Shim(has_threads=True), team))


def heavy(size: int, resolution: Resolution = UNITS) -> Sketch:
    """Units of that many values with heavy tails: one without weights, one whose tails weigh nothing, and others."""
    rng = np.random.default_rng(size)
    values, weights = rng.standard_t(3, (19, size)).astype(np.float32), rng.random((19, size)) ** 9
    weights[rng.random(weights.shape) < 0.3] = 0
    weights[3] = 0
    weights[4, np.abs(values[4]) > 1] = 0
    values[5], values[6] = np.abs(values[5]), -np.abs(values[6])
    return whole(values, weights, PERS[0], resolution=resolution)


@pytest.mark.parametrize("team", [32, 256])
@pytest.mark.parametrize("size", [1, 31, 300, 5000])
def test_threads_of_a_team_share_a_unit(size, team):
    for resolution in (UNITS, Resolution(few=3)):
        sketch = heavy(size, resolution)
        assert agree(sketch, of_kernel(sketch, Shim(has_threads=True), team))


def test_threads_that_do_not_wait_are_noticed(tmp_path):
    for path in SOURCE.glob("*.*"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "weighed.h").read_text()
    assert text.count("    MEET;\n    EACH(i, kept)") == 1
    (tmp_path / "weighed.h").write_text(text.replace("    MEET;\n    EACH(i, kept)", "    EACH(i, kept)"))
    sketch = heavy(300)
    assert not agree(sketch, of_kernel(sketch, Shim(has_threads=True, source=tmp_path), 256))


def test_a_hand_made_unit():
    """-4 and 8 weigh nothing; 1 weighs half, twice; -2 weighs 1; so -2 counts 1.5, and 1 as much as both: 1.5."""
    sketch = whole(np.float32([[-4, 8, 1, 1, -2]]), np.array([[0, 0, 1, 1, 2]]), PERS[0])
    found = of_kernel(sketch)
    assert found.keys[:2].view(np.float32).tolist() == [1, -2]
    assert (found.counts[:2].tolist(), found.masses[:2].tolist()) == ([2, 1], [1.5, 1.5])
    assert [each.tolist() for each in found[3:]] == [[2], [-2], [1], [3], [3]]


def test_an_outermost_piece_that_counts_little_counts_more():
    """1 000 values of weight 1 and one of 2⁻²⁰: all count 2²⁰ times as much, or nearly."""
    values, weights = np.ones((1, 1001), np.float32), np.ones((1, 1001))
    values[0, -1], weights[0, -1] = 3, 2.0**-20
    found = of_kernel(whole(values, weights, PERS[0]))
    assert 1 <= found.masses[1] < 2
    assert found.masses[0] == 2.0**20 * 1000 * found.masses[1]


@pytest.mark.parametrize("wrong", ["masses", "counts", "ends", "minimum", "weighed"])
def test_a_kernel_that_is_off_by_one_is_noticed(wrong):
    sketch = heavy(31)
    found = of_kernel(sketch)
    array = getattr(found, wrong)
    array[0] = np.nextafter(array[0], np.inf) if array.dtype == np.float64 else array[0] + 1
    assert not agree(sketch, found)


def test_figures_count_all_values_where_as_many_weigh_something_as_there_are_distinct_ones():
    values = np.random.default_rng(0).laplace(size=(8, 100)).astype(np.float32)
    values[:, 1] = values[:, 0]
    weights = np.ones(values.shape)
    weights[:, 5] = 0
    for method in ("mse", "kl", "kl-classic"):
        asked = {"per": "channel", "dtype": "int4", "method": method, "importance": weights}
        assert not differing(*both(lambda asked=asked: klcal.calibrate(values, **asked)))
