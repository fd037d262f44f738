"""Calibration from end to end: values → sketch → distribution → choice → figures → a row of the table.

``calibrate`` is the public entry. Values are a tensor with one scale (``calibrate_sketch``), several of these at once
(``calibrate_tensors``), or a tensor whose channels, groups or blocks have scales, on the CPU (``calibrate_units``) or
counted on a CUDA device (``calibrate_counted``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.kernels.cuda import kernels
from klcal.kernels.threads import threads, worked_ahead
from klcal.quantizers.granularity import ONE_AXIS, Grid, Per, PerTensor, parse_per
from klcal.quantizers.layout import Layout
from klcal.quantizers.scale_formats import global_scale_of
from klcal.quantizers.scheme import Scheme
from klcal.search import methods
from klcal.search.choices import Spans, full_choices
from klcal.search.chosen import least_values, outcomes_of, put_outcomes, sub_bins
from klcal.search.explained import explained
from klcal.search.methods import KL, Method
from klcal.search.settings import Nonfinite, Settings
from klcal.search.shapes import histogram, histogram_of, histograms
from klcal.sketches.by_unit import Count, counted_before, unit_counts
from klcal.sketches.device_counting import stopped_devices
from klcal.sketches.distribution import Distribution
from klcal.sketches.histogram import Tally
from klcal.sketches.importance import Importance
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import Stored, counted_already
from klcal.sketches.values import sketch, units_of, units_there
from klcal.sketches.weighted import weighted_unit_sketches
from klcal.tables.computed import row_of, rows_of
from klcal.tables.explanation import Detail, Explanation
from klcal.tables.outcomes import OK, Outcomes, Room, joined
from klcal.tables.rows import Row
from klcal.tables.status import Status

if TYPE_CHECKING:
    from klcal.sketches.device_units import CountedUnits
    from klcal.sketches.values import There, Values

__all__ = [
    "calibrate",
    "calibrate_counted",
    "calibrate_sketch",
    "calibrate_tensors",
    "calibrate_units",
    "kl_divergence_calibration",
    "noted",
]

TENSOR = PerTensor()
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
        return _of_units_there(there, settings)
    units = units_of(values, per, importance)
    if units is not None:
        return calibrate_units(*units[:3], settings, units.importance)
    is_counted = isinstance(values, Stored) and counted_already(values.parts) is not None
    return _of_one(sketch(values, per=per if is_counted else TENSOR, importance=importance), per, settings)


def _of_units_there(there: There, settings: Settings) -> Row:
    """The row of a tensor on a CUDA device, whose units are counted there.

    The imports are here because they are of no use without a device.
    """
    from klcal.sketches.device_units import all_units, counted_on_device

    tensor, dtype, place = there
    with stopped_devices(str(tensor.device)):
        launcher = kernels(tensor.device.index)
        counted = counted_on_device(tensor, dtype, place.tiles, all_units(place), launcher)
        return calibrate_counted(counted, place, settings)


def calibrate_counted(counted: Iterable[CountedUnits], layout: Layout, settings: Settings) -> Row:
    """The row of a tensor whose units are counted on a CUDA device.

    The device searches them too if the method is kl, mse or minmax; else the CPU searches their sketches.

    Args:
        counted: parts of the units, in any order, with their numbers; at least one part.
        layout: the units of the tensor.
        settings: how each unit is calibrated. The row has no explanation, whatever ``detail`` is.
    """
    from klcal.search.on_device import extremes_there, outcomes_there

    if settings.scheme.is_relative:  # the global scale depends on all units, so none can be searched before
        counted = list(counted)
        settings = _relative_to(settings, *extremes_there(counted))
    parts = [(each.numbers, outcomes_there(each, settings)) for each in counted]
    numbers = np.concatenate([own for own, _ in parts])
    outcomes = parts[0][1] if len(parts) == 1 else joined(outcomes for _, outcomes in parts)
    if (numbers[1:] < numbers[:-1]).any():
        outcomes = outcomes.each(itemgetter(np.argsort(numbers)))
    return _row(outcomes, settings, layout.grid, weighed=False)


def _of_one(found: Sketch, asked: Per, settings: Settings) -> Row:
    """The row of a sketch, with a note if units were asked for and the tensor has too few axes for them."""
    row = calibrate_sketch(found, settings)
    return noted(row, ONE_AXIS) if asked != TENSOR and found.grid is None and row.numel else row


def noted(row: Row, note: str) -> Row:
    """The row with one more note, in front of its own."""
    return replace(row, note=note if row.note is None else f"{note}; {row.note}")


def calibrate_sketch(found: Sketch, settings: Settings) -> Row:
    """The row of a sketch: of a tensor with one scale, or of a tensor with the units of the sketch's grid.

    Raises:
        UsageError: the sketch has several units, but no grid.
        InputError: ``settings.unit`` is out of range.
    """
    if found.grid is None and found.units != 1:
        raise UsageError(f"a sketch of {found.units} units without a grid", "calibrate them one by one: sketch[i:i+1]")
    settings = _relative(settings, [found]) if found.grid else replace(settings, scheme=settings.scheme.of_one_unit)
    if settings.unit is not None:
        return _of_unit(_unit([found], settings.unit), settings, found.grid)
    outcomes = outcomes_of(found, settings)
    row = _row(outcomes, settings, found.grid, found.weights is not None)
    if settings.detail == "none":
        return row
    if found.grid is None:
        return replace(row, explanation=explained(found, settings, outcomes, settings.detail))
    return replace(row, explanation=Explanation(histogram=histogram_of(found)))


def calibrate_tensors(found: Sketch, settings: Settings) -> list[Row]:
    """The rows of several tensors with one scale each: the units of a sketch.

    They are searched together, which is faster for small tensors. Each row is the same to the bit as its unit's alone.
    """
    settings = replace(settings, scheme=settings.scheme.of_one_unit)
    outcomes = outcomes_of(found, settings)
    rows = _rows(outcomes, settings, found.weights is not None)
    if settings.detail == "none":
        return rows
    return [
        replace(row, explanation=each) for row, each in zip(rows, _explanations(found, settings, outcomes), strict=True)
    ]


def _explanations(found: Sketch, settings: Settings, outcomes: Outcomes) -> Iterator[Explanation]:
    """The explanations of several tensors: the units of a sketch, in order."""
    if settings.detail == "histogram":
        yield from (Explanation(histogram=each) for each in histograms(found))
        return
    for unit in range(found.units):
        some = slice(unit, unit + 1)
        yield explained(found[some], settings, outcomes.each(itemgetter(some)), settings.detail)


def _unit(sketches: Iterable[Sketch], number: int) -> Sketch:
    """The unit with a number, from the sketches of consecutive units of a tensor; later sketches are not made.

    Raises:
        InputError: the tensor has no unit with this number.
    """
    first = 0
    for found in sketches:
        if number < first + found.units:
            return found[number - first : number - first + 1]
        first += found.units
    raise InputError(f"it has no unit {number}", f"its units are 0 to {first - 1}" if first else "it has none")


def _of_unit(found: Sketch, settings: Settings, grid: Grid | None) -> Row:
    """The row of one unit of a tensor, with its explanation; ``grid`` is the one of the tensor."""
    outcomes = outcomes_of(found, settings)
    row = _row(outcomes, settings, None, found.weights is not None)
    per = row.per if grid is None else str(grid.per)
    return replace(row, unit=settings.unit, per=per, explanation=explained(found, settings, outcomes, settings.detail))


def calibrate_units(
    chunks: Iterable[npt.NDArray[Any]],
    dtype: str,
    layout: Layout,
    settings: Settings,
    importance: Importance | None = None,
) -> Row:
    """The row of a tensor whose channels, groups or blocks have a scale each. Few of its units are in memory at a time.

    Args:
        chunks: the values as flat arrays, in storage form (``klcal.sketches.counting.FLOAT_DTYPES``), in the order of
            the layout.
        dtype: of the values.
        layout: says to which unit each value belongs.
        settings: how each unit is calibrated.
        importance: of the values, in their order; None if all count alike.

    Raises:
        InputError: ``settings.unit`` is out of range.
    """
    counts: Iterable[Count] = unit_counts(chunks, dtype, layout, fresh=threads() > 1)
    if importance is not None:
        counts = map(counted_before, weighted_unit_sketches(chunks, dtype, layout, importance))
    if settings.scheme.is_relative:  # the global scale depends on all units, so their sketches are kept
        sketches = worked_ahead(lambda count: count(), counts)
        settings, counts = _relative(settings, sketches), map(counted_before, sketches)
    if settings.unit is not None:
        number = layout.in_own_order(np.arange(layout.rows))[settings.unit]
        return _of_unit(_unit((count() for count in counts), int(number)), settings, layout.grid)
    tally = None if settings.detail == "none" else Tally()
    room = Room(layout.rows)
    worked_ahead(partial(_put_counted, room, settings, tally), _numbered(counts))
    row = _row(room.outcomes().each(layout.in_own_order), settings, layout.grid, importance is not None)
    if tally is None:
        return row
    return replace(row, explanation=Explanation(histogram=histogram(tally.low, tally.high, tally.binned())))


def _numbered(counts: Iterable[Count]) -> Iterator[tuple[int, Count]]:
    """Each count, and the number of its first unit in the order of the values."""
    first = 0
    for count in counts:
        yield first, count
        first += count.units


def _put_counted(room: Room, settings: Settings, tally: Tally | None, numbered: tuple[int, Count]) -> None:
    """Puts the outcomes of the units that are counted; the tally, if there is one, counts their values too."""
    first, count = numbered
    found = count()
    if tally is not None:
        tally.add(found)
    put_outcomes(room, first, found, settings)


def _relative(settings: Settings, sketches: Sequence[Sketch]) -> Settings:
    """The settings with the global scale of a tensor, if the scales of its units are relative to one.

    The global scale depends on the range of all units together; values of importance 0 do not count in it.
    """
    scheme = settings.scheme
    if not scheme.is_relative:
        return settings
    decides = [each if each.weights is None else Distribution.weighted(each) for each in sketches]
    low = min(min(float(each.min.min()) for each in decides), 0.0)
    high = max(max(float(each.max.max()) for each in decides), 0.0)
    return _relative_to(settings, low, high)


def _relative_to(settings: Settings, low: float, high: float) -> Settings:
    """The settings with the global scale of a tensor with values from low to high, low ≤ 0 ≤ high."""
    scheme = settings.scheme
    span = Spans(np.array([low]), np.array([high]), np.zeros(1, bool))
    full = float(full_choices(scheme.of_one_unit, span).scale[0]) if low < high else 0.0
    return replace(settings, scheme=replace(scheme, global_scale=global_scale_of(full) or 1.0))


def _row(outcomes: Outcomes, settings: Settings, grid: Grid | None, weighed: bool) -> Row:
    """The row of a tensor from the outcomes of its units, in order. Without a grid, the tensor is one unit.

    ``weighed`` says whether there was an importance.
    """
    if grid is None:
        return _rows(outcomes, settings, weighed)[0]
    by_mse, is_idle = _otherwise(outcomes, settings, weighed)
    idle = np.count_nonzero(is_idle)
    note = _note(settings, bool(by_mse.any()), f" in {idle} of {is_idle.size} units" if idle else None)
    return row_of(outcomes, settings.scheme, str(settings.method), grid, importance=weighed, note=note)


def _rows(outcomes: Outcomes, settings: Settings, weighed: bool) -> list[Row]:
    """The rows of tensors with one scale each, from their outcomes, (tensors,)."""
    otherwise = zip(*(each.tolist() for each in _otherwise(outcomes, settings, weighed)), strict=True)
    notes = [_note(settings, by_mse, "" if is_idle else None) for by_mse, is_idle in otherwise]
    return rows_of(outcomes, settings.scheme, str(settings.method), notes, importance=weighed)


def _otherwise(outcomes: Outcomes, settings: Settings, weighed: bool) -> tuple[Bools, Bools]:
    """The units that were chosen otherwise than asked for: two masks, (units,).

    The first has the units that were chosen by MSE, because they have too few values for D; the second those that were
    chosen without importance, because it is 0 for all their nonzero values.
    """
    ok = outcomes.status == OK
    by_mse = np.zeros(ok.size, bool)
    if isinstance(settings.method, KL) and sub_bins(settings) > 1:
        by_mse = ok & (np.where(outcomes.weighed > 0, outcomes.weighed, outcomes.nonzero) < least_values(settings))
    return by_mse, ok & (outcomes.weighed == 0) & weighed


def _note(settings: Settings, by_mse: bool, idle: str | None) -> str | None:
    """The note on units that were chosen otherwise than asked for; None if there are none.

    ``idle`` says, at the end of a sentence, in how many units the importance was ignored; None if in none.
    """
    few = f"chosen by mse: fewer than {least_values(settings):,} nonzero values" if by_mse else None
    also = None if idle is None else f"chosen without importance, which is 0 for all nonzero values{idle}"
    return "; ".join(each for each in (few, also) if each) or None


def kl_divergence_calibration(
    tensor: Values, num_bins: int = 2048, min_val: float | None = None, max_val: float | None = None
) -> tuple[float, int]:
    """The scale and the zero point of affine uint8 quantization by `kl`.

    It has the name and the arguments of a published example, and computes D(P‖Q) correctly.

    Args:
        tensor: any shape, any floating dtype, NumPy or torch.
        num_bins: the number of sub-bins over the kept range; 2048 are 8 for each level.
        min_val: the lowest value that a candidate may keep, at most 0; by default the minimum of the tensor, or 0.
        max_val: the highest value that a candidate may keep, at least 0; by default the maximum of the tensor, or 0.

    Raises:
        UsageError: the bounds do not contain zero, or ``num_bins`` is out of range.
        InputError: the tensor has no scale: it is empty, all zeros, or not finite.

    >>> kl_divergence_calibration(np.linspace(-1, 1, 512))  # doctest: +ELLIPSIS
    (0.0078..., 128)
    """
    found = sketch(tensor)
    bounds = None
    if min_val is not None or max_val is not None:
        low = min(float(found.minimum[0]), 0.0) if min_val is None else min_val
        bounds = (low, max(float(found.maximum[0]), 0.0) if max_val is None else max_val)
    row = calibrate(found, method=KL(bins=num_bins), bounds=bounds)
    if row.scale is None or row.zero_point is None:
        raise InputError(f"the tensor has no scale: {row.reason}")
    return row.scale, row.zero_point
