"""The values of an archive's members as parts, which are checked against their CRC-32 while they are read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from klcal.readers.archive import Member
from klcal.readers.description import Chunk, Part
from klcal.readers.regular import spans

__all__ = ["CrcCheck", "MemberSpan", "crc_checks", "member_parts"]


@dataclass(frozen=True)
class MemberSpan:
    """The values of a deflated member, in one pass from its start: nothing else can check its CRC-32."""

    member: Member
    skip: int  # bytes before the values
    length: int  # bytes of values
    storage: str  # NumPy dtype of a value as it lies there, such as "<f4"
    repeats: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.member.size

    def chunks(self) -> Iterator[Chunk]:
        """The values, as in every part."""
        dtype = np.dtype(self.storage)
        position, rest = 0, b""
        for block in self.member.blocks():
            first = max(0, self.skip - position)
            last = max(0, self.skip + self.length - position)
            position += len(block)
            data = rest + bytes(block[first:last])
            whole = len(data) // dtype.itemsize
            rest = data[whole * dtype.itemsize :]
            if whole:
                values = np.frombuffer(data, dtype, whole)
                yield values.astype(dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class CrcCheck:
    """A part without values: reads a stored member once and compares its CRC-32.

    So the values themselves can be read in any order and by several workers.
    """

    member: Member
    nbytes: int  # 0 where another tensor of the same member counts the work already
    repeats: int = 1

    def chunks(self) -> Iterator[Chunk]:
        """Nothing, or InputError."""
        if not _is_intact(self.member):
            raise self.member.changed()
        yield from ()


def member_parts(
    member: Member, skip: int, length: int, storage: str, *, counts_check: bool = True
) -> tuple[Part, ...]:
    """The parts of ``length`` bytes of values that begin ``skip`` bytes into a member.

    Args:
        member: Where the values lie.
        skip: Bytes before the first value.
        length: Bytes of values.
        storage: NumPy dtype of a value as it lies there.
        counts_check: Whether checking the CRC-32 is work of this tensor, or of an earlier one.
    """
    if not length:
        return ()
    if member.deflated:
        return (MemberSpan(member, skip, length, storage),)
    return (*spans(member.file, member.offset + skip, length, storage), *crc_checks(member, counts_check))


def crc_checks(member: Member, counts_check: bool) -> tuple[CrcCheck, ...]:
    """The part that checks a stored member, none where its writer computed no CRC-32."""
    return (CrcCheck(member, member.size if counts_check else 0),) if member.crc else ()


@lru_cache(maxsize=1 << 12)  # storages: each is read once, however many tensors are views of it
def _is_intact(member: Member) -> bool:
    crc = 0
    for block in member.file.blocks(member.offset, member.size):
        crc = zlib.crc32(block, crc)
    return crc == member.crc
