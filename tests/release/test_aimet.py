"""Encodings, loaded by aimet-onnx: a simulation answers what NumPy does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import small_network
from tests.support.guides import programs
from tests.support.small_network import calibrate, export, numpys, rows, weights_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_network.module().main([])


def answers() -> np.ndarray:
    (program,) = programs("aimet.md")
    found: dict = {}
    exec(compile(program, "aimet.md", "exec"), found)
    return found["simulated"]("model.onnx", "out.json", {"x": np.load("activations.npz")["x"]})[0]


@pytest.mark.filterwarnings("ignore")  # of its many dependencies
@pytest.mark.parametrize("to", ["aimet-2.0.0", "aimet-1.0.0", "aimet-0.6.1"])
@pytest.mark.parametrize("scheme", ["symmetric", "symmetric-full"])
def test_a_simulation_answers_what_numpy_does(to, scheme):
    calibrate(weights=("--dtype", "int8", "--scheme", scheme))
    export(to, "weights.json", "--exclude", "conv_out")
    ours = numpys(np.load("activations.npz")["x"], rows(), weights_of("model.onnx"), bias=False)
    np.testing.assert_allclose(answers(), ours, rtol=1e-6, atol=1e-6)
    text = Path("out.json").read_text()
    Path("out.json").write_text(json.dumps(shifted(json.loads(text))))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(answers(), ours, rtol=1e-6, atol=1e-6)


def shifted(document: dict) -> dict:
    """The same, the zero point of the last activation as that of a signed type."""
    found = document.get("encodings", document.get("activation_encodings"))
    if isinstance(found, dict):
        (entry,) = found["y"]
        step = 28 * entry["scale"]
        entry.update(min=entry["min"] + step, max=entry["max"] + step, offset=entry["offset"] + 28)
        return document
    (entry,) = [each for each in found if each["name"] == "y"]
    if "offset" in entry:
        entry["offset"] = [entry["offset"][0] + 28]
    else:
        entry["y_zero_point"] -= 28
    return document
