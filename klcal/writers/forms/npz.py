"""The arrays of the form `plain`, in a .npz file.

NumPy has no bfloat16 and no float8. Tensors of these types that are kept become float32, which holds their values;
codes of float8 are uint8 indices into NAME_levels, as those of float4 are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import PurePosixPath
from typing import BinaryIO

from klcal.errors import InputError
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.sketches.counting import FLOAT_DTYPES, values_of
from klcal.writers.codes import in_c_order
from klcal.writers.forms.form import Form, TensorFile
from klcal.writers.forms.plain import kept, little_endian, plain
from klcal.writers.npz_file import NUMPY, write
from klcal.writers.safetensors_file import Stored

__all__ = ["FORM"]


def _kept(tensor: Description, name: str) -> Stored:
    """A tensor as NumPy has it."""
    found = kept(tensor, name)
    if found.dtype in NUMPY:
        return found
    if tensor.dtype not in FLOAT_DTYPES:
        raise InputError(f"{quoted(tensor.name)}: NumPy has no {tensor.dtype}", "use --to safetensors")

    def pieces() -> Iterator[object]:
        return little_endian(values_of(chunk, tensor.dtype) for chunk in in_c_order(tensor))

    return Stored(name, "F32", tensor.shape, 4 * prod(tensor.shape), pieces)


def _write(file: TensorFile, out: BinaryIO) -> dict[str, int]:
    return write(
        (
            stored
            for each in file.tensors
            for name in each.names
            for stored in ([_kept(each.tensor, name)] if each.codes is None else plain(each.codes, name, numpy=True))
        ),
        out,
    )


def _renamed(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".npz"))


FORM = Form(_write, _renamed)
