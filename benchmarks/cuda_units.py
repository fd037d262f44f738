"""Channels and groups of a weight on a CUDA device: to the row, and the kernels alone, as in ``docs/devices.md``.

Every answer is compared with the CPU's first, to the last bit. ``python -m benchmarks.cuda_units tune`` compares ways
of sharing the device among short units, in a minute on an H100.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np

import klcal
from benchmarks.side_by_side import in_turns, ratio, report, seconds
from klcal.calibration.devices import calibrate_counted
from klcal.errors import UsageError
from klcal.kernels.cuda import kernels
from klcal.kernels.cuda_counting import Launcher
from klcal.quantizers.granularity import parse_per
from klcal.quantizers.layout import layout
from klcal.quantizers.scheme import Scheme
from klcal.search import device_work, methods
from klcal.search.density import How
from klcal.search.settings import Settings
from klcal.sketches.device_counting import usable_device
from klcal.sketches.device_units import all_units, counted_on_device
from klcal.sketches.importance import Importance, checked_importance

if TYPE_CHECKING:
    import torch

DEVICE = "cuda"
SIDE = 8192  # of a weight
ROUNDS = 3
PARTS = ("counting", "search", "figures")
SEARCHES = ("device_search.cu", "device_lanes.cu", "device_outcomes.cu")
FIGURES = "kl", "mse", "sqnr_db", "clipped", "rounded_to_zero"


class UnitsCase(NamedTuple):
    """Units of a weight, and the milliseconds that they may take, if there is a limit. Add a line for a new case."""

    per: str
    dtype: str
    method: str
    most: float | None = None
    scale_format: str = "float32"
    is_weighed: bool = False  # by an importance of its columns

    def __str__(self) -> str:
        words = [self.per, self.dtype, self.method]
        words += [f"scales {self.scale_format}"] if self.scale_format != "float32" else []
        return ", ".join([*words, "importance"] if self.is_weighed else words)


UNITS = (
    UnitsCase("channel", "int8", "mse", 5),
    UnitsCase("channel", "int8", "kl", 10),
    UnitsCase("channel", "int8", "percentile:99.99"),
    UnitsCase("channel", "int8", "kl-classic"),
    UnitsCase("group:128", "int4", "mse", 5),
    UnitsCase("group:128", "int4", "kl", 10),
    UnitsCase("group:128", "int4", "mse", 30, is_weighed=True),
    UnitsCase("group:128", "uint4", "mse", 15),
    UnitsCase("group:32", "float4_e2m1fn", "mse"),
    UnitsCase("group:16", "float4_e2m1fn", "mse", scale_format="float8_e4m3fn"),
)
TUNED = UnitsCase("group:128", "int4", "mse"), UnitsCase("group:16", "float4_e2m1fn", "mse")
LANES = (64, 4), (128, 2), (128, 3), (128, 4), (256, 2)  # threads of a block; blocks on a multiprocessor


class Timed:
    """A launcher that notes when the kernels of each of ``PARTS`` begin and end on the device."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher, self.share, self.multiprocessors = launcher, launcher.share, launcher.multiprocessors
        self.marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def launch(self, file: str, name: str, *arguments: int, macros: tuple[str, ...] = ()) -> None:
        """Queues a kernel, between two events."""
        import torch

        part = "figures" if name.startswith("figures") else "search" if file in SEARCHES else "counting"
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.launcher.launch(file, name, *arguments, macros=macros)
        end.record()
        self.marks.append((part, begin, end))

    def taken(self) -> list[float]:
        """Milliseconds of each part since the last call. Waits for the device."""
        import torch

        torch.cuda.synchronize()
        marks, self.marks = self.marks, []
        return [sum(begin.elapsed_time(end) for part, begin, end in marks if part == each) for each in PARTS]


def run() -> None:
    """To the row and the kernels alone, then beside others on the same weight."""
    import torch

    weight = torch.randn(SIDE, SIDE, device=DEVICE)
    rows, parts = [], []
    for case in UNITS:
        asked = _asked(case)
        expected = klcal.calibrate(weight.cpu(), **asked)
        _check(klcal.calibrate(weight, **asked), expected, case)
        times = in_turns({"device": partial(klcal.calibrate, weight, **asked)}, rounds=ROUNDS)
        limit = f" (at most {case.most} ms)" if case.most else ""
        rows.append((f"{case}{limit}", seconds(times["device"])))
        parts.append((str(case), _columns(_kernels(weight, case, expected))))
    what = f"[{SIDE}, {SIDE}] float32 weight on the device"
    report(f"Units of a {what}, to the row", rows)
    report(f"The same, kernels alone, in ms: {', '.join(PARTS)}", parts)
    report(f"Groups of 128 of a {what}: others", list(_others(weight)))


def tune() -> None:
    """Short units by threads, for some sizes of blocks, and by teams: the constants of ``klcal.search.device_work``."""
    import torch

    weight = torch.randn(SIDE, SIDE, device=DEVICE)
    for case in TUNED:
        expected = klcal.calibrate(weight, **_asked(case))
        rows = []
        for name, changes in _ways():
            with patch.multiple(device_work, **changes):
                rows.append((name, _columns(_kernels(weight, case, expected))))
        report(f"{case}: kernels alone, in ms: {', '.join(PARTS)}", rows)


def _ways() -> Iterator[tuple[str, dict[str, Any]]]:
    """What works on a short unit, and the constants and functions of ``klcal.search.device_work`` that say so."""
    for threads, resident in LANES:
        is_used = (threads, resident) == (device_work.LANE_THREADS, device_work.LANE_RESIDENT)
        name = f"a thread: LANE_THREADS {threads}, LANE_RESIDENT {resident}{', as it is' if is_used else ''}"
        yield name, {"LANE_THREADS": threads, "LANE_RESIDENT": resident}
    yield "a team", {"_of_each_way": _all_by_teams, "_has_short_figures": lambda _: False}


def _all_by_teams(summary: Any) -> Iterator[Any]:
    parts = (device_work._part([how], None, summary) for how in How)
    return (part for part in parts if part.number)


def _asked(case: UnitsCase) -> dict[str, Any]:
    """What ``klcal.calibrate`` is asked for."""
    importance = np.random.default_rng(0).random(SIDE) if case.is_weighed else None
    return {
        "per": case.per,
        "dtype": case.dtype,
        "method": case.method,
        "scale_format": case.scale_format,
        "importance": importance,
    }


def _check(found: klcal.Row, expected: klcal.Row, case: UnitsCase) -> None:
    """Two rows are equal, to the bit."""
    assert found.units == expected.units, case
    assert all(getattr(found, name) == getattr(expected, name) for name in FIGURES), case


def _kernels(weight: torch.Tensor, case: UnitsCase, expected: klcal.Row) -> list[float]:
    """Median milliseconds of each of ``PARTS``; the first round, which compiles kernels, does not count."""
    shape, place = tuple(weight.shape), layout(parse_per(case.per), tuple(weight.shape))
    scheme = Scheme.parse(case.dtype, "auto", case.scale_format)
    settings, importance = Settings(methods.parse(case.method), scheme), None
    if (weights := _asked(case)["importance"]) is not None:
        importance = Importance.of(checked_importance(weights, shape), shape, place.order, place).in_own_order(place)
    timed, rounds = Timed(kernels(0)), []
    for _ in range(ROUNDS + 1):
        counted = counted_on_device(weight, "float32", place.tiles, all_units(place), timed, importance=importance)
        _check(calibrate_counted(counted, place, settings, weighed=case.is_weighed), expected, case)
        rounds.append(timed.taken())
    return [statistics.median(each) for each in zip(*rounds[1:], strict=True)]


def _columns(times: list[float]) -> str:
    return " ".join(f"{each:6.2f}" for each in times)


# --- others


def _others(weight: torch.Tensor) -> Iterator[tuple[str, str]]:
    """Each of ``OTHERS`` that is installed, and klcal beside it."""
    for name, (package, choose) in OTHERS.items():
        if find_spec(package) is None:
            yield f"{name} (not installed)", "-"
            continue
        asked = {"per": "group:128", "dtype": "int4", "method": "mse"}
        calls = {name: partial(_finished, choose, weight), "klcal": partial(klcal.calibrate, weight, **asked)}
        times = in_turns(calls, rounds=ROUNDS)
        yield name, seconds(times[name])
        yield f"{name} / klcal, to the row", f"{ratio(times, name, 'klcal'):.2f}"


def _finished(choose: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor) -> None:
    found = choose(weight)
    assert found.numel() == weight.numel() // 128
    assert bool((found > 0).all())  # waits for the device


def _llm_compressor(weight: torch.Tensor) -> torch.Tensor:
    """Scales from at most 20, by a norm of its own."""
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.observers import Observer

    asked = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128)
    observer = Observer.load_from_registry("memoryless_mse", base_name="weight", args=asked)
    found: torch.Tensor = observer(weight).get_qparams()["scale"]
    return found


def _modelopt(weight: torch.Tensor) -> torch.Tensor:
    """The ends of ranges, from 39; each is tried by torch."""
    from modelopt.torch.quantization.calib import MseCalibrator

    def quantized(values: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        scale = end / 7
        return (values / scale).round_().clamp_(-8, 7).mul_(scale)

    groups = weight.view(-1, 128)
    calibrator = MseCalibrator(groups.abs().amax(1, keepdim=True), axis=0, quant_func=quantized)
    calibrator.collect(groups)
    found: torch.Tensor = calibrator.compute_amax()
    return found


OTHERS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "llm-compressor, memoryless_mse": ("llmcompressor", _llm_compressor),
    "modelopt, MseCalibrator": ("modelopt", _modelopt),
}


if __name__ == "__main__":
    try:
        usable_device(DEVICE)
    except UsageError as error:
        sys.exit(f"not measured: {error.what}")
    tune() if sys.argv[1:] == ["tune"] else run()
