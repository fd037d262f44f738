"""Codes side by side: the words of hand-computed rows, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klcal.quantizers.packing import exponents, packed, unpacked, words

SIGNED = 8  # what is added to a signed code of 4 bits


@pytest.mark.parametrize(
    ("codes", "bits", "expected"),
    [
        (np.arange(-8, 8) + SIGNED, 4, [0x76543210, 0xFEDCBA98]),
        (np.array([-4, -3, -2, -1, 0, 1, 2, 3, -4, 3, 0]) + 4, 3, [0x38FAC688, 0x00000001]),  # one straddles the words
        (np.array([-8, -3, 0, 7, 1, 2, 3, 4, 5]) + SIGNED, 4, [0xCBA9F850, 0x0000000D]),
        (np.array([255, 0, 1]), 8, [0x000100FF]),
        (np.array([1, 0, 1, 1]), 1, [0x0000000D]),
    ],
)
def test_rows_computed_by_hand(codes: np.ndarray, bits: int, expected: list[int]) -> None:
    assert packed(codes[None], bits).copy().view("<u4").tolist() == [expected]


@given(st.integers(1, 8), st.integers(0, 4), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_packing_is_a_concatenation_of_bits(bits: int, rows: int, columns: int, seed: int) -> None:
    """Bit i of code j is bit j · bits + i of the row: of the reference, bit by bit; and unpacking gives the codes."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns))
    found = packed(codes, bits)
    assert found.shape == (rows, 4 * words(columns, bits))
    single = (codes[:, :, None] >> np.arange(bits) & 1).reshape(rows, bits * columns)
    expected = np.packbits(single.astype(np.uint8), axis=1, bitorder="little")
    assert (found[:, : expected.shape[1]] == expected).all()
    assert not found[:, expected.shape[1] :].any()
    assert (unpacked(found, bits, columns) == codes).all()


def test_exponents_are_powers_of_two() -> None:
    powers = np.arange(255, dtype=np.uint8)
    assert (exponents(np.ldexp(1.0, np.arange(-127, 128))) == powers).all()
