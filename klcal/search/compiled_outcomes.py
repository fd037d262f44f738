"""The outcomes of units by the compiled kernel, on the CPU: from sketches to the status, the choice and the figures.

One call of the kernel (``source/stretches.h``) does for many units what ``klcal.search.chosen`` does in NumPy, to the
bit. The kernel knows the methods kl, mse and minmax, without importance.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled
from klcal.kernels.threads import spread
from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import INT, POINTER, Units
from klcal.search.density import How, density_of
from klcal.search.methods import KL, MSE, Method, MinMax, sub_bins_per_cell
from klcal.search.outcome_structures import Calibration, Counted, Kept, Results, asked_of, kinds_of, on_place
from klcal.search.settings import Settings
from klcal.search.structures import COUNTS, HOST, kept_bits
from klcal.search.units import loss_of
from klcal.sketches.sketch import COUNTERS, Sketch
from klcal.tables.outcomes import FLOATS, Outcomes

__all__ = ["compiled_outcomes", "is_searched_in_c"]

WAYS = len(How)


def is_searched_in_c(method: Method) -> bool:
    """Whether C code, here or on a device, calibrates units by the method, from the sketch to the figures."""
    return type(method) in (KL, MSE, MinMax)


class _Searches:
    """A ``Calibration``, whose searches are added when a unit needs them."""

    def __init__(self, settings: Settings, sub: int) -> None:
        self.method, self.kinds = settings.method, kinds_of(settings.scheme)
        asked = asked_of(settings.scheme, settings.bounds, settings.nonfinite, sub, HOST)
        levels = [np.append(0.0, side) for side in (settings.scheme.above, settings.scheme.below)]
        self.kept: list[Any] = [asked, levels]
        self.searches = (POINTER * (WAYS * len(self.kinds)))()
        where = None if isinstance(self.method, MinMax) else ctypes.addressof(self.searches)
        self.structure = Calibration(asked.address, where, *map(address, levels), *(side.size for side in levels))

    def add(self, how: How) -> None:
        """Adds the searches of all kinds for units that are searched in one way."""
        for number, kind in enumerate(self.kinds):
            is_last = number + 1 == len(self.kinds)
            found = _search(kind, how, self.method if is_last else MSE())  # narrower kinds are candidates by their MSE
            self.kept.append(found)
            self.searches[number * WAYS + how] = found.address


def _search(scheme: Scheme, how: int, method: Method) -> Kept:
    sub, weight = 1, 1.0
    if isinstance(method, KL):
        sub, weight = sub_bins_per_cell(method.bins, scheme.size), method.weight
    return on_place(scheme, density_of(scheme, how), loss_of(scheme, how, sub, weight), HOST)


def compiled_outcomes(found: Sketch, settings: Settings, sub: int, place: Outcomes) -> None:
    """The outcomes of all units of a sketch, but for their counters. A status may be ``UNKNOWN``.

    Args:
        found: a sketch without weights.
        settings: with a method for which ``is_searched_in_c``.
        sub: the number of sub-bins of each cell, for D among the figures.
        place: to which they are written: a ``part`` of a ``Room``.

    Raises:
        MemoryError: the kernel found no room for its scratch arrays.
    """
    function = compiled().klcal_outcomes
    by = _Searches(settings, sub)
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
    return Counted(units, (POINTER * len(counters))(*map(address, counters))), [*kept, *counters]
