"""The pieces of a sketch: where they begin and end, their order by value, and a sketch with some of them.

A piece is a value that is kept whole, or a bucket. A sketch has the positive pieces of a unit first, by rising
magnitude, then the negative ones, by rising magnitude too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from klcal.sketches.patterns import SIGN, Bools, Floats, Integers, Patterns, extremes
from klcal.sketches.sketch import Sketch

__all__ = ["intervals", "negative_pieces", "of_pieces", "places_by_value", "without_outermost"]

MIN_NORMAL = 2.0**-126  # of float32


def without_outermost(sketch: Sketch, count: int) -> Sketch:
    """A sketch of one unit, without the ``count`` nonzero values of largest magnitude, and without weights."""
    order = np.argsort(sketch.keys & ~SIGN, kind="stable")[::-1]
    counts = sketch.counts[order].astype(np.int64)
    counts -= np.clip(count - (counts.cumsum() - counts), 0, counts)
    left = np.empty_like(counts)
    left[order] = counts
    return of_pieces(sketch, left > 0, left)


def negative_pieces(sketch: Sketch) -> Integers:
    """(units,): the number of negative pieces of each unit, which are its last ones."""
    return np.diff(np.append(0, (sketch.keys >= SIGN).cumsum())[sketch.starts])


def of_pieces(sketch: Sketch, kept: Bools, counts: Integers) -> Sketch:
    """The sketch with only some of its pieces, and with other counts.

    Args:
        sketch: of some units.
        kept: (pieces,), whether a piece stays. If an outermost one does not, the range ends at that of the next one.
        counts: (pieces,), the new counts.
    """
    if kept.all():
        return replace(sketch, counts=counts, weights=None)
    keys = sketch.keys[kept]
    starts = np.append(0, kept.cumsum())[sketch.starts]
    low, high = extremes(keys, starts)  # 0 or -0 if a bucket begins there
    least = np.where(np.signbit(low), _far_end(sketch, low), low)
    most = np.where(np.signbit(high), high, _far_end(sketch, high))
    return replace(
        sketch,
        keys=keys,
        counts=counts[kept],
        weights=None,
        starts=starts,
        minimum=np.maximum(sketch.minimum, least),
        maximum=np.minimum(sketch.maximum, most),
    )


def _far_end(sketch: Sketch, begin: Floats) -> Floats:
    """(units,): the far end of the bucket that begins at a value of each unit; in exact units the value itself."""
    known = np.where(np.isfinite(begin), begin, 1.0)
    patterns = known.astype(np.float32).view(np.uint32)
    dropped = np.where(sketch.exact, np.uint32(0), sketch.resolution.dropped(patterns, sketch.tops))
    _, outer = _edges(patterns & ~SIGN, dropped)
    return np.where(np.isfinite(begin), np.where(sketch.exact, known, np.copysign(outer, known)), begin)


def places_by_value(sketch: Sketch) -> Integers:
    """(pieces,): the place of each piece of a sketch among all pieces by ascending value."""
    negative = sketch.keys >= SIGN
    negatives = negative_pieces(sketch)
    place = np.arange(sketch.keys.size)
    last = sketch.starts[1:] + sketch.starts[:-1] - 1  # a negative one's place from the end is its place by value
    backward, forward = (np.repeat(each, sketch.pieces) for each in (last, negatives))
    target: Integers = np.where(negative, backward - place, place + forward)
    return target


def intervals(sketch: Sketch, keys: Patterns, negative: Bools, tops: Integers) -> tuple[Floats, Floats]:
    """The magnitudes at which pieces begin and end, (pieces,) each: a value kept whole is a point.

    Args:
        sketch: of some units.
        keys: (pieces,), its keys, by ascending value.
        negative: (pieces,), whether they are those of negative values.
        tops: (units,), the exponents by which the buckets were cut.
    """
    unit = sketch.unit
    exact = sketch.exact[unit]
    dropped = sketch.resolution.dropped(keys, tops.astype(np.int32)[unit])
    inner, outer = _edges(keys & ~SIGN, np.where(exact, np.uint32(0), dropped))
    least = np.where(negative, -sketch.maximum[unit], sketch.minimum[unit])
    inner = np.maximum(inner, least)
    outer = np.clip(outer, least, np.where(negative, -sketch.minimum[unit], sketch.maximum[unit]))
    outer = np.where(exact, inner, outer)
    is_subnormal = inner < MIN_NORMAL
    middle = (inner + outer) / 2
    return np.where(is_subnormal, middle, inner), np.where(is_subnormal, middle, outer)


def _edges(patterns: npt.NDArray[np.uint32], dropped: npt.NDArray[np.uint32]) -> tuple[Floats, Floats]:
    """The edges of buckets, (n,) each: patterns of magnitudes, and the number of bits that each bucket dropped.

    The last bucket of float32 ends at the pattern of infinity, which counts as 2¹²⁸.
    """
    inner = patterns.view(np.float32).astype(np.float64)
    outer = (patterns + (np.uint32(1) << dropped)).view(np.float32).astype(np.float64)
    return inner, np.minimum(outer, 2.0**128)
