"""Files to a sketch file: what is counted of their tensors, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial, reduce
from hashlib import blake2b
from itertools import chain
from operator import add
from typing import NamedTuple, TypeAlias

from klcal.errors import InputError, UsageError
from klcal.pipeline.batches import less, sources_of
from klcal.pipeline.finished import Finished, Marks, finished_in
from klcal.pipeline.importance import NamedImportance, Weighed, read_importance
from klcal.pipeline.pooling import Pool, pooled, unpooled
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
from klcal.pipeline.tasks import BYTE_SECONDS, Progress, outcomes, portions
from klcal.pipeline.units import layout_of, named_errors, not_in_units
from klcal.quantizers.granularity import Per
from klcal.quantizers.layout import Layout
from klcal.quantizers.rules import Rules
from klcal.readers import Description, Part, find
from klcal.sketches.fingerprints import watched
from klcal.sketches.named import Named
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Stretch
from klcal.sketches.values import (
    Units,
    counted_already,
    sketch_of_units,
    sketch_parts,
    stored_chunks,
)
from klcal.sketches.weighted import weighted_sketch
from klcal.tables.status import FAILURES, Cause
from klcal.writers.sketch_file import fingerprint, save

__all__ = ["Asked", "Failure", "Sketched", "sketch_files"]

COUNT_SECONDS = 1e-4  # to open a file, and hand the sketch of a tensor over
TOGETHER = 16  # pieces of work that a worker takes at once: passing one on costs as much as counting 100 kB
TOGETHER_BYTES = 1 << 22  # of such pieces


class Failure(NamedTuple):
    """A tensor, or a whole file, that is not in the answer."""

    source: str
    name: str
    reason: str
    cause: Cause


class Sketched(NamedTuple):
    """What was written, and what was not."""

    tensors: int
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """Which tensors are sketched, and how."""

    per: Rules[Per]  # what gets a scale of its own, by the names of tensors
    importance: str | None = None  # a file of weights, by the names of tensors
    include: Sequence[str] = ()  # globs, one of which a tensor's name has to match
    exclude: Sequence[str] = ()  # globs, none of which it may match
    dequantize: bool = False  # whether codes that have a scale beside them are counted as what they stand for
    pool: Pool | None = None  # which tensors are batches of one


def sketch_files(
    paths: Sequence[str],
    output: str,
    asked: Asked,
    *,
    jobs: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
) -> Sketched:
    """Counts the tensors of some files, and writes their sketches; no file where there are none.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        output: the file to write, all of it or nothing. What failed is not in it.
        asked: which tensors, and how.
        jobs: how many processes count. The bytes of the file do not depend on it.
        resume: whether what is done is kept, until all is, in a folder called as the output and ``.part``.
        progress: is told how far the work is.

    Raises:
        UsageError: two tensors have one name; one lacks the axis whose channels or groups are asked for; the
            importance or the output cannot be used; what is resumed was another run.
        OutputError: it could not be written after all.
    """
    weights = None if asked.importance is None else read_importance(asked.importance)
    found = _found(paths, asked, weights)
    by = {_identity(each): each for each in found.wanted}
    marks: dict[str, set[bytes]] = {}
    with finished_in(f"{output}.part", by) if resume else nullcontext() as finished:
        work = _Work(jobs, found.failures, marks, progress)
        inputs = lambda: [fingerprint(some) for some in marks.values() if some]  # noqa: E731 - known at the end
        read = [*paths, *([] if asked.importance is None else [asked.importance])]
        written = save(output, work.named(by, finished), inputs, read)
    return Sketched(written, tuple(sorted(found.failures)), tuple(found.warnings))


# --- what is wanted


class _Wanted(NamedTuple):
    """A tensor that is to be sketched."""

    tensor: Selected
    layout: Layout | None = None  # of its units, if there are several
    weighed: Weighed | None = None


class _Found(NamedTuple):
    wanted: list[_Wanted]
    failures: list[Failure]
    warnings: list[str]


def _found(paths: Sequence[str], asked: Asked, weights: NamedImportance | None) -> _Found:
    found, pool = find(paths), asked.pool
    errors = list(found.errors)
    batches = pool is not None
    described = list(described_tensors(found.sources, errors, dequantize=asked.dequantize, batches=batches))
    tensors = selected(described, asked.include, asked.exclude)
    named: Sequence[Selected] = described
    if pool is not None:
        named = tensors = pooled(tensors, pool, errors, found.sources)
    usable = [each for each in tensors if each.description.status == "ok"]
    _check(usable)
    failures = [Failure(error.source, "", error.reason, error.cause) for error in errors]
    failures += [
        _failure(each, each.description.reason or each.description.status)
        for each in tensors
        if each.description.status in FAILURES
    ]
    wanted = list(_wanted(usable, asked.per, weights, failures))
    globs = [*unmatched(described, asked.include), *unmatched(named, (), [("--per", glob) for glob in asked.per.globs])]
    unused = unpooled(tensors, pool) if pool else ()
    unweighed = weights.warnings(named, usable) if weights else ()
    return _Found(wanted, failures, sorted({*found.warnings, *file_warnings(described), *globs, *unused, *unweighed}))


def _failure(tensor: Selected, reason: str, cause: Cause = "data") -> Failure:
    return Failure(tensor.source, tensor.description.name, reason, cause)


def _check(tensors: Iterable[Selected]) -> None:
    """Refuses what has no place in a sketch file, before anything is read."""
    first: dict[str, str] = {}
    for source, each, *_ in tensors:
        if each.name in first:
            what = f"{first[each.name]} and {source} both have a tensor called {each.name!r}"
            raise UsageError(what, "add them up with --pool name, or sketch each file to one of its own")
        first[each.name] = source
        if counted_already(each.parts) is not None:
            raise UsageError(f"{source} is a sketch file already", "klcal merge adds such files up")


def _wanted(
    tensors: Sequence[Selected], per: Rules[Per], weights: NamedImportance | None, failures: list[Failure]
) -> Iterator[_Wanted]:
    for each in tensors:
        description, unit = each.description, per.of(names_of(each.description))
        importance = weights.of(each, alone=len(tensors) == 1) if weights else None
        reason = not_in_units(each, unit, weighed=importance is not None)
        if reason is not None:
            failures.append(_failure(each, reason))
            continue
        with named_errors(each):
            place = layout_of(description, unit)
        yield _Wanted(each, place, Weighed(description, importance) if importance else None)


def _identity(wanted: _Wanted) -> bytes:
    """Of a tensor, the files that it is in as they are now, and how it is sketched."""
    text = repr((wanted.tensor.source, wanted.tensor.description, wanted.layout, wanted.weighed))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- the work


class _Counted(NamedTuple):
    named: Named
    marks: Marks


_Outcome: TypeAlias = "_Counted | InputError"


@dataclass
class _Work:
    """Sketches tensors; it lives for one call. What fails joins the failures, what was counted the marks."""

    jobs: int
    failures: list[Failure]
    marks: dict[str, set[bytes]]
    progress: Progress | None

    def named(self, by: Mapping[bytes, _Wanted], finished: Finished | None) -> Iterator[Named]:
        """All tensors, by their identities; those that are finished are read, not counted again."""
        before = {identity for identity in by if finished is not None and identity in finished}
        names = {id(each): identity for identity, each in by.items()}
        for each, counted in self._sketches([each for identity, each in by.items() if identity not in before]):
            if finished is not None and id(each) in names:
                finished.add(names[id(each)], *counted)
            yield self._marked(*counted)
        for identity in before:
            assert finished is not None
            yield self._marked(*finished.read(identity))

    def _marked(self, named: Named, marks: Marks) -> Named:
        for source, some in marks.items():
            self.marks.setdefault(source, set()).update(some)
        return named

    def _sketches(self, wanted: Sequence[_Wanted]) -> Iterator[tuple[_Wanted, _Counted]]:
        """The tensors, as they are done: of a pooled one, without the batches that fail alone."""
        spoiled = []
        for each, outcome in _outcomes(wanted, self.jobs, self.progress):
            if not isinstance(outcome, InputError):
                yield each, outcome
            elif each.tensor.batches and len(each.tensor.batches.members) > 1:
                spoiled.append((each, outcome))
            else:
                self.failures.append(_failure(each.tensor, str(outcome), cause_of(outcome)))
        self.progress = None
        if mended := [better for each, fault in spoiled if (better := self._mended(each, fault))]:
            yield from self._sketches(mended)

    def _mended(self, spoiled: _Wanted, fault: InputError) -> _Wanted | None:
        """A pooled tensor less the batches that fail alone; None where nothing is left."""
        assert spoiled.tensor.batches is not None
        members, good = spoiled.tensor.batches.members, []
        alone = [_Wanted(member, _layout_like(spoiled, member)) for member in members]
        for each, found in _outcomes(alone, self.jobs):
            if isinstance(found, InputError):
                self.failures.append(_failure(each.tensor, str(found), cause_of(found)))
            else:
                good.append(each.tensor)
        if len(good) == len(members):
            self.failures.append(_failure(spoiled.tensor, str(fault), cause_of(fault)))
        if not good or len(good) == len(members):
            return None
        whole = less(spoiled.tensor, good)
        return spoiled._replace(tensor=whole, layout=_layout_like(spoiled, whole))


def _layout_like(wanted: _Wanted, tensor: Selected) -> Layout | None:
    return None if wanted.layout is None else layout_of(tensor.description, wanted.layout.grid.per)


def _outcomes(
    wanted: Sequence[_Wanted], jobs: int, progress: Progress | None = None
) -> Iterator[tuple[_Wanted, _Outcome]]:
    """What comes of each tensor; one that is large is counted in portions, small ones several at a time."""
    pieces = [[*_pieces(each)] for each in wanted]
    every = [*chain.from_iterable(pieces)]
    total = sum(piece.nbytes for piece in every)
    seconds = BYTE_SECONDS * total + COUNT_SECONDS * len(every)
    with outcomes(_counted_together, [*_bundles(every)], seconds, jobs) as found:
        if progress is not None:
            progress.start(len(wanted), total)
        done = chain.from_iterable(found)
        for each, some in zip(wanted, pieces, strict=True):
            counted = []
            for piece in some:
                counted.append(next(done))
                if progress is not None:
                    progress.advance(piece.nbytes)
            yield each, _joined(each, counted)
            if progress is not None:
                progress.finish(each.tensor.description.name)


class _Piece(NamedTuple):
    """What is counted on its own: a tensor, or a portion of one."""

    description: Description
    parts: Sequence[Part]
    sources: Sequence[str]  # of each part: the file that it is in
    layout: Layout | None
    weighed: Weighed | None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def _pieces(wanted: _Wanted) -> Iterator[_Piece]:
    """Portions of a tensor with one unit; all of any other."""
    tensor, place, weighed = wanted
    parts, sources = tensor.description.parts, sources_of(tensor)
    whole = place is not None or weighed is not None or not parts
    start = 0
    for some in [parts] if whole else portions(parts):
        yield _Piece(tensor.description, some, sources[start : start + len(some)], place, weighed)
        start += len(some)


def _bundles(pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, ...]]:
    bundle: list[_Piece] = []
    nbytes = 0
    for piece in pieces:
        if bundle and (nbytes + piece.nbytes > TOGETHER_BYTES or len(bundle) == TOGETHER):
            yield tuple(bundle)
            bundle, nbytes = [], 0
        bundle.append(piece)
        nbytes += piece.nbytes
    if bundle:
        yield tuple(bundle)


def _counted_together(bundle: Sequence[_Piece]) -> list[_Outcome]:
    return [attempt(partial(_counted, piece)) for piece in bundle]


def _counted(piece: _Piece) -> _Counted:
    description, marks = piece.description, dict[str, set[bytes]]()
    pairs = zip(piece.parts, piece.sources, strict=True)
    parts = [watched(part, description.dtype, marks.setdefault(source, set())) for part, source in pairs]
    named = Named(description.name, description.dtype, None, _sketch(piece, parts))
    return _Counted(named, {source: frozenset(some) for source, some in marks.items()})


def _sketch(piece: _Piece, parts: Sequence[Stretch]) -> Sketch:
    dtype = piece.description.dtype
    weights = piece.weighed.weights(piece.layout) if piece.weighed else None
    if piece.layout is not None:
        return sketch_of_units(Units(stored_chunks(parts), dtype, piece.layout, weights))
    if weights is not None:
        return weighted_sketch(stored_chunks(parts), dtype, weights)
    return sketch_parts(parts, dtype)


def _joined(wanted: _Wanted, counted: Sequence[_Outcome]) -> _Outcome:
    """The tensor of all its pieces, or why there is none."""
    done = [each for each in counted if not isinstance(each, InputError)]
    if len(done) < len(counted):
        return next(each for each in counted if isinstance(each, InputError))
    description, batches = wanted.tensor.description, wanted.tensor.batches
    shapes = {each.description.shape for each in batches.members} if batches else {description.shape}
    named = replace(
        reduce(add, [each.named for each in done]),
        shape=shapes.pop() if len(shapes) == 1 else None,
        batches=len(batches.members) if batches else 1,
        aliases=tuple(sorted(description.aliases)),
    )
    marks: dict[str, frozenset[bytes]] = {}
    for each in done:
        marks |= {source: marks.get(source, frozenset()) | {*some} for source, some in each.marks.items()}
    return _Counted(named, marks)
