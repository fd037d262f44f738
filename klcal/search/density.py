"""How a unit is searched, and how many scales are tried, by the number of its pieces and by the format.

The fewer values a unit has, the more jagged is its error as a function of the scale, and the more scales have to be
tried. The numbers were found by measurement; ``tests/search/test_accuracy.py`` checks the accuracy that they give.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.explore import Density
from klcal.sketches.distribution import Distribution

__all__ = ["MAX_PIECES", "How", "density_of", "hows"]

FEW_LEVELS = 32  # levels of 5 bits: with so few, even some dozen values can be rounded in few ways
MAX_LEVELS = 1 << 10  # levels up to which buckets count as points: with more, a step is narrower than a bucket


class How(IntEnum):
    """The way in which a unit is searched.

    ROUNDINGS tries every way in which few values, or a few more that repeat, can be rounded. MINI to LONG look at every
    value under each scale, at fewer scales from one to the next. MIDDLES does so with the middles of buckets. BUCKETS
    uses prefix sums.
    """

    ROUNDINGS = 0
    MINI = 1
    TINY = 2
    SHORT = 3
    MEDIUM = 4
    LONG = 5
    MIDDLES = 6
    BUCKETS = 7


MAX_PIECES = {How.ROUNDINGS: 8, How.MINI: 24, How.TINY: 64, How.SHORT: 1024, How.MEDIUM: 3072, How.LONG: 8192}
"""The largest number of pieces (distinct values or buckets) for each way. Measured: 8 values can be rounded in some
2,000 ways at 8 bits, 24 values in 400 at 5 bits. Beyond 8,192 pieces it is faster to look up the prefix sums at each of
255 edges between levels than to look at each piece."""
REPEATED = 1.25  # values for each distinct one, from which a lattice is likely: it is fitted to the last bit of float64
MEETS_ALL = {"e8m0": 1, "float8_e4m3fn": 16}
"""Scales in each octave so that rounding them meets every number of a format. Those of float8_e4m3fn are at least 1/16
apart, relative to the larger one, and 16 scales in an octave are 1/24 apart."""
SEEDS = {How.MEDIUM: 8, How.LONG: 3, How.MIDDLES: 3}  # the best scales that are taken over from a first, thinned look


def hows(distribution: Distribution, scheme: Scheme) -> npt.NDArray[np.int64]:
    """The way in which each unit is searched, (units,): members of ``How`` as int64."""
    ends, pieces = np.array(list(MAX_PIECES.values())), distribution.pieces
    how = np.searchsorted(ends, pieces)
    if scheme.size <= FEW_LEVELS:
        is_lattice = distribution.number >= REPEATED * pieces
        how[(how == How.MINI) & (is_lattice | (scheme.size > FEW_LEVELS // 2))] = How.ROUNDINGS
    has_buckets = ~distribution.exact & (how < How.MIDDLES)
    how[has_buckets] = How.MIDDLES if scheme.size <= MAX_LEVELS else How.BUCKETS
    how[pieces > MAX_PIECES[How.LONG]] = How.BUCKETS
    return how


def density_of(scheme: Scheme, how: int) -> Density:
    """The density of the scales that are tried for units that are searched in one way.

    Args:
        scheme: what they are quantized to.
        how: a member of ``How``.
    """
    if how == How.ROUNDINGS:
        return density_of(scheme, How.MINI)._replace(few=True)
    if scheme.scale_format in MEETS_ALL:
        coarse = MEETS_ALL[scheme.scale_format]
        return Density(coarse=coarse, fine=(), refinements=0, wider=coarse > 1, by_buckets=how == How.BUCKETS)
    has_few_levels = scheme.size <= FEW_LEVELS
    if how == How.BUCKETS:
        coarse = 32 if scheme.is_float else 16 if has_few_levels else 8
        return Density(coarse=coarse, fine=(6, 4), refinements=0, by_buckets=True)
    if scheme.is_float and not has_few_levels:  # the error of a float format repeats with each octave
        return Density(coarse=64, fine=(3, 2), starts=2, seeds=SEEDS.get(How(how), 0))
    if has_few_levels and how == How.MINI:  # 98 of 100 units get the best of all roundings, in a tenth of the time
        if scheme.kind == "affine":
            return Density(coarse=48, fine=(6,), starts=12, refinements=2, wider=True)
        return Density(coarse=32, fine=(4,), starts=8, refinements=2, wider=True)
    if scheme.size <= FEW_LEVELS // 8:
        return Density(coarse=32, fine=(4,), starts=4, refinements=2)
    if has_few_levels:
        coarse = 24 if how <= How.TINY else 16
        return Density(coarse=coarse, fine=(4,), starts=4, refinements=2, seeds=SEEDS.get(How(how), 0))
    if how <= How.TINY or scheme.size > MAX_LEVELS // 2:
        return Density(coarse=192, fine=(6, 3), basins=6, starts=24, refinements=2, wider=True)
    if how == How.SHORT:
        return Density(coarse=32, fine=(10, 3), basins=3, starts=6, refinements=2, wider=True)
    if how == How.MEDIUM:
        return Density(coarse=16, fine=(5, 3), seeds=SEEDS[How.MEDIUM])
    return Density(coarse=8, fine=(4, 2), seeds=SEEDS[How(how)])
