"""Short units are searched and judged sixteen at a time, to the bits that each has alone, on every kind of machine."""

from __future__ import annotations

import platform
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.kernels import library
from klcal.kernels.cuda import SOURCE
from klcal.tables.units import UNIT_FIELDS
from tests import sanitized
from tests.kernels.test_compiled import by_each_kernel, requests
from tests.support.built import built
from tests.support.kernels import differing, kernel
from tests.support.samples import DISTRIBUTIONS, sample

SHORT = 256  # values of a unit at the most
STEPS = (0.0, 0.0, 0.0, 0.05, 0.3)  # to whose multiples some units are rounded, so that values occur more than once


def units_of(seed: int, units: int, size: int) -> np.ndarray:
    """Units of several distributions, of more and of fewer distinct values: (units, size) float32."""
    rng = np.random.default_rng(seed)
    names = sorted(DISTRIBUTIONS)
    rows = [sample(rng, names[int(rng.integers(len(names)))], size) for _ in range(units)]
    steps = [STEPS[int(rng.integers(len(STEPS)))] for _ in rows]
    return np.stack(
        [np.rint(row / step) * step if step else row for row, step in zip(rows, steps, strict=True)]
    ).astype(np.float32)


SHAPES = st.tuples(st.integers(1, 40), st.one_of(st.integers(9, SHORT), st.sampled_from([32, 64, 128, SHORT + 1])))


RANKED = {
    "dtype": "nf4",
    "scheme": "auto",
    "method": "kl:bins=40,weight=0.5",
    "scale_format": "float32",
    "bounds": None,
}


@given(requests(), SHAPES, st.integers(0, 999))
@example(RANKED, (5, 257), 494)  # of few values: NumPy ranked a scale as often as no other was between two passings
@settings(max_examples=120)
def test_both_kernels_choose_and_judge_many_short_units_alike(asked, shape, seed):
    try:
        one, other = by_each_kernel(units_of(seed, *shape), per="channel", **asked)
    except UsageError:  # a scheme without such scales
        return
    assert not differing(one, other)


def fields_of(units: klcal.Units, unit: int) -> dict[str, float]:
    """The numbers of a unit; a column that no unit has is one of NaN."""
    found = {name: getattr(units, name) for name in UNIT_FIELDS if name != "status"}
    return {name: float("nan") if values is None else float(values[unit]) for name, values in found.items()}


@given(requests(), SHAPES, st.integers(0, 999))
@settings(max_examples=40)
def test_a_unit_has_the_same_bits_alone_and_among_others(asked, shape, seed):
    values = units_of(seed, *shape)
    if asked["scale_format"] == "float8_e4m3fn":
        return  # whose global scale is of all units
    try:
        together = klcal.calibrate(values, per="channel", **asked)
    except UsageError:
        return
    if together.units is None:  # it failed as a whole
        return
    for unit in {0, shape[0] // 2, shape[0] - 1}:
        alone = klcal.calibrate(values[unit : unit + 1], per="channel", **asked)
        if alone.units is not None:
            np.testing.assert_equal(fields_of(alone.units, 0), fields_of(together.units, unit))


GENERATIONS = {"any": (), "v3": ("-march=x86-64-v3",)}  # the newest that this machine has is tested everywhere else


@pytest.fixture(scope="module", params=GENERATIONS)
def older(request) -> Path:
    """The kernel as an older machine of the same kind runs it."""
    if not shutil.which(shlex.split(sanitized.COMPILER)[0]):
        pytest.skip("there is no C compiler")
    if request.param != "any" and (platform.machine() != "x86_64" or "avx2" not in Path("/proc/cpuinfo").read_text()):
        pytest.skip("the machine is of another kind")
    flags = [flag for flag in sanitized.FLAGS if "sanitize" not in flag and flag not in ("-O1", "-g")]
    command = [*shlex.split(sanitized.COMPILER), *flags, "-O2", *GENERATIONS[request.param]]
    return built([*command, *sanitized.SOURCES, "-lm"], SOURCE.glob("*.*"))


CASES = [
    {"dtype": "int4", "method": "mse"},
    {"dtype": "uint4", "method": "mse"},
    {"dtype": "int8", "method": "kl", "scheme": "symmetric-signed"},
    {"dtype": "uint8"},
    {"dtype": "float4_e2m1fn", "method": "mse"},
    {"dtype": "float8_e4m3fn", "method": "mse"},
    {"dtype": "nf4", "method": "mse"},
]


@pytest.mark.parametrize("asked", CASES, ids=str)
@pytest.mark.parametrize("shape", [(37, 128), (50, 32), (5, 256)])
def test_older_machines_find_the_same_bits(older, asked, shape, monkeypatch):
    values = units_of(1, *shape)
    expected = klcal.calibrate(values, per="channel", **asked)
    monkeypatch.setattr(library, "FILE", older)
    with kernel("compiled"):
        assert not differing(expected, klcal.calibrate(values, per="channel", **asked))


def test_a_bit_that_differs_in_one_unit_is_noticed(monkeypatch):
    values = units_of(2, 20, 128)
    one = klcal.calibrate(values, per="channel", dtype="int4")
    values[19, 5] = np.nextafter(values[19, 5], np.float32(np.inf))
    assert differing(one, klcal.calibrate(values, per="channel", dtype="int4"))
