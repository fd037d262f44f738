"""From values to a sketch: arrays, torch tensors and tensors in files, as one unit or as many.

All of them are read in flat chunks, whatever their order, strides and byte order. None is copied as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.kernels.cuda import kernels
from klcal.quantizers.granularity import Per, PerTensor, parse_per
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rounding import is_tensor
from klcal.sketches.arrays import array_chunks, checked_tensor, stored_array
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.counting import count, values_of
from klcal.sketches.device_counting import count_on_device, stopped_devices, usable_device
from klcal.sketches.device_reading import device_chunks
from klcal.sketches.energy import importance_of
from klcal.sketches.importance import Importance, check_shape, checked_importance
from klcal.sketches.patterns import MOST, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import (
    REPEATED,
    UNORDERED,
    Stored,
    check_units,
    counted_already,
    sketch_parts,
    stored_chunks,
    stored_values,
)
from klcal.sketches.weighted import weighted_sketch, weighted_unit_sketches

if TYPE_CHECKING:
    import torch

__all__ = ["There", "Units", "sketch", "sketch_of_units", "units_of", "units_there", "weights_of"]

if TYPE_CHECKING:
    from klcal.sketches.arrays import Held

    Values: TypeAlias = Held | Stored


def sketch(
    values: Values | Sketch,
    *,
    per: str | Per = "tensor",
    device: str | None = None,
    importance: Values | None = None,
) -> Sketch:
    """The sketch of an array, a list, a torch tensor, or a tensor in a file; of any shape and any floating dtype.

    Args:
        values: the values to sketch. bfloat16 and float8 arrays of ml_dtypes are understood.
        per: the units: "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS"; or
            ``klcal.PerChannel(axis)``, ``klcal.PerGroup(size, axis)``. Sketches of the same units add, unit by unit:
            ``sum(klcal.sketch(batch, per=klcal.PerChannel(1)) for batch in batches)``. A tensor with a single axis, or
            without values, is one unit.
        device: where a tensor is counted: "cpu", "cuda", "cuda:N"; by default where it is, and on the CPU if it is in a
            file. If a tensor with an importance is one unit, the CPU counts it. The result does not depend on the
            device.
        importance: how much each value counts when a quantizer is chosen: a weight for each column (an index of the
            last axis), for each column of each matrix, or for each value; finite and at least 0. Weights are relative
            to the largest of their unit, which has to be the same in sketches that are added.

    Raises:
        UsageError: the values are not floating point, a device is named for an array, there are no such units, or the
            importance does not fit.
        InputError: a tensor in a file cannot be calibrated or is damaged, or a device has no memory or failed.

    >>> sketch(np.ones((2, 3), np.float16)).numel.tolist(), sketch(np.ones((2, 3)), per="channel").numel.tolist()
    ([6], [3, 3])
    """
    wanted = parse_per(per)
    if isinstance(values, Sketch):
        if wanted != PerTensor():
            raise UsageError(f"a sketch has no axes to sketch per {wanted}", "hand in the values")
        if importance is not None:
            raise UsageError("a sketch has no columns to weigh", "hand the importance to klcal.sketch, with the values")
        return values
    if isinstance(values, str):
        raise UsageError(f"{values!r} is text, not values", "klcal.read gives the tensors of a file")
    if not is_tensor(values) and isinstance(values, Stored):  # to ask a tensor for all of that takes 50 us
        return _stored_sketch(values, wanted, usable_device(device or "cpu"), importance)
    if device not in (None, "cpu") and not is_tensor(values):
        raise UsageError(f"arrays are counted on the CPU, not on {device!r}", "hand in a torch tensor")
    there = units_there(values, wanted, importance, device)
    if there is not None:
        return _device_sketch(*there)
    units = units_of(values, wanted, importance)
    if units is not None:
        return sketch_of_units(units)
    if importance is None:
        return _tensor_sketch(values, device)
    array, dtype = stored_array(values)
    return weighted_sketch(array_chunks(array, dtype, "C"), dtype, weights_of(importance, array.shape, (), None))


class Units(NamedTuple):
    """A tensor that has several units."""

    chunks: Iterable[npt.NDArray[Any]]  # its values as flat arrays, in storage form
    dtype: str  # of the values
    layout: Layout  # to which unit each value belongs
    importance: Importance | None  # how much each value counts


def units_of(values: Held | Stored, per: Per, importance: Values | None) -> Units | None:
    """The units of a tensor; None if it is one unit.

    Args:
        values: an array, a tensor, or a tensor in a file.
        per: the units that are wanted.
        importance: how much each value counts: see ``sketch``.

    Raises:
        UsageError: the values are not floating point, there are no such units, or the importance does not fit.
        InputError: a stored value stands for several elements, or the importance is damaged.
    """
    if per == PerTensor() or isinstance(values, str):
        return None
    if isinstance(values, Stored):
        if 0 in values.shape or counted_already(values.parts) is not None:
            return None
        if values.order is None:
            raise REPEATED
        dtype, shape, order = values.dtype, values.shape, values.order
        chunks: Iterable[npt.NDArray[Any]] = stored_chunks(values.parts)
    else:
        shape, dtype, chunks = _held_chunks(values)
        order = ()
    place = None if 0 in shape else layout(per, shape, order)
    if place is None:
        return None
    weights = None if importance is None else weights_of(importance, shape, order, place)
    return Units(chunks, dtype, place, weights)


class There(NamedTuple):
    """A tensor with several units that are counted on a CUDA device."""

    tensor: torch.Tensor  # on the device
    dtype: str  # of its values
    layout: Layout  # to which unit each value belongs
    importance: Importance | None  # how much each value counts, with the tensor's own axes


def units_there(values: Values, per: Per, importance: Values | None, device: str | None = None) -> There | None:
    """The tensor, if its units are counted on a CUDA device; None if the CPU counts them, or if it is one unit.

    The CPU counts units of more values than an int32 can count.

    Raises:
        UsageError: the values are not floating point, there are no such units, there is no such device, or the
            importance does not fit.
        InputError: the importance is damaged.
    """
    if not is_tensor(values) or per == PerTensor():
        return None
    where = usable_device(device) if device else str(values.device)
    if not where.startswith("cuda"):
        return None
    dtype, shape = checked_tensor(values), tuple(values.shape)
    place = None if 0 in shape else layout(per, shape)
    if place is None or prod(place.tiles) > MOST:
        return None
    weights = None if importance is None else weights_of(importance, shape, place.order, place)
    return There(values.to(where), dtype, place, weights)


def _device_sketch(tensor: torch.Tensor, dtype: str, place: Layout, importance: Importance | None) -> Sketch:
    """The sketch of all units of a tensor on a CUDA device, counted there."""
    from klcal.sketches.device_units import all_units, counted_on_device, host_sketch

    with stopped_devices(str(tensor.device)):
        launcher = kernels(tensor.device.index)
        counted = counted_on_device(tensor, dtype, place.tiles, all_units(place), launcher, importance=importance)
        parts = [(each.numbers, host_sketch(each)) for each in counted]
    found = Sketch.stack([sketch for _, sketch in parts], place.grid)
    numbers = np.concatenate([own for own, _ in parts])
    order = np.argsort(numbers)
    return found if (order[1:] > order[:-1]).all() else found.take(order, place.grid)


def _held_chunks(values: Held) -> tuple[tuple[int, ...], str, Iterable[npt.NDArray[Any]]]:
    """The shape of an array or a tensor, its dtype, and its values as flat arrays in C order."""
    if is_tensor(values) and values.is_cuda:
        dtype = checked_tensor(values)
        return tuple(values.shape), dtype, device_chunks(values, dtype)
    array, dtype = stored_array(values)
    return array.shape, dtype, array_chunks(array, dtype, "C")


def _stored_sketch(stored: Stored, per: Per, device: str, importance: Values | None) -> Sketch:
    """``sketch`` of a tensor in a file."""
    if stored.status != "ok":
        raise InputError(f"the tensor has no sketch: {stored.reason}")
    if (done := counted_already(stored.parts)) is not None:
        if importance is not None:
            raise InputError("a sketch has no columns to weigh", "sketch the values with their importance")
        return check_units(done(), per, stored.shape)
    units = units_of(stored, per, importance)
    if units is not None:
        return sketch_of_units(units)
    if importance is None:
        return sketch_parts(stored.parts, stored.dtype, device)
    if stored.order is None:
        raise UNORDERED
    weights = weights_of(importance, stored.shape, stored.order, None)
    return weighted_sketch(stored_chunks(stored.parts), stored.dtype, weights)


def weights_of(importance: Values, shape: tuple[int, ...], order: tuple[int, ...], place: Layout | None) -> Importance:
    """The weights of a tensor's values, from an importance: see ``klcal.sketches.importance``.

    Args:
        importance: an array, a tensor, or a tensor in a file, which may be recorded importance.
        shape: of the tensor.
        order: its axes in the order in which values are read, the slowest first.
        place: the layout of its units; None if it is one unit.

    Raises:
        UsageError: it does not fit the shape, or has weights that are negative or not finite.
        InputError: it is in a file that is damaged.
    """
    if isinstance(importance, Stored) and (recorded := counted_already(importance.parts)) is not None:
        return Importance.of(importance_of(recorded(), shape), shape, order, place)
    array = _stored_importance(importance, shape) if isinstance(importance, Stored) else _held_importance(importance)
    return Importance.of(checked_importance(array, shape), shape, order, place)


def _stored_importance(stored: Stored, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The values of an importance in a file, in its own shape."""
    if stored.status != "ok" or stored.order is None:
        reason = stored.reason or UNORDERED.what
        raise InputError(f"the importance cannot be used: {reason}", "save it as a contiguous float32 array")
    check_shape(stored.shape, shape)  # before any of it is read
    try:
        return stored_values(stored)
    except InputError as error:
        raise InputError(f"the importance cannot be used: {error.what}", error.hint) from None


def _held_importance(importance: Held) -> npt.NDArray[Any]:
    """The values of an importance that Python holds. Integers are allowed, such as counts."""
    if is_tensor(importance) and not importance.is_floating_point():
        importance = importance.detach().cpu().numpy()
    with suppress(ValueError):  # stored_array explains it below
        if not is_tensor(importance) and np.asarray(importance).dtype.kind in "iu":
            return np.asarray(importance)
    array, dtype = stored_array(importance)
    return values_of(array.reshape(-1), dtype).reshape(array.shape)


def _tensor_sketch(values: Held, device: str | None) -> Sketch:
    """``sketch`` of an array or a tensor as one unit, without importance."""
    if is_tensor(values):
        place = usable_device(device) if device else str(values.device)
        if place.startswith("cuda"):
            return count_on_device(values, checked_tensor(values), place)
    array, dtype = stored_array(values)
    return count(array_chunks(array, dtype, "K"), dtype)


def sketch_of_units(units: Units, resolution: Resolution = UNITS) -> Sketch:
    """The sketch of all units of a tensor, numbered along its own axes, the first axis slowest."""
    chunks, dtype, place, importance = units
    sketches = unit_sketches(chunks, dtype, place, resolution)
    if importance is not None:
        sketches = weighted_unit_sketches(chunks, dtype, place, importance)
    found = Sketch.stack(sketches, place.grid)
    own = place.in_own_order(np.arange(place.rows))
    return found if (own[1:] > own[:-1]).all() else found.take(own, place.grid)
