"""From the outcome of each unit to a row of the table: the only place where figures are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.sums import log
from klcal.quantizers.granularity import Grid
from klcal.quantizers.qparams import level_ends, zero_points
from klcal.quantizers.scheme import Scheme
from klcal.tables.reasons import nonfinite_reason, overflow_reason, underflow_reason, zero_reason
from klcal.tables.rows import Row
from klcal.tables.status import UNIT_STATUSES, Status, nonfinite_counts
from klcal.tables.units import Units

__all__ = ["EMPTY", "NONFINITE", "OK", "OVERFLOW", "UNDERFLOW", "ZERO", "Outcomes", "joined", "row_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OK, EMPTY, ZERO, NONFINITE, UNDERFLOW, OVERFLOW = range(len(UNIT_STATUSES))

ROUNDING_NOISE = 2.0**-44
"""Σ(x − x̂)² / Σx² of values that lie on the levels: value, scale and their product are each rounded to a float32, so
(x − x̂)² ≤ (3 · 2⁻²⁴)² · x² < 2⁻⁴⁴ · x²."""

MOST = 0.5  # of the nonzero values
MANY_LEVELS = 15  # with fewer levels most values become 0 without any outlier


class Outcomes(NamedTuple):
    """What is known of each unit: arrays (units,), in the order of the tensor's axes.

    Where a unit has no scale, the choice and its costs are NaN or arbitrary.
    """

    status: Integers  # an index of ``klcal.tables.status.UNIT_STATUSES``
    chosen: Floats  # the scale before it was rounded to its format
    scale: Floats  # as deployed; negative where a signed scheme has its extra level above zero
    below: Integers | Floats  # the number of levels below zero
    kl: Floats  # D(P‖Q) in nats; NaN where no cell is cut
    squared_error: Floats  # Σ(x − x̂)² over the finite values
    energy: Floats  # Σx²
    clipped: Floats  # values that round beyond qmin or qmax
    rounded_to_zero: Floats  # nonzero values that become 0
    nonzero: Integers  # finite values that are not 0
    weighed: Integers  # nonzero values of an importance above 0; 0 without importance
    finite: Integers  # finite values, zeros included
    minimum: Floats  # of the finite values, zeros included; inf where there are none
    maximum: Floats
    zeros: Integers
    nan: Integers
    neg_inf: Integers
    pos_inf: Integers
    overflowed: Integers  # finite values beyond float32, in no other counter
    underflowed: Integers  # nonzero values that are 0 as float32; ``zeros`` has them too

    def each(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Outcomes:
        """The same outcomes with a function applied to every array: some units, or another order."""
        columns: list[Any] = [change(column) for column in self]
        return Outcomes(*columns)


def joined(parts: Iterable[Outcomes]) -> Outcomes:
    """The units of all parts (at least one), concatenated."""
    columns: list[Any] = [_concatenated(column) for column in zip(*parts, strict=True)]
    return Outcomes(*columns)


def _concatenated(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays behind one another. Counters that are 0 everywhere, as most are, take no memory until they are written."""
    if parts[0].dtype == np.int64 and not any(part.any() for part in parts):
        return np.zeros(sum(part.size for part in parts), np.int64)
    return np.concatenate(parts)


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
        outcomes: of each of its units; of one unit where there is no grid.
        scheme: the target of the quantization, with the tensor's global scale.
        method: how it was chosen, ``str`` of it.
        grid: of the units; None for a tensor with one scale, whose row has no units.
        importance: whether values had one.
        note: what was done otherwise than asked for.
    """
    ok = outcomes.status == OK
    status = UNIT_STATUSES[OK if ok.any() else int(outcomes.status.max())]
    clean = outcomes._replace(squared_error=_without_noise(outcomes))
    values: dict[str, Any] = _figures(clean, ok) if ok.any() else {}
    if ok.any() and scheme.is_relative:
        values["global_scale"] = scheme.global_scale
    if ok.any() and not scheme.is_float:
        values |= {"qmin": scheme.integers[0], "qmax": scheme.integers[-1]}
    quantizers = _quantizers(outcomes, scheme, ok)
    if grid is None:
        values |= {name: column[0].item() for name, column in quantizers.items() if ok[0]}
        values["zero_point"] = int(values["zero_point"]) if "zero_point" in values else None
    else:
        values["units"] = _units(clean, quantizers, grid)
    notes = (note, grid.note if grid else None, *(_data_notes(outcomes, ok, scheme) if status == "ok" else ()))
    return Row(
        status=status,
        reason=_reason(outcomes, status, scheme.scale_format),
        note="; ".join(each for each in notes if each) or None,
        target=scheme.dtype,
        scheme=scheme.kind,
        method=method,
        per="tensor" if grid is None else str(grid.per),
        scale_format=scheme.scale_format,
        importance=importance,
        **values,
        **_counts(outcomes),
    )


def _without_noise(outcomes: Outcomes) -> Floats:
    """Squared errors, set to 0 where they are rounding noise: no value was clipped, and none became 0."""
    kept = (outcomes.clipped == 0) & (outcomes.rounded_to_zero == 0)
    noise = kept & (outcomes.squared_error <= ROUNDING_NOISE * outcomes.energy)
    return np.where(noise, 0.0, outcomes.squared_error)


def _counts(outcomes: Outcomes) -> dict[str, Any]:
    counters = {name: int(getattr(outcomes, name).sum()) for name in ("zeros", "nan", "neg_inf", "pos_inf")}
    numel = int(outcomes.finite.sum() + outcomes.overflowed.sum()) + sum(counters.values()) - counters["zeros"]
    ends: dict[str, float] = {}
    if outcomes.finite.any():
        ends = {"min": float(outcomes.minimum.min()), "max": float(outcomes.maximum.max())}
    return {**ends, "numel": numel, **counters}


def _figures(outcomes: Outcomes, ok: Bools) -> dict[str, float | None]:
    """The figures of the whole tensor, over the units that have a scale or need none."""
    counted = ok | (outcomes.status == ZERO)
    if ok.all():
        ok = counted = slice(None)  # type: ignore[assignment]  # which copies nothing
    finite = int(outcomes.finite[counted].sum())
    error, energy, clipped, lost = (
        float(column[ok].sum())
        for column in (outcomes.squared_error, outcomes.energy, outcomes.clipped, outcomes.rounded_to_zero)
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


def _units(outcomes: Outcomes, quantizers: dict[str, Floats], grid: Grid) -> Units:
    known = (outcomes.status == OK) | (outcomes.status == ZERO)
    error, finite = outcomes.squared_error, _where(known, outcomes.finite, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = outcomes.energy / error
    sqnr = _where(error > 0, _decibels(_where(error > 0, ratio, 1.0)), np.nan)
    costs = {
        "kl": outcomes.kl,
        "mse": error / finite,
        "sqnr_db": sqnr,
        "clipped": outcomes.clipped / finite,
    }
    ok = outcomes.status == OK
    costs = {name: _where(ok, column, np.nan) for name, column in costs.items()}
    if np.isnan(costs["kl"]).all():
        del costs["kl"]
    differ = bool((outcomes.status != outcomes.status[0]).any())
    return Units(
        per="channel" if grid.size is None else "block" if isinstance(grid.size, tuple) else "group",
        axis=grid.axis,
        size=grid.size,
        shape=grid.shape,
        status=np.array(UNIT_STATUSES, object)[outcomes.status] if differ else None,
        **quantizers,
        **costs,
    )


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
    counts = np.bincount(outcomes.status, minlength=len(UNIT_STATUSES))
    if (counts > 0).sum() > 1:
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
