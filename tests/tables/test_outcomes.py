"""One function makes the row of a tensor and of its channels: figures are sums over units, each with its status."""

from __future__ import annotations

from operator import itemgetter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from klcal.quantizers.granularity import Grid, PerChannel
from klcal.quantizers.scheme import Scheme
from klcal.tables.computed import ROUNDING_NOISE, row_of, rows_of
from klcal.tables.outcomes import EMPTY, NONFINITE, OK, OVERFLOW, UNDERFLOW, ZERO, Outcomes, Room, where_are

INT4 = Scheme.parse("int4", "symmetric-signed")


def outcomes(units: int = 1, **changes: object) -> Outcomes:
    """Units of ten values in [-4, 7], one of them 0, quantized with the scale 0.5."""
    values: dict[str, object] = {
        "status": OK,
        "chosen": 0.5,
        "scale": 0.5,
        "below": 8,
        "kl": 0.25,
        "squared_error": 2.0,
        "energy": 200.0,
        "clipped": 1.0,
        "rounded_to_zero": 3.0,
        "nonzero": 9,
        "finite": 10,
        "minimum": -4.0,
        "maximum": 7.0,
        "zeros": 1,
        **dict.fromkeys(("nan", "neg_inf", "pos_inf", "overflowed", "underflowed", "weighed"), 0),
        **changes,
    }
    return Outcomes(**{name: np.broadcast_to(np.array(value), units).copy() for name, value in values.items()})


def grid(units: int, note: str | None = None) -> Grid:
    return Grid(PerChannel(0), 0, None, (units,), note)


def one(**changes: object):
    return row_of(outcomes(**changes), INT4, "mse", None)


def test_a_tensor_has_plain_numbers():
    row = one()
    assert (row.status, row.reason, row.units, row.target, row.scheme) == ("ok", None, None, "int4", INT4.kind)
    assert (row.scale, row.zero_point, row.qmin, row.qmax, row.low, row.high) == (0.5, 0, -8, 7, -4.0, 3.5)
    assert (row.kl, row.mse, row.sqnr_db, row.clipped, row.rounded_to_zero) == (0.25, 0.2, 20.0, 0.1, 3 / 9)
    assert (row.numel, row.zeros, row.min, row.max) == (10, 1, -4.0, 7.0)
    assert all(type(getattr(row, name)) is float for name in ("scale", "low", "high", "kl", "mse", "min"))
    assert all(type(getattr(row, name)) is int for name in ("zero_point", "qmin", "numel", "nan"))


def test_low_and_high_are_in_order_under_a_negative_scale():
    row = one(scale=-0.5, below=7)
    assert (row.scale, row.zero_point, row.low, row.high) == (-0.5, 0, -3.5, 4.0)


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(10, 99), st.integers(1, 50)), min_size=1, max_size=6))
def test_figures_of_a_tensor_are_those_of_its_units_together(units):
    error, energy, nonzero = (np.array(column) for column in zip(*units, strict=True))
    found = outcomes(len(units), squared_error=error, energy=energy, nonzero=nonzero, finite=nonzero + 1, kl=error)
    row = row_of(found, INT4, "mse", grid(len(units)))
    assert row.mse == pytest.approx(error.sum() / (nonzero + 1).sum())
    assert row.sqnr_db == pytest.approx(10 * np.log10(energy.sum() / error.sum()))
    assert row.kl == pytest.approx(np.average(error, weights=nonzero))
    assert row.clipped == pytest.approx(len(units) / (nonzero + 1).sum())
    assert np.allclose(row.units.mse, error / (nonzero + 1))
    assert (row.scale, row.zero_point, row.low, row.high) == (None, None, None, None)


def test_one_unit_has_the_figures_of_the_tensor_that_it_is():
    alone, row = one(), row_of(outcomes(), INT4, "mse", grid(1))
    (unit,) = row.each_unit()
    for name in ("scale", "zero_point", "low", "high", "kl", "mse", "sqnr_db", "clipped"):
        assert getattr(unit, name) == getattr(alone, name)
    for name in ("kl", "mse", "sqnr_db", "clipped", "rounded_to_zero", "numel", "min", "max", "qmin", "status"):
        assert getattr(row, name) == getattr(alone, name)


def test_a_unit_without_a_scale_counts_in_no_figure_and_zeros_count_in_all():
    found = outcomes(3, status=[OK, NONFINITE, ZERO], nan=[0, 1, 0], nonzero=[9, 9, 0], squared_error=[2, 99, np.nan])
    row = row_of(found, INT4, "mse", grid(3))
    assert (row.status, row.reason) == ("ok", "of 3 units: 1 ok, 1 zero, 1 nonfinite")
    assert row.mse == 2.0 / 20
    assert row.units.status.tolist() == ["ok", "nonfinite", "zero"]
    assert np.isnan(row.units.scale).tolist() == [False, True, True]
    assert np.isnan(row.units.mse).tolist() == [False, True, True]
    assert row.failed


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"status": EMPTY, "finite": 0, "zeros": 0}, "empty", "it has no values"),
        ({"status": ZERO}, "zero", "every value is 0"),
        ({"status": ZERO, "nan": 2}, "zero", "every finite value is 0"),
        ({"status": NONFINITE, "nan": 2, "pos_inf": 1}, "nonfinite", "2 NaN, 1 +inf among 13 values; --nonfinite"),
        ({"status": NONFINITE, "nan": 2, "finite": 0, "zeros": 0}, "nonfinite", "no finite value: 2 NaN"),
        ({"status": UNDERFLOW, "chosen": 1e-50}, "underflow", "float32 has no scale as small as 1e-50; multiply"),
        ({"status": UNDERFLOW, "chosen": np.nan}, "underflow", "every value is 0 as float32"),
        ({"status": OVERFLOW, "chosen": 1e39}, "overflow", "float32 has no scale as large as 1e+39; divide"),
        ({"status": OVERFLOW, "chosen": np.nan, "overflowed": 3}, "overflow", "3 of 13 values are beyond float32"),
    ],
)
def test_a_tensor_without_a_scale_says_why_and_has_no_number_of_a_quantizer(changes, status, reason):
    row = one(**changes)
    assert row.status == status
    assert row.reason.startswith(reason)
    lacking = (
        "scale",
        "zero_point",
        "qmin",
        "qmax",
        "low",
        "high",
        "kl",
        "mse",
        "sqnr_db",
        "clipped",
        "rounded_to_zero",
    )
    assert all(getattr(row, name) is None for name in lacking)
    assert row.cause == ("data" if row.failed else None)


@given(st.floats(0.01, 2), st.booleans(), st.booleans())
def test_rounding_noise_is_no_error_unless_a_value_is_lost(share, is_clipped, is_lost):
    assume(share != 1)
    row = one(squared_error=share * ROUNDING_NOISE * 200, clipped=float(is_clipped), rounded_to_zero=float(is_lost))
    if share < 1 and not is_clipped and not is_lost:
        assert (row.mse, row.sqnr_db) == (0.0, None)
    else:
        assert row.mse > 0


@given(st.floats(2.0**-60, 2.0**60), st.lists(st.integers(-127, 127), min_size=1), st.floats(-1, 1))
def test_what_lies_on_the_levels_is_off_by_rounding_noise_and_nothing_else_is(step, levels, shift):
    """As float32 everywhere: the values, the scale, and what is restored."""
    assume(any(levels))
    values, scale = np.float32(np.array(levels) * step), np.float32(step)
    error = (values.astype(float) - np.float32(levels) * scale) ** 2
    energy = (values.astype(float) ** 2).sum()
    assert error.sum() <= ROUNDING_NOISE * energy
    assert one(squared_error=error.sum(), energy=energy, clipped=0.0, rounded_to_zero=0.0).mse == 0
    if abs(shift) > 2.0**-21:  # an eighth of the last bits of a float32
        assert ((shift * values.astype(float)) ** 2).sum() > ROUNDING_NOISE * energy


def test_a_loss_from_float64_to_float32_is_a_note():
    row = one(overflowed=2, underflowed=5)
    assert row.note == ("2 values beyond float32 were left out; 5 values that are 0 as float32 were counted as 0")
    assert row.numel == 12


def test_the_global_scale_is_that_of_the_scheme():
    relative = Scheme("float4_e2m1fn", "symmetric", "float8_e4m3fn", 0.125)
    row = row_of(outcomes(2, status=[OK, OK], below=7), relative, "mse", grid(2, "of a stack"), note="few")
    assert (row.global_scale, row.units.zero_point, row.qmin, row.note) == (0.125, None, None, "few; of a stack")
    assert row.units.high.tolist() == [3.0, 3.0]


def test_rows_of_tensors_are_made_together_and_each_is_what_it_is_alone():
    """Ends of all kinds: no error, an infinite figure, no scale, values that were left out, a note and a reason."""
    many = outcomes(
        7,
        status=[OK, OK, ZERO, NONFINITE, EMPTY, UNDERFLOW, OK],
        squared_error=[0.0, 2.0, np.nan, np.nan, np.nan, np.nan, 1e-3],
        kl=[np.nan, 0.1, np.nan, np.nan, np.nan, np.nan, 1 / 3],
        rounded_to_zero=[0, 8, 0, 0, 0, 0, 1],
        nonzero=[9, 9, 0, 3, 0, 2, 7],
        finite=[10, 9, 4, 3, 0, 2, 7],
        nan=[0, 0, 0, 2, 0, 0, 0],
        overflowed=[0, 1, 0, 0, 0, 0, 0],
        minimum=[-1, -1, 0, -1, np.inf, -1e-45, -1],
        maximum=[1, 1, 0, 1, -np.inf, 1e-45, 1],
    )
    notes = [None, "few", None, None, None, None, "few"]
    alone = [many.each(itemgetter(slice(number, number + 1))) for number in range(7)]
    rows = rows_of(many, INT4, "mse", notes)
    assert rows == [row_of(each, INT4, "mse", None, note=note) for each, note in zip(alone, notes, strict=True)]
    assert [row.status for row in rows] == ["ok", "ok", "zero", "nonfinite", "empty", "underflow", "ok"]
    assert [row.sqnr_db is None for row in rows] == [True, False, True, True, True, True, False]
    assert (rows[0].kl, rows[2].scale, rows[2].zero_point, rows[4].min) == (None, None, None, None)
    assert "few; 1 values beyond float32" in (rows[1].note or "")
    assert "become 0" in (rows[1].note or "")
    assert all((row.reason is None) == (row.status == "ok") for row in rows)


def test_parts_are_put_where_their_units_belong_and_are_copied():
    every = outcomes(6, scale=np.arange(6.0), nan=[0, 0, 3, 0, 0, 4], status=[OK, OK, ZERO, OK, OK, OK])
    room = Room(6)
    for numbers in ([4, 5], [3, 0], [1], [2]):
        where = where_are(np.array(numbers))
        part = every.each(lambda column, where=where: column[where].copy())
        room.put(where, part._asdict())
        for column in part:
            column[:] = 9
    found = room.outcomes()
    assert [column.tolist() for column in found] == [column.tolist() for column in every]
    assert {column.dtype for column in (found.nan, found.zeros, found.pos_inf)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("numbers", [[0], [7, 8, 9], [9, 8, 7], [0, 2, 3], [1, 0, 2], [2, 2]])
def test_consecutive_numbers_are_a_slice(numbers):
    where = where_are(np.array(numbers))
    assert np.arange(10)[where].tolist() == numbers
    assert isinstance(where, slice) == (numbers in ([0], [7, 8, 9]))
