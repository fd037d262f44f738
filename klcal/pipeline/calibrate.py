"""Files to a table: the only module that sees both ends.

A large tensor is cut into tasks of bounded size, each of which is counted on its own, and the sketches are added; small
tensors are one task together, and searched together. So memory is bounded by a chunk, and neither which worker did what
nor which tensors stood beside each other can change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import prod
from operator import add
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from klcal.calibration import calibrate_sketch, calibrate_tensors, calibrate_units, noted
from klcal.errors import InputError, UsageError
from klcal.kernels.threads import limited
from klcal.pipeline.devices import Plan, chosen_devices, feeding
from klcal.pipeline.importance import Weighed, read_importance
from klcal.pipeline.selection import Selected, attempt, cause_of, described_tensors, names_of, selected, unmatched
from klcal.quantizers.granularity import ONE_AXIS, Per, PerTensor
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rules import Rules, per_of
from klcal.readers import Description, Part, find
from klcal.readers.description import PART_BYTES
from klcal.search.methods import check_importance
from klcal.search.settings import Settings
from klcal.sketches.by_unit import sketch_each
from klcal.sketches.counting import FLOAT_DTYPES
from klcal.sketches.device_feeding import Feed
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import REPEATED, UNORDERED, sketch_parts, stored_chunks
from klcal.sketches.weighted import weighted_sketch
from klcal.tables.rows import Row
from klcal.tables.status import nonfinite_counts
from klcal.tables.table import Config, Table

__all__ = ["Progress", "Request", "calibrate_files", "outcomes"]

PARALLEL_SECONDS = 0.2  # estimated work from which starting workers pays
BYTE_SECONDS = 0.6e-9  # to read and count a byte
TENSOR_SECONDS = 3e-3  # to search a tensor
UNIT_BYTE_SECONDS = 4e-9  # to read, count and search a byte where channels or groups have a scale each
SMALL_BYTES = 1 << 17  # of a tensor, up to which it is searched together with others
TOGETHER = 128  # small tensors in a task: what a call costs vanishes, and the last worker is not late

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


class Progress(Protocol):
    """Is told how far the work is."""

    def start(self, tensors: int, nbytes: int) -> None:
        """So many tensors, of so many bytes together, are about to be read."""

    def advance(self, nbytes: int) -> None:
        """So many further bytes were read."""

    def finish(self, name: str) -> None:
        """The tensor of this name is done."""


@dataclass(frozen=True)
class Request(Settings):
    """How every tensor is calibrated, and by what."""

    device: str = "cpu"  # auto, cpu, cuda, cuda:N or cuda:all: where tensors with a single scale are counted
    rules: Rules = ()  # what has a scale of its own; a tensor where none says otherwise
    importance: str | None = None  # a file of weights, by the names of tensors


class _Tensor(NamedTuple):
    """Some parts of a tensor, or all of them."""

    number: int
    dtype: str
    parts: tuple[Part, ...]
    layout: Layout | None = None  # of channels, groups or blocks, if there are any
    weighed: Weighed | None = None  # as a whole, if it has an importance

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def is_one_unit(self) -> bool:
        """Whether it has a single scale, and all its values count alike: what a device counts."""
        return self.layout is None and self.weighed is None


class _Task(NamedTuple):
    """What is counted together: a tensor, a part of one, or some small tensors."""

    tensors: tuple[_Tensor, ...]
    whole: bool

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


_Outcome = Sketch | Row | InputError


def calibrate_files(
    paths: Sequence[str],
    request: Request,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
    told: Callable[[Plan], None] | None = None,
) -> Table:
    """The table of all tensors in some files.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        request: how they are calibrated.
        include: globs, one of which a tensor's name has to match; none for all tensors.
        exclude: globs, none of which it may match.
        jobs: how many processes read and count. The result does not depend on it.
        progress: is told how far the work is.
        told: is told what works, and why, before it begins.

    Returns:
        A row for every tensor that was selected, and what went wrong. Nothing in a file makes this raise.

    Raises:
        UsageError: a tensor has not the axis whose channels or groups are asked for; the importance cannot be used;
            nothing was counted.
    """
    importance = None
    if request.importance is not None:
        check_importance(request.method)
        importance = read_importance(request.importance)
    found = find(paths)
    errors = list(found.errors)
    described = list(described_tensors(found.sources, errors))
    tensors = selected(described, include, exclude)
    counted = [each for each in tensors if each.description.status == "ok"]
    alone = len(counted) == 1
    weights = [importance.of(each, alone=alone) if importance else None for each in counted]
    rows = list(_rows(tensors, weights, request, jobs, progress, told))
    globs = unmatched(described, include, [glob for glob, _ in request.rules if glob != "*"])
    unweighed = importance.warnings(described, counted) if importance else ()
    warnings = sorted({*found.warnings, *globs, *unweighed, *_left_out(rows)})
    scheme = request.scheme
    per = ",".join(str(unit) if glob == "*" else f"{glob}={unit}" for glob, unit in request.rules) or "tensor"
    config = Config(str(request.method), scheme.dtype, scheme.kind, per, scheme.scale_format)
    return Table.of(config, rows, errors, warnings)


def _left_out(rows: Iterable[Row]) -> Iterator[str]:
    """A warning for each tensor of which only a part was calibrated."""
    for row in rows:
        refused = row.units is not None and row.units.status is not None and "nonfinite" in row.units.status
        if row.status in ("ok", "zero") and not refused and (left_out := nonfinite_counts(row)):
            yield f"{row.source}: {row.name}: {left_out} of {row.numel} values were left out"


def _rows(
    tensors: Sequence[Selected],
    weights: Sequence[Description | None],
    request: Request,
    jobs: int,
    progress: Progress | None,
    told: Callable[[Plan], None] | None,
) -> Iterator[Row]:
    """The rows of all tensors, of which those that can be counted may have an importance."""
    yield from (_uncounted(each) for each in tensors if each.description.status != "ok")
    counted: list[Selected] = []
    prepared: list[_Tensor] = []
    countable = (each for each in tensors if each.description.status == "ok")
    for each, importance in zip(countable, weights, strict=True):
        description = each.description
        per = per_of(names_of(description), request.rules)
        if description.order is None and (per != PerTensor() or importance):
            yield replace(_uncounted(each), status="unsupported", reason=str(UNORDERED if importance else REPEATED))
            continue
        weighed = Weighed(description, importance) if importance else None
        prepared.append(_Tensor(len(counted), description.dtype, description.parts, _layout(each, per), weighed))
        counted.append(each)
    tasks = list(_tasks(prepared))
    plan = _plan(request.device, tasks, jobs)
    if told is not None:
        told(plan)
    if plan.devices:  # which take no parts of a tensor, nor several together
        tasks = [_Task((tensor,), True) for tensor in prepared]
    with _worked_on(request, tasks, plan, jobs) as found:
        if progress is not None:  # after the workers were forked: a bar has a thread
            progress.start(len(counted), sum(task.nbytes for task in tasks))
        for number, outcome in _merged(zip(tasks, found, strict=True), progress):
            yield _row(counted[number], outcome, request)
            if progress is not None:
                progress.finish(counted[number].description.name)


def _layout(tensor: Selected, per: Per) -> Layout | None:
    """Of its channels or groups; None where it has one scale."""
    description = tensor.description
    if not prod(description.shape):
        return None
    try:
        return layout(per, description.shape, description.order or ())
    except UsageError as error:
        raise UsageError(f"{tensor.source}: {description.name}: {error.what}", error.hint) from None


def _tasks(tensors: Sequence[_Tensor]) -> Iterator[_Task]:
    """One task for a tensor of ordinary size, one per part for a large one with a single scale, one for some small."""
    small: list[_Tensor] = []
    for tensor in tensors:
        if not tensor.is_one_unit or SMALL_BYTES < tensor.nbytes <= PART_BYTES:
            yield _Task((tensor,), True)
        elif tensor.nbytes > PART_BYTES:
            yield from (_Task((tensor._replace(parts=(part,)),), False) for part in tensor.parts)
        elif any(part.repeats != 1 for part in tensor.parts):
            yield _Task((tensor,), True)
        else:
            small.append(tensor)
    yield from (_Task(tuple(small[i : i + TOGETHER]), True) for i in range(0, len(small), TOGETHER))


def _estimate(task: _Task) -> float:
    """Seconds of work."""
    if not task.tensors[0].is_one_unit:
        return UNIT_BYTE_SECONDS * task.nbytes
    return TENSOR_SECONDS * len(task.tensors) * task.whole + BYTE_SECONDS * task.nbytes


def _plan(device: str, tasks: Sequence[_Task], jobs: int) -> Plan:
    """What works on some tasks."""
    whole = [task for task in tasks if task.tensors[0].is_one_unit]
    seconds = sum(map(_estimate, tasks))
    processes, threads = _shared(len(tasks), seconds, jobs)
    searched = TENSOR_SECONDS * sum(len(task.tensors) for task in whole if task.whole)
    rest = (seconds - sum(map(_estimate, whole))) / jobs + searched
    nbytes = sum(task.nbytes for task in whole)
    devices, why = chosen_devices(device, nbytes, seconds / (processes * threads), rest)
    unfit = len(tasks) - len(whole) if devices else 0
    return Plan(devices, 1, jobs, why, unfit) if devices and whole else Plan((), processes, threads, why, unfit)


def _shared(tasks: int, seconds: float, jobs: int) -> tuple[int, int]:
    """How many processes work, and on how many threads each: several processes where an estimate says that it pays.

    Where there are fewer tasks than jobs, each has several threads.
    """
    processes = max(1, min(jobs, tasks)) if seconds > PARALLEL_SECONDS else 1
    return processes, max(1, jobs // processes)


@contextmanager
def outcomes(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], seconds: float, jobs: int
) -> Iterator[Iterator[Outcome]]:
    """What comes of each task, in their order."""
    processes, threads = _shared(len(tasks), seconds, jobs)
    by_threads = partial(limited, work, threads)
    if processes > 1:
        from klcal.pipeline.workers import workers

        with workers(by_threads, tasks, processes) as found:
            yield found
    else:
        yield map(by_threads, tasks)


@contextmanager
def _worked_on(request: Request, tasks: Sequence[_Task], plan: Plan, jobs: int) -> Iterator[Iterator[list[_Outcome]]]:
    """What comes of each task, in their order."""
    if not plan.devices:
        with outcomes(partial(_run, request), tasks, sum(map(_estimate, tasks)), jobs) as found:
            yield found
        return
    fed = [task.tensors[0] for task in tasks if task.tensors[0].is_one_unit]
    with feeding(plan.devices, _begun, fed) as begun:
        yield map(partial(limited, partial(_run_behind, request, begun), plan.threads), tasks)


def _begun(feed: Feed, tensor: _Tensor) -> Callable[[], Sketch] | InputError:
    return attempt(partial(feed.count, tensor.parts, tensor.dtype))


def _run_behind(request: Request, begun: Iterator[Callable[[], Sketch] | InputError], task: _Task) -> list[_Outcome]:
    """Calibrates the next that a device counts; what is left to the CPU is counted here, too."""
    if not task.tensors[0].is_one_unit:
        return _run(request, task)
    sketch = next(begun)
    return [sketch if isinstance(sketch, InputError) else attempt(lambda: calibrate_sketch(sketch(), request))]


def _run(request: Request, task: _Task) -> list[_Outcome]:
    """Counts each tensor of a task and, where all of it is there, calibrates."""
    if len(task.tensors) > 1:
        return _run_together(request, task.tensors)
    return [attempt(partial(_run_alone, request, tensor, task.whole)) for tensor in task.tensors]


def _run_alone(request: Request, tensor: _Tensor, whole: bool) -> Sketch | Row:
    found = _counted(request, tensor)
    return calibrate_sketch(found, request) if whole and isinstance(found, Sketch) else found


def _run_together(request: Request, tensors: Sequence[_Tensor]) -> list[_Outcome]:
    """Small tensors: those of one dtype are counted and searched together."""
    outcomes: dict[int, _Outcome] = {}
    read: dict[str, dict[int, npt.NDArray[Any]]] = {}
    for place, tensor in enumerate(tensors):
        values = attempt(partial(_values, tensor))
        if isinstance(values, InputError):
            outcomes[place] = values
        else:
            read.setdefault(tensor.dtype, {})[place] = values
    for dtype, arrays in read.items():
        outcomes.update(zip(arrays, _rows_of(request, dtype, [*arrays.values()]), strict=True))
    return [outcomes[place] for place in range(len(tensors))]


def _rows_of(request: Request, dtype: str, arrays: Sequence[npt.NDArray[Any]]) -> list[_Outcome]:
    """The rows of some tensors; one by one where that fails: none costs the others theirs."""
    rows = attempt(lambda: calibrate_tensors(sketch_each(arrays, dtype), request))
    if not isinstance(rows, InputError):
        return [*rows]
    return [rows] if len(arrays) == 1 else [row for each in arrays for row in _rows_of(request, dtype, [each])]


def _values(tensor: _Tensor) -> npt.NDArray[Any]:
    """All values of a small tensor, in storage form."""
    chunks = [chunk.copy() for chunk in stored_chunks(tensor.parts)]  # which are valid until the next is asked for
    return np.concatenate(chunks) if chunks else np.empty(0, FLOAT_DTYPES[tensor.dtype])


def _counted(request: Request, tensor: _Tensor) -> Sketch | Row:
    weights = None if tensor.weighed is None else tensor.weighed.weights(tensor.layout)
    if tensor.layout is not None:
        return calibrate_units(stored_chunks(tensor.parts), tensor.dtype, tensor.layout, request, weights)
    if weights is not None:
        return weighted_sketch(stored_chunks(tensor.parts), tensor.dtype, weights)
    return sketch_parts(tensor.parts, tensor.dtype)


def _merged(found: Iterable[tuple[_Task, list[_Outcome]]], progress: Progress | None) -> Iterator[tuple[int, _Outcome]]:
    """The number and the outcome of each tensor: of parts of one, the first error or the sum of their sketches."""
    for _, group in groupby(found, key=lambda pair: pair[0].tensors[0].number):
        merged: dict[int, _Outcome] = {}
        for task, outcome in group:
            if progress is not None:
                progress.advance(task.nbytes)
            for tensor, each in zip(task.tensors, outcome, strict=True):
                before = merged.get(tensor.number)
                if isinstance(before, Sketch) and isinstance(each, Sketch):
                    merged[tensor.number] = attempt(partial(add, before, each))
                elif before is None or isinstance(before, Sketch):
                    merged[tensor.number] = each
        yield from merged.items()


def _row(tensor: Selected, outcome: _Outcome, request: Request) -> Row:
    found = attempt(partial(calibrate_sketch, outcome, request)) if isinstance(outcome, Sketch) else outcome
    if isinstance(found, InputError):
        return replace(_uncounted(tensor), status="failed", reason=str(found), cause=cause_of(found))
    description = tensor.description
    asked = per_of(names_of(description), request.rules)
    one_axis = asked != PerTensor() and len(description.shape) < 2 and found.numel
    return replace(
        noted(found, ONE_AXIS) if one_axis else found,
        name=description.name,
        source=tensor.source,
        dtype=description.dtype,
        shape=description.shape,
        aliases=description.aliases,
    )


def _uncounted(tensor: Selected) -> Row:
    """The row of a tensor of which nothing is known but its description."""
    description = tensor.description
    known = bool(description.dtype)  # else nothing said what it is
    return Row(
        name=description.name,
        source=tensor.source,
        dtype=description.dtype or None,
        shape=description.shape if known else None,
        status=description.status,
        reason=description.reason,
        numel=prod(description.shape) if known else None,
        aliases=description.aliases,
    )
