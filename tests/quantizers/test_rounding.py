"""``quantize`` and ``dequantize`` by the scales of units: each value by the scale of its own."""

from __future__ import annotations

import numpy as np
import pytest

import klcal
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.granularity import PerBlock, PerChannel, PerGroup
from tests.support.lazy import torch


def matrix(rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((rows, columns)) * np.exp(2 * rng.standard_normal((rows, 1)))).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_are_those_of_torchs_own_cast(dtype):
    values = matrix(8, 500)
    row = klcal.calibrate(values, dtype=dtype, method="mse", per="channel")
    scale = row.units.scale.astype(np.float32)[:, None]
    steps = torch.from_numpy(np.clip(values / scale, FLOATS[dtype][0], FLOATS[dtype][-1]))
    cast = steps.to(getattr(torch, dtype)).float().numpy() * scale
    assert np.array_equal(cast, klcal.dequantize(klcal.quantize(values, row), row))


@pytest.mark.parametrize(
    "per", [PerChannel(0), PerChannel(1), PerChannel(-1), PerGroup(30), PerGroup(4, 0), PerBlock(4, 30)], ids=str
)
@pytest.mark.parametrize("dtype", ["int8", "uint4", "nf4"])
def test_tensors_and_arrays_are_quantized_alike_by_units(per, dtype):
    values = matrix(6, 100)
    row = klcal.calibrate(values, dtype=dtype, per=per)
    form = dtype if dtype in FLOATS else None
    integers = klcal.quantize(values, row, form)
    tensor = klcal.quantize(torch.from_numpy(values), row, form)
    assert np.array_equal(tensor.numpy(), integers)
    assert np.array_equal(klcal.dequantize(tensor, row).numpy(), klcal.dequantize(integers, row))
    with pytest.raises(UsageError, match="do not fit the shape"):
        klcal.quantize(values[:, :50].T.copy(), row, form)


def test_a_quantizer_without_all_scales_quantizes_nothing():
    values = matrix(3, 20)
    values[1, 4] = np.nan
    with pytest.raises(UsageError, match="1 of 3 units have no scale"):
        klcal.quantize(values, klcal.calibrate(values, dtype="int8", per="channel"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int2", "nf4"])
def test_a_channel_of_zeros_needs_no_scale_to_be_quantized(dtype):
    values = matrix(3, 20)
    values[1] = 0
    row = klcal.calibrate(values, dtype=dtype, per="channel")
    restored = klcal.dequantize(klcal.quantize(values, row), row)
    assert (restored[1] == 0).all()
    assert (restored[0] != 0).any()
