"""What tells one input from another: a hash of its values as they pass by to be counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.sketches.stretch import Stretch

__all__ = ["watched"]

MARK_BYTES = 16  # two of a billion are alike with a chance below 1e-20
END_BYTES = 1 << 12  # of the first chunk that are hashed themselves; of all others their sum
WORD = 8  # bytes


@dataclass
class _Watched:
    """A stretch of values, whose fingerprint joins others once it has been read."""

    of: Stretch
    dtype: str
    found: set[bytes]

    @property
    def repeats(self) -> int:
        return self.of.repeats

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """The values; of each chunk the sum of its words costs a tenth of counting it."""
        total, words, nbytes, first, start = 0, 0, 0, 0, b""
        for chunk in self.of.chunks():
            data = np.ascontiguousarray(chunk).view(np.uint8)
            whole = data[: data.size // WORD * WORD].view(np.uint64)
            rest = data[whole.nbytes :].tobytes()
            if not nbytes:
                start, first = data[:END_BYTES].tobytes(), int(whole[0]) if whole.size else 0
            total += int(whole.sum(dtype=np.uint64)) + int.from_bytes(rest, "little")
            words += whole.size
            nbytes += data.size
            yield chunk
        if total % (1 << 64) != first * words % (1 << 64):  # else all words are one: a mask, or a constant
            mark = blake2b(f"{self.dtype} {nbytes} {total % (1 << 64)}".encode(), digest_size=MARK_BYTES)
            mark.update(start)
            self.found.add(mark.digest())


def watched(part: Stretch, dtype: str, found: set[bytes]) -> Stretch:
    """The same stretch of values; that it was read adds its fingerprint to those that were found.

    It is one of the values in their order, as they are stored. A stretch in which all values are one has none: there
    are many such masks and constants, and they are no less different inputs.
    """
    return _Watched(part, dtype, found)
