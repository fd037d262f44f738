"""A .npy file: magic, version, length of the header, a Python literal, the values.

The header is parsed here because its length has to be believed before NumPy would look at its limit. It
is a literal and never evaluated; nothing is unpickled. What is accepted NumPy loads with the same values, ml_dtypes'
float8_e5m2 aside: that is written as "<f1", which NumPy itself does not read.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from klcal.errors import InputError
from klcal.readers.description import Description, Part
from klcal.readers.quoting import quoted
from klcal.readers.regular import HEAD_BYTES as FIRST_BYTES
from klcal.readers.regular import RegularFile, spans
from klcal.tables.status import Status

__all__ = ["HEAD_BYTES", "NAMED", "Header", "describe", "describe_batches", "described", "header_of", "parse"]

MAGIC = b"\x93NUMPY"
MAX_LITERAL_BYTES = 10_000  # NumPy's own limit: literal_eval is not safe on longer text
LENGTH_BYTES = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # by version: width of the header's length
HEAD_BYTES = len(MAGIC) + 2 + 4 + MAX_LITERAL_BYTES
"""Bytes at the start of a file that hold every header."""
MAX_RANK = 64  # dimensions, as in NumPy 2
MAX_BYTES = (1 << 63) - 1  # of an array, as in NumPy
FIELDS = {"descr", "fortran_order", "shape"}

DAMAGED = "save the array again with numpy.save"
INCOMPLETE = "the download may be incomplete: download or save it again"
BEHIND = (
    "save each array in a file of its own, or all with numpy.savez, or take them for batches of one tensor: --pool name"
)
PYTHON_2_LONG = re.compile(r"""('[^'\\]*'|"[^"\\]*")|(?<=[0-9])L\b""")
"""The L behind an integer of Python 2, and texts, in which an L means nothing."""
FLOATS = ("float64", "float32", "float16")
NAMED = {
    "bfloat16": "<u2",
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), "|u1"),
}
"""The dtypes of ml_dtypes that can be calibrated, and NumPy's of their bits."""
WRITTEN_AS = {"<f1": "float8_e5m2", "|f1": "float8_e5m2"}
"""The one dtype of ml_dtypes whose name is more than a size; "<V1" and "<V2" may be any of them."""
UNSUPPORTED = {
    "c": "complex numbers have no order to quantize in; save real and imaginary part",
    "O": "an object array would need unpickling, which can run code; save it with a float dtype",
    "S": "text has no scale; save numbers in a float dtype",
    "U": "text has no scale; save numbers in a float dtype",
    "M": "dates have no scale; save them as numbers in a float dtype",
    "m": "time spans have no scale; save them as numbers in a float dtype",
    "f": "long double differs between machines; save it as float64",
    "V": "raw bytes without a type, as ml_dtypes' bfloat16 and float8 become in a .npy; save it as .safetensors",
}
"""Reasons by NumPy's dtype.kind, where the tensor cannot be calibrated."""
STRUCTURED = "a structured array; save its fields one by one"


@dataclass(frozen=True)
class Header:
    """The header of a .npy, checked against the bytes that follow it."""

    dtype: str  # canonical: float32, int64, complex64, …
    storage: str  # NumPy's dtype of a value as it lies there, such as ">f4"
    shape: tuple[int, ...]
    offset: int  # bytes before the first value
    nbytes: int  # of values; 0 where they are pickles
    status: Status
    reason: str | None
    order: tuple[int, ...] = ()  # of the axes, the slowest first; empty for C's
    holds_objects: bool = False  # as pickles, whose size is not known

    @property
    def length(self) -> int:
        """Bytes of values that are read."""
        return self.nbytes if self.status == "ok" else 0


def describe(file: RegularFile, name: str) -> list[Description]:
    """The one tensor of a .npy file.

    Args:
        file: The file.
        name: The tensor's name; the format has none.

    Raises:
        InputError: If it is not a .npy file, is damaged, or is shorter than its header says.
    """
    header = parse(_head(file), file.size)
    parts = spans(file, header.offset, header.nbytes, header.storage)
    return [described(name, header, parts)]


def _head(file: RegularFile) -> bytes:
    """The bytes at the start that hold the header: mostly those that were read when the file was opened."""
    head = file.beginning(FIRST_BYTES)
    width = LENGTH_BYTES.get(head[6:8], 0)
    end = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    return head if end <= len(head) else file.beginning(HEAD_BYTES)


def describe_batches(file: RegularFile, name: str) -> list[Description]:
    """The arrays of a file that ``numpy.save`` has written several times, or of several files behind each other.

    Args:
        file: The file.
        name: Of all of them.

    Raises:
        InputError: If it does not start with a .npy file, or something else follows one.
    """
    found: list[Description] = []
    start = 0
    while start < file.size or not found:
        head = file.read(start, min(file.size - start, HEAD_BYTES))
        try:
            header = _leading(head, file.size - start)
        except InputError as error:
            if not found:
                raise
            raise InputError(f"array {len(found) + 1}, at byte {start:,}: {error.what}", error.hint) from None
        parts = spans(file, start + header.offset, header.length, header.storage) if header.length else ()
        found.append(described(name, header, parts))
        start = file.size if header.holds_objects else start + header.offset + header.nbytes
    return found


def described(name: str, header: Header, parts: tuple[Part, ...]) -> Description:
    """The tensor of a header whose values are in some parts."""
    held, order = parts if header.length else (), header.order
    return Description(name, header.dtype, header.shape, held, header.status, header.reason, order=order, raw=parts)


def parse(head: bytes, size: int) -> Header:
    """The header of an array.

    Args:
        head: The first ``HEAD_BYTES`` bytes of the file, or all where it is shorter.
        size: Bytes of the whole file.

    Raises:
        InputError: If NumPy would refuse the file, whatever the reason.
    """
    header = _leading(head, size)
    end = header.offset + header.nbytes
    if end < size and not header.holds_objects:
        raise InputError(f"{size - end:,} more bytes stand behind its array", BEHIND)
    return header


def _leading(head: bytes, size: int) -> Header:
    """The header at the start of some bytes, and the number of bytes that are left in the file."""
    offset, text = _literal(head, size)
    header = _header(text, offset, may_be_python_2=head[6:7] != b"\3")
    if offset + header.nbytes > size:
        raise InputError(f"the array needs {offset + header.nbytes:,} bytes, the file has {size:,}", INCOMPLETE)
    return header


@lru_cache(maxsize=1 << 7)  # thousands of files that were dumped batch by batch have the same header
def _header(text: str, offset: int, *, may_be_python_2: bool) -> Header:
    return header_of(_evaluated(text, may_be_python_2=may_be_python_2), offset)


def header_of(fields: Any, offset: int = 0) -> Header:
    """The array of a header's fields, whose values begin at ``offset``. Their number is not checked here.

    Raises:
        InputError: If NumPy would refuse them.
    """
    if not isinstance(fields, dict) or fields.keys() != FIELDS or not isinstance(fields["fortran_order"], bool):
        raise InputError("the header does not hold descr, fortran_order and shape", DAMAGED)
    shape = _shape(fields["shape"])
    named = _named(fields["descr"])
    dtype = _dtype(NAMED.get(named, fields["descr"]))
    length = _length(shape, dtype)
    status, reason = ("ok", None) if named else _status(dtype)
    name = named or (dtype.name if dtype.names is None and dtype.kind != "V" else "void")
    axes = tuple(axis for axis, n in enumerate(shape) if n > 1)
    order = axes[::-1] if fields["fortran_order"] and len(axes) > 1 else ()
    nbytes = 0 if dtype.hasobject else length
    return Header(name, dtype.str, shape, offset, nbytes, status, reason, order, dtype.hasobject)


def _literal(head: bytes, size: int) -> tuple[int, str]:
    """Where the values begin, and the text that describes them."""
    if not head.startswith(MAGIC):
        raise InputError("it is not a .npy file: its magic bytes are wrong", DAMAGED)
    version = head[6:8]
    width = LENGTH_BYTES.get(version)
    if width is None:
        raise InputError(f"its .npy version is {'.'.join(map(str, version))}; 1.0, 2.0 and 3.0 are known", DAMAGED)
    start = 8 + width
    if len(head) < start:
        raise InputError(f"the file ends inside its header, after {size:,} bytes", INCOMPLETE)
    length = int.from_bytes(head[8:start], "little")
    if start + length > size:
        raise InputError(f"the header needs {start + length:,} bytes, the file has {size:,}", INCOMPLETE)
    if length > MAX_LITERAL_BYTES:
        raise InputError(f"the header claims {length:,} bytes; {MAX_LITERAL_BYTES:,} are allowed", DAMAGED)
    try:
        return start + length, head[start : start + length].decode("utf-8" if version == b"\3\0" else "latin-1")
    except UnicodeDecodeError:
        raise InputError("the header is not UTF-8", DAMAGED) from None


def _evaluated(text: str, *, may_be_python_2: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser's remarks on the text are nobody's business
            try:
                return ast.literal_eval(text)
            except SyntaxError:
                if not may_be_python_2:
                    raise
                return ast.literal_eval(PYTHON_2_LONG.sub(r"\1", text))
    except Exception:  # SyntaxError, ValueError, RecursionError, MemoryError, …: all mean the same
        raise InputError("the header is not a literal", DAMAGED) from None


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > MAX_RANK:
        raise InputError(f"its shape {quoted(repr(shape))} is not possible", DAMAGED)
    return shape


def _named(descr: Any) -> str:
    """The dtype of ml_dtypes that is meant, empty for any other."""
    name = WRITTEN_AS.get(descr, descr) if type(descr) is str else ""
    return name if name in NAMED else ""


def _dtype(descr: Any) -> np.dtype[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.lib.format.descr_to_dtype(descr)
    except Exception:  # TypeError, ValueError, KeyError, RecursionError, …: all mean the same
        hint = "bfloat16 and float8 of ml_dtypes lose their type in a .npy: save them as .safetensors"
        raise InputError(
            f"its dtype {quoted(descr if isinstance(descr, str) else repr(descr))} is not NumPy's", hint
        ) from None


def _length(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of the values, in Python's integers, which do not wrap around."""
    if math.prod(n for n in shape if n) * max(1, dtype.itemsize) > MAX_BYTES:
        raise InputError(f"its shape {quoted(repr(shape))} is larger than any memory", DAMAGED)
    return math.prod(shape) * dtype.itemsize


def _status(dtype: np.dtype[Any]) -> tuple[Status, str | None]:
    if dtype.names is not None or dtype.subdtype is not None:
        return "unsupported", STRUCTURED
    if dtype.kind in "biu":
        return "skipped", f"{dtype.name} values are not calibrated"
    if dtype.name in FLOATS:
        return "ok", None
    return "unsupported", UNSUPPORTED.get(dtype.kind, f"{dtype.name} values cannot be calibrated; save it as float32")
