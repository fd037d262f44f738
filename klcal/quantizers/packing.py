"""Codes of a few bits packed into bytes, and powers of two as exponents: the forms in files of quantized models.

Each row is packed by itself: the first code in the lowest bits, no gaps between codes, the last word filled up with 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["EXPONENT_BIAS", "MOST_BITS", "WORD_BYTES", "exponents", "packed", "unpacked", "words"]

Bytes = npt.NDArray[np.uint8]

MOST_BITS = 8  # of a code: it is a byte here
WORD_BITS, WORD_BYTES = 32, 4  # readers take rows of int32
TOGETHER = 8  # codes: with b bits each they fill b bytes, and fit into 64 bits
EXPONENT_BIAS = 127  # of e8m0 (OCP MX, §5.4.1)


def words(columns: int, bits: int) -> int:
    """The number of 32-bit words of a row of codes.

    >>> words(11, 3), words(128, 4)
    (2, 16)
    """
    return -(-columns * bits // WORD_BITS)


def packed(codes: npt.NDArray[np.integer], bits: int) -> Bytes:
    """The bytes of some rows of codes.

    Args:
        codes: (rows, columns), each from 0 to 2^bits − 1.
        bits: of a code, 1 to 8.

    Returns:
        (rows, 4 · words(columns, bits)): little-endian words.

    >>> packed(np.arange(16)[None], 4).tobytes().hex(" ")
    '10 32 54 76 98 ba dc fe'
    """
    rows, columns = codes.shape
    groups = _whole(columns) // TOGETHER
    filled = np.zeros((rows, groups * TOGETHER), np.uint8)
    filled[:, :columns] = codes
    places = filled.reshape(rows, groups, TOGETHER)
    together = places[:, :, 0].astype("<u8")
    for place in range(1, TOGETHER):
        together |= places[:, :, place].astype("<u8") << np.uint64(place * bits)
    found = together.view(np.uint8).reshape(rows, groups, TOGETHER)[:, :, :bits].reshape(rows, groups * bits)
    return found[:, : words(columns, bits) * WORD_BYTES]


def unpacked(data: Bytes, bits: int, columns: int) -> Bytes:
    """The codes of some rows of bytes: the inverse of ``packed``.

    Args:
        data: (rows, 4 · words(columns, bits)).
        bits: of a code, 1 to 8.
        columns: the number of codes in a row.

    >>> unpacked(packed(np.arange(8)[None], 3), 3, 8).tolist()
    [[0, 1, 2, 3, 4, 5, 6, 7]]
    """
    rows, size = data.shape
    groups = _whole(columns) // TOGETHER
    filled = np.zeros((rows, groups * bits), np.uint8)
    filled[:, :size] = data
    together = np.zeros((rows, groups, TOGETHER), np.uint8)
    together[:, :, :bits] = filled.reshape(rows, groups, bits)
    lanes, mask = together.view("<u8")[:, :, 0], np.uint64((1 << bits) - 1)
    found = np.empty(together.shape, np.uint8)
    for place in range(TOGETHER):
        found[:, :, place] = lanes >> np.uint64(place * bits) & mask
    return found.reshape(rows, groups * TOGETHER)[:, :columns]


def _whole(columns: int) -> int:
    """The columns to which a row is filled up: with any number of bits they make whole words."""
    return -(-columns // WORD_BITS) * WORD_BITS


def exponents(scales: npt.NDArray[np.floating]) -> Bytes:
    """Powers of two as e8m0 has them: one byte, the exponent.

    >>> exponents(np.array([1.0, 0.5, 2.0**-127])).tolist()
    [127, 126, 0]
    """
    found: Bytes = (np.frexp(scales)[1] - 1 + EXPONENT_BIAS).astype(np.uint8)
    return found
