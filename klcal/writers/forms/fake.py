"""A copy of the input in which the values of quantized tensors are restored from their codes.

The file is copied, and the values of tensors are replaced in place: format, names, dtypes and everything else stay the
same. It works for every format in which values lie in the file uncompressed.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.quantizers.code_points import PATTERNS, nearest_places
from klcal.readers.archive import Member
from klcal.readers.archive_parts import CrcCheck
from klcal.readers.description import Description, Part
from klcal.readers.pt.strided import StridedSpan, extent
from klcal.readers.quoting import quoted
from klcal.readers.regular import FileSpan, open_regular
from klcal.writers.codes import Codes
from klcal.writers.forms.form import Form, TensorFile

__all__ = ["FORM"]

CONVERT = "save the model as .safetensors, or as .npy or .pt with each tensor contiguous and a clone"
BFLOAT16_HALF = np.uint32(0x7FFF)  # added with the last kept bit, it rounds the lower 16 bits half to even


def _write(file: TensorFile, out: BinaryIO) -> None:
    opened = open_regular(file.path)
    quantized = [each.codes for each in file.tensors if each.codes is not None]
    spans = [_spans(codes.tensor, file.path) for codes in quantized]
    _check_apart(file)
    out.writelines(opened.blocks(0, opened.size))
    for codes, places in zip(quantized, spans, strict=True):
        try:
            _replace(codes, places, out)
        except InputError as error:
            raise InputError(f"{quoted(codes.tensor.name)}: {error.what}", error.hint) from None
    checks = [part for codes in quantized for part in codes.tensor.parts if isinstance(part, CrcCheck)]
    if checks:
        _renew({check.member.name: check.member for check in checks}, out)


def _spans(tensor: Description, path: str) -> list[FileSpan]:
    """The ranges of bytes in which the values of a tensor lie.

    Raises:
        InputError: the values are compressed, or not contiguous.
    """
    parts = [part for part in tensor.parts if not isinstance(part, CrcCheck)]
    spans = [span for part in parts if (span := _together(part))]
    if len(spans) < len(parts):
        what = "its values do not lie together, or are compressed or packed, and cannot be replaced"
        raise InputError(f"{quoted(tensor.name)}: {what}", CONVERT)
    if any(span.file.path != path for span in spans):
        raise InputError(f"{quoted(tensor.name)}: its values lie in another file", CONVERT)
    return spans


def _together(part: Part) -> FileSpan | None:
    """The part, or the values that an expanded view repeats; None where they do not lie together."""
    if isinstance(part, StridedSpan) and part.nbytes == extent(part.dims) * np.dtype(part.storage).itemsize:
        return FileSpan(part.file, part.offset, part.nbytes, part.storage)
    return part if isinstance(part, FileSpan) else None


def _check_apart(file: TensorFile) -> None:
    """Refuses values that belong to two tensors if one of them is quantized.

    Raises:
        InputError: two tensors share values; the message names both.
    """
    ranges = [
        (*found, each.tensor.name, each.codes is not None)
        for each in file.tensors
        for part in each.tensor.parts or each.tensor.raw
        if (found := _range(part, file.path))
    ]
    end, name, is_quantized = 0, "", False
    for first, last, other, other_is in sorted(ranges):
        if first < end and other != name and (is_quantized or other_is):
            raise InputError(f"{quoted(other)} shares values with {quoted(name)}, and has other scales", CONVERT)
        if last > end:
            end, name, is_quantized = last, other, other_is


def _range(part: Part, path: str) -> tuple[int, int] | None:
    """The range of bytes of a part, if its values lie in the file uncompressed."""
    if not isinstance(part, FileSpan | StridedSpan) or part.file.path != path:
        return None
    if isinstance(part, FileSpan):
        return part.offset, part.offset + part.length
    return part.offset, part.offset + extent(part.dims) * np.dtype(part.storage).itemsize


def _replace(codes: Codes, spans: Iterable[FileSpan], out: BinaryIO) -> None:
    """Writes the restored values over those that are there."""
    places = iter(spans)
    left = 0
    for piece in codes.restored():
        rest = memoryview(_stored(piece, codes.tensor))
        while rest.nbytes:
            if not left:
                span = next(places)
                out.seek(span.offset)
                left = span.length
            some = rest[:left]
            out.write(some)
            left -= some.nbytes
            rest = rest[some.nbytes :]


def _stored(values: npt.NDArray[np.float32], tensor: Description) -> Any:
    """The bytes of some values in a tensor's own dtype: rounded to the nearest, ties to even.

    Raises:
        InputError: a value is beyond the range of the dtype, or the dtype cannot be written.
    """
    (storage,) = {part.storage for part in tensor.parts if isinstance(part, FileSpan | StridedSpan)}
    order, dtype = np.dtype(storage).byteorder, tensor.dtype
    if dtype in ("float32", "float64", "float16"):
        with np.errstate(over="ignore"):
            found: npt.NDArray[Any] = values.astype(dtype)
        if not np.isfinite(found).all():
            raise InputError(f"a restored value is beyond {dtype}", "bound it with --range")
    elif dtype == "bfloat16":
        bits = values.view(np.uint32)
        found = ((bits + (BFLOAT16_HALF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
    elif dtype in PATTERNS:
        found = PATTERNS[dtype][nearest_places(values, dtype)]
    else:
        raise InputError(f"{dtype} values cannot be written", CONVERT)
    return np.ascontiguousarray(found, found.dtype.newbyteorder(order)).view(np.uint8).data


# --- CRC-32 of a zip's members

LOCAL_FLAGS, LOCAL_CRC = 6, 14  # bytes from the start of a member's own header
ENTRY_CRC, ENTRY_LENGTHS, ENTRY_BYTES = 16, 28, 46  # of its entry in the directory
BEHIND = 8  # a flag: the CRC-32 stands behind the data
DESCRIPTOR = b"PK\x07\x08"


def _renew(changed: Mapping[str, Member], out: BinaryIO) -> None:
    """Writes the CRC-32 of members whose data were replaced, wherever an archive says it."""
    out.flush()
    descriptor = out.fileno()
    places = dict(_entries(descriptor))
    for name, member in changed.items():
        header, entry = places[name]
        crc = struct.pack("<I", _crc(descriptor, member))
        os.pwrite(descriptor, crc, entry + ENTRY_CRC)
        if os.pread(descriptor, 1, header + LOCAL_FLAGS)[0] & BEHIND:
            end = member.offset + member.stored
            is_marked = os.pread(descriptor, len(DESCRIPTOR), end) == DESCRIPTOR
            os.pwrite(descriptor, crc, end + is_marked * len(DESCRIPTOR))
        else:
            os.pwrite(descriptor, crc, header + LOCAL_CRC)


def _crc(descriptor: int, member: Member) -> int:
    crc, position, end = 0, member.offset, member.offset + member.size
    while position < end:
        block = os.pread(descriptor, min(1 << 20, end - position), position)
        crc, position = zlib.crc32(block, crc), position + len(block)
    return crc


def _entries(descriptor: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """For the name of each member, where its own header begins, and its entry in the directory."""
    with os.fdopen(os.dup(descriptor), "rb") as file, zipfile.ZipFile(file) as archive:
        position = archive.start_dir
        for info in archive.infolist():
            yield info.orig_filename, (info.header_offset, position)
            lengths = os.pread(descriptor, 6, position + ENTRY_LENGTHS)
            position += ENTRY_BYTES + sum(struct.unpack("<3H", lengths))


FORM = Form(_write)
