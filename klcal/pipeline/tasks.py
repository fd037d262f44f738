"""What is counted together, and by what: large tensors in parts, small ones several at a time, on cores or devices.

A large tensor is cut into tasks of bounded size, each of which is counted on its own, and the sketches are added; small
tensors are one task together, and searched together. So memory is bounded by a chunk, and neither which worker did what
nor which tensors stood beside each other can change the answer.
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
UNIT_VALUE_SECONDS = 16e-9  # to read, count and search a value where channels or groups have a scale each
DEVICE_VALUE_SECONDS = 1e-9  # the same on a device, beside reading it; half of that is the host's
SLABS_OF_RELATIVE = 4  # of values whose sketches a device keeps until the scale of their tensor is known: 512 MiB
SMALL_BYTES = 1 << 17  # of a tensor, up to which it is searched together with others
TOGETHER = 128  # small tensors in a task: what a call costs vanishes, and the last worker is not late


Watch: TypeAlias = Callable[[int], None]
"""Is told, in whatever process, of how many bytes of unfinished tasks were read; what is done is taken off again."""


class Progress(Protocol):
    """Is told how far the work is."""

    def watch(self) -> Watch | None:
        """Who is told of what is read of a task before it is done, if anybody wants to know."""

    def start(self, tensors: int, nbytes: int) -> None:
        """So many tensors, of so many bytes together, are about to be read."""

    def advance(self, nbytes: int) -> None:
        """So many further bytes were read."""

    def finish(self, name: str) -> None:
        """The tensor of this name is done."""


class Tensor(NamedTuple):
    """Some parts of a tensor, or all of them."""

    number: int
    dtype: str
    parts: tuple[Part, ...]
    settings: Settings
    places: tuple[Place, ...] = ()  # of channels, groups or blocks, if there are any
    weighed: Weighed | None = None  # as a whole, if it has an importance
    asked: tuple[Per, tuple[int, ...]] | None = None  # the units that a sketch shall have, and the shape it had

    @property
    def nbytes(self) -> int:
        """Of its values, as they are stored."""
        return sum(part.nbytes for part in self.parts)

    @property
    def values(self) -> float:
        """How many these are."""
        return self.nbytes / np.dtype(FLOAT_DTYPES[self.dtype]).itemsize

    @property
    def is_sketch(self) -> bool:
        """Whether it was counted already."""
        return counted_already(self.parts) is not None

    @property
    def is_explained(self) -> bool:
        """Whether it takes much longer than searching it, so that no other should wait for it; it is not too large."""
        return self.settings.detail in ("plots", "all") and self.nbytes <= PART_BYTES

    @property
    def is_one_unit(self) -> bool:
        """Whether it has a single scale, and all its values count alike."""
        return not self.places and self.weighed is None and not self.is_sketch

    @property
    def layout(self) -> Layout | None:
        """Of its channels, groups or blocks, where these lie in one order."""
        return self.places[0].layout if len(self.places) == 1 else None

    @property
    def fits_device(self) -> bool:
        """Whether a device counts it; where scales are relative to the tensor's, all of its sketches have to fit."""
        if self.layout is None or self.weighed is not None:
            return self.is_one_unit
        if self.settings.detail != "none" or self.settings.unit is not None:
            return False
        is_small = not self.settings.scheme.is_relative or prod(self.layout.shape) <= SLAB * SLABS_OF_RELATIVE
        return is_small and fits_device(self.layout)


class Task(NamedTuple):
    """What is counted together: a tensor, a part of one, or some small tensors."""

    tensors: tuple[Tensor, ...]
    whole: bool

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
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
    """What is counted on its own: neighbouring parts, as many as have the size of one together."""
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
    """Seconds of work."""
    if not task.tensors[0].is_one_unit:
        return UNIT_VALUE_SECONDS * task.tensors[0].values
    each = EXPLAINED_SECONDS if task.tensors[0].is_explained else TENSOR_SECONDS
    return each * len(task.tensors) * task.whole + BYTE_SECONDS * task.nbytes


def plan_of(device: str, tasks: Sequence[Task], workers: Workers) -> Plan:
    """What works on some tasks.

    Raises:
        UsageError: the device cannot be used, or is one of this machine, and the work is elsewhere.
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
    searched += DEVICE_VALUE_SECONDS * sum(each.values for each in fed if not each.is_one_unit)
    rest = (seconds - sum(map(estimate, whole))) / workers.jobs + searched
    nbytes = sum(task.nbytes for task in whole)
    devices, why = chosen_devices(device, nbytes, seconds / (at_a_time * threads), rest)
    unfit = len(tasks) - len(whole) if devices else 0
    return Plan(devices, 1, workers.jobs, why, unfit) if devices and whole else Plan((), at_a_time, threads, why, unfit)
