"""Workers: outcomes in order, whatever becomes of the workers; and nothing of them is left."""

import errno
import multiprocessing
import os
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klcal.pipeline.workers import SIGNALS, workers
from tests.support.command import DEADLINE, is_running, until, with_proc

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def square(number: int) -> int:
    return number * number


def where(_: int) -> int:
    return os.getpid()


def killed_at_three(number: int) -> tuple[int, bool]:
    """Takes its worker with it, as the system does where memory runs out."""
    if number == 3 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, multiprocessing.parent_process() is None


def fails_at_three(number: int) -> int:
    if number == 3:
        raise LookupError("three")
    return number


def bulky(number: int) -> bytes:
    """More than a pipe holds."""
    return bytes([number]) * (1 << 20)


def slow(number: int) -> int:
    time.sleep(60)
    return number


def outcomes(function, tasks, jobs=2, at_once=1):
    with workers(function, tasks, jobs, at_once=at_once) as found:
        return list(found)


@pytest.fixture(autouse=True)
def _nobody_is_left():
    before = multiprocessing.active_children()
    yield
    assert multiprocessing.active_children() == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@given(count=st.integers(0, 20), jobs=st.integers(1, 3), at_once=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_outcomes_come_in_the_order_of_the_tasks(count, jobs, at_once):
    assert outcomes(square, range(count), jobs, at_once) == list(map(square, range(count)))


def test_the_work_is_done_elsewhere_and_shared():
    """Twenty tasks, of which a worker takes two at a time: both have some unless one is starved."""
    found = set(outcomes(where, range(20)))
    assert os.getpid() not in found
    assert 1 <= len(found) <= 2


def test_bulky_outcomes_wait_for_one_another():
    assert [found[0] for found in outcomes(bulky, range(9), 3)] == list(range(9))


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 4])
def test_where_a_worker_is_killed_the_others_do_its_work(jobs, at_once):
    found = outcomes(killed_at_three, range(12), jobs, at_once)
    assert [number for number, _ in found] == list(range(12))
    assert dict(found)[3]  # which nobody but this process outlives


def test_where_all_workers_are_killed_this_process_does_the_work():
    with workers(square, range(100), 2) as found:
        assert next(found) == 0
        for worker in multiprocessing.active_children():
            worker.kill()
        assert list(found) == list(map(square, range(1, 100)))


def test_an_exception_in_a_worker_is_raised_at_the_place_of_its_task(capfd):
    with workers(fails_at_three, range(9), 2) as found:
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(LookupError, match="three"):
            next(found)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("room", [0, 1])
def test_where_no_process_can_be_started_the_rest_do_the_work(monkeypatch, room):
    fork, forked = os.fork, []

    def limited():
        if len(forked) == room:
            raise BlockingIOError(errno.EAGAIN, "as under ulimit -u")
        forked.append(1)
        return fork()

    monkeypatch.setattr(os, "fork", limited)
    found = set(outcomes(where, range(9), 3))
    assert len(found) == 1
    assert (os.getpid() in found) == (room == 0)


class Interrupt(BaseException):
    pass


def test_an_interrupt_ends_workers_in_the_middle_of_their_work(capfd):
    start = time.monotonic()
    with pytest.raises(Interrupt), workers(slow, range(9), 2):
        raise Interrupt
    assert time.monotonic() - start < DEADLINE / 2
    assert capfd.readouterr() == ("", "")


def test_other_children_of_the_process_are_left_alone():
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    try:
        with pytest.raises(Interrupt), workers(slow, range(9), 2):
            raise Interrupt
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def dispositions(_: int) -> tuple[list[bool], set[signal.Signals]]:
    ignored = [signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS]
    return ignored, signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_leave_signals_to_their_parent():
    assert outcomes(dispositions, [0], 1) == [([True] * len(SIGNALS), set())]


@with_proc
def test_workers_do_not_outlive_a_parent_that_is_killed():
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        with workers(slow, range(9), 2):
            os.write(writing, b" ".join(b"%d" % child.pid for child in multiprocessing.active_children()))
            signal.pause()
    os.close(writing)
    pids = [int(pid) for pid in os.read(reading, 100).split()]
    os.close(reading)
    assert len(pids) == 2
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until(lambda: not any(map(is_running, pids)), "the end of the workers")


@with_proc
def test_a_process_that_runs_is_seen_to_run():
    """The broken twin of the wait for the workers' end."""
    assert is_running(os.getpid())
