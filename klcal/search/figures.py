"""The figures of the table: what the chosen quantizer of each unit does to the values of the unit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.quantizers.scheme import Scheme
from klcal.search.compiled import compiled_figures
from klcal.search.divergences import divergences
from klcal.search.exact_costs import exact_costs
from klcal.search.structures import figures_alone
from klcal.sketches.distribution import Distribution

__all__ = ["Figures", "figures"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Figures(NamedTuple):
    """The figures of each unit, over its nonzero finite values: (units,) each."""

    kl: Floats  # D(P‖Q) in nats; NaN if cells are not divided into sub-bins
    squared_error: Floats  # Σ(x − x̂)²
    energy: Floats  # Σx²
    clipped: Floats  # the number of values that round beyond the lowest or the highest level
    rounded_to_zero: Floats  # the number of values that become 0


def figures(distribution: Distribution, scheme: Scheme, sub: int, scale: Floats, below: Integers) -> Figures:
    """The figures of one quantizer for each unit.

    Args:
        distribution: of the units.
        scheme: the number format and the kind of zero point.
        sub: the number of equal sub-bins in each cell, for D(P‖Q). With 1, D is not defined.
        scale: (units,), positive.
        below: (units,), the number of levels below zero.
    """
    if library() is not None:
        return Figures(*compiled_figures(distribution, scheme, figures_alone(sub), scale, below))
    kl = np.full(scale.size, np.nan)
    if sub > 1:
        kl = divergences(distribution, scheme, scale[:, None], below[:, None], sub)[:, 0]
    error, clipped, lost = exact_costs(distribution, scheme, scale, below)
    return Figures(kl, error, distribution.energy, clipped, lost)
