"""The C structures for the calibration of units: those of klcal/kernels/source/outcomes.h and stretches.h.

``klcal.search.compiled_outcomes`` uses them on the CPU. For ``klcal.search.device_work``, pointers are addresses in the
memory of a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scale_formats import ABOVE, GREATEST, LEAST
from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import DOUBLE, INT, POINTER, Units, Weighed, fields_of
from klcal.search.methods import Percentile
from klcal.search.settings import Settings
from klcal.search.structures import ClassicGrid, Place, classic_of, figures_alone, search_of
from klcal.search.units import NARROWER
from klcal.tables.outcomes import FLOATS

__all__ = [
    "MOST_KINDS",
    "NO_STEP",
    "UNKNOWN",
    "VANISHED",
    "Asked",
    "Calibration",
    "Counted",
    "Deployed",
    "Kept",
    "Prepared",
    "Results",
    "SearchStep",
    "Sketches",
    "asked_of",
    "classic_on_place",
    "kinds_of",
    "on_place",
]

MOST_KINDS = 3  # kinds of schemes that are searched for one scheme, as in source/outcomes.h: see ``kinds_of``
NO_STEP = -1  # in place of the number of a step
COUNTERS = 6  # see ``klcal.sketches.sketch.COUNTERS``
# Further statuses of source/outcomes.h. UNKNOWN: the format may not hold the scale, and the caller has to decide on the
# unit. VANISHED: a scale was chosen, and its format rounds it to 0.
UNKNOWN, VANISHED = 6, 7


class Sketches(ctypes.Structure):
    """What sketches of units have beside their pieces.

    ``counters`` is (counters, units), int64: zeros, NaN, −inf, inf, overflowed and underflowed values. ``sizes`` is
    (units,), int64. If it is null, all units have ``size`` values.
    """

    _fields_ = [*fields_of(POINTER, "sizes counters"), *fields_of(INT, "units size")]


class Asked(ctypes.Structure):
    """The settings of a calibration.

    ``kinds`` points to a ``Search`` for each kind, the narrowest first; the last is the scheme that was asked for.
    ``low`` and ``high`` are the bounds, if ``has_bounds``. ``least_held`` and ``most_held`` are the smallest and the
    largest scale that the format of scales holds, relative to its global scale. ``percent`` of the nonzero values are
    kept if it is above 0.
    """

    _fields_ = [
        ("kinds", POINTER * MOST_KINDS),
        *fields_of(INT, "number_of_kinds nonfinite_fails has_bounds"),
        *fields_of(DOUBLE, "low high least_held most_held percent"),
    ]


class Prepared(ctypes.Structure):
    """Numbers of each unit that are computed before the search.

    All are (units,), except ``full`` and ``full_below``, which are (MOST_KINDS, units). With weights, all but
    ``status``, ``number`` and ``tops`` are of the values that weigh something.
    """

    _fields_ = fields_of(POINTER, "status how bounded low high number tops full full_below")


class Deployed(ctypes.Structure):
    """The scale of each unit after the search, (units,), float64.

    ``known`` is the scale for its figures: 1 if the chosen one became 0. ``deployed`` is the scale of the table, which
    is negative if the scheme is signed and the unit needs it. ``nats`` is D of the choice if the search computed it,
    else NaN.
    """

    _fields_ = fields_of(POINTER, "known deployed nats")


class SearchStep(ctypes.Structure):
    """A search of all units: ``Step`` in source/stretches.h, and ``klcal.search.steps.Step``.

    ``searches`` points to pointers to a ``Search``, (ways,): null for ways that no unit needed so far.
    """

    _fields_ = [("searches", POINTER), *fields_of(INT, "kind narrow plain is_weighted")]


class Calibration(ctypes.Structure):
    """How units are calibrated, for ``klcal_outcomes``.

    ``asked`` points to an ``Asked``, ``steps`` to as many ``SearchStep``: none if nothing is searched. ``classic``
    points to a ``Classic`` without further candidates, for which the choices of the last two steps are taken; it is
    null for other methods. ``above`` and ``below_zero`` are as in ``Chosen``.
    """

    _fields_ = [
        *fields_of(POINTER, "asked steps"),
        ("number_of_steps", INT),
        *fields_of(POINTER, "classic above below_zero"),
        *fields_of(INT, "aboves belows"),
    ]


class Counted(ctypes.Structure):
    """Sketches of units: ``Units`` without ``tops`` and ``number``, each counter, (units,), and what has weights."""

    _fields_ = [("units", Units), ("counters", POINTER * COUNTERS), ("weighed", Weighed)]


class Results(ctypes.Structure):
    """The results of ``klcal_outcomes``: ``Outcomes`` in source/stretches.h.

    All are (units,): ``columns`` are of float64, ``nonzero`` and ``finite`` of int64, ``status`` is of uint8.
    """

    _fields_ = [("columns", POINTER * len(FLOATS)), *fields_of(POINTER, "nonzero finite status")]


def kinds_of(scheme: Scheme) -> list[Scheme]:
    """The narrower kinds of a scheme and the scheme itself, the narrowest first: see ``NARROWER``."""
    found = [scheme]
    while found[0].kind in NARROWER:
        found.insert(0, replace(scheme, kind=NARROWER[found[0].kind]))
    return found


class Kept(NamedTuple):
    """An address, and the owners of the memory: it is valid as long as they live."""

    address: int
    kept: Sequence[Any]


@lru_cache(maxsize=64)
def on_place(scheme: Scheme, density: Any, loss: Any, place: Place) -> Kept:
    """The settings of a search, with the structure itself in that place: see ``search_of``."""
    words = search_of(scheme, density, loss, place)
    where, kept = place.put(_bytes(words.structure))
    return Kept(where, (*words.kept, kept))


def classic_on_place(grid: ClassicGrid, place: Place) -> Kept:
    """The candidates of `kl-classic`, with the structure itself in that place: see ``classic_of``."""
    found = classic_of(grid, place)
    where, kept = place.put(_bytes(found.structure))
    return Kept(where, (*found.kept, kept))


@lru_cache(maxsize=64)
def asked_of(settings: Settings, sub: int, place: Place) -> Kept:
    """The settings of a calibration as ``Asked``, in that place.

    Args:
        settings: with a method for which ``klcal.search.steps.is_searched_in_c``.
        sub: sub-bins of each cell, for the divergence among the figures.
        place: the memory of its arrays.
    """
    kinds = [on_place(each, None, figures_alone(sub), place) for each in kinds_of(settings.scheme)]
    low, high = settings.bounds or (0.0, 0.0)
    name, method = settings.scheme.scale_format, settings.method
    half_step = ABOVE[name] / 2
    asked = Asked(
        (POINTER * MOST_KINDS)(*(kind.address for kind in kinds)),
        len(kinds),
        settings.nonfinite == "fail",
        settings.bounds is not None,
        low,
        high,
        LEAST[name] / (1 + half_step),
        GREATEST[name] / (1 - half_step),
        method.percent if isinstance(method, Percentile) else 0.0,
    )
    where, kept = place.put(_bytes(asked))
    return Kept(where, (*kinds, kept))


def _bytes(structure: ctypes.Structure) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes(structure), np.uint8)
