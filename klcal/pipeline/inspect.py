"""The contents of files: from their headers alone, or with statistics of the values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from klcal.errors import UsageError
from klcal.pipeline.gathered import Asked, gathered
from klcal.pipeline.selection import Selected
from klcal.readers.safetensors_file import KINDS
from klcal.tables.contents import Content
from klcal.tables.table import Contents, Table, in_order

if TYPE_CHECKING:
    from klcal.pipeline.tasks import Progress

__all__ = ["inspect_files"]

BITS = {kind.name: kind.bits for kind in KINDS.values()}  # of a value, by its number format


def inspect_files(
    paths: Sequence[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stats: bool = False,
    depth: int | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Table:
    """A row for every tensor of some files.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.
        stats: whether the values are read and counted; else only headers are read.
        depth: tensors with this number of leading parts of their names in common share a row; numbers count as equal.
            None for a row for each.
        jobs: the number of processes.
        scheduler: a Dask cluster that counts the values instead: see ``klcal.pipeline.mapping.workers_at``.
        progress: told of the work that is done.

    Raises:
        UsageError: a scheduler is given, and no values are read; or the cluster cannot be used.
        OutputError: the scheduler of a cluster disappeared.
    """
    if scheduler is not None and not stats:
        raise UsageError(
            "headers alone are read here, not by a scheduler's workers", "leave --scheduler out, or add --stats"
        )
    found = gathered(paths, Asked(include, exclude))
    rows = list(map(_content, found.tensors))
    if stats:
        from klcal.pipeline.mapping import workers_at  # which headers alone do without
        from klcal.pipeline.statistics import counted

        with workers_at(scheduler, jobs, paths) as workers:
            rows = list(counted(zip(found.tensors, rows, strict=True), workers, progress))
    if depth is not None:
        rows = list(_grouped(rows, depth))
    return Table.of(Contents(stats, depth), rows, found.errors, sorted({*found.warnings}))


def _content(tensor: Selected) -> Content:
    """The contents of the header, as a row."""
    description = tensor.description
    known = bool(description.dtype) and description.shape_is_known
    numel = prod(description.shape) if known else None
    bits = BITS.get(description.dtype)
    return Content(
        name=description.name,
        source=tensor.source,
        dtype=description.dtype or None,
        shape=description.shape if known else None,
        status=description.status,
        reason=description.reason,
        numel=numel,
        nbytes=None if numel is None or bits is None else -(-numel * bits // 8),
        aliases=description.aliases,
    )


# --- several together


def _grouped(rows: Sequence[Content], depth: int) -> Iterator[Content]:
    """A row for those that have the first parts of their names in common, their number format and their status."""

    def key(row: Content) -> tuple[str, str, str, str, str]:
        return row.source, _prefix(row.name, depth), row.dtype or "", row.status, row.reason or ""

    for _, some in groupby(sorted(rows, key=lambda row: (key(row), in_order(row.name))), key=key):
        yield _together(list(some), depth)


def _prefix(name: str, depth: int) -> str:
    """The first parts of a name, numbers as stars.

    >>> _prefix("model.layers.11.mlp.weight", 3), _prefix("norm.weight", 3)
    ('model.layers.*.*', 'norm.weight')
    """
    parts = name.split(".")
    kept = ["*" if part.isdigit() else part for part in parts[:depth]]
    return ".".join([*kept, *(["*"] if len(parts) > depth else [])])


def _together(rows: Sequence[Content], depth: int) -> Content:
    first = rows[0]
    shapes = {row.shape for row in rows}
    return Content(
        name=_prefix(first.name, depth),
        source=first.source,
        dtype=first.dtype,
        shape=first.shape if len(shapes) == 1 else None,
        status=first.status,
        reason=first.reason,
        cause=first.cause,
        tensors=len(rows),
        numel=_sum(rows, "numel"),
        nbytes=_sum(rows, "nbytes"),
        min=min((row.min for row in rows if row.min is not None), default=None),
        max=max((row.max for row in rows if row.max is not None), default=None),
        zeros=_sum(rows, "zeros"),
        nan=_sum(rows, "nan"),
        neg_inf=_sum(rows, "neg_inf"),
        pos_inf=_sum(rows, "pos_inf"),
        outlier=max((row.outlier for row in rows if row.outlier is not None), default=None),
    )


def _sum(rows: Sequence[Content], name: str) -> int | None:
    known = [number for row in rows if (number := getattr(row, name)) is not None]
    return sum(known) if known else None
