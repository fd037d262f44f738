"""What is searched, in the words of C: the structures of ``klcal/kernels/source/search.h`` and ``figures.h``.

What they hold is told where the same is in NumPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import address
from klcal.kernels.sums import logarithms
from klcal.quantizers.code_points import FLOATS, middles
from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scale_formats import ABOVE, GREATEST, LEAST, MANTISSA
from klcal.quantizers.scheme import Scheme
from klcal.search.c_types import (
    Bins,
    Chosen,
    Classic,
    LevelScheme,
    Ratios,
    Rounding,
    ScaleFormat,
    Search,
    Units,
    Wanted,
)
from klcal.search.candidate_costs import cell_edges, relative_edges
from klcal.search.choices import Choices, Spans, greatest_scale
from klcal.search.explore import Density, first_ratios
from klcal.search.few_values import MAX_MIDDLES, middles_of
from klcal.search.point_costs import ARITHMETIC
from klcal.sketches.distribution import Distribution
from klcal.sketches.patterns import FINE_OCTAVES, PATTERN_BITS, Resolution

__all__ = [
    "FIGURES",
    "HOST",
    "ClassicGrid",
    "Loss",
    "Place",
    "Structure",
    "chosen_of",
    "classic_of",
    "figures_alone",
    "kept_bits",
    "rounding_kind",
    "scheme_kind",
    "search_of",
    "units_of",
    "wanted_of",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

INTEGERS, ARITHMETIC_FLOATS, LEVELS = range(3)
KINDS = {"symmetric": 0, "symmetric-full": 0, "symmetric-signed": 1, "affine": 2}
COUNTS = {np.dtype(np.int32): 0, np.dtype(np.int64): 1, np.dtype(np.float64): 2}
FIGURES = 5  # D, Σ(x − x̂)², Σx², values clipped, values that become 0


@dataclass(frozen=True)
class Loss:
    """What is minimised: D(P‖Q) + weight · MSE / (2 · MSE*), and which divergences are computed for it."""

    sub: int
    weight: float
    enough: int  # values from which D decides
    slack: float  # candidates are wanted whose error is up to so many times the least
    same: float  # relative difference of equal errors
    evenly: int
    between: int
    thoroughly: bool
    near: tuple[float, ...]  # ratios


def figures_alone(sub: int) -> Loss:
    """What figures take of it: into how many sub-bins each cell is cut."""
    return Loss(sub, 1.0, 0, 1.0, 0.0, 0, 0, False, ())


class Place(Protocol):
    """Where the arrays lie that a structure points to: the memory of the CPU, or of a device."""

    def put(self, array: npt.NDArray[Any]) -> tuple[int, Any]:
        """The address of an array there, which holds as long as the other thing is kept."""

    def __hash__(self) -> int:
        """What is kept there is found again by it."""


class _Host:
    def put(self, array: npt.NDArray[Any]) -> tuple[int, Any]:
        there = np.ascontiguousarray(array)
        return address(there), there


HOST: Place = _Host()


class _Words:
    """A scheme, a density and a loss as C has them, and the arrays that these point to."""

    def __init__(self, scheme: Scheme, density: Density | None, loss: Loss, place: Place) -> None:
        self.place = place
        self.kept: list[Any] = []
        self.search = Search(scheme=self._scheme(scheme), bins=self._bins(scheme, loss.sub))
        if density is None:
            return
        found = self.search
        found.by_buckets, found.starts, found.seeds = density.by_buckets, density.starts, density.seeds
        found.basins, found.refinements, found.rounds = density.basins, density.refinements, len(density.fine)
        first = first_ratios(scheme, density)
        found.first, found.wider = self._ratios(first.full), self._ratios(first.end)
        found.coarse = self._ratios(density.octave)
        for number, ratios in enumerate(density.around):
            found.fine[number] = self._ratios(ratios)
        found.few, found.by_few_alone = density.few, scheme.size <= 2 * MAX_MIDDLES
        found.middles = self._ratios(middles_of(scheme) if density.few else np.empty(0))
        found.near = self._ratios(np.array(loss.near))
        found.on_level, found.on_levels = self._kept(first.on_level), first.on_level.size
        found.lattice = not scheme.is_float
        for name in ("slack", "weight", "enough", "same", "evenly", "between", "thoroughly"):
            setattr(found, name, getattr(loss, name))

    def _kept(self, array: npt.NDArray[Any]) -> int:
        where, kept = self.place.put(array)
        self.kept.append(kept)
        return where

    def _ratios(self, ratios: Floats) -> Ratios:
        return Ratios(self._kept(ratios), ratios.size)

    def _scheme(self, scheme: Scheme) -> LevelScheme:
        under, above = (float(ends.max()) for ends in level_ends(scheme.belows, scheme))
        widest = max(np.diff(scheme.above).max(initial=1.0), np.diff(scheme.below).max(initial=1.0))
        return LevelScheme(
            kind=scheme_kind(scheme),
            size=scheme.size,
            zero=scheme.zero,
            is_float=scheme.is_float,
            under_end=under,
            above_end=above,
            widest=widest,
            above=self._kept(scheme.above),
            below=self._kept(scheme.below),
            aboves=scheme.above.size,
            belows=scheme.below.size,
            rounding=_rounding(scheme),
            format=_scale_format(scheme),
        )

    def _bins(self, scheme: Scheme, sub: int) -> Bins:
        edges = cell_edges(FLOATS[scheme.dtype]) if scheme.is_float else np.zeros(1)
        relative = relative_edges(scheme, scheme.belows[:1], sub)[0] if sub > 1 else np.zeros(1)
        return Bins(sub, self._kept(edges), self._kept(relative), self._ratios(logarithms()))


def scheme_kind(scheme: Scheme) -> int:
    """Which zero points it may have, as in source/values.h."""
    return KINDS[scheme.kind]


def rounding_kind(scheme: Scheme) -> int:
    """How values are rounded to the levels of a scheme, as in source/points.h."""
    if not scheme.is_float:
        return INTEGERS
    return ARITHMETIC_FLOATS if scheme.dtype in ARITHMETIC else LEVELS


def _rounding(scheme: Scheme) -> Rounding:
    kind = rounding_kind(scheme)
    if kind == INTEGERS:
        return Rounding(kind=kind)
    if known := ARITHMETIC.get(scheme.dtype):
        return Rounding(kind=kind, normal=2.0**known.min_exponent, ulp=2.0**-known.mantissa_bits, max=known.max)
    levels = FLOATS[scheme.dtype]
    single, size = levels.astype(np.float32), levels.size
    found = Rounding(kind=kind, levels=size)
    found.level[:size], found.few_level[:size] = single.tolist(), levels.tolist()
    found.middle[: size - 1] = ((single[1:] + single[:-1]) / 2).tolist()
    found.few_middle[: size - 1] = middles(levels).tolist()
    return found


def _scale_format(scheme: Scheme) -> ScaleFormat:
    name = scheme.scale_format
    mantissa_bits, min_exponent = MANTISSA[name]
    return ScaleFormat(
        is_float32=name == "float32",
        mantissa_bits=mantissa_bits,
        min_exponent=min_exponent,
        max=GREATEST[name],
        above=ABOVE[name],
        least=LEAST[name],
        global_scale=scheme.global_scale,
        limit=greatest_scale(scheme),
    )


class ClassicGrid(NamedTuple):
    """Which candidates `kl-classic` looks at."""

    ratios: Floats  # (scales,), descending: to the full scale
    around: Floats  # (scales,), descending: to a scale that is looked at finely
    shift: int  # zero points from one to the next


class Structure(NamedTuple):
    """What C is told, and the arrays that it points to."""

    structure: ctypes.Structure
    kept: Sequence[Any]

    @staticmethod
    def of(kind: type[ctypes.Structure], arrays: Iterable[npt.NDArray[Any] | None], *numbers: int) -> Structure:
        """A structure of pointers, and of numbers after these."""
        kept = [None if each is None else np.ascontiguousarray(each) for each in arrays]
        return Structure(kind(*(None if each is None else address(each) for each in kept), *numbers), kept)


@lru_cache(maxsize=64)
def search_of(scheme: Scheme, density: Density | None, loss: Loss, place: Place = HOST) -> Structure:
    """How units are searched; without a density, only what their figures take."""
    words = _Words(scheme, density, loss, place)
    return Structure(words.search, words.kept)


def units_of(distribution: Distribution) -> Structure:
    """The units."""
    sketch = distribution.sketch
    counts = sketch.counts if distribution.weights is None else distribution.weights
    starts = np.ascontiguousarray(sketch.starts)
    per_unit = starts, starts[1:], sketch.exact, sketch.minimum, sketch.maximum, distribution.tops, distribution.number
    return Structure.of(Units, (sketch.keys, counts, *per_unit), COUNTS[counts.dtype], *kept_bits(sketch.resolution))


def kept_bits(resolution: Resolution) -> tuple[int, int, int]:
    """The fewest and the most bits that a bucket lacks of a pattern, and the octaves in which it lacks the fewest."""
    return PATTERN_BITS - resolution.mantissa_bits, PATTERN_BITS - resolution.least_bits, FINE_OCTAVES


def wanted_of(spans: Spans, full: Choices, narrow: Floats | None, plain: Choices | None, found: Choices) -> Structure:
    """What is known of each unit, and where to write what is chosen for it.

    Args:
        spans: the widest range of each unit.
        full: the quantizer that covers it.
        narrow: (units,): the scales that a narrower kind has found, or None.
        plain: what is chosen where all values weigh alike, or None.
        found: (units,), contiguous.
    """
    return Structure.of(Wanted, (*spans, *full, narrow, *(plain or (None, None)), *found))


def classic_of(grid: ClassicGrid, also: Sequence[Choices]) -> Structure:
    """The candidates of `kl-classic`: those of a grid, and others that are known, each for all units."""
    scale, below = (np.concatenate(column) for column in zip(*also, strict=True))
    kept = [np.ascontiguousarray(each) for each in (grid.ratios, grid.around, scale, below)]
    ratios = [Ratios(address(each), each.size) for each in kept[:2]]
    counts = grid.shift, len(also), also[0].scale.size
    return Structure(Classic(*ratios, *counts, *(address(each) for each in kept[2:])), kept)


def chosen_of(scheme: Scheme, scale: Floats, below: Integers, found: Floats) -> Structure:
    """Quantizers, of which each unit has one, and where to write what they do: (units, FIGURES)."""
    levels = [np.append(0.0, side) for side in (scheme.above, scheme.below)]
    return Structure.of(Chosen, (*levels, scale, below, found), *(side.size for side in levels))
