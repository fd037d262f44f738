"""Scales in NVIDIA's Model Optimizer: its fake quantizers, told by docs/torch.md what klcal calibrated."""

from __future__ import annotations

import numpy as np

from tests.support.guides import programs
from tests.support.lazy import torch


def told() -> dict:
    """A layer, inputs, and the rows that the guide's lines make its quantizers of."""
    (program,) = [each for each in programs("torch.md") if "modelopt" in each]
    found: dict = {}
    exec(compile(program, "torch.md", "exec"), found)
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(32, 16)), torch.randn(64, 32)
    return {"model": model, "x": x, "rows": found["fake_quantized"](model, x)}


def clipped(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The full range: Model Optimizer clips at -128."""
    return torch.clamp(torch.round(values / scale), -128, 127) * scale


def test_its_quantizers_round_as_klcal_says():
    found = told()
    layer, (inputs, weights) = found["model"][0], found["rows"]
    scales = torch.tensor(weights.units.scale, dtype=torch.float32)[:, None]
    weight = layer.weight.detach()
    steps = (weight / scales).numpy()
    even = torch.from_numpy(np.abs(np.abs(steps % 1) - 0.5) > 1e-5)  # it multiplies by 1/scale: ties may differ
    ours = clipped(weight, scales)
    torch.testing.assert_close(layer.weight_quantizer(weight)[even], ours[even], rtol=1e-6, atol=0)
    x = found["x"]
    expected = clipped(x, torch.tensor(inputs.scale)) @ ours.T + layer.bias
    torch.testing.assert_close(found["model"](x), expected, rtol=1e-5, atol=1e-5)


def test_a_wrong_scale_would_be_found():
    found = told()
    layer = found["model"][0]
    before = found["model"](found["x"])
    layer.input_quantizer.amax = layer.input_quantizer.amax * 1.01
    assert (found["model"](found["x"]) - before).abs().max() > 1e-3
