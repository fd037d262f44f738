"""The mean square of each input column of a weight, kept as a sketch: written, merged and read as all are.

A column's squares are added up as integers, each in units of a power of 4 (``klcal.kernels.energy``). A sketch can say
that: so many values of the magnitude 2^k have the same sum of squares.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.kernels.energy import CELLS, add_energy, roots
from klcal.quantizers.granularity import Grid, PerChannel
from klcal.sketches.patterns import extremes, narrow
from klcal.sketches.sketch import Sketch

__all__ = ["SUFFIX", "Energy", "importance_of"]

SUFFIX = ".importance"
"""What the name of a weight is followed by, in a file of sketches."""

Floats = npt.NDArray[np.float64]


class Energy:
    """Adds up the squares of the columns of batches: 512 bytes a column.

    >>> energy = Energy(2)
    >>> energy.add(np.array([[1.0, 2.0], [3.0, 0.0]], np.float32))
    >>> importance_of(energy.sketch(), (8, 2)).tolist()
    [[10.0, 4.0]]
    """

    def __init__(self, columns: int) -> None:
        self._sums = np.zeros((columns, CELLS), np.int64)

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Values, (rows, columns). Any order of any batches gives the same; a square is 0.1 % off at most."""
        add_energy(np.ascontiguousarray(rows, np.float32), self._sums)

    def sketch(self) -> Sketch:
        """As many powers of 2 as have these squares together: a unit for each column."""
        columns = len(self._sums)
        column, cell = np.nonzero(self._sums)
        magnitudes = roots()[cell]
        pieces = np.bincount(column, minlength=columns)
        ends = np.append(0, np.cumsum(pieces))
        keys = magnitudes.view(np.uint32)
        minimum, maximum = extremes(keys, ends)
        return replace(
            Sketch.empty(columns, grid=Grid(PerChannel(0), 0, None, (columns,))),
            keys=keys,
            counts=narrow(self._sums[column, cell]),
            starts=ends,
            minimum=minimum,
            maximum=maximum,
        )


def importance_of(energy: Sketch, shape: tuple[int, ...]) -> Floats:
    """The sum of squares of the input that each value of a weight meets, with 1 for axes along which it is the same.

    Args:
        energy: what was recorded, a unit for each input column.
        shape: of the weight: [outputs, inputs] of a linear layer, [outputs, inputs / groups, ...] of a convolution.

    Raises:
        UsageError: the weight has another number of inputs.
    """
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
