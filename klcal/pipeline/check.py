"""Files and a committed table → what changed since the table was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from klcal.errors import UsageError
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.devices import Plan
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.scales import rows_of
from klcal.pipeline.selection import is_wanted
from klcal.pipeline.tasks import Progress
from klcal.tables.changes import Change
from klcal.tables.diff import diff
from klcal.tables.table import Config, Table

__all__ = ["Checked", "asked_again", "check_files"]


class Checked(NamedTuple):
    """The new table, and its changes since the baseline."""

    table: Table
    changes: Table
    lost: int  # tensors that the baseline has an answer for and that failed, and files that could not be read
    renewed: Table  # the next baseline: the new table, and the rows that were not looked at
    unread: tuple[str, ...]  # files that the baseline has tensors of, and that were not among those looked at


def asked_again(baseline: Table, given: Mapping[str, Any], *, any_config: bool = False) -> Request:
    """The request that a table was calibrated by, with other settings in place of it or beside it.

    Args:
        baseline: the table, whose config has the settings.
        given: arguments of ``Request.parse``.
        any_config: whether the settings may differ from the baseline.

    Raises:
        UsageError: the settings differ from the baseline, or cannot be compared.

    >>> config = Config("mse", "*embed*=int8; int4", "auto", "*.weight=channel; tensor")
    >>> asked_again(Table(config), {}).config == config
    True
    """
    known = {field.name: getattr(baseline.config, field.name).split("; ") for field in fields(Config)}
    try:
        Request.parse(**known)
    except UsageError as error:
        what = f"how the baseline was made cannot be read from it: {error.what}"
        raise UsageError(what, "make another one with klcal calibrate") from None
    request = Request.parse(**{**known, **given})
    asked, was = request.config, baseline.config
    other = [name for name in known if getattr(asked, name) != getattr(was, name)]
    if other and not any_config:
        name = other[0]
        what = f"--{name.replace('_', '-')} is {getattr(asked, name)}, and {getattr(was, name)} in the baseline"
        raise UsageError(what, "leave it out, or make another baseline with --update")
    weighed = any(row.importance for row in rows_of(baseline))
    if weighed != (request.importance is not None) and not any_config:
        hint = "give --importance as it was given for it" if weighed else "leave --importance out"
        raise UsageError(f"the baseline was chosen {'with' if weighed else 'without'} importance", hint)
    return request


def check_files(
    paths: Sequence[str],
    baseline: Table,
    request: Request,
    *,
    called: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
    pool: Pool | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
    told: Callable[[Plan], None] | None = None,
) -> Checked:
    """The changes of the tensors in files since a baseline: ``calibrate_files``, then ``diff``.

    Rows of the baseline that the globs leave out are not looked at. With a pool all are, since globs select batches.

    Args:
        paths: files, directories or patterns.
        baseline: the table that was committed.
        request: the settings.
        called: the name of the baseline, for messages.
        include: this and the following arguments are those of ``calibrate_files``.
        exclude: patterns of names.
        dequantize: restore codes to their values.
        pool: the rule for batches.
        jobs: the number of processes.
        scheduler: of a Dask cluster that calibrates instead.
        progress: told of the work that is done.
        told: called with the plan before the work begins.

    Raises:
        UsageError: as ``calibrate_files``, or the settings of single tensors differ from the baseline.
    """
    looked, others = _looked_at(baseline, include, exclude, whole=pool is not None)
    if others.rows and request.config != baseline.config:
        what = "the baseline has tensors that are left out, and these would be configured otherwise"
        raise UsageError(what, "leave out --include and --exclude, or what configures")
    table = calibrate_files(
        paths,
        request,
        include=include,
        exclude=exclude,
        dequantize=dequantize,
        pool=pool,
        jobs=jobs,
        scheduler=scheduler,
        progress=progress,
        told=told,
    )
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    changes = diff(looked, table, called, f"{paths[0]}{more}")
    files = {error.source for error in table.errors} - {error.source for error in baseline.errors}
    lost = sum(isinstance(row, Change) and _is_lost(row) for row in changes.rows)
    rows = (*rows_of(table), *rows_of(others))
    renewed = Table.of(table.config, rows, table.errors, table.warnings) if others.rows else table
    missing = {row.source for row in changes.rows if isinstance(row, Change) and row.now is None}
    return Checked(table, changes, lost + len(files), renewed, tuple(sorted(missing - {row.source for row in rows})))


def _looked_at(table: Table, include: Sequence[str], exclude: Sequence[str], *, whole: bool) -> tuple[Table, Table]:
    """The rows of a table that some globs choose, and the others."""
    rows = rows_of(table)
    chosen = [whole or any(is_wanted(name, include, exclude) for name in (row.name, *row.aliases)) for row in rows]
    parts = (tuple(row for row, is_in in zip(rows, chosen, strict=True) if is_in == side) for side in (True, False))
    looked, others = (replace(table, rows=part) for part in parts)
    return looked, others


def _is_lost(change: Change) -> bool:
    return change.now is not None and change.now.failed and not (change.was is not None and change.was.failed)
