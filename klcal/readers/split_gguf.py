"""A GGUF model in several files, as llama.cpp writes and names them: NAME-00001-of-00003.gguf and so on.

No file lists the tensors of all: how many shards there are is in their names, and any of them stands for the model.
"""

from __future__ import annotations

import os
import re

from klcal.errors import InputError
from klcal.readers.description import Description
from klcal.readers.index_file import DescribeShard
from klcal.readers.quoting import quoted
from klcal.readers.regular import open_regular

__all__ = ["describe", "shards_of", "whole_of"]

SUFFIX = ".gguf"
NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.gguf)", re.DOTALL)
MAX_SHARDS = 1 << 10  # the largest models have some dozens; each missing one is reported
INCOMPLETE = "download all shards into one folder"


def shards_of(path: str) -> tuple[str, ...]:
    """The paths of all shards of the model that a file is one of; none where its name is not that of a shard.

    >>> shards_of("a/m-00002-of-00002.gguf"), shards_of("a/m.gguf")
    (('a/m-00001-of-00002.gguf', 'a/m-00002-of-00002.gguf'), ())
    """
    folder, name = os.path.split(path) if path.endswith(SUFFIX) else ("", "")  # which most files are told apart by
    found = NAME.fullmatch(name)
    count = int(found[3]) if found else 0
    if not found or not 1 <= int(found[2]) <= count <= MAX_SHARDS:
        return ()
    names = (f"{found[1]}-{number:05}-of-{count:05}{found[4]}" for number in range(1, count + 1))
    return tuple(os.path.join(folder, each) for each in names)  # noqa: PTH118


def whole_of(path: str) -> str:
    """The one file that a shard belongs to; any other file itself.

    >>> whole_of("a/m-00002-of-00002.gguf")
    'a/m.gguf'
    """
    return re.sub(r"-[0-9]{5}-of-[0-9]{5}\.gguf\Z", ".gguf", path) if shards_of(path) else path


def describe(paths: tuple[str, ...], describe_shard: DescribeShard) -> list[Description]:
    """The tensors of all shards, as if they were one file.

    A missing or damaged shard is a "failed" tensor with the name of the shard, since its tensors are not known.

    Args:
        paths: All shards, at least one.
        describe_shard: The reader of their format, given a file and its name.

    Raises:
        InputError: If no shard can be used, or two of them hold a tensor of one name.
    """
    found: list[Description] = []
    faults: list[InputError] = []
    for path in paths:
        name = os.path.basename(path)  # noqa: PTH119
        try:
            found += describe_shard(open_regular(path), name)
        except InputError as error:
            faults.append(error)
            reason = f"this shard cannot be used, and neither can its tensors: {error.what}"
            found.append(Description(name, "", (), status="failed", reason=str(InputError(reason, INCOMPLETE))))
    if len(faults) == len(paths):
        raise faults[0]
    names: set[str] = set()
    for each in found:
        if each.name in names:
            raise InputError(f"two of its shards hold {quoted(each.name)}", INCOMPLETE)
        names.add(each.name)
    return found
