"""The common interface of forms: a form is a way to write the quantized tensors of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from klcal.quantizers.granularity import Grid
from klcal.quantizers.scheme import Scheme
from klcal.readers.description import Description
from klcal.tables.rows import Row
from klcal.writers.codes import Codes

__all__ = ["Assigned", "Form", "Model", "TensorFile"]


class Assigned(NamedTuple):
    """A tensor of a file, and the row that quantizes it."""

    tensor: Description
    codes: Codes | None  # None where it is kept as it is
    input: Row | None = None  # the row of the inputs of its module, if the table has one

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the tensor."""
        return self.tensor.name, *self.tensor.aliases


@dataclass(frozen=True)
class TensorFile:
    """A file of a model, perhaps a shard, and its tensors with their rows."""

    name: str  # relative to the model's directory, or the file's own
    path: str
    source: str  # its name in a table: of a shard that of the checkpoint
    tensors: tuple[Assigned, ...]


@dataclass(frozen=True)
class Model:
    """All files of a model."""

    files: tuple[TensorFile, ...]
    directory: str | None = None  # None where it is a single file


def _no_warnings(_: Model) -> list[str]:
    """Any model can be written."""
    return []


def _any(_tensor: Description, _include: Sequence[str]) -> bool:
    """Any tensor may be quantized."""
    return True


def _as_given(_directory: str | None, _tensors: Iterable[Description], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of any calibration."""
    return dict(given)


def _fits(_tensor: Description, _scheme: Scheme, _grid: Grid | None) -> None:
    """Any quantizer can be written."""


def _no_files(_: Model) -> dict[str, bytes]:
    """A form that has nothing to say beside the tensors."""
    return {}


def _same_name(name: str) -> str:
    return name


@dataclass(frozen=True)
class Form:
    """A way to write the tensors of a model; each file becomes a file.

    ``write`` writes a file and returns the number of bytes of each tensor in it, by name, for the index of a sharded
    checkpoint; or None if the index does not change. If it raises an error, nothing of the model is left.
    """

    write: Callable[[TensorFile, BinaryIO], Mapping[str, int] | None]
    renamed: Callable[[str], str] = _same_name  # from a file's name to that of the file written for it
    check: Callable[[Model], Iterable[str]] = _no_warnings  # before anything is written; raises UsageError
    beside: Callable[[Model], Mapping[str, bytes]] = _no_files  # files of the directory, by name: new or replaced
    takes: Callable[[Description, Sequence[str]], bool] = _any  # whether a tensor may be quantized, by it and --include
    usual: Callable[[str | None, Iterable[Description], Mapping[str, Any]], dict[str, Any]] = _as_given
    """The options of a calibration for a model in some directory: its tensors that are wanted, and those given."""
    fits: Callable[[Description, Scheme, Grid | None], object] = _fits
    """Raises UsageError, before anything is calibrated, if no quantizer of a scheme and these units can be written."""
    inputs: bool = False  # whether the form can store quantizers of inputs
