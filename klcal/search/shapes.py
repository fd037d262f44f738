"""How values are distributed, and where the levels lie among them: sketches to the plain values that plots show."""

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

MOST_LEVELS = 256  # that are listed: more lie closer than any plot can show
BIAS = 127  # of a float32's exponent


def histogram_of(found: Sketch) -> Histogram | None:
    """That of all finite values of a sketch, of whatever units; None where there are none."""
    return histogram(float(found.min.min(initial=np.inf)), float(found.max.max(initial=-np.inf)), binned(found))


def histograms(found: Sketch) -> list[Histogram | None]:
    """That of each unit."""
    columns = found.min.tolist(), found.max.tolist(), binned_each(found)
    return [histogram(*each) for each in zip(*columns, strict=True)]


def histogram(low: float, high: float, counts: Integers) -> Histogram | None:
    """That of some counts; None where there are no ends."""
    return Histogram(low=low, high=high, counts=tuple(counts.tolist())) if low <= high else None


def octaves_of(found: Sketch) -> Octaves | None:
    """Its nonzero finite values by magnitude; None where there are none."""
    counts = by_exponent(found)
    some = np.flatnonzero(counts)
    if not some.size:
        return None
    first, last = int(some[0]), int(some[-1])
    return Octaves(first=first - BIAS, counts=tuple(counts[first : last + 1].tolist()))


def levels_of(scheme: Scheme, chosen: Alternative) -> tuple[float, ...] | None:
    """What the codes stand for, ascending; None where there are too many to tell them apart."""
    if scheme.size > MOST_LEVELS:
        return None
    if scheme.is_float:
        return tuple(sorted((FLOATS[scheme.dtype] * chosen.scale).tolist()))
    codes = np.array(scheme.integers, np.float64) - (chosen.zero_point or 0)
    return tuple(sorted((codes * chosen.scale).tolist()))
