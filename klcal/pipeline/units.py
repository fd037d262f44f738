"""The units of a tensor: where their values lie, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

from klcal.errors import UsageError
from klcal.pipeline.batches import are_apart, not_joined
from klcal.pipeline.selection import Selected
from klcal.quantizers.granularity import Per, PerTensor
from klcal.quantizers.layout import Layout, layout
from klcal.readers import Part
from klcal.sketches.stored import REPEATED, UNORDERED

__all__ = ["Place", "check_unit", "named_errors", "not_in_units", "places_of"]


class Place(NamedTuple):
    """The units of a tensor."""

    source: str
    parts: tuple[Part, ...]
    layout: Layout  # of the values in these


def places_of(tensor: Selected, per: Per) -> tuple[Place, ...]:
    """The places of a tensor's channels or groups; none if it has one scale.

    There is one place, of all parts; or one for each batch, where these are images of different sizes: the sketches of
    all places together are that of the tensor.

    Raises:
        UsageError: the tensor does not have the axis that is asked for.
    """
    batches = tensor.batches.members if tensor.batches else ()
    found = []
    for source, description, *_ in batches if are_apart(batches, per) else [tensor]:
        place = layout(per, description.shape, description.order or ()) if prod(description.shape) else None
        if place is not None:
            found.append(Place(source, description.parts, place))
    return tuple(found)


def check_unit(number: int, places: Sequence[Place]) -> None:
    """Refuse the number of a unit that does not exist.

    Raises:
        UsageError: says how many it has.
    """
    if not places:
        raise UsageError("it has one scale for all", "leave out --unit, or ask for channels or groups with --per")
    if number >= (rows := places[0].layout.rows):
        raise UsageError(f"it has no unit {number}", f"its units are 0 to {rows - 1}")


def not_in_units(tensor: Selected, per: Per, *, weighed: bool) -> str | None:
    """Why the values of a tensor cannot be counted by such units, or weighed; None where they can.

    Raises:
        UsageError: no pooled tensor has such units.
    """
    batches = tensor.batches.members if tensor.batches else ()
    apart = are_apart(batches, per)
    reason = None
    if batches:
        with named_errors(tensor):
            reason = not_joined(batches, per)
    if apart and weighed:
        return "batches of different sizes have no weights"
    if (tensor.description.order is None and not apart) and (per != PerTensor() or weighed):
        reason = str(UNORDERED if weighed else REPEATED)
    return reason


@contextmanager
def named_errors(tensor: Selected) -> Iterator[None]:
    """A context in which errors about a tensor get its name."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{tensor.source}: {tensor.description.name}: {error.what}", error.hint) from None
