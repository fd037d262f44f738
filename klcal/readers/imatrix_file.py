"""An importance matrix in the older form of llama.cpp: `llama-imatrix --output-format dat`.

The file is little endian. It has the number of entries; then, for each entry, the length of its name, the name, the
number of calls that were summed, the number of values, and the values, float32: Σ x² of the inputs of a weight, one for
each of its columns. If a weight has several matrices, such as experts, the columns of one follow those of another,
scaled as if each had seen all calls. The number of matrices is not stored, so an entry is a vector here. Newer files
end with the total number of calls and the name of the data. Values are taken as they are, because only ratios within a
tensor matter.
"""

from __future__ import annotations

import struct
from collections import Counter

from klcal.errors import InputError
from klcal.readers.description import Description
from klcal.readers.quoting import quoted
from klcal.readers.regular import RegularFile, spans

__all__ = ["describe"]

NUMBER = struct.Struct("<i")
COUNTS = struct.Struct("<2i")  # of calls, of values
LEAST_ENTRY = NUMBER.size + COUNTS.size + 4  # bytes: without a name, with one value
MAX_ENTRIES = 1 << 17  # the limit of tensors in an archive, too
MAX_NAME_BYTES = 1 << 12  # GGUF allows 64
DAMAGED = "make it again with llama-imatrix --output-format dat"
INCOMPLETE = "the download may be incomplete: download or save it again"


def describe(file: RegularFile, name: str = "") -> list[Description]:  # noqa: ARG001
    """The entries of an importance matrix, each a vector of float32, in the order of the file.

    Args:
        file: The file.
        name: The tensor's name in formats without names; not used here.

    Raises:
        InputError: If it is not such a file, or is damaged or cut short.
    """
    number = _number(file, 0)
    if not 1 <= number <= MAX_ENTRIES:
        raise InputError(f"it is not an importance matrix of llama.cpp: it would have {number:,} entries", DAMAGED)
    file.require(0, NUMBER.size + number * LEAST_ENTRY)
    found = []
    position = NUMBER.size
    for _ in range(number):
        each, position = _entry(file, position)
        found.append(each)
    _check_end(file, position)
    twice, times = Counter(each.name for each in found).most_common(1)[0]
    if times > 1:
        raise InputError(f"two of its entries are called {quoted(twice)}", DAMAGED)
    return found


def _number(file: RegularFile, position: int) -> int:
    number: int = NUMBER.unpack(file.read(position, NUMBER.size))[0]
    return number


def _entry(file: RegularFile, position: int) -> tuple[Description, int]:
    """The entry that begins at a position, and where it ends."""
    length = _number(file, position)
    if not 0 <= length <= MAX_NAME_BYTES:
        raise InputError(f"the name of an entry would have {length:,} bytes", DAMAGED)
    head = file.read(position + NUMBER.size, length + COUNTS.size)
    try:
        name = head[:length].decode()
    except UnicodeDecodeError:
        raise InputError("the name of an entry is not UTF-8", DAMAGED) from None
    _, values = COUNTS.unpack(head[length:])
    if values < 1:
        raise InputError(f"the entry {quoted(name)} would have {values:,} values", DAMAGED)
    start = position + NUMBER.size + len(head)
    end = start + 4 * values
    return Description(name, "float32", (values,), spans(file, start, end - start, "<f4")), end


def _check_end(file: RegularFile, position: int) -> None:
    """Whether nothing follows but the number of calls and the name of the data."""
    rest = file.size - position
    if rest and (rest < COUNTS.size or _number(file, position + NUMBER.size) != rest - COUNTS.size):
        raise InputError(f"{rest:,} bytes at its end belong to no entry", INCOMPLETE)
