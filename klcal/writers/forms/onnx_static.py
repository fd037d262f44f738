"""ONNX with quantized activations: ONNX Runtime's `quantize_static` places QuantizeLinear and DequantizeLinear.

ONNX Runtime decides where the nodes go, and quantizes the biases: to int32, with the scale of the input times that of
the weight. All other scales and zero points are passed to it as overrides. It also demands a range for every
activation. All of them are the same here, and no scale may be computed from them: so the caller has to compare the
scales in the result with those that were passed in.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.errors import OutputError, UsageError
from klcal.tables.rows import Row
from klcal.writers.forms.onnx_versions import ir_of
from klcal.writers.onnx_file import ONNX
from klcal.writers.runtimes.ort import METHOD
from klcal.writers.runtimes.runtime import Tensors, points, scales

__all__ = ["Static", "check_runtime", "quantized"]

INSTALL = "pip install 'klcal[onnxruntime]'"
FIRST = (1, 27)  # version of ONNX Runtime that reads ranges from a file
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
SCALE = "_scale"  # the suffix that ONNX Runtime appends to the name of a tensor
CACHE, OUTPUT = "cache.json", "quantized.onnx"
DEBUG = "check the model with onnx.checker; KLCAL_DEBUG=1 shows where"

Numbers = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class Static(NamedTuple):
    """A quantized model."""

    data: bytes
    placed: Mapping[str, Numbers]  # scales and zero points, by tensor; without those of biases


def check_runtime() -> None:
    """Refuses to begin where ONNX Runtime cannot do it.

    Raises:
        UsageError: it is not installed, or too old.
    """
    try:
        import onnxruntime
        import onnxruntime.quantization
    except ImportError:
        raise UsageError("activations are quantized by ONNX Runtime, which is not installed", INSTALL) from None
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < FIRST:
        what = f"ONNX Runtime {onnxruntime.__version__} is too old: it reads no ranges from a file"
        raise UsageError(what, f"{INSTALL} --upgrade")


def quantized(
    path: str, tensors: Tensors, operators: frozenset[str], *, dtype: str, opset: int, keeps_rectifiers: bool
) -> Static:
    """The bytes of a model, quantized by ONNX Runtime with the scales of rows.

    Args:
        path: of a ``.onnx``.
        tensors: its activations and weights, by the names that they have in it.
        operators: those that may be quantized, each by the name of its first output.
        dtype: of its floats: float32 or float16.
        opset: the version of ONNX's operators that the scales need: an older model is raised to it.
        keeps_rectifiers: whether a Relu or Clip stays even if clipping to integers could replace it.

    Raises:
        OutputError: ONNX Runtime fails.
    """
    import onnx
    import onnxruntime.quantization as ort

    try:
        model = onnx.load(path)
        theirs = {each.input[1] for each in model.graph.node if each.op_type in QUANTIZING}
        _raise(model, opset)
        _constants_become_initializers(model.graph, {row.name for row in tensors.weights})
        names = _named(model.graph, operators)
        with tempfile.TemporaryDirectory(prefix="klcal-") as directory, _quiet():
            cache, output = Path(directory) / CACHE, Path(directory) / OUTPUT
            cache.write_text(_ranges(model.graph))
            ort.quantize_static(
                model,
                output,
                nodes_to_quantize=names,
                activation_type=ort.QuantType.QUInt8,  # each tensor has its own
                weight_type=ort.QuantType.QInt8,
                calibration_cache_path=cache,
                extra_options={
                    "TensorQuantOverrides": {row.name: _override(row, dtype) for some in tensors for row in some},
                    "QDQKeepRemovableActivations": keeps_rectifiers,
                },
            )
            data = output.read_bytes()
        return Static(data, _placed(onnx.load_from_string(data).graph, theirs))
    except Exception as error:  # protobuf's, onnx's and its own have no common class
        if os.environ.get("KLCAL_DEBUG") == "1":
            raise
        what = f"ONNX Runtime could not quantize it: {type(error).__name__}; nothing was written"
        raise OutputError(what, DEBUG) from error


# --- arguments of ONNX Runtime


def _raise(model: Any, opset: int) -> None:
    """Raises the opset of a model. ONNX Runtime would do so itself, but not for 4 bits."""
    (own,) = (each for each in model.opset_import if each.domain in ONNX)
    if own.version < opset:
        own.version = opset
        model.ir_version = max(model.ir_version, ir_of(opset))


def _constants_become_initializers(graph: Any, weights: Collection[str]) -> None:
    """Weights that nodes hold, which it would take for activations."""
    for node in [each for each in graph.node if each.op_type == "Constant" and each.output[0] in weights]:
        (held,) = (each.t for each in node.attribute if each.name == "value")
        held.name = node.output[0]
        graph.initializer.append(held)
        graph.node.remove(node)


def _named(graph: Any, operators: frozenset[str]) -> list[str]:
    """The names of operators; those that have none are given one."""
    taken = {each.name for each in graph.node}
    unused = (name for number in count() if (name := f"node_{number}") not in taken)
    chosen = [each for each in graph.node if not operators.isdisjoint(each.output[:1])]
    for each in chosen:
        each.name = each.name or next(unused)
    return [each.name for each in chosen]


def _ranges(graph: Any) -> str:
    """A range for each activation, the same for all: ONNX Runtime demands ranges, and does not use them."""
    names = dict.fromkeys(
        [*(each.name for each in graph.input), *(name for each in graph.node for name in each.output)]
    )
    data = {name: {"CLS": "TensorData", "lowest": 0.0, "highest": 1.0} for name in names if name}
    method = {"CLS": "CalibrationMethod", "value": METHOD}
    return json.dumps({"CLS": "TensorsData", "calibration_method": method, "data": data})


def _override(row: Row, dtype: str) -> list[dict[str, Any]]:
    """NumPy's numbers, for a Python float is divided by in float64."""
    import onnxruntime.quantization as ort

    target = row.target or ""
    kind = getattr(ort.QuantType, f"Q{'UI' if target.startswith('u') else 'I'}nt{target.lstrip('uint')}")
    axis = {} if row.units is None else {"axis": row.units.axis}
    return [
        {"scale": np.array(scale, dtype), "zero_point": np.array(int(point)), "quant_type": kind, **axis}
        for scale, point in zip(scales(row), points(row), strict=True)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the warnings of ONNX Runtime about the settings that are used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


# --- the quantized model


def _placed(graph: Any, theirs: Collection[str]) -> dict[str, Numbers]:
    """The numbers of all nodes that quantize, but for those that the model had before and those of biases."""
    from onnx import TensorProto, numpy_helper

    held = {each.name: each for each in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in QUANTIZING or node.input[1] in theirs:
            continue
        codes = held.get(node.input[0])
        if codes is None or codes.data_type != TensorProto.INT32:
            numbers = [numpy_helper.to_array(held[name]) for name in node.input[1:3]]
            found[node.input[1].removesuffix(SCALE)] = (numbers[0], numbers[1])
    return found
