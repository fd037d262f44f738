"""From values to a sketch: arrays, torch tensors and tensors in files, as one unit or as many.

All of them are read in flat chunks, whatever their order, strides and byte order. None is copied as a whole.
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
from klcal.sketches.counting import FLOAT_DTYPES, count, values_of
from klcal.sketches.device_counting import count_on_device, stopped_devices, usable_device
from klcal.sketches.device_feeding import Feed
from klcal.sketches.device_reading import device_chunks
from klcal.sketches.energy import importance_of
from klcal.sketches.importance import Importance, check_shape, checked_importance
from klcal.sketches.numpy_counting import BLOCK
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
        """Of its values: one of ``klcal.sketches.counting.FLOAT_DTYPES`` if it can be calibrated."""

    @property
    def name(self) -> str:
        """The name that it has in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def status(self) -> str:
        """The status "ok", or that of a tensor that cannot be calibrated: see ``klcal.tables.status``."""

    @property
    def reason(self) -> str | None:
        """Why it cannot be calibrated, in words."""

    @property
    def parts(self) -> Sequence[Stretch]:
        """Its data, in the order of the file."""

    @property
    def order(self) -> tuple[int, ...] | None:
        """Its axes in the order of its data, the slowest first; an empty tuple is C order.

        None if a stored value stands for several elements, as in a view that was expanded.
        """


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
        values: the values to sketch. bfloat16 and float8 arrays of ml_dtypes are understood.
        per: the units: "tensor", "channel", "channel:AXIS", "group:SIZE", "group:SIZE,AXIS"; or
            ``klcal.PerChannel(axis)``, ``klcal.PerGroup(size, axis)``. Sketches of the same units add, unit by unit:
            ``sum(klcal.sketch(batch, per=klcal.PerChannel(1)) for batch in batches)``. A tensor with a single axis, or
            without values, is one unit.
        device: where a tensor is counted: "cpu", "cuda", "cuda:N"; by default where it is, and on the CPU if it is in a
            file. Values with an importance are counted on the CPU. The result does not depend on the device.
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


def units_there(values: Values, per: Per, importance: Values | None, device: str | None = None) -> There | None:
    """The tensor, if its units are counted on a CUDA device; None if the CPU counts them, or if it is one unit.

    The CPU counts values that have an importance, and units of more values than an int32 can count.

    Raises:
        UsageError: the values are not floating point, or there are no such units, or no such device.
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
    """The sketch of all units of a tensor on a CUDA device, counted there."""
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


def stored_values(stored: Stored) -> npt.NDArray[Any]:
    """All values of a tensor in a file, in its shape: floats as ``values_of`` returns them, integers as they are.

    Raises:
        InputError: the file is damaged.
    """
    is_float = stored.dtype in FLOAT_DTYPES
    read = (values_of(chunk, stored.dtype) if is_float else chunk for chunk in stored_chunks(stored.parts))
    chunks = [chunk.copy() for chunk in read]  # each is valid only until the next one is asked for
    flat = np.concatenate(chunks) if chunks else np.empty(0, np.float32)
    return own_order(flat, stored.shape, stored.order or ())


def own_order(flat: npt.NDArray[Any], shape: tuple[int, ...], order: tuple[int, ...]) -> npt.NDArray[Any]:
    """Flat values as an array of a shape.

    Args:
        flat: (n,), the values.
        shape: of the result, n values in all.
        order: the axes in the order of the values, the slowest first. Axes of extent 1 may be missing; an empty tuple
            is C order.

    >>> own_order(np.arange(6), (2, 3), (1, 0)).tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    listed = order or tuple(range(len(shape)))
    full = (*listed, *(axis for axis in range(len(shape)) if axis not in listed))
    there: npt.NDArray[Any] = flat.reshape([shape[axis] for axis in full])
    return there.transpose(np.argsort(full))


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


def stored_chunks(parts: Iterable[Stretch]) -> Iterator[npt.NDArray[Any]]:
    """The values of a tensor in a file as flat arrays, part by part.

    Raises:
        InputError: the file is damaged.
    """
    return (chunk for part in parts for chunk in part.chunks())


def sketch_parts(parts: Iterable[Stretch], dtype: str, device: str = "cpu") -> Sketch:
    """The sketch of a tensor in a file, or of some parts of it, as one unit.

    Args:
        parts: read once, in order.
        dtype: of the values.
        device: where they are counted.

    Raises:
        InputError: the file is damaged, or the device failed.
    """
    parts = [*parts]
    if (done := counted_already(parts)) is not None:
        return done()
    if device != "cpu":
        return Feed(device).count(parts, dtype)()
    alike = groupby(parts, attrgetter("repeats"))
    sketches = (count(stored_chunks(some), dtype).repeat(repeats) for repeats, some in alike)
    return sum(sketches, next(sketches, Sketch.empty()))  # adding to an empty one costs as much as to another


def counted_already(parts: Sequence[Stretch]) -> Callable[[], Sketch] | None:
    """The function that returns the sketch of a tensor in a sketch file; None if the file has values."""
    found: Callable[[], Sketch] | None = getattr(parts[0], "sketch", None) if parts else None  # ``Counted``, in no time
    return found


def check_units(found: Sketch, per: Per, shape: tuple[int, ...]) -> Sketch:
    """The sketch, after checking that it has the units that are asked for.

    Args:
        found: a sketch from a file.
        per: the units that are asked for.
        shape: of the tensor; empty if it is not known.

    Raises:
        InputError: it has other units.
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
    """Values that Python holds, as an array in the memory of the CPU, and their dtype.

    Raises:
        UsageError: they are not an array, or not floating point.
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
    """The dtype of a tensor, one of ``FLOAT_DTYPES``.

    Raises:
        UsageError: it is not floating point, or it is sparse or a meta tensor.
    """
    return _float_dtype(str(_dense(tensor).dtype).removeprefix("torch."))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if str(tensor.layout) != "torch.strided" or tensor.is_meta:
        what = "a meta tensor, without values" if tensor.is_meta else f"of the layout {tensor.layout}"
        raise UsageError(f"the tensor is {what}", "hand in a dense one")
    return tensor


def _tensor_array(tensor: torch.Tensor) -> tuple[npt.NDArray[Any], str]:
    """A torch tensor as an array: bfloat16 and float8 as their bit patterns, which NumPy can hold."""
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
    """The values of an array as flat arrays in storage form and native byte order.

    A contiguous array is one view of its memory. Any other one is copied in blocks of at most ``BLOCK`` values, never
    as a whole.

    Args:
        array: of any strides and byte order.
        dtype: of its values.
        order: "C", or "K" for the order in which they lie in memory, which is faster.
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
    else:  # a dtype of ml_dtypes, of which only the bit patterns are used
        yield array.ravel(order=order).view(storage)
