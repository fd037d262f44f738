"""Compares the tensors of two files or directories, or those of one with their copy quantized by a table of scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from klcal.divergence.arrays import nats_per_unit
from klcal.divergence.elementwise import Elementwise, side_by_side
from klcal.divergence.probabilities import DIVERGENCES, entropy
from klcal.divergence.samples import MASS_BINS, common_bins, sketch_bins
from klcal.errors import InputError, UsageError
from klcal.pipeline.batches import where
from klcal.pipeline.gathered import Asked, Gathered, gathered
from klcal.pipeline.mapping import Workers, outcomes, workers_at
from klcal.pipeline.pairs import Pair, matched, prefix_hint, without, without_prefix
from klcal.pipeline.pooling import Pool
from klcal.pipeline.quantized_copy import Quantizers, cell_divergence, quantized_copy, read_quantizers
from klcal.pipeline.selection import Selected, attempt, cause_of, names_of
from klcal.pipeline.tasks import BYTE_SECONDS, TENSOR_SECONDS, Progress
from klcal.quantizers.granularity import PerTensor
from klcal.readers import Description
from klcal.sketches.named import alike
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import check_units, counted_already, sketch_parts
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.schema import BASES, DIFFERENCE_FIELDS, check_field
from klcal.tables.status import nonfinite_counts
from klcal.tables.table import Comparison, Table

__all__ = ["compare_files"]

NOT_COMPARABLE = "it is skipped"


@dataclass(frozen=True)
class _Request:
    base: float
    bins: int


def compare_files(
    p: str,
    q: str | None,
    *,
    table: str | Table | None = None,
    base: str = "e",
    bins: int | None = None,
    sort: str = "js",
    strip_prefix: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
    pool: Pool | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Table:
    """The differences of all tensors of two files or directories, the worst first.

    Args:
        p: a file, a directory, or the index of a sharded checkpoint: the reference.
        q: the approximation; None for P itself, quantized by a table.
        table: a table of scales, or the path of one, as JSON or binary.
        base: of the logarithms: "e" (nats), "2" (bits) or "10" (bans).
        bins: the largest number of common bins; by default ``klcal.divergence.samples.MASS_BINS``.
        sort: the field by which rows are sorted.
        strip_prefix: removed from names that begin with it, on both sides.
        include: patterns; only tensors whose names match one of them are compared. No patterns: all tensors.
        exclude: patterns; tensors whose names match one of them are not compared.
        dequantize: restore codes to their values if their scale is in the same file.
        pool: the rule by which tensors of a side are batches of one tensor.
        jobs: the number of processes. The result does not depend on it.
        scheduler: a Dask cluster that works instead: see ``klcal.pipeline.mapping.workers_at``.
        progress: told of the work that is done.

    Returns:
        A row for every tensor of either side, the worst first, with divergences in the unit of ``base``.

    Raises:
        UsageError: an argument is not understood, the file is not a table, or the cluster cannot be used.
        OutputError: the scheduler of a cluster disappeared.
    """
    if base not in [*BASES]:
        raise UsageError(f"unknown base {base!r}", f"use {', '.join(BASES)}")
    check_field(sort, DIFFERENCE_FIELDS)
    if (bins := MASS_BINS if bins is None else bins) < 1:
        raise UsageError(f"{bins} bins", "use at least 1")
    quantizers = None if table is None else read_quantizers(table)
    asked, renamed = Asked(include, exclude, dequantize, pool), partial(without_prefix, prefix=strip_prefix)
    sides = [gathered([path], asked, renamed) for path in ((p,) if q is None else (p, q))]
    pairs, hints = _pairs([*map(_Side.of, sides)], quantizers, strip_prefix)
    with workers_at(scheduler, jobs, filter(None, (p, q))) as workers:
        workers.see(each.path for side in sides for each in side.tensors if each.description.status == "ok")
        rows = list(_rows(pairs, _Request(BASES[base], bins), workers, progress))
    by = "a table" if isinstance(table, Table) else None if table is None else table.rsplit("/", 1)[-1]
    errors = [error for side in sides for error in side.errors]
    warnings = {warning for side in sides for warning in side.warnings}
    found = Table.of(Comparison(base, bins, by), rows, errors, sorted({*warnings, *hints}))
    return found.worst_first(sort)


class _Side(NamedTuple):
    """The tensors of P or of Q, and its files that could not be read; "" stands for all of them."""

    tensors: list[Selected]
    lost: set[str]

    @staticmethod
    def of(found: Gathered) -> _Side:
        return _Side(found.tensors, found.unread if found.described or not found.unread else {""})


def _pairs(sides: Sequence[_Side], quantizers: Quantizers | None, prefix: str) -> tuple[list[Pair], list[str]]:
    """The pairs of tensors to compare, and a hint if no tensor has a partner."""
    p, q = sides[0], sides[-1]
    names_p, names_q = ({name for each in side.tensors for name in names_of(each.description)} for side in (p, q))
    if quantizers is None:
        there, pairs = "Q", matched(p.tensors, q.tensors)
    else:
        known = quantizers.without_prefix(prefix)
        there, names_q = "the table", set(known.by_name)
        usable = [each for each in p.tensors if each.description.status == "ok"]
        pairs = [_quantized(each, known, alone=len(usable) == 1) for each in p.tensors]
    met = any(pair.p is not None and pair.q is not None for pair in pairs)
    return list(without(pairs, p.lost, q.lost)), [] if met else prefix_hint(names_p, names_q, there)


def _quantized(tensor: Selected, quantizers: Quantizers, *, alone: bool) -> Pair:
    """The pair of a tensor and its copy that the table quantizes."""
    if tensor.description.status != "ok":
        return Pair(tensor, None)
    row = quantizers.of(tensor, alone=alone)
    copy = row if isinstance(row, str) else quantized_copy(tensor, row)
    if isinstance(row, str) or isinstance(copy, str):
        return Pair(tensor, None, lacking=str(copy))
    return Pair(tensor, copy, row)


# --- how they differ


def _rows(
    pairs: Sequence[Pair], request: _Request, workers: Workers, progress: Progress | None
) -> Iterator[Difference]:
    comparable = [pair for pair in pairs if _status(pair) is None]
    yield from (row for pair in pairs if (row := _status(pair)) is not None)
    sizes = [sum(part.nbytes for each in pair[:2] if each for part in each.description.parts) for pair in comparable]
    seconds = 2 * BYTE_SECONDS * sum(sizes) + TENSOR_SECONDS * len(sizes)
    with outcomes(workers, partial(_difference, request), comparable, seconds) as found:
        if progress is not None:
            progress.start(len(comparable), sum(sizes))
        for pair, size, outcome in zip(comparable, sizes, found, strict=True):
            row = _failed(pair, outcome) if isinstance(outcome, InputError) else outcome
            yield row
            if progress is not None:
                progress.advance(size)
                progress.finish(row.name)


def _plain(pair: Pair) -> Difference:
    """The row of a pair before any data is read."""
    p, q = pair.p, pair.q
    shown = p or q
    assert shown is not None
    row = Difference(name=shown.description.name, source=shown.source, status="ok")
    if p is not None:
        shape = p.description.shape if p.description.shape_is_known else None
        numel = None if shape is None else prod(shape)
        row = replace(row, dtype=p.description.dtype or None, shape=shape, numel=numel)
    if q is not None:
        description = q.description
        other = description.shape if description.shape_is_known else None
        row = replace(row, other_source=q.source, other_dtype=description.dtype or None, other_shape=other)
    return row


def _status(pair: Pair) -> Difference | None:
    """The row of a pair that cannot be compared, or None."""
    p, q = pair.p, pair.q
    plain = _plain(pair)
    if p is None:
        if q is not None and q.description.status == "skipped":
            return replace(plain, status="skipped", reason=f"P does not have it; {q.description.reason}")
        return replace(plain, status="extra", reason="P does not have it")
    if p.description.status == "skipped" and q is not None and q.description.status == "ok":
        return replace(plain, status="extra", reason=f"{NOT_COMPARABLE} in P: {p.description.reason}")
    if q is not None and q.description.status == "skipped" and p.description.status == "ok":
        return replace(plain, status="missing", reason=f"{NOT_COMPARABLE} in Q: {q.description.reason}")
    if p.description.status != "ok":
        return replace(plain, status=p.description.status, reason=p.description.reason)
    if q is None:
        return replace(plain, status="missing", reason=pair.lacking)
    if q.description.status != "ok":
        return replace(plain, status=q.description.status, reason=f"in Q: {q.description.reason}")
    return None


def _difference(request: _Request, pair: Pair) -> Difference:
    found = attempt(partial(_compared, request, pair))
    if isinstance(found, InputError):
        found = _failed(pair, found)
    bad = list(_bad_batches(pair)) if found.status in ("failed", "nonfinite") else []
    return replace(found, reason=f"{found.reason}; look at {', '.join(bad)}") if bad else found


def _failed(pair: Pair, error: InputError) -> Difference:
    return replace(_plain(pair), status="failed", reason=str(error), cause=cause_of(error))


def _bad_batches(pair: Pair) -> Iterator[str]:
    """The first batch of each side that is damaged, or has NaN or infinities."""
    for side in pair[:2]:
        for each in side.batches.members if side and side.batches else ():
            found = attempt(partial(sketch_parts, each.description.parts, each.description.dtype))
            if isinstance(found, InputError) or _nonfinite(found):
                yield where(each)
                break


_EMPTY: dict[tuple[bool, bool], dict[str, Any]] = {
    (False, False): {"status": "empty", "reason": "P and Q have no values"},
    (False, True): {"status": "extra", "reason": "P has no values"},
    (True, False): {"status": "missing", "reason": "Q has no values"},
}
"""The fields of a row if a side has no values, by whether P and Q have some."""


def _compared(request: _Request, pair: Pair) -> Difference:
    assert pair.p is not None
    assert pair.q is not None
    p, q = pair.p.description, pair.q.description
    row = _plain(pair)
    a, b, elements = _counted(p, q)
    for side, found in (("P", a), ("Q", b)):
        if reason := _nonfinite(found):
            return replace(row, status="nonfinite", reason=f"{reason} in {side}")
    if not a.numel[0] or not b.numel[0]:
        return replace(row, **_EMPTY[bool(a.numel[0]), bool(b.numel[0])])
    quantizer = pair.quantizer
    if quantizer is not None and quantizer.status == "zero" and a.nonzero[0]:
        return replace(row, status="missing", reason="the table has no scale for it: every value was 0")
    row = _with_divergences(replace(row, numel=int(a.numel[0])), a, b, request)
    if _is_sketch(p) or _is_sketch(q):
        row = _noted(row, "no figures element by element: of a sketch only counts are known")
        all_zeros = not (a.nonzero[0] or b.nonzero[0])
        return replace(row, status="zero", reason="every value is 0, in P and in Q") if all_zeros else row
    if quantizer is not None and quantizer.status == "ok":
        nats = cell_divergence(pair.p, a, quantizer)
        row = replace(row, kl=None if nats is None else nats / nats_per_unit(request.base))
        if nats is None and a.nonzero[0]:
            row = _noted(row, "no kl: the table's numbers are no quantizer of its scheme")
    return _with_elements(row, elements, all_zeros=not (a.nonzero[0] or b.nonzero[0]))


def _counted(p: Description, q: Description) -> tuple[Sketch, Sketch, Elementwise | None]:
    """The sketches of both sides, and sums over pairs of elements; None for the sums if the shapes or orders differ."""
    if _is_sketch(p) or _is_sketch(q):
        a, b = (check_units(sketch_parts(each.parts, each.dtype), PerTensor(), ()) for each in (p, q))
        return *alike(a, b), None
    if p.shape != q.shape or p.order != q.order or p.order is None:
        return sketch_parts(p.parts, p.dtype), sketch_parts(q.parts, q.dtype), None
    chunks_p, chunks_q = (chain.from_iterable(part.chunks() for part in each.parts) for each in (p, q))
    found = side_by_side(chunks_p, p.dtype, chunks_q, q.dtype)
    return found.p, found.q, found.elements


def _is_sketch(description: Description) -> bool:
    return counted_already(description.parts) is not None


def _nonfinite(found: Sketch) -> str:
    """The values of a sketch that are not finite, in words for a message, float64 values beyond float32 among them."""
    above = int(found.pos_inf[0] + found.overflowed[0])
    return nonfinite_counts(Row(status="ok", nan=int(found.nan[0]), neg_inf=int(found.neg_inf[0]), pos_inf=above))


def _with_divergences(row: Difference, a: Sketch, b: Sketch, request: _Request) -> Difference:
    pair, fine = common_bins(a, b, request.bins), sketch_bins(a, b)
    p, q, base = pair.p, pair.q, request.base
    row = replace(
        row,
        kl=(kl := float(DIVERGENCES["kl"](p, q, base=base))),
        kl_common=kl,
        reverse_kl=(reverse_kl := float(DIVERGENCES["reverse_kl"](p, q, base=base))),
        js=float(DIVERGENCES["js"](p, q, base=base)),
        cross_entropy=float(DIVERGENCES["cross_entropy"](p, q, base=base)),
        entropy=float(entropy(p, base=base)),
        other_entropy=float(entropy(q, base=base)),
        wasserstein=float(DIVERGENCES["wasserstein_1"](fine.p, fine.q, positions=fine.positions)),
    )
    if pair.merged:
        before = pair.merged + pair.positions.size
        row = _noted(row, f"lower bounds of divergences: {pair.merged} of {before} common bins were merged with others")
    if math.inf in (kl, reverse_kl):
        row = _noted(row, "a divergence is infinite: one side has values where the other has none near by")
    return row


def _noted(row: Difference, note: str) -> Difference:
    return replace(row, note=note if row.note is None else f"{row.note}; {note}")


def _with_elements(row: Difference, found: Elementwise | None, *, all_zeros: bool) -> Difference:
    if found is None:
        shapes = [list(shape or ()) for shape in (row.shape, row.other_shape)]
        differ = f"the shapes {shapes[0]} and {shapes[1]} differ"
        order = "the elements of P and Q are stored in different orders"
        return _noted(row, f"no figures element by element: {differ if shapes[0] != shapes[1] else order}")
    row = replace(row, cosine=found.cosine, max_abs_diff=found.max_abs_diff, mse=found.mse, sqnr_db=found.sqnr_db)
    if all_zeros:
        return replace(row, status="zero", reason="every value is 0, in P and in Q")
    return row if found.cosine is not None else _noted(row, "no cosine: every value of one side is 0")
