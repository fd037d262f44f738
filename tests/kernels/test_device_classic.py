"""`kl-classic` on a device: the threads of a team choose what the CPU chooses, to the bit."""

from __future__ import annotations

import ctypes
from typing import NamedTuple, cast

import numpy as np
import pytest

import klcal
from klcal.kernels.cuda import SOURCE
from klcal.kernels.library import address
from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import Classic
from klcal.search.choices import Choices, Spans, full_choices
from klcal.search.classic import classic_grid, least_classic
from klcal.search.methods import KL, MSE, sub_bins_per_cell
from klcal.search.structures import classic_of, figures_alone, scheme_kind, search_of, units_of, wanted_of
from klcal.sketches.distribution import Distribution
from tests.kernels.test_device_search import spoiled
from tests.support.devices import JUNK, Shim
from tests.support.kernels import IS_COMPILED
from tests.support.samples import cut

pytestmark = IS_COMPILED

THREADS, BLOCKS = 256, 2
MACROS = f"THREADS={THREADS}", "RESIDENT=2", "ONLY_CLASSIC"
WARP, BLOCK = 32, 256  # threads of a team
SHARED = {WARP: 64 << 10, BLOCK: 24 << 10}  # bytes for a block: too few for all that a unit needs
FAR = 1 << 20  # bytes of far memory for a team


class Asked(NamedTuple):
    """How units are searched, and what differs from 9 units of so many values."""

    team: int
    columns: int
    dtype: str
    kind: str = "auto"
    scale_format: str = "float32"
    bins: int = 2048
    bounds: tuple[float, float] | None = None
    is_weighed: bool = False
    is_cut: bool = False


def units_for(asked: Asked) -> Distribution:
    """Hostile units: those of ``spoiled`` that have values."""
    values = spoiled(9, asked.columns)
    values[5, 0] = 0
    values = (cut(values) if asked.is_cut else values).astype(np.float32)
    weights = np.random.default_rng(1).uniform(1e-3, 9, asked.columns).astype(np.float32)
    sketch = klcal.sketch(values, per="channel", importance=weights if asked.is_weighed else None)
    return Distribution.weighted(sketch.take(np.flatnonzero(np.diff(sketch.starts))))


class Found(NamedTuple):
    """What the CPU and the kernel choose, and the number of units for which the kernel had too little memory."""

    cpu: Choices
    device: Choices
    left: int

    def differing(self) -> list[int]:
        """The units whose choices differ by a bit."""
        is_one = (self.cpu.scale == self.device.scale) & (self.cpu.below == self.device.below)
        return np.flatnonzero(~is_one).tolist()


def searched(asked: Asked, launcher: Shim, numbers: list[int] | None = None, far: int = FAR) -> Found:
    some = units_for(asked)
    scheme, spans = Scheme.parse(asked.dtype, asked.kind, asked.scale_format), Spans.of(some, asked.bounds)
    sub, full = sub_bins_per_cell(asked.bins, scheme.size), full_choices(scheme, spans)
    also = [full, *(method(some, scheme, spans) for method in (MSE(), KL(bins=asked.bins)))]
    device = Choices(np.full(some.units, np.nan), np.full(some.units, -1, np.int64))
    structures = (
        search_of(scheme, None, figures_alone(sub)),
        units_of(some),
        wanted_of(spans, full, None, None, device),
        classic_of(classic_grid(scheme)),
    )
    further = [np.concatenate(column) for column in zip(*also, strict=True)]  # scales and levels below zero
    candidates = cast("Classic", structures[-1].structure)
    candidates.others, candidates.units = len(also), some.units
    candidates.scale, candidates.below = map(address, further)
    how, units, wanted, classic = (ctypes.addressof(each.structure) for each in structures)
    order = np.arange(some.units) if numbers is None else np.array(numbers)
    memory = np.frombuffer(bytearray(JUNK * (BLOCKS * (THREADS // asked.team) * far + 16)), np.uint8)
    left = np.zeros(1, np.int64)
    shared = SHARED[asked.team]
    launcher.launch(
        *("device_search.cu", "classic_units", BLOCKS, THREADS, shared),
        *(how, units, 0 if numbers is None else address(order), order.size, wanted, classic),
        *(shared, -(-address(memory) // 16) * 16, far, address(left)),
        macros=(f"TEAM={asked.team}", f"SCHEME_KIND={scheme_kind(scheme)}", *MACROS),
    )
    return Found(least_classic(some, scheme, spans, sub, also), device, int(left[0]))


BY_VALUES = [
    Asked(WARP, 128, "int8"),
    Asked(WARP, 128, "uint4", "affine"),
    Asked(WARP, 100, "int4", "symmetric-signed", "float16", is_weighed=True),
    Asked(WARP, 60, "int4", is_weighed=True, is_cut=True),
    Asked(WARP, 64, "float4_e2m1fn", scale_format="e8m0"),
    Asked(BLOCK, 700, "uint8", "affine", is_cut=True),
    Asked(BLOCK, 900, "float8_e4m3fn"),
    Asked(BLOCK, 600, "int5", "affine", "float16", bounds=(-2.0, 0.7)),
]
BY_SUB_BINS = [
    Asked(WARP, 200, "int4", bins=300, is_cut=True),
    Asked(WARP, 300, "uint4", "affine", "e8m0", bins=64),
    Asked(BLOCK, 4096, "int8"),
    Asked(BLOCK, 1200, "float8_e4m3fn", scale_format="float16", bins=777, is_weighed=True),
]
OF_BUCKETS = [
    Asked(BLOCK, 5000, "int8", scale_format="e8m0"),
    Asked(BLOCK, 9000, "int8", "symmetric-signed", is_weighed=True),
    Asked(BLOCK, 6000, "uint4", "affine", "float16", bins=300),
    Asked(BLOCK, 5000, "float8_e4m3fn"),
    Asked(WARP, 5000, "float4_e2m1fn", bins=100, bounds=(-0.3, 0.5)),
]


@pytest.mark.parametrize("asked", [*BY_VALUES, *BY_SUB_BINS, *OF_BUCKETS], ids=str)
def test_threads_of_a_team_choose_what_the_cpu_chooses(asked):
    found = searched(asked, Shim(has_threads=True))
    assert not found.left
    assert found.differing() == []
    assert units_for(asked).sketch.exact.all() != (asked in OF_BUCKETS)


def test_some_units_by_their_numbers():
    found = searched(BY_VALUES[0], Shim(has_threads=True), [6, 0, 3])
    assert found.differing() == [1, 2, 4, 5, 7]
    assert np.isnan(found.device.scale[[1, 2, 4, 5, 7]]).all()


@pytest.mark.parametrize("asked", [BY_VALUES[0], BY_SUB_BINS[0]], ids=str)
def test_units_for_which_the_memory_is_too_little_are_told(asked):
    left = []
    for far in (16, 4 << 10, 10 << 10, 16 << 10, FAR):
        found = searched(asked, Shim(has_threads=True), far=far)
        assert found.left == len(found.differing())
        assert np.isnan(found.device.scale[found.differing()]).all()
        left.append(found.left)
    assert left[0] == 8
    assert 0 < left[2] < 8
    assert left[-1] == 0


@pytest.mark.parametrize(
    ("file", "before"),
    [
        ("classic_values.h", "        team->lanes[0][RANK] = sum;\n    }\n"),
        ("classic_candidates.h", "    EACH(i, scales) put_options(unit, some, i);\n"),
    ],
)
def test_threads_that_do_not_wait_are_noticed(tmp_path, file, before):
    for path in SOURCE.glob("*.*"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / file).read_text()
    assert text.count(f"{before}    MEET;\n") == 1
    (tmp_path / file).write_text(text.replace(f"{before}    MEET;\n", before))
    assert searched(BY_VALUES[1], Shim(has_threads=True, source=tmp_path)).differing()


@pytest.mark.parametrize("asked", [BY_VALUES[1], OF_BUCKETS[0]], ids=str)
def test_the_stand_in_without_threads_chooses_so_too(asked):
    """The shim of plain loops runs the CPU's search in place of the kernel."""
    assert not searched(asked, Shim()).differing()
