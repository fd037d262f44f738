"""The sketch of a tensor that comes in batches, on a CPU or on CUDA devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klcal.quantizers.rounding import is_tensor
from klcal.sketches.arrays import checked_tensor
from klcal.sketches.device_counting import DeviceCounter
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch

if TYPE_CHECKING:
    from klcal.sketches.values import Values

__all__ = ["Accumulator"]


class Accumulator:
    """Counts batches as one tensor. Batches on a CUDA device are counted there.

    ``add`` does not wait for the device, so batches can be added in the middle of a forward pass; ``sketch`` does wait.
    On a device it takes at most 4.4 MB for each dtype, however many batches are added.

    >>> batches = Accumulator()
    >>> batches.add([1.0, 2.0])
    >>> batches.add([2.0, 0.0])
    >>> batches.sketch() == sketch([0.0, 1.0, 2.0, 2.0])
    True
    """

    def __init__(self) -> None:
        self._held: Sketch | None = None  # of batches on the CPU
        self._on_devices: dict[tuple[Any, Any, Any], DeviceCounter] = {}  # by device, dtype and layout

    def add(self, values: Values | Sketch) -> None:
        """Counts the values of a batch: anything that ``klcal.sketch`` takes, of any shape.

        Raises:
            UsageError: the values are not floating point, or their device cannot be used.
            InputError: a tensor in a file cannot be calibrated, or is damaged.
        """
        if not is_tensor(values) or not values.is_cuda:
            found = sketch(values)
            self._held = found if self._held is None else self._held + found
            return
        place = values.device, values.dtype, values.layout
        if place not in self._on_devices:
            self._on_devices[place] = DeviceCounter(checked_tensor(values), str(values.device))
        self._on_devices[place].add(values)

    def sketch(self) -> Sketch:
        """The sketch of all batches so far, as one unit. More batches may be added later."""
        parts = [each.sketch() for each in self._on_devices.values()]
        if self._held is not None:
            parts.append(self._held)
        return sum(parts[1:], parts[0]) if parts else Sketch.empty()
