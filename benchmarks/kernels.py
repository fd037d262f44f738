"""Channels and groups, from an array to the row, by both kernels: in passes over memory, against a loop in NumPy.

The unit of measure is one NumPy min() + max() over 256 MiB of float32, which only waits for memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import klcal
from benchmarks.side_by_side import in_turns, kernel, one_core, ratio, report
from klcal.kernels.library import library
from klcal.kernels.threads import at_most_threads

PASS_VALUES = 1 << 26  # 256 MiB of float32
VALUES = 1 << 21
SHARE_OF_NUMPY = 8  # of the values, which the slower kernel looks at
SCALES = 100  # of the naive loop
FEW_ROWS = 128  # 2 MiB of float32: as much as the L2 cache of two cores
FEWER = 4  # times fewer values, where two calls are compared
LEVELS, GROUP = 7, 128
MOST_NUMPY = 20  # times the compiled kernel


class Case(NamedTuple):
    """A call, and how many passes it may take."""

    per: str
    columns: int
    dtype: str
    method: str
    passes: int | None
    scale_format: str = "float32"


CASES = (
    Case("channel", 4096, "int8", "mse", 25),
    Case("channel", 4096, "int8", "kl", 40),
    Case("group:128", 4096, "int4", "mse", 40),
    Case("group:128", 4096, "int4", "kl", 60),
    Case("group:128", 4096, "uint4", "mse", 125),
    Case("group:32", 4096, "int4", "mse", 60),
    Case("group:32", 4096, "float4_e2m1fn", "mse", 100),
    Case("group:32", 4096, "float4_e2m1fn", "mse", 30, "e8m0"),
    Case("group:16", 4096, "float4_e2m1fn", "mse", None),
    Case("group:16", 4096, "float4_e2m1fn", "mse", None, "float8_e4m3fn"),
    Case("group:128", 4096, "int8", "mse", 130),
    Case("channel", 4096, "uint8", "mse", 130),
    Case("channel", 4096, "float8_e4m3fn", "mse", None),
    *(Case("channel", columns, "int8", "kl", None) for columns in (128, 512, 1024, 2048, 8192, 16384, 32768)),
)

CLASSIC = (("channel", "int8"), ("channel", "uint8"), ("channel", "int4"), ("group:128", "int4"))
WEIGHED = (("channel", "int8", "kl"), ("group:128", "int4", "mse"), ("group:32", "int4", "mse"))


def run() -> None:
    """Heavy tails; the NumPy kernel on fewer of the values."""
    rng = np.random.default_rng(0)
    nanoseconds = _one_pass(rng)
    rows = [("one pass", f"{nanoseconds:.2f} ns")]
    with one_core():
        rows += [_row(rng, case, nanoseconds) for case in CASES]
        rows += [_naive(rng, FEW_ROWS, ", in the cache"), _naive(rng, 4096, " (at least 22)")]
        rows += [_classic(rng, *each) for each in CLASSIC]
        rows += [_weighed(rng, *each) for each in WEIGHED]
    report("calibrate on one core: passes (at most), and NumPy's kernel / the compiled one (at most 20)", rows)
    _two_threads(rng)


def _one_pass(rng: np.random.Generator) -> float:
    """Nanoseconds a value."""
    long = rng.standard_normal(PASS_VALUES, dtype=np.float32)
    times = in_turns({"pass": lambda: (long.min(), long.max())}, rounds=3)["pass"]
    return 1e9 * float(np.median(times)) / PASS_VALUES


def _values(rng: np.random.Generator, columns: int, size: int = VALUES) -> np.ndarray:
    return rng.standard_t(4, (size // columns, columns)).astype(np.float32)


def _seconds_per_value(name: str, case: Case, values: np.ndarray) -> float:
    with kernel(name):
        asked = {"dtype": case.dtype, "method": case.method, "per": case.per, "scale_format": case.scale_format}
        times = in_turns({name: lambda: klcal.calibrate(values, **asked)}, rounds=3)[name]
    return min(times) / values.size


def _row(rng: np.random.Generator, case: Case, nanoseconds: float) -> tuple[str, str]:
    values = _values(rng, case.columns)
    some = values[: max(1, len(values) // SHARE_OF_NUMPY)]
    numpy = _seconds_per_value("numpy", case, some)
    scales = "" if case.scale_format == "float32" else f", scales in {case.scale_format}"
    name = f"{case.per} of {case.columns}, {case.dtype}{scales}, {case.method}"
    name += f" ({case.passes})" if case.passes else ""
    if library() is None:
        return name, f"{1e9 * numpy / nanoseconds:.0f}, NumPy"
    compiled = _seconds_per_value("compiled", case, values)
    return name, f"{1e9 * compiled / nanoseconds:.0f}, {numpy / compiled:.0f} x"


def _naive(rng: np.random.Generator, rows: int, remark: str) -> tuple[str, str]:
    """A loop over 100 scales of each group, in NumPy: the least error of any.

    Args:
        rng: of the values.
        rows: of 4096 values each. The temporary arrays of few rows stay in the cache; those of a weight do not.
        remark: on the ratio.
    """
    values = _values(rng, 4096, rows * 4096)
    groups = values.reshape(-1, GROUP)

    def naive() -> np.ndarray:
        full = np.abs(groups).max(axis=1, keepdims=True) / LEVELS
        found = np.full(len(groups), np.inf)
        for share in np.linspace(0.3, 1, SCALES):
            scale = (full * share).astype(np.float32)
            steps = np.clip(np.rint(groups / scale), -LEVELS, LEVELS)
            found = np.minimum(found, ((groups - steps * scale) ** 2).sum(axis=1))
        return found

    row = klcal.calibrate(values, dtype="int4", method="mse", per=f"group:{GROUP}")
    assert row.mse <= float(naive().sum()) / values.size
    ours = "klcal"
    calls = {"naive": naive, ours: lambda: klcal.calibrate(values, dtype="int4", method="mse", per=f"group:{GROUP}")}
    times = in_turns(calls, rounds=max(1, FEW_ROWS * 3 // rows))
    title = f"a loop of 100 scales in NumPy / klcal, int4, groups of 128, [{rows}, 4096]"
    return f"{title}{remark}", f"{ratio(times, 'naive', ours):.0f}"


def _classic(rng: np.random.Generator, per: str, dtype: str) -> tuple[str, str]:
    """The search of `kl-classic`, which is exhaustive, beside that of `kl`."""
    values = _values(rng, 4096, VALUES // FEWER)
    asked: dict[str, dict[str, Any]] = {each: {"method": each} for each in ("kl", "kl-classic")}
    most = " (at most 10)" if per == "channel" else ""
    return f"kl-classic / kl, {per}, {dtype}{most}", _beside(values, per, dtype, asked)


def _weighed(rng: np.random.Generator, per: str, dtype: str, method: str) -> tuple[str, str]:
    """Values with an importance, which are searched with it and without, beside the same without one."""
    values, weights = _values(rng, 4096, VALUES // FEWER), rng.exponential(size=4096)
    asked: dict[str, dict[str, Any]] = {"none": {}, "importance": {"importance": weights}}
    found = _beside(values, per, dtype, {name: {"method": method} | each for name, each in asked.items()})
    return f"importance of columns / none, {per}, {dtype}, {method}", found


def _beside(values: npt.NDArray[np.float32], per: str, dtype: str, asked: dict[str, dict[str, Any]]) -> str:
    """The time of the second call / that of the first; both kernels choose alike."""
    for each in asked.values():
        chosen = []
        for name in ("compiled", "numpy"):
            with kernel(name):
                chosen.append(klcal.calibrate(values[:2], dtype=dtype, per=per, **each).units.scale)
        assert np.array_equal(*chosen)

    def by(more: dict[str, Any]) -> Callable[[], object]:
        return lambda: klcal.calibrate(values, dtype=dtype, per=per, **more)

    times = in_turns({name: by(each) for name, each in asked.items()}, rounds=3)
    first, second = asked
    return f"{ratio(times, second, first):.1f}"


def _two_threads(rng: np.random.Generator) -> None:
    """Within one tensor."""
    rows = []
    for case in (CASES[0], CASES[2], CASES[5]):
        values = _values(rng, case.columns, 8 * VALUES)

        def calls(threads: int, case: Case = case, values: np.ndarray = values) -> object:
            with at_most_threads(threads):
                return klcal.calibrate(values, dtype=case.dtype, method=case.method, per=case.per)

        times = in_turns({"one": lambda: calls(1), "two": lambda: calls(2)}, rounds=5)
        rows.append((f"{case.per}, {case.dtype}, {case.method}", f"{ratio(times, 'one', 'two'):.2f}"))
    report("One thread / two, within one tensor (at least 1.8)", rows)
