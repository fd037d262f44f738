"""Units whose values have weights, on a CUDA device: their pieces that weigh something.

``klcal.sketches.distribution.Distribution.weighted`` does so in NumPy, for sketches on the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from klcal.kernels.cuda_units import UnitCounts
from klcal.search.c_types import Units, Weighed
from klcal.search.device_place import addresses_of, put
from klcal.search.structures import COUNTS, kept_bits
from klcal.sketches.device_units import CountedUnits

if TYPE_CHECKING:
    import torch

__all__ = ["Left", "left_of", "units_of", "weighed_of"]

FILE = "device_weighed.cu"
THREADS, RESIDENT = 256, 4  # of a block, and blocks on a multiprocessor, as in the source
WARP, MOST_OF_WARP = 32, 1024  # threads of a team, and values of a unit up to which one works on it; else a block does
SHARED = 1 << 14  # bytes of shared memory of a block: what its teams share takes 10 KiB


class Left(NamedTuple):
    """The pieces that are left of some units without those of weight 0: tensors on their device.

    The pieces of a unit begin where all of its pieces begin.
    """

    keys: torch.Tensor  # int32 (values,): float32 patterns
    counts: torch.Tensor  # int32 (values,): the number of values that weigh something
    masses: torch.Tensor  # float64 (values,): how much a piece counts beside the others of its unit
    starts: torch.Tensor  # int64 (units,)
    ends: torch.Tensor  # int64 (units,)
    minimum: torch.Tensor  # float64 (units,): of the values that weigh something
    maximum: torch.Tensor  # float64 (units,)
    number: torch.Tensor  # float64 (units,): the number of these values
    weighed: torch.Tensor  # int64 (units,): the same; 0 if no value weighs anything, so that all are left
    exact: torch.Tensor  # uint8 (units,): as in the counts


def left_of(found: CountedUnits) -> Left:
    """The pieces that are left of units that have weights, without waiting for the device."""
    import torch

    counts, units = found.counts, found.numbers.size
    masses = counts.keys.new_empty(counts.keys.numel(), dtype=torch.float64)
    extremes = masses.new_empty((3, units))
    ends = counts.ends.new_empty((2, units))
    left = Left(
        keys=torch.empty_like(counts.keys),
        counts=torch.empty_like(counts.counts),
        masses=masses,
        starts=counts.starts,
        ends=ends[0],
        minimum=extremes[0],
        maximum=extremes[1],
        number=extremes[2],
        weighed=ends[1],
        exact=counts.exact,
    )
    told = {"units": units_of(found, counts, None, None), "weighed": weighed_of(found, left)}
    where, _ = put(told, counts.keys.device)  # torch keeps freed memory for work that is queued later in this stream
    team = WARP if found.size <= MOST_OF_WARP else THREADS
    blocks = min(-(-units * team // THREADS), RESIDENT * found.launcher.multiprocessors)
    macros = f"TEAM={team}", f"THREADS={THREADS}", f"RESIDENT={RESIDENT}"
    found.launcher.launch(FILE, "weigh_units", blocks, THREADS, SHARED, *where.values(), units, macros=macros)
    return left


def units_of(
    found: CountedUnits, pieces: UnitCounts | Left, tops: torch.Tensor | None, number: torch.Tensor | None
) -> Units:
    """Pieces of units as the C structure.

    Args:
        found: the units.
        pieces: all of their pieces, or those that are left. Counts may be weights: float64.
        tops: int64 (units,), the exponents from which buckets get coarser; null if None.
        number: float64 (units,), the number of values; null if None.
    """
    at = addresses_of(pieces.keys, pieces.counts, pieces.starts, pieces.ends)
    at += addresses_of(pieces.exact, pieces.minimum, pieces.maximum)
    further = (None if each is None else each.data_ptr() for each in (tops, number))
    kind = COUNTS[np.dtype(np.float64 if pieces.counts.is_floating_point() else np.int32)]
    return Units(*at, *further, kind, *kept_bits(found.resolution))


def weighed_of(found: CountedUnits, left: Left) -> Weighed:
    """The weights of pieces, and those that are left, as the C structure."""
    assert found.weights is not None
    arrays = left.keys, left.counts, left.masses, left.ends, left.minimum, left.maximum, left.number, left.weighed
    return Weighed(found.weights.data_ptr(), found.weights.shape[1], *addresses_of(*arrays))
