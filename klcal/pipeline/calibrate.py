"""Calibrates files: reads and counts their tensors, and makes the table of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import NamedTuple

from klcal.calibration.rows import noted
from klcal.calibration.sketches import calibrate_sketch
from klcal.errors import InputError
from klcal.pipeline.batches import batches_note, error_of, less
from klcal.pipeline.devices import Plan
from klcal.pipeline.gathered import Asked, gathered
from klcal.pipeline.importance import Weighed, read_importance
from klcal.pipeline.mapping import Workers, workers_at
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.selection import Selected, attempt, cause_of, names_of, unmatched
from klcal.pipeline.tasks import Progress, Task, Tensor, plan_of, tasks_of
from klcal.pipeline.units import check_unit, named_errors, not_in_units, places_of
from klcal.pipeline.worked import Calibrated, worked_on
from klcal.quantizers.granularity import ONE_AXIS, Per, PerTensor
from klcal.quantizers.rules import Rules
from klcal.readers import Description
from klcal.search.methods import check_importance
from klcal.search.settings import Settings
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import counted_already
from klcal.tables.rows import Row
from klcal.tables.status import Status, nonfinite_counts
from klcal.tables.table import FileError, Table

__all__ = ["calibrate_files"]

BAD_BATCH: tuple[Status, ...] = ("failed", "nonfinite", "overflow")
"""The statuses of a batch that cannot be pooled: it is damaged, has NaN or infinities, or values beyond float32."""


def calibrate_files(
    paths: Sequence[str],
    request: Request,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
    pool: Pool | None = None,
    takes: Callable[[Description], bool] | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
    told: Callable[[Plan], None] | None = None,
) -> Table:
    """The table of all tensors in some files.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        request: the settings, by the names of tensors.
        include: patterns; only tensors whose names match one of them are calibrated. No patterns: all tensors.
        exclude: patterns; tensors whose names match one of them are not calibrated.
        dequantize: restore codes to their values if their scale is in the same file.
        pool: the rule by which tensors are batches of one tensor.
        takes: a further test for tensors; None for none.
        jobs: the number of processes that read and count. The result does not depend on it.
        scheduler: a Dask cluster that does it instead: see ``klcal.pipeline.mapping.workers_at``.
        progress: told of the work that is done.
        told: called with the plan (cores or devices, and the reason) before the work begins.

    Returns:
        A row for every selected tensor, the errors of files, and warnings. A bad file does not raise an exception.

    Raises:
        UsageError: a tensor does not have the axis of the channels or groups, or the importance or the cluster cannot
            be used. Nothing was counted then.
        OutputError: the scheduler of a cluster disappeared.
    """
    importance = None
    if request.importance is not None:
        importance = read_importance(request.importance)
    found = gathered(paths, Asked(include, exclude, dequantize, pool))
    tensors = [each for each in found.tensors if takes is None or takes(each.description)]
    counted = [each for each in tensors if each.description.status == "ok"]
    alone = len(counted) == 1
    weighs = {id(each): importance.of(each, alone=alone) for each in counted} if importance else {}
    wanted = [_Wanted(each, weighs.get(id(each))) for each in tensors]
    with workers_at(scheduler, jobs, paths) as workers:
        workers.see([*(each.path for each in counted), *filter(None, [request.importance])])
        found_rows = _rows(wanted, request, workers, progress, told)
        rows = list(_without_bad_batches(found_rows, request, workers, found.errors))
    globs = unmatched(found.named, (), request.globs())
    unweighed = importance.warnings(found.named, counted) if importance else ()
    warnings = sorted({*found.warnings, *globs, *unweighed, *_left_out(rows)})
    return Table.of(request.config, rows, found.errors, warnings)


class _Wanted(NamedTuple):
    """A tensor to calibrate, and its importance, if it has one."""

    tensor: Selected
    importance: Description | None = None


def _left_out(rows: Iterable[Row]) -> Iterator[str]:
    """A warning for each tensor of which only a part was calibrated: some of its batches failed."""
    for row in rows:
        refused = row.units is not None and row.units.status is not None and "nonfinite" in row.units.status
        if row.status in ("ok", "zero") and not refused and (left_out := nonfinite_counts(row)):
            yield f"{row.source}: {row.name}: {left_out} of {row.numel} values were left out"


def _without_bad_batches(
    found: Iterable[tuple[_Wanted, Row]], request: Request, workers: Workers, errors: list[FileError]
) -> Iterator[Row]:
    """The rows. Pooled tensors that failed are tried again without their bad batches, which are added to the errors."""
    spoiled: list[tuple[_Wanted, Row]] = []
    for wanted, row in found:
        if wanted.tensor.batches and row.failed and row.status != "unsupported":
            spoiled.append((wanted, row))
        else:
            yield row
    if not spoiled:
        return
    members = [_Wanted(each) for wanted, _ in spoiled for each in _members(wanted.tensor)]
    by_range = Request.parse(method="minmax", nonfinite=request.nonfinite, device=request.device)
    bad = {id(each.tensor): row for each, row in _rows(members, by_range, workers) if row.status in BAD_BATCH}
    mended = []
    for wanted, row in spoiled:
        good, lost = list[Selected](), list[tuple[Selected, Row]]()
        for each in _members(wanted.tensor):
            if id(each) in bad:
                lost.append((each, bad[id(each)]))
            else:
                good.append(each)
        errors += [error_of(each, alone.reason or alone.status, alone.cause or "data") for each, alone in lost]
        if good and lost:
            mended.append(wanted._replace(tensor=less(wanted.tensor, good)))
        else:
            yield row
    yield from (row for _, row in _rows(mended, request, workers))


def _members(tensor: Selected) -> tuple[Selected, ...]:
    return tensor.batches.members if tensor.batches else ()


def _rows(
    wanted: Iterable[_Wanted],
    request: Request,
    workers: Workers,
    progress: Progress | None = None,
    told: Callable[[Plan], None] | None = None,
) -> Iterator[tuple[_Wanted, Row]]:
    """The rows of all tensors."""
    counted: list[_Wanted] = []
    prepared: list[Tensor] = []
    for each in wanted:
        refused = _refused(each, request)
        if refused is not None:
            yield each, refused
            continue
        description = each.tensor.description
        weighed = Weighed(description, each.importance) if each.importance else None
        with named_errors(each.tensor):
            per = request.per.of(names_of(description))
            settings = request.settings(names_of(description))
            is_sketch = counted_already(description.parts) is not None
            places = () if is_sketch else places_of(each.tensor, per)
            if weighed:
                check_importance(settings.method)
            if settings.unit is not None and not is_sketch:
                check_unit(settings.unit, places)
        asked = (per, description.shape) if is_sketch else None
        prepared.append(Tensor(len(counted), description.dtype, description.parts, settings, places, weighed, asked))
        counted.append(each)
    tasks = list(tasks_of(prepared))
    plan = plan_of(request.device, tasks, workers)
    if told is not None:
        told(plan)
    if plan.devices:  # a device takes whole tensors, one by one
        tasks = [Task((tensor,), True) for tensor in prepared]
    watch = None if progress is None else progress.watch()
    read = None if progress is None else lambda task: progress.advance(task.nbytes)
    with worked_on(tasks, plan, workers, watch, read) as found:
        if progress is not None:  # only after the workers were forked, because a progress bar has a thread
            progress.start(len(counted), sum(task.nbytes for task in tasks))
        for number, outcome in found:
            tensor = counted[number].tensor
            row = _row(tensor, outcome, prepared[number].settings, request.per)
            yield counted[number], replace(row, shape=None) if len(prepared[number].places) > 1 else row
            if progress is not None:
                progress.finish(tensor.description.name)


def _refused(wanted: _Wanted, request: Request) -> Row | None:
    """The row of a tensor that cannot be counted, or not with the requested units or importance; None for others."""
    tensor, importance = wanted
    if tensor.description.status != "ok":
        return _uncounted(tensor)
    per = request.per.of(names_of(tensor.description))
    reason = not_in_units(tensor, per, weighed=importance is not None)
    if importance and counted_already(tensor.description.parts):
        reason = "a sketch has no columns to weigh; sketch the values with their importance"
    return None if reason is None else replace(_uncounted(tensor), status="unsupported", reason=reason)


def _row(tensor: Selected, outcome: Calibrated, settings: Settings, per: Rules[Per]) -> Row:
    found = attempt(partial(calibrate_sketch, outcome, settings)) if isinstance(outcome, Sketch) else outcome
    if isinstance(found, InputError):
        return replace(_uncounted(tensor), status="failed", reason=str(found), cause=cause_of(found))
    description = tensor.description
    one_axis = (
        per.of(names_of(description)) != PerTensor()
        and len(description.shape) < 2
        and found.units is None
        and found.numel
    )
    found = noted(found, ONE_AXIS) if one_axis else found
    return replace(
        noted(found, batches_note(tensor.batches)) if tensor.batches else found,
        name=description.name,
        source=tensor.source,
        dtype=description.dtype,
        shape=description.shape if description.shape_is_known else None,
        aliases=description.aliases,
    )


def _uncounted(tensor: Selected) -> Row:
    """The row of a tensor whose values were not read: it has only the facts of its description."""
    description = tensor.description
    known = bool(description.dtype) and description.shape_is_known  # a damaged file may not say what it has
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
