"""The common interface of runtimes: what their files can hold, and what the runtimes do differently.

A runtime quantizes floats itself, to all integers of a type, by the scale and zero point that it is given. So a
narrower range of integers in a table is lost, and a message says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.tables.rows import Row
from klcal.tables.units import Units
from klcal.writers.floats import printed, shortest

__all__ = [
    "CHANNEL",
    "GROUP",
    "WHOLE",
    "Floats",
    "Runtime",
    "Tensors",
    "changes",
    "ends",
    "full_range",
    "is_symmetric",
    "lined",
    "member",
    "of_units",
    "points",
    "problem",
    "scales",
    "shortest_list",
]

Floats = npt.NDArray[np.float64]

LEAST_SCALE = 2.0**-149  # the smallest float32 above 0
GREATEST_SCALE = (2 - 2.0**-23) * 2.0**127  # the largest one
WHOLE, CHANNEL, GROUP = "tensor", "channel", "group"  # units


class Tensors(NamedTuple):
    """The rows of one file, each kind in the order of its table."""

    activations: Sequence[Row]
    weights: Sequence[Row]


def _nothing(row: Row, is_weight: bool) -> None:
    """No more than is asked of all."""


def _no_advice(tensors: Tensors) -> None:
    """The file says all."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A file that a runtime loads."""

    title: str  # of the runtime, for people
    write: Callable[[Tensors], str]  # to the text of the file
    activations: frozenset[str]  # the number formats that activations may have; none where it holds no activations
    weights: frozenset[str]
    no_weights: str = ""  # why it holds no weights, and the next step
    units: frozenset[str] = frozenset({WHOLE, CHANNEL})  # of weights; activations have one scale
    coarser: str = "calibrate it per channel or tensor"  # the next step for other units
    has_axis: bool = True  # whether it says along which axis channels lie; else the operator does
    rectifier: str = ""  # the next step if it drops a Relu or Clip because of the range of integers
    needs_fused: bool = False  # whether outputs have to be there that are quantized after a Relu or Clip
    one_dtype: bool = False  # of all activations, and one of all weights
    is_narrow: Callable[[Row, bool], bool] = lambda _row, _is_weight: False  # whether the lowest integer is left out
    problem: Callable[[Row, bool], str | None] = _nothing  # why it cannot hold a row that is fine otherwise
    change: Callable[[Row, bool], str | None] = _nothing  # a difference between runtime and row
    advice: Callable[[Tensors], str | None] = _no_advice  # settings that the runtime needs besides
    lacking: str = ""  # how it treats tensors of the model without a scale


def problem(runtime: Runtime, row: Row, is_weight: bool) -> str | None:
    """Why the file cannot hold a row, and the next step; None if it can."""
    if not row.name or not (row.name.isascii() or _is_utf8(row.name)):
        return "its name cannot be written to a file; rename it, or exclude it"
    if row.status != "ok":
        return f"it has no scale: {row.reason or row.status}; exclude it, or mend its values"
    held, what = (runtime.weights, "weights") if is_weight else (runtime.activations, "activations")
    if is_weight and runtime.no_weights:
        return runtime.no_weights
    if row.target not in held:
        return f"{row.target} is not a type of {what} here; calibrate it to {', '.join(_in_order(held))}"
    kind = WHOLE if row.units is None else row.units.per
    if not is_weight and kind != WHOLE:
        return f"it has a scale for each {kind}, which only weights may have: hand in its table as one of weights"
    if kind not in runtime.units:
        return f"it has a scale for each {kind}, which this format cannot hold; {runtime.coarser}"
    return _bad_number(row) or runtime.problem(row, is_weight)


def _is_utf8(name: str) -> bool:
    """Whether a text has no half surrogate pairs."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_number(row: Row) -> str | None:
    """The error in the scales and zero points of a row; None if there is none."""
    whole = full_range(row)
    if row.units is None:
        return _bad(row, row.scale, row.zero_point or 0, whole)
    scale, point = scales(row), points(row)
    fine = (scale >= LEAST_SCALE) & (scale <= GREATEST_SCALE) & (point >= whole[0]) & (point <= whole[-1])
    if fine.all():
        return None
    first = int(np.argmin(fine))
    why = "" if row.units.status is None else f" ({row.units.status[first]})"
    return _bad(row, float(scale[first]), float(point[first]), whole, f" of {row.units.per} {first:,}", why)


def _bad(row: Row, scale: float | None, point: float, whole: range, at: str = "", why: str = "") -> str | None:
    """The error in one scale and zero point; ``at`` names the unit, ``why`` is its status."""
    if scale is None or math.isnan(scale):
        return f"there is no scale{at}{why}; exclude it, or calibrate it per tensor"
    if not LEAST_SCALE <= scale <= GREATEST_SCALE:
        hint = "calibrate it with the scheme symmetric-full" if scale < 0 else "exclude it"
        return f"the scale{at} is {scale:g}, which no runtime divides by; {hint}"
    if not whole[0] <= point <= whole[-1]:
        return f"the zero point{at} is {point:g}, which {row.target} cannot hold; calibrate it again"
    return None


def changes(runtime: Runtime, row: Row, is_weight: bool) -> Iterator[str]:
    """The differences between the runtime and the table, in words, for a row that the file can hold."""
    whole = full_range(row)
    least = whole[0] + runtime.is_narrow(row, is_weight)
    clipped = row.clipped != 0  # nothing that is not known to be within the range
    if row.qmin is not None and row.qmin > least and clipped:
        what = f"{runtime.title} clips at {least}, the table at {row.qmin}: lower values may get one more level"
        yield f"{what}; the scheme symmetric-full is calibrated so"
    elif row.qmin is not None and row.qmin < least:
        what = f"{runtime.title} clips at {least}, the table at {row.qmin}: the lowest level is lost"
        yield f"{what}; calibrate it with the scheme symmetric"
    if (more := runtime.change(row, is_weight)) is not None:
        yield more


def _in_order(formats: Iterable[str]) -> list[str]:
    return sorted(formats, key=lambda name: (len(name), name))


# --- numbers


def full_range(row: Row) -> range:
    """All integers of the type that a row quantizes to, as a range."""
    return _integers(row.target or "")


@cache
def _integers(target: str) -> range:
    return Scheme(target, "affine").integers


def scales(row: Row) -> Floats:
    """The scales of a row or of its units, float32, as a table has them."""
    return np.array([np.nan if row.scale is None else row.scale]) if row.units is None else row.units.scale


def points(row: Row) -> Floats:
    """The zero points of the same; 0 where a format has none."""
    given = row.zero_point if row.units is None else row.units.zero_point
    return np.zeros(len(scales(row))) if given is None else np.array(given, np.float64).reshape(-1)


def ends(row: Row) -> tuple[Floats, Floats]:
    """The values of the lowest and the highest integer of the type, in float64: products of a float32, so exact."""
    scale, point, whole = scales(row), points(row), full_range(row)
    return (whole[0] - point) * scale, (whole[-1] - point) * scale


def is_symmetric(row: Row) -> bool:
    """Whether a row has the zero point that makes both sides alike because its scheme says so."""
    return (row.scheme or "").startswith("symmetric")


def shortest_list(values: Floats) -> list[float]:
    """Numbers whose texts are the shortest that read back to the same float32."""
    if len(values) == 1:
        return [shortest(float(values[0])) or 0.0]
    found: list[float] = printed(values).tolist()
    return found


# --- JSON


def lined(items: Iterable[str], indent: str = " ") -> str:
    """Texts of JSON as the contents of an object or a list, one on each line."""
    return f",\n{indent}".join(items)


def member(key: str, value: Any) -> str:
    """A key of an object and its value."""
    return json.dumps({key: value})[1:-1]


def of_units(units: Units | None, values: Sequence[Any]) -> Any:
    """A single value if there are no units, else a list."""
    return values[0] if units is None else list(values)
