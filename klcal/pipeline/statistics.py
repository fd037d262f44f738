"""Statistics of the values of tensors, for `klcal inspect --stats`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from klcal.errors import InputError
from klcal.pipeline.mapping import Workers, outcomes
from klcal.pipeline.selection import Selected, attempt, cause_of
from klcal.pipeline.tasks import BYTE_SECONDS, Progress
from klcal.sketches.histogram import binned
from klcal.sketches.patterns import SIGN
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import sketch_parts
from klcal.tables.contents import Content

__all__ = ["counted"]

USUAL = 0.999  # share of the nonzero values, by magnitude, that are not outliers
BINS = 16  # of a histogram: they fit beside the other columns


def counted(
    described: Iterable[tuple[Selected, Content]], workers: Workers, progress: Progress | None
) -> Iterator[Content]:
    """The rows of tensors, with statistics of their values; rows without values stay as they are."""
    usable = []
    for each, row in described:
        if each.description.status == "ok":
            usable.append((each, row))
        else:
            yield row
    workers.see(each.path for each, _ in usable)
    sizes = [sum(part.nbytes for part in each.description.parts) for each, _ in usable]
    with outcomes(workers, _stats, [each for each, _ in usable], BYTE_SECONDS * sum(sizes)) as found:
        if progress is not None:
            progress.start(len(usable), sum(sizes))
        for (_, row), size, stats in zip(usable, sizes, found, strict=True):
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
    """The statistics of the values of a tensor, which may have been counted in units."""
    counts = {name: int(getattr(found, name).sum()) for name in ("zeros", "nan", "neg_inf", "pos_inf")}
    stats: dict[str, Any] = {**counts, "numel": int(found.numel.sum())}
    if not found.finite.any():
        return stats
    low, high = float(found.min.min()), float(found.max.max())
    stats |= {"min": low, "max": high, "histogram": tuple(binned(found, BINS).tolist())}
    if not found.nonzero.any():
        return stats
    magnitudes = (found.keys & ~SIGN).view(np.float32)
    order = np.argsort(magnitudes, kind="stable")
    below = np.cumsum(found.counts[order], dtype=np.int64)
    usual = float(magnitudes[order[int(np.searchsorted(below, USUAL * below[-1]))]])
    return stats | {"outlier": max(abs(low), abs(high)) / usual}
