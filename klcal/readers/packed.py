"""Codes of a few bits that compressed-tensors packs by row, and their scales: unpacked to one number each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from klcal.errors import InputError
from klcal.quantizers.packing import MOST_BITS, WORD_BYTES, unpacked, words
from klcal.readers.description import Chunk, Description
from klcal.readers.restored import dequantized
from klcal.sketches.counting import values_of
from klcal.sketches.stored import stored_chunks, stored_values

__all__ = ["unpacked_weight"]

E2M1_BITS = 4
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The values of the patterns of a float4."""


def unpacked_weight(stem: str, named: Mapping[str, Description]) -> Description | None:
    """The float32 weight of a module, restored from its packed codes; None if the tensors beside them do not fit.

    Args:
        stem: of the module's tensors, up to ``weight_packed``.
        named: tensors by their names.
    """
    packed, scale = named[f"{stem}weight_packed"], named[f"{stem}weight_scale"]
    points, divisor = named.get(f"{stem}weight_zero_point"), named.get(f"{stem}weight_global_scale")
    if f"{stem}weight_g_idx" in named or len(packed.shape) != 2 or packed.status == "failed":
        return None
    if divisor is not None and prod(divisor.shape) != 1:
        return None
    if packed.dtype == "uint8":
        codes: Description | None = _float4(f"{stem}weight", packed)
        scale = _scale_of_float4(scale, divisor)
    else:
        codes = _integers(f"{stem}weight", packed, named.get(f"{stem}weight_shape"))
    if codes is None:
        return None
    if scale.shape == (1,) and points is None:
        return dequantized(codes, scale, None)
    rows, columns = codes.shape
    if len(scale.shape) != 2 or scale.shape[0] != rows or not scale.shape[1] or columns % scale.shape[1]:
        return None
    whole = None if points is None else _whole_points(points, codes, scale)
    if points is not None and whole is None:
        return None
    return dequantized(codes, scale, whole, unit=(1, columns // scale.shape[1]))


@dataclass(frozen=True)
class _Made:
    """A ``Part`` of codes or numbers that are made of those of a stored tensor."""

    of: Description

    @property
    def nbytes(self) -> int:
        """The number of stored bytes."""
        return sum(part.nbytes for part in self.of.parts)

    @property
    def repeats(self) -> int:
        """How often each stands in the tensor."""
        return 1


def _stored(tensor: Description) -> Description:
    """The tensors that belong to the packed codes, which are skipped with them."""
    return replace(tensor, parts=tensor.parts or tensor.raw)


@dataclass(frozen=True)
class _Codes(_Made):
    """Packed codes, one by one."""

    bits: int
    columns: int

    def chunks(self) -> Iterator[Chunk]:
        """Signed integers, or the values of float4 patterns; some rows at a time."""
        width, left = words(self.columns, self.bits) * WORD_BYTES, np.empty(0, np.uint8)
        for chunk in stored_chunks(self.of.parts):
            some = np.concatenate([left, chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).view(np.uint8)])
            whole = some.size // width * width
            left = some[whole:]
            codes = unpacked(some[:whole].reshape(-1, width), self.bits, self.columns).ravel()
            yield E2M1[codes] if self.of.dtype == "uint8" else (codes - (1 << self.bits - 1)).astype(np.int8)


@dataclass(frozen=True)
class _Points(_Made):
    """Packed zero points: each column is packed."""

    bits: int
    rows: int

    def chunks(self) -> Iterator[Chunk]:
        """Signed integers, (rows, groups), all at once."""
        whole = stored_values(self.of).reshape(self.of.shape)
        by_column = np.ascontiguousarray(whole.T, "<i4").view(np.uint8)
        points = unpacked(by_column, self.bits, self.rows).T
        yield (points - (1 << self.bits - 1)).astype(np.int8).ravel()


@dataclass(frozen=True)
class _Quotients(_Made):
    """Scales that one number divides."""

    by: Description

    def chunks(self) -> Iterator[Chunk]:
        """The quotients, as float32."""
        divisor = values_of(stored_values(self.by), self.by.dtype).astype(np.float32)
        for chunk in stored_chunks(self.of.parts):
            yield values_of(chunk, self.of.dtype).astype(np.float32) / divisor


def _integers(name: str, packed: Description, shape: Description | None) -> Description | None:
    """The codes of a matrix, which says itself how many columns it has: int8."""
    rows, width = packed.shape
    if shape is None or shape.shape != (2,) or shape.dtype != "int64":
        return None
    try:
        said, columns = stored_values(_stored(shape)).tolist()
    except (InputError, ValueError):  # of a file that is damaged, or has no data
        return None
    if said != rows or columns < 1:
        return None
    fitting = [bits for bits in range(1, MOST_BITS + 1) if words(columns, bits) == width]
    if len(fitting) != 1:  # as of a few columns that fill no word
        return None
    return _coded(Description(name, "int8", (rows, columns)), _Codes(_stored(packed), fitting[0], columns))


def _float4(name: str, packed: Description) -> Description:
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    return _coded(Description(name, "float32", (rows, columns)), _Codes(_stored(packed), E2M1_BITS, columns))


def _coded(tensor: Description, part: _Codes | _Points | _Quotients) -> Description:
    return replace(tensor, parts=(part,) if part.of.parts else ())


def _whole_points(points: Description, codes: Description, scale: Description) -> Description | None:
    """Zero points in the shape of the scales."""
    made = codes.parts[0] if codes.parts else None
    bits, rows = made.bits if isinstance(made, _Codes) else 0, codes.shape[0]
    if not bits or len(scale.shape) != 2 or points.shape != (words(rows, bits), scale.shape[1]):
        return None
    return _coded(Description(points.name, "int8", scale.shape), _Points(_stored(points), bits, rows))


def _scale_of_float4(scale: Description, divisor: Description | None) -> Description:
    """The scales of float4 codes: powers of two, or quotients by a global scale if there is one."""
    held = _stored(scale)
    if scale.dtype == "uint8":
        return replace(held, dtype="float8_e8m0fnu", status="ok")
    return held if divisor is None else _coded(replace(held, dtype="float32"), _Quotients(held, _stored(divisor)))
