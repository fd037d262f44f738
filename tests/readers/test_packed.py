"""Packed codes of compressed-tensors: what lies beside them has to fit, or they stay codes."""

import numpy as np
import pytest
import safetensors.numpy

from klcal.readers import read
from klcal.sketches.stored import stored_values

WORDS = np.array([[0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98]] * 3, np.uint32).view(np.int32)
GOOD = {
    "m.weight_packed": WORDS,
    "m.weight_scale": np.array([[1, 0.5], [1, 2], [-1, 1]], np.float32),
    "m.weight_shape": np.array([3, 32]),
}
POINTS = np.array([[0x876, 0x888]], np.uint32).view(np.int32)  # of rows −2, −1, 0 and 0, 0, 0


def weight(folder, **changes):
    """What the codes stand for; None where they stay codes. A change of None leaves a tensor out."""
    tensors = {**GOOD, **{f"m.{name}": value for name, value in changes.items()}}
    path = folder / "m.safetensors"
    safetensors.numpy.save_file({name: each for name, each in tensors.items() if each is not None}, path)
    found = read(path)
    assert {each.status for each in found.values()} == {"skipped"}
    whole = found["m.weight_packed"].dequantized
    return None if whole is None else stored_values(whole)


def test_codes_of_four_bits_in_groups(tmp_path):
    steps = np.arange(-8, 8)
    expected = [[*(steps * one), *(steps * other)] for one, other in GOOD["m.weight_scale"]]
    np.testing.assert_array_equal(weight(tmp_path), expected)


def test_zero_points_are_of_columns(tmp_path):
    with_points, without = weight(tmp_path, weight_zero_point=POINTS), weight(tmp_path)
    moved = np.repeat([[2.0], [1.0], [0.0]] * GOOD["m.weight_scale"][:, :1], 16, axis=1)
    np.testing.assert_array_equal(with_points - without, np.concatenate([moved, np.zeros((3, 16))], axis=1))


MISFITS = {
    "no shape": {"weight_shape": None},
    "a shape of three": {"weight_shape": np.array([3, 32, 1])},
    "a shape of floats": {"weight_shape": np.array([3.0, 32.0])},
    "another number of rows": {"weight_shape": np.array([4, 32])},
    "columns of no width": {"weight_shape": np.array([3, 9])},
    "no columns": {"weight_shape": np.array([3, 0])},
    "fewer than no columns": {"weight_shape": np.array([3, -32])},
    "very many columns": {"weight_shape": np.array([3, 1 << 62])},
    "groups of different sizes": {"weight_scale": np.ones((3, 5), np.float32)},
    "scales of no group": {"weight_scale": np.ones((3, 0), np.float32)},
    "scales of other rows": {"weight_scale": np.ones((2, 2), np.float32)},
    "scales along one axis": {"weight_scale": np.ones(6, np.float32)},
    "scales of integers that are none": {"weight_scale": np.ones((3, 2), bool)},
    "zero points of other rows": {"weight_zero_point": np.ones((2, 2), np.int32)},
    "zero points of other groups": {"weight_zero_point": np.ones((1, 3), np.int32)},
    "columns in another order": {"weight_g_idx": np.zeros(32, np.int32)},
    "several global scales": {"weight_global_scale": np.ones(2, np.float32)},
    "codes along three axes": {"weight_packed": WORDS[None]},
}


@pytest.mark.parametrize("case", MISFITS)
def test_codes_stay_codes_where_something_does_not_fit(tmp_path, case):
    assert weight(tmp_path, **MISFITS[case]) is None


def test_a_width_that_is_not_known_is_not_guessed(tmp_path):
    """Four columns take a word in 1 to 8 bits; 32 columns do in one bit alone."""
    packed, scale = np.zeros((3, 1), np.int32), np.ones((3, 1), np.float32)
    assert weight(tmp_path, weight_packed=packed, weight_scale=scale, weight_shape=np.array([3, 4])) is None
    assert weight(tmp_path, weight_packed=packed, weight_scale=scale, weight_shape=np.array([3, 32])) is not None
