"""Units at the ends of what floats and counts hold: both kernels give the same bits, and neither warns or fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scale_formats import SCALE_FORMATS
from klcal.quantizers.scheme import KINDS
from tests.support.kernels import KERNELS, differing, kernel

LEAST, SMALL_NORMAL, MOST = 1e-45, 1.1754944e-38, 3.4028235e38
CORNERS = (0.0, LEAST, 3e-45, SMALL_NORMAL, 1e-30, 6e-8, 1.0, 1 + 2**-23, 65504.0, 1e30, MOST)
MOST_COUNTED = 1 << 62
DTYPES = ("int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", *FLOATS)
BOUNDS = (
    *(None, None, None, (-1.0, 1.0), (0.0, 1e-30), (-1e-30, 0.0), (-LEAST, LEAST), (0.0, LEAST)),
    *((-MOST, MOST), (0.0, MOST), (-MOST, LEAST), (-SMALL_NORMAL, 1e30)),
)


@st.composite
def units(draw: st.DrawFn) -> klcal.Sketch:
    """Three channels of some corners of float32, or a spread about one: empty ones, constants, and many buckets."""
    size = draw(st.sampled_from([1, 2, 5, 20, 20, 70, 6_000]))
    signed = st.sampled_from([*CORNERS, *(-value for value in CORNERS)])
    rows = []
    for _ in range(3):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        corners = draw(st.lists(signed, min_size=1, max_size=5))
        row = rng.choice(corners, size)
        if draw(st.booleans()):
            row = np.clip(rng.laplace(size=size) * draw(signed), -MOST, MOST)
        if draw(st.booleans()):
            row = np.abs(row) * draw(st.sampled_from([-1, 1]))
        rows.append(row)
    found = klcal.sketch(np.array(rows).astype(np.float32), per=draw(st.sampled_from(["channel", "tensor"])))
    times = draw(st.sampled_from([1, 1, 1 << 31, 1 << 44, MOST_COUNTED // (3 * size)]))
    bits = draw(st.sampled_from([None, None, 0, 3, found.resolution.mantissa_bits]))
    return (found if bits is None else found.coarsen(bits)).repeat(times)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    dtype = draw(st.sampled_from(DTYPES))
    return {
        "dtype": dtype,
        "scheme": "auto" if dtype in FLOATS else draw(st.sampled_from(KINDS)),
        "method": draw(st.sampled_from(["mse", "kl", "kl:bins=65536,weight=0.01", "minmax", "percentile:50"])),
        "scale_format": draw(st.sampled_from(["float32", *SCALE_FORMATS])),
        "bounds": draw(st.sampled_from(BOUNDS)),
    }


def by_each_kernel(sketch: klcal.Sketch, asked: dict[str, Any]) -> list[klcal.Row]:
    rows = []
    for name in KERNELS:
        with kernel(name):
            rows.append(klcal.calibrate(sketch, **asked))
    return rows


@given(units(), requests())
@settings(max_examples=150)
def test_both_kernels_agree_on_hostile_units(sketch, asked):
    try:
        one, other = by_each_kernel(sketch, asked)
    except UsageError:  # a scheme without such scales
        return
    assert not differing(one, other)


def test_a_range_that_clips_all_values_beyond_measure_is_the_answer():
    """Their squared errors are infinite, so no divergence decides: once an unset one did, of a scale out of nowhere."""
    values = np.random.default_rng(0).laplace(scale=1e-7, size=(3, 20)).astype(np.float32)
    sketch = klcal.sketch(values, per="channel").repeat(1 << 31)
    asked = {"dtype": "float8_e4m3fn", "bounds": (0.0, 1e-30)}
    one, other = by_each_kernel(sketch, asked)
    assert not differing(one, other)
    assert one.units.scale == pytest.approx(np.full(3, 1e-30 / 448), rel=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int4", "float8_e5m2"])
@pytest.mark.parametrize("scale_format", sorted(SCALE_FORMATS))
def test_where_no_scale_is_large_enough_or_small_enough_both_say_so(dtype, scale_format):
    """Scales that underflow stand for nothing, and those next to them are as far from 1 as floats reach."""
    values = np.float32([[LEAST] * 9, [0] * 9, [MOST] * 9, [*range(8), 1e-44], [*range(-4, 4), 1e38]])
    sketch = klcal.sketch(values, per="channel")
    one, other = by_each_kernel(sketch, {"dtype": dtype, "scale_format": scale_format})
    assert not differing(one, other)


def test_a_unit_of_as_many_values_as_can_be_counted():
    sketch = klcal.sketch(np.float32([-1, 0.3, 2])).repeat(MOST_COUNTED // 3)
    one, other = by_each_kernel(sketch, {"dtype": "int8"})
    assert not differing(one, other)
    assert (one.status, one.numel) == ("ok", MOST_COUNTED // 3 * 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    ("scale_format", "least"), [("float32", 2.0**-149), ("bfloat16", 2.0**-133), ("float16", 2.0**-24)]
)
@pytest.mark.parametrize("share", [0.51, 0.8, 1.2])
def test_both_kernels_find_scales_near_the_smallest_of_their_format(dtype, scale_format, least, share):
    """Some candidates underflow and those beside them do not: no zero point may be guessed from one to the next."""
    size = 256 if dtype == "uint8" else 65536
    values = np.linspace(-0.3, 0.7, 60) * (share * least * (size - 1))
    for count in (12, 60):
        sketch = klcal.sketch(values[:count].astype(np.float32))
        asked = {"dtype": dtype, "scale_format": scale_format, "method": "mse"}
        one, other = by_each_kernel(sketch, asked)
        assert not differing(one, other)
