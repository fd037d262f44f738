"""AIMET's encodings, for Qualcomm's toolchains, in the three versions that its loader accepts.

Up to version 1.0.0 the grid is ``(q + offset) · scale`` with q from 0 to 2^bits − 1. So the offset is the value of the
lowest integer, in steps: −128 for a symmetric int8, −100 for a uint8 with zero point 100. Version 2.0.0 has the
convention of ONNX.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from klcal.tables.rows import Row
from klcal.writers.runtimes.runtime import (
    CHANNEL,
    GROUP,
    WHOLE,
    Runtime,
    Tensors,
    ends,
    full_range,
    is_symmetric,
    lined,
    member,
    of_units,
    points,
    scales,
    shortest_list,
)

__all__ = ["AIMET_0", "AIMET_1", "AIMET_2"]

ONNX_INTEGERS = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})
TITLE = "AIMET"
LACKING = "AIMET's loader stops with an AssertionError, unless the simulation has no quantizer there"


def version_2(tensors: Tensors) -> str:
    """One flat list, with ONNX's types and zero points."""
    entries = (json.dumps(_entry_2(row)) for row in (*tensors.activations, *tensors.weights))
    return f'{{"version": "2.0.0", "encodings": [\n {lined(entries)}]}}\n'


def _entry_2(row: Row) -> dict[str, Any]:
    units = row.units
    scale, point = scales(row), points(row).astype(np.int64)
    if units is not None and units.per == GROUP:
        scale, point = scale.reshape(units.shape), point.reshape(units.shape)
    entry: dict[str, Any] = {"name": row.name, "output_dtype": row.target}
    if units is not None:
        entry["axis"] = units.axis
        if units.size is not None:
            entry["block_size"] = units.size
    shortest = np.reshape(shortest_list(scale.reshape(-1)), scale.shape).tolist()
    entry["y_scale"] = of_units(units, shortest)
    return {**entry, "y_zero_point": of_units(units, point.tolist())} if point.any() else entry


def version_1(tensors: Tensors) -> str:
    """Version 1.0.0: two lists, with offsets."""
    lists = (
        f'"{key}_encodings": [\n  {lined((json.dumps(_entry_1(row)) for row in rows), "  ")}]'
        for key, rows in zip(("activation", "param"), tensors, strict=True)
    )
    return f'{{"version": "1.0.0",\n {lined(lists)}}}\n'


def _entry_1(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "enc_type": "PER_TENSOR" if row.units is None else "PER_CHANNEL",
        "dtype": "INT",
        "bw": _bits(row),
        "is_sym": is_symmetric(row),
        "scale": shortest_list(scales(row)),
        "offset": _offsets(row),
    }


def version_0(tensors: Tensors) -> str:
    """Version 0.6.1: two objects by name, with scale, offset and the range, which its readers use."""
    objects = (
        f'"{key}_encodings": {{\n  {lined((member(row.name, _entries_0(row)) for row in rows), "  ")}}}'
        for key, rows in zip(("activation", "param"), tensors, strict=True)
    )
    return f'{{"version": "0.6.1",\n {lined(objects)}}}\n'


def _entries_0(row: Row) -> list[dict[str, Any]]:
    same = {"bitwidth": _bits(row), "dtype": "int", "is_symmetric": str(is_symmetric(row))}
    columns = (*(each.tolist() for each in ends(row)), shortest_list(scales(row)), _offsets(row))
    keys = ("min", "max", "scale", "offset")
    return [{**same, **dict(zip(keys, numbers, strict=True))} for numbers in zip(*columns, strict=True)]


def _bits(row: Row) -> int:
    return int(re.sub(r"\D", "", row.target or ""))


def _offsets(row: Row) -> list[int]:
    """The lowest integer, in steps from zero."""
    found: list[int] = (full_range(row)[0] - points(row)).astype(np.int64).tolist()
    return found


def _uneven(row: Row, _is_weight: bool) -> str | None:
    """Why blocks of another length than the others cannot be."""
    units = row.units
    if units is None or units.per != GROUP or row.shape is None:
        return None
    assert isinstance(units.axis, int)
    assert isinstance(units.size, int)
    if row.shape[units.axis] % units.size:
        return (
            f"groups of {units.size} do not divide {row.shape[units.axis]} values; calibrate it with a size that does"
        )
    return None


def _not_middle(row: Row, _is_weight: bool) -> str | None:
    """Why a range that is called symmetric must be so: AIMET refuses it otherwise."""
    middle = full_range(row)[len(full_range(row)) // 2]
    if is_symmetric(row) and (points(row) != middle).any():
        return f"it is symmetric with another zero point than {middle}; calibrate it again"
    return None


KNOWN: dict[str, Any] = {"title": TITLE, "lacking": LACKING, "activations": ONNX_INTEGERS, "weights": ONNX_INTEGERS}
OF_OFFSETS: dict[str, Any] = {
    "coarser": "use the format aimet-2.0.0, or calibrate it per channel",
    "has_axis": False,
    "problem": _not_middle,
}
AIMET_2 = Runtime(**KNOWN, write=version_2, units=frozenset({WHOLE, CHANNEL, GROUP}), problem=_uneven)
AIMET_1 = Runtime(**KNOWN, **OF_OFFSETS, write=version_1)
AIMET_0 = Runtime(**KNOWN, **OF_OFFSETS, write=version_0)
