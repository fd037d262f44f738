"""compressed-tensors: a checkpoint directory that transformers, vLLM and others load.

For a module M of [out, in] weights, ``x̂ = (code − zero point) · scale``:

    pack-quantized        M.weight_packed: codes plus 2^(bits − 1), packed by row into int32; M.weight_shape: int64
                          [out, in]; M.weight_zero_point: packed along the first axis
    int-quantized         M.weight: int8; M.weight_zero_point: int8
    float-quantized       M.weight: float8_e4m3fn
    mxfp4-pack-quantized  M.weight_packed: uint8, two codes in each; M.weight_scale: uint8, exponents
    nvfp4-pack-quantized  the same; M.weight_scale: float8_e4m3fn, divided by M.weight_global_scale: float32 [1]

M.weight_scale is of the model's dtype where nothing else is said: [1], [out, 1], or as many as there are groups or
blocks along each axis. Where inputs are quantized, M.input_scale is [1], and M.input_zero_point int8. All other tensors
are as they were.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS, PATTERNS, nearest_places
from klcal.quantizers.granularity import Grid
from klcal.quantizers.packing import MOST_BITS, WORD_BYTES, exponents, packed, words
from klcal.quantizers.scheme import Scheme
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.tables.rows import Row
from klcal.writers.codes import Codes
from klcal.writers.forms.compressed_config import (
    FLOAT,
    INTEGERS,
    MXFP4,
    NVFP4,
    PACKED,
    Inputs,
    Storage,
    quantization_config,
    storage_of,
)
from klcal.writers.forms.compressed_model import CONFIG, KEY, WEIGHT, config_in, scale_dtype, takes, usual
from klcal.writers.forms.form import Assigned, Form, Model, TensorFile
from klcal.writers.forms.plain import as_safetensors, kept, metadata_of_file, of_array
from klcal.writers.safetensors_file import Stored, write

__all__ = ["FORM"]

AFFINE = (
    "transformers loads packed zero points only with quantization_config=CompressedTensorsConfig(dequantize=True); "
    "--scheme symmetric-full needs none"
)
MIXED = "packed zero points beside weights that are stored otherwise: transformers loads no such model"
IN_BFLOAT16 = "transformers computes float4 weights in bfloat16 alone: load the model with dtype=torch.bfloat16"


# --- checks before anything is written


def check(model: Model) -> list[str]:
    """Checks that all tensors can be stored, and returns warnings.

    Raises:
        UsageError: a tensor cannot be stored so that a reader restores the values of the table; the message names it.
    """
    config = config_in(model.directory)
    quantized = [(file, each, each.codes) for file in model.files for each in file.tensors if each.codes is not None]
    for file, each, codes in quantized:
        if Path(file.name).parent != Path():
            what = f"'{file.name}' lies below the {CONFIG}, which does not say what it is"
            raise UsageError(what, "give the index of the model's own files, or a directory without the others")
        try:
            list(_tensors_of(each, codes, codes.tensor.name, config))  # no codes are made: its scales are
        except UsageError as error:
            where = f"{file.source}: {quoted(codes.tensor.name)}: {error.what}"
            raise UsageError(where, error.hint) from None
    storages, dtypes = {*_modules(model)[0].values()}, {scale_dtype(config, codes.tensor) for *_, codes in quantized}
    warnings = []
    if any(each.format == PACKED and not each.symmetric for each in storages):
        if len(storages) > 1:
            raise UsageError(MIXED, "use --scheme symmetric-full, or the same options for all tensors")
        warnings.append(AFFINE)
    if dtypes != {"bfloat16"} and any(each.format in (MXFP4, NVFP4) for each in storages):
        warnings.append(IN_BFLOAT16)
    return warnings


def fits(tensor: Description, scheme: Scheme, grid: Grid | None) -> Storage:
    """How a tensor will be stored.

    Raises:
        UsageError: it cannot be stored so.
    """
    return storage_of(scheme, grid, tensor.shape)


def _modules(model: Model) -> tuple[dict[str, Any], list[str]]:
    """How each quantized module is stored, and the names of those that may be Linear and are not quantized."""
    quantized, others = {}, []
    for file in model.files:
        for each in file.tensors:
            for name in (name.removesuffix(WEIGHT) for name in each.names if name.endswith(WEIGHT)):
                if each.codes is not None:
                    quantized[name] = _storage(each, each.codes)
                elif len(each.tensor.shape) == 2:
                    others.append(name)
    return quantized, others


def beside(model: Model) -> dict[str, bytes]:
    """The config.json, which says how the model is quantized."""
    config = {**config_in(model.directory), KEY: quantization_config(*_modules(model))}
    return {CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"}


# --- tensors


def write_compressed(file: TensorFile, out: BinaryIO) -> dict[str, int]:
    """A file of the checkpoint."""
    config = config_in(posixpath.dirname(file.path))
    return write(_all_tensors(file, config), out, {"format": "pt", **metadata_of_file(file.path)})


def renamed(name: str) -> str:
    """The name of a file, as consumers look for it.

    >>> renamed("pytorch_model-00001-of-00002.bin")
    'model-00001-of-00002.safetensors'
    """
    return as_safetensors(name.removeprefix("pytorch_"))


def _all_tensors(file: TensorFile, config: Mapping[str, Any]) -> Iterator[Stored]:
    """Tied weights once for each of their names, as the format has no ties."""
    for each in file.tensors:
        for name in each.names:
            yield from [kept(each.tensor, name)] if each.codes is None else _tensors_of(each, each.codes, name, config)


def _storage(each: Assigned, codes: Codes) -> Storage:
    inputs = None if each.input is None else Inputs.of(each.input)
    return storage_of(codes.scheme, codes.row.units, each.tensor.shape, inputs)


def _tensors_of(each: Assigned, codes: Codes, name: str, config: Mapping[str, Any]) -> Iterator[Stored]:
    """The tensors that a weight becomes.

    Raises:
        UsageError: it cannot be stored in this form, or its scales would be rounded.
    """
    as_ = _storage(each, codes)
    if each.input is not None:
        yield from _input(each.input, name.removesuffix(WEIGHT), scale_dtype(config, each.tensor))
    if as_.format == NVFP4:
        codes, relative, divisor = _relative(codes)
        yield of_array(f"{name}_scale", relative, "F8_E4M3")
        yield of_array(f"{name}_global_scale", divisor)
    elif as_.format == MXFP4:
        yield of_array(f"{name}_scale", exponents(codes.scales))
    else:
        scales = codes.scales if codes.row.units is not None else codes.scales.reshape(1)
        yield _scale(f"{name}_scale", scales, scale_dtype(config, codes.tensor))
    yield from _plain(codes, as_, name) if as_.format in (INTEGERS, FLOAT) else _packed(codes, as_, name)


def _plain(codes: Codes, as_: Storage, name: str) -> Iterator[Stored]:
    """Codes of 8 bits, one each."""
    shift = _lowest(codes, as_) + (1 << MOST_BITS - 1)  # turns unsigned codes into signed ones
    if not as_.symmetric:
        yield of_array(f"{name}_zero_point", (_points(codes) - shift).astype(np.int8))
    kind, dtype = ("F8_E4M3", np.uint8) if as_.format == FLOAT else ("I8", np.int8)
    shape = codes.tensor.shape
    yield Stored(name, kind, shape, prod(shape), partial(_signed_pieces, codes, shift if kind == "I8" else 0, dtype))


def _signed_pieces(codes: Codes, shift: int, dtype: type[np.int8 | np.uint8]) -> Iterator[Any]:
    return ((piece - shift).astype(dtype, copy=False).data for piece in codes.pieces())


def _packed(codes: Codes, as_: Storage, name: str) -> Iterator[Stored]:
    """Codes of up to 8 bits, by row."""
    rows, columns = codes.tensor.shape
    size, lowest = words(columns, as_.num_bits), _lowest(codes, as_)
    kind, shape = ("I32", (rows, size)) if as_.format == PACKED else ("U8", (rows, columns // 2))
    if as_.format == PACKED:
        yield of_array(f"{name}_shape", np.array([rows, columns], np.int64))
    if not as_.symmetric:
        by_column = packed((_points(codes) - lowest).T, as_.num_bits)
        yield of_array(f"{name}_zero_point", np.ascontiguousarray(by_column).view("<i4").T)
    pieces = partial(_packed_pieces, codes, as_.num_bits, lowest)
    yield Stored(f"{name}_packed", kind, shape, rows * size * WORD_BYTES, pieces)


def _packed_pieces(codes: Codes, bits: int, lowest: int) -> Iterator[Any]:
    """The bytes of the whole rows in some codes."""
    for rows in codes.in_rows(codes.tensor.shape[1]):
        yield np.ascontiguousarray(packed(rows - lowest, bits)).data


def _lowest(codes: Codes, as_: Storage) -> int:
    """The code whose bits are all 0 when it is packed."""
    is_signed = as_.type == "int" and not codes.scheme.dtype.startswith("u")
    return -(1 << as_.num_bits - 1) if is_signed else 0


def _points(codes: Codes) -> npt.NDArray[np.int64]:
    """Zero points, [out, groups]; or [1]."""
    points = codes.zero_points
    assert points is not None
    return points.reshape(1) if codes.row.units is None else points


def _input(row: Row, module: str, dtype: str) -> Iterator[Stored]:
    """The tensors of the quantizer of a module's inputs."""
    yield _scale(f"{module}.input_scale", np.array([row.scale], np.float32), dtype)
    if row.scheme == "affine":
        shift = 1 << MOST_BITS - 1 if row.target == "uint8" else 0
        yield of_array(f"{module}.input_zero_point", np.array([(row.zero_point or 0) - shift], np.int8))


def _scale(name: str, scales: npt.NDArray[np.float32], dtype: str) -> Stored:
    """Scales in a dtype that holds all of them.

    Raises:
        UsageError: it does not.
    """
    if dtype == "float32":
        return of_array(name, scales)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            narrow: npt.NDArray[Any] = scales.astype(np.float16)
        is_exact = (narrow == scales).all()
    else:
        bits = scales.view(np.uint32)
        narrow, is_exact = (bits >> 16).astype(np.uint16), not (bits & 0xFFFF).any()
    if not is_exact:
        what = f"its scales are no {dtype}, which the model is loaded as: they would be rounded"
        raise UsageError(what, f"calibrate with --scale-format {dtype}")
    return of_array(name, narrow, "BF16" if dtype == "bfloat16" else "F16")


def _relative(codes: Codes) -> tuple[Codes, npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Codes by the scales that will be used, which are quotients; the patterns of float8 scales, and their divisor."""
    row = codes.filled
    assert row.units is not None
    assert codes.row.units is not None
    global_scale = row.global_scale or 1.0
    divisor = np.float32(1 / global_scale)
    relative = np.where(np.isnan(codes.row.units.scale), 1.0, row.units.scale / global_scale)
    places = nearest_places(relative, "float8_e4m3fn")
    running = FLOATS["float8_e4m3fn"][places].astype(np.float32) / divisor
    units = replace(row.units, scale=running.astype(np.float64))
    patterns = PATTERNS["float8_e4m3fn"][places].reshape(row.units.shape)
    return Codes.of(codes.tensor, replace(row, units=units), codes.told), patterns, divisor.reshape(1)


FORM = Form(write_compressed, renamed, check, beside, takes, usual, fits, inputs=True)
