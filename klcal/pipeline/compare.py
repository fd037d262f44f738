"""Two files or directories to a table of differences, or one and its copy that a table of scales quantizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import prod
from typing import NamedTuple

from klcal.divergence.elementwise import Elementwise, side_by_side
from klcal.divergence.probabilities import DIVERGENCES, entropy
from klcal.divergence.samples import MASS_BINS, mass_bins, sketch_bins
from klcal.errors import InputError, UsageError
from klcal.pipeline.calibrate import BYTE_SECONDS, TENSOR_SECONDS, Progress, outcomes
from klcal.pipeline.quantized_copy import Quantizers, quantized_copy, read_quantizers
from klcal.pipeline.selection import Selected, attempt, cause_of, described_tensors, names_of, selected, unmatched
from klcal.readers import Description, find
from klcal.sketches.sketch import Sketch
from klcal.sketches.values import sketch_parts
from klcal.tables.differences import Difference
from klcal.tables.rows import Row
from klcal.tables.schema import DIFFERENCE_FIELDS, check_field
from klcal.tables.status import nonfinite_counts
from klcal.tables.table import Comparison, FileError, Table

__all__ = ["BASES", "compare_files"]

BASES = {"e": math.e, "2": 2.0, "10": 10.0}


class _Pair(NamedTuple):
    """A tensor of P and the one of Q that has its name, or neither's partner."""

    p: Selected | None
    q: Selected | None
    lacking: str = "Q does not have it"  # why P's has no partner


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
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> Table:
    """The differences of all tensors of two files or directories, the worst first.

    Args:
        p: a file, a directory, or the index of a sharded checkpoint: the reference.
        q: what approximates it; None to take P itself, quantized by a table.
        table: a table of scales, or its file, as JSON or binary.
        base: of the logarithms: "e" (nats), "2" (bits) or "10" (bans).
        bins: at most so many, of equal mass; by default ``klcal.divergence.samples.MASS_BINS``.
        sort: the field that says what is worst.
        include: globs, one of which a tensor's name has to match.
        exclude: globs, none of which it may match.
        jobs: how many processes work. The result does not depend on it.
        progress: is told how far the work is.

    Raises:
        UsageError: an argument is not understood, or the table is none.
    """
    if base not in [*BASES]:
        raise UsageError(f"unknown base {base!r}", f"use {', '.join(BASES)}")
    check_field(sort, DIFFERENCE_FIELDS)
    if (bins := MASS_BINS if bins is None else bins) < 1:
        raise UsageError(f"{bins} bins", "use at least 1")
    quantizers = None if table is None else read_quantizers(table)
    errors: list[FileError] = []
    warnings: list[str] = []
    sides = []
    for path in (p, q) if q is not None else (p,):
        found = find([path])
        errors += found.errors
        described = list(described_tensors(found.sources, errors))
        warnings += [*found.warnings, *unmatched(described, include)]
        sides.append(selected(described, include, exclude))
    pairs = _matched(*sides) if quantizers is None else _quantized(sides[0], quantizers)
    rows = list(_rows(pairs, _Request(BASES[base], bins), jobs, progress))
    by = "a table" if isinstance(table, Table) else None if table is None else table.rsplit("/", 1)[-1]
    config = Comparison(base, bins, by)
    return Table.of(config, rows, errors, sorted(set(warnings))).worst_first(sort)


# --- which tensors belong together


def _matched(p: Sequence[Selected], q: Sequence[Selected]) -> list[_Pair]:
    """Pairs by name, or the only two tensors whatever they are called."""
    if len(p) == len(q) == 1:
        return [_Pair(p[0], q[0])]
    twice = _repeated(p) | _repeated(q)
    partners = {key: each for each in q for key in _keys(each, twice)}
    pairs, taken = [], set()
    for each in p:
        partner = next((partners[key] for key in _keys(each, twice) if key in partners), None)
        pairs.append(_Pair(each, partner))
        taken.add(id(partner))
    return pairs + [_Pair(None, each) for each in q if id(each) not in taken]


def _quantized(p: Sequence[Selected], quantizers: Quantizers) -> list[_Pair]:
    """Pairs of tensors and what a table makes of them."""
    usable = [each for each in p if each.description.status == "ok"]
    copies = {id(each): quantized_copy(each, quantizers, alone=len(usable) == 1) for each in usable}
    found = ((each, copies.get(id(each), "")) for each in p)
    return [_Pair(each, None, copy) if isinstance(copy, str) else _Pair(each, copy) for each, copy in found]


def _repeated(tensors: Iterable[Selected]) -> set[str]:
    times = Counter(name for each in tensors for name in names_of(each.description))
    return {name for name, count in times.items() if count > 1}


def _keys(tensor: Selected, repeated: set[str]) -> list[tuple[str, str]]:
    """What a tensor is found by: its names, with its file where a name occurs in several."""
    return [(tensor.source if name in repeated else "", name) for name in names_of(tensor.description)]


# --- how they differ


def _rows(pairs: Sequence[_Pair], request: _Request, jobs: int, progress: Progress | None) -> Iterator[Difference]:
    comparable = [pair for pair in pairs if _status(pair) is None]
    yield from (row for pair in pairs if (row := _status(pair)) is not None)
    sizes = [
        sum(part.nbytes for each in (pair.p, pair.q) if each for part in each.description.parts) for pair in comparable
    ]
    seconds = 2 * BYTE_SECONDS * sum(sizes) + TENSOR_SECONDS * len(sizes)
    with outcomes(partial(_difference, request), comparable, seconds, jobs) as found:
        if progress is not None:
            progress.start(len(comparable), sum(sizes))
        for size, row in zip(sizes, found, strict=True):
            yield row
            if progress is not None:
                progress.advance(size)
                progress.finish(row.name)


def _plain(pair: _Pair) -> Difference:
    """The row of a pair before any data is read."""
    p, q = pair.p, pair.q
    shown = p or q
    assert shown is not None
    row = Difference(name=shown.description.name, source=shown.source, status="ok")
    if p is not None:
        shape = p.description.shape
        row = replace(row, dtype=p.description.dtype or None, shape=shape, numel=prod(shape))
    if q is not None:
        description = q.description
        row = replace(row, other_source=q.source, other_dtype=description.dtype or None, other_shape=description.shape)
    return row


def _status(pair: _Pair) -> Difference | None:
    """The row of a pair that cannot be compared, or None."""
    p, q = pair.p, pair.q
    if p is None:
        return replace(_plain(pair), status="extra", reason="P does not have it")
    if p.description.status != "ok":
        return replace(_plain(pair), status=p.description.status, reason=p.description.reason)
    if q is None:
        return replace(_plain(pair), status="missing", reason=pair.lacking)
    if q.description.status != "ok":
        return replace(_plain(pair), status=q.description.status, reason=f"in Q: {q.description.reason}")
    return None


def _difference(request: _Request, pair: _Pair) -> Difference:
    found = attempt(partial(_compared, request, pair))
    if isinstance(found, InputError):
        return replace(_plain(pair), status="failed", reason=str(found), cause=cause_of(found))
    return found


def _compared(request: _Request, pair: _Pair) -> Difference:
    assert pair.p is not None
    assert pair.q is not None
    p, q = pair.p.description, pair.q.description
    row = _plain(pair)
    a, b, elements = _counted(p, q)
    for side, found in (("P", a), ("Q", b)):
        if not found.numel[0]:
            return replace(row, status="empty", reason=f"{side} has no values")
        if reason := _nonfinite(found):
            return replace(row, status="nonfinite", reason=f"{reason} in {side}")
    row = _with_divergences(row, a, b, request)
    return row if elements is None else _with_elements(row, elements)


def _counted(p: Description, q: Description) -> tuple[Sketch, Sketch, Elementwise | None]:
    """Both sketches; and the sums over pairs of elements, where each lies where its partner does."""
    if p.shape != q.shape or p.order != q.order or p.order is None:
        return sketch_parts(p.parts, p.dtype), sketch_parts(q.parts, q.dtype), None
    chunks_p, chunks_q = (chain.from_iterable(part.chunks() for part in each.parts) for each in (p, q))
    found = side_by_side(chunks_p, p.dtype, chunks_q, q.dtype)
    return found.p, found.q, found.elements


def _nonfinite(found: Sketch) -> str:
    """What is not finite of a sketch, in words: of a float64 beyond float32 it says so."""
    above = int(found.pos_inf[0] + found.overflowed[0])
    return nonfinite_counts(Row(status="ok", nan=int(found.nan[0]), neg_inf=int(found.neg_inf[0]), pos_inf=above))


def _with_divergences(row: Difference, a: Sketch, b: Sketch, request: _Request) -> Difference:
    pair, fine = mass_bins(a, b, request.bins), sketch_bins(a, b)
    p, q, base = pair.p, pair.q, request.base
    return replace(
        row,
        kl=float(DIVERGENCES["kl"](p, q, base=base)),
        reverse_kl=float(DIVERGENCES["reverse_kl"](p, q, base=base)),
        js=float(DIVERGENCES["js"](p, q, base=base)),
        cross_entropy=float(DIVERGENCES["cross_entropy"](p, q, base=base)),
        entropy=float(entropy(p, base=base)),
        other_entropy=float(entropy(q, base=base)),
        wasserstein=float(DIVERGENCES["wasserstein_1"](fine.p, fine.q, positions=fine.positions)),
    )


def _with_elements(row: Difference, found: Elementwise) -> Difference:
    return replace(row, cosine=found.cosine, max_abs_diff=found.max_abs_diff, mse=found.mse, sqnr_db=found.sqnr_db)
