"""Sketches with the name, dtype and shape of their tensor, and sketches as plain arrays, which files hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, KlcalError
from klcal.quantizers.granularity import Grid
from klcal.sketches.patterns import PATTERN_BITS, Resolution, extremes, is_special, narrow
from klcal.sketches.sketch import COUNTERS, Sketch, settled

__all__ = ["KEPT", "Arrays", "Named", "alike", "arrays_of", "checked_resolution", "sketch_of"]

KEPT = ("pieces", *COUNTERS, "exact")  # the rows of the array "numbers"
EXTREMES = ("heaviest", "minimum", "maximum")  # the rows of the array "extremes"
MOST_COUNTED = np.float64(1 << 62)  # bound on the sum of all counts, or of all weights: two such sums fit in 64 bits
DAMAGED = "write it again with klcal sketch"
SAME = "sketch both alike, or give the tensors other names"

Arrays = dict[str, npt.NDArray[Any]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Named:
    """The sketch of a tensor, or of several batches of it.

    Attributes:
        name: of the tensor.
        dtype: of its values: see ``klcal.sketches.counting.FLOAT_DTYPES``.
        shape: of each batch; None if they differ, or if it is not known.
        sketch: of all batches together.
        batches: their number.
        aliases: other names of the tensor, sorted.
    """

    name: str
    dtype: str
    shape: Shape | None
    sketch: Sketch
    batches: int = 1
    aliases: tuple[str, ...] = ()

    def __add__(self, other: Named) -> Named:
        """All batches of both: associative and commutative, to the bit. The finer of two resolutions is coarsened.

        Raises:
            InputError: dtypes, units or importance differ, so they are not of one tensor; or counts exceed 64 bits.
        """
        if self.dtype != other.dtype:
            raise InputError(f"one is {self.dtype}, the other {other.dtype}", SAME)
        one, two = alike(self.sketch, other.sketch)
        try:
            found = one + two
        except KlcalError as error:
            raise InputError(error.what, error.hint) from None
        if found.numel.sum(dtype=np.float64) >= MOST_COUNTED:
            raise InputError("together they count more values than 64 bits can", "merge fewer of them")
        return replace(
            self,
            shape=self.shape if self.shape == other.shape else None,
            sketch=found,
            batches=self.batches + other.batches,
            aliases=tuple(sorted({*self.aliases, *other.aliases})),
        )


def alike(one: Sketch, other: Sketch) -> tuple[Sketch, Sketch]:
    """Both sketches, coarsened to the same mantissa bits if their resolutions differ."""
    if one.resolution == other.resolution:
        return one, other
    bits = min(one.resolution.mantissa_bits, other.resolution.mantissa_bits)
    return one.coarsen(bits), other.coarsen(bits)


def arrays_of(found: Sketch) -> Arrays:
    """All numbers of a sketch as little-endian arrays, the wide items first, so that a file can align them.

    Returns:
        ``numbers``, int64 (len(KEPT), units); ``extremes``, float64 (len(EXTREMES), units); ``weights``, int64
        (3, pieces), if there are any; ``counts``, int32 or int64 (pieces,); ``keys``, uint32 (pieces,).
    """
    numbers = np.array([getattr(found, name) for name in KEPT], "<i8")
    arrays: Arrays = {"numbers": numbers, "extremes": np.array([getattr(found, name) for name in EXTREMES], "<f8")}
    if found.weights is not None:
        arrays["weights"] = found.weights.astype("<i8", copy=False)
    counts = narrow(found.counts)
    arrays["counts"] = counts.astype(f"<i{counts.itemsize}", copy=False)
    return {**arrays, "keys": found.keys.astype("<u4", copy=False)}


def sketch_of(arrays: Arrays, resolution: Resolution, grid: Grid | None) -> Sketch:
    """The inverse of ``arrays_of``: the sketch of some arrays, which may come from a damaged or hostile file.

    Args:
        arrays: as ``arrays_of`` returns them.
        resolution: of the sketch.
        grid: of the sketch; None for one unit.

    Raises:
        InputError: there is no sketch with these numbers.
    """
    units = 1 if grid is None else prod(grid.shape)
    keys, counts, weights = arrays["keys"], arrays["counts"], arrays.get("weights")
    _require(arrays["numbers"].shape == (len(KEPT), units), "its arrays have not as many units as its grid")
    _require(arrays["extremes"].shape == (len(EXTREMES), units), "its extremes have not as many units as its grid")
    _require(keys.ndim == 1 and counts.shape == keys.shape, "its keys and counts are not as many")
    _require(weights is None or weights.shape == (3, keys.size), "its weights are not as many as its keys")
    numbers = dict(zip(KEPT, arrays["numbers"].astype(np.int64), strict=True))
    _require(all(row.min(initial=0) >= 0 for row in numbers.values()), "a number of values is below 0")
    _require(
        float(numbers["pieces"].sum(dtype=np.float64)) == keys.size, "its units have not as many keys as there are"
    )
    _require(numbers["exact"].max(initial=0) <= 1, "its flags are neither 0 nor 1")
    starts = np.append(0, np.cumsum(numbers.pop("pieces")))
    _check_counts(counts, weights, numbers, starts)
    found = Sketch(
        keys=keys.astype(np.uint32),
        counts=narrow(counts.astype(np.int64)),
        weights=None if weights is None else weights.astype(np.int64),
        starts=starts,
        exact=numbers.pop("exact").astype(bool),
        **numbers,
        **dict(zip(EXTREMES, arrays["extremes"].astype(np.float64), strict=True)),
        resolution=resolution,
        grid=grid,
    )
    _check_keys(found)
    return found


def _check_counts(
    counts: npt.NDArray[Any], weights: npt.NDArray[Any] | None, numbers: Arrays, starts: npt.NDArray[np.int64]
) -> None:
    """Refuses counts and weights below 0, and sums that 64 bits cannot hold."""
    _require(counts.min(initial=1) >= 1, "it counts a value less than once")
    _require(weights is None or weights.min(initial=0) >= 0, "a weight is below 0")
    most = counts.sum(dtype=np.float64) + sum(numbers[name].sum(dtype=np.float64) for name in COUNTERS)
    _require(most < MOST_COUNTED, "it counts more values than 64 bits can")
    _require(weights is None or weights.sum(dtype=np.float64) < MOST_COUNTED, "its weights exceed 64 bits")
    empty = starts[1:] == starts[:-1]
    _require(bool(numbers["exact"][empty].all()), "a unit without keys has lost bits")


def _check_keys(found: Sketch) -> None:
    """Refuses keys that no counter returns, and extremes that do not fit the keys."""
    _require(not is_special(found.keys).any(), "a key is that of zero, an infinity or NaN")
    ascending = found.keys[1:] > found.keys[:-1]
    ascending[found.starts[1:-1][(found.starts[1:-1] > 0) & (found.starts[1:-1] < found.keys.size)] - 1] = True
    _require(bool(ascending.all()), "its keys do not ascend")
    _require(bool((np.isfinite(found.heaviest) & (found.heaviest >= 0)).all()), "its heaviest weight is no weight")
    low, high = extremes(found.keys, found.starts)
    occupied = found.pieces > 0
    for key, extreme in ((low, found.minimum), (high, found.maximum)):
        _require(bool((extreme[~occupied] == key[~occupied]).all()), "a unit without keys has extremes")
        _require(bool(np.isfinite(extreme[occupied]).all()), "an extreme is not finite")
        with np.errstate(over="ignore"):
            patterns = extreme.astype(np.float32)
        _require(bool((patterns == extreme).all()), "an extreme is no float32")
        dropped = found.resolution.dropped(patterns.view(np.uint32), found.tops)
        dropped = np.where(found.exact & found.whole, np.uint32(0), dropped).astype(np.uint32)
        cut = patterns.view(np.uint32) >> dropped << dropped
        same = cut == key.astype(np.float32).view(np.uint32)
        _require(bool(same[occupied].all()), "its extremes are not those of its keys")
    _require(np.array_equal(settled(found).keys, found.keys), "its keys are finer than its resolution")


def checked_resolution(mantissa_bits: object, least_bits: object, few: object) -> Resolution:
    """The ``Resolution`` with these three numbers, as a file has them.

    Raises:
        InputError: they are not whole numbers, or out of range.
    """
    if not (type(mantissa_bits) is int and type(least_bits) is int and type(few) is int):
        raise InputError("its resolution is not three whole numbers", DAMAGED)
    _require(0 <= least_bits <= mantissa_bits <= PATTERN_BITS, "its mantissa bits are out of range")
    _require(0 <= few < 1 << 32, "its number of distinct values is out of range")
    return Resolution(mantissa_bits, least_bits, few)


def _require(holds: bool | np.bool_, else_: str) -> None:
    if not holds:
        raise InputError(f"it is damaged: {else_}", DAMAGED)
