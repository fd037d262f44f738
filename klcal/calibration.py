"""From a sketch to a row of the table: status, choice, and what the choice costs."""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.quantizers.granularity import ONE_AXIS, Per, PerBlock, PerChannel, PerGroup, PerTensor, layout, parse_per
from klcal.quantizers.qparams import qparams
from klcal.quantizers.scale_formats import held, is_an_end
from klcal.quantizers.scheme import Scheme, check_range
from klcal.row_calibration import calibrate_rows
from klcal.search import methods
from klcal.search.candidate_costs import divergences
from klcal.search.exact_costs import distortion
from klcal.search.methods import BINS, KL, Method, sub_bins_per_cell
from klcal.search.one_unit import Span
from klcal.search.settings import Nonfinite, Settings
from klcal.sketches.distribution import Law
from klcal.sketches.sketch import Sketch, Stored, array_chunks, sketch, stored_array, stored_chunks
from klcal.tables.outcomes import EMPTY, NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, row_of
from klcal.tables.rows import Row
from klcal.tables.status import Status

if TYPE_CHECKING:
    from klcal.sketches.sketch import Held, Values

__all__ = ["REPEATED", "calibrate", "calibrate_sketch", "kl_divergence_calibration"]

TENSOR = PerTensor()
REPEATED = InputError("a value of it stands for several elements", "save a contiguous copy to calibrate its channels")


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
) -> Row:
    """Chooses scale and zero point for a tensor, an array, or a finished sketch.

    Args:
        values: any shape, any floating dtype, NumPy or torch; a tensor in a file (``klcal.read``); or a ``Sketch``.
        dtype: int2 to int16, uint2 to uint16, float8_e4m3fn, float8_e5m2, float4_e2m1fn or nf4.
        method: "kl", "kl-classic", "mse", "percentile:P", "minmax", with parameters as in "kl:weight=1"; or a method.
        scheme: "symmetric", "symmetric-full" (every integer: int4 is −8..7), "symmetric-signed" (and a scale of either
            sign), "affine", or "auto": affine for unsigned dtypes, symmetric for all others.
        scale_format: what the hardware wants the scale in: float32, float16, bfloat16, e8m0 (a power of two), or
            float8_e4m3fn (units' scales, relative to a global scale of the tensor).
        per: what gets a scale of its own: "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS",
            "block:ROWS,COLUMNS"; or ``klcal.PerChannel(axis)``, ``klcal.PerGroup(size, axis)``, ``klcal.PerBlock(rows,
            columns)``. The row's ``units`` have the numbers of each.
        bounds: (low, high) with low ≤ 0 ≤ high: the widest range a candidate may keep. A symmetric scheme keeps as
            much on both sides of zero: there the larger of −low and high counts.
        nonfinite: "fail" leaves a tensor with NaN or infinities uncalibrated, "ignore" calibrates the rest of it.

    Returns:
        A row, as in the table of the command. Its scale is None unless its status is "ok", and where its units have
        one each.

    Raises:
        UsageError: an argument is not understood.
        InputError: a tensor in a file is damaged.

    >>> row = calibrate(np.linspace(-1, 3, 1000, dtype=np.float32))
    >>> row.status, round(row.scale, 4), row.zero_point
    ('ok', 0.0156, 64)
    >>> calibrate([[1.0, -0.5], [0.25, 0.5]], dtype="int4", per="channel", method="minmax").units.scale
    array([0.14285715, 0.07142857])
    """
    chosen = methods.parse(method) if isinstance(method, str) else method
    if isinstance(chosen, type) or not hasattr(chosen, "__call__"):  # noqa: B004 - anything may be handed in
        raise UsageError(f"the method is {chosen!r}", "use its name, or a value such as klcal.KL(weight=1)")
    if bounds is not None:
        check_range(bounds)
    if nonfinite not in ("fail", "ignore"):
        raise UsageError(f"nonfinite is {nonfinite!r}", "use 'fail' or 'ignore'")
    settings = Settings(chosen, Scheme.parse(dtype, scheme, scale_format), bounds, nonfinite)
    unit = parse_per(per) if isinstance(per, str) else per
    if not isinstance(unit, PerTensor | PerChannel | PerGroup | PerBlock):
        raise UsageError(f"the unit is {per!r}", 'use "channel", klcal.PerChannel(0), klcal.PerGroup(128), …')
    settings.scheme.check_units(unit != TENSOR)
    if not isinstance(values, Stored):
        return _calibrate_values(values, unit, settings)
    if values.status != "ok":
        row = Row(status=cast(Status, values.status), reason=values.reason)
    else:
        row = _calibrate_stored(values, unit, settings)
    return replace(row, name=values.name, dtype=values.dtype, shape=values.shape)


def _calibrate_stored(stored: Stored, per: Per, settings: Settings) -> Row:
    if per == TENSOR or not prod(stored.shape):
        return calibrate_sketch(sketch(stored), settings)
    if stored.order is None:
        raise REPEATED
    place = layout(per, stored.shape, stored.order)
    if place is None:
        return replace(calibrate_sketch(sketch(stored), settings), note=ONE_AXIS)
    return calibrate_rows(stored_chunks(stored.parts), stored.dtype, place, settings)


def _calibrate_values(values: Held | Sketch, per: Per, settings: Settings) -> Row:
    if per == TENSOR or isinstance(values, str):
        return calibrate_sketch(sketch(values), settings)
    if isinstance(values, Sketch):
        raise UsageError(f"a sketch has no axes to calibrate per {per}", "hand in the values")
    array, dtype = stored_array(values)
    if not array.size:
        return calibrate_sketch(sketch(array), settings)
    place = layout(per, array.shape)
    if place is None:
        return replace(calibrate_sketch(sketch(values), settings), note=ONE_AXIS)
    return replace(calibrate_rows(array_chunks(array, dtype, "C"), dtype, place, settings), shape=array.shape)


def calibrate_sketch(found: Sketch, settings: Settings) -> Row:
    """``calibrate`` with everything parsed."""
    return row_of(_outcomes(found, settings), settings.scheme.of_one_unit, str(settings.method), None)


def _outcomes(found: Sketch, settings: Settings) -> Outcomes:
    """Of the one unit that a tensor is."""
    unknown: dict[str, float] = dict.fromkeys(Outcomes._fields, math.nan)
    counts = {
        "nonzero": found.finite - found.zeros,
        "finite": found.finite,
        "minimum": math.inf if found.min is None else found.min,
        "maximum": -math.inf if found.max is None else found.max,
        "zeros": found.zeros,
        "nan": found.nan,
        "neg_inf": found.neg_inf,
        "pos_inf": found.pos_inf,
        "overflowed": 0,
        "underflowed": 0,
    }
    if found.numel == 0:
        known: dict[str, float] = {"status": EMPTY}
    elif found.nonfinite and (settings.nonfinite == "fail" or not found.finite):
        known = {"status": NONFINITE}
    elif found.finite == found.zeros:
        known = {"status": ZERO}
    else:
        known = _measured(Law.of(found), settings)
    return Outcomes(**{name: np.array([value]) for name, value in {**unknown, **counts, **known}.items()})


def _measured(law: Law, settings: Settings) -> dict[str, float]:
    """The choice and its cost, as fields of the outcomes."""
    method, scheme = settings.method, settings.scheme.of_one_unit
    span = _span(law, settings.bounds)
    choice = method(law, scheme, span)
    wanted = choice.scale
    if is_an_end(wanted, scheme.scale_format):
        wanted = method(law, replace(scheme, scale_format="float32"), span).scale
    if fits := int(held(wanted, scheme.scale_format)):
        return {"status": UNDERFLOW if fits < 0 else OVERFLOW, "chosen": wanted}
    deployed = qparams(*choice, scheme).scale
    cost = distortion(law, scheme, abs(deployed), choice.below)
    sub = sub_bins_per_cell(getattr(method, "bins", BINS), scheme.size)
    divergence = math.nan
    if sub > 1:
        scale, below = np.array([abs(deployed)]), np.array([choice.below])
        divergence = float(divergences(law, scheme, scale, below, sub)[0])
    return {
        "status": OK,
        "chosen": wanted,
        "scale": deployed,
        "below": choice.below,
        "kl": divergence,
        "squared_error": cost.squared_error,
        "energy": law.energy,
        "clipped": cost.clipped,
        "rounded_to_zero": cost.rounded_to_zero,
    }


def _span(law: Law, bounds: tuple[float, float] | None) -> Span:
    """The range of the data and zero, within the bounds; the bounds themselves if nothing lies within."""
    if bounds is None:
        return Span(law.low, law.high)
    span = Span(max(law.low, bounds[0]), min(law.high, bounds[1]))
    return span if span.low < span.high else Span(*bounds)


def kl_divergence_calibration(
    tensor: Values, num_bins: int = 2048, min_val: float | None = None, max_val: float | None = None
) -> tuple[float, int]:
    """Scale and zero point of uint8 quantization by `kl`: the published example's function, made right.

    Args:
        tensor: any shape, any floating dtype, NumPy or torch.
        num_bins: over the kept range; 2048 are 8 per level.
        min_val: the least value that a candidate may keep, at most 0; by default the tensor's.
        max_val: the greatest, at least 0.

    Raises:
        UsageError: the bounds hold no zero.
        InputError: the tensor has no scale: it is empty, all zeros, or not finite.

    >>> kl_divergence_calibration(np.linspace(-1, 1, 512))  # doctest: +ELLIPSIS
    (0.0078..., 128)
    """
    found = sketch(tensor)
    bounds = None
    if min_val is not None or max_val is not None:
        low = min(found.minimum, 0.0) if min_val is None else min_val
        bounds = (low, max(found.maximum, 0.0) if max_val is None else max_val)
    row = calibrate(found, method=KL(bins=num_bins), bounds=bounds)
    if row.scale is None or row.zero_point is None:
        raise InputError(f"the tensor has no scale: {row.reason}")
    return row.scale, row.zero_point
