"""Calibration from end to end: values → sketch → distribution → choice → figures → a row of the table.

``calibrate`` is the public entry. It hands the values on: to ``units`` or ``devices`` if channels, groups or blocks of
them have a scale each, else to ``sketches``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from klcal.calibration.rows import noted
from klcal.calibration.sketches import calibrate_sketch
from klcal.calibration.units import calibrate_units
from klcal.quantizers.granularity import ONE_AXIS, Per, PerTensor, parse_per
from klcal.quantizers.scheme import Scheme
from klcal.search import methods
from klcal.search.methods import Method
from klcal.search.settings import Nonfinite, Settings
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import Stored, counted_already
from klcal.sketches.values import sketch, units_of, units_there
from klcal.tables.explanation import Detail
from klcal.tables.rows import Row
from klcal.tables.status import Status

if TYPE_CHECKING:
    from klcal.sketches.values import Values

__all__ = ["calibrate"]

TENSOR = PerTensor()


def calibrate(
    values: Values | Sketch,
    *,
    dtype: str = "uint8",
    method: str | Method = "kl",
    scheme: str = "auto",
    scale_format: str = "float32",
    per: str | Per = TENSOR,
    bounds: tuple[float, float] | None = None,
    nonfinite: Nonfinite = "fail",
    importance: Values | None = None,
    detail: Detail = "none",
) -> Row:
    """Choose a scale and a zero point for a tensor, an array, or a finished sketch.

    Args:
        values: any shape, any floating dtype, NumPy or torch; a tensor in a file (``klcal.read``); or a ``Sketch``.
        dtype: int2 to int16, uint2 to uint16, float8_e4m3fn, float8_e5m2, float4_e2m1fn or nf4.
        method: "kl", "kl-classic", "mse", "percentile:P", "minmax", with parameters as in "kl:weight=1"; or a method.
        scheme: "symmetric" (int8: −127..127), "symmetric-full" (−128..127), "symmetric-signed" (the same, with a scale
            of either sign), "affine", or "auto": affine for unsigned dtypes, symmetric for all others.
        scale_format: the number format of the scale: float32, float16, bfloat16, e8m0 (a power of two), or
            float8_e4m3fn, relative to a float32 of the tensor.
        per: the units that get a scale: "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS",
            "block:ROWS,COLUMNS"; or ``klcal.PerChannel(axis)``, ``klcal.PerGroup(size, axis)``,
            ``klcal.PerBlock(rows, columns)``. The row's ``units`` have the numbers of each. A sketch has its own units.
        bounds: (low, high) with low ≤ 0 ≤ high: the widest range a candidate may keep. A symmetric scheme keeps the
            same on both sides of zero: the larger of −low and high counts.
        nonfinite: "fail" leaves a tensor with NaN or infinities uncalibrated, "ignore" calibrates the rest of it.
        importance: how much the error of each value counts in the choice: see ``klcal.sketch``. The best importance of
            a column of a weight is the mean square of its inputs. Only ratios within a unit matter. Figures of the row
            stay unweighted. If all nonzero values of a unit have the importance 0, it is chosen without importance,
            and the row's note says so. For methods with a cost: kl, kl-classic and mse.
        detail: how much the row's ``explanation`` has: "none", the "histogram", "plots" (and what candidates lose), or
            "all" (and what kl-classic would choose); for channels and groups the histogram alone.

    Returns:
        A row, as in the table of the command. Its scale is None unless its status is "ok"; it is also None if its units
        have one each.

    Raises:
        UsageError: an argument is invalid; the importance does not fit the values, or the method.
        InputError: a tensor in a file is damaged.

    >>> row = calibrate(np.linspace(-1, 3, 1000, dtype=np.float32))
    >>> row.status, round(row.scale, 4), row.zero_point
    ('ok', 0.0157, 64)
    >>> calibrate([[1.0, -0.5], [0.25, 0.5]], dtype="int4", per="channel", method="minmax").units.scale
    array([0.14285715, 0.07142857])
    """
    chosen = methods.parse(method)
    settings = Settings(chosen, Scheme.parse(dtype, scheme, scale_format), bounds, nonfinite, detail=detail)
    unit = parse_per(per)
    settings.scheme.check_units(unit != TENSOR or (isinstance(values, Sketch) and values.grid is not None))
    if importance is not None or (isinstance(values, Sketch) and values.weights is not None):
        methods.check_importance(chosen)
    if isinstance(values, Sketch):
        return _of_one(sketch(values, per=unit, importance=importance), unit, settings)
    if not isinstance(values, Stored):
        row = _of_values(values, unit, settings, importance)
        return row if row.units is None else replace(row, shape=tuple(np.shape(values)))
    if values.status != "ok":
        row = Row(status=cast(Status, values.status), reason=values.reason)
    else:
        row = _of_values(values, unit, settings, importance)
    return replace(row, name=values.name, dtype=values.dtype, shape=values.shape)


def _of_values(values: Values, per: Per, settings: Settings, importance: Values | None) -> Row:
    """The row of values that are not a sketch: on their device if possible, else by units, else by one sketch."""
    there = units_there(values, per, importance)
    if there is not None and settings.detail == "none" and settings.unit is None:
        from klcal.calibration.devices import calibrate_there

        return calibrate_there(there, settings)
    units = units_of(values, per, importance)
    if units is not None:
        return calibrate_units(*units[:3], settings, units.importance)
    is_counted = isinstance(values, Stored) and counted_already(values.parts) is not None
    return _of_one(sketch(values, per=per if is_counted else TENSOR, importance=importance), per, settings)


def _of_one(found: Sketch, asked: Per, settings: Settings) -> Row:
    """The row of a sketch, with a note if units were asked for and the tensor has too few axes for them."""
    row = calibrate_sketch(found, settings)
    return noted(row, ONE_AXIS) if asked != TENSOR and found.grid is None and row.numel else row
