"""The guides that need a runtime: their sessions print what they show, their programs run."""

from __future__ import annotations

import pytest

from tests.support.guides import DOCS, programs, rerun


@pytest.mark.filterwarnings("ignore")  # of torchao's own affairs
@pytest.mark.parametrize(("page", "needed"), [("onnxruntime.md", "onnxruntime"), ("torch.md", "torchao")])
def test_every_block_of_a_guide_does_what_it_shows(page, needed, tmp_path):
    pytest.importorskip(needed, reason="make test-consumers installs it")
    text = (DOCS / page).read_text()
    assert rerun(text, tmp_path) == text


@pytest.mark.filterwarnings("ignore")  # of torchao's own affairs
def test_torchao_holds_the_integers_and_scales_of_a_row():
    pytest.importorskip("torchao", reason="make test-consumers installs it")
    import torch

    import klcal

    (program,) = [each for each in programs("torch.md") if "torchao" in each]
    found: dict = {}
    exec(compile(program, "torch.md", "exec"), found)
    restored = klcal.dequantize(found["integers"], found["row"])
    assert torch.equal(found["layer"].weight.dequantize(), restored)
    x = torch.ones(found["layer"].in_features)
    assert torch.allclose(found["layer"](x), x @ restored.T + found["layer"].bias, atol=1e-5)
