"""What is counted together, and by what: large tensors in parts, small ones several at a time, on cores or devices.

A large tensor is cut into tasks of bounded size, each of which is counted on its own, and the sketches are added; small
tensors are one task together, and searched together. So memory is bounded by a chunk, and neither which worker did what
nor which tensors stood beside each other can change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from itertools import chain, groupby
from math import prod
from operator import add
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.calibration import calibrate_counted, calibrate_sketch, calibrate_tensors, calibrate_units
from klcal.errors import InputError, UsageError
from klcal.kernels.threads import limited
from klcal.pipeline.devices import Plan, chosen_devices, feeding
from klcal.pipeline.importance import Weighed
from klcal.pipeline.mapping import Workers
from klcal.pipeline.selection import attempt
from klcal.pipeline.units import Place
from klcal.quantizers.granularity import Per
from klcal.quantizers.layout import Layout
from klcal.quantizers.scheme import Scheme
from klcal.readers import Part
from klcal.readers.description import PART_BYTES
from klcal.search.settings import Settings
from klcal.sketches.by_unit import sketch_each
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_feeding import SLAB, Feed, fits_device
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import Units, check_units, counted_already, sketch_of_units, sketch_parts, stored_chunks
from klcal.sketches.weighted import weighted_sketch
from klcal.tables.rows import Row

__all__ = [
    "BYTE_SECONDS",
    "TENSOR_SECONDS",
    "Calibrated",
    "Progress",
    "Task",
    "Tensor",
    "Watch",
    "plan_of",
    "portions",
    "tasks_of",
    "worked_on",
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


Calibrated: TypeAlias = Sketch | Row | InputError
"""What comes of a tensor, or of a part of one."""


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


def _estimate(task: Task) -> float:
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
    seconds = sum(map(_estimate, tasks))
    at_a_time, threads = workers.shared(len(tasks), seconds)
    if workers.address is not None:
        if device not in ("auto", "cpu"):
            raise UsageError(f"--device {device} is of this machine, --scheduler has others", "leave one of them out")
        return Plan((), at_a_time, threads, f"--scheduler {workers.address}")
    whole = [task for task in tasks if task.tensors[0].fits_device]
    fed = [task.tensors[0] for task in whole]
    searched = TENSOR_SECONDS * sum(len(task.tensors) for task in whole if task.whole and task.tensors[0].is_one_unit)
    searched += DEVICE_VALUE_SECONDS * sum(each.values for each in fed if not each.is_one_unit)
    rest = (seconds - sum(map(_estimate, whole))) / workers.jobs + searched
    nbytes = sum(task.nbytes for task in whole)
    devices, why = chosen_devices(device, nbytes, seconds / (at_a_time * threads), rest)
    unfit = len(tasks) - len(whole) if devices else 0
    return Plan(devices, 1, workers.jobs, why, unfit) if devices and whole else Plan((), at_a_time, threads, why, unfit)


@contextmanager
def worked_on(
    tasks: Sequence[Task],
    plan: Plan,
    workers: Workers,
    watch: Watch | None = None,
    told: Callable[[Task], None] | None = None,
) -> Iterator[Iterator[tuple[int, Calibrated]]]:
    """The number of each tensor and what comes of it, in the order of the tasks: of parts the sum of their sketches.

    Args:
        tasks: the parts of a tensor lie one behind the other.
        plan: what works on them.
        workers: of this machine, or a cluster.
        watch: is told of bytes of unfinished tasks, by processes of this machine.
        told: is told of each task that is done.
    """
    if not plan.devices:
        groups = [list(group) for _, group in groupby(tasks, key=lambda task: task.tensors[0].number)]
        seconds = sum(map(_estimate, tasks))
        watched = watch if workers.address is None else None
        with workers.joined(partial(_run, watch=watched), _summed, groups, seconds, told) as found:
            yield chain.from_iterable(map(_numbered, groups, found))
        return
    fed = [task.tensors[0] for task in tasks if task.tensors[0].fits_device]
    with feeding(plan.devices, _begun, fed) as begun:
        one_by_one = map(partial(limited, partial(_run_behind, begun, told), plan.threads), tasks)
        yield chain.from_iterable(map(_numbered, ([task] for task in tasks), one_by_one))


def _numbered(group: Sequence[Task], outcome: list[Calibrated] | InputError) -> Iterator[tuple[int, Calibrated]]:
    """The outcome of a group, tensor by tensor; where all of it was lost, the same error for each."""
    tensors = group[0].tensors
    several = [outcome] * len(tensors) if isinstance(outcome, InputError) else outcome
    return ((tensor.number, each) for tensor, each in zip(tensors, several, strict=True))


def _summed(of_parts: Sequence[list[Calibrated]]) -> list[Calibrated]:
    """What comes of several parts of a tensor: the sum of their sketches, or the first error."""
    total: Calibrated | None = None
    for (each,) in of_parts:
        if not isinstance(each, Sketch):
            return [each]
        total = each if total is None else attempt(partial(add, total, each))
        if not isinstance(total, Sketch):
            break
    assert total is not None
    return [total]


Begun: TypeAlias = Callable[[], Sketch] | Row | InputError
"""What gives the sketch of a tensor with a single scale; the row of one with several."""


def _begun(feed: Feed, tensor: Tensor) -> Begun:
    if tensor.layout is None:
        return attempt(partial(feed.count, tensor.parts, tensor.dtype))
    return attempt(partial(_fed_units, feed, tensor, tensor.layout))


def _fed_units(feed: Feed, tensor: Tensor, layout: Layout) -> Row:
    with feed.entered():
        return calibrate_counted(feed.units(tensor.parts, tensor.dtype, layout), layout, tensor.settings)


def _run_behind(begun: Iterator[Begun], told: Callable[[Task], None] | None, task: Task) -> list[Calibrated]:
    """Calibrates the next that a device counts; what is left to the CPU is counted here, too."""
    if not task.tensors[0].fits_device:
        outcome = _run(task)
    else:
        found, settings = next(begun), task.tensors[0].settings
        outcome = [attempt(lambda: calibrate_sketch(found(), settings)) if callable(found) else found]
    if told is not None:
        told(task)
    return outcome


def _run(task: Task, watch: Watch | None = None) -> list[Calibrated]:
    """Counts each tensor of a task and, where all of it is there, calibrates."""
    if len(task.tensors) > 1:
        return _run_together(task.tensors)
    return [attempt(partial(_run_alone, tensor, task.whole, watch)) for tensor in task.tensors]


def _run_alone(tensor: Tensor, whole: bool, watch: Watch | None) -> Sketch | Row:
    found = _counted(tensor, watch)
    return calibrate_sketch(found, tensor.settings) if whole and isinstance(found, Sketch) else found


def _run_together(tensors: Sequence[Tensor]) -> list[Calibrated]:
    """Small tensors, to be searched alike: those of one dtype are counted and searched together."""
    outcomes: dict[int, Calibrated] = {}
    read: dict[str, dict[int, npt.NDArray[Any]]] = {}
    for place, tensor in enumerate(tensors):
        values = attempt(partial(_values, tensor))
        if isinstance(values, InputError):
            outcomes[place] = values
        else:
            read.setdefault(tensor.dtype, {})[place] = values
    for dtype, arrays in read.items():
        outcomes.update(zip(arrays, _rows_of(tensors[0].settings, dtype, [*arrays.values()]), strict=True))
    return [outcomes[place] for place in range(len(tensors))]


def _rows_of(settings: Settings, dtype: str, arrays: Sequence[npt.NDArray[Any]]) -> list[Calibrated]:
    """The rows of some tensors; one by one where that fails: none costs the others theirs."""
    rows = attempt(lambda: calibrate_tensors(sketch_each(arrays, dtype), settings))
    if not isinstance(rows, InputError):
        return [*rows]
    return [rows] if len(arrays) == 1 else [row for each in arrays for row in _rows_of(settings, dtype, [each])]


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    """All values of a small tensor, in storage form."""
    chunks = [chunk.copy() for chunk in stored_chunks(tensor.parts)]  # which are valid until the next is asked for
    return np.concatenate(chunks) if chunks else np.empty(0, FLOAT_DTYPES[tensor.dtype])


def _counted(tensor: Tensor, watch: Watch | None) -> Sketch | Row:
    if len(tensor.places) > 1:
        apart = (Units(stored_chunks(parts), tensor.dtype, place, None) for _, parts, place in tensor.places)
        return reduce(add, map(sketch_of_units, apart))
    place = tensor.places[0].layout if tensor.places else None
    weights = None if tensor.weighed is None else tensor.weighed.weights(place)
    if place is not None:
        chunks = _watched(stored_chunks(tensor.parts), watch)  # a task of any size, in which much happens
        return calibrate_units(chunks, tensor.dtype, place, tensor.settings, weights)
    if weights is not None:
        return weighted_sketch(stored_chunks(tensor.parts), tensor.dtype, weights)
    found = sketch_parts(tensor.parts, tensor.dtype)
    return found if tensor.asked is None else check_units(found, *tensor.asked)


def _watched(chunks: Iterator[npt.NDArray[Any]], watch: Watch | None) -> Iterator[npt.NDArray[Any]]:
    """The same chunks, told of as each is done with; at the end the task is told of, not they."""
    if watch is None:
        yield from chunks
        return
    told = 0
    try:
        for chunk in chunks:
            yield chunk
            watch(chunk.nbytes)
            told += chunk.nbytes
    finally:
        watch(-told)
