"""The values of ONNX tensors as parts: beside the model, or as a list of integers in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError
from klcal.readers import addresses
from klcal.readers.description import Chunk, Description
from klcal.readers.pairs import stored_part
from klcal.readers.quoting import quoted
from klcal.readers.regular import FileSpan, RegularFile, open_regular, spans

__all__ = ["Beside", "IntegersSpan", "data_path", "tied"]

MAX_INTEGER_BYTES = 10  # seven bits in each: 64
BLOCK_BYTES = 1 << 18  # bytes decoded at a time; decoding needs a multiple of that
MAX_PATH_BYTES = 4095
MAX_DIGITS = 20  # of a number of bytes
DAMAGED = "download or save it again"
TRUST = "take the model from a source you trust"


@dataclass(frozen=True)
class IntegersSpan:
    """A ``Part``: small integers, or bit patterns of small floats, as protobuf writes them: seven bits a byte."""

    file: RegularFile
    offset: int  # bytes before the first of them
    length: int  # bytes
    count: int  # of values
    storage: str  # NumPy dtype of a value
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.length

    def chunks(self) -> Iterator[Chunk]:
        """The values, as in every part.

        Raises:
            InputError: If their number is not ``count``, or an integer is not a bit pattern.
        """
        dtype = np.dtype(self.storage)
        left, rest = self.count, b""
        for block in self.file.blocks(self.offset, self.length, BLOCK_BYTES):
            data = np.frombuffer(rest + bytes(block), np.uint8)
            ends = np.flatnonzero(data < 0x80)
            used = int(ends[-1]) + 1 if ends.size else 0
            rest = data[used:].tobytes()
            patterns = _decoded(data[:used], ends)
            if len(rest) >= MAX_INTEGER_BYTES or patterns.size > left or not _fit(patterns, dtype):
                raise InputError("its list of integers does not hold the bit patterns of its values", DAMAGED)
            left -= patterns.size
            yield patterns.astype(f"u{dtype.itemsize}").view(dtype.newbyteorder("="))  # the lowest bits of each
        if left or rest:
            raise InputError(f"its list of integers ends {left:,} values too early", DAMAGED)


def _fit(patterns: npt.NDArray[np.uint64], dtype: np.dtype[Any]) -> bool:
    """Whether integers are bit patterns of a dtype, or values of a signed one, which are stored as 64 bits."""
    if dtype.kind != "i":
        return not int(patterns.max(initial=0)) >> (8 * dtype.itemsize)
    values, limits = patterns.view(np.int64), np.iinfo(dtype)
    return bool(values.min(initial=0) >= limits.min and values.max(initial=0) <= limits.max)


def _decoded(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """Integers below 2**64, those that are longer as the largest; ``ends`` are the places of their last bytes."""
    starts = np.concatenate([np.zeros(1, np.intp), ends[:-1] + 1])[: ends.size]
    lengths = ends - starts + 1
    found = np.zeros(ends.size, np.uint64)
    for place in range(min(MAX_INTEGER_BYTES, int(lengths.max(initial=0)))):
        has = lengths > place
        found[has] |= (data[starts[has] + place] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * place)
    found[lengths > MAX_INTEGER_BYTES] = np.iinfo(np.uint64).max
    return found


def data_path(model: str, location: str) -> str:
    """The path of data that a model keeps in another file: beside it, or in a folder there.

    That is decided on the name, as for the shards of an index: a model cache consists of links to another directory.

    Args:
        model: The path of the model.
        location: The path from there, as the model gives it.

    Raises:
        InputError: If it could lead anywhere else.

    >>> data_path("a/m.onnx", "./m.onnx_data")
    'a/m.onnx_data'
    """
    path = PurePosixPath(location)
    leads_out = path.is_absolute() or ".." in path.parts or not path.parts or set(location) & {"\0", "\\"}
    if leads_out or len(location.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise InputError(f"its data would be in {quoted(location)}, which is not below the model's folder", TRUST)
    return addresses.beside(model, str(path))


@dataclass
class Beside:
    """The files beside a model that have been looked at; lives for one look at the model."""

    model: str  # its path
    files: dict[str, RegularFile | InputError] = field(default_factory=dict)
    taken: dict[FileSpan, tuple[FileSpan, ...]] = field(default_factory=dict)  # the parts of each range so far
    left: dict[str, int] = field(default_factory=dict)  # bytes of each file that no range has taken

    def parts(self, entries: Mapping[str, str], length: int, storage: str) -> tuple[FileSpan, ...]:
        """The parts of ``length`` bytes of values.

        Args:
            entries: Where the model says that they are: location, offset, length.
            length: The bytes that the shape needs.
            storage: NumPy dtype of a value as it lies there.

        Raises:
            InputError: If they lead out of the model's folder, or have another number of bytes.
        """
        location = entries.get("location", "")
        file = self._file(location)
        offset = _number(entries, "offset", 0)
        found = _number(entries, "length", max(0, file.size - offset))
        if found != length:
            what = f"its data have {found:,} bytes in {quoted(location)}, its shape needs {length:,}"
            raise InputError(what, DAMAGED)
        whole = FileSpan(file, offset, length, storage)
        if whole not in self.taken:
            file.require(offset, length)
            self.left[file.path] = self.left.get(file.path, file.size) - length
            if self.left[file.path] < 0:  # told before parts are made of all of them
                raise InputError(f"its data overlap those of others in {quoted(location)}", DAMAGED)
            self.taken[whole] = spans(file, offset, length, storage)
        return self.taken[whole]

    def whole(self, entries: Mapping[str, str]) -> tuple[RegularFile, int, int]:
        """The file, the first byte and the number of bytes of some values, whatever their type.

        Raises:
            InputError: as ``parts``, but that no shape is known.
        """
        file = self._file(entries.get("location", ""))
        offset = _number(entries, "offset", 0)
        length = _number(entries, "length", max(0, file.size - offset))
        file.require(offset, length)
        return file, offset, length

    def _file(self, location: str) -> RegularFile:
        path = data_path(self.model, location)
        if path not in self.files:
            try:
                self.files[path] = open_regular(path)
            except InputError as error:
                what = f"its data file {quoted(location)} cannot be used: {error.what}"
                self.files[path] = InputError(what, error.hint)
        file = self.files[path]
        if isinstance(file, InputError):
            raise file
        return file


def _number(entries: Mapping[str, str], key: str, absent: int) -> int:
    if key not in entries:
        return absent
    text = entries[key]
    if not (text.isascii() and text.isdecimal() and len(text) < MAX_DIGITS):
        raise InputError(f"the {key} of its data is {quoted(text)}, which is not a number of bytes", DAMAGED)
    return int(text)


def tied(found: Iterable[Description]) -> list[Description]:
    """The tensors, where those that share all of their data are one with aliases. Those that share a part of it fail.

    So no byte of a file is read twice, however often a model refers to it.
    """
    first: dict[object, Description] = {}
    aliases: dict[object, list[str]] = defaultdict(list)
    for each in found:
        held = each.parts or each.raw
        identity = (held[0], held[-1], each.dtype, each.shape) if held else each.name
        if first.setdefault(identity, each) is not each:
            aliases[identity].append(each.name)
    distinct = [replace(each, aliases=tuple(aliases[identity])) for identity, each in first.items()]
    overlapping = _overlapping(distinct)
    return [overlapping.get(each.name, each) for each in distinct]


def _overlapping(found: Iterable[Description]) -> dict[str, Description]:
    """By name, as failed: the tensors whose data overlap those of another tensor in the same file."""
    placed = sorted(
        ((part.file.path, part.offset, part.offset + part.length, each) for each in found
         for part in map(stored_part, each.parts or each.raw) if isinstance(part, FileSpan)),
        key=lambda place: place[:3],
    )  # fmt: skip
    failed, (last_path, last_end, last) = {}, ("", 0, "")
    for path, begin, end, each in placed:
        if path == last_path and begin < last_end:
            reason = str(InputError(f"its data overlap those of {quoted(last)}", DAMAGED))
            failed[each.name] = replace(each, parts=(), status="failed", reason=reason)
        if (path, end) > (last_path, last_end):
            last_path, last_end, last = path, end, each.name
    return failed
