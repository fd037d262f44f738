"""Files that went wrong on their way, and files that were never what their name says."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import klcal
from tests.corpus.cases import Case, facts, read, refused
from tests.corpus.pickles import saved
from tests.support import gguf, protobuf
from tests.support.files import zipped
from tests.support.pickles import FLOAT, OLD_GOOD, checkpoint, dict_of, legacy_checkpoint, pickled, storage, tensor
from tests.support.sketch_files import sketch_file

VALUES = np.random.default_rng(3).normal(size=300).astype(np.float32)
OTHERS = np.random.default_rng(5).normal(size=200).astype(np.float32)
INDEX = "model.safetensors.index.json"


def cases(_: Path) -> Iterator[Case]:
    """All of them."""
    for made in (cut(), mistaken(), changed(), noise(), partly(), empty(), odd_folders()):
        for case in made:
            yield Case(**{**vars(case), "kind": "damaged"})


@cache
def sound() -> dict[str, bytes]:
    """One sound file of each kind, with two tensors where it can have two."""
    held = dict_of(a=tensor(storage(300, "0"), 0, (300,)), b=tensor(storage(200, "1"), 0, (200,)))
    old = held.replace(b"tQ", b"NtQ")  # the old form says of each storage whether it is a view
    return {
        "x.npy": saved(VALUES),
        "x.npz": zipped({"a.npy": saved(VALUES), "b.npy": saved(OTHERS)}),
        "d.npz": zipped({"a.npy": saved(VALUES), "b.npy": saved(OTHERS)}, method=8),
        "x.safetensors": safetensors.numpy.save({"a": VALUES, "b": OTHERS}),
        "sketch.safetensors": sketch_file({"a": klcal.sketch(VALUES), "b": klcal.sketch(OTHERS)}),
        "x.gguf": gguf.gguf({"a": gguf.of(VALUES), "b": gguf.of(OTHERS)}),
        "x.onnx": protobuf.model(
            *(
                protobuf.tensor(name, (len(data) // 4,), more=protobuf.held(9, data))
                for name, data in (("a", VALUES.tobytes()), ("b", OTHERS.tobytes()))
            )
        ),
        "x.pt": checkpoint(held, VALUES.tobytes(), OTHERS.tobytes()),
        "old.pt": legacy_checkpoint(old, **{"0": VALUES.tobytes(), "1": OTHERS.tobytes()}),
    }


def rows(file: str, a: str = "ok", b: str = "ok") -> dict[str, str]:
    return {"x": a} if file == "x.npy" else {"a": a, "b": b}


def cut() -> Iterator[Case]:
    """Cut at many places, evenly and where the parts meet: never a part of a tensor."""
    for file, data in sound().items():
        expected = {"a": facts(VALUES), "b": facts(OTHERS)} if file != "x.npy" else {"x": facts(VALUES)}
        yield read(f"a sound {file}", file, data, rows(file), facts=expected)
        places = {*range(0, len(data), len(data) // 14), 1, 2, 7, 8, 9, len(data) - 1, len(data) - 4, len(data) - 400}
        for length in sorted(places):
            if file != "old.pt" or length < len(data) - 2016:  # where its values begin
                yield refused(f"{file} cut to {length} bytes", file, data[:length])
            else:
                whole = length >= len(data) - 808
                yield read(
                    f"{file} cut to {length} bytes",
                    file,
                    data[:length],
                    rows(file, "ok" if whole else "failed", "failed"),
                )
    for file in ("x.npy", "x.safetensors"):
        half = sound()[file][:900]
        yield refused(
            f"half of {file} tells both sizes", file, half, f"the file has {900 if file == 'x.npy' else 772}; "
        )


def mistaken() -> Iterator[Case]:
    """Files of another kind, named as tensor files."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    page = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"
    error = b'{"error": "Repository not found"}'
    kinds: dict[str, tuple[bytes, str]] = {
        "a Git LFS pointer": (pointer, "git lfs pull"),
        "a web page": (page, "web page"),
        "a web page in capitals": (b"<HTML>", "web page"),
        "a server's error in XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        "a server's error in JSON": (error, "text file"),
        "a note": (b"see the other folder\n", "text file"),
        "a gzip": (gzip.compress(saved(VALUES), mtime=0), "gunzip"),
        "a zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), "unzstd"),
        "an xz": (b"\xfd7zXZ\0" + bytes(40), "unxz"),
        "a big-endian GGUF": (b"GGUF\0\0\0\3" + bytes(40), "big-endian"),
        "an HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        "nothing": (b"", "empty"),
        "one byte": (b"\0", ""),
        "zeros": (bytes(4096), ""),
        "ones": (b"\xff" * 4096, ""),
        "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(100), ""),
        "an ELF": (b"\x7fELF\2\1\1" + bytes(100), ""),
    }
    for title, (content, says) in kinds.items():
        for suffix in (".npy", ".npz", ".safetensors", ".onnx", ".gguf", ".pt", ".bin", ".ckpt"):
            yield refused(f"{title} called {suffix}", f"x{suffix}", content, says)
    for file, data in sound().items():
        for suffix in (".npy", ".npz", ".safetensors", ".onnx", ".gguf", ".pt"):
            if not file.endswith(suffix):
                yield wrong_suffix(file, data, suffix)


def wrong_suffix(file: str, data: bytes, suffix: str) -> Case:
    """The content decides, but for ONNX, which has no mark, and a pickle: only its name lets it be interpreted."""
    title = f"{file} called {suffix}"
    if file == "x.onnx":
        return refused(title, f"y{suffix}", data)
    if file.endswith(".pt"):
        return refused(title, f"y{suffix}", data, "zip archive" if file == "x.pt" else "pickle")
    if file == "x.npy":
        return read(title, f"y{suffix}", data, {"y": "ok"}, facts={"y": facts(VALUES)})
    return read(title, f"y{suffix}", data, rows(file))


def changed() -> Iterator[Case]:
    """Bits that flipped: in values of an archive they are found, elsewhere nothing can find them."""
    for file, data in sound().items():
        start = data.index(VALUES.tobytes()) if VALUES.tobytes() in data else 0
        if start and file in ("x.npz", "x.pt"):
            for bit in (0, 1000, 9599):
                yield read(
                    f"bit {bit} flipped in the values of {file}",
                    file,
                    flipped(data, 8 * start + bit),
                    rows(file, "failed: CRC-32"),
                )
        elif start:
            yield read(f"a flipped bit in the values of {file}", file, flipped(data, 8 * start), rows(file))
        places = (int(np.random.default_rng(number).integers(8 * (start or len(data)))) for number in range(24))
        for place in dict.fromkeys(places):
            yield structural(file, flipped(data, place), f"bit {place} flipped in {file}")


def flipped(data: bytes, bit: int) -> bytes:
    result = bytearray(data)
    result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def structural(file: str, data: bytes, title: str) -> Case:
    """What a flipped bit in a header means only the reference library knows: see the differential tests."""
    return Case(title, {file: data}, loose="anything")


def noise() -> Iterator[Case]:
    """Random bytes under every name, and behind every magic."""
    random = np.random.default_rng(7)
    magics = (b"", b"\x93NUMPY\1\0", b"PK\3\4", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"GGUF\3\0\0\0")
    for suffix in (".npy", ".npz", ".safetensors", ".onnx", ".gguf", ".pt", ".bin.index.json"):
        for magic in magics:
            for length in (3, 300):
                name = f"x{suffix}"
                title = f"{length} random bytes behind {magic[:6]!a} called {suffix}"
                yield refused(title, name, magic + random.bytes(length))


def partly() -> Iterator[Case]:
    """One bad thing among good ones costs itself."""
    bad = saved(VALUES)[:-8]
    yield read(
        "a cut member",
        "x.npz",
        zipped({"bad.npy": bad, "good.npy": saved(OTHERS)}),
        {"bad": "failed: needs", "good": "ok"},
    )
    text = zipped({"read.me": b"hello", "good.npy": saved(OTHERS)})
    yield read("a text among arrays", "x.npz", text, {"read.me": "unsupported", "good": "ok"})
    nan = safetensors.numpy.save({"bad": np.array([1, np.nan], np.float32), "good": OTHERS})
    yield read("a tensor of NaN", "x.safetensors", nan, {"bad": "nonfinite: 1 NaN among 2", "good": "ok"})
    files = {f"good{number}.npy": saved(OTHERS) for number in range(3)}
    good = {f"good{number}": "ok" for number in range(3)}
    yield Case("a bad file among good ones", {**files, "bad.npy": bad}, rows=good, error="needs")
    yield Case("a folder called like a file", {**files, "x.npy/y.txt": b""}, rows=good)
    yield Case("a text beside tensors", {**files, "README.md": b"", "config.json": b"{}", "x.py": b"1/0"}, rows=good)
    shards: dict[str, Any] = {
        "1.safetensors": safetensors.numpy.save({"a": VALUES}),
        "2.safetensors": safetensors.numpy.save({"b": OTHERS}),
    }
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode()
    whole = {**shards, INDEX: index}
    yield Case("a sharded checkpoint", whole, rows={"a": "ok", "b": "ok"}, facts={"a": facts(VALUES)})
    gone = {name: content for name, content in whole.items() if name != "2.safetensors"}
    yield Case("a missing shard", gone, rows={"a": "ok", "b": "failed: no such file"})
    yield Case(
        "a cut shard", {**whole, "2.safetensors": shards["2.safetensors"][:-1]}, rows={"a": "ok", "b": "failed: need"}
    )
    other = {**whole, "2.safetensors": safetensors.numpy.save({"c": OTHERS})}
    yield Case(
        "a tensor that its shard lacks", other, rows={"a": "ok", "b": "failed: does not hold it", "c": "skipped"}
    )
    yield Case(
        "a damaged index beside its shards", {**shards, INDEX: b"{"}, rows={"a": "ok", "b": "ok"}, error="damaged"
    )


def empty() -> Iterator[Case]:
    """No tensors, which is no error of the file's."""
    nothing = {
        "x.pt": checkpoint(b"}"),
        "y.pt": checkpoint(dict_of(epoch=b"K\x05", name=b"X\x01\0\0\0a")),
        "z.pt": legacy_checkpoint(b"}"),
        "x.safetensors": safetensors.numpy.save({}),
        "y.safetensors": safetensors.numpy.save({}, {"format": "pt"}),
        "x.gguf": gguf.gguf({}),
        "x.npz": zipped({}),
        INDEX: b'{"weight_map": {}}',
    }
    for file, data in nothing.items():
        yield Case(f"no tensors in {file}", {file: data})
    none = safetensors.numpy.save({"a": np.zeros((0, 3), np.float32)})
    yield read("a tensor without values", "x.safetensors", none, {"a": "empty"})
    yield Case("a folder of nothing but text", {"d/x.txt": b"hello"})


def odd_folders() -> Iterator[Case]:
    """Links that lead nowhere or round, pipes, sockets: never waited for."""
    good: dict[str, Any] = {"good.npy": saved(OTHERS)}
    here = {"good": "ok"}
    yield Case("a link to the folder itself", {**good, "d": lambda path: path.symlink_to(".")}, rows=here)
    yield Case("a link to the folder above", {**good, "d/e/f": lambda path: path.symlink_to("../..")}, rows=here)
    yield Case("a link to itself", {**good, "x.npy": lambda path: path.symlink_to("x.npy")}, rows=here, error="circle")
    yield Case(
        "a link to nothing", {**good, "x.npy": lambda path: path.symlink_to("gone")}, rows=here, error="no such file"
    )
    yield Case(
        "a link to a device", {**good, "x.npy": lambda path: path.symlink_to("/dev/null")}, rows=here, error="device"
    )
    yield Case("a link to a terminal", {**good, "x.npy": lambda path: path.symlink_to("/dev/tty")}, rows=here, error="")
    yield Case("a pipe", {**good, "x.npy": os.mkfifo}, rows=here, error="pipe")
    yield Case(
        "a file under two names", {**good, "x.npy": lambda path: path.hardlink_to(path.parent / "good.npy")}, rows=here
    )
    yield Case("a file under a link", {**good, "x.npy": lambda path: path.symlink_to("good.npy")}, rows=here)
    deep = "/".join(["d"] * 60)
    yield Case("a deep folder", {f"{deep}/x.npy": saved(OTHERS)}, rows={f"{deep}/x": "ok"})
    yield Case("a legacy pickle of text", {"x.pt": pickled(b"X\x01\0\0\0a")}, error="torch.save did not write")
    yield Case(
        "the old form without its values",
        {"x.pt": legacy_checkpoint(OLD_GOOD, **{"0": FLOAT * 4})[:-16]},
        rows={"x": "failed"},
    )
