"""ONNX Runtime: overrides of scales and zero points for its command line, and its calibration cache.

Overrides hold scales exactly. The cache holds ranges of activations, in float32, from which ONNX Runtime computes scale
and zero point again. Such a scale may differ by one unit in the last place, and a message then says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from klcal.tables.rows import Row
from klcal.writers.runtimes.runtime import (
    Runtime,
    Tensors,
    ends,
    full_range,
    lined,
    member,
    points,
    scales,
    shortest_list,
)

__all__ = ["CACHE", "METHOD", "OVERRIDES"]

EIGHT_AND_SIXTEEN = frozenset({"int8", "uint8", "int16", "uint16"})
METHOD = "CalibrationMethod.MinMax"  # the default of quantize_static, which the cache's has to be
KEEP = "unless told QDQKeepRemovableActivations (--qdq_keep_removable_activations)"
RUNNER = "python -m onnxruntime.quantization.static_quantize_runner"


def overrides(tensors: Tensors) -> str:
    """For ``--tensor_quant_overrides`` and, with NumPy's numbers, ``TensorQuantOverrides``."""
    rows = (*tensors.activations, *tensors.weights)
    return "{" + lined(member(row.name, _units(row)) for row in rows) + "}\n"


def _units(row: Row) -> list[dict[str, Any]]:
    """One entry for the tensor, or one for each channel; the first one has the axis."""
    numbers = zip(shortest_list(scales(row)), points(row).tolist(), strict=True)
    found: list[dict[str, Any]] = [{"scale": scale, "zero_point": int(point)} for scale, point in numbers]
    return found if row.units is None else [{"axis": row.units.axis, **found[0]}, *found[1:]]


def _types(tensors: Tensors) -> str | None:
    """The types, which the JSON cannot say."""
    named = zip(("--activation_type", "--weight_type"), tensors, strict=True)
    given = [f"{option} q{rows[0].target}" for option, rows in named if rows]
    return f"the file has no types; tell {RUNNER} {' '.join(given)}" if given else None


OVERRIDES = Runtime(
    title="ONNX Runtime",
    write=overrides,
    activations=EIGHT_AND_SIXTEEN,
    weights=EIGHT_AND_SIXTEEN | {"int4", "uint4"},
    rectifier=KEEP,
    one_dtype=True,
    advice=_types,
    lacking="ONNX Runtime takes their scales from the data that it calibrates with",
)


# --- cache


def cache(tensors: Tensors) -> str:
    """For ``quantize_static(…, calibration_cache_path=…)``, with ``ActivationSymmetric`` left alone."""
    ranges = (
        member(row.name, {"CLS": "TensorData", "lowest": low, "highest": high})
        for row in tensors.activations
        for low, high in zip(*map(shortest_list, ends(row)), strict=True)
    )
    method = member("calibration_method", {"CLS": "CalibrationMethod", "value": METHOD})
    return f'{{"CLS": "TensorsData",\n {method},\n "data": {{\n  {lined(ranges, "  ")}}}}}\n'


def _computed(row: Row) -> str | None:
    """A message if ONNX Runtime computes another scale or zero point from the range; else None."""
    low, high = (np.float64(each.astype(np.float32)[0]) for each in ends(row))
    whole = full_range(row)
    scale = (high - low) / (whole[-1] - whole[0])
    point = int(np.round(whole[0] - low / scale))
    if point != row.zero_point:
        return f"ONNX Runtime makes the zero point {point} of it, not {row.zero_point}; the format ort keeps it"
    if np.float32(scale) != np.float32(row.scale or 0):
        return "ONNX Runtime computes the scale from the range: it is off in the last place; the format ort keeps it"
    return None


CACHE = Runtime(
    title="ONNX Runtime",
    write=cache,
    activations=EIGHT_AND_SIXTEEN,
    weights=frozenset(),
    no_weights="it is a weight, and the cache has activations alone: exclude it, or use the format ort",
    rectifier=KEEP,
    needs_fused=True,
    one_dtype=True,
    change=lambda row, _is_weight: _computed(row),
    lacking="ONNX Runtime stops with a ValueError or KeyError where it needs one of them",
)
