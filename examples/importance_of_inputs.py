"""A small language model in few bits: what it loses, and what it loses where columns count by their inputs.

    python examples/importance_of_inputs.py [--learn]

The model predicts the next character of the help texts that come with Python: a transformer of 0.4 million weights, in
``help_texts.pt``, which learned nine tenths of them (``--learn`` does it again, in some minutes). The last tenth tells
how well: in bits for each character. Then the weights of its linear layers are quantized in groups: so that the squared
error of the weights is least; and so that the squared error of what the layers give is, as far as columns tell. Each
column then counts by the mean square of the inputs that it meets, which ``klcal.record`` keeps while the model runs.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import torch
from torch import nn

import klcal

PATH = Path(__file__).parent / "help_texts.pt"
WIDTH, LAYERS, HEADS, LENGTH = 128, 2, 4, 128  # of the model; characters that it sees
STEPS, BATCH, RATE = 3000, 16, 3e-3  # of learning
GROUPS = {"int4": "group:128", "int3": "group:64", "uint3": "group:64", "uint2": "group:16"}


class Text(NamedTuple):
    """Characters as numbers."""

    learned: torch.Tensor
    held_out: torch.Tensor


def whole_text() -> str:
    """All help texts."""
    return "\n".join(topics[name] for name in sorted(topics))


def numbers_of(text: str, letters: str) -> Text:
    """The text as numbers, its last tenth held out. Unknown characters become spaces."""
    places = {letter: place for place, letter in enumerate(letters)}
    numbers = torch.tensor([places.get(letter, places[" "]) for letter in text])
    cut = len(numbers) * 9 // 10
    return Text(numbers[:cut], numbers[cut:])


class Model(nn.Module):
    """A transformer that sees what came before."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """What follows each character, as logits."""
        x = self.letter(numbers) + self.place.weight[: numbers.shape[1]]
        for block in self.blocks:
            x = block(x)
        found: torch.Tensor = self.head(self.norm(x))
        return found


class Block(nn.Module):
    """Attention, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The next layer."""
        rows, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, WIDTH))
        found: torch.Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return found


def batch(numbers: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Some stretches, and each of their characters' next."""
    starts = torch.randint(len(numbers) - LENGTH - 1, (BATCH,), generator=generator)
    windows = torch.stack([numbers[start : start + LENGTH + 1] for start in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


def bits(model: nn.Module, seen: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the next characters, in bits for each."""
    return nn.functional.cross_entropy(model(seen).flatten(0, 1), following.flatten()) / math.log(2)


def learn() -> None:
    """Makes a model that has read, and keeps it."""
    torch.manual_seed(0)
    letters = "".join(sorted(set(whole_text())))
    text, model = numbers_of(whole_text(), letters), Model(len(letters))
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        bits(model, *batch(text.learned, generator)).backward()
        optimizer.step()
        schedule.step()
    torch.save({"letters": letters, "weights": {name: each.half() for name, each in model.state_dict().items()}}, PATH)


def with_weights(weights: dict[str, torch.Tensor], letters: str) -> Model:
    """The model of some weights."""
    model = Model(len(letters)).eval()
    model.load_state_dict({name: each.float() for name, each in weights.items()})
    return model


@torch.inference_mode()
def held_out(model: nn.Module, text: Text) -> float:
    """Bits per character on the held-out text."""
    generator = torch.Generator().manual_seed(2)
    return float(torch.stack([bits(model, *batch(text.held_out, generator)) for _ in range(10)]).mean())


def quantized(folder: Path, dtype: str, importance: Path | None) -> dict[str, torch.Tensor]:
    """The weights in few bits: klcal calibrates and applies, torch loads the copy."""
    copy = folder / f"{dtype}-{importance is not None}.pt"
    klcal.apply(
        folder / "model.pt",
        copy,
        to="fake",
        include=["*.qkv.weight", "*.out.weight", "*.fc?.weight"],
        dtype=dtype,
        scheme="affine" if dtype.startswith("u") else "symmetric-full",
        per=GROUPS[dtype],
        method="mse",
        importance=importance,
    )
    found: dict[str, torch.Tensor] = torch.load(copy)
    return found


def main() -> dict[str, tuple[float, ...]]:
    """Bits for each character: of the model, and in each format without and with importance."""
    kept = torch.load(PATH)
    letters, text = kept["letters"], numbers_of(whole_text(), kept["letters"])
    model = with_weights(kept["weights"], letters)
    found = {"float32": (held_out(model, text),)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(model.state_dict(), folder / "model.pt")
        with torch.inference_mode(), klcal.record(model, nn.Linear, importance=True) as recorded:
            for seed in range(10):
                model(batch(text.learned, torch.Generator().manual_seed(seed))[0])
        recorded.save(acts := folder / "acts.safetensors")
        for dtype in GROUPS:
            weights = [quantized(folder, dtype, each) for each in (None, acts)]
            found[dtype] = tuple(held_out(with_weights(each, letters), text) for each in weights)
    print("bits for each character   plain   with importance")
    for name, numbers in found.items():
        print(f"{name:8} {GROUPS.get(name, ''):14} " + "".join(f"{number:8.4f}" for number in numbers))
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--learn"]:
        learn()
    main()
