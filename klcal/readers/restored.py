"""The values of codes, restored chunk by chunk, each by the quantizer of its unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.quantizers.granularity import Per, PerBlock, PerChannel, PerGroup, PerTensor
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rounding import ByUnit, Rounding, restored
from klcal.readers.description import Chunk, Description
from klcal.readers.quoting import quoted
from klcal.sketches.counting import FLOAT_DTYPES, values_of
from klcal.sketches.stored import stored_chunks, stored_values

__all__ = ["Numbers", "Restored", "dequantized"]

WHOLES = ("int4", "uint4", "int8", "uint8", "int16", "uint16")
READ = (*FLOAT_DTYPES, *WHOLES)  # dtypes of scales and zero points
PIECE = 1 << 18  # values restored at a time: a megabyte for each of some arrays
MOST_LEVELS = 1 << 8  # that codes of a byte can be
BLOCK = 128  # values along each axis of a block, as DeepSeek has them: the last may be shorter

Singles = npt.NDArray[np.float32]
Numbers: TypeAlias = Callable[[int, int], tuple[Singles, Singles]]
"""From a position and a count to the scale and the zero point: one for each of these values, or one for all."""


@dataclass(frozen=True)
class Restored:
    """A ``Part`` of all values of a tensor, as float32: its codes restored, or its values quantized and restored."""

    of: Description
    numbers: Callable[[], Numbers]  # is asked when the values are read; raises InputError
    rounding: Rounding | None = None  # None where the values are codes already
    levels: Description | None = None  # the table that codes index, if they are not numbers themselves

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return sum(part.nbytes for part in self.of.parts)

    @property
    def repeats(self) -> int:
        """How often each value stands in the tensor."""
        return self.of.parts[0].repeats

    def chunks(self) -> Iterator[Chunk]:
        """The values, in the order of the tensor's own.

        Raises:
            InputError: the file is damaged.
        """
        numbers, position = self.numbers(), 0
        levels = None if self.levels is None else _numbers_in(self.levels)
        for piece in self._pieces():
            codes = piece if self.of.dtype in WHOLES else values_of(piece, self.of.dtype)
            if levels is not None:
                codes = _looked_up(levels, piece)
            values = codes.astype(np.float32, copy=False)
            by = numbers(position, values.size)
            position += values.size
            with np.errstate(over="ignore", invalid="ignore"):  # values that become infinite are counted as infinite
                yield restored(values if self.rounding is None else self.rounding.quantized(values, *by), *by)

    def _pieces(self) -> Iterator[Chunk]:
        for chunk in stored_chunks(self.of.parts):
            yield from (chunk[start : start + PIECE] for start in range(0, chunk.size, PIECE))


def dequantized(
    codes: Description,
    scale: Description,
    zero_point: Description | None,
    levels: Description | None = None,
    unit: Description | tuple[int, ...] | None = None,
) -> Description | None:
    """The float32 tensor (code − zero point) · scale; None if scale and zero point do not fit the codes.

    Args:
        codes: float8 or integers, whatever their status.
        scale: one for all of them, or one for each channel of the first axis, or each block of the last two axes.
        zero_point: of the scale's shape; None for 0.
        levels: the values that codes are indices of; None if codes are numbers.
        unit: the number of values along each axis that share a scale; None if it follows from the shapes.
    """
    beside = [scale] if zero_point is None else [scale, zero_point]
    is_known = all(each.dtype in READ and each.order is not None and each.status != "failed" for each in beside)
    is_one = prod(scale.shape) == 1
    if not is_known or codes.order is None or any(each.shape != scale.shape for each in beside):
        return None
    if isinstance(unit, Description) and (unit.shape != (len(codes.shape),) or not unit.dtype.startswith("int")):
        return None
    if levels is not None and (len(levels.shape) != 1 or levels.shape[0] > MOST_LEVELS):
        return None
    if not is_one and unit is None and _place(scale.shape, codes.shape) is None:
        return None
    if not is_one and isinstance(unit, tuple):
        place = _stated(unit, codes.shape, codes.order)
        if place is None or place.cells != scale.shape:
            return None
    held = replace(codes, parts=codes.parts or codes.raw)
    stored = [each for each in (codes, *beside, levels, unit) if isinstance(each, Description)]
    if any(prod(each.shape) and not (each.parts or each.raw) for each in stored):
        return None
    parts = (Restored(held, _Scales(scale, zero_point, codes, unit), levels=levels),) if held.parts else ()
    return Description(codes.name, "float32", codes.shape, parts, aliases=codes.aliases, order=codes.order)


@dataclass(frozen=True)
class _Scales:
    """Scales, and zero points where there are any, that are read when they are asked for."""

    scale: Description
    zero_point: Description | None
    codes: Description
    unit: Description | tuple[int, ...] | None = None

    def __call__(self) -> Numbers:
        try:
            scale = _numbers_in(self.scale)
            zero = np.zeros_like(scale) if self.zero_point is None else _numbers_in(self.zero_point)
            unit = _stored(self.unit).tolist() if isinstance(self.unit, Description) else self.unit
        except InputError as error:
            raise InputError(f"the scale {quoted(self.scale.name)} cannot be read: {error.what}", error.hint) from None
        if scale.size == 1:
            return lambda _start, _count: (scale, zero)
        shape, order = self.codes.shape, self.codes.order or ()
        place = _place(self.scale.shape, shape, order) if unit is None else _stated(unit, shape, order)
        if place is None or place.rows != scale.size or (unit is not None and place.cells != self.scale.shape):
            what = f"its scales, of the shape {list(self.scale.shape)}, do not fit it"
            raise InputError(what, "save the model again")
        return ByUnit(place, place.in_value_order(scale), place.in_value_order(zero)).at


def _stored(tensor: Description) -> npt.NDArray[Any]:
    """All values of a tensor beside the codes, integers too."""
    return stored_values(replace(tensor, parts=tensor.parts or tensor.raw)).ravel()


def _numbers_in(tensor: Description) -> Singles:
    """All values of a tensor beside the codes, as float32."""
    return _stored(tensor).astype(np.float32)


def _looked_up(levels: Singles, codes: Chunk) -> Singles:
    if codes.size and codes.max() >= levels.size:
        raise InputError(
            f"it has the code {codes.max()}, and there are only {levels.size} levels", "save the model again"
        )
    return levels[codes]


def _place(scale: tuple[int, ...], codes: tuple[int, ...], order: tuple[int, ...] = ()) -> Layout | None:
    """The layout of channels, or of blocks of the last two axes, that a shape of scales fits; None if it fits neither.

    >>> _place((2, 3), (256, 300)).grid.per, _place((8,), (8, 5)).grid.per
    (PerBlock(rows=128, columns=128), PerChannel(axis=0))
    """
    if len(codes) < 2 or 0 in codes:
        return None
    if scale == (codes[0],):
        return layout(PerChannel(0), codes, order)
    if len(scale) == len(codes):
        wide = [axis for axis, units in enumerate(scale) if units > 1]
        if len(wide) == 1 and scale[wide[0]] == codes[wide[0]]:
            return layout(PerChannel(wide[0]), codes, order)
    if scale == codes[:-1]:
        scale = (*scale, 1)
    if len(scale) != len(codes) or scale[:-2] != codes[:-2]:
        return None
    sides = [_side(units, extent) for units, extent in zip(scale[-2:], codes[-2:], strict=True)]
    return layout(PerBlock(*sides), codes, order) if all(sides) else None


def _stated(unit: Sequence[int], codes: tuple[int, ...], order: tuple[int, ...]) -> Layout | None:
    """The layout of the units, given the number of values of a unit along each axis; None if it does not fit.

    >>> _stated([1, 50], (24, 480), ()).grid.per, _stated([24, 1], (24, 480), ()).grid.per
    (PerGroup(size=50, axis=1), PerChannel(axis=1))
    """
    if len(unit) != len(codes) or not all(1 <= size <= extent for size, extent in zip(unit, codes, strict=True)):
        return None
    whole = [axis for axis, (size, extent) in enumerate(zip(unit, codes, strict=True)) if size < extent]
    wide = [axis for axis, size in enumerate(unit) if size > 1]
    per: Per = PerBlock(unit[-2], unit[-1]) if len(unit) > 1 else PerTensor()
    if len(whole) == 1 and unit[whole[0]] == 1:
        per = PerChannel(whole[0])
    elif len(wide) == 1:
        per = PerGroup(unit[wide[0]], wide[0])
    return layout(per, codes, order)


def _side(units: int, extent: int) -> int:
    """How many values along an axis share each of some scales; 0 if no likely number fits.

    >>> _side(1, 100), _side(100, 100), _side(2, 200), _side(50, 100), _side(3, 100)
    (100, 1, 128, 2, 0)
    """
    if units == extent:
        return 1
    if units == -(-extent // BLOCK):
        return BLOCK if units > 1 else extent
    return extent // units if units and extent % units == 0 else 0
