"""The C structures for a search: scheme, density, loss and units, as ``klcal/kernels/source`` declares them.

``klcal.search.c_types`` declares the types. This module fills them, from the Python objects that mean the same: a
``Scheme``, a ``Density``, a ``Loss``, a ``Distribution``. A structure has pointers to arrays, so the arrays are kept
with it (``Structure``). They lie in the memory of the CPU or of a device (``Place``).
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
    "levels_from_zero",
    "rounding_kind",
    "scheme_kind",
    "search_of",
    "units_of",
    "wanted_of",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

INTEGERS, ARITHMETIC_FLOATS, LEVELS = range(3)  # ways to round, as in source/points.h: see ``rounding_kind``
# numbers of the kinds of schemes, as in source/values.h
KINDS = {"symmetric": 0, "symmetric-full": 0, "symmetric-signed": 1, "affine": 2}
# numbers of the types of counts, as in source/pieces.h
COUNTS = {np.dtype(np.int32): 0, np.dtype(np.int64): 1, np.dtype(np.float64): 2}
FIGURES = 5  # D, Σ(x − x̂)², Σx², values clipped, values that become 0


@dataclass(frozen=True)
class Loss:
    """The loss D(P‖Q) + weight · MSE / (2 · MSE*), and the candidates for which D is computed.

    D costs much more than the error, so it is computed for few candidates. MSE* is the smallest MSE of all candidates.
    """

    sub: int  # sub-bins of each cell, for D; 1: the loss is the MSE alone
    weight: float
    enough: int  # a unit with fewer values is searched by the MSE alone
    slack: float  # candidates are kept if their error is at most this times the smallest
    same: float  # errors that differ by less than this, relatively, count as equal
    evenly: int  # candidates for D, spread evenly by the rank of their error
    between: int  # candidates for D, at equal distances between the smallest and the largest scale that can win
    thoroughly: bool  # further candidates for D are scales that divide the range into whole steps
    near: tuple[float, ...]  # candidates for D around the best so far: ratios of their scales to its scale


def figures_alone(sub: int) -> Loss:
    """A loss for figures, which need only ``sub``, the number of sub-bins of each cell. The rest is unused."""
    return Loss(sub, 1.0, 0, 1.0, 0.0, 0, 0, False, ())


class Place(Protocol):
    """The memory for the arrays of a structure: that of the CPU, or of a device."""

    def put(self, array: npt.NDArray[Any]) -> tuple[int, Any]:
        """Copies an array there if necessary.

        Returns:
            Its address, and an object that owns the memory: the address is valid as long as this object lives.
        """

    def __hash__(self) -> int:
        """A place is part of a key: structures are cached for each place."""


class _Host:
    def put(self, array: npt.NDArray[Any]) -> tuple[int, Any]:
        there = np.ascontiguousarray(array)
        return address(there), there


HOST: Place = _Host()


class _Words:
    """Fills a ``Search`` from a scheme, a density and a loss; ``kept`` owns the arrays to which it points."""

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
    """The number of a kind of schemes in source/values.h: it decides the allowed zero points."""
    return KINDS[scheme.kind]


def rounding_kind(scheme: Scheme) -> int:
    """The way to round to the levels of a scheme, as in source/points.h.

    INTEGERS round to whole steps. ARITHMETIC_FLOATS are floating-point formats that a few operations round to. LEVELS
    are formats with so few levels that these are compared one by one.
    """
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
    """The candidates that `kl-classic` tries."""

    ratios: Floats  # (scales,), descending: of the coarse scales to the scale that covers the range
    around: Floats  # (scales,), descending: of the fine scales to a coarse one around which they lie
    shift: int  # distance of the zero points that are tried with each coarse scale of an affine scheme


class Structure(NamedTuple):
    """A C structure, and the owners of the arrays to which it points."""

    structure: ctypes.Structure
    kept: Sequence[Any]

    @staticmethod
    def of(kind: type[ctypes.Structure], arrays: Iterable[npt.NDArray[Any] | None], *numbers: int) -> Structure:
        """A structure whose first fields point to arrays, null for None, and whose other fields are numbers."""
        kept = [None if each is None else np.ascontiguousarray(each) for each in arrays]
        return Structure(kind(*(None if each is None else address(each) for each in kept), *numbers), kept)


@lru_cache(maxsize=64)
def search_of(scheme: Scheme, density: Density | None, loss: Loss, place: Place = HOST) -> Structure:
    """The settings of a search as a ``Search``, cached.

    Args:
        scheme: the levels, the kind, and the format of scales.
        density: the number of scales to try; None for figures, which need only the scheme and the sub-bins.
        loss: what is minimized.
        place: the memory of its arrays.
    """
    words = _Words(scheme, density, loss, place)
    return Structure(words.search, words.kept)


def units_of(distribution: Distribution) -> Structure:
    """The sketches of a distribution as ``Units``: patterns, counts, and numbers of each unit.

    The counts are those of the sketch, as int32 or int64, or with an importance the weights, as float64.
    """
    sketch = distribution.sketch
    counts = sketch.counts if distribution.weights is None else distribution.weights
    starts = np.ascontiguousarray(sketch.starts)
    per_unit = starts, starts[1:], sketch.exact, sketch.minimum, sketch.maximum, distribution.tops, distribution.number
    return Structure.of(Units, (sketch.keys, counts, *per_unit), COUNTS[counts.dtype], *kept_bits(sketch.resolution))


def kept_bits(resolution: Resolution) -> tuple[int, int, int]:
    """How finely patterns are kept in buckets, as source/pieces.h needs it.

    Returns:
        The fewest and the most low bits that buckets drop from a pattern, and the number of octaves, from the largest
        magnitude down, in which they drop the fewest.
    """
    return PATTERN_BITS - resolution.mantissa_bits, PATTERN_BITS - resolution.least_bits, FINE_OCTAVES


def wanted_of(spans: Spans, full: Choices, narrow: Floats | None, plain: Choices | None, found: Choices) -> Structure:
    """The input and the output of a search as ``Wanted``. All arrays have the shape (units,).

    Args:
        spans: the widest range that a candidate may keep.
        full: the quantizer that covers the span.
        narrow: further candidates: the scales that the search of a narrower kind chose (``NARROWER``), or None.
        plain: further candidates: the choice without an importance, or None.
        found: contiguous arrays, to which the search writes its choice.
    """
    return Structure.of(Wanted, (*spans, *full, narrow, *(plain or (None, None)), *found))


def classic_of(grid: ClassicGrid, place: Place = HOST) -> Structure:
    """The candidates of `kl-classic` that are computed for each unit, as ``Classic`` without further ones."""
    put = [place.put(each) for each in (grid.ratios, grid.around)]
    ratios = (Ratios(where, each.size) for (where, _), each in zip(put, grid[:2], strict=True))
    return Structure(Classic(*ratios, grid.shift), [kept for _, kept in put])


def levels_from_zero(scheme: Scheme) -> list[Floats]:
    """The magnitudes of the levels above and below zero, from zero on: two arrays."""
    return [np.append(0.0, side) for side in (scheme.above, scheme.below)]


def chosen_of(scheme: Scheme, scale: Floats, below: Integers, found: Floats) -> Structure:
    """The input and the output of ``klcal_figures`` as ``Chosen``.

    Args:
        scheme: the levels.
        scale: (units,): positive float64.
        below: (units,): the number of levels below zero, int64.
        found: (units, FIGURES), float64, contiguous: to which the figures are written.
    """
    levels = levels_from_zero(scheme)
    return Structure.of(Chosen, (*levels, scale, below, found), *(side.size for side in levels))
