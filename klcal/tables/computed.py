"""From the outcome of each unit to a row of the table: the only place where figures are computed."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import log
from klcal.kernels.threads import spread
from klcal.quantizers.granularity import Grid
from klcal.quantizers.qparams import level_ends, zero_points
from klcal.quantizers.scheme import Scheme
from klcal.tables.outcomes import OK, ZERO, Outcomes
from klcal.tables.reasons import nonfinite_reason, overflow_reason, underflow_reason, zero_reason
from klcal.tables.rows import Row
from klcal.tables.schema import UNIT_FIELDS
from klcal.tables.status import UNIT_STATUSES, Status, nonfinite_counts
from klcal.tables.units import Units

__all__ = ["row_of", "rows_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROUNDING_NOISE = 2.0**-44
"""Σ(x − x̂)² / Σx² of values that lie on the levels: value, scale and their product are each rounded to a float32, so
(x − x̂)² ≤ (3 · 2⁻²⁴)² · x² < 2⁻⁴⁴ · x²."""

UNITS_AT_ONCE = 1 << 13  # units that are computed together: a column takes 64 KiB, so several fit into the cache
COUNTED = ("zeros", "nan", "neg_inf", "pos_inf")
MOST = 0.5  # of the nonzero values
MANY_LEVELS = 15  # with fewer levels most values become 0 without any outlier


def row_of(
    outcomes: Outcomes,
    scheme: Scheme,
    method: str,
    grid: Grid | None,
    *,
    importance: bool = False,
    note: str | None = None,
) -> Row:
    """The row of a tensor, without its name, source, dtype, shape and aliases.

    Args:
        outcomes: (units,), of each of its units; of one unit where there is no grid.
        scheme: the target of the quantization, with the tensor's global scale.
        method: how it was chosen, ``str`` of it.
        grid: of the units; None for a tensor with one scale, whose row has no units.
        importance: whether values had one.
        note: what was done otherwise than asked for.
    """
    if grid is None:
        return rows_of(outcomes, scheme, method, [note], importance=importance)[0]
    ok = outcomes.status == OK
    status = UNIT_STATUSES[OK if ok.any() else int(outcomes.status.max())]
    units, errors = _units(outcomes, scheme, grid)
    values: dict[str, Any] = _figures(outcomes, ok, errors) | _of_scheme(scheme) if ok.any() else {}
    return Row(
        status=status,
        reason=_reason(outcomes, status, scheme.scale_format),
        note=_joined_notes(note, grid.note, *(_data_notes(outcomes, ok, scheme) if status == "ok" else ())),
        per=str(grid.per),
        units=units,
        **_asked(scheme, method, importance),
        **values,
        **_counts(outcomes),
    )


def rows_of(
    outcomes: Outcomes, scheme: Scheme, method: str, notes: Sequence[str | None], *, importance: bool = False
) -> list[Row]:
    """The rows of tensors with one scale each, all at once: each unit is a tensor.

    Args:
        outcomes: (tensors,).
        scheme: the target of the quantization.
        method: how they were chosen, ``str`` of it.
        notes: (tensors,): what was done otherwise than asked for.
        importance: whether values had one.
    """
    ok = outcomes.status == OK
    known = _lists(_figures_alone(outcomes) | _quantizers(outcomes, scheme, ok))
    if "zero_point" in known:
        known["zero_point"] = [None if point is None else int(point) for point in known["zero_point"]]
    counts = _counts_alone(outcomes)
    lost = outcomes.rounded_to_zero > MOST * outcomes.nonzero
    is_odd = ~ok | lost | (outcomes.overflowed > 0) | (outcomes.underflowed > 0)
    same, of_scheme = _asked(scheme, method, importance), _of_scheme(scheme)
    rows = []
    for number, (is_ok, odd) in enumerate(zip(ok.tolist(), is_odd.tolist(), strict=True)):
        reason, note, status = None, notes[number], UNIT_STATUSES[outcomes.status[number]]
        if odd:  # few are
            alone = outcomes.each(itemgetter(slice(number, number + 1)))
            reason = _reason(alone, status, scheme.scale_format)
            note = _joined_notes(note, *(_data_notes(alone, ok[number : number + 1], scheme) if is_ok else ()))
        values = {name: column[number] for name, column in (counts | known if is_ok else counts).items()}
        if is_ok:
            values |= of_scheme
        rows.append(Row(status=status, reason=reason, note=note, per="tensor", **same, **values))
    return rows


def _asked(scheme: Scheme, method: str, importance: bool) -> dict[str, Any]:
    """What a row says of the request."""
    words = {"target": scheme.dtype, "scheme": scheme.kind, "scale_format": scheme.scale_format}
    return {**words, "method": method, "importance": importance}


def _of_scheme(scheme: Scheme) -> dict[str, Any]:
    """What a row that has scales says of their scheme."""
    found: dict[str, Any] = {"global_scale": scheme.global_scale} if scheme.is_relative else {}
    return found if scheme.is_float else found | {"qmin": scheme.integers[0], "qmax": scheme.integers[-1]}


def _joined_notes(*notes: str | None) -> str | None:
    return "; ".join(each for each in notes if each) or None


def _lists(columns: dict[str, Floats]) -> dict[str, list[Any]]:
    """Arrays as lists of Python's numbers, with None for NaN."""
    found = {name: column.tolist() for name, column in columns.items()}
    for name, column in columns.items():
        for place in np.flatnonzero(np.isnan(column)).tolist():
            found[name][place] = None
    return found


def _without_noise(outcomes: Outcomes) -> Floats:
    """Squared errors, set to 0 where they are rounding noise: no value was clipped, and none became 0."""
    kept = (outcomes.clipped == 0) & (outcomes.rounded_to_zero == 0)
    noise = kept & (outcomes.squared_error <= ROUNDING_NOISE * outcomes.energy)
    return np.where(noise, 0.0, outcomes.squared_error)


def _counts_alone(outcomes: Outcomes) -> dict[str, list[Any]]:
    """How many values each unit has, of which kinds, and the least and the greatest: (units,)."""
    counters = {name: getattr(outcomes, name) for name in COUNTED}
    numel = outcomes.finite + outcomes.overflowed + sum(counters.values()) - counters["zeros"]
    found = {name: column.tolist() for name, column in counters.items()} | {"numel": numel.tolist()}
    for name, column in (("min", outcomes.minimum), ("max", outcomes.maximum)):
        found[name] = column.tolist()
        for place in np.flatnonzero(outcomes.finite == 0).tolist():
            found[name][place] = None
    return found


def _counts(outcomes: Outcomes) -> dict[str, Any]:
    counters = {name: int(getattr(outcomes, name).sum()) for name in COUNTED}
    numel = int(outcomes.finite.sum() + outcomes.overflowed.sum()) + sum(counters.values()) - counters["zeros"]
    ends: dict[str, float] = {}
    if outcomes.finite.any():
        ends = {"min": float(outcomes.minimum.min()), "max": float(outcomes.maximum.max())}
    return {**ends, "numel": numel, **counters}


def _figures(outcomes: Outcomes, ok: Bools, errors: Floats) -> dict[str, float | None]:
    """The figures of the whole tensor, over the units that have a scale or need none.

    ``errors``, (units,), are those of ``_without_noise``.
    """
    counted = ok | (outcomes.status == ZERO)
    if ok.all():
        ok = counted = slice(None)  # type: ignore[assignment]  # which copies nothing
    finite = int(outcomes.finite[counted].sum())
    error, energy, clipped, lost = (
        float(column[ok].sum()) for column in (errors, outcomes.energy, outcomes.clipped, outcomes.rounded_to_zero)
    )
    nonzero = outcomes.nonzero[ok]
    divergence = float((outcomes.kl[ok] * nonzero).sum() / nonzero.sum())
    return {
        "kl": None if np.isnan(divergence) else divergence,
        "mse": error / finite,
        "sqnr_db": float(_decibels(energy / error)) if error > 0 else None,
        "clipped": clipped / finite,
        "rounded_to_zero": lost / int(nonzero.sum()),
    }


def _figures_alone(outcomes: Outcomes) -> dict[str, Floats]:
    """The figures of tensors with one scale each, (units,); NaN where they are infinite or undefined."""
    nonzero = outcomes.nonzero
    with np.errstate(divide="ignore", invalid="ignore"):  # those of units without a scale are not used
        return {
            "kl": outcomes.kl * nonzero / nonzero,
            **_figures_of_units(outcomes, _without_noise(outcomes), outcomes.finite),
            "rounded_to_zero": outcomes.rounded_to_zero / nonzero,
        }


def _figures_of_units(outcomes: Outcomes, error: Floats, finite: npt.NDArray[Any]) -> dict[str, Floats]:
    """Errors and shares of each unit, of so many values: (units,); NaN where they are infinite or undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = outcomes.energy / error
    sqnr = _where(error > 0, _decibels(_where(error > 0, ratio, 1.0)), np.nan)
    return {"mse": error / finite, "sqnr_db": sqnr, "clipped": outcomes.clipped / finite}


def _decibels(ratio: npt.ArrayLike) -> Floats:
    """10·log10 of power ratios, to the same bits on every machine."""
    return 10 * (log(ratio) / log(10.0))


def _quantizers(outcomes: Outcomes, scheme: Scheme, ok: Bools) -> dict[str, Floats]:
    """Scale, ends of the range and zero point of each unit, NaN where it has none. Floats have no zero point."""
    scale = _where(ok, outcomes.scale, np.nan)
    below = _where(ok, outcomes.below, scheme.zero)
    under, above = level_ends(below, scheme)
    magnitude = np.abs(scale)
    found = {"scale": scale, "low": 0.0 - under * magnitude, "high": above * magnitude}
    if not scheme.is_float:
        found["zero_point"] = _where(ok, zero_points(below, scheme).astype(np.float64), np.nan)
    return found


def _where(wanted: Bools, column: npt.NDArray[Any], other: float) -> npt.NDArray[Any]:
    """A column, with another number in the places of some units; itself where there are none."""
    return column if wanted.all() else np.where(wanted, column, other)


def _units(outcomes: Outcomes, scheme: Scheme, grid: Grid) -> tuple[Units, Floats]:
    """The numbers of the units, and their squared errors without rounding noise, (units,).

    They are computed in blocks, by several threads: then temporary arrays are small, and their memory is used again.
    """
    size = outcomes.status.size
    names = [name for name in UNIT_FIELDS if name != "zero_point" or not scheme.is_float]
    columns, errors = np.empty((len(names), size)), np.empty(size)

    def fill(first: int, last: int) -> None:
        for start in range(first * UNITS_AT_ONCE, min(last * UNITS_AT_ONCE, size), UNITS_AT_ONCE):
            some = slice(start, min(start + UNITS_AT_ONCE, size))
            part = outcomes.each(itemgetter(some))
            errors[some] = _without_noise(part)
            numbers = _numbers_of_units(part, errors[some], scheme)
            for name, column in zip(names, columns, strict=True):
                column[some] = numbers[name]

    spread(fill, np.full(-(-size // UNITS_AT_ONCE), UNITS_AT_ONCE))
    found = dict(zip(names, columns, strict=True))
    if np.isnan(found["kl"]).all():
        del found["kl"]
    differ = bool((outcomes.status != outcomes.status[0]).any())
    units = Units(
        per="channel" if grid.size is None else "block" if isinstance(grid.size, tuple) else "group",
        axis=grid.axis,
        size=grid.size,
        shape=grid.shape,
        status=np.array(UNIT_STATUSES, object)[outcomes.status] if differ else None,
        **found,
    )
    return units, errors


def _numbers_of_units(outcomes: Outcomes, error: Floats, scheme: Scheme) -> dict[str, Floats]:
    """The fields ``UNIT_FIELDS`` of units, (units,) each; NaN for units without a scale."""
    ok = outcomes.status == OK
    known = ok | (outcomes.status == ZERO)
    costs = {"kl": outcomes.kl, **_figures_of_units(outcomes, error, _where(known, outcomes.finite, 1))}
    found = {name: _where(ok, column, np.nan) for name, column in costs.items()}
    return found | _quantizers(outcomes, scheme, ok)


def _data_notes(outcomes: Outcomes, ok: Bools, scheme: Scheme) -> tuple[str | None, ...]:
    beyond, below = int(outcomes.overflowed.sum()), int(outcomes.underflowed.sum())
    return (
        f"{beyond} values beyond float32 were left out" if beyond else None,
        f"{below} values that are 0 as float32 were counted as 0" if below else None,
        _lost_note(outcomes, ok) if scheme.size >= MANY_LEVELS else None,
    )


def _lost_note(outcomes: Outcomes, ok: Bools) -> str | None:
    """A note where outliers use up the levels. No other figure shows it: values that become 0 have little energy."""
    lost = np.where(ok, outcomes.rounded_to_zero, 0.0) / np.maximum(outcomes.nonzero, 1)
    most, worst = int(np.count_nonzero(lost > MOST)), int(lost.argmax())
    if not most:
        return None
    low, high = float(outcomes.minimum[worst]), float(outcomes.maximum[worst])
    scale, farthest = abs(outcomes.scale[worst]), low if -low > high else high
    found = f"{100 * lost[worst]:.3g} % of the nonzero values become 0"
    where = f" in unit {worst}, and most in {most} of {lost.size} units" if lost.size > 1 else ""
    return f"{found}{where}: the scale {scale:.5g} is for values as far out as {farthest:.6g}"


def _reason(outcomes: Outcomes, status: Status, scale_format: str) -> str | None:
    """The reason of a row that is not ok, or that has units that are not."""
    counts = [int(np.count_nonzero(outcomes.status == number)) for number in range(len(UNIT_STATUSES))]
    if sum(count > 0 for count in counts) > 1:
        parts = ", ".join(f"{count} {name}" for name, count in zip(UNIT_STATUSES, counts, strict=True) if count)
        return f"of {outcomes.status.size} units: {parts}"
    if status == "ok":
        return None
    if status == "empty":
        return "it has no values"
    row = Row(status=status, **_counts(outcomes))
    nonfinite = nonfinite_counts(row)
    if status == "zero":
        return zero_reason(bool(nonfinite))
    if status == "nonfinite":
        return nonfinite_reason(nonfinite, row.numel or 0, row.min is not None)
    wanted = outcomes.chosen[~np.isnan(outcomes.chosen)]
    if status == "underflow":
        return underflow_reason(float(wanted.max()) if wanted.size else None, scale_format)
    smallest = float(wanted.min()) if wanted.size else np.inf
    return overflow_reason(int(outcomes.overflowed.sum()), row.numel or 0, smallest, scale_format)
