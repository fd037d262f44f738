"""What is counted on its own: a tensor, or a portion of one; and these together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, reduce
from itertools import chain
from operator import add
from typing import NamedTuple, TypeAlias

from klcal.errors import InputError
from klcal.pipeline.batches import sources_of
from klcal.pipeline.finished import Marks
from klcal.pipeline.importance import Weighed
from klcal.pipeline.selection import Selected, attempt
from klcal.pipeline.tasks import BYTE_SECONDS, Progress, outcomes, portions
from klcal.pipeline.units import Place
from klcal.quantizers.layout import Layout
from klcal.readers import Description, Part
from klcal.sketches.fingerprints import watched
from klcal.sketches.named import Named
from klcal.sketches.sketch import Sketch
from klcal.sketches.stretch import Stretch
from klcal.sketches.values import Units, sketch_of_units, sketch_parts, stored_chunks
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

    sketch: Named | Laid  # laid aside where that is all of a tensor: workers do that
    marks: Marks


Outcome: TypeAlias = "Counted | InputError"


def counted(
    wanted: Sequence[Wanted], jobs: int, spool: Spool | None = None, progress: Progress | None = None
) -> Iterator[tuple[Wanted, Outcome]]:
    """What comes of each tensor; one that is large is counted in portions, small ones several at a time.

    Args:
        wanted: the tensors.
        jobs: how many processes count.
        spool: where these lay what they counted; None to have all sketches.
        progress: is told how far the work is.
    """
    pieces = [[*_pieces(each)] for each in wanted]
    every = [*chain.from_iterable(pieces)]
    total = sum(piece.nbytes for piece in every)
    seconds = BYTE_SECONDS * total + COUNT_SECONDS * len(every)
    with outcomes(partial(_counted_together, spool), [*_bundles(every)], seconds, jobs) as found:
        if progress is not None:
            progress.start(len(wanted), total)
        done = chain.from_iterable(found)
        for each, some in zip(wanted, pieces, strict=True):
            of_pieces = []
            for piece in some:
                of_pieces.append(next(done))
                if progress is not None:
                    progress.advance(piece.nbytes)
            yield each, _joined(each, of_pieces)
            if progress is not None:
                progress.finish(each.tensor.description.name)


class _Whole(NamedTuple):
    """What a sketch file says of a tensor beside its sketch."""

    shape: tuple[int, ...] | None
    batches: int
    aliases: tuple[str, ...]

    @staticmethod
    def of(tensor: Selected) -> _Whole:
        description, batches = tensor.description, tensor.batches
        shapes = {each.description.shape for each in batches.members} if batches else {description.shape}
        shape = shapes.pop() if len(shapes) == 1 else None
        return _Whole(shape, len(batches.members) if batches else 1, tuple(sorted(description.aliases)))


class _Piece(NamedTuple):
    """What is counted on its own: a tensor, or a portion of one."""

    description: Description
    parts: Sequence[Part]
    sources: Sequence[str]  # of each part: the file that it is in
    layout: Layout | None
    weighed: Weighed | None
    whole: _Whole | None  # where it is all of the tensor

    @property
    def nbytes(self) -> int:
        """Of its values, as they are stored."""
        return sum(part.nbytes for part in self.parts)


def _pieces(wanted: Wanted) -> Iterator[_Piece]:
    """Portions of a tensor with one unit, the places of one with several; all of any other."""
    tensor, places, weighed = wanted
    parts = tensor.description.parts
    whole = _Whole.of(tensor)
    if len(places) > 1:
        for place in places:
            yield _Piece(tensor.description, place.parts, [place.source] * len(place.parts), place.layout, None, None)
    elif places or weighed is not None or not parts:
        place_of_all = places[0].layout if places else None
        yield _Piece(tensor.description, parts, sources_of(tensor), place_of_all, weighed, whole)
    else:
        sources, start = sources_of(tensor), 0
        for some in portions(parts):
            of_all = whole if len(some) == len(parts) else None
            yield _Piece(tensor.description, some, sources[start : start + len(some)], None, None, of_all)
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


def _counted_together(spool: Spool | None, bundle: Sequence[_Piece]) -> list[Outcome]:
    return [attempt(partial(_counted, piece, spool)) for piece in bundle]


def _counted(piece: _Piece, spool: Spool | None) -> Counted:
    description, marks = piece.description, dict[str, set[bytes]]()
    pairs = zip(piece.parts, piece.sources, strict=True)
    parts = [watched(part, description.dtype, marks.setdefault(source, set())) for part, source in pairs]
    found = Named(description.name, description.dtype, None, _sketch(piece, parts))
    of = {source: frozenset(some) for source, some in marks.items()}
    if piece.whole is None:
        return Counted(found, of)
    named = replace(found, **piece.whole._asdict())
    with suppress(OSError):  # which is told where the file is written
        return Counted(lay(named, spool) if spool else named, of)
    return Counted(named, of)


def _sketch(piece: _Piece, parts: Sequence[Stretch]) -> Sketch:
    dtype = piece.description.dtype
    weights = piece.weighed.weights(piece.layout) if piece.weighed else None
    if piece.layout is not None:
        return sketch_of_units(Units(stored_chunks(parts), dtype, piece.layout, weights))
    if weights is not None:
        return weighted_sketch(stored_chunks(parts), dtype, weights)
    return sketch_parts(parts, dtype)


def _joined(wanted: Wanted, pieces: Sequence[Outcome]) -> Outcome:
    """The tensor of all its pieces, or why there is none."""
    if len(pieces) == 1:
        return pieces[0]
    sketches, marks = list[Named](), dict[str, frozenset[bytes]]()
    for each in pieces:
        if isinstance(each, InputError):
            return each
        assert isinstance(each.sketch, Named)
        sketches.append(each.sketch)
        marks |= {source: marks.get(source, frozenset()) | {*some} for source, some in each.marks.items()}
    return Counted(replace(reduce(add, sketches), **_Whole.of(wanted.tensor)._asdict()), marks)
