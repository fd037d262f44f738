"""The network of the guides, and what NumPy answers where it is quantized by tables: the reference of all proofs.

NumPy rounds half to even of x / s in float32, adds the zero point, and clips at the ends of the type; biases are int32
with the scale of the input times that of the weight. Then layers are computed of what the integers stand for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

import klcal as library
from klcal.quantizers.scheme import Scheme
from tests.support.command import klcal
from tests.support.guides import DOCS

TABLES = ("activations.json", "weights.json")


def module() -> ModuleType:
    """docs/small_network.py."""
    spec = importlib.util.spec_from_file_location("small_network", DOCS / "small_network.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def calibrate(activations: tuple[str, ...] = (), weights: tuple[str, ...] = ("--dtype", "int8")) -> None:
    """Tables of what was recorded, and of the weights: a scale for each output."""
    per = ("--per", "conv*=channel", "--per", "fc*=channel:1")
    assert klcal("calibrate", "model.onnx", *weights, *per, "-o", TABLES[1]).code == 0
    assert klcal("calibrate", "activations.npz", *activations, "-o", TABLES[0]).code == 0


def rows() -> dict[str, library.Row]:
    return {row.name: row for path in TABLES for row in library.load_table(path).rows}


def export(to: str, *arguments: str) -> str:
    """Write out.json, and give what was said."""
    done = klcal("export", TABLES[0], *arguments, "--to", to, "--model", "model.onnx", "-o", "out.json")
    assert done.code == 0, done.err
    assert Path("out.json").exists()
    return done.err


# --- NumPy's answer


def restored(values: np.ndarray, row: library.Row, scale: np.ndarray | float, point: np.ndarray | float) -> np.ndarray:
    """What the integers of a type stand for, in float64."""
    whole = Scheme(row.target, "affine").integers
    integers = np.clip(np.round(values.astype(np.float32) / np.float32(scale)) + point, whole[0], whole[-1])
    return (integers - point) * np.float64(np.float32(scale))


def passed(values: np.ndarray, row: library.Row) -> np.ndarray:
    return restored(values, row, row.scale, row.zero_point)


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w)


def numpys(
    x: np.ndarray,
    known: dict[str, library.Row],
    weights: dict[str, np.ndarray],
    *,
    bias: bool = True,
    before_relu: bool = False,
) -> np.ndarray:
    """The quantized network's answer, from the tables alone; the bias and Relu's input may be quantized too."""
    shape = {"conv.weight": (-1, 1, 1, 1), "fc.weight": (1, -1)}
    conv, fc = (
        restored(weights[name], known[name], *(each.reshape(where) for each in of_units(known[name])))
        for name, where in shape.items()
    )
    step = np.float32(known["x"].scale) * np.float32(known["conv.weight"].units.scale)
    added = np.round(weights["conv.bias"] / step) * np.float64(step) if bias else weights["conv.bias"]
    hidden = convolved(passed(x, known["x"]), conv) + added.reshape(-1, 1, 1)
    hidden = np.maximum(passed(hidden, known["conv_out"]) if before_relu else hidden, 0)
    return passed(passed(hidden, known["relu_out"]).reshape(len(x), -1) @ fc, known["y"])


def of_units(row: library.Row) -> tuple[np.ndarray, np.ndarray]:
    return row.units.scale, row.units.zero_point


def weights_of(model: str) -> dict[str, np.ndarray]:
    import onnx

    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(model).graph.initializer}
