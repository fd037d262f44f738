"""The values of a tensor → its row, where channels, groups or blocks have a scale each: on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.calibration.relative import relative_to_sketches
from klcal.calibration.rows import row_of_tensor
from klcal.calibration.sketches import calibrate_one_unit
from klcal.kernels.threads import threads, worked_ahead
from klcal.quantizers.layout import Layout
from klcal.search.chosen import put_outcomes
from klcal.search.settings import Settings
from klcal.search.shapes import histogram
from klcal.sketches.by_unit import Count, counted_before, unit_counts
from klcal.sketches.histogram import Tally
from klcal.sketches.importance import Importance
from klcal.sketches.weighted import weighted_unit_sketches
from klcal.tables.explanation import Explanation
from klcal.tables.outcomes import Room
from klcal.tables.rows import Row

__all__ = ["calibrate_units"]


def calibrate_units(
    chunks: Iterable[npt.NDArray[Any]],
    dtype: str,
    layout: Layout,
    settings: Settings,
    importance: Importance | None = None,
) -> Row:
    """The row of a tensor whose channels, groups or blocks have a scale each. Few of its units are in memory at a time.

    Args:
        chunks: the values as flat arrays, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``), in the order of
            the layout.
        dtype: of the values.
        layout: says to which unit each value belongs.
        settings: how each unit is calibrated.
        importance: of the values, in their order; None if all count alike.

    Raises:
        InputError: ``settings.unit`` is out of range.
    """
    counts: Iterable[Count] = unit_counts(chunks, dtype, layout, fresh=threads() > 1)
    if importance is not None:
        counts = map(counted_before, weighted_unit_sketches(chunks, dtype, layout, importance))
    if settings.scheme.is_relative:  # the global scale depends on all units, so their sketches are kept
        sketches = worked_ahead(lambda count: count(), counts)
        settings, counts = relative_to_sketches(settings, sketches), map(counted_before, sketches)
    if settings.unit is not None:
        number = layout.in_own_order(np.arange(layout.rows))[settings.unit]
        return calibrate_one_unit((count() for count in counts), int(number), layout.grid, settings)
    tally = None if settings.detail == "none" else Tally()
    room = Room(layout.rows)
    worked_ahead(partial(_put_counted, room, settings, tally), _numbered(counts))
    row = row_of_tensor(room.outcomes().each(layout.in_own_order), settings, layout.grid, importance is not None)
    if tally is None:
        return row
    return replace(row, explanation=Explanation(histogram=histogram(tally.low, tally.high, tally.binned())))


def _numbered(counts: Iterable[Count]) -> Iterator[tuple[int, Count]]:
    """Each count, and the number of its first unit in the order of the values."""
    first = 0
    for count in counts:
        yield first, count
        first += count.units


def _put_counted(room: Room, settings: Settings, tally: Tally | None, numbered: tuple[int, Count]) -> None:
    """Puts the outcomes of the units that are counted; the tally, if there is one, counts their values too."""
    first, count = numbered
    found = count()
    if tally is not None:
        tally.add(found)
    put_outcomes(room, first, found, settings)
