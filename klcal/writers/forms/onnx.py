"""An ONNX model with weights as integers and DequantizeLinear nodes; all else is copied byte for byte.

The node gives the weight under its old name, so what takes it stays as it is. For a weight W there are

    W_quantized    its codes: int8 or uint8; int4 or uint4, two a byte; int16 or uint16; float8_e4m3fn or float8_e5m2.
                   Integers of other widths are stored in the next wider type
    W_scale        in the weight's own type: one; a vector along ``axis``; or as many as there are blocks
    W_zero_point   of the codes' type; left out where all are 0

Each needs a version of ONNX's operators: see ``wanted_opset``. An older model is raised to it if none of its operators
is another one there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.granularity import Grid
from klcal.quantizers.scheme import Scheme
from klcal.readers.description import Description
from klcal.readers.onnx_fields import KINDS
from klcal.readers.onnx_graph import graph_inputs_and_nodes
from klcal.readers.quoting import quoted
from klcal.readers.regular import FileSpan, RegularFile, open_regular
from klcal.tables.units import Units
from klcal.writers.codes import Codes
from klcal.writers.forms.form import Form, Model, TensorFile
from klcal.writers.forms.onnx_usual import DTYPE, SCALES, storage_of, takes, usual
from klcal.writers.forms.onnx_versions import check_version, ir_of, opset_of
from klcal.writers.onnx_file import Made, Parts, parts_of, rewritten
from klcal.writers.protobuf import Piece, size
from klcal.writers.safetensors_file import Stored

__all__ = ["FORM"]

SUFFIX = ".onnx"
NUMBERS = {kind.name: number for number, kind in KINDS.items()}
MOST_BYTES = (1 << 31) - 1  # of a message of protobuf
LAST_WITH_INPUTS = 3  # version of the format in which every initializer is an input of the graph
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
EXCLUDE = "leave it out: --exclude"


# --- checks before anything is written


def renamed(name: str) -> str:
    """The name of a file again.

    Raises:
        UsageError: it is of another format, and has no graph.
    """
    if not name.lower().endswith(SUFFIX):
        raise UsageError(f"'{name}' is no {SUFFIX} file, whose graph the quantized one needs", "export the model first")
    return name


def fits(tensor: Description, scheme: Scheme, units: Units | Grid | None) -> str:
    """The type of the codes of a tensor.

    Raises:
        UsageError: DequantizeLinear does not take them, or not so.
    """
    storage = storage_of(scheme.dtype)
    if storage is None:
        raise UsageError(f"DequantizeLinear takes no {scheme.dtype}", DTYPE)
    if tensor.dtype not in SCALES:
        raise UsageError(f"DequantizeLinear gives no {tensor.dtype}", EXCLUDE)
    if units is not None and not isinstance(units.axis, int):
        raise UsageError("DequantizeLinear has no blocks along two axes", "use --per channel, group:128 or tensor")
    return storage


def check(model: Model) -> list[str]:
    """Checks that all tensors can be stored, and returns warnings.

    Raises:
        UsageError: a tensor cannot be stored in this form; the message names it.
    """
    return [warning for file in model.files for warning in _told(file)]


def _told(file: TensorFile) -> Iterator[str]:
    quantized = [each.codes for each in file.tensors if each.codes is not None]
    if not quantized:
        return
    opened = open_regular(file.path)
    parts, (_, nodes) = parts_of(opened), graph_inputs_and_nodes(opened)
    theirs = {name for node in nodes if node.op in QUANTIZING for name in node.inputs}
    for codes in quantized:
        try:
            _check(codes, parts, theirs)
        except UsageError as error:
            raise UsageError(f"{file.source}: {quoted(codes.tensor.name)}: {error.what}", error.hint) from None
    _check_data(file, parts)
    asks = max(quantized, key=_wanted)
    what = f"{file.source}: {quoted(asks.tensor.name)} as {storage_of(asks.scheme.dtype)}"
    check_version(what, parts, nodes, _wanted(asks))
    _check_size(file.source, _pieces(opened, parts, quantized))
    names = [name for codes in quantized for name in _names(codes) if name in parts.inputs]
    if names and parts.ir > LAST_WITH_INPUTS:
        many = "s" * (len(names) > 1)
        yield f"no longer input{many} of the graph, which could replace the weight: {quoted(names[0])}"


def _names(codes: Codes) -> tuple[str, ...]:
    return codes.tensor.name, *codes.tensor.aliases


def _check(codes: Codes, parts: Parts, theirs: set[str]) -> None:
    """Refuses a tensor; ``theirs`` are those that the model quantizes or has quantized."""
    fits(codes.tensor, codes.scheme, codes.row.units)
    if any(name not in parts.tensors for name in _names(codes)):
        raise UsageError("it lies in a graph within a node", EXCLUDE)
    if not theirs.isdisjoint(_names(codes)):
        raise UsageError("the model quantizes it already", EXCLUDE)
    if not np.array_equal(_widened(_scales(codes), codes.tensor.dtype).ravel(), codes.scales.ravel()):
        what = f"its scales are no {codes.tensor.dtype}, as DequantizeLinear has them here: they would be rounded"
        raise UsageError(what, f"calibrate with --scale-format {codes.tensor.dtype}")


def _check_data(file: TensorFile, parts: Parts) -> None:
    """Refuses data in another file that are not brought in: those of Constants and of graphs within nodes."""
    for each in file.tensors:
        elsewhere = any(part.file.path != file.path for part in each.tensor.parts if isinstance(part, FileSpan))
        if elsewhere and each.codes is None and each.tensor.name not in parts.beside:
            what = (
                f"{file.source}: the data of {quoted(each.tensor.name)}, which is no initializer, lie in another file"
            )
            raise UsageError(what, "save the model again with onnx.save, its data in it")


def _check_size(source: str, pieces: Iterable[Piece]) -> None:
    """Refuses a model that would exceed the size of a protobuf message."""
    total = size(pieces)
    if total > MOST_BYTES:
        what = f"{source}: it would have {total:,} bytes; protobuf allows {MOST_BYTES:,}"
        raise UsageError(what, "quantize more of it, or to fewer bits")


def _wanted(codes: Codes) -> int:
    return opset_of(codes.row, codes.tensor.dtype)


# --- tensors


def _scales(codes: Codes) -> npt.NDArray[Any]:
    """In the type of the weight, of the shape that DequantizeLinear wants: bfloat16 as its bits."""
    scales, units = codes.scales, codes.row.units
    if units is not None and units.size is None:
        scales = scales.ravel()
    if codes.tensor.dtype == "bfloat16":
        return np.ascontiguousarray(scales).view(np.uint32).__rshift__(16).astype("<u2")
    return scales.astype("<f2" if codes.tensor.dtype == "float16" else "<f4")


def _widened(scales: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    return (scales.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else scales.astype(np.float32)


def _bytes(codes: Iterable[npt.NDArray[Any]], storage: str) -> Iterator[Any]:
    """Codes as raw data has them: of 4 bits two a byte, the first one in the lower half."""
    if not storage.endswith("int4"):
        dtype = np.dtype("u1" if storage.startswith("float8") else storage).newbyteorder("<")
        yield from (np.ascontiguousarray(each, dtype).data for each in codes)
        return
    left = np.empty(0, np.uint8)
    for each in codes:
        halves = np.concatenate([left, (each.ravel() & 0xF).astype(np.uint8)])
        whole = halves.size // 2 * 2
        yield (halves[0:whole:2] | halves[1:whole:2] << 4).data
        left = halves[whole:]
    yield left.data


def _nbytes(values: int, storage: str) -> int:
    bits = 8 if storage.startswith("float8") else int(storage.lstrip("uint"))
    return -(-values * bits // 8)


def _replaced(codes: Codes, unused: Callable[[str], str]) -> tuple[list[Made], list[tuple[Stored, int]]]:
    """The nodes that make a tensor under each of its names, and the tensors that they take."""
    name, storage, shape = codes.tensor.name, str(storage_of(codes.scheme.dtype)), codes.tensor.shape
    scales, points, units = _scales(codes), codes.zero_points, codes.row.units
    inputs = [unused(f"{name}_quantized"), unused(f"{name}_scale")]
    held = Stored(
        inputs[0], storage, shape, _nbytes(math.prod(shape), storage), lambda: _bytes(codes.pieces(), storage)
    )
    stored = [
        (held, NUMBERS[storage]),
        (Stored(inputs[1], "", scales.shape, scales.nbytes, lambda: [scales.data]), NUMBERS[codes.tensor.dtype]),
    ]
    if points is not None and points.any():
        inputs.append(unused(f"{name}_zero_point"))
        where = Stored(
            inputs[2], storage, scales.shape, _nbytes(points.size, storage), lambda: _bytes([points], storage)
        )
        stored.append((where, NUMBERS[storage]))
    integers: dict[str, int] = {}
    if units is not None:
        assert isinstance(units.axis, int)
        assert not isinstance(units.size, tuple)
        integers = {"axis": units.axis} | ({} if units.size is None else {"block_size": units.size})
    made = [
        Made(each, "DequantizeLinear", unused(f"{each}_DequantizeLinear"), tuple(inputs), integers)
        for each in _names(codes)
    ]
    return made, stored


# --- files


def write_onnx(file: TensorFile, out: BinaryIO) -> None:
    """A file again; one without anything to quantize as it is."""
    opened = open_regular(file.path)
    quantized = [each.codes for each in file.tensors if each.codes is not None]
    if not quantized:
        out.writelines(opened.blocks(0, opened.size))
        return
    for piece in _pieces(opened, parts_of(opened), quantized):
        out.writelines(piece.data())


def _pieces(file: RegularFile, parts: Parts, quantized: Sequence[Codes]) -> list[Piece]:
    unused = _unused(file, parts)
    found = [_replaced(codes, unused) for codes in quantized]
    wanted = max(_wanted(codes) for codes in quantized)
    versions = max(parts.ir, ir_of(wanted)), max(parts.version, wanted)
    made, stored = ([each for pair in found for each in pair[place]] for place in (0, 1))
    return rewritten(file, parts, made, stored, versions)  # type: ignore[arg-type]  # two lists


def _unused(file: RegularFile, parts: Parts) -> Callable[[str], str]:
    """Names that nothing in a model has, made of some that may be there."""
    inputs, nodes = graph_inputs_and_nodes(file)
    taken = {*inputs, *parts.tensors, *(name for node in nodes for name in (*node.inputs, *node.outputs))}

    def unused(name: str) -> str:
        numbered = (f"{name}_{number}" for number in count(1))
        found = next(each for each in chain([name], numbered) if each not in taken)
        taken.add(found)
        return found

    return unused


FORM = Form(write_onnx, renamed, check, takes=takes, usual=usual, fits=fits)
