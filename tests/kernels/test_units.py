"""Units counted by the compiled kernel: the same as NumPy's, to the bit, whatever the values and their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.kernels import units
from klcal.kernels.library import address
from klcal.kernels.units import Counted, counted_units
from klcal.sketches import by_unit, sorted_units
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.patterns import TENSOR, UNITS, Resolution
from klcal.sketches.sketch import Sketch
from tests.support.kernels import IS_COMPILED, both

pytestmark = IS_COMPILED

SIZES = (0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000)
LONG_SIZES = (4095, 4096, 4097, 10_000)
DTYPES = st.sampled_from(list(FLOAT_DTYPES))
RESOLUTIONS = st.sampled_from(
    [
        UNITS,
        TENSOR,
        Resolution(least_bits=7, few=0),
        Resolution(least_bits=8, few=20),
        Resolution(mantissa_bits=5, least_bits=0, few=250),  # which tables count, as all below
        Resolution(mantissa_bits=5, least_bits=5, few=20),
        Resolution(mantissa_bits=3, least_bits=1, few=0),
    ]
)
SEEDS = st.integers(0, 2**32 - 1)


# --- values


def anything(rng: np.random.Generator, size: int) -> np.ndarray:
    """All patterns: NaN of every payload, infinities, subnormals and both zeros."""
    bits = rng.integers(0, 1 << 32, size, dtype=np.uint32)
    rare = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 1, 0x80000001], np.uint32)
    return np.where(rng.random(size) < 0.3, rng.choice(rare, size), bits).view(np.float32)


def crowded(rng: np.random.Generator, size: int) -> np.ndarray:
    """All in one bucket, whatever that is of, but for a few far away."""
    bits = np.uint32(0x3F800000) + rng.integers(0, 1 << 10, size, dtype=np.uint32)
    return np.where(rng.random(size) < 0.01, np.float32(-1e30), bits.view(np.float32))


LAWS = {
    "anything": anything,
    "crowded": crowded,
    "normal": lambda rng, size: rng.standard_normal(size, np.float32),
    "heavy": lambda rng, size: rng.standard_t(1, size).astype(np.float32),
    "lattice": lambda rng, size: (rng.integers(-8, 8, size) / 4).astype(np.float32),
    "constant": lambda rng, size: np.full(size, rng.choice([0.0, -0.0, -2.5, np.nan, np.inf]), np.float32),
    "half zeros": lambda rng, size: np.maximum(rng.standard_normal(size, np.float32), 0),
    "subnormal": lambda rng, size: rng.integers(0, 1 << 12, size, dtype=np.uint32).view(np.float32),
}
ORDERS = {
    "as drawn": lambda values: values,
    "ascending": np.sort,
    "descending": lambda values: np.sort(values)[::-1],
    "organ pipe": lambda values: np.concatenate([np.sort(values)[::2], np.sort(values)[1::2][::-1]]),
}


def stored(dtype: str, law: str, order: str, size: int, seed: int) -> np.ndarray:
    """Values of a law, in storage form and, if that can be, at an odd address."""
    rng = np.random.default_rng(seed)
    values = ORDERS[order](LAWS[law](rng, size))
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "float64":
            found = values.astype(np.float64) * 10.0 ** rng.choice([0, 0, -44, 38], size)
        elif dtype == "float16":
            found = values.astype(np.float16)
        else:
            found = values.view(np.uint32) >> {"float32": 0, "bfloat16": 16}.get(dtype, 24)
            found = found.astype(np.uint32 if dtype == "float32" else FLOAT_DTYPES[dtype])
    bits = np.empty(found.nbytes + 1, np.uint8)[1:]
    bits[:] = np.frombuffer(found.tobytes(), np.uint8)
    return bits.view(FLOAT_DTYPES[dtype])


def same(one: Sketch, other: Sketch) -> bool:
    """To the bit, and of the same type."""
    return one == other and one.counts.dtype == other.counts.dtype and one.starts.dtype == other.starts.dtype


def by_both(values: np.ndarray, dtype: str, sizes: list[int], resolution: Resolution) -> tuple[Sketch, Sketch]:
    """What each kernel counts."""
    starts = np.append(0, np.cumsum(sizes)).astype(np.int64)
    return both(lambda: sorted_units.sorted_sketch(values, dtype, starts, resolution))


# --- units that lie one behind the other


@given(
    DTYPES,
    st.lists(st.one_of(st.sampled_from(SIZES), st.integers(0, 40)), min_size=1, max_size=40),
    st.sampled_from(list(LAWS)),
    st.sampled_from(list(ORDERS)),
    RESOLUTIONS,
    SEEDS,
)
def test_units_of_any_sizes_are_counted_as_by_numpy(dtype, sizes, law, order, resolution, seed):
    assert same(*by_both(stored(dtype, law, order, sum(sizes), seed), dtype, sizes, resolution))


@given(
    DTYPES,
    st.sampled_from(SIZES),
    st.integers(1, 50),
    st.sampled_from(list(LAWS)),
    st.sampled_from(list(ORDERS)),
    RESOLUTIONS,
    SEEDS,
)
def test_units_of_one_size_are_counted_as_by_numpy(dtype, size, units, law, order, resolution, seed):
    sizes = [size] * units
    assert same(*by_both(stored(dtype, law, order, sum(sizes), seed), dtype, sizes, resolution))


@settings(max_examples=30)
@given(
    DTYPES,
    st.sampled_from(LONG_SIZES),
    st.sampled_from([1, 2, 17]),
    st.sampled_from(list(LAWS)),
    st.sampled_from(list(ORDERS)),
    RESOLUTIONS,
    SEEDS,
)
def test_long_units_are_counted_as_by_numpy(dtype, size, units, law, order, resolution, seed):
    sizes = [size] * units
    assert same(*by_both(stored(dtype, law, order, sum(sizes), seed), dtype, sizes, resolution))


@pytest.mark.parametrize("sizes", [[70_000], [40_000] * 16, [5000] + [1] * 15, [0] * 20, [1] * 33], ids=str)
@pytest.mark.parametrize("law", LAWS)
def test_units_too_long_or_too_different_for_lanes_are_counted_as_by_numpy(sizes, law):
    assert same(*by_both(stored("float32", law, "as drawn", sum(sizes), 0), "float32", sizes, UNITS))


# --- units that take turns


@given(
    DTYPES,
    st.sampled_from([(1, 40, 37, 1), (1, 9, 16, 1), (3, 8, 20, 1), (5, 4, 3, 1), (1, 6, 18, 5), (4, 3, 7, 2)]),
    st.sampled_from(list(LAWS)),
    st.data(),
    SEEDS,
)
def test_units_that_take_turns_are_counted_as_by_numpy(dtype, shape, law, data, seed):
    slabs, turns, columns, run = shape
    values = stored(dtype, law, "as drawn", slabs * turns * columns * run, seed)
    units = slice(0, slabs * columns)
    if slabs == 1:
        first = data.draw(st.integers(0, columns - 1))
        units = slice(first, data.draw(st.integers(first + 1, columns)))
    assert same(*both(lambda: by_unit._of_turns(values, dtype, (columns, run), turns * run, units, UNITS)))


# --- units with few buckets, which tables count

COARSE = Resolution(mantissa_bits=5, least_bits=0, few=250)


@settings(max_examples=30)
@given(
    DTYPES,
    st.sampled_from([(1, 1100, 19, 1), (1, 3, 3, 700), (2, 3, 5, 400), (1, 25, 4, 49), (1, 513, 1, 1)]),
    st.sampled_from(list(LAWS)),
    st.sampled_from([COARSE, Resolution(mantissa_bits=4, least_bits=2, few=3)]),
    SEEDS,
)
def test_units_that_take_turns_are_counted_in_tables_as_by_numpy(dtype, shape, law, resolution, seed):
    slabs, turns, columns, run = shape
    values = stored(dtype, law, "as drawn", slabs * turns * columns * run, seed)
    units = slice(0, slabs * columns)
    assert same(*both(lambda: by_unit._of_turns(values, dtype, (columns, run), turns * run, units, resolution)))


@pytest.mark.parametrize("distinct", [1, 248, 249, 250, 251, 252, 300, 2000])
@pytest.mark.parametrize("lattice", [1.0, 2.0**-20, 1e-38])
def test_units_on_either_side_of_few_are_counted_in_tables_as_by_numpy(distinct, lattice):
    rng = np.random.default_rng(distinct)
    levels = (np.arange(distinct) + 1) * np.float32(lattice) * rng.choice([-1, 1], distinct)
    values = np.concatenate([levels, rng.choice([*levels, 0.0, -0.0, np.nan, np.inf], 9_999 - distinct)])
    found = by_both(rng.permutation(values).astype(np.float32), "float32", [9_999], COARSE)
    assert same(*found)
    assert found[0].whole.tolist() == [np.unique(levels.astype(np.float32)).size <= COARSE.few]


def test_values_that_are_bucket_bounds_are_exact_in_a_table():
    octaves = np.float32(2.0) ** -np.arange(30, dtype=np.float32)
    values = np.concatenate([np.outer(octaves, np.arange(32, 64)).ravel(), -octaves]).astype(np.float32)
    fine, cut = (Resolution(mantissa_bits=5, least_bits=least, few=0) for least in (5, 0))
    for resolution, is_exact in ((fine, True), (cut, False)):
        found = by_both(values, "float32", [values.size], resolution)
        assert same(*found)
        assert found[0].exact.tolist() == [is_exact]


# --- and what these tests would notice


def miscounted(found: Counted) -> Counted:
    counts = found.counts.copy()
    counts[-1] += 1
    return replace(found, counts=counts)


def zeros_of_one_sign(found: Counted) -> Counted:
    return replace(found, counters={**found.counters, "zeros": found.counters["zeros"] // 2})


@pytest.mark.parametrize("twin", [miscounted, zeros_of_one_sign])
def test_a_kernel_that_miscounts_is_noticed(twin, monkeypatch):
    values = np.array([0.0, -0.0, 1.5, -2.0] * 40, np.float32)
    assert same(*by_both(values, "float32", [80, 80], UNITS))
    monkeypatch.setattr(sorted_units, "counted_units", lambda *args, **more: twin(counted_units(*args, **more)))
    assert not same(*by_both(values, "float32", [80, 80], UNITS))


def test_a_kernel_that_cuts_otherwise_is_noticed(monkeypatch):
    values = LAWS["normal"](np.random.default_rng(0), 5000)
    kept = (UNITS.few, UNITS.mantissa_bits, UNITS.mantissa_bits)
    monkeypatch.setattr(
        sorted_units, "counted_units", lambda v, d, s, _, *args, **more: counted_units(v, d, s, kept, *args, **more)
    )
    assert not same(*by_both(values, "float32", [5000], UNITS))


def test_a_small_result_does_not_keep_the_memory_for_many_values():
    found = by_both(np.zeros(100_000, np.float32), "float32", [50_000, 50_000], UNITS)[0]
    assert found.keys.base is None or found.keys.base.size < 100
    assert found.zeros.tolist() == [50_000, 50_000]


def test_stretches_of_units_may_be_counted_apart():
    """As by several threads: each writes what is its own."""
    sizes = [40, 0, 300, 7, 129, 1] * 20
    starts = np.append(0, np.cumsum(sizes)).astype(np.int64)
    values = stored("float32", "lattice", "as drawn", int(starts[-1]), 0).copy()
    whole = by_both(values, "float32", sizes, UNITS)[0]
    keys, counts = np.zeros(values.size, np.uint32), np.zeros(values.size, np.int32)
    numbers, extremes, exact = (
        np.zeros((7, len(sizes)), np.int64),
        np.empty((2, len(sizes))),
        np.empty(len(sizes), bool),
    )
    function = units._klcal_units()
    found = []
    for first, last in ((50, len(sizes)), (0, 50)):
        size = function(
            *(address(values), 0, None, address(starts), 0, 1, len(sizes), first, last),
            *(UNITS.few, UNITS.mantissa_bits, UNITS.least_bits),
            *(address(each) for each in (keys, counts, numbers, extremes, exact)),
        )
        found.append(slice(starts[first], starts[first] + size))
    assert np.array_equal(np.concatenate([keys[some] for some in found[::-1]]), whole.keys)
    assert np.array_equal(np.concatenate([counts[some] for some in found[::-1]]), whole.counts)
    assert np.array_equal(numbers[0], whole.pieces)
    assert np.array_equal(numbers[1], whole.zeros)
    assert np.array_equal(extremes, [whole.minimum, whole.maximum])


BFLOAT16_SIZES = 512, 1023, 1024, 2048, 65_024, 65_535, 65_536
TURNS = {"together": (0, 1), "columns": (2, 1), "runs": (2, 512)}


@pytest.mark.parametrize(
    ("size", "turns"),
    [(size, turns) for size in BFLOAT16_SIZES for turns in TURNS.values() if size % turns[1] == 0],
    ids=str,
)
@pytest.mark.parametrize("law", list(LAWS))
def test_long_units_of_bfloat16_are_counted_by_all_of_their_bits_and_the_counts_are_the_same(law, size, turns):
    """From 1,024 to 65,535 values; and all counts of the table are 0 for the next unit."""
    values = stored("bfloat16", law, "as drawn", 2 * size, size)
    starts = np.arange(3) * size

    def count() -> Sketch:
        if turns[0]:
            return by_unit._of_turns(values, "bfloat16", turns, size, slice(0, 2), UNITS)
        return sorted_units.sorted_sketch(values, "bfloat16", starts, UNITS)

    assert same(*both(count))
