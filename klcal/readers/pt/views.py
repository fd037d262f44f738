"""A limit on the bytes that all views of one file together may have read again, whatever they claim."""

from __future__ import annotations

from klcal.errors import InputError
from klcal.readers.description import Part
from klcal.readers.pt.strided import StridedSpan

__all__ = ["Views"]

MAX_REREAD = 8  # times the file's bytes that all views together may have read
MIN_REREAD_BYTES = 1 << 28  # on top of the file's: two seconds' work is never too much


class Views:
    """A budget for reading bytes again: a small file can hold thousands of views of all its bytes."""

    def __init__(self) -> None:
        self.checked: set[str] = set()  # storages whose CRC-32 is compared, and texts of arrays
        self.nbytes = 0

    def add(self, parts: tuple[Part, ...], storage: str, size: int, file_size: int) -> None:
        """Counts one more tensor of a storage of some size; raises InputError where it is too much for its file."""
        nbytes = sum(part.effort if isinstance(part, StridedSpan) else part.nbytes for part in parts)
        again = nbytes if storage in self.checked else max(0, nbytes - 2 * size)  # the values, and the CRC-32
        limit = MAX_REREAD * (MIN_REREAD_BYTES + file_size)
        if self.nbytes + again > limit:
            what = f"reading it costs as much as {nbytes:,} bytes; with the views before it that exceeds {limit:,}"
            raise InputError(what, "save tensor.contiguous()")
        self.checked.add(storage)
        self.nbytes += again
