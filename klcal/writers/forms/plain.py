"""Plain integers, scales and zero points, in arrays that any program can read.

For a tensor NAME of the table, quantized as ``x̂ = (NAME − NAME_zero_point) · NAME_scale``:

    NAME              its codes, in its shape: int8 or int16 (uint8 or uint16 for unsigned formats), one a value however
                      few bits it has; a float8 format as itself; float4 and nf4 as uint8, places in NAME_levels
    NAME_scale        float32: of shape () for one scale; for channels 1 along every other axis; for groups and blocks
                      as many as there are along each axis, the last of an axis for what is left of it
    NAME_unit_shape   int64: how many values of a channel, group or block lie along each axis; left out with one scale
    NAME_zero_point   of the codes' dtype and the scale's shape; left out where it is 0 everywhere by its scheme
    NAME_levels       float32, of float4 and nf4: the value of each code; -0, which no code is, counts as 0

All other tensors are as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.quantizers.code_points import FLOATS, PATTERNS
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.readers.regular import FileSpan, open_regular
from klcal.readers.safetensors_file import BYTES, KINDS, metadata_of
from klcal.writers.codes import Codes, in_c_order
from klcal.writers.forms.form import Assigned, Form, TensorFile
from klcal.writers.safetensors_file import Stored, write

__all__ = ["FORM", "as_safetensors", "kept", "metadata_of_file", "of_array", "plain"]

CONVERT = "save the model as .safetensors"
KIND_OF = {kind.name: code for code, kind in KINDS.items()}
NUMPY_KINDS = {"f4": "F32", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "i8": "I64", "f2": "F16"}
"""Of little-endian arrays, without the byte order."""


def of_array(name: str, values: npt.NDArray[Any], dtype: str = "") -> Stored:
    """An array that is held, as .safetensors calls its dtype or as NumPy's says."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return Stored(name, dtype or NUMPY_KINDS[values.dtype.str[1:]], values.shape, values.nbytes, lambda: [little.data])


def kept(tensor: Description, name: str) -> Stored:
    """A tensor as it is, under one of its names."""
    kind = KIND_OF.get(tensor.dtype, tensor.dtype)
    count = prod(tensor.shape)
    bits = KINDS[kind].bits * count if kind in KINDS else _bits_of_bytes(tensor)
    whole = replace(tensor, parts=tensor.raw or tensor.parts)
    if count and (not whole.parts or not bits):
        what = f"{quoted(tensor.name)}: {tensor.dtype} values cannot be copied"
        raise InputError(f"{what}: {tensor.reason}" if tensor.reason else what, CONVERT)
    return Stored(name, kind, tensor.shape, bits // 8, lambda: little_endian(in_c_order(whole)))


def _bits_of_bytes(tensor: Description) -> int:
    """The number of bits of all values, for a dtype that only .safetensors has; 0 for any other dtype."""
    spans = [part for part in tensor.raw if isinstance(part, FileSpan) and part.storage == BYTES]
    return 8 * sum(span.nbytes for span in spans) if len(spans) == len(tensor.raw) else 0


def little_endian(chunks: Iterable[npt.NDArray[Any]]) -> Iterator[Any]:
    """The bytes of some arrays."""
    return (np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).data for chunk in chunks)


def plain(codes: Codes, name: str, *, numpy: bool = False) -> Iterator[Stored]:
    """The arrays of a tensor, under one of its names. With ``numpy``, formats that NumPy lacks become indices."""
    storage = _storage(codes)
    target = codes.scheme.dtype
    kind = KIND_OF[target] if target.startswith("float8") and not numpy else NUMPY_KINDS[storage.str[1:]]

    def pieces() -> Iterator[Any]:
        return little_endian(piece.astype(storage, copy=False) for piece in codes.pieces())

    yield Stored(name, kind, codes.tensor.shape, prod(codes.tensor.shape) * storage.itemsize, pieces)
    yield of_array(f"{name}_scale", codes.scales)
    if codes.unit is not None:
        yield of_array(f"{name}_unit_shape", np.array(codes.unit))
    points = codes.zero_points
    if points is not None and (codes.scheme.kind == "affine" or storage.kind == "u"):
        yield of_array(f"{name}_zero_point", points.astype(storage))
    if target in FLOATS and kind == "U8":
        levels = np.zeros(1 << (8 if target.startswith("float8") else 4), np.float32)
        levels[PATTERNS[target]] = FLOATS[target]
        yield of_array(f"{name}_levels", levels)


def _storage(codes: Codes) -> np.dtype[Any]:
    """The narrowest integers, of whole bytes, that hold all codes."""
    if codes.scheme.is_float:
        return np.dtype("u1")
    integers = codes.scheme.integers
    sign = "u" if codes.scheme.dtype.startswith("u") else "i"
    wide = len(integers) > 1 << 8
    return np.dtype(f"<{sign}2" if wide else f"{sign}1")


def write_plain(file: TensorFile, out: BinaryIO) -> dict[str, int]:
    """A .safetensors file of them."""
    return write(_tensors(file.tensors), out, metadata_of_file(file.path))


def metadata_of_file(path: str) -> dict[str, str]:
    """The metadata in the header of a .safetensors file; nothing for any other file."""
    return metadata_of(open_regular(path)) if path.lower().endswith(".safetensors") else {}


def _tensors(assigned: Iterable[Assigned]) -> Iterator[Stored]:
    """Tied weights once for each of their names, as the format has no ties."""
    for each in assigned:
        for name in each.names:
            yield from [kept(each.tensor, name)] if each.codes is None else plain(each.codes, name)


def as_safetensors(name: str) -> str:
    """The name of a file, ending in .safetensors.

    >>> as_safetensors("pytorch_model-00001-of-00002.bin")
    'pytorch_model-00001-of-00002.safetensors'
    """
    return str(PurePosixPath(name).with_suffix(".safetensors"))


FORM = Form(write_plain, as_safetensors)
