"""The importance of each tensor, found by name, and the names on either side that have no partner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected, listed, names_of
from klcal.quantizers.layout import Layout
from klcal.readers import Description, formats
from klcal.readers.regular import RegularFile, open_regular
from klcal.sketches.energy import SUFFIX
from klcal.sketches.importance import Importance
from klcal.sketches.stored import counted_already
from klcal.sketches.values import weights_of

__all__ = ["NamedImportance", "Weighed", "read_importance"]

IMATRIX = ".dat"  # the suffix of llama.cpp's file, whose format has no magic
NAMELESS = b"\x93NUMPY"  # how a .npy begins, which has no names
OLD_MATRIX, MATRIX = formats.reader_of("imatrix_file"), formats.reader_of("imatrix_gguf")


class Weighed(NamedTuple):
    """A tensor and its importance."""

    description: Description
    importance: Description

    def weights(self, place: Layout | None) -> Importance:
        """The weights of the tensor's values, in the order in which they are read; ``place`` is its layout of units.

        Raises:
            InputError: the importance does not fit, or is damaged. Only this tensor fails.
        """
        try:
            return weights_of(self.importance, self.description.shape, self.description.order or (), place)
        except UsageError as error:
            raise InputError(error.what, error.hint) from None


@dataclass(frozen=True)
class NamedImportance:
    """The entries of a file: each is the importance of the tensor of its name."""

    entries: dict[str, Description]
    is_nameless: bool = False
    is_flat: bool = False  # whether an entry may be the columns of several matrices one after the other

    def of(self, tensor: Selected, *, alone: bool) -> Description | None:
        """The importance of a tensor, under any of its names; ``alone`` if it is the only tensor."""
        if alone and self.is_nameless:
            return next(iter(self.entries.values()))
        described = tensor.description
        found = next((self.entries[name] for name in names_of(described) if name in self.entries), None)
        return _of_matrices(found, described.shape) if found and self.is_flat else found

    def warnings(self, described: Iterable[Selected], wanted: Sequence[Selected]) -> Iterator[str]:
        """Warnings about tensors without an importance, and about entries without a tensor."""
        without = [each.description.name for each in wanted if self.of(each, alone=len(wanted) == 1) is None]
        if without:
            yield f"--importance has nothing for {len(without)} of {len(wanted)} tensors: {listed(without)}"
        known = {name for each in described for name in names_of(each.description)}
        idle = [name for name in self.entries if name not in known]
        if idle and not (self.is_nameless and len(wanted) == 1):
            yield f"--importance has entries that match no tensor, {len(idle)} of {len(self.entries)}: {listed(idle)}"


def read_importance(path: str) -> NamedImportance:
    """The importance in a .safetensors, .npz or .npy file, that was recorded, or llama.cpp's matrix (.gguf or .dat).

    Raises:
        UsageError: it cannot be used.
    """
    try:
        file = open_regular(path)
        found = _described(file, Path(path).name)
    except InputError as error:
        raise UsageError(f"the importance '{path}': {error.what}", error.hint) from None
    if not found:
        raise UsageError(f"the importance '{path}': it has no tensors", "name a file with a weight for each column")
    if any(counted_already(each.parts) for each in found):
        found = [replace(each, name=each.name.removesuffix(SUFFIX)) for each in found if each.name.endswith(SUFFIX)]
        if not found:
            what = f"the importance '{path}': the sketches of it have none"
            raise UsageError(what, "record them with klcal.record(..., importance=True)")
    is_nameless = file.read(0, min(file.size, len(NAMELESS))) == NAMELESS
    is_flat = _is_old_matrix(path)
    return NamedImportance({name: each for each in found for name in names_of(each)}, is_nameless, is_flat)


def _is_old_matrix(path: str) -> bool:
    return path.lower().endswith(IMATRIX)


def _of_matrices(entry: Description, shape: tuple[int, ...]) -> Description:
    """An entry in the shape for a tensor of several matrices, such as experts, if its number of values fits."""
    columns = (*shape[:-2], *shape[-1:])
    return replace(entry, shape=columns) if len(shape) > 2 and entry.shape == (prod(columns),) else entry


def _described(file: RegularFile, source: str) -> list[Description]:
    if file.read(0, min(file.size, formats.HEAD_BYTES)).startswith(formats.GGUF):
        return MATRIX(file, source)
    if _is_old_matrix(source):
        return OLD_MATRIX(file, source)
    return formats.describe(file, source)
