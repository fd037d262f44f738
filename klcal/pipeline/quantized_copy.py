"""What a table of scales makes of a tensor: quantized and restored, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected
from klcal.quantizers.granularity import Layout, Per, PerTensor, layout, per_at
from klcal.quantizers.qparams import Qparams, quantized
from klcal.readers import Chunk, Description
from klcal.readers.regular import open_regular
from klcal.readers.strict_json import parse
from klcal.sketches.counting import values_of
from klcal.sketches.sketch import stored_chunks

__all__ = ["Quantizer", "quantized_copy", "read_quantizers"]

SCALES = "klcal.table/1"  # the schema of a table of scales
MAX_TABLE_BYTES = 1 << 28  # of a table of scales: a million rows


@dataclass(frozen=True)
class _Quantized:
    """A ``Part`` of all values of a tensor, quantized and restored, each by the quantizer of its channel or group."""

    of: Description
    place: Layout | None
    scale: npt.NDArray[np.float32]  # one, or one for each row of the layout
    zero_point: npt.NDArray[np.float32]
    by: Qparams  # the ends
    format: str | None  # a floating-point format that they are quantized to

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.of.parts)

    @property
    def repeats(self) -> int:
        return self.of.parts[0].repeats

    def chunks(self) -> Iterator[Chunk]:
        position = 0
        for chunk in stored_chunks(self.of.parts):
            values = values_of(chunk, self.of.dtype).astype(np.float32, copy=False)
            scale, zero_point = self.scale, self.zero_point
            if self.place is not None:
                begins, rows = self.place.runs(position, values.size)
                lengths = np.diff(begins, append=values.size)
                scale, zero_point = np.repeat(scale[rows], lengths), np.repeat(zero_point[rows], lengths)
            position += values.size
            yield (quantized(values, scale, zero_point, self.by, self.format) - zero_point).astype(np.float32) * scale


def read_quantizers(path: str) -> dict[tuple[str, str], Quantizer]:
    """The scales and zero points of a JSON table, by source and name."""
    try:
        file = open_regular(path)
        document = parse(file.read(0, min(file.size, MAX_TABLE_BYTES)).lstrip())
    except InputError as error:
        raise UsageError(f"--table '{path}': {error}") from None
    if document.get("schema") == SCALES:
        with suppress(KeyError, TypeError, ValueError, OverflowError, UsageError):
            rows = [row for row in document["tensors"] if _is_usable(row["status"])]
            return {(row["source"], row["name"]): _quantizer(row, document["config"]["dtype"]) for row in rows}
    hint = "write one with klcal calibrate --output table.json"
    raise UsageError(f"--table '{path}' is no table of klcal calibrate", hint)


class Quantizer(NamedTuple):
    """A row of a table of scales."""

    per: Per
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.float32]
    by: Qparams
    format: str | None


def _is_usable(status: object) -> bool:
    """Whether a row has a scale for everything that needs one: channels of zeros do not."""
    return status == "ok" or (isinstance(status, list) and set(status) == {"ok", "zero"})


def _quantizer(row: dict[str, Any], dtype: str) -> Quantizer:
    axis, size = (tuple(each) if isinstance(each, list) else each for each in (row.get("axis"), row.get("group_size")))
    per = PerTensor() if axis is None else per_at(axis, size)
    scale, zero_point = np.array(row["scale"], np.float32), np.array(row["zero_point"] or 0, np.float32)
    if isinstance(row["status"], list):
        zeros = np.array(row["status"]) == "zero"
        scale[zeros] = 1
        if zero_point.ndim:
            zero_point[zeros] = 1
    if not (np.isfinite(scale).all() and np.isfinite(zero_point).all()):
        raise ValueError
    if row["zero_point"] is None:
        return Quantizer(per, scale, np.broadcast_to(zero_point, scale.shape), Qparams(1.0), dtype)
    return Quantizer(per, scale, zero_point, Qparams(1.0, 0, int(row["qmin"]), int(row["qmax"])), None)


def quantized_copy(tensor: Selected, quantizers: dict[tuple[str, str], Quantizer]) -> Selected | None:
    """The tensor, quantized and restored; None where the table has no scale for it, or for another shape."""
    description = tensor.description
    found = quantizers.get((tensor.source, description.name))
    if found is None or description.status != "ok":
        return None
    try:
        place = layout(found.per, description.shape, description.order or ()) if prod(description.shape) else None
    except UsageError:
        return None
    scale, zero_point = found.scale, found.zero_point
    if scale.shape != zero_point.shape or scale.shape != (() if place is None else (place.rows,)):
        return None
    if place is not None:
        scale, zero_point = place.in_value_order(scale), place.in_value_order(zero_point)
    part = _Quantized(description, place, scale, zero_point, found.by, found.format)
    parts = (part,) if description.parts else ()
    return Selected(tensor.source, replace(description, dtype="float32", parts=parts))
