"""A model on disk: its tensor files, shard by shard, and the other files beside them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from klcal.errors import InputError, UsageError
from klcal.readers import Description, find, formats, index_file, split_gguf
from klcal.readers.addresses import is_remote, shown
from klcal.readers.find import Source
from klcal.readers.listing import is_folder
from klcal.readers.quantized import recognised
from klcal.readers.quoting import quoted
from klcal.readers.regular import open_regular
from klcal.readers.remote import files_below

__all__ = ["Files", "TensorPath", "files_of", "tensors_of"]

SNAPSHOTS = "snapshots"  # of a model in the hub's cache: a directory for each revision


@dataclass(frozen=True)
class TensorPath:
    """A file with tensors."""

    name: str  # relative to the directory, or the file's own
    path: str
    source: str  # its name in a table: of a shard that of the checkpoint
    index: str | None = None  # the name of the index, if the file is a shard


@dataclass(frozen=True)
class Files:
    """All files of a model."""

    paths: tuple[str, ...]  # the paths for calibration
    tensors: tuple[TensorPath, ...]
    directory: str | None = None  # None if the model is a single file
    others: tuple[str, ...] = ()  # relative to the directory: files that are copied
    indexes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def files_of(path: str) -> Files:
    """The files of a model. The path is a file, a directory, the index of a sharded checkpoint, or a shard of a GGUF.

    Raises:
        UsageError: the path is none of these.
        InputError: it cannot be used.
    """
    if path == "-":
        raise UsageError("standard input is no model that can be read twice", "save it to a file")
    if not is_remote(path) and not os.path.lexists(path):
        found = find([path])  # its error has the similar names
        what = found.errors[0].reason if found.errors else "it is no file and no directory"
        raise InputError(f"{path}: {what}") if found.errors else UsageError(f"'{path}': {what}", "name one of them")
    is_index = path.endswith(index_file.SUFFIX) or bool(split_gguf.shards_of(path))
    if not is_index and not is_folder(path):
        name = posixpath.basename(shown(path))
        return Files((path,), (TensorPath(name, path, name),))
    directory = posixpath.dirname(shown(path)) or "." if is_index else _snapshot(path)
    asked = path if is_index else directory
    found = find([asked])
    if found.errors:
        raise InputError(f"{found.errors[0].source}: {found.errors[0].reason}")
    tensors = tuple(each for source in found.sources for each in _tensor_paths(source, directory))
    indexes = tuple(sorted({each.index for each in tensors if each.index is not None}))
    taken = {each.name for each in tensors}
    others = tuple(name for name in _all_files(directory) if name not in taken and not _is_model(name))
    return Files((asked,), tensors, directory, others, indexes, found.warnings)


def _snapshot(path: str) -> str:
    """A directory; of a model in the hub's cache the only revision."""
    if is_remote(path):
        return path.rstrip("/")
    snapshots = Path(path) / SNAPSHOTS
    revisions = sorted(each for each in snapshots.iterdir() if each.is_dir()) if snapshots.is_dir() else []
    if len(revisions) > 1:
        raise UsageError(f"'{path}' holds {len(revisions)} revisions of a model", f"name one: {revisions[0]}")
    return str(revisions[0]) if revisions else path


def _tensor_paths(source: Source, directory: str) -> Iterator[TensorPath]:
    if source.fault is not None:
        raise InputError(f"{source.name}: {source.fault}")
    name = os.path.relpath(source.path, directory)
    if shards := split_gguf.shards_of(source.path):
        yield from (TensorPath(os.path.relpath(path, directory), path, source.name) for path in shards)
        return
    if not source.path.endswith(index_file.SUFFIX):
        yield TensorPath(name, source.path, source.name)
        return
    for shard in sorted(set(index_file.weight_map(open_regular(source.path)).values())):
        path = index_file.shard_path(source.path, shard)
        yield TensorPath(os.path.relpath(path, directory), path, source.name, name)


def _all_files(directory: str) -> Iterator[str]:
    """The regular files below a directory, links followed, without hidden directories."""
    if is_remote(directory):
        found = (path.removeprefix(f"{directory}/") for path in files_below(directory))
        yield from (name for name in found if not any(part.startswith(".") for part in name.split("/")[:-1]))
        return
    for path, folders, names in os.walk(directory, followlinks=True):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        files = (os.path.join(path, name) for name in sorted(names))  # noqa: PTH118
        yield from (os.path.relpath(each, directory) for each in files if Path(each).is_file())


def _is_model(name: str) -> bool:
    """Whether a file that is not read is the same model in another format: it is not carried along."""
    return Path(name).suffix.lower() in formats.SUFFIXES or name.endswith(index_file.SUFFIX)


def tensors_of(file: TensorPath) -> list[Description]:
    """The tensors of a file, those of a quantized checkpoint skipped.

    Raises:
        InputError: it, or one of them, cannot be used.
    """
    opened = open_regular(file.path)
    found = recognised(formats.describe(opened, file.source if file.index is None else file.name))
    for each in found:
        if each.status == "failed":
            raise InputError(f"{quoted(each.name)}: {each.reason}")
    return [replace(each, dequantized=None) for each in found]
