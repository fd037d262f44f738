"""What the guides show is what happens: those that need no other program than torch; the rest is in tests/consumers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import klcal
from klcal.writers.runtimes import FORMATS
from tests.support.guides import DOCS, ROOT, programs, replayed, sessions

GUIDES = sorted(path.name for path in DOCS.glob("*.md"))


def run(program: str) -> dict:
    names: dict = {}
    exec(compile(program, "guide", "exec"), names)
    return names


@pytest.mark.parametrize(
    "name", ["activations.md", "aimet.md", "ci.md", "configuration.md", "litert.md", "tensorrt.md"]
)
def test_a_session_prints_what_the_guide_shows(name, tmp_path):
    for session in sessions((DOCS / name).read_text()):
        assert replayed(session, tmp_path) == session


def test_the_programs_about_activations_run():
    pytest.importorskip("torch")
    for program in programs("activations.md"):
        run(program)


def test_a_cache_of_tensorrt_is_read_back_by_five_lines(tmp_path, monkeypatch):
    (session,) = sessions((DOCS / "tensorrt.md").read_text())
    replayed(session, tmp_path)
    monkeypatch.chdir(tmp_path)
    (program,) = programs("tensorrt.md")
    (row,) = klcal.load_table("activations.json").rows
    assert run(program)["read_cache"]("calibration.cache") == {"ffn_in": row.scale}


def test_torch_makes_of_weights_what_klcal_does():
    torch = pytest.importorskip("torch")
    (program,) = [each for each in programs("torch.md") if "torchao" not in each]
    found = run(program)
    weight, row = found["layer"].weight.detach(), found["row"]
    steps = np.abs(weight.numpy() / row.units.scale[:, None])
    even = torch.from_numpy(np.abs(steps % 1 - 0.5) > 1e-6)  # torch multiplies by 1/scale: ties may go the other way
    assert torch.equal(found["copy"][even], klcal.dequantize(found["integers"], row)[even])


def test_every_format_has_a_guide_and_every_guide_is_named():
    texts = {name: (DOCS / name).read_text() for name in GUIDES}
    for to in FORMATS:
        assert any(f"--to {to}" in text or f"`{to}`" in text for text in texts.values()), to
    assert all(f"docs/{name}" in (ROOT / "README.md").read_text() for name in GUIDES)
    for text in texts.values():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert Path(DOCS / target).exists(), target
