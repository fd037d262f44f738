"""LiteRT: the calibration results of ai-edge-quantizer, which are ranges of activations and of weights.

The quantizer computes scales from ranges, in float64, so exact products of the table's scales give the same scales
again. Activations of 8 bits have a zero point and use all integers, so their range is that of the whole type.
Activations of 16 bits, and weights, have no zero point: the highest integer stands for the larger magnitude of the
range.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from klcal.tables.rows import Row
from klcal.writers.runtimes.runtime import (
    Floats,
    Runtime,
    Tensors,
    ends,
    full_range,
    lined,
    member,
    points,
    scales,
)

__all__ = ["LITERT"]

LEAST_RANGE = 1e-9  # LiteRT widens smaller ranges to this
SIGNED = frozenset({"int4", "int8", "int16"})


def results(tensors: Tensors) -> str:
    """The file of ``load_calibration_results``."""
    rows = (*((row, False) for row in tensors.activations), *((row, True) for row in tensors.weights))
    ranges = (member(row.name, _range(row, is_weight)) for row, is_weight in rows)
    return f'{{"model_qsvs": {{\n  {lined(ranges, "  ")}}},\n "metadata": {{"num_samples_calibrated": 1}}}}\n'


def _range(row: Row, is_weight: bool) -> dict[str, Any]:
    low, high = _ends(row, is_weight)
    rank = len(row.shape or (0,)) if is_weight else 2
    shape = [1] * rank
    if row.units is not None:
        assert isinstance(row.units.axis, int)
        shape[row.units.axis] = len(row.units)
    return {"min": low.reshape(shape).tolist(), "max": high.reshape(shape).tolist()}


def _ends(row: Row, is_weight: bool) -> tuple[Floats, Floats]:
    """The range from which LiteRT computes the same scale."""
    if not _is_centred(row, is_weight):
        return ends(row)
    high = (len(full_range(row)) // 2 - 1) * scales(row)
    return 0 - high, high


def _is_centred(row: Row, is_weight: bool) -> bool:
    """Whether it has no zero point here."""
    return is_weight or row.target == "int16"


def _off_centre(row: Row, is_weight: bool) -> str | None:
    """Why a row with a zero point cannot be."""
    if _is_centred(row, is_weight) and points(row).any():
        what = "weights" if is_weight else "activations of 16 bits"
        return f"{what} have no zero point here; calibrate it to {row.target}, scheme symmetric"
    return None


def _widened(row: Row, is_weight: bool) -> str | None:
    """A message if a range is so small that LiteRT widens it; else None."""
    low, high = _ends(row, is_weight)
    least = np.min(high if _is_centred(row, is_weight) else high - low)
    return f"LiteRT widens its range to {LEAST_RANGE:g}, and so its scale" if least < LEAST_RANGE else None


def _recipe(tensors: Tensors) -> str | None:
    """Which recipe goes with the types, which the file cannot say."""
    bits = sorted({re.sub(r"\D", "", row.target or "") for row in tensors.activations})
    return f"the file has no types; use a recipe of {' and '.join(bits)}-bit activations" if bits else None


LITERT = Runtime(
    title="LiteRT",
    write=results,
    activations=frozenset({"int8", "uint8", "int16"}),
    weights=SIGNED,
    is_narrow=lambda _row, is_weight: is_weight,
    problem=_off_centre,
    change=_widened,
    advice=_recipe,
    lacking="ai-edge-quantizer stops with a ValueError for an activation, and takes a weight's scale from its extremes",
)
