"""What is fuzzed: every parser of klcal as a function of bytes, from which only an InputError may escape."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from klcal.errors import InputError
from klcal.readers import gguf_file, imatrix_file, imatrix_gguf, index_file, npy_file, onnx_file, safetensors_file
from klcal.readers.archive import open_archive
from klcal.readers.description import Description
from klcal.readers.onnx_graph import graph_inputs_and_nodes
from klcal.readers.pt.file import describe
from klcal.readers.pt.foreign import refuse_foreign_alone, with_foreign
from klcal.readers.pt.machine import interpret
from klcal.readers.pt.names import named_values
from klcal.readers.pt.values import Storage
from klcal.readers.regular import RegularFile
from klcal.readers.runtimes import PARSERS, parse_runtime
from klcal.readers.sketch_file import SketchPart
from klcal.readers.table_file import parse_table
from klcal.sketches.named import arrays_of, sketch_of
from klcal.writers import WRITERS

__all__ = ["TARGETS", "Target", "safe"]

Target = Callable[[bytes], None]
LONGEST_REASON = 300
READ_BYTES = 1 << 20  # of a member: an input of some kilobytes holds no more that is worth the time


@dataclass(frozen=True)
class InMemory(RegularFile):
    """A file that is its content: a million of them are made in minutes."""

    content: bytes = b""

    def read(self, offset: int, length: int) -> bytes:
        self.require(offset, length)
        return self.content[offset : offset + length]

    def blocks(self, offset: int, length: int, block_bytes: int = 1 << 16) -> Iterator[memoryview]:
        self.require(offset, length)
        for start in range(offset, offset + length, block_bytes):
            yield memoryview(bytearray(self.content[start : min(start + block_bytes, offset + length)]))


def in_memory(data: bytes, path: str = "x") -> InMemory:
    return InMemory(path, len(data), 0, data)


def safetensors(data: bytes) -> None:
    """The length, then the JSON."""
    length = safetensors_file.header_length(data[:8], len(data))
    safetensors_file.parse(data[8 : 8 + length], len(data) - 8 - length)


def sketches(data: bytes) -> None:
    """What is taken for a sketch can be coarsened, and is what it was."""
    for found in safetensors_file.describe(in_memory(data)):
        for part in found.parts:
            if isinstance(part, SketchPart):
                read = part.sketch()
                assert (read.coarsen(0).numel == read.numel).all()
                assert sketch_of(arrays_of(read), read.resolution, read.grid) == read


def npy(data: bytes) -> None:
    with suppress(InputError):
        npy_file.parse(data[: npy_file.HEAD_BYTES], len(data))
    npy_file.describe_batches(in_memory(data), "x")


def gguf(data: bytes) -> None:
    """The header, and the values that it leads to: each byte of the file at most once."""
    read = 0
    for found in gguf_file.describe(in_memory(data)):
        assert (found.status == "ok") == (found.reason is None)
        parts = found.parts if found.dequantized is None else found.dequantized.parts
        read += sum(part.nbytes for part in parts)
        assert sum(chunk.size for part in parts for chunk in part.chunks()) in (0, math.prod(found.shape))
    assert read <= len(data)


def imatrix(data: bytes) -> None:
    """An importance matrix, and its values."""
    for found in imatrix_file.describe(in_memory(data)):
        assert sum(chunk.size for part in found.parts for chunk in part.chunks()) == found.shape[0]


def imatrix_in_gguf(data: bytes) -> None:
    """One in GGUF, and its mean squares."""
    for found in imatrix_gguf.describe(in_memory(data)):
        assert sum(chunk.size for part in found.parts for chunk in part.chunks()) == math.prod(found.shape)


def onnx(data: bytes) -> None:
    """A model, and the values in it; there is nothing beside it."""
    described = onnx_file.describe(in_memory(data, "absent/x.onnx"))
    assert all((found.status == "ok") == (found.reason is None) for found in described)
    for found in (*described, *(found.dequantized for found in described if found.dequantized)):
        try:
            read = sum(chunk.size for part in found.parts for chunk in part.chunks())
        except InputError as error:
            check(error)
            continue
        assert found.status != "ok" or read == math.prod(found.shape)
    graph_inputs_and_nodes(in_memory(data))


def zip_directory(data: bytes) -> None:
    """The directory, and the content of what it names."""
    for member in open_archive(in_memory(data)).values():
        if member.size <= READ_BYTES:
            member.check()


def pickle(data: bytes) -> None:
    """One pickle in both forms, the names of what is in it, and what is said of foreign objects."""
    legacy: dict[str, Storage] = {}
    for storages in (None, legacy):
        try:
            named = named_values(interpret(io.BytesIO(data), storages), "x")
            refuse_foreign_alone(named)
            with_foreign([Description(each.name, "", ()) for each in named], named)
        except InputError as error:
            check(error)


def legacy_pt(data: bytes) -> None:
    """The five pickles of a file from before torch 1.6, and where its storages lie."""
    for found in describe(in_memory(data), "x"):
        assert (found.status == "ok") == (found.reason is None)


def index(data: bytes) -> None:
    """The index of a sharded checkpoint, and the paths it leads to."""
    for shard in index_file.weight_map(in_memory(data)).values():
        try:
            path = index_file.shard_path("folder/i.index.json", shard)
        except InputError as error:
            check(error)
            continue
        assert path == f"folder/{shard}"
        assert "/" not in shard
        assert shard not in ("", ".", "..")


def table(data: bytes) -> None:
    """A table of scales as JSON: what is taken is written and read as the same."""
    found = parse_table(data)
    out = io.StringIO()
    WRITERS["json"](found, out)
    assert parse_table(out.getvalue().encode()) == found


def runtimes(data: bytes) -> None:
    """What a runtime loads, in every format: what is taken are rows with a name."""
    for to in PARSERS:
        try:
            rows = parse_runtime(data, to)
        except InputError as error:
            check(error)
            continue
        assert all(isinstance(row.name, str) for row in rows)


TARGETS: dict[str, Target] = {
    "safetensors": safetensors,
    "sketches": sketches,
    "npy": npy,
    "gguf": gguf,
    "imatrix": imatrix,
    "imatrix_gguf": imatrix_in_gguf,
    "onnx": onnx,
    "zip": zip_directory,
    "pickle": pickle,
    "legacy_pt": legacy_pt,
    "index": index,
    "table": table,
    "runtimes": runtimes,
}


def safe(target: Target) -> Target:
    """The target, from which a refusal in plain words may come, and nothing else."""

    def run(data: bytes) -> None:
        try:
            target(data)
        except InputError as error:
            check(error)

    return run


def check(error: InputError) -> None:
    """A refusal is fit to be shown: short, and unable to act."""
    reason = str(error)
    assert 0 < len(reason) <= LONGEST_REASON, reason
    assert reason.isprintable(), ascii(reason)
