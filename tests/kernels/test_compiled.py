"""The compiled kernel gives what NumPy gives, to the bit: choices and figures, of every format, scheme and method."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import KINDS, Scheme
from klcal.search import compiled_outcomes
from klcal.search.density import How
from klcal.search.structures import figures_alone, search_of
from tests.support.kernels import KERNELS, differing, kernel
from tests.support.samples import DISTRIBUTIONS, cut, sample

INTEGERS = ("int2", "int3", "int4", "uint4", "int5", "int8", "uint8", "int12", "uint16")
METHODS = ("mse", "kl", "kl:bins=300", "kl:bins=40,weight=0.5", "minmax", "percentile:99")
SIZES = st.one_of(
    st.integers(1, 30),
    st.integers(9, 140),
    st.integers(140, 1_500),
    st.sampled_from([2_000, 4_096, 5_000, 9_000, 30_000]),
)


def by_each_kernel(values: np.ndarray, **asked: Any) -> list[klcal.Row]:
    rows = []
    for name in KERNELS:
        with kernel(name):
            rows.append(klcal.calibrate(values, **asked))
    return rows


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """How a tensor is calibrated."""
    dtype = draw(st.sampled_from((*INTEGERS, *FLOATS)))
    scheme = "auto" if dtype in FLOATS else draw(st.sampled_from(KINDS))
    low, high = draw(st.sampled_from([-2.0, -0.3, 0.0])), draw(st.sampled_from([0.7, 3.0]))
    return {
        "dtype": dtype,
        "scheme": scheme,
        "method": draw(st.sampled_from(METHODS)),
        "scale_format": draw(st.one_of(st.just("float32"), st.sampled_from(sorted(SCALE_FORMATS)))),
        "bounds": draw(st.one_of(st.none(), st.none(), st.just((low, high)))),
    }


@given(requests(), SIZES, st.sampled_from(sorted(DISTRIBUTIONS)), st.booleans(), st.integers(0, 999))
@settings(max_examples=150)
def test_both_kernels_choose_and_judge_alike_to_the_bit(asked, size, name, is_cut, seed):
    rng = np.random.default_rng(seed)
    units = np.stack([sample(rng, name, size), sample(rng, name, size), np.roll(sample(rng, name, size), 1)])
    values = (cut(units) if is_cut else units).astype(np.float32)
    try:
        one, other = by_each_kernel(values, per="channel", **asked)
    except UsageError:  # a scheme without such scales
        return
    assert not differing(one, other)


@pytest.mark.parametrize(
    "asked",
    [
        {"dtype": "int8"},
        {"dtype": "uint8"},
        {"dtype": "uint4", "method": "mse"},
        {"dtype": "float8_e4m3fn"},
        {"dtype": "int16"},
    ],
    ids=str,
)
def test_both_kernels_choose_alike_for_a_tensor_of_many_buckets(asked):
    values = np.random.default_rng(5).laplace(size=300_000).astype(np.float32)
    assert not differing(*by_each_kernel(values, **asked))


EXTREMES = [
    [1e-45, 3e-45, -1e-40, 2e-38],
    [3.4e38, -3.4e38, 1.0, 1e-30],
    [5.0],
    [-5.0, -5.0, -5.0],
    [1e-30] * 40 + [1e30],
    list(np.linspace(-1, 1, 255)),
    [0.0] * 50 + [1.0],
]


@pytest.mark.parametrize("values", EXTREMES, ids=range(len(EXTREMES)))
@pytest.mark.parametrize("dtype", ["int4", "uint8", "float4_e2m1fn", "float8_e5m2", "nf4"])
def test_both_kernels_choose_alike_at_the_ends_of_floats(values, dtype):
    assert not differing(*by_each_kernel(np.float32(values * 5), dtype=dtype))


@pytest.mark.parametrize("dtype", ["int3", "uint4", "uint8"])
@pytest.mark.parametrize("more", [[], [1e38, -2e38, 3e37] * 20])
def test_scales_with_which_no_zero_point_is_within_float32(dtype, more):
    """The candidates above the full scale of a unit that reaches from one end of float32 to the other."""
    values = np.float32([-3.4e38, *[3.4e38] * 1000, *more])
    assert not differing(*by_each_kernel(values, dtype=dtype, scheme="affine", method="mse"))


def test_a_kernel_that_is_a_bit_off_is_noticed(monkeypatch):
    """The broken twin: every scale is the next float32."""
    values = np.random.default_rng(1).standard_normal((4, 300)).astype(np.float32)
    with kernel("compiled"):
        row = klcal.calibrate(values, per="channel")
        right = compiled_outcomes.compiled_outcomes

        def wrong(*arguments: Any) -> None:
            right(*arguments)
            scale = arguments[-1].scale
            scale[:] = np.nextafter(np.float32(scale), np.float32(9))

        monkeypatch.setattr("klcal.search.chosen.compiled_outcomes", wrong)
        off = klcal.calibrate(values, per="channel")
    assert "unit.scale" in differing(row, off)
    assert not differing(row, replace(row))


def test_what_the_kernel_is_reported_is_kept_however_many_others_ask_meanwhile():
    """A tensor with a global scale has a scheme of its own, and threads search several tensors at once."""
    loss = figures_alone(8)
    first = search_of(Scheme.parse("int4"), None, loss)
    arrays = [weakref.ref(each) for each in first.kept]
    for number in range(1, 100):
        search_of(replace(Scheme.parse("int4"), global_scale=float(number + 1)), None, loss)
    gc.collect()
    assert arrays
    assert all(each() is not None for each in arrays)


def test_the_kernel_waits_for_the_searches_of_all_steps(monkeypatch):
    """Another thread may have added some of them only."""
    values = sample(np.random.default_rng(0), "laplace", 3_000).reshape(10, 300).astype(np.float32)
    asked = {"per": "channel", "dtype": "uint4", "scheme": "affine", "method": "mse"}
    expected = klcal.calibrate(values, **asked)
    add, calls = compiled_outcomes._Calibration.add, []

    def step_by_step(self, how: How) -> None:
        every = self.steps, self.searches
        calls.append(how)
        self.steps, self.searches = (each[: len(calls)] for each in every)
        add(self, how)
        self.steps, self.searches = every

    monkeypatch.setattr(compiled_outcomes._Calibration, "add", step_by_step)
    assert not differing(klcal.calibrate(values, **asked), expected)
    assert len(calls) == 3
