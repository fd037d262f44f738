"""Sums over the processes of ``torch.distributed``: in a tree, so that a process holds at most two summands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from klcal.errors import KlcalError, UsageError
from klcal.sketches.modules import naming
from klcal.sketches.sketch import Sketch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

__all__ = ["Counts", "summed"]

Held = TypeVar("Held")


class Counts(NamedTuple):
    """What a process has counted."""

    sketches: dict[str, tuple[str, Sketch]]  # the dtype and the sketch of each tensor, by its name
    sums: dict[str, npt.NDArray[np.int64]]  # the sums of squares of columns, by the name of the weight: see Energy

    def added(self, other: Counts) -> Counts:
        """The counts of both processes together. A tensor of two dtypes becomes float32.

        Raises:
            KlcalError: the sketches or the sums of one name cannot be added. The message has the name.
        """
        sketches, sums = dict(self.sketches), dict(self.sums)
        for name, (dtype, found) in other.sketches.items():
            with naming(name):
                before, total = sketches.get(name, (dtype, None))
                sketches[name] = dtype if dtype == before else "float32", found if total is None else total + found
        for name, each in other.sums.items():
            with naming(name):
                sums[name] = _same_columns(sums[name], each) if name in sums else each
        return Counts(sketches, sums)


def _same_columns(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if one.shape != other.shape:
        raise UsageError(f"its inputs have {len(one)} and {len(other)} columns", "record the same model")
    return one + other


def summed(own: Held, add: Callable[[Held, Held], Held], group: torch.distributed.ProcessGroup | None = None) -> Held:
    """The sum over all processes of a group, on each of them. Every process of the group has to call this.

    Args:
        own: the summand of this process; picklable.
        add: adds two summands.
        group: of processes; None for all.

    Raises:
        UsageError: torch.distributed is not running.
        KlcalError: two summands could not be added. All processes raise it, so that none is left waiting.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        hint = "start with torchrun, and call torch.distributed.init_process_group"
        raise UsageError("torch.distributed is not running", hint)
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    place = ranks.index(dist.get_rank())
    total: Held | KlcalError = own
    step = 1
    while step < len(ranks):
        if place % (2 * step):
            dist.send_object_list([total], ranks[place - step], group)
            break
        if place + step < len(ranks):
            other: list[Held | KlcalError | None] = [None]
            dist.recv_object_list(other, ranks[place + step], group)
            total = _added(total, other[0], add)
        step *= 2
    found = [total]
    dist.broadcast_object_list(found, ranks[0], group)
    if isinstance(found[0], KlcalError):
        raise found[0]
    return found[0]


def _added(
    one: Held | KlcalError, other: Held | KlcalError | None, add: Callable[[Held, Held], Held]
) -> Held | KlcalError:
    """The sum, or the error that prevents it: the other processes wait for one of the two."""
    if isinstance(one, KlcalError):
        return one
    if isinstance(other, KlcalError):
        return other
    assert other is not None
    try:
        return add(one, other)
    except KlcalError as error:
        return error
