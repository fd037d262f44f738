"""Blocks of 32 codes beside their scale, as GGML has them: codes to bytes, and bytes to values.

    Q8_0    d float16, 32 × int8                      x̂ = q · d
    Q4_0    d float16, 16 bytes                       x̂ = (q − 8) · d
    Q4_1    d and m float16, 16 bytes                 x̂ = q · d + m
    MXFP4   e uint8, 16 bytes of float4 patterns      x̂ = value · 2^(e − 127)

Of 16 bytes, number j has the code of value j in its lower four bits, and that of value j + 16 in its upper ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.quantizers.packing import EXPONENT_BIAS, exponents

__all__ = ["BLOCKS", "VALUES", "holds_offsets", "holds_scales", "packed_blocks", "restored_blocks"]

VALUES = 32  # of a block
HALF = VALUES // 2
HALF_BIAS = EXPONENT_BIAS + 1  # of an exponent by which twice the values are multiplied: all of them are float32 then
LEAST_INT4 = -8  # the code whose bits are all 0

NIBBLES = ("codes", "u1", HALF)
BLOCKS = {
    "Q8_0": np.dtype([("scale", "<f2"), ("codes", "i1", VALUES)]),
    "Q4_0": np.dtype([("scale", "<f2"), NIBBLES]),
    "Q4_1": np.dtype([("scale", "<f2"), ("offset", "<f2"), NIBBLES]),
    "MXFP4": np.dtype([("scale", "u1"), NIBBLES]),
}
"""A block of each type: its bytes."""
TWICE_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice the value of each pattern of a float4."""

Singles = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def packed_blocks(
    kind: str, codes: npt.NDArray[np.integer], scales: Singles, zero_points: npt.NDArray[np.integer] | int = 0
) -> Bytes:
    """The bytes of some blocks.

    Args:
        kind: one of ``BLOCKS``.
        codes: (blocks, 32): integers from −128 to 127 for Q8_0, −8 to 7 for Q4_0, 0 to 15 for Q4_1, else patterns.
        scales: (blocks,), numbers of float16, for MXFP4 powers of two; other numbers are rounded to them.
        zero_points: (blocks,), for Q4_1 alone: its offset is −zero_point · scale as the nearest float16.

    Returns:
        (blocks, bytes of a block).

    >>> packed_blocks("Q4_0", np.arange(32)[None] // 2 - 8, np.float32([0.5])).tobytes().hex(" ")
    '00 38 80 80 91 91 a2 a2 b3 b3 c4 c4 d5 d5 e6 e6 f7 f7'
    """
    found: npt.NDArray[Any] = np.empty(len(codes), BLOCKS[kind])
    with np.errstate(over="ignore"):
        found["scale"] = exponents(scales) if kind == "MXFP4" else scales
        if kind == "Q4_1":
            found["offset"] = _offsets(scales, zero_points)
    if kind == "Q8_0":
        found["codes"] = codes
    else:
        places = (codes - (LEAST_INT4 if kind == "Q4_0" else 0)).astype(np.uint8)
        found["codes"] = places[:, :HALF] | places[:, HALF:] << 4
    return found.view(np.uint8).reshape(len(codes), -1)


def _offsets(scales: Singles, zero_points: npt.NDArray[np.integer] | int) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float16] = (0 - zero_points * scales.astype(np.float64)).astype(np.float16)
    return found


def holds_scales(kind: str, scales: Singles) -> bool:
    """Whether blocks hold all of some scales without rounding.

    >>> holds_scales("Q4_0", np.float32([-0.1, 0.5])), holds_scales("MXFP4", np.float32([0.5, 2.0**-127]))
    (False, True)
    """
    if kind == "MXFP4":
        return bool((np.ldexp(1.0, exponents(scales).astype(int) - EXPONENT_BIAS) == scales).all())
    with np.errstate(over="ignore"):
        return bool((scales.astype(np.float16) == scales).all())


def holds_offsets(scales: Singles, zero_points: npt.NDArray[np.integer]) -> bool:
    """Whether no offset of Q4_1 is beyond float16."""
    return bool(np.isfinite(_offsets(scales, zero_points)).all())


def restored_blocks(kind: str, blocks: Bytes) -> Singles:
    """The values of blocks, float32 (blocks, 32): the inverse of ``packed_blocks``, except for rounding.

    Args:
        kind: one of ``BLOCKS``.
        blocks: the bytes of whole blocks.

    >>> restored_blocks("Q8_0", np.array([0, 52, *range(32)], np.uint8))[0, :4].tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    found = np.frombuffer(blocks, BLOCKS[kind])
    codes: npt.NDArray[Any] = found["codes"]
    factor: Singles = found["scale"].astype(np.float32)
    if kind == "Q8_0":
        values = codes.astype(np.float32)
    elif kind == "MXFP4":
        values, factor = TWICE_E2M1[_halves(codes)], np.ldexp(np.float32(1), found["scale"].astype(int) - HALF_BIAS)
    else:
        values = _halves(codes).astype(np.float32) + (LEAST_INT4 if kind == "Q4_0" else 0)
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinite scales give NaN and infinite values
        values *= factor[:, None]
        if kind == "Q4_1":
            values += found["offset"].astype(np.float32)[:, None]
    return values


def _halves(codes: Bytes) -> Bytes:
    """The codes of some blocks, lower bits first."""
    return np.concatenate([codes & 15, codes >> 4], axis=1)
