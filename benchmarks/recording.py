"""Recording the inputs of a model's layers, against its forward pass alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import klcal
from benchmarks.side_by_side import report

BATCH, LAYERS, WIDTH, HEADS, LENGTH = 8, 4, 768, 12, 128  # a third of BERT-base
SIDE = 224  # pixels of an image
ROUNDS = 9  # in which each way has a turn
WAYS: dict[str, dict[str, Any]] = {"per tensor": {}, "with importance": {"importance": True}}


class Residual(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two convolutions and a short cut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(before, width, 3, stride), _convolution(width, width, 3, 1)
        self.short = nn.Identity() if before == width else _convolution(before, width, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


class Encoder(nn.Module):  # type: ignore[misc,unused-ignore]
    """A layer of BERT: six linear layers, each a module that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (each(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        met = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(met))
        return self.norm2(x + self.fc2(nn.functional.gelu(self.fc1(x))))


def run() -> None:
    """With random weights; the shapes are those of ResNet-18, and of 4 layers of BERT-base."""
    torch.manual_seed(0)
    encoder = nn.Sequential(*(Encoder() for _ in range(LAYERS)))
    _measure("4 layers of BERT-base, 8 × 128 tokens", encoder, torch.randn(BATCH, LENGTH, WIDTH), nn.Linear, axis=2)
    _measure("ResNet-18, 8 images of 224 × 224", _resnet(), torch.randn(BATCH, 3, SIDE, SIDE), nn.Conv2d, axis=1)


def _measure(what: str, model: nn.Module, batch: torch.Tensor, kind: type, axis: int) -> None:
    model.train(False)
    ways = {**WAYS, f"per channel of axis {axis}": {"per": f"channel:{axis}"}}

    def recorded(options: dict[str, Any]) -> None:
        with klcal.record(model, kind, **options) as found:
            model(batch)
        assert found.sketches

    with torch.no_grad():
        _check(model, batch, kind)
        calls: dict[str, Callable[[], object]] = {"": lambda: model(batch)}
        calls |= {name: partial(recorded, options) for name, options in ways.items()}
        times = {name: [_seconds(call)] for name, call in calls.items()}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(_seconds(call))
    least = {name: min(some[1:]) for name, some in times.items()}  # what else the machine does only ever adds
    alone = least[""]
    rows = [(f"inputs of all {kind.__name__} {name} / that", f"{least[name] / alone:.2f}") for name in ways]
    report(f"Recording {what}", [("the pass alone", f"{alone:.2f} s"), *rows])


def _check(model: nn.Module, batch: torch.Tensor, kind: type) -> None:
    """Two halves are counted as the whole of them, and the pass answers the same."""
    expected = model(batch)
    with klcal.record(model, kind) as recorded:
        assert torch.equal(model(batch), expected)
    numels = {name: int(sketch.numel.sum()) for name, sketch in recorded.sketches.items()}
    with klcal.record(model, kind) as halves:
        for half in batch.chunk(2):
            model(half)
    assert numels == {name: int(sketch.numel.sum()) for name, sketch in halves.sketches.items()} != {}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _convolution(before: int, width: int, size: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width))


def _resnet() -> nn.Module:
    widths = (64, 64, 128, 128, 256, 256, 512, 512)
    pairs = zip((64, *widths), widths, strict=False)
    blocks = [Residual(before, width, 1 if before == width else 2) for before, width in pairs]
    stem = nn.Sequential(_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
