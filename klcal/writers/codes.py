"""The codes of a tensor that is quantized by a row, chunk by chunk, with its scales and zero points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.quantizers.code_points import FLOATS, PATTERNS, nearest_places
from klcal.quantizers.granularity import per_at
from klcal.quantizers.layout import layout
from klcal.quantizers.rounding import ByUnit, one_for_all, restored, rounding_of
from klcal.quantizers.scheme import Scheme
from klcal.readers.description import Chunk, Description
from klcal.sketches.counting import values_of
from klcal.sketches.stored import REPEATED, stored_chunks
from klcal.tables.rows import Row
from klcal.tables.units import Units

__all__ = ["Codes", "in_c_order"]

PIECE = 1 << 18  # values quantized at a time: a megabyte for each of some arrays

Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def in_c_order(tensor: Description) -> Iterator[Chunk]:
    """The values of a tensor, as its ``parts`` have them, in the order of its own axes.

    A tensor that is stored in another order, such as a transposed view, is held as a whole.

    Raises:
        InputError: a value of it stands for several elements, or the file is damaged.
    """
    if tensor.order is None:
        raise REPEATED
    if tensor.order == tuple(sorted(tensor.order)):
        yield from stored_chunks(tensor.parts)
        return
    axes = range(len(tensor.shape))
    full = (*tensor.order, *(axis for axis in axes if axis not in tensor.order))
    whole = np.concatenate([chunk.copy() for chunk in stored_chunks(tensor.parts)])
    yield whole.reshape([tensor.shape[axis] for axis in full]).transpose(np.argsort(full)).ravel()


def _nobody(_: int) -> None:
    """No progress is reported."""


@dataclass(frozen=True)
class Codes:
    """A tensor and the row that quantizes it.

    Where all values of it, or of a unit, are 0, any quantizer represents them: the scale is 1 and the codes are those
    of 0.
    """

    tensor: Description
    row: Row
    told: Callable[[int], None] = _nobody  # how many bytes were read, each time

    @staticmethod
    def of(tensor: Description, row: Row, told: Callable[[int], None] = _nobody) -> Codes:
        """The codes of a tensor whose row is "ok" or "zero".

        Raises:
            UsageError: the row does not quantize all of this tensor.
        """
        if row.shape is not None and row.shape != tensor.shape:
            what = f"the table has the shape {list(row.shape)}, the tensor {list(tensor.shape)}"
            raise UsageError(what, "calibrate this model")
        if row.dtype is not None and row.dtype != tensor.dtype:
            raise UsageError(f"the table has {row.dtype} values, the tensor {tensor.dtype}", "calibrate this model")
        if row.status not in ("ok", "zero"):
            raise UsageError(f"the table has no scale for it: {row.reason or row.status}", "leave it out: --exclude")
        if row.nan:
            raise UsageError(f"it holds {row.nan} NaN, which have no code", "leave it out: --exclude")
        if row.units is not None and (status := row.units.status) is not None:
            lost = status[(status != "ok") & (status != "zero")]
            if lost.size:
                what = f"{lost.size} of its {status.size} units have no scale: {lost[0]}"
                raise UsageError(what, "leave it out: --exclude")
        found = Codes(tensor, row, told)
        found._numbers  # noqa: B018 - raises
        return found

    @cached_property
    def scheme(self) -> Scheme:
        """The number format of the codes."""
        return Scheme.parse(self.row.target or "", self.row.scheme or "auto", self.row.scale_format or "float32")

    @property
    def filled(self) -> Row:
        """The row, with a quantizer wherever all values are 0. It is made each time: a model may have many units."""
        row, scheme = self.row, self.scheme
        zero = _code_of_zero(scheme)
        ends: dict[str, Any] = {} if scheme.is_float else {"qmin": scheme.integers[0], "qmax": scheme.integers[-1]}
        if row.units is None:
            known: dict[str, Any] = {} if row.status == "ok" else {"scale": 1.0, "zero_point": zero, **ends}
            return replace(row, status="ok", **known)
        units, lacking = row.units, np.zeros(len(row.units), bool)
        if row.status == "zero":
            lacking[:] = True
        elif units.status is not None:
            lacking = units.status == "zero"
        points = None if zero is None or units.zero_point is None else np.where(lacking, zero, units.zero_point)
        numbers: dict[str, Any] = {"scale": np.where(lacking, 1.0, units.scale), "zero_point": points, "status": None}
        return replace(row, status="ok", units=replace(units, **numbers), **ends)

    @property
    def _numbers(self) -> Units | None:
        """The scales and zero points of units; None if there is one scale."""
        filled = self.filled
        rounding_of(filled)
        if filled.units is None or 0 in self.tensor.shape:
            one_for_all(filled)
            return None
        if self.tensor.order is None:
            raise UsageError(REPEATED.what, REPEATED.hint)
        ByUnit.of(filled.units, self.tensor.shape)
        return filled.units

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """The codes of the tensor as flat arrays in C order: int64, or the uint8 patterns of a float format.

        Raises:
            InputError: the file is damaged, or has a value without a code, such as NaN.
        """
        target = rounding_of(self.filled).target
        for codes, _, _ in self._quantized(in_c_order(self.tensor), ()):
            yield codes if target is None else PATTERNS[target][codes]

    def in_rows(self, columns: int) -> Iterator[npt.NDArray[Any]]:
        """The codes in whole rows: arrays (rows, columns).

        Raises:
            InputError: as ``pieces``.
        """
        left = np.empty(0, np.int64)
        for piece in self.pieces():
            some = np.concatenate([left, piece]) if left.size else piece
            whole = some.size // columns * columns
            left = some[whole:].copy()
            if whole:
                yield some[:whole].reshape(-1, columns)

    def restored(self) -> Iterator[Singles]:
        """The values of the codes as flat arrays, in the order in which the tensor is stored.

        Raises:
            InputError: as ``pieces``; a value that stands for several elements has one code if there is one scale.
        """
        target = rounding_of(self.filled).target
        for codes, scale, point in self._quantized(stored_chunks(self.tensor.parts), self.tensor.order or ()):
            yield restored(codes if target is None else FLOATS[target][codes].astype(np.float32), scale, point)

    def _quantized(
        self, chunks: Iterable[Chunk], order: tuple[int, ...]
    ) -> Iterator[tuple[npt.NDArray[Any], Singles, Singles]]:
        """Integers, or places among the values of a float format; with the scale and zero point of each.

        Args:
            chunks: all values.
            order: of the axes in them.
        """
        filled, units, position = self.filled, self._numbers, 0
        rounding = rounding_of(filled)
        by_unit = None if units is None else ByUnit.of(units, self.tensor.shape, order)
        for chunk in chunks:
            self.told(chunk.nbytes)
            for start in range(0, chunk.size, PIECE):
                values = values_of(chunk[start : start + PIECE], self.tensor.dtype).astype(np.float32, copy=False)
                if np.isnan(values).any():
                    raise InputError("it holds NaN, which has no code", "leave it out: --exclude")
                if self.row.status == "zero" and values.any():
                    raise InputError("the table says that every value is 0, and some are not", "calibrate this model")
                by = by_unit.at(position, values.size) if by_unit else one_for_all(filled)
                position += values.size
                if rounding.target is None:
                    yield rounding.quantized(values, *by), *by
                else:
                    with np.errstate(over="ignore"):
                        yield nearest_places(values / by[0], rounding.target), *by

    @property
    def scales(self) -> Singles:
        """float32, of a shape that goes with the tensor's: see ``unit_shape``."""
        row = self.filled
        return self._shaped(row.scale if row.units is None else row.units.scale).astype(np.float32)

    @property
    def zero_points(self) -> Integers | None:
        """The zero points, in the shape of the scales; None for a floating-point format."""
        row = self.filled
        points = row.zero_point if row.units is None else row.units.zero_point
        return None if points is None else self._shaped(points).astype(np.int64)

    @property
    def unit(self) -> tuple[int, ...] | None:
        """How many values of a unit lie along each axis, the last unit may have fewer; None where there is one."""
        units = self.filled.units
        if units is None:
            return None
        place = layout(per_at(units.axis, units.size), self.tensor.shape)
        assert place is not None
        return place.tiles

    def _shaped(self, numbers: Any) -> npt.NDArray[Any]:
        return np.asarray(numbers, np.float64).reshape(unit_shape(self.filled.units, len(self.tensor.shape)))


def unit_shape(units: Units | None, rank: int) -> tuple[int, ...]:
    """The shape of an array with a number for each unit, which has the tensor's axes.

    (): one for all. A channel: 1 along all other axes. Groups and blocks: how many there are along each axis.

    >>> unit_shape(None, 2)
    ()
    """
    if units is None:
        return ()
    if units.per != "channel" or not isinstance(units.axis, int):
        return units.shape
    return tuple(units.shape[0] if axis == units.axis else 1 for axis in range(rank))


def _code_of_zero(scheme: Scheme) -> int | None:
    """The code of 0 where nothing but 0 has to be represented; None for a floating-point format."""
    if scheme.is_float:
        return None
    return max(0, scheme.integers[0]) if scheme.kind == "affine" else scheme.integers[0] + scheme.zero
