"""Values of 4 bits, two in a byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from klcal.readers.description import Chunk, Part

__all__ = ["BITS", "Pairs", "paired", "stored_part"]

BITS = 4  # of such a value
PER_BYTE = 2


@dataclass(frozen=True)
class Pairs:
    """A ``Part``: the lower bits of a byte come first, as in torch.float4_e2m1fn_x2 and in ONNX."""

    of: Part  # the bytes
    is_odd: bool = False  # whether the last of them holds one value
    is_signed: bool = False  # whether they are integers from -8 to 7

    @property
    def nbytes(self) -> int:
        """Bytes that ``chunks`` reads."""
        return self.of.nbytes

    @property
    def repeats(self) -> int:
        """How often each value stands in the tensor."""
        return self.of.repeats

    def chunks(self) -> Iterator[Chunk]:
        """The values, each in a byte of its own.

        Raises:
            InputError: The file is damaged.
        """
        last: Chunk | None = None
        for pairs in self.of.chunks():
            if last is not None:
                yield last
            last = np.stack([pairs & 15, pairs >> BITS], axis=-1).reshape(-1)
            if self.is_signed:
                last = (last ^ 8).view(np.int8) - np.int8(8)
        if last is not None:
            yield last[:-1] if self.is_odd else last


def paired(bytes_of: Iterable[Part], count: int, *, is_signed: bool = False) -> tuple[Pairs, ...]:
    """The parts of ``count`` values, one for each of those of their bytes."""
    parts = tuple(bytes_of)
    return tuple(Pairs(part, part is parts[-1] and count % PER_BYTE == 1, is_signed) for part in parts)


def stored_part(part: Part) -> Part:
    """The part that has the bytes of this one in a file."""
    return part.of if isinstance(part, Pairs) else part
