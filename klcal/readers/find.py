"""From the arguments of a command to the files to read, and their names in the table.

The only files that are opened here are indexes of sharded checkpoints, ONNX models among other files, and standard
input. The result depends neither on the order of the arguments nor on the order in which a directory lists its files.
"""

# os.path, not pathlib: it says False where pathlib raises (no permission, a name too long).
# ruff: noqa: PTH100, PTH116, PTH117, PTH119

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter

from klcal.errors import InputError
from klcal.readers import formats, index_file, split_gguf
from klcal.readers.addresses import is_pattern, is_remote, shown
from klcal.readers.description import Description
from klcal.readers.listing import WILD, Listing, is_folder, matching_paths, nearest_names, tensor_files
from klcal.readers.pairs import stored_part
from klcal.readers.quantized import recognised
from klcal.readers.quoting import quoted
from klcal.readers.regular import FileSpan, fault, open_regular
from klcal.readers.standard_input import spooled
from klcal.tables.table import FileError, in_order

__all__ = ["Found", "Source", "find"]

STDIN = "-"


@dataclass(frozen=True)
class Source:
    """A file, or a sharded checkpoint, that can be described."""

    name: str  # in the table: unique among all sources
    path: str
    fault: InputError | None = None  # why it cannot be used, where that is known already

    def describe(self, *, batches: bool = False) -> list[Description]:
        """The tensors of the source, before any of their data is read. Codes and scales of a quantized one are skipped.

        Args:
            batches: whether a .npy may hold several arrays, one behind the other.

        Raises:
            InputError: If nothing of it can be used.
        """
        if self.fault is not None:
            raise self.fault
        if shards := split_gguf.shards_of(self.path):
            return recognised(split_gguf.describe(shards, formats.describe))
        file = open_regular(self.path)
        if self.path.endswith(index_file.SUFFIX):
            return recognised(index_file.describe(file, formats.describe))
        return recognised(formats.describe(file, self.name, batches=batches))


@dataclass(frozen=True)
class Found:
    """The sources that arguments lead to, and the arguments that lead to nothing."""

    sources: tuple[Source, ...] = ()  # sorted by name, the numbers in it by their value
    errors: tuple[FileError, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A path on its way to a source."""

    name: str
    path: str
    full: tuple[str, ...]  # the absolute path's parts, the last one as it is shown
    fault: InputError | None = field(default=None, compare=False)

    @staticmethod
    def of(path: str, directory: str = "") -> _Candidate:
        """A file that was given itself, or found below a directory that was; for any shard of a GGUF the first."""
        path = next(iter(split_gguf.shards_of(path)), path)
        full = (shown(path) if is_remote(path) else os.path.abspath(path)).split("/")
        full[-1] = _shown_name(path)
        below = path[len(directory) :].strip("/") if directory else ""
        depth = below.count("/") + 1
        return _Candidate("/".join(full[-depth:]), path, tuple(full))

    def refused(self, fault: InputError) -> _Candidate:
        """The same, once it is known that it cannot be used: by the file's own name, as it stands for nothing else."""
        own = os.path.basename(self.path)
        name = self.name[: len(self.name) - len(self.full[-1])] + own
        return replace(self, name=name, full=(*self.full[:-1], own), fault=fault)

    def with_parent(self) -> _Candidate:
        """The same with one more folder in front of its name, as far as there are any."""
        depth = self.name.count("/") + 2
        return replace(self, name="/".join(part for part in self.full[-depth:] if part))


@dataclass
class _Search:
    """The sources found so far, in one call of ``find``."""

    candidates: list[_Candidate] = field(default_factory=list)
    errors: list[FileError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, argument: str, what: str, hint: str = "") -> None:
        source = os.path.basename(argument.rstrip("/")) if os.path.isabs(argument) else shown(argument)
        self.errors.append(FileError(source or argument, str(InputError(what, hint))))

    def add(self, argument: str) -> None:
        """Follows one argument: a file, a directory, or a pattern that the shell did not expand."""
        if not is_pattern(argument) if is_remote(argument) else os.path.lexists(argument):
            self.add_path(argument)
            return
        try:
            paths = matching_paths(argument)
        except InputError as error:
            self.refuse(argument, error.what, error.hint)
            return
        for path in paths:
            self.add_path(path)
        if not paths:
            what = "no file matches it" if WILD & set(argument) else "there is no such file"
            self.refuse(argument, what, nearest_names(argument) or "check its name")

    def add_path(self, path: str) -> None:
        if is_folder(path):
            self.add_directory(path)
        else:
            self.candidates.append(_Candidate.of(path))

    def add_directory(self, path: str) -> None:
        try:
            listing = tensor_files(path)
        except (OSError, InputError) as error:
            found = fault(error) if isinstance(error, OSError) else error
            self.refuse(path, found.what, found.hint)
            return
        self.warnings += listing.warnings
        self.candidates += [_Candidate.of(file, path) for file in listing.files]
        if not listing.files:
            self.refuse(path, *_nothing_in(listing))


def find(paths: Sequence[str]) -> Found:
    """The sources to read for the arguments of a command.

    Args:
        paths: Files, directories (searched to any depth for files with the suffix of a tensor file), patterns, or
            "-" for standard input, which is read here to its end.

    Returns:
        Each file once, however often and under whatever names it was given; the files of a sharded
        checkpoint as their index, those of a split GGUF as the first of them. Arguments that lead to
        nothing are among the errors.
    """
    search = _Search()
    for argument in dict.fromkeys(paths):
        if argument != STDIN:
            search.add(argument)
    candidates = _distinct_files(search.candidates)
    sources = [Source(each.name, each.path, each.fault) for each in _distinct_names(candidates)]
    if STDIN in paths:
        try:
            sources.append(Source(STDIN, spooled(0)))
        except InputError as error:
            search.errors.append(FileError(STDIN, str(error)))
    return Found(
        tuple(sorted(sources, key=lambda source: in_order(source.name))),
        tuple(search.errors),
        tuple(dict.fromkeys(search.warnings)),
    )


def _distinct_files(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Each file under the first of its names; the shards of an index and the data of an ONNX model not at all."""
    found: dict[tuple[int, int] | str, _Candidate] = {}
    for candidate in sorted(set(candidates), key=attrgetter("name", "path", "full")):
        found.setdefault(_identity(candidate.path), candidate)
    shards: set[tuple[int, int] | str] = set()
    for key, index in found.items():
        if index.path.endswith(index_file.SUFFIX):
            try:
                paths = _shards(index.path)
            except InputError as error:  # report the failure for the index, even if a retry would succeed
                found[key] = index.refused(error)
                continue
            shards.update(paths, map(_identity, paths))
    shards.update(_identity(path) for model in _models_among_others(found.values()) for path in _data_files(model))
    return [each for key, each in found.items() if shards.isdisjoint((key, each.path))]


def _identity(path: str) -> tuple[int, int] | str:
    """The identity that two names of one file share; the path itself if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return path
    return found.st_dev, found.st_ino


def _shards(index_path: str) -> list[str]:
    """The shards of an index, less those whose names the index's own reader refuses.

    Raises:
        InputError: If the index itself is damaged.
    """
    paths = []
    for name in set(index_file.weight_map(open_regular(index_path)).values()):
        with suppress(InputError):
            paths.append(index_file.shard_path(index_path, name))
    return paths


def _models_among_others(candidates: Iterable[_Candidate]) -> list[str]:
    """The ONNX models that have files of other kinds beside or below them: any of those may hold their data."""
    models, others = list[_Candidate](), set[tuple[str, ...]]()
    for each in candidates:
        if each.path.lower().endswith(formats.ONNX):
            models.append(each)
        else:
            others.update(each.full[:depth] for depth in range(len(each.full)))
    return [model.path for model in models if model.full[:-1] in others]


def _data_files(model: str) -> set[str]:
    """The files beside an ONNX model that hold values of its tensors, whatever they are called."""
    try:
        found = formats.describe(open_regular(model), model)
    except InputError:  # reported for the model, when it is read
        return set()
    parts = (stored_part(part) for each in found for part in each.parts or each.raw)
    return {part.file.path for part in parts if isinstance(part, FileSpan)} - {model}


def _distinct_names(candidates: list[_Candidate]) -> list[_Candidate]:
    """Puts parent folders in front of equal names until they differ."""
    while True:
        times = Counter(candidate.name for candidate in candidates)
        longer = [c.with_parent() if times[c.name] > 1 else c for c in candidates]
        if longer == candidates:
            return candidates
        candidates = longer


def _shown_name(path: str) -> str:
    """The file's name; an index or a shard has that of the one file it stands for, unless that exists as well."""
    path = shown(path)
    whole = split_gguf.whole_of(path.removesuffix(index_file.SUFFIX))
    return os.path.basename(path if whole != path and os.path.lexists(whole) else whole)


def _nothing_in(listing: Listing) -> tuple[str, str]:
    if any(name.endswith(".distcp") for name in listing.others):
        hint = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIRECTORY FILE.pt"
        return "it is a distributed checkpoint, which has to be converted", hint
    names = ", ".join(quoted(name) for name in listing.others)
    return "no tensor files in it", f"{formats.KNOWN}; it holds {names}" if names else formats.KNOWN
