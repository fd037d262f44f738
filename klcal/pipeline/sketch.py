"""Counts the tensors of files, and writes their sketches to one sketch file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from klcal.errors import InputError, UsageError
from klcal.pipeline.batches import less
from klcal.pipeline.finished import Finished, finished_in
from klcal.pipeline.gathered import Asked, Gathered, gathered
from klcal.pipeline.importance import NamedImportance, Weighed, read_importance
from klcal.pipeline.mapping import Workers, workers_at
from klcal.pipeline.pieces import Counted, Wanted, counted
from klcal.pipeline.selection import Selected, cause_of, names_of, unmatched
from klcal.pipeline.tasks import Progress
from klcal.pipeline.units import Place, named_errors, not_in_units, places_of
from klcal.quantizers.granularity import Per
from klcal.quantizers.rules import Rules
from klcal.sketches.named import Named
from klcal.sketches.stored import counted_already
from klcal.tables.status import FAILURES, Cause
from klcal.writers.sketch_file import Laid, fingerprint, save
from klcal.writers.spool import Spool

__all__ = ["Failure", "Sketched", "sketch_files"]


class Failure(NamedTuple):
    """A tensor, or a whole file, that could not be counted."""

    source: str
    name: str
    reason: str
    cause: Cause


class Sketched(NamedTuple):
    """The result of ``sketch_files``: the number of tensors that were written, failures and warnings."""

    tensors: int
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]


def sketch_files(
    paths: Sequence[str],
    output: str,
    asked: Asked,
    *,
    per: Rules[Per],
    importance: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Sketched:
    """Count the tensors of some files, and write their sketches. If there are none, no file is written.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        output: the file to write, as a whole or not at all. It does not have the tensors that failed.
        asked: the selection of tensors.
        per: the units that are counted separately, by the names of tensors.
        importance: a file with weights, by the names of tensors.
        jobs: the number of processes that count. The bytes of the file do not depend on it.
        scheduler: a Dask cluster that counts instead: see ``klcal.pipeline.mapping.workers_at``.
        resume: keep finished tensors in the folder OUTPUT.part until the file is written, and use those of an earlier
            run.
        progress: told of the work that is done.

    Raises:
        UsageError: two tensors have the same name; one does not have the axis of the channels or groups; the
            importance, the output or the cluster cannot be used; or the run to resume had other arguments.
        OutputError: the file could not be written, or the scheduler of a cluster disappeared.
    """
    weights = None if importance is None else read_importance(importance)
    found = _found(gathered(paths, asked), per, weights)
    by = {_identity(each): each for each in found.wanted} if resume else {}
    read = [*paths, *filter(None, [importance])]
    marks: dict[str, set[bytes]] = {}
    inputs = lambda: [fingerprint(some) for some in marks.values() if some]  # noqa: E731 - known at the end
    with (
        workers_at(scheduler, jobs, read) as workers,
        finished_in(f"{output}.part", by) if resume else nullcontext() as finished,
    ):
        workers.see([*(each.tensor.path for each in found.wanted), *filter(None, [importance])])
        work = _Work(workers, found.failures, marks, progress)
        sketches = partial(work.sketches, found.wanted) if finished is None else partial(work.resumed, by, finished)
        written = save(output, sketches, inputs, read)
    return Sketched(written, tuple(sorted(found.failures)), tuple(found.warnings))


# --- the selected tensors


class _Found(NamedTuple):
    wanted: list[Wanted]
    failures: list[Failure]
    warnings: list[str]


def _found(files: Gathered, per: Rules[Per], weights: NamedImportance | None) -> _Found:
    usable = [each for each in files.tensors if each.description.status == "ok"]
    _check(usable)
    failures = [Failure(error.source, "", error.reason, error.cause) for error in files.errors]
    failures += [
        _failure(each, each.description.reason or each.description.status)
        for each in files.tensors
        if each.description.status in FAILURES
    ]
    wanted = list(_wanted(usable, per, weights, failures))
    globs = unmatched(files.named, (), [("--per", glob) for glob in per.globs])
    unweighed = weights.warnings(files.named, usable) if weights else ()
    return _Found(wanted, failures, sorted({*files.warnings, *globs, *unweighed}))


def _failure(tensor: Selected, reason: str, cause: Cause = "data") -> Failure:
    return Failure(tensor.source, tensor.description.name, reason, cause)


def _check(tensors: Iterable[Selected]) -> None:
    """Refuses tensors that a sketch file cannot hold, before any values are read."""
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
) -> Iterator[Wanted]:
    for each in tensors:
        description, unit = each.description, per.of(names_of(each.description))
        importance = weights.of(each, alone=len(tensors) == 1) if weights else None
        reason = not_in_units(each, unit, weighed=importance is not None)
        if reason is not None:
            failures.append(_failure(each, reason))
            continue
        with named_errors(each):
            places = places_of(each, unit)
        yield Wanted(each, places, Weighed(description, importance) if importance else None)


def _identity(wanted: Wanted) -> bytes:
    """A hash of a tensor: of its description, of the state of its files, and of the way in which it is counted."""
    text = repr((wanted.tensor.source, wanted.tensor.description, wanted.places, wanted.weighed))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# --- the work


@dataclass
class _Work:
    """The work of one call: counts tensors, and collects failures and the fingerprints (marks) of counted values."""

    workers: Workers
    failures: list[Failure]
    marks: dict[str, set[bytes]]
    progress: Progress | None

    def sketches(self, wanted: Sequence[Wanted], spool: Spool) -> Iterator[Named | Laid]:
        """The sketches of tensors, in the order in which they are done."""
        return (self._marked(done) for _, done in self._counted(wanted, spool))

    def resumed(self, by: Mapping[bytes, Wanted], finished: Finished, _: Spool) -> Iterator[Named | Laid]:
        """The sketches of all tensors in ``by``. Finished ones are read from the folder and not counted again."""
        before = {identity for identity in by if identity in finished}
        names = {id(each): identity for identity, each in by.items()}
        left = [each for identity, each in by.items() if identity not in before]
        for each, done in self._counted(left, None):
            if id(each) in names:
                assert isinstance(done.sketch, Named)
                finished.add(names[id(each)], done.sketch, done.marks)
            yield self._marked(done)
        for identity in before:
            yield self._marked(Counted(*finished.read(identity)))

    def _marked(self, done: Counted) -> Named | Laid:
        for source, some in done.marks.items():
            self.marks.setdefault(source, set()).update(some)
        return done.sketch

    def _counted(self, wanted: Sequence[Wanted], spool: Spool | None) -> Iterator[tuple[Wanted, Counted]]:
        """The tensors in the order in which they are done. A pooled tensor is counted without its bad batches."""
        spoiled = []
        for each, outcome in counted(wanted, self.workers, spool, self.progress):
            if not isinstance(outcome, InputError):
                yield each, outcome
            elif each.tensor.batches and len(each.tensor.batches.members) > 1:
                spoiled.append((each, outcome))
            else:
                self.failures.append(_failure(each.tensor, str(outcome), cause_of(outcome)))
        self.progress = None
        if mended := [better for each, fault in spoiled if (better := self._mended(each, fault))]:
            yield from self._counted(mended, spool)

    def _mended(self, spoiled: Wanted, fault: InputError) -> Wanted | None:
        """A pooled tensor without its bad batches; None if no batch is left, or none alone is bad."""
        assert spoiled.tensor.batches is not None
        members, good = spoiled.tensor.batches.members, []
        alone = [Wanted(member, _places_like(spoiled, member)) for member in members]
        for each, found in counted(alone, self.workers):
            if isinstance(found, InputError):
                self.failures.append(_failure(each.tensor, str(found), cause_of(found)))
            else:
                good.append(each.tensor)
        if len(good) == len(members):
            self.failures.append(_failure(spoiled.tensor, str(fault), cause_of(fault)))
        if not good or len(good) == len(members):
            return None
        whole = less(spoiled.tensor, good)
        return spoiled._replace(tensor=whole, places=_places_like(spoiled, whole))


def _places_like(wanted: Wanted, tensor: Selected) -> tuple[Place, ...]:
    return places_of(tensor, wanted.places[0].layout.grid.per) if wanted.places else ()
