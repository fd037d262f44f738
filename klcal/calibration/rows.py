"""Outcomes of units → rows of the table, with a note on each unit that was chosen otherwise than asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from klcal.quantizers.granularity import Grid
from klcal.search.chosen import least_values, sub_bins
from klcal.search.methods import KL
from klcal.search.settings import Settings
from klcal.tables.computed import row_of, rows_of
from klcal.tables.outcomes import OK, Outcomes
from klcal.tables.rows import Row

__all__ = ["noted", "row_of_tensor", "rows_of_tensors"]

Bools = npt.NDArray[np.bool_]


def row_of_tensor(outcomes: Outcomes, settings: Settings, grid: Grid | None, weighed: bool) -> Row:
    """The row of a tensor from the outcomes of its units, in order. Without a grid, the tensor is one unit.

    ``weighed`` says whether there was an importance.
    """
    if grid is None:
        return rows_of_tensors(outcomes, settings, weighed)[0]
    by_mse, is_idle = _otherwise(outcomes, settings, weighed)
    idle = np.count_nonzero(is_idle)
    note = _note(settings, bool(by_mse.any()), f" in {idle} of {is_idle.size} units" if idle else None)
    return row_of(outcomes, settings.scheme, str(settings.method), grid, importance=weighed, note=note)


def rows_of_tensors(outcomes: Outcomes, settings: Settings, weighed: bool) -> list[Row]:
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


def noted(row: Row, note: str) -> Row:
    """The row with one more note, in front of its own."""
    return replace(row, note=note if row.note is None else f"{note}; {row.note}")
