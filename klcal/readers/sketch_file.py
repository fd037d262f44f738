"""Sketch files: what klcal counted of tensors, taken wherever tensors are. docs/sketch-format.md specifies them.

The header is checked when a file is described, the arrays of a tensor when its sketch is read. Whatever does not fit is
an error: no sketch is taken that counting could not have given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from klcal.errors import InputError, UsageError
from klcal.quantizers.granularity import Grid, parse_per
from klcal.readers import strict_json
from klcal.readers.description import Chunk, Description
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, open_regular
from klcal.readers.safetensors_file import Entry, header_of
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.energy import SUFFIX
from klcal.sketches.named import Named, checked_resolution, sketch_of
from klcal.sketches.patterns import Resolution
from klcal.sketches.sketch import Sketch
from klcal.tables.schema import SKETCH

__all__ = ["SketchFile", "SketchPart", "descriptions", "open_sketches"]

DAMAGED = "write it again with klcal sketch"
STORAGE = {"I64": "<i8", "F64": "<f8", "I32": "<i4", "U32": "<u4"}
ARRAYS = {"keys": ("U32",), "counts": ("I32", "I64"), "numbers": ("I64",), "extremes": ("F64",), "weights": ("I64",)}
FIELDS = {"name", "dtype", "shape", "batches", "aliases", "mantissa_bits", "least_bits", "few", "grid"}


@dataclass(frozen=True)
class SketchPart:
    """A ``Part`` whose values are already counted."""

    file: RegularFile
    start: int  # bytes before the data of the file
    arrays: tuple[tuple[str, Entry], ...]  # behind one another
    resolution: Resolution
    grid: Grid | None
    batches: int

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, which lie together."""
        return self.arrays[-1][1].end - self.arrays[0][1].begin

    @property
    def repeats(self) -> int:
        """One, because it is not a view."""
        return 1

    def chunks(self) -> Iterator[Chunk]:
        """Nothing: raises InputError."""
        raise InputError("it is a sketch, and the values themselves are needed", "give the file of the values")

    def sketch(self) -> Sketch:
        """The sketch of the tensor.

        Raises:
            InputError: it is damaged.
        """
        begin = self.arrays[0][1].begin
        block = self.file.read(self.start + begin, self.nbytes)
        found = {}
        for key, entry in self.arrays:
            some = block[entry.begin - begin : entry.end - begin]
            found[key] = np.frombuffer(some, STORAGE[entry.dtype]).reshape(entry.shape)
        return sketch_of(found, self.resolution, self.grid)


@dataclass(frozen=True)
class SketchFile:
    """A sketch file before its sketches are read."""

    tensors: dict[str, Description]  # each of one ``SketchPart``
    inputs: tuple[str, ...]  # the fingerprints of what was counted

    def load(self, name: str) -> Named:
        """A tensor of the file, its sketch included.

        Args:
            name: of the tensor, one of ``tensors``.

        Raises:
            InputError: it is damaged, or the file has changed.
        """
        found = self.tensors[name]
        part = found.parts[0]
        assert isinstance(part, SketchPart)
        shape = found.shape if found.shape_is_known or (part.batches > 1 and found.shape) else None
        return Named(found.name, found.dtype, shape, part.sketch(), part.batches, found.aliases)


def open_sketches(path: str) -> SketchFile:
    """The tensors of a sketch file.

    Raises:
        InputError: it is not a sketch file, or is damaged.
    """
    file = open_regular(path)
    entries, metadata, start = header_of(file)
    if metadata.get("schema") != SKETCH:
        raise InputError("it is not a sketch file", "write one with klcal sketch")
    found = descriptions(file, start, entries, metadata)
    inputs = tuple(metadata.get("inputs", "").split())
    return SketchFile({each.name: each for each in found}, inputs)


def descriptions(
    file: RegularFile, start: int, entries: tuple[Entry, ...], metadata: dict[str, str]
) -> list[Description]:
    """The tensors of a sketch file, from its header.

    Args:
        file: the file.
        start: bytes before the data of its arrays.
        entries: its arrays, each called by the number of its tensor, a dot and what it is.
        metadata: of the header; ``sketches`` is a JSON document.

    Returns:
        A description of each tensor, of one part: a ``SketchPart``. An importance is skipped.

    Raises:
        InputError: its metadata are damaged, or do not fit its arrays.
    """
    documents = strict_json.parse(metadata.get("sketches", "").encode()).get("sketches")
    _require(isinstance(documents, list), "it does not say what its arrays are")
    arrays: dict[str, list[tuple[str, Entry]]] = {}
    for entry in entries:
        number, _, key = entry.name.partition(".")
        _require(entry.dtype in ARRAYS.get(key, ()), f"it has no such array as {quoted(entry.name)}")
        arrays.setdefault(number, []).append((key, entry))
    found = [
        _description(file, start, document, arrays.pop(str(number), []))
        for number, document in enumerate(documents or ())
    ]
    _require(not arrays, "it has arrays that belong to no tensor")
    _require(len({each.name for each in found}) == len(found), "two of its tensors have one name")
    return found


def _description(file: RegularFile, start: int, document: Any, arrays: list[tuple[str, Entry]]) -> Description:
    _require(isinstance(document, dict) and document.keys() == FIELDS, "it does not say what its arrays are")
    name, dtype, aliases = document["name"], document["dtype"], document["aliases"]
    _require(isinstance(name, str) and dtype in [*FLOAT_DTYPES], "a tensor has no name, or an unknown dtype")
    _require(isinstance(aliases, list) and all(isinstance(each, str) for each in aliases), "aliases are not names")
    _require({*ARRAYS} - {"weights"} <= {key for key, _ in arrays}, f"arrays of {quoted(name)} are missing")
    adjoin = all(one.end == other.begin for (_, one), (_, other) in pairwise(arrays))
    _require(adjoin, f"the arrays of {quoted(name)} do not lie together")
    batches, shape = document["batches"], document["shape"]
    _require(type(batches) is int and batches >= 1, "batches are counted from 1")
    _require(shape is None or _are_extents(shape), "a shape is not a list of whole numbers")
    resolution = checked_resolution(document["mantissa_bits"], document["least_bits"], document["few"])
    part = SketchPart(file, start, tuple(arrays), resolution, _grid(document["grid"]), batches)
    known = shape is not None and batches == 1
    found = Description(name, dtype, tuple(shape or ()), (part,), aliases=tuple(aliases), shape_is_known=known)
    if name.endswith(SUFFIX):
        return replace(found, status="skipped", reason="it is an importance; give the file as --importance")
    return found


def _grid(document: Any) -> Grid | None:
    if document is None:
        return None
    _require(isinstance(document, dict) and document.keys() == {"per", "axis", "size", "shape", "note"}, "its grid")
    axis, size, note = document["axis"], document["size"], document["note"]
    axis, size = (tuple(each) if isinstance(each, list) else each for each in (axis, size))
    for each in (axis, size):
        fits = type(each) is int or (isinstance(each, tuple) and len(each) == 2 and _are_extents(each))
        _require(fits or (each is None and each is size), "its grid")
    _require(_are_extents(document["shape"]) and prod(document["shape"]) > 0, "its grid has no shape")
    _require(note is None or isinstance(note, str), "its grid's note is not text")
    try:
        return Grid(parse_per(document["per"]), axis, size, tuple(document["shape"]), note)
    except UsageError as error:
        raise InputError(f"it is damaged: {error.what}", DAMAGED) from None


def _are_extents(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(type(each) is int and each >= 0 for each in given)


def _require(holds: bool, else_: str) -> None:
    if not holds:
        raise InputError(f"it is a sketch file, and damaged: {else_}", DAMAGED)
