"""The benchmark of units on a device, by kernels that the CPU runs: it checks each answer and knows each kernel."""

from __future__ import annotations

from time import perf_counter

import pytest

from benchmarks import cuda_units
from tests.support.devices import Shim
from tests.support.kernels import IS_COMPILED
from tests.support.lazy import torch

pytestmark = IS_COMPILED


class Event:
    """A ``torch.cuda.Event`` of a device that does everything at once."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    monkeypatch.setattr(cuda_units, "DEVICE", "cpu")
    monkeypatch.setattr(cuda_units, "SIDE", 128)
    monkeypatch.setattr(cuda_units, "ROUNDS", 1)
    monkeypatch.setattr(cuda_units, "kernels", lambda _: Shim())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


def lines(text: str, title: str) -> list[str]:
    """The lines of a report."""
    return text[text.index(title) :].split("\n\n")[0].splitlines()[2:]


def test_cases_have_times_of_all_parts(monkeypatch, capsys):
    cases = [case for case in cuda_units.UNITS if case.is_weighed or case.scale_format != "float32"]
    monkeypatch.setattr(cuda_units, "UNITS", cases)
    cuda_units.run()
    found = lines(capsys.readouterr().out, "The same, kernels alone")
    assert len(found) == len(cases) == 2
    assert all(float(number) > 0 for line in found for number in line.split()[-3:])


def test_short_units_have_one_answer_however_they_are_shared(monkeypatch, capsys):
    """The answers are compared within."""
    monkeypatch.setattr(cuda_units, "LANES", cuda_units.LANES[:2])
    cuda_units.tune()
    text = capsys.readouterr().out
    for case in cuda_units.TUNED:
        found = lines(text, str(case))
        assert len(found) == 3
        assert sum(", as it is" in line for line in found) == 1
