"""A checkpoint in several files: the index that says which tensor lies in which shard.

``{"metadata": …, "weight_map": {tensor: shard}}``, written as ``model.safetensors.index.json`` or
``pytorch_model.bin.index.json``. The index is believed in what it names and in nothing else: a shard is a
plain name in the index's own directory. That is decided on the name, not on where it leads, because a
model cache consists of links to another directory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from klcal.errors import InputError
from klcal.readers import addresses, strict_json
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, open_regular

__all__ = ["SUFFIX", "describe", "shard_path", "weight_map"]

SUFFIX = ".index.json"
MAX_INDEX_BYTES = strict_json.MAX_BYTES  # as for the header of a single file
MAX_NAME_BYTES = 255  # of a file's name, on every common file system
DescribeShard = Callable[[RegularFile, str], list[Description]]


def describe(index: RegularFile, describe_shard: DescribeShard) -> list[Description]:
    """The tensors of all shards, as if they were one file. Every shard's header is read here.

    A tensor is "failed" if its shard is missing or damaged, or does not have the tensor. Its dtype is then ""
    and its shape (), because these are not known. A tensor that is in a shard and not in the index is
    "skipped", because every other loader follows the index, too.

    Args:
        index: The index file.
        describe_shard: The reader of the shards' format, given a file and its name.

    Raises:
        InputError: If the index itself is damaged.
    """
    tensors: dict[str, list[str]] = defaultdict(list)
    for tensor, shard in weight_map(index).items():
        tensors[shard].append(tensor)
    taken = {name for names in tensors.values() for name in names}
    found: list[Description] = []
    for shard, names in sorted(tensors.items()):
        try:
            held = describe_shard(open_regular(shard_path(index.path, shard)), shard)
        except InputError as error:
            reason = f"the shard {quoted(shard)} cannot be used: {error}"
            found += [_failed(name, reason) for name in names]
            continue
        found += _listed(held, names, shard)
        for stray in held:
            if taken.isdisjoint((stray.name, *stray.aliases)):
                taken.add(stray.name)
                reason = f"the shard {quoted(shard)} holds it, the index does not name it"
                found.append(replace(stray, parts=(), status="skipped", reason=reason))
    return found


def weight_map(index: RegularFile) -> dict[str, str]:
    """Which shard holds each tensor, as the index says. The shards' names are not checked.

    Raises:
        InputError: If the file is not an index.
    """
    if index.size > MAX_INDEX_BYTES:
        what = f"the index has {index.size:,} bytes; {MAX_INDEX_BYTES:,} are allowed"
        raise InputError(what, "give the checkpoint's own index file")
    found = strict_json.parse(index.read(0, index.size).lstrip()).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(shard, str) for shard in found.values()):
        raise InputError("it has no weight_map of tensors to files", "give the checkpoint's own index file")
    return found


def shard_path(index_path: str, shard: str) -> str:
    """Where a shard lies: beside its index.

    Raises:
        InputError: If its name could lead anywhere else.
    """
    is_plain = PurePosixPath(shard).name == shard and shard not in ("", "..") and not set(shard) & {"\0", "\\"}
    if not is_plain or len(shard.encode(errors="surrogatepass")) > MAX_NAME_BYTES or shard.endswith(SUFFIX):
        raise InputError("its name is not that of a file beside the index", "take the index from a source you trust")
    return addresses.beside(index_path, shard)


def _listed(held: list[Description], names: list[str], shard: str) -> list[Description]:
    """The tensors that the index wants from a shard: under each name it gives them, tied ones together."""
    wanted = set(names)
    found = []
    for description in held:
        mine = [name for name in (description.name, *description.aliases) if name in wanted]
        if mine:
            found.append(replace(description, name=mine[0], aliases=tuple(mine[1:])))
            wanted.difference_update(mine)
    reason = f"the shard {quoted(shard)} does not hold it; take the index and its shards from one download"
    return found + [_failed(name, reason) for name in names if name in wanted]


def _failed(name: str, reason: str) -> Description:
    return Description(name, "", (), status="failed", reason=reason)
