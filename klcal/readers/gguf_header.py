"""The header of a .gguf file, version 2 or 3, little endian: keys, and the names and positions of tensors.

Only two keys matter here. The values of the others are skipped and not kept, since a vocabulary has half a million
texts. The data of a tensor begin where those of the previous one end, up to padding, as llama.cpp demands: so no two
tensors share bytes.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from klcal.errors import InputError
from klcal.readers.byte_stream import ByteStream
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile

__all__ = ["BIG_ENDIAN", "MAGIC", "TYPES", "UINT32", "Entry", "Header", "Key", "Type", "parse"]

MAGIC = b"GGUF"
BIG_ENDIAN = b"FUGG"
VERSIONS = (2, 3)
MAX_TENSORS = 1 << 15  # the largest models have some thousands; half a second of work
MAX_KEYS = 1 << 16
MAX_TEXT_BYTES = (1 << 16) - 1  # of a name or a key, as the format has it for keys; llama.cpp's names end at 63
MAX_TEXTS = 1_500_000  # in arrays: twice the largest vocabulary with its merges; half a second of work
MAX_HEADER_BYTES = 1 << 26  # before the values; the largest vocabularies have 16 million
MAX_RANK = 4  # dimensions, as in llama.cpp
MAX_EXTENT = (1 << 63) - 1  # values of a tensor, as in llama.cpp, and bytes, as in NumPy: extents of 0 left out
LEAST_KEY, LEAST_TENSOR = 13, 24  # bytes: without a name, with one byte of value; without dimensions
WINDOW_BYTES = 1 << 16  # of texts that are passed over

TEXT, ARRAY, UINT32 = 8, 9, 4
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by its type: integers, floats and bool."""
ALIGNMENT, KIND = "general.alignment", "general.type"
DEFAULT_ALIGNMENT = 32

DAMAGED = "download or convert it again"
INCOMPLETE = "the download may be incomplete: download or convert it again"


class Type(NamedTuple):
    """The type of a tensor's values: a type of GGML."""

    name: str
    values: int  # of a block
    nbytes: int  # of a block
    storage: str = ""  # NumPy dtype of a value as it lies there; empty where it cannot be calibrated


TYPES = {
    0: Type("float32", 1, 4, "<f4"),
    1: Type("float16", 1, 2, "<f2"),
    28: Type("float64", 1, 8, "<f8"),
    30: Type("bfloat16", 1, 2, "<u2"),
    24: Type("int8", 1, 1),
    25: Type("int16", 1, 2),
    26: Type("int32", 1, 4),
    27: Type("int64", 1, 8),
    2: Type("Q4_0", 32, 18),
    3: Type("Q4_1", 32, 20),
    6: Type("Q5_0", 32, 22),
    7: Type("Q5_1", 32, 24),
    8: Type("Q8_0", 32, 34),
    9: Type("Q8_1", 32, 40),
    10: Type("Q2_K", 256, 84),
    11: Type("Q3_K", 256, 110),
    12: Type("Q4_K", 256, 144),
    13: Type("Q5_K", 256, 176),
    14: Type("Q6_K", 256, 210),
    15: Type("Q8_K", 256, 292),
    16: Type("IQ2_XXS", 256, 66),
    17: Type("IQ2_XS", 256, 74),
    18: Type("IQ3_XXS", 256, 98),
    19: Type("IQ1_S", 256, 50),
    20: Type("IQ4_NL", 32, 18),
    21: Type("IQ3_S", 256, 110),
    22: Type("IQ2_S", 256, 82),
    23: Type("IQ4_XS", 256, 136),
    29: Type("IQ1_M", 256, 56),
    34: Type("TQ1_0", 256, 54),
    35: Type("TQ2_0", 256, 66),
    39: Type("MXFP4", 32, 17),
    40: Type("NVFP4", 64, 36),
    41: Type("Q1_0", 128, 18),
}


@dataclass(frozen=True)
class Entry:
    """One tensor in the header."""

    name: str
    type: int  # of GGML, a key of TYPES if it is known
    shape: tuple[int, ...]  # the slowest axis first, as NumPy has it
    offset: int  # bytes of the file before its data

    @property
    def dtype(self) -> str:
        """Its type by name."""
        found = TYPES.get(self.type)
        return found.name if found else f"type {self.type}"

    @property
    def nbytes(self) -> int:
        """Bytes of its data, which are a whole number of blocks; 0 where the type is not known.

        Raises:
            InputError: If they are not.
        """
        found = TYPES.get(self.type)
        if found is None:
            return 0
        if (self.shape or (1,))[-1] % found.values:
            raise InputError(f"the rows of {quoted(self.name)} are not whole blocks of {found.name}", DAMAGED)
        return math.prod(self.shape) // found.values * found.nbytes


class Key(NamedTuple):
    """A key and its value: the bytes of the file from ``begin`` to ``end``."""

    name: str
    begin: int
    end: int


class Header(NamedTuple):
    """The header: all that precedes the values."""

    version: int
    alignment: int  # of the data, bytes
    kind: str  # general.type, such as "model" or "imatrix"; empty where it is not said
    keys: tuple[Key, ...]
    entries: tuple[Entry, ...]


def parse(file: RegularFile) -> Header:
    """The header of a file, checked against its size.

    Raises:
        InputError: If it is damaged, of another version or byte order, or its tensors do not follow one another.
    """
    stream = ByteStream(file, 0, min(file.size, MAX_HEADER_BYTES), MAX_TEXT_BYTES)
    magic = _read(stream, len(MAGIC))
    version = _number(stream, 4)
    if magic == BIG_ENDIAN or (magic == MAGIC and version and not version & 0xFFFF):
        raise InputError("it is a big-endian GGUF file", "convert it again without --bigendian")
    if magic != MAGIC:
        raise InputError("it is not a .gguf file: its magic bytes are wrong", DAMAGED)
    if version not in VERSIONS:
        raise InputError(f"its GGUF version is {version:,}; 2 and 3 are known", "convert it again with llama.cpp")
    tensors, keys = _number(stream, 8), _number(stream, 8)
    limits = (tensors, MAX_TENSORS, LEAST_TENSOR, "tensors"), (keys, MAX_KEYS, LEAST_KEY, "keys")
    for number, most, least, what in limits:
        if number > most:
            raise InputError(f"it would have {number:,} {what}; {most:,} are allowed", DAMAGED)
        file.require(stream.tell(), number * least)
    found, alignment, kind = _metadata(stream, file, keys)
    entries = [_entry(stream) for _ in range(tensors)]
    twice, times = Counter(each.name for each in entries).most_common(1)[0] if entries else ("", 0)
    if times > 1:
        raise InputError(f"two of its tensors are called {quoted(twice)}", DAMAGED)
    start = stream.tell() + -stream.tell() % alignment
    return Header(version, alignment, kind, found, tuple(_placed(entries, start, alignment, file.size)))


def _read(stream: ByteStream, length: int) -> bytes:
    """The next ``length`` bytes of the header."""
    found = stream.read(length)
    if len(found) < length:
        raise _cut(stream)
    return found


def _cut(stream: ByteStream) -> InputError:
    if stream.end == MAX_HEADER_BYTES:
        return InputError(f"its header is longer than {MAX_HEADER_BYTES:,} bytes", DAMAGED)
    return InputError(f"the file ends inside its header, after {stream.end:,} bytes", INCOMPLETE)


def _number(stream: ByteStream, width: int) -> int:
    return int.from_bytes(_read(stream, width), "little")


def _text(stream: ByteStream, what: str) -> str:
    length = _number(stream, 8)
    if length > MAX_TEXT_BYTES:
        raise InputError(f"the {what} would have {length:,} bytes; {MAX_TEXT_BYTES:,} are allowed", DAMAGED)
    try:
        return _read(stream, length).decode()
    except UnicodeDecodeError:
        raise InputError(f"the {what} is not UTF-8", DAMAGED) from None


def _metadata(stream: ByteStream, file: RegularFile, keys: int) -> tuple[tuple[Key, ...], int, str]:
    """Reads ``keys`` keys and values, and returns the alignment and the kind of file among them."""
    found: dict[str, int | str] = {ALIGNMENT: DEFAULT_ALIGNMENT, KIND: ""}
    texts, begin = MAX_TEXTS, stream.tell()
    given: list[Key] = []
    for _ in range(keys):
        key, kind = _text(stream, "name of a key"), _number(stream, 4)
        if key not in found:
            texts = _skipped(stream, file, kind, texts)
        elif any(each.name == key for each in given) or kind != (UINT32 if key == ALIGNMENT else TEXT):
            raise InputError(f"its key {key} is given twice, or has the wrong type", DAMAGED)
        else:
            found[key] = _number(stream, 4) if key == ALIGNMENT else _text(stream, f"value of {key}")
        given.append(Key(key, begin, stream.tell()))
        begin = stream.tell()
    alignment = int(found[ALIGNMENT])
    if alignment < 1 or alignment & (alignment - 1):
        raise InputError(f"its alignment is {alignment:,}, which is not a power of two", DAMAGED)
    return tuple(given), alignment, str(found[KIND])


def _skipped(stream: ByteStream, file: RegularFile, kind: int, texts: int) -> int:
    """Skip a value, and return how many texts may still follow."""
    count = 1
    if kind == ARRAY:
        kind, count = _number(stream, 4), _number(stream, 8)
    if kind in WIDTHS:
        end = stream.tell() + count * WIDTHS[kind]
    elif kind != TEXT:
        raise InputError(f"a key has a value of the unknown type {kind:,}", DAMAGED)
    elif count > texts:
        raise InputError(f"its keys would have more than {MAX_TEXTS:,} texts", DAMAGED)
    else:
        texts -= count
        end = _behind_texts(stream, file, count)
    if end > stream.end:
        raise _cut(stream)
    stream.seek(end)
    return texts


def _behind_texts(stream: ByteStream, file: RegularFile, count: int) -> int:
    """The position behind a number of texts; each is its length and its bytes."""
    position = stream.tell()
    while count and position + 8 <= stream.end:
        window = file.read(position, min(WINDOW_BYTES, stream.end - position))
        at = 0
        while count and at + 8 <= len(window):
            at += 8 + int.from_bytes(window[at : at + 8], "little")
            count -= 1
        position += at
    return stream.end + 1 if count else position


def _entry(stream: ByteStream) -> Entry:
    """The next tensor, whose offset is still from where the data begin."""
    name, rank = _text(stream, "name of a tensor"), _number(stream, 4)
    if rank > MAX_RANK:
        raise InputError(f"{quoted(name)} would have {rank:,} dimensions; {MAX_RANK} are allowed", DAMAGED)
    *extents, kind, offset = struct.unpack(f"<{rank}QIQ", _read(stream, 8 * rank + 12))
    shape = tuple(extents[::-1])
    values, found = math.prod(extent for extent in shape if extent), TYPES.get(kind)
    if max(values, values // found.values * found.nbytes if found else 0) > MAX_EXTENT:
        raise InputError(f"the shape of {quoted(name)} is larger than any memory", DAMAGED)
    return Entry(name, kind, shape, offset)


def _placed(entries: list[Entry], start: int, alignment: int, size: int) -> Iterator[Entry]:
    """The tensors, each where its data begin in the file: behind those of the one before."""
    position: int | None = 0
    least = 0
    for entry in entries:
        if entry.offset % alignment or entry.offset < least or position not in (None, entry.offset):
            what = f"the data of {quoted(entry.name)} do not begin where those before it end"
            raise InputError(what, DAMAGED)
        length = entry.nbytes
        end = start + entry.offset + length
        if length and end > size:
            raise InputError(f"the data of {quoted(entry.name)} end at {end:,}, the file at {size:,}", INCOMPLETE)
        least = entry.offset + length
        least += -least % alignment
        position = least if entry.type in TYPES else None  # how long those of another type are is not known
        yield replace(entry, offset=start + entry.offset)
