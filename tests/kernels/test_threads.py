"""Work that is spread over threads: all of it once, in its order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import klcal
from klcal.kernels import threads as module
from klcal.kernels.threads import at_most_threads, spread, stop_threads, threads, worked_ahead
from klcal.sketches import counting
from klcal.sketches.counting import count
from tests.support.kernels import kernel


@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=40), st.integers(1, 5))
def test_every_unit_is_worked_on_once_and_in_order(costs, number):
    stretches: dict[int, int] = {}

    def work(first: int, last: int) -> int:
        stretches[first] = last
        return first

    with kernel("compiled"), at_most_threads(number):
        firsts = spread(work, np.array(costs))
    assert firsts == sorted(stretches)
    assert [stretches[first] for first in firsts] == [*firsts[1:], len(costs)]


def test_several_threads_work_at_a_time():
    """All of them wait for each other."""
    together = threading.Barrier(3, timeout=20)
    with kernel("compiled"), at_most_threads(3):
        spread(lambda first, last: together.wait() * 0 + last - first, np.full(12, 10**6))


def test_an_error_in_a_thread_is_raised():
    def work(first: int, last: int) -> int:
        raise MemoryError

    with kernel("compiled"), at_most_threads(2), pytest.raises(MemoryError):
        spread(work, np.full(12, 10**6))


def test_numpy_works_in_one_thread_and_a_limit_ends_with_its_block():
    with kernel("numpy"), at_most_threads(5):
        assert threads() == 1
    with kernel("compiled"):
        before = threads()
        with at_most_threads(7):
            assert threads() == 7
        assert threads() == before >= 1


@pytest.mark.parametrize("number", [2, 3])
def test_an_answer_does_not_depend_on_the_number_of_threads(number, monkeypatch):
    monkeypatch.setattr(module, "LEAST", 1)
    values = np.random.default_rng(0).standard_t(3, (37, 300)).astype(np.float32)
    with kernel("compiled"):
        rows = []
        for each in (1, number):
            with at_most_threads(each):
                rows.append(klcal.calibrate(values, dtype="int4", per="channel", method="mse"))
    one, other = rows
    for name in ("scale", "zero_point", "kl", "mse", "clipped"):
        assert np.array_equal(getattr(one.units, name), getattr(other.units, name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sketch_of_a_long_array_does_not_depend_on_the_number_of_threads(dtype, monkeypatch):
    monkeypatch.setattr(counting, "SHARE", 100)
    monkeypatch.setattr(counting, "LONG", 1_000)
    monkeypatch.setattr(module, "LEAST", 1)
    values = np.random.default_rng(0).standard_t(3, 30_050).astype(np.float32)
    stored = values if dtype == "float32" else (values.view(np.uint32) >> 16).astype(np.uint16)
    with kernel("compiled"):
        found = []
        for number in (1, 2, 3):
            with at_most_threads(number):
                found.append(count([stored[:20_000], stored[20_000:20_500], stored[20_500:]], dtype))
    assert found[0] == found[1] == found[2]
    assert found[0].numel.tolist() == [30_050]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_items_are_worked_on_in_their_order_each_by_one_thread(number):
    def work(item: int) -> tuple[int, int]:
        return item, threads()

    with kernel("compiled"), at_most_threads(number):
        assert worked_ahead(work, iter(range(20))) == [(item, 1) for item in range(20)]
        assert threads() == number


def test_only_a_few_items_are_held_at_a_time():
    made, done = [], []

    def items():
        for item in range(30):
            made.append(item)
            assert len(made) - len(done) <= 2 * 2 + 1
            yield item

    with kernel("compiled"), at_most_threads(2):
        worked_ahead(done.append, items())
    assert sorted(done) == made


def test_an_error_of_an_item_or_of_what_makes_them_is_raised():
    def broken():
        yield 1
        raise MemoryError

    with kernel("compiled"), at_most_threads(2):
        with pytest.raises(MemoryError):
            worked_ahead(str, broken())
        with pytest.raises(ZeroDivisionError):
            worked_ahead(lambda item: 1 // item, iter([1, 0, 1]))


def test_threads_end_before_processes_are_forked():
    with kernel("compiled"), at_most_threads(2):
        assert worked_ahead(str, iter([1, 2])) == ["1", "2"]
    assert [each for each in threading.enumerate() if each.name.startswith("klcal")]
    stop_threads()
    assert not [each for each in threading.enumerate() if each.name.startswith("klcal")]
