"""What units are searched for on a device, in the words of C: ``klcal/kernels/source/outcomes.h``."""

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
from klcal.search.c_types import DOUBLE, INT, POINTER, fields_of
from klcal.search.structures import Place, figures_alone, search_of
from klcal.search.units import NARROWER

__all__ = ["MOST_KINDS", "Asked", "Deployed", "Kept", "Prepared", "Sketches", "asked_of", "kinds_of", "on_place"]

MOST_KINDS = 3


class Sketches(ctypes.Structure):
    """Sketches of units."""

    _fields_ = [
        *fields_of(POINTER, "starts ends sizes counters minimum maximum exact"),
        *fields_of(INT, "units size"),
    ]


class Asked(ctypes.Structure):
    """How they are calibrated."""

    _fields_ = [
        ("kinds", POINTER * MOST_KINDS),
        *fields_of(INT, "number_of_kinds nonfinite_fails has_bounds"),
        *fields_of(DOUBLE, "low high least_held most_held"),
    ]


class Prepared(ctypes.Structure):
    """What is known of each before it is searched."""

    _fields_ = fields_of(POINTER, "status how bounded low high number tops full full_below")


class Deployed(ctypes.Structure):
    """What becomes of the scale of each."""

    _fields_ = fields_of(POINTER, "known deployed")


def kinds_of(scheme: Scheme) -> list[Scheme]:
    """The scheme, and before it the narrower kinds of which each level is one of the next: the narrowest first."""
    found = [scheme]
    while found[0].kind in NARROWER:
        found.insert(0, replace(scheme, kind=NARROWER[found[0].kind]))
    return found


class Kept(NamedTuple):
    """An address, and what has to be kept as long as it is used."""

    address: int
    kept: Sequence[Any]


@lru_cache(maxsize=64)
def on_place(scheme: Scheme, density: Any, loss: Any, place: Place) -> Kept:
    """How units are searched, wholly there: see ``search_of``."""
    words = search_of(scheme, density, loss, place)
    where, kept = place.put(_bytes(words.structure))
    return Kept(where, (*words.kept, kept))


@lru_cache(maxsize=64)
def asked_of(scheme: Scheme, bounds: tuple[float, float] | None, nonfinite: str, sub: int, place: Place) -> Kept:
    """The settings, there."""
    kinds = [on_place(each, None, figures_alone(sub), place) for each in kinds_of(scheme)]
    low, high = bounds or (0.0, 0.0)
    name = scheme.scale_format
    half_step = ABOVE[name] / 2
    asked = Asked(
        (POINTER * MOST_KINDS)(*(kind.address for kind in kinds)),
        len(kinds),
        nonfinite == "fail",
        bounds is not None,
        low,
        high,
        LEAST[name] / (1 + half_step),
        GREATEST[name] / (1 - half_step),
    )
    where, kept = place.put(_bytes(asked))
    return Kept(where, (*kinds, kept))


def _bytes(structure: ctypes.Structure) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytes(structure), np.uint8)
