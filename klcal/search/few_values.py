"""The best quantizer of up to some values: the optimum itself, by trying each way in which they can be rounded.

As a scale falls, a value moves to the next level where it passes the middle between two. Between two such points, of
all values, every value keeps its level, and the best scale is that of least squares, as far as it lies between them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Candidates, joined
from klcal.search.explore import judged
from klcal.search.point_costs import PointCosts

__all__ = ["MAX_MIDDLES", "best_of_few"]

Floats = npt.NDArray[np.float64]

MAX_MIDDLES = 256  # between levels; of formats with more, the last ones, which the largest value passes
OCTAVES = 4  # of scales below the full one that are tried; one octave above it


def best_of_few(costs: PointCosts, scheme: Scheme, full: Floats) -> Candidates:
    """One candidate for each way in which the values of each unit can be rounded, and the full scale."""
    middles = _middles(scheme)
    points = np.abs(costs.values)[:, :, None] * costs.power[:, None, None] / middles
    first, last = full[:, None] * 2.0**-OCTAVES, full[:, None] * 2.0
    points = np.sort(np.clip(points.reshape(full.size, -1), first, last), axis=1)
    points = np.concatenate([first, points, last], axis=1)
    between = (points[:, 1:] + points[:, :-1]) / 2
    below, _ = costs.least_errors(between)
    scales = costs.refined(between, below)
    scales = np.clip(scales, points[:, :-1], points[:, 1:])
    return joined([judged(costs, scheme, full[:, None]), judged(costs, scheme, scales)])


def _middles(scheme: Scheme) -> Floats:
    """Magnitudes between the neighbouring levels of either side, in steps."""
    sides = [np.append(0.0, side) for side in (scheme.above, scheme.below)]
    return np.unique(np.concatenate([(side[1:] + side[:-1]) / 2 for side in sides]))[-MAX_MIDDLES:]
