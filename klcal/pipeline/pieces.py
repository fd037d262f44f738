"""Counts tensors for ``klcal sketch``: in pieces, which are tensors or portions of them, whose sketches are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, reduce
from operator import add
from typing import NamedTuple, TypeAlias

from klcal.errors import InputError
from klcal.pipeline.batches import sources_of
from klcal.pipeline.finished import Marks
from klcal.pipeline.importance import Weighed
from klcal.pipeline.mapping import Workers
from klcal.pipeline.selection import Selected, attempt
from klcal.pipeline.tasks import BYTE_SECONDS, Progress, portions
from klcal.pipeline.units import Place
from klcal.quantizers.layout import Layout
from klcal.readers import Part
from klcal.sketches.fingerprints import watched
from klcal.sketches.named import Named
from klcal.sketches.sketch import Sketch
from klcal.sketches.stored import sketch_parts, stored_chunks
from klcal.sketches.stretch import Stretch
from klcal.sketches.values import Units, sketch_of_units
from klcal.sketches.weighted import weighted_sketch
from klcal.writers.sketch_file import Laid, lay
from klcal.writers.spool import Spool

__all__ = ["Counted", "Outcome", "Wanted", "counted"]

COUNT_SECONDS = 1e-4  # to open a file, and hand the sketch of a tensor over
TOGETHER = 16  # pieces of work that a worker takes at once: passing one on costs as much as counting 100 kB
TOGETHER_BYTES = 1 << 22  # of such pieces


class Wanted(NamedTuple):
    """A tensor that is to be sketched."""

    tensor: Selected
    places: tuple[Place, ...] = ()  # of its units, if there are several
    weighed: Weighed | None = None


class Counted(NamedTuple):
    """A tensor, or a portion of one, and the fingerprints of its inputs."""

    sketch: Named | Laid  # if it is of a whole tensor and there is a spool, the worker has written it to disk
    marks: Marks


Outcome: TypeAlias = "Counted | InputError"


def counted(
    wanted: Sequence[Wanted], workers: Workers, spool: Spool | None = None, progress: Progress | None = None
) -> Iterator[tuple[Wanted, Outcome]]:
    """Each tensor with its sketch or an error. Large tensors are counted in portions, small ones several at a time.

    Args:
        wanted: the tensors.
        workers: processes of this machine, or a cluster.
        spool: the temporary directory to which processes of this machine write sketches; workers of a cluster return
            them instead. None to have all sketches in memory.
        progress: told of the bytes that are done.
    """
    groups = [*_groups([*_pieces(each)] for each in wanted)]
    bundles = [bundle for group in groups for bundle in group]
    total = sum(map(_nbytes, bundles))
    seconds = BYTE_SECONDS * total + COUNT_SECONDS * sum(map(len, bundles))
    work = partial(_counted_together, spool if workers.address is None else None)
    read = None if progress is None else lambda bundle: progress.advance(_nbytes(bundle))
    with workers.joined(work, _joined, groups, seconds, read) as found:
        if progress is not None:
            progress.start(len(wanted), total)
        left = iter(wanted)
        for group, outcome in zip(groups, found, strict=True):
            several = [outcome] * len(group[0]) if isinstance(outcome, InputError) else outcome
            for one, each in zip(several, left, strict=False):
                yield each, _finished(each, one)
                if progress is not None:
                    progress.finish(each.tensor.description.name)


class _Whole(NamedTuple):
    """The facts about a tensor that a sketch file has beside its sketch."""

    shape: tuple[int, ...] | None  # None if the batches have different shapes
    batches: int
    aliases: tuple[str, ...]

    @staticmethod
    def of(tensor: Selected) -> _Whole:
        description, batches = tensor.description, tensor.batches
        shapes = {each.description.shape for each in batches.members} if batches else {description.shape}
        shape = shapes.pop() if len(shapes) == 1 else None
        return _Whole(shape, len(batches.members) if batches else 1, tuple(sorted(description.aliases)))


class _Piece(NamedTuple):
    """A tensor, or a portion of one, that is counted separately."""

    name: str
    dtype: str
    parts: Sequence[Part]
    sources: Sequence[str]  # of each part: the file that it is in
    layout: Layout | None
    weighed: Weighed | None
    whole: _Whole | None  # if it is a whole tensor

    @property
    def nbytes(self) -> int:
        """The bytes of its values in the file."""
        return sum(part.nbytes for part in self.parts)


def _pieces(wanted: Wanted) -> Iterator[_Piece]:
    """The pieces of a tensor: portions if it has one unit; the places if its units lie in several; else all of it."""
    tensor, places, weighed = wanted
    name, dtype, parts = tensor.description.name, tensor.description.dtype, tensor.description.parts
    whole = _Whole.of(tensor)
    if len(places) > 1:
        for place in places:
            yield _Piece(name, dtype, place.parts, [place.source] * len(place.parts), place.layout, None, None)
    elif places or weighed is not None or not parts:
        place_of_all = places[0].layout if places else None
        yield _Piece(name, dtype, parts, sources_of(tensor), place_of_all, weighed, whole)
    else:
        sources, start = sources_of(tensor), 0
        for some in portions(parts):
            of_all = whole if len(some) == len(parts) else None
            yield _Piece(name, dtype, some, sources[start : start + len(some)], None, None, of_all)
            start += len(some)


_Bundle: TypeAlias = tuple["_Piece", ...]
"""The pieces that a worker gets in one message."""
_Group: TypeAlias = list[_Bundle]
"""One bundle of several small tensors, each in one piece; or the pieces of one tensor, each in its own bundle."""


def _nbytes(bundle: _Bundle) -> int:
    return sum(piece.nbytes for piece in bundle)


def _groups(tensors: Iterable[Sequence[_Piece]]) -> Iterator[_Group]:
    bundle: list[_Piece] = []
    nbytes = 0
    for pieces in tensors:
        size = sum(piece.nbytes for piece in pieces)
        if bundle and (len(pieces) > 1 or nbytes + size > TOGETHER_BYTES or len(bundle) == TOGETHER):
            yield [tuple(bundle)]
            bundle, nbytes = [], 0
        if len(pieces) > 1:
            yield [(piece,) for piece in pieces]
        else:
            bundle.append(pieces[0])
            nbytes += size
    if bundle:
        yield [tuple(bundle)]


def _counted_together(spool: Spool | None, bundle: Sequence[_Piece]) -> list[Outcome]:
    return [attempt(partial(_counted, piece, spool)) for piece in bundle]


def _counted(piece: _Piece, spool: Spool | None) -> Counted:
    marks: dict[str, set[bytes]] = {}
    pairs = zip(piece.parts, piece.sources, strict=True)
    parts = [watched(part, piece.dtype, marks.setdefault(source, set())) for part, source in pairs]
    whole = piece.whole or _Whole(None, 1, ())
    found = Named(piece.name, piece.dtype, whole.shape, _sketch(piece, parts), whole.batches, whole.aliases)
    of = {source: frozenset(some) for source, some in marks.items()}
    if spool is not None and piece.whole is not None:
        with suppress(OSError):  # which is told where the file is written
            return Counted(lay(found, spool), of)
    return Counted(found, of)


def _sketch(piece: _Piece, parts: Sequence[Stretch]) -> Sketch:
    dtype = piece.dtype
    weights = piece.weighed.weights(piece.layout) if piece.weighed else None
    if piece.layout is not None:
        return sketch_of_units(Units(stored_chunks(parts), dtype, piece.layout, weights))
    if weights is not None:
        return weighted_sketch(stored_chunks(parts), dtype, weights)
    return sketch_parts(parts, dtype)


def _joined(of_bundles: Sequence[list[Outcome]]) -> list[Outcome]:
    """The portions of a tensor, each in a bundle of its own, as one; or why there is none."""
    sketches, marks = list[Named](), dict[str, frozenset[bytes]]()
    for (each,) in of_bundles:
        if isinstance(each, InputError):
            return [each]
        assert isinstance(each.sketch, Named)
        sketches.append(each.sketch)
        marks |= {source: marks.get(source, frozenset()) | {*some} for source, some in each.marks.items()}
    try:
        return [Counted(reduce(add, sketches), marks)]
    except InputError as error:
        return [error]


def _finished(wanted: Wanted, outcome: Outcome) -> Outcome:
    """The same, with what its file says of it."""
    if isinstance(outcome, InputError) or not isinstance(outcome.sketch, Named):
        return outcome
    return outcome._replace(sketch=replace(outcome.sketch, **_Whole.of(wanted.tensor)._asdict()))
