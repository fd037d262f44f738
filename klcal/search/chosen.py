"""Sketches and settings → outcomes: the status of each unit, its quantizer, and the figures of this quantizer.

The method chooses; ``klcal.search.figures`` computes what the choice costs. Large sketches are handled in stretches of
units, so that memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.quantizers.qparams import rounded_scales, signed_scales
from klcal.quantizers.scale_formats import held
from klcal.search.choices import Choices, Spans, full_choices
from klcal.search.compiled_outcomes import compiled_outcomes
from klcal.search.figures import figures
from klcal.search.methods import BINS, sub_bins_per_cell
from klcal.search.outcome_structures import UNKNOWN
from klcal.search.settings import Settings
from klcal.search.steps import is_searched_in_c
from klcal.search.units import VALUES_PER_BIN
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import COUNTERS, Sketch
from klcal.tables.outcomes import EMPTY, NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, Room

__all__ = ["least_values", "outcomes_of", "put_outcomes", "stretches", "sub_bins"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PIECES_AT_ONCE = 1 << 20  # pieces in a stretch of units: enough to hide Python's overhead, few enough for the memory
UNITS_AT_ONCE = 1 << 16  # units in a stretch, where they have few pieces
CHOSEN = ("chosen", "scale", "below", "kl", "squared_error", "energy", "clipped", "rounded_to_zero")
"""The columns of an outcome that only a unit with a scale has; NaN for all others."""


def sub_bins(settings: Settings) -> int:
    """The number of sub-bins in each cell, for D: from the ``bins`` of the method, or the default number of them."""
    return sub_bins_per_cell(getattr(settings.method, "bins", BINS), settings.scheme.size)


def least_values(settings: Settings) -> int:
    """The number of nonzero values from which D is used in the choice: 4 for each sub-bin (``VALUES_PER_BIN``)."""
    return VALUES_PER_BIN * settings.scheme.size * sub_bins(settings)


def outcomes_of(found: Sketch, settings: Settings) -> Outcomes:
    """The outcomes of all units of a sketch, in its order.

    Raises:
        MemoryError: the compiled kernel found no room.
    """
    room = Room(found.units)
    put_outcomes(room, 0, found, settings)
    return room.outcomes()


def put_outcomes(room: Room, first: int, found: Sketch, settings: Settings) -> None:
    """Put the outcomes of all units of a sketch into a room, from its unit ``first`` on.

    Raises:
        MemoryError: the compiled kernel found no room.
    """
    if library() is not None and is_searched_in_c(settings.method):
        _put_compiled(room, first, found, settings)
    else:
        _put_by_numpy(room, first + np.arange(found.units), found, settings)


def stretches(found: Sketch) -> Iterator[Sketch]:
    """A sketch in parts of consecutive units: at most ``PIECES_AT_ONCE`` pieces, or a single unit with more."""
    first = 0
    while first < found.units:
        end = int(np.searchsorted(found.starts, found.starts[first] + PIECES_AT_ONCE, side="right")) - 1
        last = min(max(end, first + 1), first + UNITS_AT_ONCE)
        yield found[first:last]
        first = last


def _outcomes(found: Sketch, settings: Settings) -> Outcomes:
    """The outcomes of some units, at once. A unit is searched only if its status allows a scale."""
    finite, nonzero = found.finite, found.nonzero
    fails = (settings.nonfinite == "fail") | (nonzero == 0)
    status = np.full(found.units, OK)  # a later line has priority over an earlier one
    status[nonzero == 0] = ZERO
    status[(nonzero == 0) & (found.underflowed > 0)] = UNDERFLOW
    status[(found.overflowed > 0) & fails] = OVERFLOW
    refused = (settings.nonfinite == "fail") | (finite == 0)
    status[(found.nonfinite > 0) & refused] = NONFINITE
    status[found.numel == 0] = EMPTY
    good = np.flatnonzero(status == OK)
    columns = np.full((len(CHOSEN), found.units), np.nan)
    if good.size:
        status[good], columns[:, good] = _chosen(found if good.size == found.units else found.take(good), settings)
    chosen: dict[str, Any] = dict(zip(CHOSEN, columns, strict=True))
    return Outcomes(
        status=status,
        **chosen,
        nonzero=nonzero,
        weighed=found.weighed,
        finite=finite,
        minimum=found.min,
        maximum=found.max,
        zeros=found.zeros,
        nan=found.nan,
        neg_inf=found.neg_inf,
        pos_inf=found.pos_inf,
        overflowed=found.overflowed,
        underflowed=found.underflowed,
    )


def _put_compiled(room: Room, first: int, found: Sketch, settings: Settings) -> None:
    """``put_outcomes`` by the compiled kernel. NumPy decides on units whose scale the format of scales may not hold."""
    where = slice(first, first + found.units)
    place = room.part(where)
    compiled_outcomes(found, settings, sub_bins(settings), place)
    room.put(where, {name: getattr(found, name) for name in (*COUNTERS, "weighed")})
    unknown = np.flatnonzero(place.status == UNKNOWN)
    if unknown.size:
        _put_by_numpy(room, first + unknown, found.take(unknown), settings)


def _put_by_numpy(room: Room, numbers: Integers, found: Sketch, settings: Settings) -> None:
    """Puts the outcomes of all units of a sketch into a room, where they have the numbers ``numbers``."""
    done = 0
    for some in stretches(found):
        room.put(numbers[done : done + some.units], _outcomes(some, settings)._asdict())
        done += some.units


def _chosen(found: Sketch, settings: Settings) -> tuple[Integers, Floats]:
    """The status, (units,), and the columns ``CHOSEN``, (8, units), of units with nonzero values.

    An importance decides on the choice only. The figures count all values alike.
    """
    distribution = Distribution.of(found)  # for the figures
    decides = distribution if found.weights is None else Distribution.weighted(found)
    scheme, spans = settings.scheme, Spans.of(decides, settings.bounds)
    scale, below = settings.method(decides, scheme, spans)
    wanted, fits = _wanted(decides, settings, spans, scale)
    rounded = rounded_scales(scale, below, scheme)
    status = np.where(fits > 0, OVERFLOW, np.where((fits < 0) | (rounded == 0), UNDERFLOW, OK))
    known = np.where(rounded > 0, rounded, 1.0)
    costs = figures(distribution, scheme, sub_bins(settings), known, below)
    return status, np.stack([wanted, signed_scales(rounded, below, scheme), below, *costs])


def _wanted(distribution: Distribution, settings: Settings, spans: Spans, scale: Floats) -> tuple[Floats, Integers]:
    """The scales that units would have as float32, and whether the format of scales holds them: (units,) each.

    A unit overflows or underflows if the format holds neither its scale as a float32 nor the one that covers the range.
    If it holds the latter, the choice within the format, ``scale``, stands.

    Returns:
        Scales, and for each unit 0 if the format holds it, −1 if it is too small, 1 if it is too large.
    """
    scheme = settings.scheme
    free = replace(scheme, scale_format="float32", global_scale=1.0)
    full = full_choices(free, spans).scale
    fits = held(full, scheme.scale_format, scheme.global_scale).astype(np.int64)
    ends = np.flatnonzero(fits != 0)  # few units or none: only these are searched a second time, with float32 scales
    wanted = scale.copy()
    if ends.size:
        chosen: Choices = settings.method(distribution.select(ends), free, spans.select(ends))
        wanted[ends] = np.where(chosen.scale > 0, chosen.scale, full[ends])
        also = held(wanted[ends], scheme.scale_format, scheme.global_scale)
        fits[ends] = np.where(also == fits[ends], also, 0)
    return wanted, fits
