"""The compiled kernel counts what NumPy counts, to the bit: any dtype, any split, any alignment."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.kernels import counting as kernel_counting
from klcal.kernels.counting import FloatTables
from klcal.sketches import compiled_counting
from klcal.sketches.compiled_counting import CompiledCounter
from klcal.sketches.counting import FLOAT_DTYPES, count, counter
from klcal.sketches.patterns import FEW, TENSOR, Resolution
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch
from tests.support.kernels import KERNELS, kernel
from tests.support.sketches import RESOLUTIONS

SPECIAL = [0, 1 << 31, 1, 0x7FFFFF, 0x80000001, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7F7FFFFF]
DTYPES = sorted(FLOAT_DTYPES)
LIMITS = st.sampled_from([(0, 1 << 30), (8, 1 << 30), (8, 37), (1 << 13, 500), (1 << 13, 1 << 30)])


def stored(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """Some values of a dtype, from the bits of float32: what it can hold of their variety."""
    if dtype == "float32":
        return patterns.view(np.float32)
    if dtype == "float64":  # some beyond float32, some below
        return np.ldexp(patterns.view(np.float32).astype(np.float64), patterns.astype(np.int64) % 5 * 40 - 80)
    kind = np.dtype(FLOAT_DTYPES[dtype])
    return (patterns >> np.uint32(32 - 8 * kind.itemsize)).astype(f"u{kind.itemsize}").view(kind)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Patterns of float32: of all kinds, or of few, and zeros, NaN and infinities among them."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    size = draw(st.one_of(st.integers(0, 40), st.integers(90, 900), st.sampled_from([96, 192, 20_000])))
    kind = draw(st.sampled_from(["any", "normal", "positive", "negative", "few", "constant", "short"]))
    values = {
        "any": lambda: rng.integers(0, 1 << 32, size, np.uint32),
        "normal": lambda: rng.standard_normal(size).astype(np.float32).view(np.uint32),
        "positive": lambda: rng.exponential(size=size).astype(np.float32).view(np.uint32),
        "negative": lambda: (-rng.exponential(size=size)).astype(np.float32).view(np.uint32),
        "few": lambda: rng.integers(0, 1 << 32, 9, np.uint32)[rng.integers(0, 9, size)],
        "constant": lambda: np.full(size, rng.integers(0, 1 << 32), np.uint32),
        "short": lambda: rng.integers(0, 1 << 32, size, np.uint32) & np.uint32(0xFFFF0000),
    }[kind]()
    special = np.array(draw(st.lists(st.sampled_from(SPECIAL), max_size=4)), np.uint32)
    if special.size:
        at = rng.random(size) < draw(st.sampled_from([0.01, 0.5]))
        values[at] = rng.choice(special, np.count_nonzero(at))
    return values


def unaligned(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"x" + values.tobytes(), values.dtype, offset=1)


def counted(name: str, chunks: list[np.ndarray], dtype: str, resolution: Resolution = TENSOR) -> Sketch:
    with kernel(name):
        return count(chunks, dtype, resolution)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    arrays(),
    st.lists(st.integers(0, 900), max_size=4),
    st.one_of(st.just(TENSOR), RESOLUTIONS),
    LIMITS,
    st.booleans(),
)
@settings(max_examples=60)
def test_both_kernels_count_alike(dtype, patterns, cuts, resolution, limits, is_aligned):
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        values = stored(patterns, dtype)
    by_numpy = counted("numpy", [values], dtype, resolution)
    chunks = np.split(values, sorted(min(cut, values.size) for cut in cuts))
    if not is_aligned:
        chunks = [unaligned(chunk) for chunk in chunks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_counting, "SMALL", limits[0])
        patch.setattr(compiled_counting, "FLUSH", limits[1])
        assert counted("compiled", chunks, dtype, resolution) == by_numpy


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_kernels_count_a_million_values_alike(dtype):
    values = stored(np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32).view(np.uint32), dtype)
    assert counted("compiled", [values], dtype) == counted("numpy", [values], dtype)


@pytest.mark.parametrize("few", [FEW - 1, FEW, FEW + 1])
@pytest.mark.parametrize("is_exact", [False, True])
def test_few_values_are_whole_and_one_more_is_cut(few, is_exact):
    step = 1 << 13 if is_exact else 4099
    own = (np.arange(few, dtype=np.uint32) * np.uint32(step) + np.uint32(0x3F800000)).view(np.float32)
    values = np.concatenate(
        [np.float32([0, -0.0, np.nan, np.inf, -np.inf]), own, own[::-1], np.zeros(9000, np.float32)]
    )
    found = counted("compiled", [values], "float32")
    assert found == counted("numpy", [values], "float32")
    assert found.whole[0] == (few <= FEW)
    assert found.exact[0] == (is_exact or few <= FEW)


def test_a_table_is_emptied_before_a_count_in_it_can_overflow(monkeypatch):
    """Parts of 1,000 values: what is in a table at once never exceeds that."""
    monkeypatch.setattr(compiled_counting, "SMALL", 10)
    monkeypatch.setattr(compiled_counting, "FLUSH", 1_000)
    sizes: list[int] = []
    tallied = kernel_counting.count_patterns

    def watched(values: np.ndarray, table: np.ndarray) -> None:
        tallied(values, table)
        sizes.append(int(table.sum()))

    monkeypatch.setattr(compiled_counting, "count_patterns", watched)
    found = counted("compiled", [np.full(400, 0x3F80, np.uint16)] * 7 + [np.full(2_500, 0x3F80, np.uint16)], "bfloat16")
    assert found.counts.tolist() == [5_300]
    assert sizes
    assert max(sizes) <= 1_000


def test_no_part_has_more_values_than_a_count_can_tell():
    assert compiled_counting.FLUSH < 1 << 32


def test_a_count_beyond_int32_is_exact(monkeypatch):
    """As if 2³² − 9 values had been in the table before it was emptied: the counts of the ways are added as int64."""
    with kernel("compiled"):
        table = kernel_counting.pattern_table(1 << 16)
        table.reshape(-1, kernel_counting.SHORT_WAYS)[0x3F80] = (1 << 32) - 9
        patterns, counts = kernel_counting.pattern_counts(table)
        assert (patterns.tolist(), counts.tolist()) == ([0x3F80], [4 * ((1 << 32) - 9)])
        assert not table.any()


def test_strided_and_foreign_arrays_are_counted_as_their_copies():
    base = np.random.default_rng(1).standard_normal((300, 400)).astype(np.float32)
    views = [base[:, ::2], base.T, base[::-1, ::-3], base.astype(">f4"), np.broadcast_to(base[:2], (50, 2, 400))]
    for view in views:
        with kernel("compiled"):
            found = sketch(view)
        assert found == counted("numpy", [np.ascontiguousarray(view).astype(np.float32).ravel()], "float32")


def test_threads_count_on_tables_of_their_own():
    rng = np.random.default_rng(2)
    parts = [rng.standard_normal(1 << 18).astype(np.float32) * 2.0**power for power in range(4)]
    found: dict[int, Sketch] = {}

    def work(number: int) -> None:
        found[number] = count([parts[number]], "float32")

    with kernel("compiled"):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(found[number] for number in range(4)) == count([np.concatenate(parts)], "float32")


def test_one_place_decides_who_counts():
    for name in KERNELS:
        with kernel(name):
            compiled = [isinstance(counter(dtype), CompiledCounter) for dtype in FLOAT_DTYPES]
        assert compiled == [name == "compiled"] * len(FLOAT_DTYPES)


def test_a_count_that_is_one_off_is_noticed(monkeypatch):
    """The broken twin: it takes zeros for values, as a table without spare places would."""
    values = np.append(np.random.default_rng(3).standard_normal(20_000), np.zeros(9)).astype(np.float32)
    by_numpy = counted("numpy", [values], "float32")
    right = kernel_counting.bucket_counts

    def wrong(tables: FloatTables, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        zeros = seen[0]
        keys, counts = right(tables, seen)
        counted_now, seen[0] = seen[0] - zeros, zeros
        return np.append(np.uint32(0), keys), np.append(np.int32(counted_now), counts)

    assert counted("compiled", [values], "float32") == by_numpy
    monkeypatch.setattr(compiled_counting, "bucket_counts", wrong)
    assert counted("compiled", [values], "float32") != by_numpy
