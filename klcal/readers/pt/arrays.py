"""NumPy arrays among the objects of a pickle, in the plain form that ``ndarray.__reduce__`` gives them.

They are known by their parts, a name, a shape, a dtype and bytes: nothing is called. What is in any other form, or of a
dtype that is no number, stays foreign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from klcal.errors import InputError
from klcal.readers.description import CHUNK_BYTES, Chunk, Description
from klcal.readers.npy_file import NAMED, Header, described, header_of
from klcal.readers.pt.calls import OPTIMIZER_STATE
from klcal.readers.pt.values import Bytes, Foreign
from klcal.readers.pt.views import Views

__all__ = ["Array", "array_of", "describe_array"]

MAKERS = ("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct")
ORDERS = {"<": "<", ">": ">", "|": "|", "=": "<"}  # as the state of a dtype has them
KINDS = "biufc"  # of numbers
DAMAGED = "download or save the file again"


@dataclass(frozen=True, eq=False)
class Array:
    """A NumPy array that lies in the pickle itself, as that claims it."""

    descr: str  # its dtype of numbers, such as "<f4" or "bfloat16"
    shape: tuple[Any, ...]
    fortran_order: bool
    data: Bytes
    state: tuple[Any, ...]  # the state that has the shape, the dtype and the bytes

    def header(self) -> Header:
        """The header of the array, checked.

        Raises:
            InputError: its shape and its bytes do not belong together.
        """
        fields = {"descr": self.descr, "fortran_order": self.fortran_order, "shape": self.shape}
        header, held = header_of(fields), len(self.data.text)
        if header.nbytes != held:
            raise InputError(f"the array needs {header.nbytes:,} bytes and has {held:,}", DAMAGED)
        return header


@dataclass(frozen=True)
class HeldSpan:
    """A ``Part``: values that stand in a pickle, as a text that has a character for each byte."""

    text: str
    storage: str  # NumPy dtype of a value as it lies there
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return len(self.text)

    def chunks(self) -> Iterator[Chunk]:
        """The values, as in every part."""
        dtype = np.dtype(self.storage)
        for start in range(0, len(self.text), CHUNK_BYTES):
            try:
                data = self.text[start : start + CHUNK_BYTES].encode("latin-1")
            except UnicodeEncodeError:
                raise InputError("its data are not bytes", DAMAGED) from None
            yield np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


def describe_array(name: str, array: Array, views: Views, *, training: bool) -> Description:
    """An array as one of the tensors of its file."""
    text = array.data.text
    try:
        header = array.header()
    except InputError as error:
        return Description(name, "", (), status="failed", reason=str(error))
    found = described(name, header, (HeldSpan(text, header.storage),) if header.nbytes else ())
    if training:
        return replace(found, parts=(), raw=(), status="skipped", reason=OPTIMIZER_STATE)
    try:
        views.add(found.parts, f"text {id(text)}", len(text), len(text))
    except InputError as error:
        return replace(found, parts=(), raw=(), status="unsupported", reason=str(error))
    return found


def array_of(value: Foreign) -> Array | None:
    """The array that an object is, None where it is another object or none of numbers."""
    if value.name not in MAKERS or len(value.contents) != 2:
        return None
    args, state = value.contents
    if type(args) is not tuple or not args or type(args[0]) is not Foreign or args[0].name != "numpy.ndarray":
        return None
    if type(state) is not tuple or len(state) != 5:
        return None
    _, shape, dtype, is_fortran, data = state
    descr = _descr(dtype)
    if descr is None or type(data) is not Bytes or type(is_fortran) is not bool or type(shape) is not tuple:
        return None
    return Array(descr, shape, is_fortran, data, state)


def _descr(value: Any) -> str | None:
    """The name of a dtype of numbers, with its byte order: "<f4"; None for any other."""
    if type(value) is not Foreign or value.name != "numpy.dtype" or len(value.contents) != 2:
        return None
    args, state = value.contents
    if type(args) is not tuple or not args or type(state) is not tuple or len(state) < 2:
        return None
    name, order = args[0], ORDERS.get(state[1]) if type(state[1]) is str else None
    if type(name) is Foreign:  # a class: those of ml_dtypes are known by their names
        module, _, name = name.name.rpartition(".")
        return name if module == "ml_dtypes" and name in NAMED and order == "<" else None
    if type(name) is not str or order is None or name[:1] not in KINDS or not name[1:].isdigit():
        return None
    return order + name
