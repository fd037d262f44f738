"""The outcomes of tasks: rows of tensors, and sketches of parts. Cores, devices or a cluster count them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from itertools import chain, groupby
from operator import add
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from klcal.calibration.sketches import calibrate_sketch, calibrate_tensors
from klcal.calibration.units import calibrate_units
from klcal.errors import InputError
from klcal.kernels.threads import limited
from klcal.pipeline.devices import Plan, feeding
from klcal.pipeline.mapping import Workers
from klcal.pipeline.selection import attempt
from klcal.pipeline.tasks import Task, Tensor, Watch, estimate
from klcal.quantizers.layout import Layout
from klcal.search.settings import Settings
from klcal.sketches.by_unit import sketch_each
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_feeding import Feed
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import check_units, sketch_parts, stored_chunks
from klcal.sketches.values import Units, sketch_of_units
from klcal.sketches.weighted import weighted_sketch
from klcal.tables.rows import Row

__all__ = ["Calibrated", "worked_on"]

Calibrated: TypeAlias = Sketch | Row | InputError
"""The outcome of a tensor, or of a part of one."""


@contextmanager
def worked_on(
    tasks: Sequence[Task],
    plan: Plan,
    workers: Workers,
    watch: Watch | None = None,
    told: Callable[[Task], None] | None = None,
) -> Iterator[Iterator[tuple[int, Calibrated]]]:
    """The number of each tensor and its outcome, in the order of the tasks, while the context lasts.

    The outcome is a row, or an error. A tensor that was cut into parts has the sum of their sketches.

    Args:
        tasks: the parts of a tensor lie one behind the other.
        plan: who works on them.
        workers: of this machine, or a cluster; not used where the plan has devices.
        watch: processes of this machine tell it the bytes of unfinished tasks.
        told: is told of each task that is done.

    Raises:
        OutputError: while outcomes are taken: the scheduler of a cluster has gone away.
    """
    if not plan.devices:
        groups = [list(group) for _, group in groupby(tasks, key=lambda task: task.tensors[0].number)]
        seconds = sum(map(estimate, tasks))
        watched = watch if workers.address is None else None
        with workers.joined(partial(_run, watch=watched), _summed, groups, seconds, told) as found:
            yield chain.from_iterable(map(_numbered, groups, found))
        return
    fed = [task.tensors[0] for task in tasks if task.tensors[0].fits_device]
    with feeding(plan.devices, _begun, fed) as begun:
        one_by_one = map(partial(limited, partial(_run_behind, begun, told), plan.threads), tasks)
        yield chain.from_iterable(map(_numbered, ([task] for task in tasks), one_by_one))


def _numbered(group: Sequence[Task], outcome: list[Calibrated] | InputError) -> Iterator[tuple[int, Calibrated]]:
    """The outcome of a group, tensor by tensor. If the whole group failed, each tensor has the same error."""
    tensors = group[0].tensors
    several = [outcome] * len(tensors) if isinstance(outcome, InputError) else outcome
    return ((tensor.number, each) for tensor, each in zip(tensors, several, strict=True))


def _summed(of_parts: Sequence[list[Calibrated]]) -> list[Calibrated]:
    """The sum of the sketches of several parts of a tensor, or the first error."""
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
"""A function that waits for the sketch of a tensor with a single scale; the row of one with several."""


def _begun(feed: Feed, tensor: Tensor) -> Begun:
    if tensor.layout is None:
        return attempt(partial(feed.count, tensor.parts, tensor.dtype))
    return attempt(partial(_fed_units, feed, tensor, tensor.layout))


def _fed_units(feed: Feed, tensor: Tensor, layout: Layout) -> Row:
    from klcal.calibration.devices import calibrate_counted

    weights = None if tensor.weighed is None else tensor.weighed.weights(layout)
    with feed.entered():
        counted = feed.units(tensor.parts, tensor.dtype, layout, weights)
        return calibrate_counted(counted, layout, tensor.settings, weighed=weights is not None)


def _run_behind(begun: Iterator[Begun], told: Callable[[Task], None] | None, task: Task) -> list[Calibrated]:
    """Calibrates the next tensor that a device counts. Tensors that fit no device are counted here."""
    if not task.tensors[0].fits_device:
        outcome = _run(task)
    else:
        found, settings = next(begun), task.tensors[0].settings
        outcome = [attempt(lambda: calibrate_sketch(found(), settings)) if callable(found) else found]
    if told is not None:
        told(task)
    return outcome


def _run(task: Task, watch: Watch | None = None) -> list[Calibrated]:
    """Counts each tensor of a task, and calibrates those with all of their parts."""
    if len(task.tensors) > 1:
        return _run_together(task.tensors)
    return [attempt(partial(_run_alone, tensor, task.whole, watch)) for tensor in task.tensors]


def _run_alone(tensor: Tensor, whole: bool, watch: Watch | None) -> Sketch | Row:
    found = _counted(tensor, watch)
    return calibrate_sketch(found, tensor.settings) if whole and isinstance(found, Sketch) else found


def _run_together(tensors: Sequence[Tensor]) -> list[Calibrated]:
    """The rows of small tensors with the same settings. Those of one dtype are counted and searched together."""
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
    """The rows of some tensors. If this fails, they are tried one by one, so that one error does not affect others."""
    rows = attempt(lambda: calibrate_tensors(sketch_each(arrays, dtype), settings))
    if not isinstance(rows, InputError):
        return [*rows]
    return [rows] if len(arrays) == 1 else [row for each in arrays for row in _rows_of(settings, dtype, [each])]


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    """All values of a small tensor, in storage form."""
    chunks = [chunk.copy() for chunk in stored_chunks(tensor.parts)]  # a chunk is valid only until the next is read
    return np.concatenate(chunks) if chunks else np.empty(0, FLOAT_DTYPES[tensor.dtype])


def _counted(tensor: Tensor, watch: Watch | None) -> Sketch | Row:
    """The sketch of a tensor or a part of it; the row of one with several units, whose sketches are not kept."""
    if len(tensor.places) > 1:
        apart = (Units(stored_chunks(parts), tensor.dtype, place, None) for _, parts, place in tensor.places)
        return reduce(add, map(sketch_of_units, apart))
    place = tensor.places[0].layout if tensor.places else None
    weights = None if tensor.weighed is None else tensor.weighed.weights(place)
    if place is not None:
        chunks = _watched(stored_chunks(tensor.parts), watch)  # a tensor of any size is one task, so progress is shown
        return calibrate_units(chunks, tensor.dtype, place, tensor.settings, weights)
    if weights is not None:
        return weighted_sketch(stored_chunks(tensor.parts), tensor.dtype, weights)
    found = sketch_parts(tensor.parts, tensor.dtype)
    return found if tensor.asked is None else check_units(found, *tensor.asked)


def _watched(chunks: Iterator[npt.NDArray[Any]], watch: Watch | None) -> Iterator[npt.NDArray[Any]]:
    """The same chunks; each is told of when it is done, and taken off at the end, when the task is told of."""
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
