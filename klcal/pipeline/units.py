"""The units that are asked for of a tensor: where they lie, or why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from klcal.errors import UsageError
from klcal.pipeline.batches import not_joined
from klcal.pipeline.selection import Selected
from klcal.quantizers.granularity import Per, PerTensor
from klcal.quantizers.layout import Layout, layout
from klcal.readers import Description
from klcal.sketches.values import REPEATED, UNORDERED

__all__ = ["check_unit", "layout_of", "named_errors", "not_in_units"]


def layout_of(description: Description, per: Per) -> Layout | None:
    """Of a tensor's channels or groups; None where it has one scale.

    Raises:
        UsageError: it has not the axis that is asked for.
    """
    return layout(per, description.shape, description.order or ()) if prod(description.shape) else None


def check_unit(number: int, place: Layout | None) -> None:
    """Refuses the number of a unit that a tensor has not.

    Raises:
        UsageError: says how many it has.
    """
    if place is None:
        raise UsageError("it has one scale for all", "leave out --unit, or ask for channels or groups with --per")
    if number >= place.rows:
        raise UsageError(f"it has no unit {number}", f"its units are 0 to {place.rows - 1}")


def not_in_units(tensor: Selected, per: Per, *, weighed: bool) -> str | None:
    """Why the values of a tensor cannot be counted by such units, or weighed; None where they can.

    Raises:
        UsageError: no pooled tensor has such units.
    """
    reason = None
    if tensor.batches:
        with named_errors(tensor):
            reason = not_joined(tensor.batches.members, per)
    if tensor.description.order is None and (per != PerTensor() or weighed):
        reason = str(UNORDERED if weighed else REPEATED)
    return reason


@contextmanager
def named_errors(tensor: Selected) -> Iterator[None]:
    """What cannot be asked for of a tensor is told with its name."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{tensor.source}: {tensor.description.name}: {error.what}", error.hint) from None
