"""Squares on a device: the CPU's integers, to the last one, on a GPU and by a loop in the place of its threads."""

from __future__ import annotations

import numpy as np
import pytest

from klcal.kernels.energy import WIDTH, add_energy
from klcal.sketches.energy import Energy
from tests.support.devices import Shim, never_waiting, real_device
from tests.support.lazy import torch

SHAPES = [(1, 1, 1), (100, 40, 1), (5, 3, 100), (7, 40, 2), (0, 3, 5), (2, 4, 49), (3, 1, 4000)]
DTYPES = ["float32", "float16", "bfloat16", "float64"]
KINDS = ["normal", "half zeros", "all octaves", "special"]


def values_of(shape, kind):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "half zeros":
        values = np.maximum(values, 0)
    elif kind == "all octaves":
        values = rng.integers(0, 1 << 32, shape, np.uint32).view(np.float32)
    elif kind == "special":
        values[rng.random(shape) < 0.1] = np.inf
        values[rng.random(shape) < 0.1] = np.nan
    return torch.from_numpy(values)


def by_the_cpu(batches):
    found = np.zeros((batches[0].shape[1], WIDTH), np.int64)
    for each in batches:
        add_energy(each.float().numpy(), found)
    return found.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_threads", [False, True])
def test_a_device_adds_the_same_squares(shape, dtype, kind, has_threads):
    batch = values_of(shape, kind).to(getattr(torch, dtype))
    energy = Energy(shape[1], torch.device("cpu"), Shim(has_threads=has_threads))
    for each in (batch, batch):
        energy.add(each)
    assert energy.numbers().tolist() == by_the_cpu([batch, batch])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_true_device_does_too_and_nothing_waits(shape, dtype):
    device = torch.device(real_device(), 0)
    batches = [values_of(shape, kind).to(getattr(torch, dtype)) for kind in KINDS]
    there = [each.to(device) for each in batches]
    energy = Energy(shape[1], device)
    energy.add(there[0])  # what is compiled when it is first used
    with never_waiting():
        for each in there[1:]:
            energy.add(each)
    assert energy.numbers().tolist() == by_the_cpu(batches)
