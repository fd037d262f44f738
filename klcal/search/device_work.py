"""The search on a CUDA device, for units that were counted there: the kernels that run.

A kernel is compiled for a case: the number of threads that work on a unit, the way in which units are searched, and the
scheme. All units that are searched in one way go into one launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import MAX_LEVELS
from klcal.search.chosen import sub_bins
from klcal.search.density import How
from klcal.search.device_arrays import Arrays, Summary
from klcal.search.device_place import place_on
from klcal.search.outcome_structures import VANISHED, Kept, asked_of, on_place
from klcal.search.settings import Settings
from klcal.search.steps import Step
from klcal.search.structures import figures_alone, rounding_kind, scheme_kind
from klcal.sketches.device_units import CountedUnits, fetched
from klcal.sketches.patterns import MOST
from klcal.tables.outcomes import OK

if TYPE_CHECKING:
    import torch

__all__ = ["Work"]

TEAMS_FILE, THREADS_FILE, OUTCOMES = "device_search.cu", "device_lanes.cu", "device_outcomes.cu"
THREADS = 256  # of a block, as in the sources
TEAM, BLOCK_TEAM = 32, 256  # threads that work on a unit: a warp for short units, a block for longer ones
MOST_OF_WARP = How.SHORT  # the last way of searching that is for a warp
RESIDENT = {32: 2, 256: 3}  # blocks on a multiprocessor, by the threads of a team: measured
LEAST_SHARED = 46 << 10  # bytes of shared memory that a block needs at least
MEMORY = 512 << 20  # bytes of device memory for all teams together, at most
WARP_BYTES, BLOCK_BYTES, PIECE_BYTES = 24 << 10, 160 << 10, 280  # memory of a warp, of a block; and for each piece
BIN_BYTES = 48  # and for each sub-bin
OWN_BYTES, NEAR_BYTES, NEAR_PIECE_BYTES = 5376, 2048, 40  # shared memory of a warp; more would shrink the cache

# Short units have a thread each. Those of a warp have memory together: bytes of it for each value, and more where the
# zero point is free; for candidates that are tried at once; and for each candidate that is kept.
WARP, LANE_THREADS, LANE_RESIDENT = 32, 128, 2  # threads of a warp, of a block; blocks on a multiprocessor
LEAST_ROWS, MOST_SHORT = 16, 256  # values of a short unit, as in source/points.h
ROW_BYTES, BALANCE_BYTES, DESK_BYTES, CANDIDATE_BYTES = 640, 384, 33 << 10, 768


@dataclass(frozen=True)
class Part:
    """The units of a launch."""

    ways: tuple[How, ...]  # in which they are searched
    is_short: bool | None  # whether each has a thread rather than a team; None: all have a team, even short ones
    number: int  # of units
    pieces: int  # the largest number of pieces of one of them
    values: int  # the largest number of values


class Work:
    """The search for some units on the device.

    Args:
        found: the units.
        settings: of the search; C searches by its method.
    """

    def __init__(self, found: CountedUnits, settings: Settings) -> None:
        self.launcher, self.settings = found.launcher, settings
        self.units, self.device = found.numbers.size, found.counts.keys.device
        self.sub = sub_bins(settings)
        self.place = place_on(str(self.device))
        self.arrays = Arrays(found, settings, self.place)
        self.asked = asked_of(settings, self.sub, self.place)
        self.held: list[Kept] = []
        self.left = self.arrays.tops.new_zeros(1)  # the number of units that had too little memory
        self.listed: dict[Part, torch.Tensor] = {}  # the numbers of units, which are the same in all steps

    def _each_unit(self, name: str, *arguments: int) -> None:
        """Queues a kernel that has a thread for each unit."""
        self.launcher.launch(OUTCOMES, name, -(-self.units // THREADS), THREADS, 1 << 10, *arguments)

    def prepare(self) -> Summary:
        """Finds the status of each unit and the way in which to search it. Waits for the device."""
        summary, where = Summary.empty(self.arrays.tops), self.arrays.addresses
        told = where["units"], where.get("weighed", 0), where["sketches"], self.asked.address, where["prepared"]
        enough = min((step.enough for step in self.arrays.steps), default=MOST + 1)  # D decides: not short
        self._each_unit("prepare_units", *told, enough, self.arrays.short.data_ptr(), summary.data_ptr())
        numbers: Any = fetched(summary)[0]
        return Summary.of(numbers.tolist())

    def search(self, summary: Summary, factor: int) -> bool:
        """Searches all units and computes their figures; False if a unit needed more memory. Waits for the device.

        Args:
            summary: from ``prepare``.
            factor: the memory of each team, as a multiple of what is usual.
        """
        arrays = self.arrays
        self.left.zero_()
        if not arrays.steps:
            arrays.scale.copy_(arrays.full[-1:])
            arrays.below.copy_(arrays.full_below[-1:])
        for number, part in product(range(len(arrays.steps)), list(_of_each_way(summary))):
            self._searched(number, part, factor)
        if arrays.has_classic:
            for part in _teams(summary):
                self._by_classic(part, factor)
        status, deployed = arrays.status.data_ptr(), arrays.addresses["deployed"]
        chosen = arrays.scale[-1].data_ptr(), arrays.below[-1].data_ptr()
        self._each_unit("deploy_units", self.asked.address, *chosen, status, deployed, self.units)
        judged = _threads_and_teams if _has_short_figures(self.settings.scheme) else _teams
        for part in judged(summary):
            self._judged(part, factor)
        return not int(self.left)

    def _held(self, told: Kept) -> Kept:
        """The arguments of kernels, kept alive until all of them are done, even if a cache drops them meanwhile."""
        self.held.append(told)
        return told

    def _searched(self, number: int, part: Part, factor: int) -> None:
        """Queues the search of units that are searched in one way, in one step."""
        step, how = self.arrays.steps[number], part.ways[0]
        search = self._held(step.search(how, self.place))
        macros = [f"SCHEME_KIND={scheme_kind(step.scheme)}", f"ROUNDING_KIND={rounding_kind(step.scheme)}"]
        told = search.address, self._units(step), self.arrays.addresses[f"wanted {number}"]
        if part.is_short:
            candidates = step.candidates(how) * factor
            of_row = ROW_BYTES + BALANCE_BYTES * (step.scheme.kind == "affine")
            far = of_row * (_rows(part) + 4) + DESK_BYTES + CANDIDATE_BYTES * candidates
            self._run_threads("search_short_units", part, told, [*macros, "ONLY_SEARCH"], far)
            return
        macros += [f"LOOKED_AT={_looked_at(how)}", "ONLY_SEARCH"]
        if part.values < step.enough:
            macros.append("UNDECIDED")
        self._run("search_units", part, told, macros, step.scheme.size * step.sub, factor)

    def _units(self, step: Step) -> int:
        """The address of the pieces that are searched in a step."""
        name = "weighted" if step.weighted else "plain" if self.arrays.left else "units"
        return self.arrays.addresses[name]

    def _by_classic(self, part: Part, factor: int) -> None:
        """Queues the search of units by `kl-classic`."""
        where = self.arrays.addresses
        units = self._units(self.arrays.steps[-1])
        told = self._figures_alone(), units, where["wanted by classic"], where["classic"]
        macros = [f"SCHEME_KIND={scheme_kind(self.settings.scheme)}", "ONLY_CLASSIC"]
        self._run("classic_units", part, told, macros, self._bins(), factor)

    def _judged(self, part: Part, factor: int) -> None:
        """Queues the computation of the figures of units."""
        told = self._figures_alone(), self.arrays.addresses["units"], self.arrays.addresses["chosen"]
        if part.is_short:
            far = ROW_BYTES * _rows(part)
            self._run_threads("figures_of_short_units", part, told, ["ONLY_FIGURES"], far)
        else:
            self._run("figures_of_units", part, told, ["ONLY_FIGURES"], self._bins(), factor)

    def _figures_alone(self) -> int:
        """The address of a search that has the scheme and the sub-bins only."""
        return self._held(on_place(self.settings.scheme, None, figures_alone(self.sub), self.place)).address

    def _bins(self) -> int:
        """The number of sub-bins of D, if it is computed from them."""
        return self.settings.scheme.size * self.sub if self.sub > 1 else 0

    def _run(
        self,
        name: str,
        part: Part,
        told: tuple[int, int, int, *tuple[int, ...]],
        macros: list[str],
        bins: int,
        factor: int,
    ) -> None:
        """Queues a kernel that has a team for each unit."""
        import torch

        team = TEAM if part.ways[0] <= MOST_OF_WARP else BLOCK_TEAM
        far = WARP_BYTES if team == TEAM else BLOCK_BYTES + BIN_BYTES * bins
        far = (far + PIECE_BYTES * part.pieces) * factor // 16 * 16
        teams, resident = THREADS // team, RESIDENT[team]
        resident = resident if self.launcher.share(resident) >= LEAST_SHARED else 1
        most = resident * self.launcher.multiprocessors
        blocks = min(-(-part.number // teams), most, max(1, MEMORY // (far * teams)))
        memory = torch.empty(blocks * teams * far, dtype=torch.uint8, device=self.device)
        shared = self.launcher.share(resident) // 16 * 16
        if team == TEAM:
            shared = min(shared, teams * (OWN_BYTES + NEAR_BYTES + NEAR_PIECE_BYTES * part.pieces) // 16 * 16)
        macros = [f"TEAM={team}", f"THREADS={THREADS}", f"RESIDENT={resident}", *macros]
        self._launch((TEAMS_FILE, name, blocks, THREADS, shared), part, told, (shared, memory, far), macros)

    def _run_threads(self, name: str, part: Part, told: tuple[int, int, int], macros: list[str], far: int) -> None:
        """Queues a kernel that has a thread for each unit, and ``far`` bytes for a warp."""
        import torch

        warps = LANE_THREADS // WARP
        most = LANE_RESIDENT * self.launcher.multiprocessors
        blocks = min(-(-part.number // LANE_THREADS), most, max(1, MEMORY // (far * warps)))
        memory = torch.empty(blocks * warps * far, dtype=torch.uint8, device=self.device)
        macros = [f"THREADS={LANE_THREADS}", f"RESIDENT={LANE_RESIDENT}", *macros]
        self._launch((THREADS_FILE, name, blocks, LANE_THREADS, 0), part, told, (_rows(part), memory, far), macros)

    def _launch(
        self,
        kernel: tuple[str, str, int, int, int],
        part: Part,
        told: tuple[int, int, int, *tuple[int, ...]],
        room: tuple[int, torch.Tensor, int],
        macros: list[str],
    ) -> torch.Tensor:
        """Queues a kernel for some units; returns what ``_run`` does.

        Args:
            kernel: file, name, blocks, threads of a block, and bytes of shared memory.
            part: the units.
            told: addresses of a search, of units, and of further structures.
            room: a size, the memory on the device, and its bytes for each team or warp.
            macros: for the compiler.
        """
        numbers = self._numbers(part) if part.number < self.units else None
        where = 0 if numbers is None else numbers.data_ptr()
        first, memory, bytes_of_each = room
        own = first, memory.data_ptr(), bytes_of_each, self.left.data_ptr()
        self.launcher.launch(*kernel, *told[:2], where, part.number, *told[2:], *own, macros=tuple(macros))

    def _numbers(self, part: Part) -> torch.Tensor:
        """The numbers of units, int64, on the device. Waits for it when a part is asked for first."""
        import torch

        if part in self.listed:
            return self.listed[part]
        status, how = self.arrays.status, self.arrays.how
        wanted = torch.zeros_like(status, dtype=torch.bool)
        for each in part.ways:
            wanted |= how == int(each)
        if part.is_short is not None:
            wanted &= self.arrays.short == int(part.is_short)
        self.listed[part] = torch.nonzero(wanted & ((status == OK) | (status == VANISHED))).reshape(-1)
        return self.listed[part]


def _part(ways: Sequence[How], is_short: bool | None, summary: Summary) -> Part:
    """The units that are searched in some ways: all of them, or only short ones, or only others."""
    number, pieces = sum(summary.searched[how] for how in ways), max(summary.pieces[how] for how in ways)
    short = sum(summary.short[how] for how in ways)
    if is_short is not None:
        number = short if is_short else number - short
    if is_short:
        pieces = min(pieces, MOST_SHORT)
    return Part(tuple(ways), is_short, number, pieces, max(summary.values[how] for how in ways))


def _of_each_way(summary: Summary) -> Iterator[Part]:
    """The units to search: those of each way, short ones apart from others."""
    parts = (_part([how], is_short, summary) for how in How for is_short in (True, False))
    return (part for part in parts if part.number)


def _teams(summary: Summary, is_short: bool | None = None) -> Iterator[Part]:
    """All units, or only those that are not short, by the size of the team that works on each."""
    warps, blocks = ([how for how in How if (how <= MOST_OF_WARP) == is_warp] for is_warp in (True, False))
    return (part for ways in (warps, blocks) if (part := _part(ways, is_short, summary)).number)


def _threads_and_teams(summary: Summary) -> Iterator[Part]:
    """The short units, which have a thread each, and all others."""
    short = _part(list(How), True, summary)
    if short.number:
        yield short
    yield from _teams(summary, is_short=False)


def _has_short_figures(scheme: Scheme) -> bool:
    """Whether a thread can find the figures of a unit: of integers, or of few levels that both signs have."""
    if not scheme.is_float:
        return True
    levels = scheme.above.size + 1  # with zero; an even number of them is looked up
    return scheme.size <= MAX_LEVELS and levels % 2 == 0 and np.array_equal(scheme.above, scheme.below)


def _rows(part: Part) -> int:
    """The number of values for which a thread has room: a power of two."""
    return max(LEAST_ROWS, 1 << (part.pieces - 1).bit_length())


def _looked_at(how: How) -> int:
    return {How.ROUNDINGS: 1, How.BUCKETS: 2}.get(how, 0)
