"""Adds sketch files up into one. The result does not depend on their order or grouping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from klcal.errors import InputError
from klcal.pipeline.selection import listed
from klcal.readers import find
from klcal.readers.quoting import quoted
from klcal.readers.sketch_file import SketchFile, open_sketches
from klcal.sketches.named import Named
from klcal.writers.sketch_file import save

__all__ = ["Merged", "merge_files"]


class Merged(NamedTuple):
    """The result of a merge."""

    tensors: int
    notes: tuple[str, ...]  # on tensors whose buckets were joined


def merge_files(paths: Sequence[str], output: str, *, allow_duplicates: bool = False) -> Merged:
    """Adds the sketches of each tensor in some files; one tensor at a time is held.

    Args:
        paths: sketch files, directories of them, patterns.
        output: the file to write, all of it or nothing.
        allow_duplicates: whether the same input may be counted twice.

    Raises:
        InputError: a file is no sketch file, or damaged; two are of tensors that differ in dtype or units; an input is
            in two of them.
        UsageError: the output cannot be written.
        OutputError: it could not be written after all.
    """
    found = find(paths)
    for error in found.errors:
        raise InputError(f"{error.source}: {error.reason}")
    parts = {source.name: _opened(source.name, source.path) for source in found.sources}
    if not allow_duplicates:
        _check_inputs(parts)
    notes: list[str] = []
    inputs = [each for part in parts.values() for each in part.inputs]
    tensors = save(output, lambda _: _sums(parts, notes), lambda: inputs, paths)
    return Merged(tensors, tuple(notes))


def _opened(name: str, path: str) -> SketchFile:
    try:
        return open_sketches(path)
    except InputError as error:
        raise InputError(f"{name}: {error.what}", error.hint) from None


def _check_inputs(parts: dict[str, SketchFile]) -> None:
    first: dict[str, str] = {}
    for name, part in parts.items():
        for each in sorted({*part.inputs}):  # twice in one part was allowed when that was merged
            if each in first:
                what = f"{quoted(first[each])} and {quoted(name)} have counted the same input ({each})"
                raise InputError(what, "leave one of them out, or add --allow-duplicates to count it twice")
            first[each] = name


def _sums(parts: dict[str, SketchFile], notes: list[str]) -> Iterator[Named]:
    where: dict[str, list[str]] = {}
    for part, file in parts.items():
        for name in file.tensors:
            where.setdefault(name, []).append(part)
    for name in sorted(where):
        first, *others = where[name]
        total = _loaded(parts, first, name)
        finest = total.sketch.resolution
        differ = False
        for other in others:
            one = _loaded(parts, other, name)
            differ |= one.sketch.resolution != finest
            try:
                total = total + one
            except InputError as error:
                sides = f"{name}: {quoted(first)} and {quoted(other)}"
                raise InputError(f"{sides} cannot be merged: {error.what}", error.hint) from None
        if differ:
            bits = total.sketch.resolution.mantissa_bits
            notes.append(f"{name}: its resolutions differ in {listed(where[name])}; all now have {bits} mantissa bits")
        yield total


def _loaded(parts: dict[str, SketchFile], part: str, name: str) -> Named:
    try:
        return parts[part].load(name)
    except InputError as error:
        raise InputError(f"{part}: {name}: {error.what}", error.hint) from None
