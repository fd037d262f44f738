"""The outcomes of units by the compiled kernel, on the CPU: from sketches to the status, the choice and the figures.

One call of the kernel (``source/stretches.h``) does for many units what ``klcal.search.chosen`` does in NumPy, to the
bit. The kernel knows klcal's own methods.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled
from klcal.kernels.threads import spread
from klcal.search.c_types import INT, POINTER, Units, Weighed
from klcal.search.classic import classic_grid
from klcal.search.density import How
from klcal.search.methods import KLClassic
from klcal.search.outcome_structures import (
    NO_STEP,
    Calibration,
    Counted,
    Results,
    SearchStep,
    asked_of,
    classic_on_place,
)
from klcal.search.settings import Settings
from klcal.search.steps import Step, steps_of
from klcal.search.structures import COUNTS, HOST, kept_bits, levels_from_zero
from klcal.sketches.sketch import COUNTERS, Sketch
from klcal.tables.outcomes import FLOATS, Outcomes

__all__ = ["compiled_outcomes"]

WAYS = len(How)


class _Calibration:
    """A ``Calibration``, whose searches are added when a unit needs them."""

    def __init__(self, settings: Settings, sub: int, *, weighted: bool) -> None:
        self.steps = steps_of(settings.method, settings.scheme, weighted=weighted)
        asked = asked_of(settings, sub, HOST)
        levels = levels_from_zero(settings.scheme)
        self.searches = [(POINTER * WAYS)() for _ in self.steps]
        steps = (SearchStep * len(self.steps))(*map(_step, self.steps, self.searches))
        self.kept: list[Any] = [asked, levels, steps]
        grid = None
        if isinstance(settings.method, KLClassic) and self.steps:
            grid = classic_on_place(classic_grid(settings.scheme), HOST)
            self.kept.append(grid)
        self.structure = Calibration(
            *(asked.address, ctypes.addressof(steps), len(steps), grid and grid.address),
            *map(address, levels),
            *(side.size for side in levels),
        )

    def add(self, how: How) -> None:
        """Adds the searches of all steps for units that are searched in one way.

        Meanwhile the kernel runs in other threads: it looks for those of all steps.
        """
        for step, searches in zip(self.steps, self.searches, strict=True):
            found = step.search(how)
            self.kept.append(found)
            searches[how] = found.address


def _step(step: Step, searches: ctypes.Array[ctypes.c_void_p]) -> SearchStep:
    others = (NO_STEP if other is None else other for other in (step.narrow, step.plain))
    return SearchStep(ctypes.addressof(searches), step.kind, *others, step.weighted)


def compiled_outcomes(found: Sketch, settings: Settings, sub: int, place: Outcomes) -> None:
    """The outcomes of all units of a sketch, but for their counters. A status may be ``UNKNOWN``.

    Args:
        found: the sketch.
        settings: with a method for which ``klcal.search.steps.is_searched_in_c``.
        sub: the number of sub-bins of each cell, for D among the figures.
        place: to which they are written: a ``part`` of a ``Room``.

    Raises:
        MemoryError: the kernel found no room for its scratch arrays.
    """
    function = compiled().klcal_outcomes
    by = _Calibration(settings, sub, weighted=found.weights is not None)
    counted, kept = _counted(found)
    columns = (POINTER * len(FLOATS))(*(address(getattr(place, name)) for name in FLOATS))
    to = Results(columns, address(place.nonzero), address(place.finite), address(place.status))

    def some(first: int, last: int) -> None:
        while first < last:
            missing = INT(0)
            told = ctypes.byref(by.structure), INT(first), INT(last), ctypes.byref(to), ctypes.byref(missing)
            first += function(ctypes.byref(counted), *told)
            if not missing.value and first < last:
                raise MemoryError
            for how in How:
                if missing.value >> how & 1:
                    by.add(how)

    spread(some, found.pieces)
    del kept


def _counted(found: Sketch) -> tuple[Counted, list[npt.NDArray[Any]]]:
    """A sketch as the kernel has it, and the arrays to which it points."""
    starts = np.ascontiguousarray(found.starts)
    counters = [np.ascontiguousarray(getattr(found, name)) for name in COUNTERS]
    kept = [found.keys, found.counts, starts, starts[1:], found.exact, found.minimum, found.maximum]
    kept = [np.ascontiguousarray(each) for each in kept]
    units = Units(*map(address, kept), None, None, COUNTS[found.counts.dtype], *kept_bits(found.resolution))
    pointers = (POINTER * len(counters))(*map(address, counters))
    if found.weights is None:
        return Counted(units, pointers), [*kept, *counters]
    weights = np.ascontiguousarray(found.weights)
    left = [np.empty(found.keys.size, each) for each in (np.uint32, found.counts.dtype, np.float64)]
    left += [np.empty(found.units, each) for each in (np.int64, np.float64, np.float64, np.float64, np.int64)]
    weighed = Weighed(address(weights), found.keys.size, *map(address, left))
    return Counted(units, pointers, weighed), [*kept, *counters, weights, *left]
