"""Units searched and judged on a device: the CPU's rows, to the bit, by the text both have, and by threads."""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import klcal
from klcal.calibration.devices import calibrate_counted
from klcal.errors import UsageError
from klcal.kernels import cuda
from klcal.kernels.cuda import OPTIONS, SOURCE, source_text
from klcal.quantizers.granularity import parse_per
from klcal.quantizers.layout import layout
from klcal.quantizers.scheme import Scheme
from klcal.search import density, device_work, methods, on_device, steps
from klcal.search.c_types import Wanted
from klcal.search.density import How
from klcal.search.settings import Settings
from klcal.sketches import device_units
from klcal.sketches.arrays import checked_tensor
from klcal.sketches.device_units import all_units, counted_on_device, host_sketch
from klcal.sketches.values import weights_of
from tests.kernels.test_compiled import EXTREMES, requests
from tests.support.devices import Shim, real_device
from tests.support.kernels import IS_COMPILED, differing
from tests.support.lazy import torch
from tests.support.samples import DISTRIBUTIONS, cut, sample

pytestmark = IS_COMPILED


def there(tensor, per: str = "channel", launcher: Shim | None = None, **asked: Any) -> klcal.Row:
    """The row of a tensor as if it lay on a device, which the CPU is."""
    more = {"dtype": "uint8", "method": "kl", "scheme": "auto", "scale_format": "float32", "bounds": None} | asked
    shape = tuple(tensor.shape)
    scheme = Scheme.parse(more["dtype"], more["scheme"], more["scale_format"])
    how = Settings(methods.parse(more["method"]), scheme, more["bounds"], more.get("nonfinite", "fail"))
    place = layout(parse_per(per), shape)
    weights = more.get("importance")
    if weights is not None:
        weights = weights_of(weights, shape, place.order, place)
    units = place.tiles, all_units(place), launcher or Shim()
    at_once = device_units.AT_ONCE
    counted = counted_on_device(tensor, checked_tensor(tensor), *units, importance=weights, at_once=at_once)
    row = calibrate_counted(counted, place, how, weighed=weights is not None)
    return replace(row, shape=shape)


def agree(tensor, per: str = "channel", launcher: Shim | None = None, **asked: Any) -> list[str]:
    return differing(there(tensor, per, launcher, **asked), klcal.calibrate(tensor, per=per, **asked))


def spoiled(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Heavy tails; and rows of nothing, of few values, of one, with NaN, and of one sign."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(4, (rows, columns)).astype(np.float32)
    values[0] *= 1e-20
    values[1] = 0
    values[2, : columns // 2] = 0
    values[3] = np.round(values[3] * 3) / 4
    values[4] = 0.3
    values[5, 0] = np.nan
    values[6] = np.abs(values[6])
    values[7] = rng.choice(np.float32([-1, 0, 1, 2.5]), columns)
    return values


# --- the text that both have


@given(requests(), st.integers(1, 1500), st.sampled_from(sorted(DISTRIBUTIONS)), st.booleans(), st.integers(0, 999))
@settings(max_examples=80)
def test_a_device_chooses_and_judges_as_the_cpu_does(asked, size, name, is_cut, seed):
    rng = np.random.default_rng(seed)
    units = np.stack([sample(rng, name, size), sample(rng, name, size), np.roll(sample(rng, name, size), 1)])
    tensor = torch.from_numpy((cut(units) if is_cut else units).astype(np.float32))
    try:
        klcal.calibrate(tensor, per="channel", **asked)
    except UsageError:  # a scheme without such scales
        return
    assert not agree(tensor, **asked)


@pytest.mark.parametrize("values", EXTREMES, ids=range(len(EXTREMES)))
@pytest.mark.parametrize("dtype", ["int4", "uint8", "float8_e5m2"])
@pytest.mark.parametrize("scale_format", ["float32", "float16", "float8_e4m3fn"])
def test_at_the_ends_of_floats(values, dtype, scale_format):
    """Scales underflow and overflow their format, and the host looks at these units."""
    tensor = torch.tensor([values * 5, [each * 1e-3 for each in values] * 5], dtype=torch.float32)
    assert not agree(tensor, dtype=dtype, scale_format=scale_format)


@pytest.mark.parametrize("per", ["channel", "channel:1", "group:128", "group:100", "block:16,48"])
@pytest.mark.parametrize("nonfinite", ["fail", "ignore"])
def test_all_statuses_and_ways_of_lying(per, nonfinite, monkeypatch):
    monkeypatch.setattr(device_units, "AT_ONCE", 5000)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        tensor = torch.from_numpy(spoiled(140, 300)).to(dtype)
        for some in (tensor, tensor.T[:280]):
            for method in ("mse", "percentile:99", "kl-classic:bins=200"):
                assert not agree(some, per, dtype="int8", method=method, nonfinite=nonfinite)


def test_sketches_that_a_device_counted_are_those_of_the_cpu():
    tensor = torch.from_numpy(spoiled(24, 6000))
    place = layout(parse_per("channel"), (24, 6000))
    (counted,) = counted_on_device(tensor, "float32", place.tiles, all_units(place), Shim())
    expected = klcal.sketch(tensor, per="channel")
    assert host_sketch(counted) == replace(expected, grid=None)
    some = np.array([3, 0, 17])
    assert host_sketch(counted, some) == expected.take(some)


def test_a_part_of_the_units_is_freed_before_the_next_is_counted(monkeypatch):
    counted, before = [], device_units.count_units

    def count_units(*arguments: Any):
        assert not any(keys() is not None for keys in counted)
        found = before(*arguments)
        counted.append(weakref.ref(found.keys))
        return found

    monkeypatch.setattr(device_units, "AT_ONCE", 5000)
    monkeypatch.setattr(device_units, "count_units", count_units)
    there(torch.from_numpy(spoiled(40, 300)), dtype="int8", method="mse", nonfinite="ignore")
    assert len(counted) > 2


def importance_for(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """An importance for each value: some of 0, all of a unit, and of its outermost value."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=values.shape) * rng.integers(0, 3, values.shape[-1])
    weights[0] = 0
    weights[1, np.abs(values[1]).argmax()] = 0
    weights[2, np.abs(values[2]).argmax()] = 1e-9
    return weights


@pytest.mark.parametrize("per", ["channel", "channel:1", "group:128", "group:100", "block:16,48"])
@pytest.mark.parametrize("shared", [False, True], ids=["each", "columns"])
def test_values_with_an_importance(per, shared, monkeypatch):
    monkeypatch.setattr(device_units, "AT_ONCE", 50_000)
    values = spoiled(140, 300)
    weights = importance_for(values)
    weights = weights[5] if shared else weights
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.from_numpy(values).to(dtype)
        for method, target in (("mse", "int4"), ("kl:bins=60", "uint4")):
            assert not agree(tensor, per, dtype=target, method=method, nonfinite="ignore", importance=weights)


@pytest.mark.parametrize("scale_format", ["float16", "float8_e4m3fn", "e8m0"])
def test_values_with_an_importance_and_scales_in_a_format(scale_format):
    values = spoiled(30, 5000)
    weights = importance_for(values)
    weights[:, np.abs(values).max(axis=0) > 9] = 0  # what weighs nothing does not count in the global scale
    for values_of, dtype in ((values, "int8"), (values * 1e-5, "int4"), (cut(values).astype(np.float32), "uint8")):
        tensor = torch.from_numpy(values_of)
        assert not agree(tensor, dtype=dtype, scale_format=scale_format, nonfinite="ignore", importance=weights)


# --- threads of a team

CASES = [
    ("group:128", (10, 256), {"dtype": "int4", "method": "mse"}),
    ("group:300", (10, 600), {"dtype": "uint4", "method": "mse", "scheme": "affine"}),
    ("group:16", (10, 64), {"dtype": "float4_e2m1fn", "scale_format": "float8_e4m3fn"}),
    ("group:32", (10, 64), {"dtype": "uint4", "method": "mse"}),
    ("channel", (9, 5000), {"dtype": "int8", "method": "kl"}),
    ("channel", (9, 2000), {"dtype": "uint8", "method": "kl:bins=300"}),
    ("channel", (9, 20_000), {"dtype": "int4", "scheme": "symmetric-signed"}),
    ("channel", (9, 9000), {"dtype": "float8_e4m3fn", "method": "kl"}),
    ("group:128", (10, 256), {"dtype": "uint4", "method": "kl-classic:bins=300"}),
    ("channel", (9, 2000), {"dtype": "int8", "method": "kl-classic", "scheme": "symmetric-signed"}),
    ("channel", (9, 9000), {"dtype": "int8", "method": "percentile:99"}),
]


@pytest.mark.parametrize(("per", "shape", "asked"), CASES, ids=str)
def test_threads_of_a_team_share_a_unit(per, shape, asked):
    is_cut = CASES.index((per, shape, asked)) % 2
    values = spoiled(*shape)
    tensor = torch.from_numpy((cut(values) if is_cut else values).astype(np.float32))
    assert not agree(tensor, per, Shim(has_threads=True), **asked)


@pytest.mark.parametrize(("per", "shape", "asked"), [*CASES[:8:2], CASES[8]], ids=str)
def test_threads_of_a_team_share_a_unit_with_an_importance(per, shape, asked):
    values = spoiled(*shape)
    tensor = torch.from_numpy(values)
    assert not agree(tensor, per, Shim(has_threads=True), **asked, importance=importance_for(values))


def test_a_unit_for_which_the_memory_is_too_little_has_more(monkeypatch):
    monkeypatch.setattr(device_work, "WARP_BYTES", 16)
    monkeypatch.setattr(device_work, "PIECE_BYTES", 1)
    tensor = torch.from_numpy(spoiled(10, 256))
    assert not agree(tensor, "group:128", Shim(shared=70 << 10, has_threads=True), dtype="int4", method="mse")


class WithoutMemory(Shim):
    """A device whose first search has too little memory for all units: they are searched once more."""

    searches = 0

    def launch(self, file: str, name: str, *told: int, macros: tuple[str, ...] = ()) -> None:
        if name == "search_units":
            self.searches += 1
            units, wanted, left = told[6], Wanted.from_address(told[7]), ctypes.c_int64.from_address(told[-1])
            if self.searches == 1:
                left.value = units
                return
            if wanted.plain_below:
                assert set((ctypes.c_int64 * units).from_address(wanted.plain_below)) <= set(range(16))
        super().launch(file, name, *told, macros=macros)


def test_a_step_without_memory_leaves_no_choice_that_a_later_one_could_fall_over(monkeypatch):
    made = torch.Tensor.new_empty

    def spoilt(*arguments: Any, **more: Any) -> torch.Tensor:
        found = made(*arguments, **more)
        found.view(torch.uint8).fill_(0x5A)
        return found

    values = np.random.default_rng(0).standard_normal((3, 20_000)).astype(np.float32)
    asked = {"dtype": "uint4", "method": "mse", "scheme": "affine", "importance": importance_for(values)}
    monkeypatch.setattr(torch.Tensor, "new_empty", spoilt)
    launcher = WithoutMemory()
    assert not agree(torch.from_numpy(values), launcher=launcher, **asked)
    assert launcher.searches > 6


# --- a thread for each short unit


class Seen(Shim):
    """A shim that remembers the kernels that ran, and for how many units."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.units: dict[str, int] = {}

    def launch(self, file: str, name: str, *arguments: int, **more: Any) -> None:
        if name.endswith("_units") and file in ("device_lanes.cu", "device_search.cu"):
            self.units[name] = self.units.get(name, 0) + arguments[6]
        super().launch(file, name, *arguments, **more)


SHORT_CASES = [
    ("group:128", 256, {"dtype": "int4"}),
    ("group:128", 256, {"dtype": "uint4", "scheme": "affine"}),
    ("group:16", 64, {"dtype": "float4_e2m1fn", "scale_format": "float8_e4m3fn"}),
    ("group:32", 64, {"dtype": "float4_e2m1fn", "scale_format": "e8m0"}),
    ("channel", 200, {"dtype": "int8", "scheme": "symmetric-signed"}),
    ("group:40", 80, {"dtype": "nf4"}),
    ("channel", 256, {"dtype": "float8_e4m3fn"}),
]


@pytest.mark.parametrize(("per", "columns", "asked"), SHORT_CASES, ids=str)
@pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "weights"])
def test_a_short_unit_has_a_thread(per, columns, asked, is_weighted):
    values = spoiled(150, columns)
    asked = {"method": "mse", "nonfinite": "ignore"} | asked
    if is_weighted:
        asked["importance"] = importance_for(values)
    for some in (values, cut(values).astype(np.float32)):
        device = Seen()
        assert not agree(torch.from_numpy(some), per, device, **asked)
        assert device.units["search_short_units"] > device.units.get("search_units", 0)
        assert ("figures_of_short_units" in device.units) == (asked["dtype"] not in ("nf4", "float8_e4m3fn"))


def test_short_units_for_which_the_memory_is_too_little_have_more(monkeypatch):
    monkeypatch.setattr(steps, "OCTAVES", 0)
    monkeypatch.setattr(steps, "FURTHER", 0)
    tensor, seen, usual = torch.from_numpy(spoiled(150, 256)), Seen(), Seen()
    assert not agree(tensor, "group:128", seen, dtype="int4", method="mse")
    monkeypatch.undo()
    assert not agree(tensor, "group:128", usual, dtype="int4", method="mse")
    assert seen.units["search_short_units"] >= 2 * usual.units["search_short_units"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("add_four(tried, at + tried->apart, 2", "add_four(tried, at, 2"),  # half of the values, twice
        ("half[1][g] += k < 2 ? 0 : row[g];", "half[0][g] += k < 2 ? 0 : row[g];"),  # in another order
    ],
)
def test_other_sums_of_a_thread_are_noticed(tmp_path, right, wrong):
    for path in SOURCE.glob("*.*"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "device_lane_points.h").read_text()
    assert text.count(right) == 1
    (tmp_path / "device_lane_points.h").write_text(text.replace(right, wrong))
    tensor = torch.from_numpy(np.random.default_rng(0).standard_t(4, (300, 256)).astype(np.float32))
    assert agree(tensor, "group:128", Shim(source=tmp_path), dtype="int4", method="mse")


def test_threads_that_do_not_wait_are_noticed(tmp_path):
    for path in SOURCE.glob("*.*"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "ranked.h").read_text()
    assert text.count("            MEET;\n        }\n    return order;") == 1
    (tmp_path / "ranked.h").write_text(
        text.replace("            MEET;\n        }\n    return order;", "        }\n    return order;")
    )
    tensor = torch.from_numpy(spoiled(10, 256))
    asked = {"dtype": "int4", "method": "mse"}
    assert not agree(tensor, "group:128", Shim(has_threads=True), **asked)
    assert agree(tensor, "group:128", Shim(has_threads=True, source=tmp_path), **asked)


# --- what Python and the source both know


def test_the_ways_of_searching_are_the_source_s():
    text = source_text("device_outcomes.cu")
    ways = re.search(r"enum \{ ([A-Z, ]+), WAYS \};", text)[1].split(", ")
    assert ways == [how.name for how in How]
    most = [int(each) for each in re.search(r"most\[\] = \{([\d, ]+)\}", text)[1].split(", ")]
    assert most == list(density.MAX_PIECES.values())
    assert int(re.search(r"#define FEW_SEARCHED (\d+)", text)[1]) == density.FEW_LEVELS
    assert int(re.search(r"#define MIDDLES_SEARCHED (\d+)", text)[1]) == density.MAX_LEVELS
    statuses = re.search(r"enum \{ OK, ([A-Z, ]+) \};", text)[1].split(", ")
    assert (statuses.index("UNKNOWN") + 1, statuses.index("VANISHED") + 1) == (on_device.UNKNOWN, on_device.VANISHED)
    assert int(re.search(r"#define THREADS (\d+)", text)[1]) == device_work.THREADS


# --- compiling


@pytest.mark.parametrize(
    ("arch", "file", "macros"),
    [
        ("sm_90", "search", "TEAM=32 SCHEME_KIND=0 ROUNDING_KIND=0 LOOKED_AT=0 UNDECIDED ONLY_SEARCH"),
        ("sm_80", "search", "TEAM=32 SCHEME_KIND=2 ROUNDING_KIND=0 LOOKED_AT=1 UNDECIDED ONLY_SEARCH"),
        ("sm_80", "search", "TEAM=256 SCHEME_KIND=1 ROUNDING_KIND=0 LOOKED_AT=2 ONLY_SEARCH"),
        ("sm_90", "search", "TEAM=256 ONLY_FIGURES"),
        ("sm_80", "search", "TEAM=32 SCHEME_KIND=2 ONLY_CLASSIC"),
        ("sm_90", "search", "TEAM=256 SCHEME_KIND=0 ONLY_CLASSIC"),
        ("sm_90", "lanes", "SCHEME_KIND=0 ROUNDING_KIND=1 ONLY_SEARCH"),
        ("sm_80", "lanes", "SCHEME_KIND=2 ROUNDING_KIND=0 ONLY_SEARCH"),
        ("sm_80", "lanes", "ONLY_FIGURES"),
        ("sm_80", "weighed", "TEAM=32"),
        ("sm_90", "weighed", "TEAM=256"),
    ],
)
def test_the_run_time_compiler_takes_the_kernel_of_a_case(arch, file, macros, capfd):
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the run-time compiler finds its parts only without a sanitizer")
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed", exc_type=ImportError)
    named = f"THREADS=256 RESIDENT=2 {macros}".split()
    case = [tuple(macro.split("=")) if "=" in macro else macro for macro in named]
    try:
        program = core.Program(
            source_text(f"device_{file}.cu"), "c++", core.ProgramOptions(arch=arch, define_macro=case, **OPTIONS)
        )
    except Exception as error:  # of its own kind, or of the loader of its library
        pytest.skip(f"the run-time compiler is not installed: {error!r}"[:80])
    assert len(program.compile("cubin").code) > 1000
    assert capfd.readouterr().err == ""


def test_kernels_are_kept_in_the_user_s_cache_where_that_can_be(tmp_path, monkeypatch):
    pytest.importorskip("cuda.core.utils", reason="cuda-core is not installed", exc_type=ImportError)
    monkeypatch.delenv("KLCAL_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cuda._kept.cache_clear()
    assert cuda._kept() is not None
    assert (tmp_path / "klcal" / "kernels").stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    for variable, value in (("XDG_CACHE_HOME", str(tmp_path / "file")), ("KLCAL_NO_CACHE", "1")):
        monkeypatch.setenv(variable, value)
        cuda._kept.cache_clear()
        assert cuda._kept() is None
    cuda._kept.cache_clear()


# --- a GPU


@pytest.mark.parametrize(("per", "shape", "asked"), CASES, ids=str)
def test_a_gpu_gives_the_rows_of_the_cpu(per, shape, asked):
    device = real_device()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensor = torch.from_numpy(spoiled(shape[0] * 5, shape[1])).to(dtype)
        for some in (tensor, tensor.T) if per == "channel" and shape[1] <= 2000 else (tensor,):
            found = klcal.calibrate(some.to(device), per=per, **asked)
            assert not differing(found, klcal.calibrate(some, per=per, **asked))


def test_sketches_of_a_gpu_are_those_of_the_cpu():
    device = real_device()
    tensor = torch.from_numpy(spoiled(24, 6000))
    for per in ("channel", "channel:1", "group:128"):
        assert klcal.sketch(tensor.to(device), per=per) == klcal.sketch(tensor, per=per)
        assert klcal.sketch(tensor, per=per, device=device) == klcal.sketch(tensor, per=per)


def test_two_streams_at_once():
    device = real_device()
    tensors = [torch.from_numpy(spoiled(64, 512, seed)) for seed in range(4)]
    found = []
    for tensor in tensors:
        with torch.cuda.stream(torch.cuda.Stream()):
            found.append(klcal.calibrate(tensor.to(device), per="group:128", dtype="int4"))
    for row, tensor in zip(found, tensors, strict=True):
        assert not differing(row, klcal.calibrate(tensor, per="group:128", dtype="int4"))
