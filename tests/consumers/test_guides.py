"""The guides that need a runtime: their sessions print what they show, their programs run."""

from __future__ import annotations

import pytest

from tests.support.guides import DOCS, programs, replayed, sessions


def test_the_session_with_onnx_runtime_prints_what_the_guide_shows(tmp_path):
    pytest.importorskip("onnxruntime", reason="make test-consumers installs it")
    for session in sessions((DOCS / "onnxruntime.md").read_text()):
        assert replayed(session, tmp_path) == session


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
