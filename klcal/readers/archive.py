"""The zip rules that .npz and .pt share: every field of an archive is checked before it is used.

``zipfile`` parses the directory. This module finds where the data of each member really lie, and checks that they are
what the directory says. A reader that trusts an archive can be made to read one member where another tool reads a
second one of the same name, or to inflate megabytes to terabytes.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from klcal.errors import InputError
from klcal.readers.byte_stream import ByteStream
from klcal.readers.description import CHUNK_BYTES
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile

__all__ = ["Member", "open_archive"]

MAX_MEMBERS = 1 << 17  # files in an archive: 100,000 tensors, and other files beside them
MAX_DIRECTORY_BYTES = 1 << 24  # 128 bytes for each member; zipfile holds the directory in memory
BOMB_BYTES = 1 << 30  # up to here any ratio is harmless, a mask of zeros deflates 1000:1
BOMB_RATIO = 200  # inflated bytes per stored byte beyond that
INFLATE_BYTES = 1 << 16  # stored bytes given to zlib at a time
HEADS_BYTES = 1 << 13  # read at a time where the headers of many members are
LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
LOCAL_MAGIC = b"PK\x03\x04"
ENTRY_MAGIC = b"PK\x01\x02"  # of a member in the directory
ENCRYPTED = 0x2041  # flag bits 0, 6 and 13: traditional, strong, masked headers
PATCH = 0x0020  # flag bit 5: the data are a difference to another file's
UTF8_NAME = 0x0800  # flag bit 11
DIRECTORY = 0x10  # external attribute, as MS-DOS had it: torch delivers no data for such a member
DAMAGED = "download or save it again"
UNSAFE = "take the file from a source you trust, or save it without compression"


@dataclass(frozen=True)
class Member:
    """One file of an archive: a range of bytes, stored as they are or deflated."""

    file: RegularFile
    name: str
    offset: int  # bytes from the start of the file to its data
    stored: int  # bytes it occupies there
    size: int  # bytes of its content
    crc: int  # CRC-32 of its content; 0 where the writer computed none
    deflated: bool = False

    def blocks(self) -> Iterator[memoryview]:
        """The content piece by piece; raises InputError where size or CRC-32 are not as declared."""
        crc = size = 0
        for block in self._inflated() if self.deflated else self.file.blocks(self.offset, self.size):
            crc = zlib.crc32(block, crc)
            size += len(block)
            yield block
        if size != self.size:
            raise InputError(f"the compressed data end after {size:,} of {self.size:,} bytes", DAMAGED)
        if self.crc not in (0, crc):
            raise self.changed()

    def changed(self) -> InputError:
        """The error for content of another CRC-32 than its writer's."""
        return InputError(f"the data of {quoted(self.name)} do not match their CRC-32: bits have changed", DAMAGED)

    def check(self) -> None:
        """Raise InputError where the content does not match its CRC-32."""
        for _ in self.blocks():
            pass

    def read(self, limit: int) -> bytes:
        """The whole content, refused where it is longer than ``limit`` bytes."""
        if self.size > limit:
            raise InputError(
                f"its member {quoted(self.name)} claims {self.size:,} bytes; {limit:,} are allowed", DAMAGED
            )
        content = io.BytesIO()  # hands over its content without a copy
        for block in self.blocks():  # each is gone when the next one comes
            content.write(block)
        return content.getvalue()

    def head(self, length: int) -> bytes:
        """The first ``length`` bytes, or all there are; their CRC-32 is not checked."""
        if not self.deflated:
            return self.file.read(self.offset, min(length, self.size))
        content = bytearray()
        for block in self._inflated():
            content += block
            if len(content) >= length:
                break
        return bytes(content[:length])

    def _inflated(self) -> Iterator[memoryview]:
        if self.size > max(BOMB_BYTES, BOMB_RATIO * self.stored):
            raise InputError(f"{self.stored:,} bytes claim to hold {self.size:,}: a decompression bomb", UNSAFE)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        left = self.size
        try:
            for stored in self.file.blocks(self.offset, self.stored, INFLATE_BYTES):
                rest: bytes | memoryview = stored
                while not inflater.eof:
                    # One byte more than is left shows that there is more than was declared.
                    wanted = min(CHUNK_BYTES, left + 1)
                    block = inflater.decompress(rest, wanted)
                    left -= len(block)
                    if left < 0:
                        raise InputError(f"the compressed data hold more than {self.size:,} bytes", DAMAGED)
                    yield memoryview(block)
                    rest = inflater.unconsumed_tail
                    if not rest and len(block) < wanted:
                        break
        except zlib.error:
            raise InputError("the compressed data are damaged", DAMAGED) from None
        if not inflater.eof:
            raise InputError("the compressed data end too early", DAMAGED)


def open_archive(file: RegularFile) -> dict[str, Member]:
    """The members of an archive by name, in the order of its directory.

    Raises:
        InputError: If the archive is damaged, or reads differently in different tools: two members
            of one name, members that overlap, names that differ between directory and member.
    """
    infos, directory = _directory(file)
    members: dict[str, Member] = {}
    heads = _Heads(file)
    for info in infos:
        member = _member(heads, info)
        if member.name in members:
            raise InputError(f"the archive has two members named {quoted(member.name)}", DAMAGED)
        members[member.name] = member
    _check_layout(infos, members, directory)
    return members


class _Bounded(ByteStream):
    """Counts the entries of the directory, which is read at once, before ``zipfile`` makes objects of them."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        members = data.count(ENTRY_MAGIC)
        if members > MAX_MEMBERS:
            raise InputError(
                f"the archive has {members:,} members; {MAX_MEMBERS:,} are allowed", "save fewer in a file"
            )
        return data


def _directory(file: RegularFile) -> tuple[list[zipfile.ZipInfo], int]:
    try:
        with zipfile.ZipFile(_Bounded(file, 0, file.size, MAX_DIRECTORY_BYTES)) as archive:
            return archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, OSError):
        hint = "the download may be incomplete: download or save it again"
        raise InputError("the archive has no sound directory at its end", hint) from None


class _Heads:
    """The members' own headers. Small members lie side by side, so each read fetches a few."""

    def __init__(self, file: RegularFile) -> None:
        self.file = file
        self.start = 0
        self.window = b""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on, which is inside the file; fewer where it ends."""
        if not self.start <= offset <= self.start + len(self.window) - length:
            self.window = self.file.read(offset, min(max(length, HEADS_BYTES), self.file.size - offset))
            self.start = offset
        return self.window[offset - self.start : offset - self.start + length]


def _member(heads: _Heads, info: zipfile.ZipInfo) -> Member:
    file, name = heads.file, info.orig_filename
    if info.flag_bits & ENCRYPTED:
        raise _wrong(name, "is encrypted", "decrypt the archive first")
    if info.flag_bits & PATCH:
        raise _wrong(name, "is a patch for other data", DAMAGED)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        what = f"is compressed with zip method {info.compress_type}"
        raise _wrong(name, what, "only stored and deflated members can be read")
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    header = info.header_offset
    if not 0 <= header <= file.size - LOCAL_HEADER.size:
        raise _wrong(name, "begins outside the file", DAMAGED)
    raw_name = _raw_name(info)
    local = heads.read(header, LOCAL_HEADER.size + len(raw_name))
    magic, *_, name_length, extra_length = LOCAL_HEADER.unpack_from(local)
    offset = header + LOCAL_HEADER.size + name_length + extra_length
    if magic != LOCAL_MAGIC or offset + info.compress_size > file.size:
        raise _wrong(name, "is not where the archive's directory says", DAMAGED)
    if name_length != len(raw_name) or local[LOCAL_HEADER.size :] != raw_name or "\0" in name:
        raise _wrong(name, "has another name in its own header", DAMAGED)
    if info.external_attr & DIRECTORY and info.file_size:
        raise _wrong(name, "is marked as a folder and has data", DAMAGED)
    if not deflated and info.compress_size != info.file_size:
        raise _wrong(name, "has two different sizes", DAMAGED)
    return Member(file, name, offset, info.compress_size, info.file_size, info.CRC, deflated)


def _wrong(name: str, what: str, hint: str) -> InputError:
    return InputError(f"the member {quoted(name)} {what}", hint)


def _check_layout(infos: list[zipfile.ZipInfo], members: dict[str, Member], directory: int) -> None:
    """Members lie one behind the other, from the start of the file up to the directory."""
    end, before = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        member = members[info.orig_filename]
        if info.header_offset < end:
            raise InputError(f"the members {quoted(before)} and {quoted(member.name)} overlap", DAMAGED)
        if not end and info.header_offset:
            raise InputError(f"{info.header_offset:,} bytes stand before the first member", DAMAGED)
        end, before = member.offset + member.stored, member.name
    if end > directory:
        raise InputError(f"the member {quoted(before)} overlaps the archive's directory", DAMAGED)


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_NAME else "cp437")
