"""Which tensors are counted together, and by whom: large ones in parts, small ones several at a time.

A large tensor is cut into tasks of bounded size. Each is counted on its own, and the sketches are added. Small tensors
are one task, and are searched together. So a chunk bounds the memory. The answer depends neither on the worker that a
task came to, nor on the tensors beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np

from klcal.errors import UsageError
from klcal.pipeline.devices import Plan, chosen_devices
from klcal.pipeline.importance import Weighed
from klcal.pipeline.mapping import Workers
from klcal.pipeline.units import Place
from klcal.quantizers.granularity import Per
from klcal.quantizers.layout import Layout
from klcal.quantizers.scheme import Scheme
from klcal.readers import Part
from klcal.readers.description import PART_BYTES
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_feeding import SLAB, fits_device
from klcal.sketches.stored import counted_already

if TYPE_CHECKING:
    from klcal.search.settings import Settings  # klcal sketch has none, and need not load what searches

__all__ = [
    "BYTE_SECONDS",
    "TENSOR_SECONDS",
    "Progress",
    "Task",
    "Tensor",
    "Watch",
    "estimate",
    "plan_of",
    "portions",
    "tasks_of",
]

BYTE_SECONDS = 0.6e-9  # to read and count a byte
TENSOR_SECONDS = 3e-3  # to search a tensor
EXPLAINED_SECONDS = 15e-3  # and to explain it
UNIT_VALUE_SECONDS = 10e-9  # to read, count and search a value of channels (7 at int8) or groups (13 at int4, of 128)
DEVICE_VALUE_SECONDS = 1e-9  # the same on a device, beside reading it; half of that is the host's
WEIGHED_AS = 3  # values of the same tensor without importance: a value with one takes 25 ns (8), and is searched twice
SLABS_OF_RELATIVE = 4  # of values whose sketches a device keeps until the scale of their tensor is known: 512 MiB
WEIGHED_SLABS_OF_RELATIVE = 2  # with an importance, whose sums take three times as much: 1 GiB
SMALL_BYTES = 1 << 17  # of a tensor, up to which it is searched together with others
TOGETHER = 128  # small tensors in a task: what a call costs vanishes, and the last worker is not late


Watch: TypeAlias = Callable[[int], None]
"""Is told, in any process, how many bytes of unfinished tasks were read. Finished tasks take theirs off again."""


class Progress(Protocol):
    """Is told how far the work is."""

    def watch(self) -> Watch | None:
        """The function that is told of bytes of unfinished tasks; None if nobody wants to know."""

    def start(self, tensors: int, nbytes: int) -> None:
        """The work begins: how many tensors, and their bytes together."""

    def advance(self, nbytes: int) -> None:
        """How many bytes more were read."""

    def finish(self, name: str) -> None:
        """The tensor of this name is done."""


class Tensor(NamedTuple):
    """Some parts of a tensor, or all of them."""

    number: int  # of the tensor in its run, from 0
    dtype: str  # of its values, as "bfloat16"
    parts: tuple[Part, ...]
    settings: Settings  # how it is searched
    places: tuple[Place, ...] = ()  # of channels, groups or blocks, if there are any
    weighed: Weighed | None = None  # as a whole, if it has an importance
    asked: tuple[Per, tuple[int, ...]] | None = None  # the units that a sketch shall have, and the shape it had

    @property
    def nbytes(self) -> int:
        """The bytes of its values, as they are stored."""
        return sum(part.nbytes for part in self.parts)

    @property
    def values(self) -> float:
        """How many values it has, by their bytes."""
        return self.nbytes / np.dtype(FLOAT_DTYPES[self.dtype]).itemsize

    @property
    def effort(self) -> float:
        """How many values of a tensor with units, but without importance, take as long."""
        return self.values if self.weighed is None else self.values * WEIGHED_AS

    @property
    def is_sketch(self) -> bool:
        """Whether it was counted already."""
        return counted_already(self.parts) is not None

    @property
    def is_explained(self) -> bool:
        """Whether its explanation has plots: these take longer than the search, so no other tensor waits for it."""
        return self.settings.detail in ("plots", "all") and self.nbytes <= PART_BYTES

    @property
    def is_one_unit(self) -> bool:
        """Whether it has a single scale, and all of its values weigh the same."""
        return not self.places and self.weighed is None and not self.is_sketch

    @property
    def layout(self) -> Layout | None:
        """The layout of its channels, groups or blocks; None where it has none, or several."""
        return self.places[0].layout if len(self.places) == 1 else None

    @property
    def fits_device(self) -> bool:
        """Whether a device can count it. Where scales are relative to the tensor's, all of its sketches have to fit."""
        if self.layout is None:
            return self.is_one_unit
        if self.settings.detail != "none" or self.settings.unit is not None:
            return False
        most = SLAB * (SLABS_OF_RELATIVE if self.weighed is None else WEIGHED_SLABS_OF_RELATIVE)
        is_small = not self.settings.scheme.is_relative or prod(self.layout.shape) <= most
        return is_small and fits_device(self.layout)


class Task(NamedTuple):
    """A tensor, a part of one, or some small tensors: a worker counts them at once."""

    tensors: tuple[Tensor, ...]
    whole: bool  # whether all parts of its tensors are there: then they are searched, too

    @property
    def nbytes(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def tasks_of(tensors: Sequence[Tensor]) -> Iterator[Task]:
    """One task for a tensor of ordinary size, one per part for a large one with a single scale, one for some small."""
    small: dict[tuple[int, Scheme], list[Tensor]] = {}  # what is searched together is searched alike
    for tensor in tensors:
        if not tensor.is_one_unit or SMALL_BYTES < tensor.nbytes <= PART_BYTES or tensor.is_explained:
            yield Task((tensor,), True)
        elif tensor.nbytes > PART_BYTES:
            yield from (Task((tensor._replace(parts=some),), False) for some in portions(tensor.parts))
        elif any(part.repeats != 1 for part in tensor.parts):
            yield Task((tensor,), True)
        else:
            small.setdefault((id(tensor.settings.method), tensor.settings.scheme), []).append(tensor)
    for alike in small.values():
        yield from (Task(tuple(alike[i : i + TOGETHER]), True) for i in range(0, len(alike), TOGETHER))


def portions(parts: Iterable[Part]) -> Iterator[tuple[Part, ...]]:
    """Neighbouring parts, of ``PART_BYTES`` together at most: they are counted on their own."""
    portion: list[Part] = []
    nbytes = 0
    for part in parts:
        if portion and nbytes + part.nbytes > PART_BYTES:
            yield tuple(portion)
            portion, nbytes = [], 0
        portion.append(part)
        nbytes += part.nbytes
    if portion:
        yield tuple(portion)


def estimate(task: Task) -> float:
    """The seconds that a task takes on one core."""
    if not task.tensors[0].is_one_unit:
        return UNIT_VALUE_SECONDS * task.tensors[0].effort
    each = EXPLAINED_SECONDS if task.tensors[0].is_explained else TENSOR_SECONDS
    return each * len(task.tensors) * task.whole + BYTE_SECONDS * task.nbytes


def plan_of(device: str, tasks: Sequence[Task], workers: Workers) -> Plan:
    """Who works on some tasks: devices, processes or a cluster.

    Args:
        device: as ``--device`` has it: "auto", "cpu", "cuda", "cuda:N" or "cuda:all".
        tasks: all of them.
        workers: of this machine, or a cluster.

    Raises:
        UsageError: there is no such device, or a cluster has the work.
    """
    seconds = sum(map(estimate, tasks))
    at_a_time, threads = workers.shared(len(tasks), seconds)
    if workers.address is not None:
        if device not in ("auto", "cpu"):
            raise UsageError(f"--device {device} is of this machine, --scheduler has others", "leave one of them out")
        return Plan((), at_a_time, threads, f"--scheduler {workers.address}")
    whole = [task for task in tasks if task.tensors[0].fits_device]
    fed = [task.tensors[0] for task in whole]
    searched = TENSOR_SECONDS * sum(len(task.tensors) for task in whole if task.whole and task.tensors[0].is_one_unit)
    searched += DEVICE_VALUE_SECONDS * sum(each.effort for each in fed if not each.is_one_unit)
    rest = (seconds - sum(map(estimate, whole))) / workers.jobs + searched
    nbytes = sum(task.nbytes for task in whole)
    devices, why = chosen_devices(device, nbytes, seconds / (at_a_time * threads), rest)
    unfit = len(tasks) - len(whole) if devices else 0
    return Plan(devices, 1, workers.jobs, why, unfit) if devices and whole else Plan((), at_a_time, threads, why, unfit)
