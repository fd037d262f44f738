"""Recorded importance: the sum of squares of each input column of a weight, kept as a sketch.

The squares of a column are added up as integers, in units of powers of 4 (``klcal.kernels.energy``): n units of 4^k are
stored as n values of the magnitude 2^k, which have the same sum of squares. So recorded importance is written, merged
and read like any sketch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.kernels import cuda_energy
from klcal.kernels.cuda import kernels
from klcal.kernels.cuda_energy import no_energy
from klcal.kernels.energy import CELLS, WIDTH, add_energy, roots
from klcal.quantizers.granularity import Grid, PerChannel
from klcal.sketches.device_counting import Order
from klcal.sketches.patterns import extremes, narrow
from klcal.sketches.sketch import Sketch

if TYPE_CHECKING:
    import torch

    from klcal.kernels.cuda_counting import Launcher

__all__ = ["SUFFIX", "Energy", "energy_sketch", "importance_of"]

SUFFIX = ".importance"
"""In a file of sketches, the importance of the weight NAME has the name NAME.importance."""

Floats = npt.NDArray[np.float64]


class Energy:
    """Adds up the squares of the columns of batches, in 528 bytes a column; on a CUDA device if the batches are there.

    The result does not depend on the order of the batches. Each square is at most 0.1 % off.

    >>> energy = Energy(2)
    >>> energy.add(np.array([[[1.0], [2.0]], [[3.0], [0.0]]], np.float32))
    >>> importance_of(energy_sketch(energy.numbers()), (8, 2)).tolist()
    [[10.0, 4.0]]

    Args:
        columns: their number.
        device: where the batches are; None for the CPU.
        launcher: runs the kernels of the device; by default the device itself.
    """

    def __init__(self, columns: int, device: torch.device | None = None, launcher: Launcher | None = None) -> None:
        self._sums = np.zeros((columns, WIDTH), np.int64)
        self._there: torch.Tensor | None = None
        if device is not None:
            self._there = no_energy(columns, device)
            self._launcher = launcher or kernels(self._there.device.index)
            self._order = Order(self._there)

    @staticmethod
    def of(sums: npt.NDArray[np.int64]) -> Energy:
        """The sums of another ``Energy``, on the CPU: ``sums`` is what its ``numbers`` returned, (columns, WIDTH)."""
        found = Energy(len(sums))
        found._sums += sums
        return found

    def add(self, values: npt.NDArray[np.float32] | torch.Tensor) -> None:
        """Adds the squares of a batch.

        Args:
            values: (outer, columns, run), contiguous: an array, or a tensor on the device. The call does not wait for
                the device.
        """
        if isinstance(values, np.ndarray):
            add_energy(values, self._sums)
            return
        assert self._there is not None
        self._order.before_adding()
        cuda_energy.add_energy(values, self._there, self._launcher)

    def numbers(self) -> npt.NDArray[np.int64]:
        """The sums so far, (columns, WIDTH), as ``klcal.kernels.energy`` lays them out. Waits for the device."""
        if self._there is None:
            return self._sums
        self._order.before_reading()
        found: npt.NDArray[np.int64] = self._there.cpu().numpy()
        return found


def energy_sketch(sums: npt.NDArray[np.int64]) -> Sketch:
    """The sums as a sketch with a unit for each column: its values are powers of 2 with the same sum of squares.

    Args:
        sums: (columns, WIDTH), the sums of one ``Energy``, or those of several, added.
    """
    columns = len(sums)
    column, cell = np.nonzero(sums[:, :CELLS])
    magnitudes = roots()[cell]
    ends = np.append(0, np.cumsum(np.bincount(column, minlength=columns)))
    keys = magnitudes.view(np.uint32)
    minimum, maximum = extremes(keys, ends)
    return replace(
        Sketch.empty(columns, grid=Grid(PerChannel(0), 0, None, (columns,))),
        keys=keys,
        counts=narrow(sums[column, cell]),
        starts=ends,
        pos_inf=sums[:, CELLS].copy(),
        nan=sums[:, CELLS + 1].copy(),
        minimum=minimum,
        maximum=maximum,
    )


def importance_of(energy: Sketch, shape: tuple[int, ...]) -> Floats:
    """The importance of a weight: for each value, the sum of squares of the inputs that it is multiplied with.

    Args:
        energy: what was recorded, a unit for each input column: see ``energy_sketch``.
        shape: of the weight: [outputs, inputs] of a linear layer, [outputs, inputs / groups, ...] of a convolution.

    Returns:
        float64, with the axes of the weight. The extent is 1 along axes on which the importance does not depend.

    Raises:
        UsageError: the weight has another number of inputs, or some inputs were infinite or NaN.
    """
    wrong = np.flatnonzero(energy.nonfinite)
    if wrong.size:
        what = f"inputs of {wrong.size} of {energy.units} columns were infinite or NaN, the first of column {wrong[0]}"
        raise UsageError(f"the importance is unknown: {what}", "record it with inputs that are finite")
    squares = (energy.keys.view(np.float32).astype(np.float64) ** 2) * energy.counts
    sums = np.zeros(energy.units)
    occupied = energy.pieces > 0
    sums[occupied] = np.add.reduceat(squares, energy.starts[:-1][occupied]) if squares.size else 0
    outputs, inputs = (*shape, 0, 0)[:2]
    groups = energy.units // inputs if inputs else 0
    if len(shape) < 2 or groups * inputs != energy.units or groups < 1 or outputs % groups:
        what = f"the importance is of {energy.units} inputs, the tensor has the shape {list(shape)}"
        raise UsageError(what, "record it with the model that has these weights")
    kernel = (1,) * (len(shape) - 2)
    if groups == 1:
        return sums.reshape(1, inputs, *kernel)
    return np.repeat(sums.reshape(groups, inputs), outputs // groups, axis=0).reshape(outputs, inputs, *kernel)
