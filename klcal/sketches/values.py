"""Arrays, tensors and tensors in files, in flat chunks; and their sketch, of the whole or of its units.

NumPy arrays and files are read in pieces, whatever their order, strides and byte order: never copied as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.kernels.cuda import kernels
from klcal.quantizers.granularity import Per, PerTensor, parse_per
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rounding import is_tensor
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.counting import BLOCK, FLOAT_DTYPES, count, values_of
from klcal.sketches.device_counting import count_on_device, stopped_devices, usable_device
from klcal.sketches.device_feeding import Feed
from klcal.sketches.device_reading import device_chunks
from klcal.sketches.energy import importance_of
from klcal.sketches.importance import Importance, check_shape, checked_importance
from klcal.sketches.patterns import MOST, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Stretch
from klcal.sketches.weighted import weighted_sketch, weighted_unit_sketches

if TYPE_CHECKING:
    import torch

__all__ = [
    "REPEATED",
    "UNORDERED",
    "Stored",
    "Units",
    "array_chunks",
    "check_units",
    "checked_tensor",
    "counted_already",
    "is_tensor",
    "own_order",
    "sketch",
    "sketch_of_units",
    "sketch_parts",
    "stored_array",
    "stored_chunks",
    "stored_values",
    "units_of",
    "units_there",
    "weights_of",
]

REPEATED = InputError("a value of it stands for several elements", "save a contiguous copy to calibrate its channels")

UNORDERED = InputError("a value of it stands for several elements", "save a contiguous copy to weigh them")


@runtime_checkable
class Stored(Protocol):
    """A tensor in a file, as ``klcal.read`` describes it."""

    @property
    def dtype(self) -> str:
        """One of ``klcal.sketches.counting.FLOAT_DTYPES``, where it can be calibrated."""

    @property
    def name(self) -> str:
        """Its own, in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def status(self) -> str:
        """Either "ok", or why it cannot be calibrated: a status of the table."""

    @property
    def reason(self) -> str | None:
        """The same in words."""

    @property
    def parts(self) -> Sequence[Stretch]:
        """Its data."""

    @property
    def order(self) -> tuple[int, ...] | None:
        """Of its axes in the data, the slowest first; nothing is C's, None where a value stands for several."""


if TYPE_CHECKING:
    Held: TypeAlias = npt.ArrayLike | torch.Tensor
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
        values: what to sketch. bfloat16 and float8 arrays of ml_dtypes are understood.
        per: the units: "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS"; or
            ``klcal.PerChannel(axis)``, ``klcal.PerGroup(size, axis)``. Sketches of one grid of units add, unit by unit:
            ``sum(klcal.sketch(batch, per=klcal.PerChannel(1)) for batch in batches)``. What has a single axis, or no
            values, is one unit: a tensor.
        device: where a tensor is counted: "cpu", "cuda", "cuda:N"; by default where it is, and the CPU for one in a
            file. Values that have an importance are counted on the CPU. The result does not depend on it.
        importance: how much each value counts where a quantizer is chosen: a weight for each column, which is an index
            of the last axis, for each column of each matrix, or for each value; finite and at least 0. Weights are
            relative to the largest of their unit, which has to be the same in sketches that are added.

    Raises:
        UsageError: the values are not floating point; a device is named for an array; there are no such units; the
            importance does not fit.
        InputError: a tensor in a file cannot be calibrated, or is damaged; a device has no room, or stopped working.

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
    if isinstance(values, Stored):
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
    """The values of a tensor that has several units, where these lie, and how much each value counts."""

    chunks: Iterable[npt.NDArray[Any]]
    dtype: str
    layout: Layout
    importance: Importance | None


def units_of(values: Held | Stored, per: Per, importance: Values | None) -> Units | None:
    """What a tensor has to be cut into; None where it is one unit.

    Raises:
        UsageError: the values are not floating point; there are no such units; the importance does not fit.
        InputError: a value of a tensor in a file stands for several elements, or the importance is damaged.
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
    """A tensor on a CUDA device that has several units."""

    tensor: torch.Tensor
    dtype: str
    layout: Layout


def units_there(values: Values, per: Per, importance: Values | None, device: str | None = None) -> There | None:
    """The tensor, where its units are counted on a CUDA device; None where there is none, or there is one unit.

    The CPU counts values that have an importance, and units too long for an int32.

    Raises:
        UsageError: the values are not floating point; there are no such units, or no such device.
    """
    if not is_tensor(values) or importance is not None or per == PerTensor():
        return None
    where = usable_device(device) if device else str(values.device)
    if not where.startswith("cuda"):
        return None
    dtype, shape = checked_tensor(values), tuple(values.shape)
    place = None if 0 in shape else layout(per, shape)
    return None if place is None or prod(place.tiles) > MOST else There(values.to(where), dtype, place)


def _device_sketch(tensor: torch.Tensor, dtype: str, place: Layout) -> Sketch:
    from klcal.sketches.device_units import all_units, counted_on_device, host_sketch

    with stopped_devices(str(tensor.device)):
        launcher = kernels(tensor.device.index)
        counted = counted_on_device(tensor, dtype, place.tiles, all_units(place), launcher)
        parts = [(each.numbers, host_sketch(each)) for each in counted]
    found = Sketch.stack([sketch for _, sketch in parts], place.grid)
    numbers = np.concatenate([own for own, _ in parts])
    order = np.argsort(numbers)
    return found if (order[1:] > order[:-1]).all() else found.take(order, place.grid)


def _held_chunks(values: Held) -> tuple[tuple[int, ...], str, Iterator[npt.NDArray[Any]]]:
    """The shape, the dtype and, in C order, the values."""
    if is_tensor(values) and values.is_cuda:
        dtype = checked_tensor(values)
        return tuple(values.shape), dtype, device_chunks(values, dtype)
    array, dtype = stored_array(values)
    return array.shape, dtype, array_chunks(array, dtype, "C")


def _stored_sketch(stored: Stored, per: Per, device: str, importance: Values | None) -> Sketch:
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
    """What an importance is for the values of a tensor: see ``klcal.sketches.importance``.

    Raises:
        UsageError: it does not fit the shape, or is no importance.
        InputError: it is in a file, which is damaged.
    """
    if isinstance(importance, Stored) and (recorded := counted_already(importance.parts)) is not None:
        return Importance.of(importance_of(recorded(), shape), shape, order, place)
    array = _stored_importance(importance, shape) if isinstance(importance, Stored) else _held_importance(importance)
    return Importance.of(checked_importance(array, shape), shape, order, place)


def _stored_importance(stored: Stored, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if stored.status != "ok" or stored.order is None:
        reason = stored.reason or UNORDERED.what
        raise InputError(f"the importance cannot be used: {reason}", "save it as a contiguous float32 array")
    check_shape(stored.shape, shape)  # before any of it is read
    try:
        return stored_values(stored)
    except InputError as error:
        raise InputError(f"the importance cannot be used: {error.what}", error.hint) from None


def stored_values(stored: Stored) -> npt.NDArray[Any]:
    """All values of a tensor in a file, in the order of its own axes: floats as in ``values_of``, integers as they are.

    Raises:
        InputError: the file is damaged.
    """
    is_float = stored.dtype in FLOAT_DTYPES
    read = (values_of(chunk, stored.dtype) if is_float else chunk for chunk in stored_chunks(stored.parts))
    chunks = [chunk.copy() for chunk in read]  # which are valid until the next is asked for
    flat = np.concatenate(chunks) if chunks else np.empty(0, np.float32)
    return own_order(flat, stored.shape, stored.order or ())


def own_order(flat: npt.NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values that lie in an order of the axes, in a shape; those of extent 1 may be missing, nothing means C's."""
    listed = order or tuple(range(len(shape)))
    full = (*listed, *(axis for axis in range(len(shape)) if axis not in listed))
    there: npt.NDArray[Any] = flat.reshape([shape[axis] for axis in full])
    return there.transpose(np.argsort(full))


def _held_importance(importance: Held) -> npt.NDArray[Any]:
    if is_tensor(importance) and not importance.is_floating_point():
        importance = importance.detach().cpu().numpy()
    with suppress(ValueError):  # which is explained below
        if not is_tensor(importance) and np.asarray(importance).dtype.kind in "iu":
            return np.asarray(importance)
    array, dtype = stored_array(importance)
    return values_of(array.reshape(-1), dtype).reshape(array.shape)


def _tensor_sketch(values: Held, device: str | None) -> Sketch:
    if is_tensor(values):
        place = usable_device(device) if device else str(values.device)
        if place.startswith("cuda"):
            return count_on_device(values, checked_tensor(values), place)
    array, dtype = stored_array(values)
    return count(array_chunks(array, dtype, "K"), dtype)


def sketch_of_units(units: Units, resolution: Resolution = UNITS) -> Sketch:
    """The sketch of all units of a tensor, in the order of its own axes."""
    chunks, dtype, place, importance = units
    sketches = unit_sketches(chunks, dtype, place, resolution)
    if importance is not None:
        sketches = weighted_unit_sketches(chunks, dtype, place, importance)
    found = Sketch.stack(sketches, place.grid)
    own = place.in_own_order(np.arange(place.rows))
    return found if (own[1:] > own[:-1]).all() else found.take(own, place.grid)


def stored_chunks(parts: Iterable[Stretch]) -> Iterator[npt.NDArray[Any]]:
    """The values of a tensor in a file, in the order of its parts.

    Raises:
        InputError: the file is damaged.
    """
    return (chunk for part in parts for chunk in part.chunks())


def sketch_parts(parts: Iterable[Stretch], dtype: str, device: str = "cpu") -> Sketch:
    """The sketch of a tensor in a file, or of some parts of it, in one pass.

    Raises:
        InputError: the file is damaged.
    """
    parts = [*parts]
    if (done := counted_already(parts)) is not None:
        return done()
    if device != "cpu":
        return Feed(device).count(parts, dtype)()
    alike = groupby(parts, attrgetter("repeats"))
    sketches = (count(stored_chunks(some), dtype).repeat(repeats) for repeats, some in alike)
    first = next(sketches, None)  # adding to an empty one costs as much as to another
    return Sketch.empty() if first is None else sum(sketches, first)


def counted_already(parts: Sequence[Stretch]) -> Callable[[], Sketch] | None:
    """What gives the sketch of a tensor of which a file has only that; None for one whose values are there."""
    found: Callable[[], Sketch] | None = getattr(parts[0], "sketch", None) if parts else None  # ``Counted``, in no time
    return found


def check_units(found: Sketch, per: Per, shape: tuple[int, ...]) -> Sketch:
    """A sketch from a file, where it has the units that are asked for; its shape, if that is known.

    Raises:
        InputError: it has others.
    """
    known = None if found.grid is None else found.grid.per
    asked = None if per == PerTensor() else per
    if asked is not None and asked != known and shape and 0 not in shape:
        place = layout(asked, shape)
        asked = None if place is None else place.grid.per
    if asked != known:
        was = PerTensor() if known is None else known
        raise InputError(f"it was sketched per {was}, not per {per}", f"use --per {was}, or sketch the values again")
    return found


def stored_array(values: Held) -> tuple[npt.NDArray[Any], str]:
    """Values that Python holds, as an array in the memory of the CPU, and their dtype: see ``array_chunks``.

    Raises:
        UsageError: they are no array, or not floating point.
    """
    if is_tensor(values):
        return _tensor_array(values)
    if isinstance(values, np.ma.MaskedArray):
        raise UsageError("masked arrays are not calibrated", "hand in values.compressed()")
    try:
        array: npt.NDArray[Any] = np.asarray(values)
    except ValueError:
        raise UsageError("the values are no array: their lengths differ", "hand in an array") from None
    return array, _float_dtype(array.dtype.name)


def checked_tensor(tensor: torch.Tensor) -> str:
    """The dtype of a tensor that can be counted.

    Raises:
        UsageError: it is not floating point, or has no values to count.
    """
    return _float_dtype(str(_dense(tensor).dtype).removeprefix("torch."))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if str(tensor.layout) != "torch.strided" or tensor.is_meta:
        what = "a meta tensor, without values" if tensor.is_meta else f"of the layout {tensor.layout}"
        raise UsageError(f"the tensor is {what}", "hand in a dense one")
    return tensor


def _tensor_array(tensor: torch.Tensor) -> tuple[npt.NDArray[Any], str]:
    import torch

    dtype = checked_tensor(tensor)
    unsigned = {1: torch.uint8, 2: torch.uint16}
    plain = tensor.detach().cpu().resolve_neg()
    native = dtype in ("float64", "float32", "float16")
    return (plain if native else plain.view(unsigned[plain.element_size()])).numpy(), dtype


def _float_dtype(name: str) -> str:
    if name not in FLOAT_DTYPES:
        raise UsageError(f"{name} values are not calibrated", f"hand in one of {', '.join(FLOAT_DTYPES)}")
    return name


def array_chunks(array: npt.NDArray[Any], dtype: str, order: Literal["C", "K"]) -> Iterator[npt.NDArray[Any]]:
    """Flat native pieces in C order, or as they lie in memory: neither a whole copy nor byte-swapped.

    In C order they are of at most ``BLOCK`` values, which units are made of.
    """
    storage = np.dtype(FLOAT_DTYPES[dtype])
    if array.dtype == storage and (array.flags.c_contiguous or (order == "K" and array.flags.f_contiguous)):
        yield array.ravel(order="K")  # no copy
    elif array.dtype.name == storage.name:
        blocks: Any = np.nditer(
            array,
            flags=["external_loop", "buffered", "zerosize_ok"],
            order=order,
            op_dtypes=[storage],
            casting="equiv",
            buffersize=BLOCK,
        )
        yield from blocks
    else:  # a dtype of ml_dtypes, which only its bit pattern is wanted of
        yield array.ravel(order=order).view(storage)
