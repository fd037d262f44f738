"""The search on a CUDA device, for units that were counted there: the kernels that run.

A kernel is compiled for a case: the number of threads that work on a unit, the way in which units are searched, and the
scheme. All units that are searched in one way go into one launch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from klcal.search.chosen import sub_bins
from klcal.search.density import How
from klcal.search.device_arrays import Arrays, Summary
from klcal.search.device_place import place_on
from klcal.search.outcome_structures import VANISHED, Kept, asked_of, on_place
from klcal.search.settings import Settings
from klcal.search.steps import Step
from klcal.search.structures import figures_alone, rounding_kind, scheme_kind
from klcal.search.units import VALUES_PER_BIN
from klcal.sketches.device_units import CountedUnits, fetched
from klcal.tables.outcomes import OK

if TYPE_CHECKING:
    import torch

__all__ = ["Work"]

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
        self.asked = asked_of(settings.scheme, settings.bounds, settings.nonfinite, self.sub, self.place)
        self.held: list[Kept] = []

    def _each_unit(self, name: str, *arguments: int) -> None:
        """Queues a kernel that has a thread for each unit."""
        self.launcher.launch(OUTCOMES, name, -(-self.units // THREADS), THREADS, 1 << 10, *arguments)

    def prepare(self) -> Summary:
        """Finds the status of each unit and the way in which to search it. Waits for the device."""
        summary, where = Summary.empty(self.arrays.tops), self.arrays.addresses
        told = where["units"], where.get("weighed", 0), where["sketches"], self.asked.address, where["prepared"]
        self._each_unit("prepare_units", *told, summary.data_ptr())
        numbers: Any = fetched(summary)[0]
        return Summary.of(numbers.tolist())

    def search(self, summary: Summary, factor: int) -> bool:
        """Searches all units and computes their figures; False if a unit needed more memory. Waits for the device.

        Args:
            summary: from ``prepare``.
            factor: the memory of each team, as a multiple of what is usual.
        """
        arrays, ways = self.arrays, self._ways(summary)
        lefts = []
        if not arrays.steps:
            arrays.scale.copy_(arrays.full[-1:])
            arrays.below.copy_(arrays.full_below[-1:])
        for number, how in product(range(len(arrays.steps)), ways):
            lefts.append(self._searched(number, how, summary, factor))
        if arrays.has_classic:
            lefts += [self._by_classic(some, summary, factor) for some in self._teams(summary)]
        status, deployed = arrays.status.data_ptr(), arrays.addresses["deployed"]
        chosen = arrays.scale[-1].data_ptr(), arrays.below[-1].data_ptr()
        self._each_unit("deploy_units", self.asked.address, *chosen, status, deployed, self.units)
        lefts += [self._judged(some, summary, factor) for some in self._teams(summary)]
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

    def _searched(self, number: int, how: How, summary: Summary, factor: int) -> torch.Tensor:
        """Queues the search of all units of a way, in one step; returns what ``_run`` does."""
        step = self.arrays.steps[number]
        search = self._held(step.search(how, self.place))
        macros = [f"SCHEME_KIND={scheme_kind(step.scheme)}", f"ROUNDING_KIND={rounding_kind(step.scheme)}"]
        macros += [f"LOOKED_AT={_looked_at(how)}", "ONLY_SEARCH"]
        if step.sub == 1 or summary.values[how] < VALUES_PER_BIN * step.scheme.size * step.sub:
            macros.append("UNDECIDED")
        told = search.address, self._units(step), self.arrays.addresses[f"wanted {number}"]
        return self._run("search_units", [how], told, macros, summary, step.scheme.size * step.sub, factor)

    def _units(self, step: Step) -> int:
        """The address of the pieces that are searched in a step."""
        name = "weighted" if step.weighted else "plain" if self.arrays.left else "units"
        return self.arrays.addresses[name]

    def _by_classic(self, ways: list[How], summary: Summary, factor: int) -> torch.Tensor:
        """Queues the search of `kl-classic` of all units of some ways; returns what ``_run`` does."""
        where = self.arrays.addresses
        units = self._units(self.arrays.steps[-1])
        told = self._figures_alone(), units, where["wanted by classic"], where["classic"]
        return self._run("classic_units", ways, told, ["ONLY_CLASSIC"], summary, self._bins(), factor)

    def _judged(self, ways: list[How], summary: Summary, factor: int) -> torch.Tensor:
        """Queues the computation of the figures of all units of some ways; returns what ``_run`` does."""
        told = self._figures_alone(), self.arrays.addresses["units"], self.arrays.addresses["chosen"]
        return self._run("figures_of_units", ways, told, ["ONLY_FIGURES"], summary, self._bins(), factor)

    def _figures_alone(self) -> int:
        """The address of a search that has the scheme and the sub-bins only."""
        return self._held(on_place(self.settings.scheme, None, figures_alone(self.sub), self.place)).address

    def _bins(self) -> int:
        """The number of sub-bins of D, if it is computed from them."""
        return self.settings.scheme.size * self.sub if self.sub > 1 else 0

    def _run(
        self,
        name: str,
        ways: list[How],
        told: tuple[int, int, int, *tuple[int, ...]],
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
            *(*told[:2], where, n, *told[2:], *room),
            macros=(f"TEAM={team}", f"THREADS={THREADS}", f"RESIDENT={resident}", *macros),
        )
        return left

    def _numbers(self, ways: list[How]) -> torch.Tensor:
        """The numbers of the units of some ways that have to be searched, int64, on the device."""
        import torch

        status, how = self.arrays.status, self.arrays.how
        wanted = torch.zeros_like(status, dtype=torch.bool)
        for each in ways:
            wanted |= how == int(each)
        return torch.nonzero(wanted & ((status == OK) | (status == VANISHED))).reshape(-1)


def _looked_at(how: How) -> int:
    return {How.ROUNDINGS: 1, How.BUCKETS: 2}.get(how, 0)
