"""What is chosen for units that were counted on a CUDA device, and what it costs: searched and judged there.

The kernels are the CPU's own text (``source/search.h``, ``figures.h``, ``outcomes.h``), so the answer is the same to
the bit. What a device does not do, ``is_searched_there`` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klcal.errors import InputError
from klcal.kernels.cuda import CPU_INSTEAD
from klcal.search.chosen import chosen_outcomes, outcomes_of
from klcal.search.device_work import VANISHED, Summary, Work
from klcal.search.methods import KL, MSE, MinMax
from klcal.search.settings import Settings
from klcal.sketches.device_units import CountedUnits, fetched, host_sketch
from klcal.tables.outcomes import OK, UNDERFLOW, Outcomes

__all__ = ["extremes_there", "is_searched_there", "outcomes_there"]

GROWTH = 4  # times as much memory as is usual, where that was too little for a unit
MOST_GROWTH = GROWTH**4
UNKNOWN = 6  # a status of source/outcomes.h: the host has to look at it


def is_searched_there(settings: Settings) -> bool:
    """Whether a device chooses so; else it counts, and the CPU chooses of the sketches."""
    return type(settings.method) in (KL, MSE, MinMax)


def extremes_there(counted: Sequence[CountedUnits]) -> tuple[float, float]:
    """The least and the greatest value of all units, and zero."""
    lows = [float(each.counts.minimum.min()) for each in counted]
    highs = [float(each.counts.maximum.max()) for each in counted]
    return min(*lows, 0.0), max(*highs, 0.0)


def outcomes_there(found: CountedUnits, settings: Settings) -> Outcomes:
    """What is chosen for each unit, and what it costs: by the device if it can, else of the sketches by the CPU."""
    if is_searched_there(settings):
        return _device_outcomes(found, settings)
    return outcomes_of(host_sketch(found), settings)


def _device_outcomes(found: CountedUnits, settings: Settings) -> Outcomes:
    """What is chosen for each unit, and what it costs; the host waits three times.

    Raises:
        InputError: a unit has no room on the device.
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
    """What the host is told; of units whose scale the format may not hold, what the host finds."""
    counts = work.found.counts
    counted = [which for which, is_any in enumerate(summary.counted) if is_any]
    status, chosen, deployed, below, figures, minimum, maximum, some = fetched(
        *(work.bytes["status"], work.floats["scale"][-1], work.floats["deployed"], work.integers["below"][-1]),
        *(work.figures.t().contiguous(), counts.minimum, counts.maximum, counts.numbers[counted]),
    )
    counters = dict(zip(counted, some, strict=True))
    deployed, kl = deployed.copy(), figures[0].copy()  # which a row keeps, and not the pinned memory
    searched = (status == OK) | (status == VANISHED)
    status = np.where(status == VANISHED, UNDERFLOW, status)
    found = chosen_outcomes(
        status, searched, chosen, deployed, below, [kl, *figures[1:]], minimum, maximum, counters, work.found.size
    )
    if summary.unknown:
        places = np.flatnonzero(status == UNKNOWN)
        others = outcomes_of(host_sketch(work.found, places), work.settings)
        for column, other in zip(found, others, strict=True):
            column[places] = other
    return found
