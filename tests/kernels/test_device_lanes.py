"""Short units on a device, a thread for each: the kernels alone, in memory that ends where theirs does.

Without threads that take turns, so that a sanitizer sees each access: ``python -m tests.sanitized`` runs these too.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import klcal
from klcal.kernels.library import address
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Choices, Spans, full_choices
from klcal.search.compiled import compiled_figures, compiled_search
from klcal.search.density import How, density_of, hows
from klcal.search.device_work import BALANCE_BYTES, CANDIDATE_BYTES, DESK_BYTES, LANE_THREADS, ROW_BYTES
from klcal.search.methods import MSE
from klcal.search.steps import Step, steps_of
from klcal.search.structures import (
    FIGURES,
    chosen_of,
    figures_alone,
    rounding_kind,
    scheme_kind,
    search_of,
    units_of,
    wanted_of,
)
from klcal.search.units import loss_of
from klcal.sketches.distribution import Distribution
from tests.support.devices import JUNK, Shim
from tests.support.kernels import IS_COMPILED
from tests.support.samples import cut

pytestmark = IS_COMPILED

BLOCKS, WARPS = 2, LANE_THREADS // 32
UNITS = 300  # more than two blocks have threads
SUB_BINS = 8

CASES = [
    ("int4", "symmetric", 128, False),
    ("uint4", "affine", 128, False),
    ("uint4", "affine", 100, True),
    ("int8", "symmetric-full", 256, False),
    ("float4_e2m1fn", "auto", 32, True),
    ("float4_e2m1fn", "auto", 20, False),
]


def units_for(columns: int, *, is_cut: bool, is_weighed: bool = False) -> Distribution:
    """Units of so many values, or half as many; if they are cut, some occur more than once."""
    rng = np.random.default_rng(columns)
    values = rng.standard_t(4, (UNITS, columns)).astype(np.float32)
    values[::7, columns // 2 :] = 0
    values = cut(values) if is_cut else values
    weights = rng.exponential(size=columns) if is_weighed else None
    return Distribution.weighted(klcal.sketch(values, per="channel", importance=weights))


def step_of(dtype: str, kind: str) -> Step:
    scheme = Scheme.parse(dtype, kind, "float32")
    return steps_of(MSE(), scheme, weighted=False)[-1]


def launched(name: str, step: Step, rows: int, far: int, *told: int, case: str) -> int:
    """Runs a kernel for all units; returns for how many of them the memory was too little."""
    memory = np.frombuffer(bytearray(JUNK * (BLOCKS * WARPS * far + 16)), np.uint8)
    begin = -(-address(memory) // 16) * 16
    left = np.zeros(1, np.int64)
    Shim().launch(
        *("device_lanes.cu", name, BLOCKS, LANE_THREADS, 0),
        *(*told[:2], 0, UNITS, told[2], rows, begin, far, address(left)),
        macros=(f"THREADS={LANE_THREADS}", "RESIDENT=2", f"SCHEME_KIND={scheme_kind(step.scheme)}", case),
    )
    return int(left[0])


@pytest.mark.parametrize("is_weighed", [False, True], ids=["plain", "weights"])
@pytest.mark.parametrize(("dtype", "kind", "columns", "is_cut"), CASES)
def test_threads_choose_and_judge_as_the_cpu_does(dtype, kind, columns, is_cut, is_weighed):
    some = units_for(columns, is_cut=is_cut, is_weighed=is_weighed)
    step = step_of(dtype, kind)
    scheme, how = step.scheme, int(hows(some, step.scheme).max())
    assert int(hows(some, scheme).min()) >= How.MINI
    assert how <= How.SHORT
    spans, rows = Spans.of(some, None), max(16, 1 << int(some.pieces.max() - 1).bit_length())
    full = full_choices(scheme, spans)
    found, expected = (Choices(np.full(UNITS, np.nan), np.full(UNITS, -1, np.int64)) for _ in range(2))
    density, loss = density_of(scheme, how), loss_of(scheme, how, 1, 1.0)
    search, units = search_of(scheme, density, loss), units_of(some)
    wanted = wanted_of(spans, full, None, None, found)
    compiled_search(some, np.arange(UNITS), scheme, density, loss, wanted_of(spans, full, None, None, expected))
    of_row = ROW_BYTES + BALANCE_BYTES * (scheme.kind == "affine")
    far = of_row * (rows + 4) + DESK_BYTES + CANDIDATE_BYTES * step.candidates(how)
    told = (ctypes.addressof(each.structure) for each in (search, units, wanted))
    assert launched("search_short_units", step, rows, far, *told, case=f"ROUNDING_KIND={rounding_kind(scheme)}") == 0
    assert np.array_equal(found.scale, expected.scale)
    assert np.array_equal(found.below, expected.below)

    if is_weighed:  # figures are of all values
        return
    alone, figures = figures_alone(SUB_BINS), np.full((UNITS, FIGURES), np.nan)
    judged = search_of(scheme, None, alone), units, chosen_of(scheme, found.scale, found.below, figures)
    told = (ctypes.addressof(each.structure) for each in judged)
    assert launched("figures_of_short_units", step, rows, ROW_BYTES * rows, *told, case="ONLY_FIGURES") == 0
    for column, known in zip(figures.T, compiled_figures(some, scheme, alone, *found), strict=True):
        assert np.array_equal(column, known)


def test_units_for_which_there_is_no_room_are_counted():
    some, step = units_for(128, is_cut=False), step_of("int4", "symmetric")
    spans = Spans.of(some, None)
    full, found = full_choices(step.scheme, spans), Choices(np.full(UNITS, np.nan), np.full(UNITS, -1, np.int64))
    loss = loss_of(step.scheme, How.SHORT, 1, 1.0)
    search, wanted = (
        search_of(step.scheme, density_of(step.scheme, How.SHORT), loss),
        wanted_of(spans, full, None, None, found),
    )
    structures = search, units_of(some), wanted
    told = [ctypes.addressof(each.structure) for each in structures]
    for candidates, is_enough in ((0, False), (10, False), (200, True)):
        found.scale[:] = np.nan
        far = ROW_BYTES * 128 + DESK_BYTES + CANDIDATE_BYTES * candidates
        left = launched("search_short_units", step, 128, far, *told, case="ROUNDING_KIND=0")
        assert (left == 0) == is_enough
        assert left == np.isnan(found.scale).sum()
