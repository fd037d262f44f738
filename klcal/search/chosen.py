"""Sketches and settings → outcomes: the status of each unit, its quantizer, and the figures of this quantizer.

The method chooses; ``klcal.search.figures`` computes what the choice costs. Large sketches are handled in stretches of
units, so that memory is bounded. A CUDA device chooses by itself, and ``chosen_outcomes`` takes over its results.
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
from klcal.tables.outcomes import EMPTY, NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, Room, joined

__all__ = ["chosen_outcomes", "least_values", "outcomes_of", "put_outcomes", "stretches", "sub_bins"]

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
        return
    for some in stretches(found):
        room.put(first, _outcomes(some, settings))
        first += some.units


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
    place = room.part(first, first + found.units)
    compiled_outcomes(found, settings, sub_bins(settings), place)
    for name in (*COUNTERS, "weighed"):
        room.put_counter(first, name, getattr(found, name))
    unknown = np.flatnonzero(place.status == UNKNOWN)
    if unknown.size:
        others = joined(_outcomes(some, settings) for some in stretches(found.take(unknown)))
        for name in ("status", *CHOSEN):
            getattr(place, name)[unknown] = getattr(others, name)


def chosen_outcomes(
    status: npt.NDArray[Any],
    searched: npt.NDArray[np.bool_],
    chosen: Floats,
    deployed: Floats,
    below: Integers,
    figures: list[Floats],
    minimum: Floats,
    maximum: Floats,
    counters: dict[int, Integers],
    weighed: Integers | None,
    size: int,
) -> Outcomes:
    """The outcomes of units that were searched elsewhere: on a device. All arrays are (units,), if not said otherwise.

    All of them have the same number of values.

    Args:
        status: indices of ``klcal.tables.status.UNIT_STATUSES``, of any integer type.
        searched: which units have a choice; the choices and figures of all others are ignored.
        chosen: the scales before they are rounded to their format.
        deployed: the scales as they are deployed; negative for an extra level above zero.
        below: the number of levels below zero.
        figures: five arrays: D in nats, Σ(x − x̂)², Σx², the number of values clipped, and of values that become 0.
        minimum: of the nonzero finite values; inf where there are none.
        maximum: of the same; -inf where there are none.
        counters: int64 counters by their index in ``klcal.sketches.sketch.COUNTERS``; those left out are 0.
        weighed: the number of nonzero values with a weight above 0; None without importance.
        size: the number of values of each unit, zeros and NaN included.
    """
    none = np.zeros(status.size, np.int64)
    zeros, nan, neg_inf, pos_inf, overflowed, underflowed = (counters.get(i, none) for i in range(len(COUNTERS)))
    # Values that are not nonzero and finite. "underflowed" is left out: "zeros" has these values too.
    left_out = [each for number, each in counters.items() if number < COUNTERS.index("underflowed")]
    nonzero = np.full(status.size, size) - sum(left_out, none)
    if 0 in counters:  # zeros: they count in the range of an outcome
        minimum = np.minimum(minimum, np.where(zeros > 0, 0.0, np.inf))
        maximum = np.maximum(maximum, np.where(zeros > 0, 0.0, -np.inf))
    columns = [chosen, deployed, below.astype(np.float64), *figures]
    if not searched.all():
        columns = [np.where(searched, column, np.nan) for column in columns]
    chosen_columns: dict[str, Any] = dict(zip(CHOSEN, columns, strict=True))
    return Outcomes(
        status=status.astype(np.int64),
        **chosen_columns,
        nonzero=nonzero,
        weighed=none if weighed is None else weighed,
        finite=nonzero + zeros,
        minimum=minimum,
        maximum=maximum,
        zeros=zeros,
        nan=nan,
        neg_inf=neg_inf,
        pos_inf=pos_inf,
        overflowed=overflowed,
        underflowed=underflowed,
    )


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
