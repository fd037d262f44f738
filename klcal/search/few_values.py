"""The best quantizer of a few values: the exact optimum, found by trying every way in which they can be rounded.

As the scale falls, a value moves to the next level where it passes the middle between two levels. The scales at which
some value does so divide all scales into intervals. Within an interval every value keeps its level q, and the scale of
least squared error is Σxq / Σq², or the end of the interval that is nearest to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scale_formats import ABOVE
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Candidates, joined
from klcal.search.explore import judged
from klcal.search.point_costs import PointCosts

__all__ = ["MAX_MIDDLES", "best_of_few", "middles_of"]

Floats = npt.NDArray[np.float64]

MAX_MIDDLES = 256  # middles between levels that are looked at; of formats with more, the outermost ones
OCTAVES = 4  # octaves of scales below the full scale that are tried; above it, one octave is


def best_of_few(costs: PointCosts, scheme: Scheme, full: Floats, slack: float) -> Candidates:
    """A candidate for each way in which the values of a unit can be rounded, and the full scale: (units, n).

    Args:
        costs: of units with few values.
        scheme: what they are quantized to.
        full: (units,), the scale that covers the whole range of each unit.
        slack: candidates are wanted whose squared error is at most ``slack`` times the minimum.
    """
    middles = middles_of(scheme)
    points = np.abs(costs.values)[:, :, None] * costs.power[:, None, None] / middles
    widest = judged(costs, scheme, full[:, None])
    smallest = _smallest_scale(costs, scheme, slack * widest.error)
    first, last = np.maximum(full[:, None] * 2.0**-OCTAVES, smallest), full[:, None] * 2.0
    points = np.sort(np.clip(points.reshape(full.size, -1), first, last), axis=1)
    points = points[:, np.count_nonzero(points <= first, axis=1).min() :]
    points = np.concatenate([first, points, last], axis=1)
    between = (points[:, 1:] + points[:, :-1]) / 2
    below, _ = costs.least_errors(between)
    scales = costs.refined(between, below)
    scales = np.clip(scales, points[:, :-1], points[:, 1:])
    is_one = points[:, 1:] > points[:, :-1]  # nothing lies between equal ones: that is no candidate, of any rank
    found = judged(costs, scheme, np.where(is_one, scales, full[:, None]))
    return joined([widest, found._replace(error=np.where(is_one, found.error, np.inf))])


def _smallest_scale(costs: PointCosts, scheme: Scheme, limit: Floats) -> Floats:
    """A scale for each unit, (units, 1): with a smaller one, clipping alone costs more than the error ``limit``.

    Limits are (units, 1). The bound leaves room for the rounding of scales to their format.
    """
    root, kept = np.sqrt(limit), 1 - 2 * ABOVE[scheme.scale_format]
    low, high = costs.min[:, None], costs.max[:, None]
    if scheme.kind == "affine":
        smallest = (high - low - root * np.sqrt(1.0 + ((low < 0) & (high > 0)))) / (scheme.size - 1)
    else:
        under, above = (ends.max() for ends in level_ends(scheme.belows, scheme))
        smallest = np.maximum((high - root) / above, (-low - root) / under)
    return np.where(np.isfinite(root) & (kept > 0), smallest * kept, 0.0)


def middles_of(scheme: Scheme) -> Floats:
    """The middles between neighbouring levels of either sign, in units of the scale: (n,), ascending, distinct."""
    sides = [np.append(0.0, side) for side in (scheme.above, scheme.below)]
    return np.unique(np.concatenate([(side[1:] + side[:-1]) / 2 for side in sides]))[-MAX_MIDDLES:]
