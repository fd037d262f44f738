"""What is chosen for units, and what it costs: sketches and settings → outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.qparams import rounded_scales, signed_scales
from klcal.quantizers.scale_formats import held
from klcal.search.choices import Choices, Spans, full_choices
from klcal.search.figures import figures
from klcal.search.methods import BINS, sub_bins_per_cell
from klcal.search.settings import Settings
from klcal.search.units import VALUES_PER_BIN
from klcal.sketches.distribution import Distribution
from klcal.sketches.sketch import COUNTERS, Sketch
from klcal.tables.outcomes import EMPTY, NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, joined

__all__ = ["chosen_outcomes", "least_values", "outcomes_of", "stretches", "sub_bins"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PIECES_AT_ONCE = 1 << 20  # of a distribution, looked at together: Python's own work vanishes, and memory is bounded
UNITS_AT_ONCE = 1 << 16  # looked at together, where they have few pieces
CHOSEN = ("chosen", "scale", "below", "kl", "squared_error", "energy", "clipped", "rounded_to_zero")
"""What is known of a unit that has a scale."""


def sub_bins(settings: Settings) -> int:
    """Into how many parts each cell is cut, for D."""
    return sub_bins_per_cell(getattr(settings.method, "bins", BINS), settings.scheme.size)


def least_values(settings: Settings) -> int:
    """From how many nonzero values on D decides."""
    return VALUES_PER_BIN * settings.scheme.size * sub_bins(settings)


def outcomes_of(found: Sketch, settings: Settings) -> Outcomes:
    """What is chosen for each unit of a sketch, and what it costs: some units at a time."""
    return joined(_outcomes(some, settings) for some in stretches(found))


def stretches(found: Sketch) -> Iterator[Sketch]:
    """Some units after the others, of not too many pieces together."""
    first = 0
    while first < found.units:
        end = int(np.searchsorted(found.starts, found.starts[first] + PIECES_AT_ONCE, side="right")) - 1
        last = min(max(end, first + 1), first + UNITS_AT_ONCE)
        yield found[first:last]
        first = last


def _outcomes(found: Sketch, settings: Settings) -> Outcomes:
    finite, nonzero = found.finite, found.nonzero
    fails = (settings.nonfinite == "fail") | (nonzero == 0)
    status = np.full(found.units, OK)
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
    size: int,
) -> Outcomes:
    """The outcomes of units that were searched and judged elsewhere.

    Args:
        status: (units,), as all.
        searched: which of them have a choice; of the others it may be anything.
        chosen: the scales before they were rounded to their format.
        deployed: and as they are written down.
        below: levels below zero.
        figures: (5, units): D, Σ(x − x̂)², Σx², values clipped, values that become 0.
        minimum: of the values that are not zero; inf where there are none.
        maximum: -inf where there are none.
        counters: of ``klcal.sketches.sketch.COUNTERS``, by their places there; all others are 0.
        size: values of each unit.
    """
    none = np.zeros(status.size, np.int64)
    zeros, nan, neg_inf, pos_inf, overflowed, underflowed = (counters.get(i, none) for i in range(len(COUNTERS)))
    left_out = [each for number, each in counters.items() if number < COUNTERS.index("underflowed")]
    nonzero = np.full(status.size, size) - sum(left_out, none)
    if 0 in counters:
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
        weighed=none,
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
    """The status of each unit that has values, and the columns of its outcome, ``chosen`` to ``rounded_to_zero``.

    Importance decides what is chosen; what it costs is told of all values alike.
    """
    distribution = Distribution.of(found)
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
    """The scale that each unit would have as a float32, and whether its format holds that: 0, or −1 or 1 beyond it.

    What the format lacks is a status where neither the scale that is wanted nor the one that covers the range is held.
    """
    scheme = settings.scheme
    free = replace(scheme, scale_format="float32", global_scale=1.0)
    full = full_choices(free, spans).scale
    fits = held(full, scheme.scale_format, scheme.global_scale).astype(np.int64)
    ends = np.flatnonzero(fits != 0)
    wanted = scale.copy()
    if ends.size:
        chosen: Choices = settings.method(distribution.select(ends), free, spans.select(ends))
        wanted[ends] = np.where(chosen.scale > 0, chosen.scale, full[ends])
        also = held(wanted[ends], scheme.scale_format, scheme.global_scale)
        fits[ends] = np.where(also == fits[ends], also, 0)
    return wanted, fits
