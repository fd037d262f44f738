"""Files to a table: the only module that sees both ends.

A tensor is cut into tasks of bounded size, each task is counted on its own, and the sketches are added. So
memory is bounded by a chunk, and which worker did what cannot change the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import prod
from operator import add
from typing import NamedTuple, Protocol, TypeVar

from klcal.calibration import REPEATED, calibrate_sketch
from klcal.errors import InputError, UsageError
from klcal.pipeline.selection import Selected, attempt, cause_of, described_tensors, names_of, selected, unmatched
from klcal.quantizers.granularity import ONE_AXIS, Layout, Per, PerTensor, layout
from klcal.quantizers.rules import Rules, per_of
from klcal.readers import Description, Part, find
from klcal.readers.description import PART_BYTES
from klcal.row_calibration import calibrate_rows
from klcal.search.settings import Settings
from klcal.sketches.sketch import Sketch, sketch_parts, stored_chunks
from klcal.tables.rows import Row
from klcal.tables.status import nonfinite_counts
from klcal.tables.table import Config, Table

__all__ = ["Progress", "Request", "calibrate_files", "outcomes"]

PARALLEL_SECONDS = 0.2  # estimated work from which starting workers pays
BYTE_SECONDS = 0.6e-9  # to read and count a byte
TENSOR_SECONDS = 3e-3  # to search a tensor
UNIT_BYTE_SECONDS = 2e-8  # to read, count and search a byte where channels or groups have a scale each
TASKS_AT_ONCE = 4  # small tensors that travel to a worker together; more would make the last worker late
BATCHED = 64  # tasks per worker from which they travel so

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

    device: str = "cpu"
    rules: Rules = ()  # what has a scale of its own; a tensor where none says otherwise


class _Task(NamedTuple):
    """Some parts of a tensor, or all of them."""

    tensor: int
    dtype: str
    parts: tuple[Part, ...]
    whole: bool
    layout: Layout | None = None  # of channels or groups, if there are any

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


_Outcome = Sketch | Row | InputError


def calibrate_files(
    paths: Sequence[str],
    request: Request,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> Table:
    """The table of all tensors in some files.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        request: how they are calibrated.
        include: globs, one of which a tensor's name has to match; none for all tensors.
        exclude: globs, none of which it may match.
        jobs: how many processes read and count. The result does not depend on it.
        progress: is told how far the work is.

    Returns:
        A row for every tensor that was selected, and what went wrong. Nothing in a file makes this raise.

    Raises:
        UsageError: a tensor has not the axis whose channels or groups are asked for; nothing was counted.
    """
    found = find(paths)
    errors = list(found.errors)
    described = list(described_tensors(found.sources, errors))
    tensors = selected(described, include, exclude)
    rows = list(_rows(tensors, request, jobs, progress))
    globs = unmatched(described, include, [glob for glob, _ in request.rules if glob != "*"])
    warnings = sorted({*found.warnings, *globs, *_left_out(rows)})
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


def _rows(tensors: Sequence[Selected], request: Request, jobs: int, progress: Progress | None) -> Iterator[Row]:
    yield from (_uncounted(each) for each in tensors if each.description.status != "ok")
    counted, layouts = [], []
    for each in (each for each in tensors if each.description.status == "ok"):
        per = per_of(names_of(each.description), request.rules)
        if each.description.order is None and per != PerTensor():
            yield replace(_uncounted(each), status="unsupported", reason=str(REPEATED))
        else:
            counted.append(each)
            layouts.append(_layout(each, per))
    tasks = [task for number, each in enumerate(counted) for task in _tasks(number, each.description, layouts[number])]
    seconds = sum(map(_estimate, tasks))
    with outcomes(partial(_run, request), tasks, seconds, jobs if request.device == "cpu" else 1) as found:
        if progress is not None:  # after the workers were forked: a bar has a thread
            progress.start(len(counted), sum(task.nbytes for task in tasks))
        for number, group in groupby(zip(tasks, found, strict=True), key=lambda pair: pair[0].tensor):
            yield _row(counted[number], _merged(group, progress), request)
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


def _tasks(tensor: int, description: Description, rows: Layout | None) -> Iterator[_Task]:
    """One task for a tensor of ordinary size, one per part for a large one that has a single scale."""
    whole = _Task(tensor, description.dtype, description.parts, True, rows)
    if whole.nbytes <= PART_BYTES or rows is not None:
        yield whole
    else:
        yield from (whole._replace(parts=(part,), whole=False) for part in description.parts)


def _estimate(task: _Task) -> float:
    """Seconds of work."""
    if task.layout is not None:
        return UNIT_BYTE_SECONDS * task.nbytes
    return TENSOR_SECONDS * task.whole + BYTE_SECONDS * task.nbytes


@contextmanager
def outcomes(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], seconds: float, jobs: int
) -> Iterator[Iterator[Outcome]]:
    """What comes of each task, in their order: by several processes, where an estimate says that it pays."""
    jobs = min(jobs, len(tasks))
    if jobs > 1 and seconds > PARALLEL_SECONDS:
        from klcal.pipeline.workers import workers

        with workers(work, tasks, jobs, at_once=TASKS_AT_ONCE if len(tasks) > BATCHED * jobs else 1) as found:
            yield found
    else:
        yield map(work, tasks)


def _run(request: Request, task: _Task) -> _Outcome:
    """Counts the parts of a task and, where they are all, calibrates."""
    return attempt(partial(_counted, request, task))


def _counted(request: Request, task: _Task) -> Sketch | Row:
    if task.layout is not None:
        return calibrate_rows(stored_chunks(task.parts), task.dtype, task.layout, request)
    found = sketch_parts(task.parts, task.dtype, request.device)
    return calibrate_sketch(found, request) if task.whole else found


def _merged(group: Iterable[tuple[_Task, _Outcome]], progress: Progress | None) -> _Outcome:
    """The outcome of a tensor from those of its tasks: the first error, or the sum of the sketches."""
    merged: _Outcome = Sketch()
    for task, outcome in group:
        if progress is not None:
            progress.advance(task.nbytes)
        if isinstance(merged, Sketch):
            merged = attempt(partial(add, merged, outcome)) if isinstance(outcome, Sketch) else outcome
    return merged


def _row(tensor: Selected, outcome: _Outcome, request: Request) -> Row:
    found = attempt(partial(calibrate_sketch, outcome, request)) if isinstance(outcome, Sketch) else outcome
    if isinstance(found, InputError):
        return replace(_uncounted(tensor), status="failed", reason=str(found), cause=cause_of(found))
    description = tensor.description
    asked = per_of(names_of(description), request.rules)
    one_axis = asked != PerTensor() and len(description.shape) < 2 and found.numel
    return replace(
        found,
        note=ONE_AXIS if one_axis else found.note,
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
