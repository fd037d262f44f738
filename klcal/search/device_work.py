"""The search on a CUDA device, for units that were counted there: the kernels that run, and their memory.

A kernel is compiled for a case: the number of threads that work on a unit, the way in which units are searched, and the
scheme. All units that are searched in one way go into one launch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from klcal.kernels.cuda_counting import Launcher
from klcal.search.c_types import Chosen, Units, Wanted
from klcal.search.chosen import sub_bins
from klcal.search.density import How, density_of
from klcal.search.methods import KL, MinMax, sub_bins_per_cell
from klcal.search.outcome_structures import (
    VANISHED,
    Deployed,
    Kept,
    Prepared,
    Sketches,
    asked_of,
    kinds_of,
    on_place,
)
from klcal.search.settings import Settings
from klcal.search.structures import FIGURES, figures_alone, kept_bits, rounding_kind, scheme_kind
from klcal.search.units import VALUES_PER_BIN, loss_of
from klcal.sketches.device_units import CountedUnits, fetched
from klcal.tables.outcomes import OK

if TYPE_CHECKING:
    import torch

__all__ = ["Summary", "Work"]

SEARCH, OUTCOMES = "device_search.cu", "device_outcomes.cu"
THREADS = 256  # of a block, as in the sources
TEAM, BLOCK_TEAM = 32, 256  # threads that work on a unit: a warp for short units, a block for longer ones
MOST_OF_WARP = How.SHORT  # the last way of searching that is for a warp
RESIDENT = {32: 2, 256: 3}  # blocks on a multiprocessor, by the threads of a team: measured
LEAST_SHARED = 46 << 10  # bytes of shared memory that a block needs at least
MEMORY = 512 << 20  # bytes of device memory for all teams together, at most
WARP_BYTES, BLOCK_BYTES, PIECE_BYTES = 24 << 10, 160 << 10, 280  # memory of a warp, of a block; and for each piece
BIN_BYTES = 48  # and for each sub-bin
OWN_BYTES, NEAR_BYTES, NEAR_PIECE_BYTES = 5376, 2048, 40  # shared memory of a warp; more would shrink the cache
WAYS = len(How)
COUNTERS = 6

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


class _Place:
    """The memory of a device: implements ``klcal.search.structures.Place``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, array: Array) -> tuple[int, Any]:
        """The address of a copy of the array there, and the copy, which the caller keeps alive."""
        import torch

        there = torch.from_numpy(np.array(array, order="C")).to(self.name)
        return there.data_ptr(), there


@cache
def _place(name: str) -> _Place:
    return _Place(name)


@dataclass(frozen=True)
class Summary:
    """Numbers over all units, which the host needs to launch the search."""

    searched: list[int]  # (WAYS,): the number of units that are searched in each way
    pieces: list[int]  # (WAYS,): the largest number of pieces of one of them
    values: list[int]  # (WAYS,): the largest number of values of one of them
    others: int  # the number of units that need no search
    unknown: int  # the number of these that the host has to decide on
    counted: list[bool]  # (COUNTERS,): whether a counter is above 0 in some unit

    @staticmethod
    def of(numbers: Sequence[int]) -> Summary:
        """The summary from the numbers that the kernel ``prepare_units`` wrote."""
        searched, pieces, values = (list(numbers[i * WAYS : (i + 1) * WAYS]) for i in range(3))
        others, unknown, *counted = numbers[3 * WAYS :]
        return Summary(searched, pieces, values, others, unknown, [bool(each) for each in counted])


@dataclass
class Work:
    """The search for some units on the device, and all of its tensors.

    A scheme has up to three kinds, the narrowest first: see ``klcal.search.outcome_structures.kinds_of``.
    """

    found: CountedUnits  # the units
    settings: Settings
    floats: dict[str, torch.Tensor] = field(init=False)  # float64 (units,); "full" and "scale": (kinds, units)
    integers: dict[str, torch.Tensor] = field(init=False)  # int64 (units,); "full_below" and "below": (kinds, units)
    bytes: dict[str, torch.Tensor] = field(init=False)  # uint8 (units,)

    def __post_init__(self) -> None:
        keys, units = self.found.counts.keys, self.found.numbers.size
        import torch

        self.units, self.device = units, keys.device
        self.kinds = kinds_of(self.settings.scheme)
        self.sub = sub_bins(self.settings)
        kinds = len(self.kinds)
        floats = keys.new_empty((5 + 2 * kinds, units), dtype=torch.float64)
        names = "low", "high", "number", "known", "deployed"
        self.floats = dict(zip(names, floats, strict=False)) | {
            "full": floats[5 : 5 + kinds],
            "scale": floats[5 + kinds :],
        }
        integers = keys.new_empty((1 + 2 * kinds, units), dtype=torch.int64)
        self.integers = {"tops": integers[0], "full_below": integers[1 : 1 + kinds], "below": integers[1 + kinds :]}
        self.bytes = dict(zip(("status", "how", "bounded"), keys.new_empty((3, units), dtype=torch.uint8), strict=True))
        self.figures = keys.new_empty((units, FIGURES), dtype=torch.float64)
        self.held: list[Kept] = []
        self.place = _place(str(self.device))
        self.asked = asked_of(self.settings.scheme, self.settings.bounds, self.settings.nonfinite, self.sub, self.place)
        self._put_structures()

    @property
    def launcher(self) -> Launcher:
        """Runs the kernels."""
        return self.found.launcher

    def _put_structures(self) -> None:
        """Copies all arguments of kernels that depend on these units to the device, at once."""
        counts, f, i, b = self.found.counts, self.floats, self.integers, self.bytes
        extremes = counts.minimum.data_ptr(), counts.maximum.data_ptr()
        keys = counts.keys.data_ptr(), counts.counts.data_ptr(), counts.starts.data_ptr(), counts.ends.data_ptr()
        starts, exact = keys[2:], counts.exact.data_ptr()
        prepared = b["status"], b["how"], b["bounded"], f["low"], f["high"], f["number"], i["tops"], f["full"]
        structures: dict[str, ctypes.Structure] = {
            "sketches": Sketches(
                *starts, None, counts.numbers.data_ptr(), *extremes, exact, self.units, self.found.size
            ),
            "prepared": Prepared(*(each.data_ptr() for each in prepared), i["full_below"].data_ptr()),
            "units": Units(
                *keys,
                exact,
                *extremes,
                i["tops"].data_ptr(),
                f["number"].data_ptr(),
                0,
                *kept_bits(self.found.resolution),
            ),
            "deployed": Deployed(f["known"].data_ptr(), f["deployed"].data_ptr()),
        }
        for number in range(len(self.kinds)):
            known = f["low"], f["high"], b["bounded"], f["full"][number], i["full_below"][number]
            narrow = f["scale"][number - 1].data_ptr() if number else None
            written = f["scale"][number].data_ptr(), i["below"][number].data_ptr()
            structures[f"wanted {number}"] = Wanted(*(each.data_ptr() for each in known), narrow, None, None, *written)
        levels = [np.append(0.0, side) for side in (self.settings.scheme.above, self.settings.scheme.below)]
        self.levels = [self.place.put(side) for side in levels]
        chosen = f["known"].data_ptr(), i["below"][-1].data_ptr(), self.figures.data_ptr()
        structures["chosen"] = Chosen(*(where for where, _ in self.levels), *chosen, *(side.size for side in levels))
        self.addresses, self.kept = self._put(structures)

    def _put(self, structures: dict[str, ctypes.Structure]) -> tuple[dict[str, int], torch.Tensor]:
        """The addresses of structures on the device, by name, and the tensor that holds them all."""
        import torch

        whole = torch.frombuffer(bytearray(b"".join(map(bytes, structures.values()))), dtype=torch.uint8)
        there = whole.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else whole
        addresses, at = {}, there.data_ptr()
        for name, each in structures.items():
            addresses[name] = at
            at += ctypes.sizeof(each)
        return addresses, there

    def _each_unit(self, name: str, *arguments: int) -> None:
        """Queues a kernel that has a thread for each unit."""
        self.launcher.launch(OUTCOMES, name, -(-self.units // THREADS), THREADS, 1 << 10, *arguments)

    def prepare(self) -> Summary:
        """Finds the status of each unit and the way in which to search it. Waits for the device."""
        summary = self.integers["tops"].new_zeros(3 * WAYS + 2 + COUNTERS)
        told = self.addresses["sketches"], self.asked.address, self.addresses["prepared"], summary.data_ptr()
        self._each_unit("prepare_units", *told)
        numbers: Any = fetched(summary)[0]
        return Summary.of(numbers.tolist())

    def search(self, summary: Summary, factor: int) -> bool:
        """Searches all units and computes their figures; False if a unit needed more memory. Waits for the device.

        Args:
            summary: from ``prepare``.
            factor: the memory of each team, as a multiple of what is usual.
        """
        lefts = []
        if isinstance(self.settings.method, MinMax):
            self.floats["scale"][-1].copy_(self.floats["full"][-1])
            self.integers["below"][-1].copy_(self.integers["full_below"][-1])
        else:
            pairs = product(range(len(self.kinds)), self._ways(summary))
            lefts = [self._searched(kind, how, summary, factor) for kind, how in pairs]
        status, deployed = self.bytes["status"].data_ptr(), self.addresses["deployed"]
        chosen = self.floats["scale"][-1].data_ptr(), self.integers["below"][-1].data_ptr()
        self._each_unit("deploy_units", self.asked.address, *chosen, status, deployed, self.units)
        lefts += [self._judged(ways, summary, factor) for ways in self._teams(summary)]
        return not lefts or not int(sum(left[0] for left in lefts))

    def _held(self, told: Kept) -> Kept:
        """The arguments of kernels, kept alive until all of them are done, even if a cache drops them meanwhile."""
        self.held.append(told)
        return told

    def _ways(self, summary: Summary) -> list[How]:
        """The ways in which some unit is searched."""
        return [how for how in How if summary.searched[how]]

    def _teams(self, summary: Summary) -> Iterator[list[How]]:
        """The ways of searching, grouped by the size of the team that works on a unit."""
        ways = self._ways(summary)
        for some in ([how for how in ways if how <= MOST_OF_WARP], [how for how in ways if how > MOST_OF_WARP]):
            if some:
                yield some

    def _searched(self, kind: int, how: How, summary: Summary, factor: int) -> torch.Tensor:
        """Queues the search of all units of a way, for one kind of the scheme; returns what ``_run`` does."""
        scheme, last = self.kinds[kind], kind + 1 == len(self.kinds)
        method = self.settings.method
        sub, weight = 1, 1.0
        if last and isinstance(method, KL):
            sub, weight = sub_bins_per_cell(method.bins, scheme.size), method.weight
        loss = loss_of(scheme, how, sub, weight)
        search = self._held(on_place(scheme, density_of(scheme, how), loss, self.place))
        macros = [f"SCHEME_KIND={scheme_kind(scheme)}", f"ROUNDING_KIND={rounding_kind(scheme)}"]
        macros += [f"LOOKED_AT={_looked_at(how)}", "ONLY_SEARCH"]
        if sub == 1 or summary.values[how] < VALUES_PER_BIN * scheme.size * sub:
            macros.append("UNDECIDED")
        told = search.address, self.addresses["units"], self.addresses[f"wanted {kind}"]
        return self._run("search_units", [how], told, macros, summary, scheme.size * sub, factor)

    def _judged(self, ways: list[How], summary: Summary, factor: int) -> torch.Tensor:
        """Queues the computation of the figures of all units of some ways; returns what ``_run`` does."""
        scheme = self.settings.scheme
        how = self._held(on_place(scheme, None, figures_alone(self.sub), self.place))
        told = how.address, self.addresses["units"], self.addresses["chosen"]
        bins = scheme.size * self.sub if self.sub > 1 else 0
        return self._run("figures_of_units", ways, told, ["ONLY_FIGURES"], summary, bins, factor)

    def _run(
        self,
        name: str,
        ways: list[How],
        told: tuple[int, int, int],
        macros: list[str],
        summary: Summary,
        bins: int,
        factor: int,
    ) -> torch.Tensor:
        """Queues a kernel that has a team for each unit of some ways.

        Returns:
            int64 (1 + n,), on the device: the number of units that had too little memory, and their numbers.
        """
        import torch

        n = sum(summary.searched[how] for how in ways)
        numbers = self._numbers(ways) if n < self.units else None
        team = TEAM if ways[0] <= MOST_OF_WARP else BLOCK_TEAM
        most = max(summary.pieces[how] for how in ways)
        far = WARP_BYTES if team == TEAM else BLOCK_BYTES + BIN_BYTES * bins
        far = (far + PIECE_BYTES * most) * factor // 16 * 16
        teams, resident = THREADS // team, RESIDENT[team]
        resident = resident if self.launcher.share(resident) >= LEAST_SHARED else 1
        blocks = min(-(-n // teams), resident * self.launcher.multiprocessors, max(1, MEMORY // (far * teams)))
        memory = torch.empty(blocks * teams * far, dtype=torch.uint8, device=self.device)
        left = torch.zeros(1 + n, dtype=torch.int64, device=self.device)
        shared = self.launcher.share(resident) // 16 * 16
        if team == TEAM:
            shared = min(shared, teams * (OWN_BYTES + NEAR_BYTES + NEAR_PIECE_BYTES * most) // 16 * 16)
        where = 0 if numbers is None else numbers.data_ptr()
        room = shared, memory.data_ptr(), far, left.data_ptr()
        self.launcher.launch(
            *(SEARCH, name, blocks, THREADS, shared),
            *(told[0], told[1], where, n, told[2], *room),
            macros=(f"TEAM={team}", f"THREADS={THREADS}", f"RESIDENT={resident}", *macros),
        )
        return left

    def _numbers(self, ways: list[How]) -> torch.Tensor:
        """The numbers of the units of some ways that have to be searched, int64, on the device."""
        import torch

        status, how = self.bytes["status"], self.bytes["how"]
        wanted = torch.zeros_like(status, dtype=torch.bool)
        for each in ways:
            wanted |= how == int(each)
        return torch.nonzero(wanted & ((status == OK) | (status == VANISHED))).reshape(-1)


def _looked_at(how: How) -> int:
    return {How.ROUNDINGS: 1, How.BUCKETS: 2}.get(how, 0)
