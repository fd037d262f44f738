"""Channels, groups and blocks through the library: which values are one unit, and a status for each of them.

That no unit sees its neighbours is in ``tests/search/test_nested.py``, how good a choice is in
``tests/search/test_accuracy.py``, what the row says of it in ``test_figures.py``.
"""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import klcal
from klcal.errors import UsageError
from klcal.quantizers.granularity import PerChannel, PerGroup, PerTensor
from klcal.tables.rows import Row
from tests.support.lazy import torch

METHODS = ("kl", "mse", "minmax", "percentile:99", "kl-classic")
DTYPES = ("int8", "uint8", "int4", "uint4", "int2", "nf4", "float8_e4m3fn")
FLOATS = ("nf4", "float8_e4m3fn")
HALF_STEP = 0.5 + 1e-6  # by which rounding a zero point may move an end, and float32


def matrix(rows: int = 6, columns: int = 300, seed: int = 0) -> np.ndarray:
    """Rows as different as channels are: sizes, outliers, signs, lattices."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * np.exp(2 * rng.standard_normal((rows, 1)))
    values[1::4] = np.abs(values[1::4])
    values[2::4] = np.round(values[2::4], 1)
    values[::3, 0] *= 20
    return values.astype(np.float32)


def unit(row: Row, number: int) -> Row:
    """All that the table says of one unit, but for what it is one of."""
    return replace(list(row.each_unit())[number], unit=None, note=None, reason=None, shape=None, per=None)


def squared_error(values: np.ndarray, row: Row) -> float:
    restored = klcal.dequantize(klcal.quantize(values, row), row)
    return float(((values.astype(float) - restored) ** 2).sum())


# --- which values are one unit, in which order


def test_a_transposed_tensor_has_the_same_channels():
    values = matrix(5, 40)
    expected = klcal.calibrate(values, dtype="int4", per="channel:0")
    for other in (values.T, np.asfortranarray(values).T, torch.from_numpy(values).T):
        found = klcal.calibrate(other, dtype="int4", per="channel:1")
        assert [unit(found, i) for i in range(5)] == [unit(expected, i) for i in range(5)]
        assert found.units.axis == 1


def test_groups_are_channels_of_the_tensor_cut_into_them():
    values = matrix(3, 100)
    row = klcal.calibrate(values, dtype="uint4", method="mse", per=PerGroup(30))
    assert (row.units.axis, row.units.size, row.units.shape) == (1, 30, (3, 4))
    for number in range(12):
        line, group = divmod(number, 4)
        part = values[line : line + 1, 30 * group : 30 * group + 30]
        alone = klcal.calibrate(part, dtype="uint4", method="mse", per="channel")
        assert unit(row, number) == unit(alone, 0), "the last of each line is short"


def test_groups_along_the_first_axis_are_those_of_the_transposed_tensor():
    values = matrix(3, 100)
    row = klcal.calibrate(values, dtype="int4", method="mse", per="group:30")
    found = klcal.calibrate(values.T.copy(), dtype="int4", method="mse", per="group:30,0")
    assert np.array_equal(found.units.scale.reshape(4, 3).T, row.units.scale.reshape(3, 4))


def test_blocks_are_the_tensors_that_they_cut_it_into():
    values = matrix(7, 100)
    row = klcal.calibrate(values, dtype="int4", method="mse", per="block:3,40")
    assert row.units.shape == (3, 3)
    for number in range(9):
        line, column = divmod(number, 3)
        part = values[3 * line : 3 * line + 3, 40 * column : 40 * column + 40]
        assert unit(row, number).scale == klcal.calibrate(part, dtype="int4", method="mse").scale


def test_a_stack_of_experts_is_the_experts_one_by_one():
    experts = np.stack([matrix(4, 64, seed) for seed in range(3)])
    row = klcal.calibrate(experts, dtype="int4", per="channel")
    each = [klcal.calibrate(expert, dtype="int4", per="channel") for expert in experts]
    assert np.array_equal(row.units.scale, np.concatenate([one.units.scale for one in each]))
    assert "experts" in row.note


def test_a_tensor_with_one_axis_has_one_scale_and_a_note():
    row = klcal.calibrate(matrix()[0], dtype="int8", method="mse", per="channel")
    assert isinstance(row.scale, float)
    assert "single axis" in row.note
    assert klcal.calibrate(matrix()[0], dtype="int8", method="mse").note is None


def test_the_unit_is_a_tensor_where_nothing_else_is_said():
    assert klcal.calibrate(matrix(), per=PerTensor()) == klcal.calibrate(matrix())
    assert klcal.calibrate(matrix(), per="channel") != klcal.calibrate(matrix())


def test_every_float_that_files_hold_has_channels():
    values = matrix(4, 100)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        tensor = torch.from_numpy(values / 10).to(dtype)
        row = klcal.calibrate(tensor, dtype="int8", method="minmax", per="channel")
        largest = tensor.float().abs().amax(dim=1).numpy()
        assert np.allclose(row.units.scale, largest / 127)


# --- activations, batch by batch


@pytest.mark.parametrize("method", ["kl", "percentile:99"])
@pytest.mark.parametrize("shape", [(5, 6), (4, 6, 3, 2), (900, 6)], ids=str)
def test_the_sum_of_batches_has_the_row_of_all_of_them(shape, method):
    """Few values for each channel, and more distinct ones than a sketch keeps whole."""
    rng = np.random.default_rng(1)
    width = np.exp(np.arange(6)).reshape(6, *[1] * (len(shape) - 2))
    batches = [(width * rng.standard_normal(shape)).astype(np.float32) for _ in range(6)]
    pooled = sum(klcal.sketch(batch, per=klcal.PerChannel(1)) for batch in batches)
    row = klcal.calibrate(pooled, method=method)
    at_once = klcal.calibrate(np.concatenate(batches), per=klcal.PerChannel(1), method=method)
    assert (row.units.axis, row.units.shape, row.units.scale.size) == (1, (6,), 6)
    assert row == replace(at_once, shape=None)
    assert row != klcal.calibrate(sum(klcal.sketch(batch, per=klcal.PerChannel(1)) for batch in batches[1:]))


def test_a_sketch_of_one_unit_has_no_channels():
    with pytest.raises(UsageError, match="no axes"):
        klcal.calibrate(klcal.sketch([1.0]), per="channel")


# --- one path


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "nf4"])
@pytest.mark.parametrize("scale_format", ["float32", "float16", "bfloat16", "e8m0"])
@pytest.mark.parametrize("bounds", [None, (-1.0, 2.0)])
def test_no_unit_sees_its_neighbours_where_some_have_fewer_candidates_or_equal_ones(dtype, scale_format, bounds):
    """Rows within the bounds and beyond them, on a lattice and not, with few values in use and many."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(64) * sigma for sigma in (1, 0.1, 3, 0.01)]
    rows += [rng.integers(-1, 2, 64) * 1.3 for _ in range(3)]
    rows.append(np.append(rng.standard_normal(63), 1e4))
    values = np.float32(rows)
    options = {"dtype": dtype, "method": "mse", "per": "channel", "scale_format": scale_format, "bounds": bounds}
    together = klcal.calibrate(values, **options)
    for number in range(len(values)):
        assert unit(klcal.calibrate(values[number : number + 1], **options), 0) == unit(together, number)


@pytest.mark.parametrize("method", METHODS[:4])
def test_how_many_are_searched_at_a_time_does_not_matter(monkeypatch, method):
    values = matrix(64)
    options = {"dtype": "uint4", "method": method, "per": "channel"}
    expected = klcal.calibrate(values, **options)
    for name, number in (
        ("klcal.search.chosen.PIECES_AT_ONCE", 1000),
        ("klcal.search.chosen.UNITS_AT_ONCE", 3),
        ("klcal.kernels.points.BLOCK", 1 << 8),
        ("klcal.search.units.BLOCK", 1 << 10),
        ("klcal.search.units.FEW_AT_ONCE", 2),
    ):
        monkeypatch.setattr(name, number)
        assert klcal.calibrate(values, **options) == expected


def test_many_units_of_few_values_take_little_memory():
    """A few at a time: the candidates of all of them would take gigabytes."""
    values = np.ones((5_000, 3), np.float32) * np.float32([1, 2, 3.3])
    tracemalloc.start()
    klcal.calibrate(values, dtype="uint8", method="mse", per="channel")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


# --- what units are for


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["channel", "group:50", "block:2,100"])
def test_units_have_no_more_squared_error_than_one_scale_for_all(dtype, per):
    for seed in range(4):
        values = matrix(seed=seed)
        whole = klcal.calibrate(values, dtype=dtype, method="mse")
        parts = klcal.calibrate(values, dtype=dtype, method="mse", per=per)
        assert squared_error(values, parts) <= squared_error(values, whole)


@pytest.mark.parametrize("scale_format", ["float16", "bfloat16", "e8m0"])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "float4_e2m1fn"])
def test_scales_of_units_are_those_of_their_format(scale_format, dtype):
    row = klcal.calibrate(matrix(12, 400), per="channel", dtype=dtype, method="mse", scale_format=scale_format)
    bits = {"float16": 11, "bfloat16": 8, "e8m0": 1}[scale_format]
    assert all((math.frexp(scale)[0] * 2**bits).is_integer() for scale in row.units.scale)


def test_kl_decides_by_d_where_a_unit_has_the_values_for_it():
    """2,040 bins of 4 values; the note says of how many units else the MSE decided. D is reported all the same."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.standard_normal(20_000), rng.laplace(size=20_000)]).astype(np.float32)
    row = klcal.calibrate(values, dtype="int8", per="channel")
    assert row.note is None
    for number, channel in enumerate(values):  # buckets of a unit are coarser far from its extremes
        alone, least = (klcal.calibrate(channel, dtype="int8", method=method).mse for method in ("kl", "mse"))
        loss = klcal.calibrate(channel, dtype="int8").kl + 2 * alone / least
        assert row.units.kl[number] + 2 * row.units.mse[number] / least == pytest.approx(loss, rel=0.01)
    few = klcal.calibrate(values[:, :8000], dtype="int8", per="channel")
    by_mse = klcal.calibrate(values[:, :8000], dtype="int8", per="channel", method="mse")
    assert few.note == "chosen by mse: fewer than 8,160 nonzero values"
    assert few == replace(by_mse, method=few.method, note=few.note)
    assert (few.units.kl > 0).all()


def test_the_weight_of_kl_matters_where_d_decides():
    values = np.random.default_rng(0).laplace(size=(3, 9000)).astype(np.float32)
    light = klcal.calibrate(values, dtype="int4", method="kl:weight=0.01", per="channel")
    heavy = klcal.calibrate(values, dtype="int4", method="kl:weight=100", per="channel")
    assert (light.units.kl < heavy.units.kl).all()
    assert (light.units.mse >= heavy.units.mse).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint4", "nf4", "float8_e4m3fn"])
@pytest.mark.parametrize("method", METHODS)
def test_bounds_bound_every_unit(dtype, method):
    """To half a step of an affine zero point; a symmetric scheme keeps as much on both sides."""
    values = matrix(8, 200)
    bounded = klcal.calibrate(values, dtype=dtype, method=method, per="channel", bounds=(-1.0, 0.5)).units
    is_affine = dtype.startswith("u")
    beyond = HALF_STEP * bounded.scale if is_affine else 1e-6
    assert (bounded.low >= -1.0 - beyond).all()
    assert (bounded.high <= (0.5 if is_affine else 1.0) + beyond).all()


@pytest.mark.parametrize("dtype", ["int8", "nf4", "uint4"])
def test_a_value_far_beyond_what_scales_reach_costs_no_other_unit(dtype):
    values = matrix(8, 200)
    expected = klcal.calibrate(values, dtype=dtype, per="channel", bounds=(-1.0, 1.0))
    values[3, 7] = 1e30
    found = klcal.calibrate(values, dtype=dtype, per="channel", bounds=(-1.0, 1.0))
    assert [unit(found, i) for i in (0, 7)] == [unit(expected, i) for i in (0, 7)]
    assert found.units.scale[3] > 0
    narrow = klcal.calibrate(values, dtype=dtype, per="channel", scale_format="float16")
    assert narrow.units.status.tolist() == ["overflow" if i == 3 else "ok" for i in range(8)]
    assert np.isnan(narrow.units.scale[3])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_value_and_extremes_of_float32_have_a_finite_scale_above_zero(dtype, method):
    for value in (1.0, -1.0, 3.4e38, -3.4e38, 1e-38):
        row = klcal.calibrate(np.float32([[value], [1.0]]), dtype=dtype, method=method, per="channel")
        assert row.status == "ok"
        assert ((row.units.scale > 0) & np.isfinite(row.units.scale)).all()
    wide = np.float32([[3.4e38, -3.4e38, 1, 0], [1, 2, 3, 4]])
    assert klcal.calibrate(wide, dtype=dtype, method=method, per="channel").units.status is None


# --- what has no scale


def test_every_unit_has_a_status_of_its_own_and_costs_the_others_nothing():
    values = matrix(8, 100).astype(np.float64)
    good = klcal.calibrate(values[:1], dtype="int8", per="channel")
    values[1], values[2, 3], values[3], values[4] = 0, np.inf, 0.25, 1e-45
    values[5, 8], values[6] = 1e300, 1e-300
    row = klcal.calibrate(values, dtype="int8", per="channel")
    statuses = ["ok", "zero", "nonfinite", "ok", "underflow", "overflow", "underflow", "ok"]
    assert (row.status, row.units.status.tolist()) == ("ok", statuses)
    assert row.reason == "of 8 units: 3 ok, 1 zero, 1 nonfinite, 2 underflow, 1 overflow"
    assert unit(row, 0) == unit(good, 0)
    assert row.units.scale[3] * 127 == pytest.approx(0.25)
    assert np.isnan(row.units.scale).tolist() == [status != "ok" for status in statuses]
    assert [each.zero_point for each in row.each_unit()] == [0 if status == "ok" else None for status in statuses]
    assert row.failed


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (0.0, "zero", "every value is 0"),
        (np.nan, "nonfinite", "no finite value"),
        (1e-45, "underflow", "float32 has no scale as small as"),
        (1e-300, "underflow", "every value is 0 as float32"),
        (1e300, "overflow", "12 of 12 values are beyond float32"),
    ],
)
def test_a_tensor_without_a_good_unit_has_one_status(value, status, reason):
    row = klcal.calibrate(np.full((3, 4), value), dtype="int8", per="channel")
    assert (row.status, row.units.status, row.scale) == (status, None, None)
    assert reason in row.reason
    assert [(each.unit, each.status, each.scale) for each in row.each_unit()] == [(i, status, None) for i in range(3)]


def test_values_that_are_not_finite_can_be_ignored_unit_by_unit():
    values = matrix(3, 50)
    values[1, 3] = np.nan
    row = klcal.calibrate(values, dtype="int8", per="channel", nonfinite="ignore")
    without = klcal.calibrate(np.delete(values[1:2], 3, axis=1), dtype="int8", per="channel")
    assert row.units.scale[1] == without.units.scale[0]
    assert (row.nan, row.status, row.units.status) == (1, "ok", None)


def test_no_values_have_no_units():
    assert klcal.calibrate(np.empty((0, 5), np.float32), per="channel").status == "empty"


@pytest.mark.parametrize("wrong", [PerChannel, None, 3])
def test_an_invalid_unit_is_a_usage_error(wrong):
    with pytest.raises(UsageError, match="unit"):
        klcal.calibrate(matrix(), per=wrong)


@pytest.mark.parametrize("arguments", [(1.0,), ("0",)])
def test_an_axis_is_an_int(arguments):
    with pytest.raises(UsageError, match="int"):
        PerChannel(*arguments)


@pytest.mark.parametrize("arguments", [(2.5,), ("8",), (8, None)])
def test_the_size_of_a_group_is_an_int(arguments):
    with pytest.raises(UsageError, match="int"):
        PerGroup(*arguments)
