"""Channels and groups: each as if it were alone, as good as a tensor alone, and with a status of its own."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.granularity import PerChannel, PerGroup, PerTensor
from klcal.quantizers.per_unit import Numbers
from klcal.quantizers.scheme import Scheme
from klcal.search import row_methods, row_search, row_tables
from klcal.tables.table import UNIT_FIELDS, Row
from tests.support.lazy import torch
from tests.support.strategies import tensors

METHODS = ("kl", "mse", "minmax", "percentile:99", "kl-classic")
NOISE = 3e-7  # of the energy: what a bucket of 2⁻¹¹ of the greatest value cannot tell
DTYPES = ("int8", "uint8", "int4", "uint4", "int2", "nf4", "float8_e4m3fn")


def matrix(rows: int = 6, columns: int = 300, seed: int = 0) -> np.ndarray:
    """Rows as different as channels are: laws, sizes, outliers, signs."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * np.exp(2 * rng.standard_normal((rows, 1)))
    values[1::4] = np.abs(values[1::4])
    values[2::4] = np.round(values[2::4], 1)
    values[::3, 0] *= 20
    return values.astype(np.float32)


def unit(row: Row, number: int) -> tuple:
    """All that the table says of one unit."""
    values = (getattr(row, name) for name in UNIT_FIELDS)
    status = row.status if row.unit_status is None else row.unit_status[number]
    return (status, *(value[number] if isinstance(value, Numbers) else value for value in values))


def restored(values: np.ndarray, row: Row, dtype: str) -> np.ndarray:
    return klcal.dequantize(klcal.quantize(values, row, dtype if dtype in FLOATS else None), row)


def squared_error(values: np.ndarray, row: Row, dtype: str) -> float:
    return float(((values.astype(float) - restored(values, row, dtype)) ** 2).sum())


# --- a row does not see its neighbours


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_together_are_what_each_is_alone_bit_for_bit(method, dtype):
    if method == "kl-classic" and dtype not in ("int8", "uint4"):
        pytest.skip("a row at a time: slow, and the same code for all formats")
    values = matrix()
    values[4] = 0
    values[5, 7] = np.nan
    together = klcal.calibrate(values, dtype=dtype, method=method, per="channel")
    for number in range(len(values)):
        alone = klcal.calibrate(values[number : number + 1], dtype=dtype, method=method, per="channel")
        assert unit(alone, 0) == unit(together, number)


@settings(max_examples=60, deadline=None)
@given(st.lists(tensors(), min_size=2, max_size=6), st.sampled_from(DTYPES), st.sampled_from(METHODS[:4]))
def test_no_row_depends_on_those_beside_it(rows, dtype, method):
    """Groups of one tensor, the last of them short: one row of values, whatever lies beside it."""
    width = max(map(len, rows))
    values = np.stack([np.resize(row, width) for row in rows])
    together = klcal.calibrate(values, dtype=dtype, method=method, per=PerChannel(0))
    order = np.roll(np.arange(len(rows)), 1)
    moved = klcal.calibrate(values[order], dtype=dtype, method=method, per=PerChannel(0))
    assert [unit(moved, i) for i in range(len(rows))] == [unit(together, int(i)) for i in order]
    alone = klcal.calibrate(values[-1:], dtype=dtype, method=method, per=PerChannel(0))
    assert unit(alone, 0) == unit(together, len(rows) - 1)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "nf4"])
@pytest.mark.parametrize("scale_format", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bounds", [None, (-1.0, 2.0)])
def test_nor_where_some_have_fewer_candidates_or_equal_ones(dtype, scale_format, bounds):
    """Rows within the bounds and beyond them, on a lattice and not, with few values in use and many."""
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(64) * sigma for sigma in (1, 0.1, 3, 0.01)]
    rows += [rng.integers(-1, 2, 64) * 1.3 for _ in range(3)]
    rows.append(np.append(rng.standard_normal(63), 1e4))
    values = np.float32(rows)
    settings_ = {"dtype": dtype, "method": "mse", "per": "channel", "scale_format": scale_format, "bounds": bounds}
    together = klcal.calibrate(values, **settings_)
    for number in range(len(values)):
        assert unit(klcal.calibrate(values[number : number + 1], **settings_), 0) == unit(together, number)


@pytest.mark.parametrize("block", [1 << 8, 1 << 12])
def test_nor_on_how_many_are_searched_at_a_time(monkeypatch, block):
    values = matrix(64)
    expected = klcal.calibrate(values, dtype="int8", method="mse", per="channel")
    monkeypatch.setattr("klcal.sketches.row_sketch.BLOCK", block)
    assert klcal.calibrate(values, dtype="int8", method="mse", per="channel") == expected


def test_a_search_that_looks_at_all_rows_at_once_is_noticed(monkeypatch):
    """Its broken twin: where the search stops for all rows when it may for one."""
    values = matrix(16, 3000)
    ranking = row_search._ranking

    def shared(*arguments):
        found = ranking(*arguments)
        return replace(found, mse=np.broadcast_to(found.mse.mean(axis=0), found.mse.shape).copy())

    monkeypatch.setattr(row_search, "_ranking", shared)
    together = klcal.calibrate(values, dtype="int8", method="mse", per="channel")
    alone = [klcal.calibrate(values[i : i + 1], dtype="int8", method="mse", per="channel") for i in range(16)]
    assert [unit(together, i) for i in range(16)] != [unit(each, 0) for each in alone]


# --- units


def test_a_transposed_tensor_has_the_same_channels():
    values = matrix(5, 40)
    expected = klcal.calibrate(values, dtype="int4", per="channel:0")
    for other in (values.T, np.asfortranarray(values).T, torch.from_numpy(values).T):
        found = klcal.calibrate(other, dtype="int4", per="channel:1")
        assert [unit(found, i) for i in range(5)] == [unit(expected, i) for i in range(5)]
        assert found.axis == 1


def test_groups_are_channels_of_the_tensor_cut_into_them():
    values = matrix(3, 100)
    row = klcal.calibrate(values, dtype="uint4", method="mse", per=PerGroup(30))
    assert (row.axis, row.group_size, len(row.scale)) == (1, 30, 12)
    for number in range(12):
        line, group = divmod(number, 4)
        alone = klcal.calibrate(
            values[line : line + 1, 30 * group : 30 * group + 30], dtype="uint4", method="mse", per="channel"
        )
        assert unit(row, number) == unit(alone, 0), "the last of each line is short"


def test_groups_along_the_first_axis_are_those_of_the_transposed_tensor():
    values = matrix(3, 100)
    row = klcal.calibrate(values, dtype="int4", method="mse", per="group:30")
    found = klcal.calibrate(values.T.copy(), dtype="int4", method="mse", per="group:30,0")
    assert np.array_equal(np.reshape(found.scale, (4, 3)).T, np.reshape(row.scale, (3, 4)))


def test_a_stack_of_experts_is_the_experts_one_by_one():
    experts = np.stack([matrix(4, 64, seed) for seed in range(3)])
    row = klcal.calibrate(experts, dtype="int4", per="channel")
    each = [klcal.calibrate(expert, dtype="int4", per="channel") for expert in experts]
    assert row.scale == sum((tuple(one.scale) for one in each), ())
    assert "experts" in row.note


def test_what_has_one_axis_has_one_scale_and_says_so():
    row = klcal.calibrate(matrix()[0], dtype="int8", per="channel")
    assert isinstance(row.scale, float)
    assert "single axis" in row.note
    assert klcal.calibrate(matrix()[0], dtype="int8").note is None


def test_every_float_that_files_hold_has_channels():
    values = matrix(4, 100)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        tensor = torch.from_numpy(values / 10).to(dtype)
        row = klcal.calibrate(tensor, dtype="int8", method="minmax", per="channel")
        largest = tensor.float().abs().amax(dim=1).numpy()
        assert np.allclose(row.scale, largest / 127)


# --- as good as a search of one tensor, and better than one scale for all


@settings(max_examples=60, deadline=None)
@given(tensors(max_size=400), st.sampled_from(["int8", "int4", "uint4", "int2", "nf4", "float4_e2m1fn"]))
def test_a_row_is_as_good_as_the_tensor_alone(values, dtype):
    """Within the 5 % that no search may lose. Where a bucket ends decides between two values."""
    assume(values.size > 2)
    alone = klcal.calibrate(values, dtype=dtype, method="mse")
    row = klcal.calibrate(values[None], dtype=dtype, method="mse", per="channel")
    noise = NOISE * float((values.astype(float) ** 2).sum())
    assert squared_error(values[None], row, dtype) <= 1.05 * squared_error(values, alone, dtype) + noise


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4", "int2", "nf4", "float8_e4m3fn"])
def test_the_search_loses_less_than_a_percent_on_98_of_100_rows(dtype):
    values = matrix(100, 500, seed=3)
    row = klcal.calibrate(values, dtype=dtype, method="mse", per="channel")
    ratios = []
    for number, channel in enumerate(values):
        alone = klcal.calibrate(channel, dtype=dtype, method="mse")
        one = klcal.Qparams(row.scale[number], row.zero_point and row.zero_point[number], row.qmin, row.qmax)
        noise = NOISE * float((channel.astype(float) ** 2).sum())
        ratios.append((squared_error(channel, one, dtype) + noise) / (squared_error(channel, alone, dtype) + noise))
    assert np.quantile(ratios, 0.98) <= 1.01
    assert max(ratios) <= 1.05


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["channel", "group:50"])
def test_channels_have_no_more_squared_error_than_one_scale_for_all(dtype, per):
    for seed in range(4):
        values = matrix(seed=seed)
        whole = klcal.calibrate(values, dtype=dtype, method="mse")
        parts = klcal.calibrate(values, dtype=dtype, method="mse", per=per)
        assert squared_error(values, parts, dtype) <= squared_error(values, whole, dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, "uint3"])
@pytest.mark.parametrize("method", ["kl", "minmax", "percentile:98"])
def test_the_table_tells_the_error_of_the_real_thing(dtype, method):
    values = matrix(12, 2000)
    row = klcal.calibrate(values, dtype=dtype, method=method, per="channel")
    real = ((values.astype(float) - restored(values, row, dtype)) ** 2).mean(axis=1)
    even = np.arange(12) % 4 != 2  # the others lie on a lattice: on edges of cells, which round either way
    assert np.allclose(np.array(row.mse)[even], real[even], rtol=0.02)
    sqnr = 10 * np.log10((values[even].astype(float) ** 2).mean(axis=1) / real[even])
    assert np.allclose(np.array(row.sqnr_db, float)[even], sqnr, atol=0.1)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_are_those_of_torchs_own_cast(dtype):
    values = matrix(8, 500)
    row = klcal.calibrate(values, dtype=dtype, method="mse", per="channel")
    scale = np.array(row.scale, np.float32)[:, None]
    least, greatest = FLOATS[dtype][0], FLOATS[dtype][-1]
    steps = torch.from_numpy(np.clip(values / scale, least, greatest))
    cast = steps.to(getattr(torch, dtype)).float().numpy() * scale
    assert np.array_equal(cast, restored(values, row, dtype))


@pytest.mark.parametrize("per", [PerChannel(0), PerChannel(1), PerChannel(-1), PerGroup(30), PerGroup(4, 0)])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "nf4"])
def test_tensors_and_arrays_are_quantized_alike_by_units(per, dtype):
    values = matrix(6, 100)
    row = klcal.calibrate(values, dtype=dtype, per=per)
    form = dtype if dtype in FLOATS else None
    integers = klcal.quantize(values, row, form)
    tensor = klcal.quantize(torch.from_numpy(values), row, form)
    assert np.array_equal(tensor.numpy(), integers)
    assert np.array_equal(klcal.dequantize(tensor, row).numpy(), klcal.dequantize(integers, row))
    with pytest.raises(UsageError, match="do not fit the shape"):
        klcal.quantize(values[:, :50].T.copy(), row, form)


@pytest.mark.parametrize("scale_format", ["float16", "bfloat16", "e8m0"])
@pytest.mark.parametrize("dtype", ["int8", "uint4", "float4_e2m1fn"])
def test_scales_are_those_of_their_format_and_cost_what_a_tensor_alone_would_pay(scale_format, dtype):
    values = matrix(12, 400)
    settings_ = {"dtype": dtype, "method": "mse", "scale_format": scale_format}
    row = klcal.calibrate(values, per="channel", **settings_)
    for number, channel in enumerate(values):
        alone = klcal.calibrate(channel, **settings_)
        assert row.mse[number] <= 1.05 * alone.mse + NOISE * float((channel**2).mean())
        mantissa = math.frexp(row.scale[number])[0]
        bits = {"float16": 11, "bfloat16": 8, "e8m0": 1}[scale_format]
        assert (mantissa * 2**bits).is_integer()


# --- methods


def test_minmax_and_percentile_are_those_of_each_tensor_alone():
    values = matrix(12, 500)
    for method in ("minmax", "percentile:95"):
        for dtype in ("int8", "uint8"):
            row = klcal.calibrate(values, dtype=dtype, method=method, per="channel")
            alone = [klcal.calibrate(channel, dtype=dtype, method=method) for channel in values]
            assert np.allclose(row.scale, [each.scale for each in alone], rtol=4e-3)  # half a bucket
            assert row.zero_point == tuple(each.zero_point for each in alone)


def test_kl_decides_by_d_where_a_row_has_the_values_for_it():
    """2,040 bins of 4 values. D(P‖Q) is that of the tensor alone, as near as the coarser buckets of a row let it be."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.standard_normal(20_000), rng.laplace(size=20_000)]).astype(np.float32)
    row = klcal.calibrate(values, dtype="int8", per="channel")
    assert row.note is None
    for number, channel in enumerate(values):
        alone = klcal.calibrate(channel, dtype="int8")
        assert row.kl[number] == pytest.approx(alone.kl, rel=0.1)
        assert row.mse[number] == pytest.approx(alone.mse, rel=0.02)
    few = klcal.calibrate(values[:, :8000], dtype="int8", per="channel")
    assert few.kl is None
    assert "fewer than 8,160 values" in few.note
    assert few.scale == klcal.calibrate(values[:, :8000], dtype="int8", per="channel", method="mse").scale


def test_the_weight_of_kl_matters_where_d_decides():
    values = np.random.default_rng(0).laplace(size=(3, 9000)).astype(np.float32)
    light = klcal.calibrate(values, dtype="int4", method="kl:weight=0.01", per="channel")
    heavy = klcal.calibrate(values, dtype="int4", method="kl:weight=100", per="channel")
    assert all(a < b for a, b in zip(light.kl, heavy.kl, strict=True))
    assert all(a >= b for a, b in zip(light.mse, heavy.mse, strict=True))


@pytest.mark.parametrize("dtype", ["int8", "uint4", "nf4", "float8_e4m3fn"])
def test_bounds_bound_every_row(dtype):
    values = matrix(8, 200)
    row = klcal.calibrate(values, dtype=dtype, method="mse", per="channel", bounds=(-1.0, 0.5))
    step = 0 if dtype in FLOATS else np.array(row.scale)
    assert (np.array(row.low) >= -1.0 - step - 1e-6).all()
    assert (np.array(row.high) <= 1.0 + step + 1e-6).all()
    alone = [klcal.calibrate(channel, dtype=dtype, method="mse", bounds=(-1.0, 0.5)) for channel in values]
    assert all(a <= 1.05 * b.mse + 1e-9 for a, b in zip(row.mse, alone, strict=True))


@pytest.mark.parametrize("dtype", ["int8", "nf4", "uint4"])
def test_a_value_far_beyond_what_scales_reach_costs_no_other_channel(dtype):
    values = matrix(8, 200)
    expected = klcal.calibrate(values, dtype=dtype, per="channel", bounds=(-1.0, 1.0))
    values[3, 7] = 1e30
    found = klcal.calibrate(values, dtype=dtype, per="channel", bounds=(-1.0, 1.0))
    assert [unit(found, i) for i in (0, 7)] == [unit(expected, i) for i in (0, 7)]
    assert found.scale[3] > 0
    assert klcal.calibrate(values, dtype=dtype, per="channel", scale_format="float16").scale[3] > 0
    for method in METHODS:
        klcal.calibrate(np.float32([[3.4e38, -3.4e38, 1, 0], [1, 2, 3, 4]]), dtype=dtype, method=method, per="channel")


def test_many_rows_of_few_values_take_little_memory():
    """At most a few histograms at a time: all of them would take gigabytes."""
    tracemalloc.start()
    klcal.calibrate(
        np.ones((5_000, 3), np.float32) * np.float32([1, 2, 3.3]), dtype="uint8", method="mse", per="channel"
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


# --- what has no scale


def test_every_row_has_a_status_of_its_own_and_costs_the_others_nothing():
    values = matrix(6, 100)
    good = klcal.calibrate(values[:1], dtype="int8", per="channel")
    values[1], values[2, 3], values[3], values[4] = 0, np.inf, 0.25, 1e-45
    row = klcal.calibrate(values, dtype="int8", per="channel")
    assert row.status == "ok"
    assert row.unit_status == ("ok", "zero", "nonfinite", "ok", "underflow", "ok")
    assert row.reason == "of 6 units: 3 ok, 1 zero, 1 nonfinite, 1 underflow"
    assert unit(row, 0) == unit(good, 0)
    assert row.scale[3] * 127 == pytest.approx(0.25)
    assert [value is None for value in row.scale] == [False, True, True, False, True, False]
    assert row.zero_point == (0, None, None, 0, None, 0)
    assert row.failed


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        (0.0, "zero", "every value is 0"),
        (np.nan, "nonfinite", "no finite value"),
        (1e-45, "underflow", "is 0 as float32"),
    ],
)
def test_a_tensor_without_a_good_row_has_one_status(value, status, reason):
    row = klcal.calibrate(np.full((3, 4), value, np.float32), dtype="int8", per="channel")
    assert (row.status, row.unit_status, row.scale) == (status, None, None)
    assert reason in row.reason


def test_values_that_are_not_finite_can_be_ignored_row_by_row():
    values = matrix(3, 50)
    values[1, 3] = np.nan
    row = klcal.calibrate(values, dtype="int8", per="channel", nonfinite="ignore")
    without = klcal.calibrate(np.delete(values[1:2], 3, axis=1), dtype="int8", per="channel")
    assert row.scale[1] == without.scale[0]
    assert (row.nan, row.status, row.unit_status) == (1, "ok", None)


def test_one_value_and_extremes_of_float32_have_a_finite_scale_above_zero():
    for value in (1.0, -1.0, 3.4e38, -3.4e38, 1e-38):
        for dtype in DTYPES:
            row = klcal.calibrate(np.float32([[value], [1.0]]), dtype=dtype, per="channel")
            assert all(scale is None or 0 < scale < math.inf for scale in row.scale)
            assert row.scale[1] is not None


def test_no_values_and_a_sketch_have_no_channels():
    assert klcal.calibrate(np.empty((0, 5), np.float32), per="channel").status == "empty"
    with pytest.raises(UsageError, match="no axes"):
        klcal.calibrate(klcal.sketch([1.0]), per="channel")


def test_a_quantizer_without_all_scales_quantizes_nothing():
    values = matrix(3, 20)
    values[1, 4] = np.nan
    with pytest.raises(UsageError, match="1 of 3 units have no scale"):
        klcal.quantize(values, klcal.calibrate(values, dtype="int8", per="channel"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int2", "nf4"])
def test_a_channel_of_zeros_needs_no_scale_to_be_quantized(dtype):
    values = matrix(3, 20)
    values[1] = 0
    row = klcal.calibrate(values, dtype=dtype, per="channel")
    assert (restored(values, row, dtype)[1] == 0).all()
    assert (restored(values, row, dtype)[0] != 0).any()


@pytest.mark.parametrize("unit", [PerChannel, None, 3])
def test_what_is_no_unit_is_a_usage_error(unit):
    with pytest.raises(UsageError, match="unit"):
        klcal.calibrate(matrix(), per=unit)
    for wrong in (
        lambda: PerChannel(1.0),
        lambda: PerChannel("0"),
        lambda: PerGroup(2.5),
        lambda: PerGroup("8"),
        lambda: PerGroup(8, None),
    ):
        with pytest.raises(UsageError, match="int"):
            wrong()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_units_without_any_scale_are_units(value):
    row = klcal.calibrate(np.full((3, 4), value, np.float32), dtype="int8", per="channel")
    assert [(unit_.unit, unit_.status, unit_.scale) for unit_ in row.units()] == [
        (i, row.status, None) for i in range(3)
    ]


# --- the tables that rows share


@pytest.mark.parametrize("dtype", ["int8", "int4", "nf4", "float8_e4m3fn"])
def test_a_table_holds_the_error_of_each_bin(dtype):
    """Against the mean over many points of a bin, quantized one by one."""
    scheme = Scheme.parse(dtype)
    shared = row_tables.table(scheme, 1)
    greatest, bins = row_tables._bins(scheme)
    rng = np.random.default_rng(0)
    for column in (0, shared.ratio.size - 1):
        for number in rng.integers(0, bins, 8):
            points = (number + (np.arange(4000) + 0.5) / 4000) * greatest / bins
            levels = np.append(0.0, scheme.above) * shared.ratio[column]
            error = (np.abs(points[:, None] - levels).min(axis=1) ** 2).mean()
            assert shared.errors[number, column] * shared.unit == pytest.approx(error, abs=2 * shared.unit, rel=1e-3)


def test_what_is_added_up_for_several_rows_are_integers_below_the_53_bits_of_a_float():
    for dtype in ("int8", "int4", "uint8", "float8_e5m2"):
        shared = row_tables.table(Scheme.parse(dtype), 0)
        assert (shared.errors == np.rint(shared.errors)).all()
        assert shared.errors.max() * 2**26 <= 2**53


def test_the_unit_is_a_tensor_where_nothing_else_is_said():
    assert klcal.calibrate(matrix(), per=PerTensor()) == klcal.calibrate(matrix())
    assert row_methods.VALUES_PER_BIN == 4, "as the note and the README say"
