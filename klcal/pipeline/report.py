"""Files, or a table of scales → a report: every tensor calibrated, and those that lose most explained."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from klcal.errors import UsageError
from klcal.pipeline.calibrate import calibrate_files
from klcal.pipeline.inspect import BITS
from klcal.pipeline.pooling import Pool
from klcal.pipeline.request import Request
from klcal.pipeline.scales import read_any, rows_of
from klcal.pipeline.selection import names_of
from klcal.pipeline.tasks import Progress
from klcal.readers import Description
from klcal.readers.table_file import is_binary_table
from klcal.tables.changes import Change
from klcal.tables.diff import diff
from klcal.tables.report import Report, Sizes, Summary
from klcal.tables.rows import Row
from klcal.tables.table import Config, Table

__all__ = ["calibrated_and_explained", "is_table", "report_of"]

STDIN = "-"
INDEX = ".index.json"
STEPS = (1, 2, 5, 10, 20, 50)  # of bins of SQNR, in dB
MOST_BINS = 24
SCALE_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "e8m0": 8, "float8_e4m3fn": 8}


def is_table(path: str) -> bool:
    """Whether a file is a table of scales, by its name, or by the metadata of a .safetensors file."""
    lower = path.lower()
    if lower.endswith(".safetensors"):
        return is_binary_table(path)
    return lower.endswith(".json") and not lower.endswith(INDEX)


def calibrated_and_explained(
    paths: Sequence[str],
    request: Request,
    *,
    most: int,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
    pool: Pool | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Table:
    """The table of all tensors in files, each with a histogram; those that lose most are explained.

    The worst tensors are known only when all are calibrated, so they are read twice. Tensors that cannot be read again,
    such as standard input, are explained at once, and so are pooled tensors.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        request: how they are calibrated.
        most: the number of tensors to explain.
        include: globs: only tensors whose name matches one of them are used; empty for all tensors.
        exclude: globs: tensors whose name matches one of them are left out.
        dequantize: whether codes with a scale in the same file are restored to their values.
        pool: which of these tensors count as batches of one tensor.
        jobs: the number of processes that read and count.
        progress: is told how far the work is.
    """
    several = partial(calibrate_files, paths, include=include, exclude=exclude, dequantize=dequantize, jobs=jobs)
    if STDIN in paths or pool is not None:
        return several(replace(request, detail="plots" if most else "histogram"), pool=pool, progress=progress)
    table = several(replace(request, detail="histogram"), progress=progress)
    losing = [row for row in _worst_first(rows_of(table)) if row.status == "ok" and row.units is None][:most]
    wanted = {(row.source, row.name): row for row in losing}
    if not wanted:
        return table
    names = {row.name for row in losing}

    def is_wanted(description: Description) -> bool:
        return not names.isdisjoint(names_of(description))

    again = several(replace(request, detail="plots"), takes=is_wanted)
    found = {(row.source, row.name): row for row in rows_of(again)}
    rows = [found.get((row.source, row.name), row) for row in rows_of(table)]
    return replace(table, rows=tuple(rows))


def report_of(table: Table, name: str, baseline: str | None = None) -> Report:
    """The report of a table of scales.

    Args:
        table: of scales.
        name: the name of the table, to be shown beside that of the baseline.
        baseline: the path of a table that it is compared with.

    Raises:
        UsageError: the baseline is not a table of scales.
    """
    if not isinstance(table.config, Config):
        raise UsageError("the table has no scales", "hand in one of klcal calibrate")
    rows = _worst_first(rows_of(table))
    ordered = replace(table, rows=tuple(rows))
    if baseline is None:
        return Report(ordered, _summary(rows))
    changes = [row for row in diff(read_any(baseline), table, baseline, name).rows if isinstance(row, Change)]
    known = {(each.now.source, each.now.name): each for each in changes if each.now is not None}
    missing = tuple(each for each in changes if each.now is None)
    return Report(ordered, _summary(rows), baseline=baseline, changes=known, missing=missing)


def _worst_first(rows: Iterable[Row]) -> list[Row]:
    """The rows: failures, then by rising SQNR, then those without an error or without a scale. The sort is stable."""
    return sorted(rows, key=lambda row: (not row.failed, math.inf if row.sqnr_db is None else row.sqnr_db))


def _summary(rows: Sequence[Row]) -> Summary:
    known = [row.sqnr_db for row in rows if row.sqnr_db is not None]
    first, step, bins = _bins(known)
    return Summary(
        statuses=dict(sorted(Counter(row.status for row in rows).items())),
        worst=next((row for row in rows if row.sqnr_db is not None), None),
        median_db=median(known) if known else None,
        sizes=_sizes(rows),
        sqnr_first=first,
        sqnr_step=step,
        sqnr_bins=bins,
    )


def _bins(values: Sequence[float]) -> tuple[int, int, tuple[int, ...]]:
    """Bins of equal width: the beginning of the first, their width, and the number of values in each.

    >>> _bins([40.5, 41.5, 45.0])
    (40, 1, (1, 1, 0, 0, 0, 1))
    """
    if not values:
        return 0, STEPS[0], ()
    low, high = min(values), max(values)
    step = next((step for step in STEPS if high // step - low // step < MOST_BINS), math.ceil((high - low) / MOST_BINS))
    first, last = (math.floor(end / step) for end in (low, high))
    counts = Counter(math.floor(value / step) for value in values)
    return first * step, step, tuple(counts[place] for place in range(first, last + 1))


def _sizes(rows: Iterable[Row]) -> Sizes:
    """The sizes of tensors that have a scale, and whose number format has a known size."""
    values = before = after = 0
    for row in rows:
        bits = BITS.get(row.dtype or "")
        if row.status != "ok" or bits is None or row.numel is None or row.target is None:
            continue
        code = bits_of(row.target)
        own = SCALE_BITS.get(row.scale_format or "float32", 32) + (code if row.scheme == "affine" else 0)
        values += row.numel
        before += bits * row.numel
        after += code * row.numel + own * (1 if row.units is None else len(row.units))
    return Sizes(values, before, after)


def bits_of(target: str) -> int:
    """The number of bits of a code of a number format.

    >>> bits_of("uint8"), bits_of("float8_e4m3fn"), bits_of("nf4")
    (8, 8, 4)
    """
    match = re.search("[0-9]+", target)
    return int(match[0]) if match else 32
