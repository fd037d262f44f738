"""The arrays of the search on a CUDA device, numbers about units, and the structures that point to them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from klcal.kernels.units import COUNTERS
from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import Chosen, Classic, Wanted
from klcal.search.classic import classic_grid
from klcal.search.density import How
from klcal.search.device_place import addresses_of, put
from klcal.search.device_weighed import left_of, units_of, weighed_of
from klcal.search.methods import KLClassic
from klcal.search.outcome_structures import VANISHED, Deployed, Prepared, Sketches, kinds_of
from klcal.search.settings import Settings
from klcal.search.steps import Step, steps_of
from klcal.search.structures import FIGURES, Place, Structure, classic_of, levels_from_zero
from klcal.sketches.device_units import CountedUnits
from klcal.tables.outcomes import FLOATS, OK

if TYPE_CHECKING:
    import torch

__all__ = ["Arrays", "Summary"]

WAYS = len(How)


@dataclass(frozen=True)
class Summary:
    """Numbers over all units, which the host needs to launch the search."""

    searched: list[int]  # (WAYS,): the number of units that are searched in each way
    short: list[int]  # (WAYS,): the number of those that have a thread each
    pieces: list[int]  # (WAYS,): the largest number of pieces of one of them
    values: list[int]  # (WAYS,): the largest number of values of one of them
    others: int  # the number of units that need no search
    unknown: int  # the number of these that the host has to decide on
    counted: list[bool]  # (len(COUNTERS),): whether a counter is above 0 in some unit

    @staticmethod
    def empty(like: torch.Tensor) -> torch.Tensor:
        """The numbers that ``prepare_units`` writes, 0 at first: int64, on the device of a tensor of this type."""
        return like.new_zeros(4 * WAYS + 2 + len(COUNTERS))

    @staticmethod
    def of(numbers: Sequence[int]) -> Summary:
        """The summary from the numbers that the kernel ``prepare_units`` wrote."""
        searched, short, pieces, values = (list(numbers[i * WAYS : (i + 1) * WAYS]) for i in range(4))
        others, unknown, *counted = numbers[4 * WAYS :]
        return Summary(searched, short, pieces, values, others, unknown, [bool(each) for each in counted])


class Arrays:
    """The arrays of a search for some units, on their device, and the addresses of the structures that point to them.

    The choices of all steps are kept, ``scale`` and ``below``; those that are deployed are the last.

    Args:
        found: the units.
        settings: of the search.
        place: the memory of the device.
    """

    def __init__(self, found: CountedUnits, settings: Settings, place: Place) -> None:
        import torch

        keys, units = found.counts.keys, found.numbers.size
        self.found, self.settings = found, settings
        self.steps: list[Step] = steps_of(settings.method, settings.scheme, weighted=found.weights is not None)
        self.has_classic = isinstance(settings.method, KLClassic) and bool(self.steps)
        kinds, choices = len(kinds_of(settings.scheme)), max(1, len(self.steps) + self.has_classic)
        self.low, self.high, self.number, self.known, self.deployed = keys.new_empty((5, units), dtype=torch.float64)
        # 0 at first: a step reads the choices of an earlier one even if that had too little memory, and wrote none.
        self.full, self.scale = keys.new_zeros((kinds + choices, units), dtype=torch.float64).split([kinds, choices])
        below = keys.new_zeros((kinds + choices, units), dtype=torch.int64)
        self.full_below, self.below = below.split([kinds, choices])
        self.tops = keys.new_empty(units, dtype=torch.int64)
        self.status, self.how, self.bounded, self.short = keys.new_empty((4, units), dtype=torch.uint8)
        self.nats = torch.full_like(self.known, np.nan)
        self.figures = keys.new_empty((units, FIGURES), dtype=torch.float64)
        self.kept: list[Any] = []
        self.left = None if found.weights is None else left_of(found)
        self.addresses, kept = put({**self._of_sketches(), **self._of_choices(place)}, keys.device)
        self.kept.append(kept)

    def _of_sketches(self) -> dict[str, ctypes.Structure]:
        """The structures that point to the counts, and to what is known before the search."""
        found, counts, left = self.found, self.found.counts, self.left
        prepared = self.status, self.how, self.bounded, self.low, self.high, self.number, self.tops, self.full
        structures: dict[str, ctypes.Structure] = {
            "sketches": Sketches(None, *addresses_of(counts.numbers), found.numbers.size, found.size),
            "prepared": Prepared(*addresses_of(*prepared, self.full_below)),
            "units": units_of(found, counts, self.tops, self.number),
        }
        if left is None:
            return structures
        return structures | {
            "weighed": weighed_of(found, left),
            "plain": units_of(found, left, self.tops, left.number),
            "weighted": units_of(found, left._replace(counts=left.masses), self.tops, left.number),
        }

    def _of_choices(self, place: Place) -> dict[str, ctypes.Structure]:
        """The structures of the searches, ``wanted`` with the number of the step, and of what is done with choices."""
        structures: dict[str, ctypes.Structure] = {
            "deployed": Deployed(*addresses_of(self.known, self.deployed, self.nats))
        }
        for number, step in enumerate(self.steps):
            wanted = self._wanted(step.kind, number, step.narrow, step.plain)
            if number + 1 == len(self.scale) and not step.weighted:  # D of what is deployed, and of all values
                wanted.nats = self.nats.data_ptr()
            structures[f"wanted {number}"] = wanted
        if self.has_classic:
            last, grid = len(self.steps), _classic(self.settings.scheme, place)
            classic = Classic.from_buffer_copy(grid.structure)
            classic.others, classic.units = 2, self.found.numbers.size
            classic.scale, classic.below = addresses_of(self.scale[last - 2], self.below[last - 2])
            structures |= {"classic": classic, "wanted by classic": self._wanted(-1, last)}
            self.kept.append(grid)
        levels = _levels(self.settings.scheme, place)
        self.kept.append(levels)
        chosen = Chosen.from_buffer_copy(levels.structure)
        chosen.scale, chosen.below, chosen.found = addresses_of(self.known, self.below[-1], self.figures)
        chosen.nats = self.nats.data_ptr()
        structures["chosen"] = chosen
        return structures

    def _wanted(self, kind: int, number: int, narrow: int | None = None, plain: int | None = None) -> Wanted:
        """The arguments of a search for a kind of the scheme; its choices are written to row ``number``.

        ``narrow`` and ``plain`` are the rows of choices that are candidates too.
        """
        wanted = Wanted(*addresses_of(self.low, self.high, self.bounded, self.full[kind], self.full_below[kind]))
        wanted.scale, wanted.below = addresses_of(self.scale[number], self.below[number])
        if narrow is not None:
            wanted.narrow = self.scale[narrow].data_ptr()
        if plain is not None:
            wanted.plain, wanted.plain_below = addresses_of(self.scale[plain], self.below[plain])
        return wanted

    def floats(self) -> torch.Tensor:
        """The columns ``FLOATS`` of the outcomes, (n, units), after the search: NaN where a unit was not searched."""
        import torch

        counts, inf = self.found.counts, float("inf")
        has_zeros = counts.numbers[COUNTERS.index("zeros")] > 0  # they count in the range of an outcome
        low = torch.minimum(counts.minimum, torch.where(has_zeros, 0.0, inf))
        high = torch.maximum(counts.maximum, torch.where(has_zeros, 0.0, -inf))
        columns = self.scale.new_empty((len(FLOATS), self.found.numbers.size))
        chosen = self.scale[-1], self.deployed, self.below[-1], *self.figures.t()
        for place, column in zip(columns, (*chosen, low, high), strict=True):
            place.copy_(column)
        is_searched = (self.status == OK) | (self.status == VANISHED)
        columns[: len(chosen)].masked_fill_(~is_searched, float("nan"))
        return columns


@lru_cache(maxsize=64)
def _classic(scheme: Scheme, place: Place) -> Structure:
    return classic_of(classic_grid(scheme), place)


@lru_cache(maxsize=64)
def _levels(scheme: Scheme, place: Place) -> Structure:
    """The magnitudes of the levels above and below zero, from zero on: the fields of a ``Chosen`` without choices."""
    levels = levels_from_zero(scheme)
    there = [place.put(side) for side in levels]
    sizes = {"aboves": levels[0].size, "belows": levels[1].size}
    return Structure(Chosen(*(where for where, _ in there), **sizes), [kept for _, kept in there])
