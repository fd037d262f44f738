"""The quantizers of units that were counted on a CUDA device, chosen and judged there.

The kernels are the source text of the CPU (``source/search.h``, ``figures.h``, ``outcomes.h``), so the answer is the
same to the bit. ``is_searched_there`` says for which methods a device does so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klcal.errors import InputError
from klcal.kernels.cuda import CPU_INSTEAD
from klcal.kernels.units import COUNTERS
from klcal.search.chosen import outcomes_of
from klcal.search.device_arrays import Arrays, Summary
from klcal.search.device_weighed import left_of
from klcal.search.device_work import Work
from klcal.search.outcome_structures import UNKNOWN, VANISHED
from klcal.search.settings import Settings
from klcal.search.steps import is_searched_in_c
from klcal.sketches.device_units import CountedUnits, fetched, host_sketch
from klcal.tables.outcomes import FLOATS, UNDERFLOW, Room, where_are

__all__ = ["extremes_there", "is_searched_there", "put_outcomes_there"]

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


def put_outcomes_there(room: Room, settings: Settings, found: CountedUnits) -> None:
    """Puts the outcome of each unit into a room of the host, which has all units of the tensor.

    The device searches if it can do so by the method, and the host waits for it a few times. Otherwise the CPU searches
    the sketches.

    Raises:
        InputError: the device has too little memory for a unit.
    """
    if not is_searched_there(settings):
        room.put(where_are(found.numbers), outcomes_of(host_sketch(found), settings)._asdict())
        return
    work = Work(found, settings)
    summary = work.prepare()
    factor = 1
    while not work.search(summary, factor):
        factor *= GROWTH
        if factor > MOST_GROWTH:
            raise InputError(f"there is not enough memory for a unit on {found.counts.keys.device}", CPU_INSTEAD)
    _put(room, work.arrays, summary)


def _put(room: Room, arrays: Arrays, summary: Summary) -> None:
    """Puts the outcomes into a room. The host decides on units whose scale the format of scales may not hold."""
    found = arrays.found
    counted = [which for which, is_any in enumerate(summary.counted) if is_any]
    weighed = {} if arrays.left is None else {"weighed": arrays.left.weighed}
    status, floats, numbers, *others = fetched(
        *(arrays.status, arrays.floats(), found.counts.numbers[counted], *weighed.values())
    )
    counters = {COUNTERS[which]: column for which, column in zip(counted, numbers, strict=True)}
    left_out = [column for name, column in counters.items() if name != "underflowed"]  # "zeros" has these values too
    nonzero = np.full(status.size, found.size) - sum(left_out)
    columns = {
        "status": np.where(status == VANISHED, UNDERFLOW, status),
        **dict(zip(FLOATS, floats, strict=True)),
        "nonzero": nonzero,
        "finite": nonzero + counters.get("zeros", 0),
        **counters,
        **dict(zip(weighed, others, strict=True)),
    }
    room.put(where_are(found.numbers), columns)
    if summary.unknown:
        places = np.flatnonzero(status == UNKNOWN)
        room.put(found.numbers[places], outcomes_of(host_sketch(found, places), arrays.settings)._asdict())
