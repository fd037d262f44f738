"""A .safetensors file: eight bytes of length, a JSON header, the values without a gap between them.

The header is parsed here, by a pure function, because the library keeps a map of the file (a file that
shrinks then kills the process) and knows no bfloat16 without a framework. What it refuses is refused, with
one exception: a tensor of an unknown dtype is "unsupported" and the others stay. And two things that it accepts
are refused: a duplicate key, of which it takes the last, and a header of more than 32 MB or two million values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from klcal.errors import InputError
from klcal.readers import strict_json
from klcal.readers.description import Description, Part
from klcal.readers.pairs import BITS, paired
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, spans
from klcal.tables.schema import SKETCH, TABLE
from klcal.tables.status import Status

__all__ = [
    "BYTES",
    "KINDS",
    "LENGTH_BYTES",
    "Entry",
    "checked_entries",
    "describe",
    "header_length",
    "metadata_of",
    "parse",
]

LENGTH_BYTES = 8  # of the header's length, little endian
MAX_HEADER_BYTES = strict_json.MAX_BYTES  # the safetensors library allows 100 MB, which no file needs
MAX_BITS = (1 << 64) - 1  # of a tensor: the library counts them in 64 bits
DAMAGED = "download or save it again"
INCOMPLETE = "the download may be incomplete: download or save it again"


@dataclass(frozen=True)
class Kind:
    """A dtype of the format."""

    name: str
    bits: int  # of one value
    storage: str = ""  # NumPy dtype of a value, or of two of 4 bits, as it lies there; empty where nothing reads it


KINDS = {
    "F64": Kind("float64", 64, "<f8"),
    "F32": Kind("float32", 32, "<f4"),
    "F16": Kind("float16", 16, "<f2"),
    "BF16": Kind("bfloat16", 16, "<u2"),
    "F8_E4M3": Kind("float8_e4m3fn", 8, "|u1"),
    "F8_E5M2": Kind("float8_e5m2", 8, "|u1"),
    "F8_E4M3FNUZ": Kind("float8_e4m3fnuz", 8, "|u1"),
    "F8_E5M2FNUZ": Kind("float8_e5m2fnuz", 8, "|u1"),
    "F8_E8M0": Kind("float8_e8m0fnu", 8, "|u1"),
    "F6_E2M3": Kind("float6_e2m3fn", 6),
    "F6_E3M2": Kind("float6_e3m2fn", 6),
    "F4": Kind("float4_e2m1fn", 4, "|u1"),
    "C64": Kind("complex64", 64),
    "BOOL": Kind("bool", 8),
    "U8": Kind("uint8", 8),
    "I8": Kind("int8", 8, "|i1"),
    "U16": Kind("uint16", 16),
    "I16": Kind("int16", 16),
    "U32": Kind("uint32", 32),
    "I32": Kind("int32", 32),
    "U64": Kind("uint64", 64),
    "I64": Kind("int64", 64),
}
BYTES = "|u1"  # the storage of values that NumPy has no type for
WHOLES = {f"{sign.upper()}{8 * size}": f"<{sign}{size}" for sign in "ui" for size in (1, 2, 4, 8)}
"""NumPy's dtype of each kind of integers."""
WHOLE = ("bool", "int", "uint")  # the beginnings of the names of dtypes without fractions
FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Entry:
    """One tensor in the header."""

    name: str
    dtype: str  # as in the file: F32, BF16, …
    shape: tuple[int, ...]
    begin: int  # bytes from the end of the header
    end: int


def describe(file: RegularFile, name: str = "") -> list[Description]:  # noqa: ARG001
    """The tensors of a .safetensors file, in the order of their data.

    Args:
        file: The file.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If the header is damaged or does not fit the file.
    """
    entries, metadata, start = header_of(file)
    if metadata.get("schema") == TABLE:
        raise InputError("it is a table of klcal calibrate, not a model", "give it to klcal compare as --table")
    if metadata.get("schema") == SKETCH:
        from klcal.readers.sketch_file import descriptions

        return descriptions(file, start, entries, metadata)
    return [_description(entry, file, start) for entry in entries]


def metadata_of(file: RegularFile) -> dict[str, str]:
    """The metadata of a .safetensors file.

    Raises:
        InputError: If the header is damaged or does not fit the file.
    """
    return header_of(file)[1]


def header_of(file: RegularFile) -> tuple[tuple[Entry, ...], dict[str, str], int]:
    """The tensors, the metadata, and where the data begin.

    Raises:
        InputError: If it is damaged or does not fit the file.
    """
    length = header_length(file.read(0, min(file.size, LENGTH_BYTES)), file.size)
    start = LENGTH_BYTES + length
    return *checked_entries(strict_json.parse(file.read(LENGTH_BYTES, length)), file.size - start), start


def header_length(head: bytes, size: int, most: int = MAX_HEADER_BYTES) -> int:
    """Bytes of the header of a file that begins with ``head`` and has ``size`` bytes, ``most`` of them allowed.

    Raises:
        InputError: If it is longer than allowed or than the file.
    """
    if len(head) < LENGTH_BYTES:
        raise InputError(f"a .safetensors file needs {LENGTH_BYTES} bytes at least, this one has {size}", INCOMPLETE)
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if length > most:
        what = f"it is not a .safetensors file, or damaged: its header would have {length:,} bytes"
        raise InputError(what, DAMAGED)
    if LENGTH_BYTES + length > size:
        raise InputError(f"its header needs {LENGTH_BYTES + length:,} bytes, the file has {size:,}", INCOMPLETE)
    return length


def parse(header: bytes, data_bytes: int) -> tuple[Entry, ...]:
    """The tensors that a header describes, in the order of their data.

    Args:
        header: The JSON.
        data_bytes: Bytes that follow it in the file.

    Raises:
        InputError: If the header is not strict JSON, or its tensors do not cover the data exactly, each
            byte once: bytes that are left over or shared could show another file to another reader.
    """
    return checked_entries(strict_json.parse(header), data_bytes)[0]


def checked_entries(found: dict[str, Any], data_bytes: int) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """``parse`` of a header's JSON, which is consumed, and the metadata in it."""
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError("its __metadata__ are not a map of text to text", DAMAGED)
    entries = sorted((_entry(name, fields) for name, fields in found.items()), key=lambda e: (e.begin, e.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            relation = "overlap those of another one" if entry.begin < position else "leave a gap before them"
            raise InputError(f"the data of {quoted(entry.name)} {relation}", DAMAGED)
        position = entry.end
    if position > data_bytes:
        raise InputError(f"its tensors need {position:,} bytes of data, the file has {data_bytes:,}", INCOMPLETE)
    if position < data_bytes:
        raise InputError(f"{data_bytes - position:,} bytes at its end belong to no tensor", DAMAGED)
    return tuple(entries), metadata


def _entry(name: str, fields: Any) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != FIELDS or not isinstance(fields["dtype"], str):
        raise InputError(f"{quoted(name)} is not described by dtype, shape and data_offsets", DAMAGED)
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_naturals(shape) or not _are_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"the shape or the data_offsets of {quoted(name)} are not possible", DAMAGED)
    entry = Entry(name, fields["dtype"], tuple(shape), *offsets)
    kind = KINDS.get(entry.dtype)
    if kind and _bits(entry, kind) != 8 * (entry.end - entry.begin):
        what = f"{quoted(name)} has {entry.end - entry.begin:,} bytes, which do not fit its shape"
        raise InputError(what, DAMAGED)
    return entry


def _are_naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int for number in numbers)  # a bool is not an int here


def _bits(entry: Entry, kind: Kind) -> int:
    """Bits of the values, refused where the library's 64 would overflow on the way, even if a 0 follows."""
    values = 1
    for extent in (*entry.shape, kind.bits):
        values *= extent
        if values > MAX_BITS:
            raise InputError(f"the shape of {quoted(entry.name)} is larger than any memory", DAMAGED)
    return values


def _description(entry: Entry, file: RegularFile, start: int) -> Description:
    kind = KINDS.get(entry.dtype)
    dtype = kind.name if kind else entry.dtype
    status: Status = "ok"
    reason: str | None = None
    parts: tuple[Part, ...] = ()
    if kind and kind.storage:
        parts = spans(file, start + entry.begin, entry.end - entry.begin, kind.storage)
        parts = paired(parts, math.prod(entry.shape)) if kind.bits == BITS else parts
    if dtype.startswith(WHOLE):
        status, reason = "skipped", f"{dtype} values are not calibrated"
    elif not (kind and kind.storage):
        status, reason = "unsupported", f"{quoted(dtype)[1:-1]} values cannot be calibrated; save it as float32"
    raw = spans(file, start + entry.begin, entry.end - entry.begin, WHOLES.get(entry.dtype, BYTES))
    return Description(entry.name, dtype, entry.shape, parts, status, reason, raw=raw)
