"""Counting the values of units on one core, by both kernels: nanoseconds a value, and NumPy's own passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.side_by_side import in_turns, kernel, one_core, ratio, report
from klcal.kernels.library import library
from klcal.quantizers.granularity import parse_per
from klcal.quantizers.layout import layout
from klcal.sketches.by_unit import unit_sketches
from klcal.sketches.values import sketch

SIDE = 4096
PASS_VALUES = 1 << 26  # 256 MiB of float32
ADDED_UNITS = 1024
LAYOUTS = ("channel:0", "channel:1", "group:128", "group:32", "group:32,0", "block:128,128")
LIMITS = "channels of 4,096 at most 3 ns, groups 1.5 to 2, channel:1 8"
PASS = "numpy min() + max()"
ROUNDS = {"compiled": 5, "numpy": 2}


def run() -> None:
    """Of data with heavy tails, in float32 and in bfloat16."""
    rng = np.random.default_rng(0)
    values = rng.standard_t(4, (SIDE, SIDE)).astype(np.float32)
    long = rng.standard_normal(PASS_VALUES, dtype=np.float32)
    names = ["compiled", "numpy"] if library() else ["numpy"]
    with one_core():
        for name in names:
            with kernel(name):
                _counting(name, values, long)
                _adding(name, values)


def _counting(name: str, values: np.ndarray, long: np.ndarray) -> None:
    bfloat16 = (values.view(np.uint32) >> 16).astype(np.uint16)

    def count(per: str, array: np.ndarray, dtype: str) -> Callable[[], object]:
        place = layout(parse_per(per), values.shape)
        assert place is not None

        def drained() -> None:
            units = sum(each.units for each in unit_sketches([array.ravel()], dtype, place))
            assert units == place.rows

        return drained

    candidates: dict[str, Callable[[], object]] = {PASS: lambda: (long.min(), long.max())}
    for per in LAYOUTS:
        candidates[per] = count(per, values, "float32")
        candidates[f"{per}, bfloat16"] = count(per, bfloat16, "bfloat16")
    times = in_turns(candidates, rounds=ROUNDS[name])
    rows = [(PASS, f"{min(times[PASS]) / PASS_VALUES * 1e9:.2f} ns")]
    for each in list(candidates)[1:]:
        passes = ratio(times, each, PASS) * PASS_VALUES / values.size
        rows.append((each, f"{min(times[each]) / values.size * 1e9:.2f} ns, {passes:.0f} passes"))
    report(f"[{SIDE}, {SIDE}] float32, {name}: a value ({LIMITS})", rows)


def _adding(name: str, values: np.ndarray) -> None:
    rows = []
    for what, per, some in (
        ("channels of 4,096 float32", "channel:0", values),
        ("groups of 128", "group:128", values),
        ("channels of 4,096 bfloat16", "channel:0", (values.view(np.uint32) >> 16 << 16).view(np.float32)),
    ):
        one, other = sketch(some[:ADDED_UNITS], per=per), sketch(some[ADDED_UNITS : 2 * ADDED_UNITS], per=per)
        (times,) = in_turns({what: lambda one=one, other=other: one + other}, rounds=ROUNDS[name]).values()
        pieces = one.keys.size + other.keys.size
        rows.append((f"{what}, {pieces / 1e6:.1f} million pieces", f"{min(times) / pieces * 1e9:.1f} ns"))
    report(f"Adding two sketches of {ADDED_UNITS} rows, {name}: a piece", rows)
