"""Indexes that lead elsewhere, and names that try to act."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.cases import Case, facts, later, read, refused
from tests.corpus.headers import document, entry, safetensors_file
from tests.corpus.pickles import FOUR, saved
from tests.support.files import zipped
from tests.support.pickles import checkpoint, storage, tensor, text
from tests.support.tables import NASTY

ONES = np.ones(4, np.float32)
LONG_NAME = "x" * 10_000


def cases(_: Path) -> Iterator[Case]:
    """Indexes, shards, tensors and paths."""
    for made in (indexes(), shards(), names(), paths()):
        for case in made:
            yield Case(**{**vars(case), "kind": "hostile"})


# --- indexes


def indexes() -> Iterator[Case]:
    """Index files that are no JSON, or not what an index is."""
    texts = ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "x", "a": "y"}}', ""]
    texts += [
        '{"weight_map": {}, "weight_map": {}}',
        '{"weight_map": {}, "x": NaN}',
        '{"weight_map": {"\\ud800": "x"}}',
    ]
    texts += ['{"weight_map": ' + "[" * 100_000, "\ufeff{}", "null", '{"weight_map": {"a": null}}']
    for number, content in enumerate(texts):
        yield refused(f"index {number}", "model.safetensors.index.json", content.encode())
    big = later(lambda: b'{"weight_map": {}, "metadata": [' + b"[]," * 30_000_000 + b"[]]}")
    yield refused("an index of millions of lists", "model.safetensors.index.json", big, heavy=True)


SHARDS = [
    "../x",
    "/x",
    "//x",
    "a/../../x",
    "a/b",
    "./x",
    "x/",
    "",
    ".",
    "..",
    "~/x",
    "$HOME/x",
    "file:///x",
    "x\0",
    "a\\b",
]
SHARDS += ["x" * 256, "x" * 5000, "é" * 128, "model.safetensors.index.json", "http://x/y", "\ud800", "/dev/zero", "-/-"]
INDEX = "model.safetensors.index.json"


def shards() -> Iterator[Case]:
    """Shards that lead outside, or are no files."""
    good = safetensors_file(document(good=entry()), FOUR)
    secret = safetensors_file(document(stolen=entry()), FOUR)

    def sharded(title: str, shard: str, says: str, **files: Any) -> Case:
        index = json.dumps({"weight_map": {"stolen": shard, "good": "good.safetensors"}}).encode()
        content = {
            "m/" + INDEX: index,
            "m/good.safetensors": good,
            **{f"m/{key}": value for key, value in files.items()},
        }
        return Case(title, content, rows={"stolen": says, "good": "ok"})

    for number, shard in enumerate(SHARDS):
        if "\ud800" in shard:
            index = json.dumps({"weight_map": {"stolen": shard}}).encode()
            yield refused("a shard of half a surrogate pair", INDEX, index, "surrogate")
            continue
        made = sharded(f"shard {number}, called {shard[:20]!a}", shard, "failed: not that of a file beside the index")
        yield Case(**{**vars(made), "files": {**made.files, "x": secret, "m/a/b": secret}})
    yield sharded("a shard that is a pipe", "s", "failed: pipe", s=os.mkfifo)
    yield sharded("a shard that is a device", "s", "failed: device", s=lambda path: path.symlink_to("/dev/zero"))
    yield sharded("a shard that is a folder", "s", "failed: directory", s=lambda path: path.mkdir())
    yield sharded(
        "a shard that is a link to nowhere", "s", "failed: no such file", s=lambda path: path.symlink_to("gone")
    )
    yield sharded("a shard that is a link to itself", "s", "failed: circle", s=lambda path: path.symlink_to("s"))
    yield sharded("a shard that is a pickle", "s.safetensors", "failed: pickle", **{"s.safetensors": b"\x80\x04N."})
    yield sharded("a shard that is an index", "s.json", "failed: text file", **{"s.json": b"{}"})
    linked = sharded("a shard that is a link, as in a cache", "s", "ok", s=lambda path: path.symlink_to("../blob"))
    yield Case(**{**vars(linked), "files": {**linked.files, "blob": secret}})


# --- names


def names() -> Iterator[Case]:
    """Names of tensors that try to act: they are data."""
    odd = [
        *NASTY,
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\r\nklcal: error: forged",
        "a\u0300" * 200,
        LONG_NAME,
        "x\0y",
        "\x7f\x08",
    ]
    odd += [f"{lead}cmd|' /C calc'!A0" for lead in "=+-@\t\r"] + [
        "%s%n",
        "{0}",
        "`id`",
        "$(id)",
        "\u2028",
        "\ufeff",
        "\u200b",
    ]
    plain = [name for name in dict.fromkeys(odd) if not any("\ud800" <= char <= "\udfff" for char in name)]
    for number, name in enumerate(plain):
        data = safetensors_file(json.dumps({name: entry()}).encode(), FOUR)
        yield read(f"name {number} in a .safetensors", "x.safetensors", data, {name: "ok"})
        nan = safetensors_file(json.dumps({name: entry()}).encode(), np.full(4, np.nan, np.float32).tobytes())
        yield read(f"name {number} of a tensor of NaN", "x.safetensors", nan, {name: "nonfinite"})
        if name:
            value = b"}(" + text(name) + tensor(storage(4)) + b"u"
            yield read(f"name {number} in a .pt", "x.pt", checkpoint(value, FOUR), {name: "ok"})
    for number, name in enumerate(plain):
        if "\0" not in name and len(name.encode()) < 60_000:
            yield read(f"name {number} in a .npz", "x.npz", zipped({name + ".npy": saved(ONES)}), {name: "ok"})
    million = "n" * 1_000_000
    data = safetensors_file(json.dumps({million: entry()}).encode(), FOUR)
    yield read("a name of a megabyte", "x.safetensors", data, {million: "ok"})


def paths() -> Iterator[Case]:
    """Names of files, which are data too."""
    odd = [
        "line\nfeed",
        "\x1b[31mred",
        "[red]x[/red]",
        "%s",
        "-x",
        "--output",
        "a b",
        "'",
        '"',
        "*",
        "[a]",
        "~",
        "$HOME",
    ]
    odd += [os.fsdecode(b"\xff\xfe"), "名前", "x" * 240, "\r", "\t", "=1+1", "#", "&", "\\"]
    for number, name in enumerate(odd):
        yield read(f"path {number}", f"{name}.npy", saved(ONES), {name: "ok"}, facts={name: facts(ONES)})
        yield refused(f"path {number} of a bad file", f"{name}.npy", b"text", "text")
