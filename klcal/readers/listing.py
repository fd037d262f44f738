"""The contents of directories: tensor files at any depth, matches of a pattern, names similar to a mistyped one."""

# os.path, not pathlib: it says False where pathlib raises (no permission, a name too long).
# ruff: noqa: PTH112, PTH116, PTH118, PTH119, PTH122

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from klcal.errors import InputError
from klcal.readers import addresses, remote
from klcal.readers.formats import SUFFIXES
from klcal.readers.index_file import SUFFIX as INDEX_SUFFIX
from klcal.readers.quoting import quoted

__all__ = ["WILD", "Listing", "is_folder", "matching_paths", "nearest_names", "tensor_files"]

MAX_OTHERS = 3  # files of other kinds that are remembered, for a message
MAX_COMPARED = 10_000  # names that a mistyped one is compared with: a second of work
MAX_NEAREST = 3  # names shown
TRAINING_STATE = re.compile(
    r"(training_args|scaler|(optimizer|scheduler|sampler|dl_state_dict|rng_state|random_states)(_\d+)?|.*_optim_states)"
    r"\.(pt|pth|bin|ckpt)"
)
"""Files that transformers' Trainer, accelerate and DeepSpeed write beside the weights to resume training."""

TWINS = (".bin", ".ckpt")
"""How the hubs call the pickled one of a model in two formats. A .pt of the same name may be anything: it is read."""

SHARD = re.compile(r"-\d+-of-\d+$")  # the end of the name of a shard, behind the name of the model
WILD = frozenset("*?[")  # characters of patterns


@dataclass(frozen=True)
class Listing:
    """The files below a directory."""

    files: tuple[str, ...]  # named as tensor files or indexes, in the order of their paths
    others: tuple[str, ...]  # the first names of the rest
    warnings: tuple[str, ...]


def is_folder(path: str) -> bool:
    """Whether a path leads to a directory; a remote one is told by its name, without asking a server."""
    if not addresses.is_remote(path):
        return os.path.isdir(path)
    return path.endswith("/") or (not _is_named_as_tensors(addresses.shown(path)) and remote.is_directory(path))


def tensor_files(directory: str) -> Listing:
    """The tensor files below a directory, links followed, each directory entered once.

    Raises:
        OSError: If the directory itself cannot be listed.
        InputError: The same of one elsewhere.
    """
    warnings: list[str] = []
    paths = remote.files_below(directory) if addresses.is_remote(directory) else _walked(directory, warnings)
    files = [path for path in paths if _is_wanted(os.path.basename(path))]
    others = {os.path.basename(path) for path in paths} - {os.path.basename(path) for path in files}
    shown = sorted(others, key=lambda name: (not name.endswith(".distcp"), name))[:MAX_OTHERS]
    once, twins = _in_one_format(sorted(files))
    for whole in twins:
        named = quoted(os.path.relpath(whole, directory))
        warnings.append(
            f"{named} is not read: the .safetensors beside it holds the same model; to read it, give it by name"
        )
    return Listing(once, tuple(shown), tuple(warnings))


def _walked(directory: str, warnings: list[str]) -> list[str]:
    """All files below a directory."""
    files: list[str] = []
    entered: set[tuple[int, int]] = set()
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        try:
            here = os.stat(path)
            is_new = (here.st_dev, here.st_ino) not in entered
            with os.scandir(path) as entries:
                found = sorted((entry.path, _is_folder(entry)) for entry in entries) if is_new else []
        except OSError:
            if path == directory:
                raise
            warnings.append(f"{quoted(os.path.relpath(path, directory))} cannot be listed; its files are not read")
            continue
        entered.add((here.st_dev, here.st_ino))
        files += [each for each, is_folder in found if not is_folder]
        waiting += [each for each, is_folder in reversed(found) if is_folder]
    return files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry leads to a directory: only links are followed, so most entries cost no call of the system."""
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_wanted(name: str) -> bool:
    return not TRAINING_STATE.fullmatch(name) and _is_named_as_tensors(name)


def _in_one_format(files: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files less the pickled ones of models that are there as .safetensors too; and these models' names.

    >>> _in_one_format(["m/model.safetensors", "m/pytorch_model-1-of-1.bin", "m/pytorch_model.bin.index.json"])
    (('m/model.safetensors',), ('m/pytorch_model.bin',))
    """
    wholes = {path: _whole(path) for path in files}
    safe = {_model(whole) for whole in wholes.values() if whole.endswith(".safetensors")}
    twins = {
        path: whole
        for path, whole in wholes.items()
        if os.path.splitext(whole)[1].lower() in TWINS and _model(whole) in safe
    }
    return tuple(path for path in files if path not in twins), tuple(sorted(set(twins.values())))


def _whole(path: str) -> str:
    """The one file that an index or a shard belongs to; any other file itself."""
    root, suffix = os.path.splitext(path.removesuffix(INDEX_SUFFIX))
    return SHARD.sub("", root) + suffix


def _model(whole: str) -> str:
    """The name of a file's model in its folder: transformers has one name for each format."""
    folder, name = os.path.split(os.path.splitext(whole)[0])
    return os.path.join(folder, re.sub(r"^pytorch_model\b", "model", name))


def _is_named_as_tensors(name: str) -> bool:
    """Whether a file is one that klcal reads, or the index of such files; TensorFlow and others have indexes too."""
    return os.path.splitext(name.removesuffix(INDEX_SUFFIX))[1].lower() in SUFFIXES


def matching_paths(pattern: str) -> list[str]:
    """The paths that match a pattern with ``*``, ``?``, ``[…]`` and ``**``, sorted.

    As in a shell, ``**`` does not follow links, so the search ends; and a name that begins with a dot is
    matched only by a pattern that begins with a dot.

    Raises:
        InputError: If the pattern cannot be followed.
    """
    if addresses.is_remote(pattern):
        return remote.matching(pattern) if addresses.is_pattern(pattern) else []
    if not WILD & set(pattern):
        return []
    path = Path(pattern)
    anchor = Path(path.anchor)
    parts = path.parts[1:] if path.anchor else path.parts
    if parts[-1] == "**":  # files too, whatever Python's version
        parts = (*parts, "*")
    try:
        found = [str(match) for match in anchor.glob("/".join(parts)) if not _is_hidden(match, parts)]
    except (ValueError, NotImplementedError, OSError):
        raise InputError("the pattern cannot be followed", "'**' stands alone between slashes") from None
    return sorted(set(found))


def _is_hidden(path: Path, parts: tuple[str, ...]) -> bool:
    """Whether a part of a match begins with a dot that the pattern does not ask for."""
    asked = any(part.startswith(".") and WILD & set(part) for part in parts)
    return not asked and any(part.startswith(".") and part not in parts for part in path.parts)


def nearest_names(argument: str) -> str:
    """A hint with the names most similar to an absent one, or with files where a pattern found nothing."""
    directory, name = os.path.split(argument)
    if addresses.is_remote(argument):
        return ""
    try:
        with os.scandir(directory or ".") as entries:
            names = sorted(entry.name for entry in islice(entries, MAX_COMPARED))
    except (OSError, ValueError):
        return f"there is no directory {quoted(directory)} either" if directory else ""
    near = difflib.get_close_matches(name, names, MAX_NEAREST, cutoff=0.5)
    near = near or [other for other in names if os.path.splitext(other)[1].lower() in SUFFIXES][:MAX_NEAREST]
    return "the nearest names are " + ", ".join(quoted(other) for other in near) if near else ""
