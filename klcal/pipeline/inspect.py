"""What is in files: from their headers alone, or with what their values are like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from klcal.errors import InputError
from klcal.pipeline.gathered import Asked, gathered
from klcal.pipeline.selection import Selected, attempt, cause_of
from klcal.pipeline.tasks import BYTE_SECONDS, Progress, outcomes
from klcal.readers.safetensors_file import KINDS
from klcal.sketches.patterns import SIGN
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch_parts
from klcal.tables.contents import Content
from klcal.tables.table import Contents, Table, in_order

__all__ = ["inspect_files"]

BITS = {kind.name: kind.bits for kind in KINDS.values()}  # of a value, by its number format
USUAL = 0.999  # of the nonzero values: what is beyond them is an outlier
BINS = 16  # of a histogram: as many as fit beside the other columns


def inspect_files(
    paths: Sequence[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    stats: bool = False,
    depth: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Table:
    """A row for every tensor of some files.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        include: globs, one of which a tensor's name has to match.
        exclude: globs, none of which it may match.
        stats: whether the values are read and counted; else headers are all that is read.
        depth: a row for what has so many first parts of its name in common, numbers taken as equal; None for each one.
        jobs: how many processes count.
        progress: is told how far the work is.
    """
    found = gathered(paths, Asked(include, exclude))
    rows = list(_counted(found.tensors, jobs, progress) if stats else map(_content, found.tensors))
    if depth is not None:
        rows = list(_grouped(rows, depth))
    return Table.of(Contents(stats, depth), rows, found.errors, sorted({*found.warnings}))


def _content(tensor: Selected) -> Content:
    """What the header says."""
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


def _counted(wanted: Sequence[Selected], jobs: int, progress: Progress | None) -> Iterator[Content]:
    """The same, with what the values are like."""
    yield from (_content(each) for each in wanted if each.description.status != "ok")
    usable = [each for each in wanted if each.description.status == "ok"]
    sizes = [sum(part.nbytes for part in each.description.parts) for each in usable]
    with outcomes(_stats, usable, BYTE_SECONDS * sum(sizes), jobs) as found:
        if progress is not None:
            progress.start(len(usable), sum(sizes))
        for each, size, stats in zip(usable, sizes, found, strict=True):
            row = _content(each)
            if isinstance(stats, InputError):
                yield replace(row, status="failed", reason=str(stats), cause=cause_of(stats))
            else:
                yield replace(row, **stats)
            if progress is not None:
                progress.advance(size)
                progress.finish(row.name)


def _stats(tensor: Selected) -> dict[str, Any] | InputError:
    description = tensor.description
    return attempt(lambda: _of_sketch(sketch_parts(description.parts, description.dtype)))


def _of_sketch(found: Sketch) -> dict[str, Any]:
    """What the values of a tensor are like, whatever units they were counted in."""
    counts = {name: int(getattr(found, name).sum()) for name in ("zeros", "nan", "neg_inf", "pos_inf")}
    stats: dict[str, Any] = {**counts, "numel": int(found.numel.sum())}
    if not found.finite.any():
        return stats
    low, high = float(found.min.min()), float(found.max.max())
    values = np.clip(found.keys.view(np.float32).astype(np.float64), low, high)  # a bucket may begin below its values
    numbers = np.append(found.counts.astype(np.int64), counts["zeros"])
    bins, _ = np.histogram(np.append(values, 0.0), BINS, (low, high), weights=numbers)
    stats |= {"min": low, "max": high, "histogram": tuple(bins.astype(np.int64).tolist())}
    if not found.nonzero.any():
        return stats
    magnitudes = (found.keys & ~SIGN).view(np.float32)
    order = np.argsort(magnitudes, kind="stable")
    below = np.cumsum(found.counts[order], dtype=np.int64)
    usual = float(magnitudes[order[int(np.searchsorted(below, USUAL * below[-1]))]])
    return stats | {"outlier": max(abs(low), abs(high)) / usual}


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
