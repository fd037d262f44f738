"""Archives made to harm."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.corpus.cases import Case, later, read, refused
from tests.corpus.pickles import FOUR, saved
from tests.support.archives import altered
from tests.support.files import zipped
from tests.support.pickles import checkpoint, dict_of, storage, tensor

ONES = np.ones(4, np.float32)


def cases(_: Path) -> Iterator[Case]:
    """What two tools would read differently, and what holds more than it should."""
    for made in (archives(), bombs()):
        for case in made:
            yield Case(**{**vars(case), "kind": "hostile"})


# --- archives


def archives() -> Iterator[Case]:
    """Archives that two tools read differently."""
    arrays = zipped({"a.npy": saved(ONES), "b.npy": saved(2 * ONES)})
    model = checkpoint(dict_of(w=tensor(storage(4, "0"))), FOUR)
    changes: list[tuple[str, str, Any, int, str, str]] = [
        ("two members of one name", "name", b"a.npy", 1, "both", "two members named"),
        ("another name in a member's own header", "name", b"x.npy", 0, "own", "another name"),
        ("another name in the directory", "name", b"x.npy", 0, "directory", "another name"),
        ("a NUL in a name", "name", b"a\0npy", 0, "both", "another name"),
        ("a password", "flags", 1, 0, "both", "encrypted"),
        ("masked headers", "flags", 0x2000, 0, "both", "encrypted"),
        ("patched data", "flags", 0x20, 0, "both", "patch"),
        ("method 99", "method", 99, 0, "both", "only stored and deflated"),
        ("bzip2", "method", 12, 0, "both", "only stored and deflated"),
        ("lzma", "method", 14, 0, "both", "only stored and deflated"),
        ("no header where one should be", "header", 1, 1, "both", "not where"),
        ("a header outside the file", "header", 1 << 30, 1, "both", "outside the file"),
        ("a member over the directory", "stored", 9999, 1, "both", ""),
        ("two sizes", "size", 49, 0, "directory", "two different sizes"),
        ("a folder with data", "attributes", 0x10, 0, "directory", "marked as a folder"),
    ]
    for title, field, value, member, where, says in changes:
        yield refused(f"a .npz with {title}", "x.npz", altered(arrays, field, value, member, where), says)
        if field != "name":
            yield refused(f"a .pt with {title}", "x.pt", altered(model, field, value, member, where), says)
    twice = [("a/data.pkl", model), ("a/data.pkl", model), ("a/version", b"3\n")]
    yield refused("two pickles of one name", "x.pt", raw_zip(twice), "two members named")
    yield refused(
        "names that differ in case", "x.pt", raw_zip([("a/data.pkl", b""), ("a/DATA.pkl", b"")]), "upper and lower"
    )
    yield refused("bytes before the archive", "x.npz", b"PK\3\4" + bytes(60) + arrays, "")
    nested = zipped({"x.npy": zipped({"y.npy": saved(ONES)})})
    yield read("an archive in an archive", "x.npz", nested, {"x": "failed: not a .npy file"})
    yield read("names that lead elsewhere", "x.npz", zipped({"../../x.npy": saved(ONES)}), {"../../x": "ok"})
    many = zipped({f"{number}.npy": b"" for number in range(2000)})
    yield read("a thousand empty members", "x.npz", many, {f"{number}": "failed" for number in range(2000)})
    overlap = one_member_often(1000)
    yield refused("a thousand entries on one member", "x.npz", overlap, "")
    huge = later(lambda: zipped({f"{number}.npy": b"" for number in range((1 << 17) + 1)}))
    yield refused("a member more than are allowed", "x.npz", huge, "are allowed", heavy=True)
    huge = later(lambda: zipped({f"{number}.bin": b"" for number in range(50_000)}))
    yield refused("fifty thousand members that are no model", "x.pt", huge, "", heavy=True)


def raw_zip(members: list[tuple[str, bytes]]) -> bytes:
    """Unlike ``zipped``, with names that may occur twice."""
    front, directory = b"", b""
    for name, content in members:
        crc, raw = zlib.crc32(content), name.encode()
        same = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, crc, len(content), len(content), len(raw), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + same + struct.pack("<3H2L", 0, 0, 0, 0, len(front)) + raw
        front += b"PK\3\4" + same + raw + content
    end = struct.pack("<4H2LH", 0, 0, len(members), len(members), len(directory), len(front), 0)
    return front + directory + b"PK\5\6" + end


def one_member_often(times: int) -> bytes:
    """A directory whose entries all lead to one member: small, and large when it is extracted."""
    data = raw_zip([(f"{number:04}.npy", saved(ONES)) for number in range(times)])
    for at in range(times):
        place = data.index(b"PK\1\2", len(data) - (46 + 8) * times - 22 + (46 + 8) * at)
        data = data[: place + 42] + bytes(4) + data[place + 46 :]
    return data


def bombs() -> Iterator[Case]:
    """Archives that hold more than they should."""
    deflated = zipped({"a.npy": saved(np.zeros(100_000, np.float32))}, zipfile.ZIP_DEFLATED)
    size = len(saved(np.zeros(100_000, np.float32)))
    for title, claim, says in (
        ("200 bytes that claim 4 GB", 0xFFFFFFFE, "failed: bomb"),
        ("a content larger than its claim", size - 4, "failed: "),
        ("a content smaller than its claim", size + 4, "failed: "),
        ("a content much larger than its claim", 200, "failed: hold more"),
    ):
        yield read(title, "x.npz", altered(deflated, "size", claim), {"a": says})
    members = {"a/data.pkl": b"\x80\x02].", "a/version": b"3\n"}
    pickle = altered(zipped(members, zipfile.ZIP_DEFLATED), "size", 0xFFFFFFF0)
    yield refused("a pickle that claims 4 GB", "x.pt", pickle, "are allowed")
    for gigabytes, expected in ((1, "zero"), (4, "failed: bomb")):
        made = partial(write_zeros, gigabytes * (1 << 30) - 1024)
        yield Case(f"a bomb of {gigabytes} GB", {"x.npz": made}, {"zeros": expected}, heavy=True)


def write_zeros(size: int, path: Path) -> None:
    """A .npz of one array of zeros, deflated a thousand to one."""
    header = saved(np.zeros(0, np.float32))[:10]
    values = (size - 128) // 4
    literal = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({values},), }}".ljust(117) + "\n"
    header = header[:8] + struct.pack("<H", 118) + literal.encode()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros.npy", "w", force_zip64=True) as out,
    ):
        out.write(header)
        left = values * 4
        while left:
            left -= out.write(bytes(min(left, 1 << 24)))
