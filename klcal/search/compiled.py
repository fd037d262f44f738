"""The searches and the figures of units by the compiled kernel, on the CPU.

Each function fills the C structures (``klcal.search.structures``), and calls the kernel for ranges of units, on several
threads if there is enough work (``klcal.kernels.threads.spread``). Each thread writes its results to its own part of
the output arrays. The kernel must be there: callers ask ``klcal.kernels.library.library`` first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

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

if TYPE_CHECKING:
    from klcal.search.c_types import Classic

__all__ = ["compiled_classic", "compiled_figures", "compiled_search"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


def compiled_search(
    distribution: Distribution, numbers: Integers, scheme: Scheme, density: Density, loss: Loss, wanted: Structure
) -> None:
    """Searches some units of a distribution, all in the same way, and writes the choices to the arrays of ``wanted``.

    Args:
        distribution: of all units.
        numbers: (n,), int64, the numbers of the units that are searched.
        scheme: what they are quantized to.
        density: the number of scales that are tried.
        loss: what is minimised.
        wanted: the input and the output of all units: see ``klcal.search.structures.wanted_of``.

    Raises:
        MemoryError: the kernel found no room for its scratch arrays.
    """
    kernel = compiled()
    search, units = search_of(scheme, density, loss), units_of(distribution)
    order = np.ascontiguousarray(numbers)  # kept until all threads are done: they get addresses within it

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
    """The choices of `kl-classic`, (units,): see ``klcal.search.classic.least_classic``.

    Args:
        distribution: of the units.
        scheme: what they are quantized to.
        grid: the scales and zero points that are tried.
        sub: the number of sub-bins in each cell, at least 2.
        spans: (units,), the widest range that a candidate may keep.
        full: (units,), the quantizers that cover the spans; candidates too.
        also: further candidates, (units,) each.

    Raises:
        MemoryError: the kernel found no room for its scratch arrays.
    """
    kernel = compiled()
    found = Choices(np.empty(distribution.units), np.empty(distribution.units, np.int64))
    search, units = search_of(scheme, None, figures_alone(sub)), units_of(distribution)
    classic, wanted = classic_of(grid), wanted_of(spans, full, None, None, found)
    further = [np.concatenate(column) for column in zip(*also, strict=True)]  # scales and levels below zero
    candidates = cast("Classic", classic.structure)
    candidates.others, candidates.units = len(also), distribution.units
    candidates.scale, candidates.below = map(address, further)

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
    """The five figures of one quantizer for each unit, (units,) each, float64: see ``klcal.search.figures.Figures``.

    Args:
        distribution: of the units.
        scheme: the levels.
        loss: has the number of sub-bins in each cell; nothing else of it is used.
        scale: (units,), positive.
        below: (units,), int64, the number of levels below zero.

    Raises:
        MemoryError: the kernel found no room for its scratch arrays.
    """
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
    """Raises MemoryError if the threads finished fewer units than wanted: a thread stops if it finds no memory."""
    if sum(done) < wanted:
        raise MemoryError
