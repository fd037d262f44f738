"""The quantizers of units that were counted on a CUDA device, chosen and judged there.

The kernels are the source text of the CPU (``source/search.h``, ``figures.h``, ``outcomes.h``), so the answer is the
same to the bit. ``is_searched_there`` says for which methods a device does so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klcal.errors import InputError
from klcal.kernels.cuda import CPU_INSTEAD
from klcal.search.chosen import chosen_outcomes, outcomes_of
from klcal.search.device_arrays import Summary
from klcal.search.device_weighed import left_of
from klcal.search.device_work import Work
from klcal.search.outcome_structures import UNKNOWN, VANISHED
from klcal.search.settings import Settings
from klcal.search.steps import is_searched_in_c
from klcal.sketches.device_units import CountedUnits, fetched, host_sketch
from klcal.tables.outcomes import OK, UNDERFLOW, Outcomes

__all__ = ["extremes_there", "is_searched_there", "outcomes_there"]

GROWTH = 4  # factor by which a team gets more memory, if a unit needed more than is usual
MOST_GROWTH = GROWTH**4


def is_searched_there(settings: Settings) -> bool:
    """Whether a device can search by the method. If not, the device counts, and the CPU searches the sketches."""
    return is_searched_in_c(settings.method)


def extremes_there(counted: Sequence[CountedUnits]) -> tuple[float, float]:
    """The lowest and the highest finite value of all units, zero included. Waits for the device.

    With an importance, they are of the values that weigh something.
    """
    ranges = (each.counts if each.weights is None else left_of(each) for each in counted)  # one at a time in memory
    lows, highs = zip(*((float(each.minimum.min()), float(each.maximum.max())) for each in ranges), strict=True)
    return min(*lows, 0.0), max(*highs, 0.0)


def outcomes_there(found: CountedUnits, settings: Settings) -> Outcomes:
    """The outcome of each unit: by the device if it can search by the method, else by the CPU from the sketches.

    Raises:
        InputError: the device has too little memory.
    """
    if is_searched_there(settings):
        return _device_outcomes(found, settings)
    return outcomes_of(host_sketch(found), settings)


def _device_outcomes(found: CountedUnits, settings: Settings) -> Outcomes:
    """The outcome of each unit, by the device. The host waits for it three times.

    Raises:
        InputError: the device has too little memory for a unit.
    """
    work = Work(found, settings)
    summary = work.prepare()
    factor = 1
    while not work.search(summary, factor):
        factor *= GROWTH
        if factor > MOST_GROWTH:
            raise InputError(f"there is not enough memory for a unit on {found.counts.keys.device}", CPU_INSTEAD)
    return _outcomes(work, summary)


def _outcomes(work: Work, summary: Summary) -> Outcomes:
    """The outcomes, copied to the host. The host decides on units whose scale the format of scales may not hold."""
    arrays, units = work.arrays, work.arrays.found
    counts = units.counts
    counted = [which for which, is_any in enumerate(summary.counted) if is_any]
    weighed = [] if arrays.left is None else [arrays.left.weighed]
    status, chosen, deployed, below, figures, minimum, maximum, some, *weighed_there = fetched(
        *(arrays.status, arrays.scale[-1], arrays.deployed, arrays.below[-1]),
        *(arrays.figures.t().contiguous(), counts.minimum, counts.maximum, counts.numbers[counted], *weighed),
    )
    deployed, kl = deployed.copy(), figures[0].copy()  # a row keeps these, and must not keep the pinned memory
    searched = (status == OK) | (status == VANISHED)
    found = chosen_outcomes(
        np.where(status == VANISHED, UNDERFLOW, status),
        searched,
        *(chosen, deployed, below, [kl, *figures[1:]], minimum, maximum),
        dict(zip(counted, some, strict=True)),
        weighed_there[0].copy() if weighed_there else None,
        units.size,
    )
    if summary.unknown:
        places = np.flatnonzero(status == UNKNOWN)
        others = outcomes_of(host_sketch(units, places), work.settings)
        for column, other in zip(found, others, strict=True):
            column[places] = other
    return found
