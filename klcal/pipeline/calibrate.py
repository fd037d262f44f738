"""Files to a table: the only module that sees both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod

from klcal.calibration import calibrate_sketch, noted
from klcal.errors import InputError, UsageError
from klcal.pipeline.devices import Plan
from klcal.pipeline.importance import Weighed, read_importance
from klcal.pipeline.request import Request
from klcal.pipeline.selection import (
    Selected,
    attempt,
    cause_of,
    described_tensors,
    file_warnings,
    names_of,
    selected,
    unmatched,
)
from klcal.pipeline.tasks import Calibrated, Progress, Task, Tensor, merged, plan_of, tasks_of, worked_on
from klcal.quantizers.granularity import ONE_AXIS, Per, PerTensor
from klcal.quantizers.layout import Layout, layout
from klcal.quantizers.rules import Rules
from klcal.readers import Description, find
from klcal.search.methods import check_importance
from klcal.search.settings import Settings
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import REPEATED, UNORDERED, counted_already
from klcal.tables.rows import Row
from klcal.tables.status import nonfinite_counts
from klcal.tables.table import Table

__all__ = ["calibrate_files"]


def calibrate_files(
    paths: Sequence[str],
    request: Request,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
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
        dequantize: whether codes that have a scale beside them are calibrated as what they stand for.
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
        importance = read_importance(request.importance)
    found = find(paths)
    errors = list(found.errors)
    described = list(described_tensors(found.sources, errors, dequantize=dequantize))
    tensors = selected(described, include, exclude)
    counted = [each for each in tensors if each.description.status == "ok"]
    alone = len(counted) == 1
    weights = [importance.of(each, alone=alone) if importance else None for each in counted]
    rows = list(_rows(tensors, weights, request, jobs, progress, told))
    globs = unmatched(described, include, request.globs())
    unweighed = importance.warnings(described, counted) if importance else ()
    warnings = sorted({*found.warnings, *file_warnings(described), *globs, *unweighed, *_left_out(rows)})
    return Table.of(request.config, rows, errors, warnings)


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
    prepared: list[Tensor] = []
    countable = (each for each in tensors if each.description.status == "ok")
    for each, importance in zip(countable, weights, strict=True):
        description = each.description
        per = request.per.of(names_of(description))
        if description.order is None and (per != PerTensor() or importance):
            yield replace(_uncounted(each), status="unsupported", reason=str(UNORDERED if importance else REPEATED))
            continue
        is_sketch = counted_already(description.parts) is not None
        if is_sketch and importance:
            why = "a sketch has no columns to weigh; sketch the values with their importance"
            yield replace(_uncounted(each), status="unsupported", reason=why)
            continue
        weighed = Weighed(description, importance) if importance else None
        with _named(each):
            settings = request.settings(names_of(description))
            place = None if is_sketch else _layout(description, per)
            if weighed:
                check_importance(settings.method)
        asked = (per, description.shape) if is_sketch else None
        prepared.append(Tensor(len(counted), description.dtype, description.parts, settings, place, weighed, asked))
        counted.append(each)
    tasks = list(tasks_of(prepared))
    plan = plan_of(request.device, tasks, jobs)
    if told is not None:
        told(plan)
    if plan.devices:  # which take no parts of a tensor, nor several together
        tasks = [Task((tensor,), True) for tensor in prepared]
    with worked_on(tasks, plan, jobs) as found:
        if progress is not None:  # after the workers were forked: a bar has a thread
            progress.start(len(counted), sum(task.nbytes for task in tasks))
        for number, outcome in merged(zip(tasks, found, strict=True), progress):
            yield _row(counted[number], outcome, prepared[number].settings, request.per)
            if progress is not None:
                progress.finish(counted[number].description.name)


def _layout(description: Description, per: Per) -> Layout | None:
    """Of its channels or groups; None where it has one scale."""
    return layout(per, description.shape, description.order or ()) if prod(description.shape) else None


@contextmanager
def _named(tensor: Selected) -> Iterator[None]:
    """What cannot be asked for of a tensor is told with its name."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{tensor.source}: {tensor.description.name}: {error.what}", error.hint) from None


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
    return replace(
        noted(found, ONE_AXIS) if one_axis else found,
        name=description.name,
        source=tensor.source,
        dtype=description.dtype,
        shape=description.shape if description.shape_is_known else None,
        aliases=description.aliases,
    )


def _uncounted(tensor: Selected) -> Row:
    """The row of a tensor of which nothing is known but its description."""
    description = tensor.description
    known = bool(description.dtype) and description.shape_is_known  # else nothing said what it is
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
