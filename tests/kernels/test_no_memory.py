"""Where memory runs out, at whichever allocation, it is told: no answer of a search that was not finished."""

from __future__ import annotations

import ctypes
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import klcal
from klcal.kernels import library
from klcal.kernels.cuda import SOURCE
from tests import sanitized
from tests.support.built import built
from tests.support.kernels import differing, kernel

SCARCE = Path(__file__).parent.parent / "support" / "failing_allocations.h"
FLAGS = ("-std=c11", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-DKLCAL_ONE_VARIANT", "-include", str(SCARCE))
EVER = (1 << 63) - 1


@pytest.fixture(scope="module")
def scarce() -> Path:
    """A kernel of whose allocations one can fail."""
    if not shutil.which(shlex.split(sanitized.COMPILER)[0]):
        pytest.skip("there is no C compiler")
    command = [*shlex.split(sanitized.COMPILER), *FLAGS, *sanitized.SOURCES, "-lm"]
    return built(command, [SCARCE, *SOURCE.glob("*.*")])


@pytest.fixture
def left(scarce, monkeypatch) -> Iterator[ctypes.c_int64]:
    """How many allocations succeed before the one that fails."""
    monkeypatch.setattr(library, "FILE", scarce)
    with kernel("compiled"):
        found = library.library()
        assert found is not None
        yield ctypes.c_int64.in_dll(found, "allocations_left")


def laplace(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).laplace(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        ((2, 12), {"dtype": "int8", "method": "mse"}),
        ((2, 300), {"dtype": "uint4"}),
        ((20, 100), {"dtype": "int4", "method": "mse"}),
        ((6, 100), {"dtype": "uint4", "method": "mse"}),
        ((2, 2_000), {"dtype": "int8", "method": "kl:bins=300"}),
        ((1, 30_000), {"dtype": "int8"}),
        ((1, 300_000), {"dtype": "uint8"}),
        ((1, 6_000), {"dtype": "float8_e4m3fn"}),
        ((2, 300), {"dtype": "uint4", "method": "kl-classic"}),
        ((1, 6_000), {"dtype": "int8", "method": "kl-classic"}),
    ],
    ids=str,
)
def test_an_allocation_that_fails_is_reported(left, shape, asked):
    sketch = klcal.sketch(laplace(*shape), per="channel")
    whole = klcal.calibrate(sketch, **asked)
    failures, number = 0, 0
    while True:
        left.value = number
        try:
            row = klcal.calibrate(sketch, **asked)
        except MemoryError:
            failures, number = failures + 1, number + 1
            continue
        finally:
            denied, left.value = left.value < 0, EVER
        break
    assert not denied  # or else a failure was not noticed
    assert not differing(row, whole)
    assert failures > 4  # at least the pieces, the values, and the three lists of candidates
