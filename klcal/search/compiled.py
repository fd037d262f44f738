"""The searches and the figures of units in C, on the CPU: on several threads where it pays."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address, compiled
from klcal.kernels.threads import spread
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Choices, Spans
from klcal.search.explore import Density
from klcal.search.structures import (
    FIGURES,
    ClassicGrid,
    Loss,
    Structure,
    chosen_of,
    classic_of,
    figures_alone,
    search_of,
    units_of,
    wanted_of,
)
from klcal.sketches.distribution import Distribution

__all__ = ["compiled_classic", "compiled_figures", "compiled_search"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


def compiled_search(
    distribution: Distribution, numbers: Integers, scheme: Scheme, density: Density, loss: Loss, wanted: Structure
) -> None:
    """Searches some units of a distribution, by their numbers, all alike; writes what is chosen to where it is wanted.

    Args:
        distribution: of all units.
        numbers: of those that are searched.
        scheme: what they are quantized to.
        density: how closely to look.
        loss: what is minimised.
        wanted: of all units: see ``klcal.search.structures.wanted_of``.

    Raises:
        MemoryError: there was no room.
    """
    kernel = compiled()
    search, units = search_of(scheme, density, loss), units_of(distribution)
    order = np.ascontiguousarray(numbers)

    def some(first: int, last: int) -> int:
        begin = POINTER(address(order) + first * order.itemsize)
        structures = ctypes.byref(search.structure), ctypes.byref(units.structure)
        done: int = kernel.klcal_search(*structures, begin, INT(last - first), ctypes.byref(wanted.structure))
        return done

    _check(spread(some, distribution.pieces[order]), order.size)


def compiled_classic(
    distribution: Distribution,
    scheme: Scheme,
    grid: ClassicGrid,
    sub: int,
    spans: Spans,
    full: Choices,
    also: Sequence[Choices],
) -> Choices:
    """What `kl-classic` chooses for each unit: see ``klcal.search.classic.least_classic``.

    Raises:
        MemoryError: there was no room.
    """
    kernel = compiled()
    found = Choices(np.empty(distribution.units), np.empty(distribution.units, np.int64))
    search, units = search_of(scheme, None, figures_alone(sub)), units_of(distribution)
    classic, wanted = classic_of(grid, also), wanted_of(spans, full, None, None, found)

    def some(first: int, last: int) -> int:
        told = ctypes.byref(classic.structure), ctypes.byref(wanted.structure)
        structures = ctypes.byref(search.structure), ctypes.byref(units.structure)
        done: int = kernel.klcal_classic(*structures, INT(first), INT(last), *told)
        return done

    _check(spread(some, distribution.pieces), distribution.units)
    return found


def compiled_figures(
    distribution: Distribution, scheme: Scheme, loss: Loss, scale: Floats, below: Integers
) -> tuple[Floats, ...]:
    """D(P‖Q), Σ(x − x̂)², Σx², values clipped and values that become 0, of a quantizer for each unit: (units,) each."""
    kernel = compiled()
    found = np.empty((distribution.units, FIGURES))
    search, units = search_of(scheme, None, loss), units_of(distribution)
    chosen = chosen_of(scheme, scale, below, found)

    def some(first: int, last: int) -> int:
        structures = ctypes.byref(search.structure), ctypes.byref(units.structure)
        done: int = kernel.klcal_figures(*structures, INT(first), INT(last), ctypes.byref(chosen.structure))
        return done

    _check(spread(some, distribution.pieces), distribution.units)
    return tuple(found.T)


def _check(done: Iterable[int], wanted: int) -> None:
    if sum(done) < wanted:
        raise MemoryError
