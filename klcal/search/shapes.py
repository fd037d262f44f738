"""Histograms and levels as plain Python values, for plots, from sketches and schemes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scheme import Scheme
from klcal.sketches.histogram import binned, binned_each, by_exponent
from klcal.sketches.sketch import Sketch
from klcal.tables.explanation import Alternative, Histogram, Octaves

__all__ = ["histogram", "histogram_of", "histograms", "levels_of", "octaves_of"]

Integers = npt.NDArray[np.int64]

MOST_LEVELS = 256  # levels that are listed at most: more lie closer than a plot can show
BIAS = 127  # of a float32 exponent


def histogram_of(found: Sketch) -> Histogram | None:
    """The histogram of all finite values of a sketch, over all of its units; None if there are none."""
    return histogram(float(found.min.min(initial=np.inf)), float(found.max.max(initial=-np.inf)), binned(found))


def histograms(found: Sketch) -> list[Histogram | None]:
    """The histogram of each unit of a sketch; None for a unit without finite values."""
    columns = found.min.tolist(), found.max.tolist(), binned_each(found)
    return [histogram(*each) for each in zip(*columns, strict=True)]


def histogram(low: float, high: float, counts: Integers) -> Histogram | None:
    """The histogram with these counts, (bins,), in equal bins from ``low`` to ``high``; None if ``low`` > ``high``."""
    return Histogram(low=low, high=high, counts=tuple(counts.tolist())) if low <= high else None


def octaves_of(found: Sketch) -> Octaves | None:
    """The number of nonzero finite values of a sketch in each octave of magnitude; None if there are none."""
    counts = by_exponent(found)
    some = np.flatnonzero(counts)
    if not some.size:
        return None
    first, last = int(some[0]), int(some[-1])
    return Octaves(first=first - BIAS, counts=tuple(counts[first : last + 1].tolist()))


def levels_of(scheme: Scheme, chosen: Alternative) -> tuple[float, ...] | None:
    """The values that the codes of a quantizer stand for, ascending; None if there are more than ``MOST_LEVELS``."""
    if scheme.size > MOST_LEVELS:
        return None
    if scheme.is_float:
        return tuple(sorted((FLOATS[scheme.dtype] * chosen.scale).tolist()))
    codes = np.array(scheme.integers, np.float64) - (chosen.zero_point or 0)
    return tuple(sorted((codes * chosen.scale).tolist()))
