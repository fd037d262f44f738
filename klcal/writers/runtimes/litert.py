"""LiteRT: the calibration results of ai-edge-quantizer, which takes ranges of activations, and of weights too.

It computes scales from the ranges: with zero point, all integers of the type share ``max − min``; symmetric, which
weights always are, the greatest integer stands for the greater magnitude. All in float64, from exact products, so that
the scale it stores is the table's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from klcal.tables.rows import Row
from klcal.writers.runtimes.runtime import (
    Floats,
    Runtime,
    Tensors,
    ends,
    full_range,
    is_symmetric,
    lined,
    member,
    scales,
)

__all__ = ["LITERT"]

LEAST_RANGE = 1e-9  # what it takes a smaller one for
SIGNED = frozenset({"int4", "int8", "int16"})


def results(tensors: Tensors) -> str:
    """The file of ``load_calibration_results``."""
    rows = (*((row, False) for row in tensors.activations), *((row, True) for row in tensors.weights))
    ranges = (member(row.name, _range(row, is_weight)) for row, is_weight in rows)
    return f'{{"model_qsvs": {{\n  {lined(ranges, "  ")}}},\n "metadata": {{"num_samples_calibrated": 1}}}}\n'


def _range(row: Row, is_weight: bool) -> dict[str, Any]:
    low, high = _ends(row)
    rank = len(row.shape or (0,)) if is_weight else 2
    shape = [1] * rank
    if row.units is not None:
        assert isinstance(row.units.axis, int)
        shape[row.units.axis] = len(row.units)
    return {"min": low.reshape(shape).tolist(), "max": high.reshape(shape).tolist()}


def _ends(row: Row) -> tuple[Floats, Floats]:
    """The range from which it gets the scale back."""
    if not is_symmetric(row):
        return ends(row)
    whole = full_range(row)
    high = (len(whole) // 2 - 1) * scales(row)
    return 0 - high, high


def _uneven(row: Row, is_weight: bool) -> str | None:
    """Why a weight cannot be: they have no zero points."""
    if is_weight and not is_symmetric(row):
        return "weights have no zero point here; calibrate it to int8, scheme symmetric"
    return None


def _widened(row: Row, _is_weight: bool) -> str | None:
    """What becomes of ranges that are nearly nothing."""
    low, high = _ends(row)
    least = np.min(high if is_symmetric(row) else high - low)
    return f"LiteRT takes its range for {LEAST_RANGE:g}, and so its scale for more" if least < LEAST_RANGE else None


def _recipe(tensors: Tensors) -> str | None:
    """What the recipe must say, which the file cannot."""
    symmetric = {is_symmetric(row) for row in tensors.activations}
    if symmetric == {True, False}:
        return "some activations are symmetric and some are not: give the operators of each a recipe of their own"
    return f'set "symmetric": {str(symmetric.pop()).lower()} for activations in the recipe' if symmetric else None


LITERT = Runtime(
    title="LiteRT",
    write=results,
    activations=frozenset({"int8", "uint8", "int16"}),
    weights=SIGNED,
    is_narrow=lambda _row, is_weight: is_weight,
    problem=_uneven,
    change=_widened,
    advice=_recipe,
    lacking="ai-edge-quantizer stops with a ValueError for an activation, and takes a weight's scale from its extremes",
)
