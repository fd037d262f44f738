"""What the guides to runtimes say of numbers, as far as torch alone can tell; the rest is in tests/consumers."""

from __future__ import annotations

import numpy as np
import pytest

import klcal
from klcal.writers.runtimes import FORMATS
from tests.support.guides import DOCS, programs, replayed, sessions


def run(program: str) -> dict:
    names: dict = {}
    exec(compile(program, "guide", "exec"), names)
    return names


def test_a_cache_of_tensorrt_is_read_back_by_five_lines(tmp_path, monkeypatch):
    (session,) = sessions((DOCS / "tensorrt.md").read_text())
    replayed(session, tmp_path)
    monkeypatch.chdir(tmp_path)
    (program,) = programs("tensorrt.md")
    (row,) = klcal.load_table("activations.json").rows
    assert run(program)["read_cache"]("calibration.cache") == {"ffn_in": row.scale}


def test_torch_makes_of_weights_what_klcal_does():
    torch = pytest.importorskip("torch")
    (program,) = [each for each in programs("torch.md") if "fake_quantize_per_channel" in each]
    found = run(program)
    weight, row = found["layer"].weight.detach(), found["row"]
    steps = np.abs(weight.numpy() / row.units.scale[:, None])
    even = torch.from_numpy(np.abs(steps % 1 - 0.5) > 1e-6)  # torch multiplies by 1/scale: ties may go the other way
    assert torch.equal(found["copy"][even], klcal.dequantize(found["integers"], row)[even])


def test_every_format_has_a_guide():
    guides = [page.read_text() for page in DOCS.glob("*.md") if page.name != "export.md"]
    for to in FORMATS:
        assert any(f"--to {to}" in text or f"`{to}`" in text for text in guides), to
