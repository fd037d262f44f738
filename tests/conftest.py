"""Profiles of hypothesis: no deadline on a shared machine, and the same examples every time where CI decides.

And why two sketches are not equal.
"""

import os
import signal

import pytest
from hypothesis import settings

from klcal.sketches.sketch import Sketch
from tests.support.sketches import differences

settings.register_profile("klcal", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "klcal")

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes: there is a worker for each core, and its tensors are small
os.environ.pop("COLUMNS", None)  # which pytest's workers have: tables would be as narrow


@pytest.fixture(scope="session", autouse=True)
def _a_hangup_ends_what_tests_start():
    """Under nohup, too: children inherit that a signal is ignored, but not that it has a handler, even an idle one."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_assertrepr_compare(op, left, right):
    """Which field, unit and key of two sketches differ."""
    if op == "==" and isinstance(left, Sketch) and isinstance(right, Sketch):
        return ["the sketches differ:", *differences(left, right)]
    return None
