"""Sketches → rows: of one tensor, of several tensors at once, or of a single unit of a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import itemgetter

from klcal.calibration.relative import relative_to_sketches
from klcal.calibration.rows import row_of_tensor, rows_of_tensors
from klcal.errors import InputError, UsageError
from klcal.quantizers.granularity import Grid
from klcal.search.chosen import outcomes_of
from klcal.search.explained import explained
from klcal.search.settings import Settings
from klcal.search.shapes import histogram_of, histograms
from klcal.sketches.sketch import Sketch
from klcal.tables.explanation import Explanation
from klcal.tables.outcomes import Outcomes
from klcal.tables.rows import Row

__all__ = ["calibrate_one_unit", "calibrate_sketch", "calibrate_tensors"]


def calibrate_sketch(found: Sketch, settings: Settings) -> Row:
    """The row of a sketch: of a tensor with one scale, or of a tensor with the units of the sketch's grid.

    Raises:
        UsageError: the sketch has several units, but no grid.
        InputError: ``settings.unit`` is out of range.
    """
    if found.grid is None and found.units != 1:
        raise UsageError(f"a sketch of {found.units} units without a grid", "calibrate them one by one: sketch[i:i+1]")
    if found.grid is None:
        settings = replace(settings, scheme=settings.scheme.of_one_unit)
    else:
        settings = relative_to_sketches(settings, [found])
    if settings.unit is not None:
        return calibrate_one_unit([found], settings.unit, found.grid, settings)
    outcomes = outcomes_of(found, settings)
    row = row_of_tensor(outcomes, settings, found.grid, found.weights is not None)
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
    rows = rows_of_tensors(outcomes, settings, found.weights is not None)
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


def calibrate_one_unit(sketches: Iterable[Sketch], number: int, grid: Grid | None, settings: Settings) -> Row:
    """The row of one unit of a tensor, with its explanation.

    Args:
        sketches: of consecutive units of the tensor; those behind the unit are not made.
        number: of the unit, in the order of the sketches.
        grid: of the tensor.
        settings: how it is calibrated; ``unit`` is the number of the unit in the row.

    Raises:
        InputError: the tensor has no unit with this number.
    """
    found = _unit(sketches, number)
    outcomes = outcomes_of(found, settings)
    row = row_of_tensor(outcomes, settings, None, found.weights is not None)
    per = row.per if grid is None else str(grid.per)
    return replace(row, unit=settings.unit, per=per, explanation=explained(found, settings, outcomes, settings.detail))


def _unit(sketches: Iterable[Sketch], number: int) -> Sketch:
    """The unit with a number."""
    first = 0
    for found in sketches:
        if number < first + found.units:
            return found[number - first : number - first + 1]
        first += found.units
    raise InputError(f"it has no unit {number}", f"its units are 0 to {first - 1}" if first else "it has none")
