"""The example says what it claims: with importance, a language model loses less in few bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "examples" / "importance_of_inputs.py"


def test_importance_of_inputs(capsys):
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main()
    (whole,) = found.pop("float32")
    assert whole < 1.8  # a character of English alone takes 4 to 5
    for dtype in ("int4", "int3", "uint3"):
        plain, weighed = (each - whole for each in found[dtype])
        assert 0 < weighed < 0.97 * plain, dtype
    assert "with importance" in capsys.readouterr().out
