"""Rows that have a range and no scale, as files of ranges do: their scale follows from the integers of another row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from klcal.tables.changes import Change, same_place
from klcal.tables.rows import Row

__all__ = ["with_scales"]

EIGHT_BITS = 0, 255  # the integers of files of ranges, if no row says them
ROUNDING = 2.0**-21  # relative: a few units in the last place of float32, the precision of both ends


def with_scales(change: Change) -> Change:
    """The change, where a row without a scale gets one: from its range, and the integers of the other row."""
    was, now = change.was, change.now
    if was is None or now is None or not (_has_range_alone(was) or _has_range_alone(now)):
        return change
    return Change(_scaled(was, now), _scaled(now, was))


def _has_range_alone(row: Row) -> bool:
    if row.status != "ok":
        return False
    if row.units is None:
        return row.scale is None and row.low is not None and row.high is not None
    return bool((row.units.scale != row.units.scale).all())


def _scaled(row: Row, other: Row) -> Row:
    """A row with the scale of its range; if only rounding makes it differ, the other row's scale."""
    if not _has_range_alone(row):
        return row
    known = other.qmin is not None and other.qmax is not None
    ends = (other.qmin, other.qmax) if known else EIGHT_BITS
    if row.units is None:
        (scale,), (point,) = _quantizer([row.low], [row.high], ends, [other.scale])
        return replace(row, scale=float(scale), zero_point=int(point))
    alike = other.units is not None and same_place(row.units, other.units)
    theirs = other.units.scale if alike and other.units is not None else None
    scale, point = _quantizer(row.units.low, row.units.high, ends, theirs)
    return replace(row, units=replace(row.units, scale=scale, zero_point=point))


def _quantizer(low: Any, high: Any, ends: Any, theirs: Any) -> tuple[Any, Any]:
    import numpy as np

    low, high = (np.asarray(each, np.float64) for each in (low, high))
    scale = (high - low) / (ends[1] - ends[0])
    if theirs is not None:
        same = np.asarray([math.nan if each is None else each for each in theirs], np.float64)
        scale = np.where(np.abs(scale - same) <= ROUNDING * np.abs(same), same, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        return scale, np.where(scale > 0, np.round(ends[0] - low / scale), ends[0])
