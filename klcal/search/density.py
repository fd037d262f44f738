"""How a unit is searched, and how closely its scales are looked at: by how many pieces it has, and its format.

The fewer values a unit has, the more jagged is its error in the scale, and the closer it has to be looked at.
``tests/search/test_accuracy.py`` holds what comes of these numbers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.explore import Density
from klcal.sketches.distribution import Distribution

__all__ = ["MAX_PIECES", "How", "density_of", "hows"]

FEW_LEVELS = 32  # up to 5 bits: the roundings of some dozen values are few, too
MAX_LEVELS = 1 << 10  # up to which buckets may count as points: the steps of more are narrower than buckets


class How(IntEnum):
    """The way in which a unit is searched."""

    ROUNDINGS = 0  # all ways in which its values can be rounded are tried
    MINI = 1  # these five: value by value, less and less closely
    TINY = 2
    SHORT = 3
    MEDIUM = 4
    LONG = 5
    MIDDLES = 6  # as if all values of a bucket were in its middle
    BUCKETS = 7  # by prefix sums


MAX_PIECES = {How.ROUNDINGS: 8, How.MINI: 24, How.TINY: 64, How.SHORT: 1024, How.MEDIUM: 3072, How.LONG: 8192}
"""Distinct values of a unit, or buckets, up to which it is searched so. Measured: 8 values have 2,000 roundings at 8
bits, 24 have 400 at 5; beyond 8,192 pieces, a look-up for each of 255 edges between levels is faster than at each."""
SEEDS = {How.MEDIUM: 8, How.LONG: 3, How.MIDDLES: 3}  # scales taken from a first look at some of the values


def hows(distribution: Distribution, scheme: Scheme) -> npt.NDArray[np.int64]:
    """How each unit is searched."""
    ends = np.array(list(MAX_PIECES.values()))
    how = np.searchsorted(ends, distribution.pieces)
    if scheme.size <= FEW_LEVELS:
        how[how == How.MINI] = How.ROUNDINGS
    has_buckets = ~distribution.exact & (how < How.MIDDLES)
    how[has_buckets] = How.MIDDLES if scheme.size <= MAX_LEVELS else How.BUCKETS
    how[distribution.pieces > MAX_PIECES[How.LONG]] = How.BUCKETS
    return how


def density_of(scheme: Scheme, how: int) -> Density:
    """How closely the scales of such units are looked at."""
    if how == How.ROUNDINGS:
        return density_of(scheme, How.MINI)._replace(few=True)
    if scheme.scale_format == "e8m0":
        return Density(coarse=1, fine=(), refinements=0, by_buckets=how == How.BUCKETS)
    has_few_levels = scheme.size <= FEW_LEVELS
    if how == How.BUCKETS:
        coarse = 32 if scheme.is_float else 16 if has_few_levels else 8
        return Density(coarse=coarse, fine=(6, 4), refinements=0, by_buckets=True)
    if scheme.is_float and not has_few_levels:  # whose error repeats with each octave, in steps of its mantissa
        return Density(coarse=64, fine=(3, 2), starts=2, seeds=SEEDS.get(How(how), 0))
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
