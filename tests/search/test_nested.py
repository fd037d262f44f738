"""Nested candidates, and what no choice depends on.

A kind with all levels of another is no worse by method `mse`, exactly, for it looks at what that chooses; a format of
more bits, a finer format of scales, and `mse` against another method are as near as the search is. Ties are ties within
rounding.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from tests.support import brute_force, slow
from tests.support.brute_force import Unit
from tests.support.choices import FIGURES, quantizer, units
from tests.support.samples import Values, cut, rows_of, sample, samples
from tests.support.strategies import tensors

ROUNDING = 2e-6  # of a loss: less is a tie, for the search adds up float32
NOISE = 1e-12  # of the energy: less is rounding
SEARCHED = 0.01  # of a loss, as the search promises: affine tries what symmetric-full chose, and not its mirror image
BITS = range(2, 9)
SCALE_FORMATS = ("float16", "bfloat16", "e8m0")
METHODS = ("kl", "mse", "minmax", "percentile:99", "kl-classic")
KINDS = {
    "int8": ("symmetric", "affine"),
    "uint8": ("affine", "symmetric-full"),
    "int4": slow.KINDS,
    "uint4": ("affine",),
    "nf4": ("auto",),
    "float8_e4m3fn": ("auto",),
}
SCHEMES = [(dtype, kind) for dtype, kinds in KINDS.items() for kind in kinds]
ASKED = [  # kl-classic looks at all candidates: in one scheme of each sort
    (*scheme, method)
    for scheme in SCHEMES
    for method in METHODS
    if method != "kl-classic" or scheme in (("int8", "symmetric"), ("uint4", "affine"))
]
ids = {"ids": "-".join}


def squared_errors(samples_: dict[str, Values], dtype: str, **options) -> np.ndarray:
    """What the choice for each unit costs, per nonzero value; NaN where it has no scale."""
    row = klcal.calibrate(
        rows_of([*samples_.values()]), **{"dtype": dtype, "method": "mse", "per": "channel", **options}
    )
    scales, errors = units(row).scale, np.full(len(samples_), np.nan)
    for number, values in enumerate(samples_.values()):
        if np.isfinite(scales[number]):
            scale, levels = quantizer(row, dtype, number)
            errors[number] = brute_force.error(Unit.of(values), scale, np.array(levels))
    return errors


def check_nested(samples_: dict[str, Values], narrow: np.ndarray, wide: np.ndarray) -> None:
    """No unit may lose by having more candidates; where the narrow one has no scale there is nothing to compare."""
    lost = excesses(samples_, narrow, wide)
    assert not lost, lost


def check_near(samples_: dict[str, Values], narrow: np.ndarray, wide: np.ndarray) -> None:
    """The same where the wider search does not look at each candidate of the narrower one: as near as a search is."""
    lost = sorted(excesses(samples_, narrow, wide).values(), reverse=True)
    assert sum(lost) / len(samples_) <= 0.002, lost
    assert not [excess for excess in lost[int(0.02 * len(samples_)) :] if excess > 0.01], lost
    assert not [excess for excess in lost if excess > 0.05], lost


def excesses(samples_: dict[str, Values], narrow: np.ndarray, wide: np.ndarray) -> dict[str, float]:
    """By how much the wider one loses more than the narrower one, of the units where it does, beyond rounding."""
    known = np.isfinite(narrow)
    assert known.mean() > 0.5
    noise = np.array([NOISE * np.mean(np.square(values[values != 0], dtype=float)) for values in samples_.values()])
    lost = known & (wide > narrow * (1 + ROUNDING) + noise)
    return {name: wide[i] / narrow[i] - 1 for i, name in enumerate(samples_) if lost[i]}


@pytest.fixture(scope="module")
def many() -> dict[str, Values]:
    return samples(80, seed=21, most=2_000)


# --- nested candidates


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("symmetric", "symmetric-full"), ("symmetric-full", "symmetric-signed"), ("symmetric-full", "affine")],
)
@pytest.mark.parametrize("dtype", ["int2", "int4", "uint4", "int8", "uint8"])
def test_a_kind_with_more_levels_is_no_worse(many, dtype, narrow, wide):
    check_nested(many, *(squared_errors(many, dtype, scheme=kind) for kind in (narrow, wide)))


@pytest.mark.parametrize("kind", slow.KINDS)
def test_a_format_of_more_bits_is_no_worse(many, kind):
    errors = [squared_errors(many, f"int{bits}", scheme=kind) for bits in BITS]
    for fewer, more in pairwise(errors):
        check_near(many, fewer, more)


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
@pytest.mark.parametrize("scheme", [("int4", "symmetric"), ("uint4", "affine"), ("int8", "symmetric-full")], **ids)
def test_a_scale_in_float32_is_no_worse_than_in_a_narrower_format(many, scheme, scale_format):
    dtype, kind = scheme
    narrow = squared_errors(many, dtype, scheme=kind, scale_format=scale_format)
    check_near(many, narrow, squared_errors(many, dtype, scheme=kind))


@pytest.mark.parametrize("scale_format", SCALE_FORMATS)
@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "float8_e4m3fn"])
def test_a_scale_in_float32_is_no_worse_for_floats_either(many, dtype, scale_format):
    narrow = squared_errors(many, dtype, scale_format=scale_format)
    check_near(many, narrow, squared_errors(many, dtype))


@pytest.mark.parametrize("method", ["kl", "kl:weight=0.1", "minmax", "percentile:99", "percentile:80", "kl-classic"])
@pytest.mark.parametrize("scheme", SCHEMES, **ids)
def test_no_method_has_less_squared_error_than_mse(many, scheme, method):
    dtype, kind = scheme
    some = dict([*many.items()][:: 4 if method == "kl-classic" else 1])
    other = squared_errors(some, dtype, scheme=kind, method=method)
    check = check_nested if method == "minmax" else check_near
    check(some, other, squared_errors(some, dtype, scheme=kind))


def test_a_choice_that_is_worse_than_a_nested_one_is_noticed(many):
    """The broken twin: the full range of a wider scheme against the choice of the narrower one."""
    narrow = squared_errors(many, "int4", scheme="symmetric")
    with pytest.raises(AssertionError, match="laplace"):
        check_nested(many, narrow, squared_errors(many, "int4", scheme="affine", method="minmax"))
    with pytest.raises(AssertionError, match="laplace"):
        check_nested(many, squared_errors(many, "int3", scheme="affine"), squared_errors(many, "int2", scheme="affine"))


# --- what no choice depends on


def figures(row, unit: int = 0) -> dict[str, float | None]:
    """All that a row says of one unit, to be compared to the bit."""
    columns = units(row)
    values = {name: float(getattr(columns, name)[unit]) for name in FIGURES}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def calibrated(values: Values, asked: tuple[str, str, str], per: str = "tensor"):
    dtype, kind, method = asked
    return klcal.calibrate(values, dtype=dtype, scheme=kind, method=method, per=per)


@pytest.mark.parametrize("asked", ASKED, **ids)
def test_no_unit_depends_on_its_neighbours_nor_on_how_many_there_are(asked):
    """Batches of one, of some, of all, in another order: the same, to the bit."""
    values = [*samples(12 if "kl-classic" in asked else 40, seed=22, most=600).values()]
    together = calibrated(rows_of(values), asked, "channel")
    order = np.random.default_rng(0).permutation(len(values))
    for batch in (order, order[: len(order) // 3], order[:2], *order[:4, None]):
        found = calibrated(rows_of([values[i] for i in batch]), asked, "channel")
        for place, number in enumerate(batch):
            alone, among = figures(found, place), figures(together, int(number))
            same = ("scale", "zero_point", "low", "high", "kl", "sqnr_db")  # the others count the zeros at the end
            assert {name: alone[name] for name in same} == {name: among[name] for name in same}


@pytest.mark.parametrize("asked", ASKED, **ids)
def test_one_channel_that_is_the_whole_tensor_has_its_row(asked):
    """To the bit, where both sketches are lossless: few distinct values, however many there are of them."""
    rng = np.random.default_rng(23)
    many_values = [cut(sample(rng, name, 30_000)) for name in ("normal", "hardtanh", "relu")]
    for values in [*samples(6 if "kl-classic" in asked else 20, seed=23, most=4_000).values(), *many_values]:
        tensor = calibrated(values, asked)
        channel = calibrated(values.reshape(1, -1), asked, "channel")
        assert figures(channel) == figures(tensor)


def test_a_row_that_differs_in_the_last_bit_is_noticed():
    values = sample(np.random.default_rng(0), "normal", 500)
    row = klcal.calibrate(values, dtype="int8")
    moved = klcal.calibrate(values * np.float32(1 + 2**-22), dtype="int8")
    assert figures(row) != figures(moved)
    assert figures(row)["zero_point"] == figures(moved)["zero_point"]


@pytest.mark.parametrize("asked", ASKED, **ids)
@settings(max_examples=4)
@given(values=tensors(60), seed=st.integers(0, 99), zeros=st.integers(1, 9))
def test_neither_order_nor_zeros_change_a_choice(asked, values, seed, zeros):
    expected = figures(calibrated(values, asked))
    shuffled = np.random.default_rng(seed).permutation(values)
    assert figures(calibrated(shuffled, asked)) == expected
    padded = figures(calibrated(np.append(shuffled, np.zeros(zeros, np.float32)), asked))
    for name in ("scale", "zero_point", "kl", "sqnr_db"):
        assert padded[name] == expected[name]


@pytest.mark.parametrize("asked", ASKED, **ids)
@settings(max_examples=4)
@given(values=tensors(60), power=st.integers(-30, 30))
def test_a_power_of_two_multiplies_the_scale_and_nothing_else(asked, values, power):
    found = figures(calibrated(np.ldexp(values, power), asked))
    expected = figures(calibrated(values, asked))
    assert found["scale"] == np.ldexp(expected["scale"], power)
    assert found["mse"] == np.ldexp(expected["mse"], 2 * power)
    for name in ("zero_point", "kl", "clipped", "sqnr_db"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@settings(max_examples=10)
@given(values=tensors(60))
def test_mirrored_values_have_the_mirrored_choice(dtype, values):
    for kind in ("symmetric", "symmetric-signed", "affine"):
        rows = [klcal.calibrate(each, dtype=dtype, scheme=kind, method="mse") for each in (values, -values)]
        here, there = (brute_force.error(Unit.of(values), *_mirrored(row, dtype, i)) for i, row in enumerate(rows))
        within = ROUNDING if kind != "affine" else SEARCHED
        assert here == pytest.approx(there, rel=within, abs=NOISE * float(np.mean(values.astype(float) ** 2)))
        if kind != "affine":
            assert abs(rows[0].scale) == abs(rows[1].scale)


def _mirrored(row, dtype: str, times: int) -> tuple[float, np.ndarray]:
    scale, levels = quantizer(row, dtype)
    return scale, -np.array(levels)[::-1] if times else np.array(levels)
