"""A .npz file: a zip archive of .npy files, each of them a tensor.

One damaged member costs the others nothing. The archive's rules are those of ``archive``, a member's header is
that of ``npy_file``.
"""

from __future__ import annotations

from collections import Counter

from klcal.errors import InputError
from klcal.readers import npy_file
from klcal.readers.archive import Member, open_archive
from klcal.readers.archive_parts import member_parts
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile

__all__ = ["describe"]

NO_ARRAY = "it is not an array but a file of another kind; give an archive that numpy.savez wrote"
SUFFIX = ".npy"  # of a member that is an array; numpy.load leaves it out of the name


def describe(file: RegularFile, name: str) -> list[Description]:
    """The arrays of a .npz file, in the order of its directory.

    Args:
        file: The file.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If the archive is damaged, or two of its members come to one name.
    """
    members = open_archive(file)
    described = [_describe_one(member.removesuffix(SUFFIX), members[member]) for member in members]
    name, times = Counter(each.name for each in described).most_common(1)[0] if described else ("", 0)
    if times > 1:
        raise InputError(f"two of its members are called {quoted(name)}", "save the arrays under other names")
    return described


def _describe_one(name: str, member: Member) -> Description:
    if not member.name.endswith(SUFFIX):
        return Description(name, "", (), status="unsupported", reason=NO_ARRAY)
    try:
        header = npy_file.parse(member.head(npy_file.HEAD_BYTES), member.size)
        parts = member_parts(member, header.offset, header.nbytes, header.storage)
        if not header.length and header.status != "unsupported":  # no data will be read that could show damage
            member.check()
    except InputError as error:
        return Description(name, "", (), status="failed", reason=str(error))
    return npy_file.described(name, header, parts)
