"""The values of a tensor on a CUDA device → its row, where channels, groups or blocks have a scale each.

Imported only if there is a device: it is of no use without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from klcal.calibration.relative import relative_to_range
from klcal.calibration.rows import row_of_tensor
from klcal.kernels.cuda import kernels
from klcal.quantizers.layout import Layout
from klcal.search.on_device import extremes_there, outcomes_there
from klcal.search.settings import Settings
from klcal.sketches.device_counting import stopped_devices
from klcal.sketches.device_units import CountedUnits, all_units, counted_on_device
from klcal.tables.outcomes import joined
from klcal.tables.rows import Row

if TYPE_CHECKING:
    from klcal.sketches.values import There

__all__ = ["calibrate_counted", "calibrate_there"]


def calibrate_there(there: There, settings: Settings) -> Row:
    """The row of a tensor on a CUDA device, whose units are counted there."""
    tensor, dtype, place, importance = there
    with stopped_devices(str(tensor.device)):
        launcher = kernels(tensor.device.index)
        counted = counted_on_device(tensor, dtype, place.tiles, all_units(place), launcher, importance=importance)
        return calibrate_counted(counted, place, settings, weighed=importance is not None)


def calibrate_counted(
    counted: Iterable[CountedUnits], layout: Layout, settings: Settings, *, weighed: bool = False
) -> Row:
    """The row of a tensor whose units are counted on a CUDA device.

    The device searches them too, unless the method is somebody else's; then the CPU searches their sketches.

    Args:
        counted: parts of the units, in any order, with their numbers; at least one part.
        layout: the units of the tensor.
        settings: how each unit is calibrated. The row has no explanation, whatever ``detail`` is.
        weighed: whether the values have an importance.
    """
    if settings.scheme.is_relative:  # the global scale depends on all units, so none can be searched before
        counted = list(counted)
        settings = relative_to_range(settings, *extremes_there(counted))
    parts = [(each.numbers, outcomes_there(each, settings)) for each in counted]
    numbers = np.concatenate([own for own, _ in parts])
    outcomes = parts[0][1] if len(parts) == 1 else joined(outcomes for _, outcomes in parts)
    if (numbers[1:] < numbers[:-1]).any():
        outcomes = outcomes.each(itemgetter(np.argsort(numbers)))
    return row_of_tensor(outcomes, settings, layout.grid, weighed)
