"""Channels, groups and blocks of a tensor on a CUDA device, counted there, some at a time.

The counts stay on the device for the search. Copied to the host, they are the ``Sketch`` that the CPU would count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klcal.kernels.cuda_counting import Launcher
from klcal.kernels.cuda_units import UnitCounts, count_units, sent, unit_weights
from klcal.kernels.units import COUNTERS
from klcal.quantizers.layout import Layout
from klcal.sketches.counting import FLOAT_DTYPES, pattern_values
from klcal.sketches.importance import Importance
from klcal.sketches.patterns import UNITS, Floats, Integers, Resolution
from klcal.sketches.sketch import Sketch

if TYPE_CHECKING:
    import torch

__all__ = ["CountedUnits", "all_units", "counted_on_device", "fetched", "host_sketch"]

AT_ONCE = 1 << 26  # values counted and searched together: their keys and counts are 512 MiB
# Times the memory of keys and counts. A value has a weight, 8 bytes. A key has three sums, 24 bytes; and if it weighs
# something, it is there once more, with a count and a float64, 16 bytes.
WEIGHTS_TAKE = 6


@dataclass(frozen=True)
class CountedUnits:
    """Some units of a tensor, counted on a device."""

    numbers: Integers  # (units,): their numbers, along the tensor's own axes, the first axis slowest
    counts: UnitCounts  # on the device
    size: int  # the number of values of each unit
    resolution: Resolution  # of the sketches
    launcher: Launcher  # runs the kernels
    weights: torch.Tensor | None = None  # int64 (3, values), at the places of the keys: see Sketch.weights
    heaviest: Floats | None = None  # (units,), the largest importance of each unit; both are None without importance


def all_units(layout: Layout) -> Integers:
    """The numbers of a tensor's units, along its own axes."""
    return np.arange(layout.rows).reshape(layout.cells)


def counted_on_device(
    tensor: torch.Tensor,
    dtype: str,
    tiles: tuple[int, ...],
    numbers: Integers,
    launcher: Launcher,
    *,
    importance: Importance | None = None,
    at_once: int = AT_ONCE,
    resolution: Resolution = UNITS,
) -> Iterator[CountedUnits]:
    """Counts the units of a tensor, or of a part of one, some at a time, without waiting for the device.

    Args:
        tensor: on the device, of any strides.
        dtype: of its values.
        tiles: the number of values of a unit along each axis.
        numbers: of the units, an array with the same axes.
        launcher: runs the kernels.
        importance: of the values, ``in_own_order``, on the host; None if all count alike. Its weights are sent to the
            device for the units that are counted together, and shared ones are sent once.
        at_once: the number of values that are counted together; a seventh of it with an importance.
        resolution: of the sketches.
    """
    kept = resolution.few, resolution.mantissa_bits, resolution.least_bits
    bytes_as = pattern_values(dtype).view(np.uint32) if FLOAT_DTYPES[dtype] is np.uint8 else None
    axes = [_stretches(extent, tile) for extent, tile in zip(tensor.shape, tiles, strict=True)]
    plain = tensor.detach().resolve_neg()
    at_once = at_once if importance is None else max(1, at_once // (1 + WEIGHTS_TAKE))
    for each in product(*axes):
        for some in _parts(each, at_once):
            own = numbers[tuple(slice(axis.first, axis.first + axis.units) for axis in some)].ravel()
            values = _brought_together(plain[_places_of(some)], some)
            size = values.numel() // own.size
            counts = count_units(values, dtype, size, kept, launcher, bytes_as)
            found = CountedUnits(own, counts, size, resolution, launcher)
            if importance is not None:
                weights = _brought_together(_sent(importance.weights[_places_of(some)], values), some)
                sums = unit_weights(values, dtype, size, counts, weights, launcher, bytes_as)
                found = replace(found, weights=sums, heaviest=importance.heaviest[own])
            yield found


class _Stretch(NamedTuple):
    """Neighbouring units along an axis, all of one size."""

    first: int  # of the units
    units: int
    begin: int  # of the values
    tile: int

    def part(self, first: int, units: int) -> _Stretch:
        """The ``units`` units from the unit ``first`` on."""
        return _Stretch(self.first + first, units, self.begin + first * self.tile, self.tile)


def _stretches(extent: int, tile: int) -> list[_Stretch]:
    """The units along an axis: those of full size, then the smaller one at the end, if there is one."""
    whole, rest = divmod(extent, tile)
    found = [_Stretch(0, whole, 0, tile), _Stretch(whole, 1, whole * tile, rest)]
    return [each for each in found if each.units and each.tile]


def _parts(axes: tuple[_Stretch, ...], at_once: int) -> Iterator[tuple[_Stretch, ...]]:
    """Units of one size along each axis, some at a time."""
    axis = max(range(len(axes)), key=lambda i: axes[i].units)
    longest = axes[axis]
    values = prod(each.units * each.tile for each in axes) // longest.units
    step = max(1, at_once // values)
    for first in range(0, longest.units, step):
        yield (*axes[:axis], longest.part(first, min(step, longest.units - first)), *axes[axis + 1 :])


def _places_of(axes: tuple[_Stretch, ...]) -> tuple[slice, ...]:
    """Where the values of units are in their tensor."""
    return tuple(slice(each.begin, each.begin + each.units * each.tile) for each in axes)


def _sent(weights: Integers, values: torch.Tensor) -> torch.Tensor:
    """Weights on the device of the values. Those that an array repeats are sent once, and repeated there."""
    single = tuple(slice(None) if stride else slice(1) for stride in weights.strides)
    return sent(weights[single], values).expand(weights.shape)


def _brought_together(tensor: torch.Tensor, axes: tuple[_Stretch, ...]) -> torch.Tensor:
    """The values of all units that a tensor has, one unit behind the other, (values,), contiguous."""
    split = tensor.reshape([side for each in axes for side in (each.units, each.tile)])
    last = 2 * len(axes)
    return split.permute([*range(0, last, 2), *range(1, last, 2)]).reshape(-1).contiguous()


def fetched(*tensors: torch.Tensor) -> list[npt.NDArray[Any]]:
    """Tensors as arrays of the host, which waits once. They are copied to pinned memory, which is ten times as fast."""
    import torch

    if not tensors[0].is_cuda:
        return [tensor.numpy() for tensor in tensors]
    there = [torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in tensors]
    for pinned, each in zip(there, tensors, strict=True):
        pinned.copy_(each, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [pinned.numpy() for pinned in there]


def host_sketch(found: CountedUnits, units: Integers | None = None) -> Sketch:
    """The sketch of units on the host.

    Args:
        found: the units.
        units: (n,), the indices of those to copy; None for all.
    """
    import torch

    counts = found.counts
    where = None if units is None else torch.from_numpy(units).to(counts.keys.device)
    starts, ends, exact, minimum, maximum, numbers = (
        each if where is None else each[..., where]
        for each in (counts.starts, counts.ends, counts.exact, counts.minimum, counts.maximum, counts.numbers)
    )
    pieces = ends - starts
    places = _places(starts, pieces)
    kept = [counts.keys[places], counts.counts[places], pieces, exact, minimum, maximum, numbers]
    if found.weights is not None:
        kept.append(found.weights[:, places])
    keys, times, sizes, is_exact, least, greatest, counters, *weights = fetched(*kept)
    heaviest = np.zeros(found.numbers.size) if found.heaviest is None else found.heaviest
    return Sketch(
        keys=keys.view(np.uint32),
        counts=times,
        weights=weights[0] if weights else None,
        starts=np.append(0, np.cumsum(sizes)),
        **dict(zip(COUNTERS, counters, strict=True)),
        heaviest=heaviest if units is None else heaviest[units],
        minimum=least,
        maximum=greatest,
        exact=is_exact.astype(bool),
        resolution=found.resolution,
    )


def _places(starts: torch.Tensor, pieces: torch.Tensor) -> torch.Tensor:
    """The places of the keys of all units, one unit behind the other."""
    import torch

    ends = pieces.cumsum(0)
    own = torch.arange(int(ends[-1]) if ends.numel() else 0, device=starts.device)
    return own + torch.repeat_interleave(starts - (ends - pieces), pieces)
