"""Files to a sketch file: what is counted of their tensors, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

from klcal.errors import InputError, UsageError
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
from klcal.pipeline.tasks import BYTE_SECONDS, Progress, outcomes
from klcal.quantizers.granularity import Per
from klcal.quantizers.layout import layout
from klcal.quantizers.rules import Rules
from klcal.readers import Description, find
from klcal.sketches.named import Named
from klcal.sketches.values import counted_already, sketch
from klcal.tables.status import Cause
from klcal.tables.table import FileError
from klcal.writers.sketch_file import digest, fingerprint, save

__all__ = ["Failure", "Sketched", "sketch_files"]

COUNT_SECONDS = 1e-4  # to open a file, and hand the sketch of a tensor over


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


def sketch_files(
    paths: Sequence[str],
    output: str,
    per: Rules[Per],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dequantize: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Sketched:
    """Counts the tensors of some files, and writes their sketches; no file where there are none.

    Args:
        paths: files, directories, patterns, or "-" for standard input.
        output: the file to write, all of it or nothing. What failed is not in it.
        per: what gets a scale of its own, by the names of tensors.
        include: globs, one of which a tensor's name has to match.
        exclude: globs, none of which it may match.
        dequantize: whether codes that have a scale beside them are counted as what they stand for.
        jobs: how many processes count. The bytes of the file do not depend on it.
        progress: is told how far the work is.

    Raises:
        UsageError: two tensors have one name; one has not the axis whose channels or groups are asked for; the output
            cannot be written.
        OutputError: it could not be written after all.
    """
    found = find(paths)
    errors = list(found.errors)
    described = list(described_tensors(found.sources, errors, dequantize=dequantize))
    wanted = selected(described, include, exclude)
    failures = [Failure(*_of_file(error)) for error in errors]
    for each in wanted:
        if each.description.status not in ("ok", "skipped"):
            reason = each.description.reason or each.description.status
            failures.append(Failure(each.source, each.description.name, reason, "data"))
    tensors = [each for each in wanted if each.description.status == "ok"]
    _check(tensors, per)
    counted = _Counted(tensors, per, jobs, progress, failures)
    written = save(output, counted.sketches(), counted.inputs, paths)
    globs = unmatched(described, include, (("--per", glob) for glob in per.globs))
    warnings = sorted({*found.warnings, *file_warnings(described), *globs})
    return Sketched(written, tuple(sorted(failures)), tuple(warnings))


def _of_file(error: FileError) -> tuple[str, str, str, Cause]:
    return error.source, "", error.reason, error.cause


def _check(tensors: Sequence[Selected], per: Rules[Per]) -> None:
    """Refuses what cannot be asked for, before anything is read."""
    first: dict[str, str] = {}
    for source, each, *_ in tensors:
        if each.name in first:
            what = f"{first[each.name]} and {source} both have a tensor called {each.name!r}"
            raise UsageError(what, "sketch each file to one of its own, then add them up with klcal merge")
        first[each.name] = source
        if counted_already(each.parts) is not None:
            raise UsageError(f"{source} is a sketch file already", "klcal merge adds such files up")
        if prod(each.shape):
            try:
                layout(per.of(names_of(each)), each.shape, each.order or ())
            except UsageError as error:
                raise UsageError(f"{source}: {each.name}: {error.what}", error.hint) from None


class _Counted:
    """The sketches of some tensors, and of what files they were: it lives for one call."""

    def __init__(
        self,
        tensors: Sequence[Selected],
        per: Rules[Per],
        jobs: int,
        progress: Progress | None,
        failures: list[Failure],
    ) -> None:
        self._tensors, self._per, self._jobs = tensors, per, jobs
        self._progress, self._failures = progress, failures
        self._digests: dict[str, list[bytes]] = {}

    def sketches(self) -> Iterator[Named]:
        """Each tensor that can be counted; others join the failures."""
        sizes = [sum(part.nbytes for part in each.description.parts) for each in self._tensors]
        seconds = BYTE_SECONDS * sum(sizes) + COUNT_SECONDS * len(sizes)
        with outcomes(partial(_sketch, self._per), self._tensors, seconds, self._jobs) as found:
            if self._progress is not None:
                self._progress.start(len(sizes), sum(sizes))
            for (source, each, *_), size, sketched in zip(self._tensors, sizes, found, strict=True):
                if isinstance(sketched, InputError):
                    self._failures.append(Failure(source, each.name, str(sketched), cause_of(sketched)))
                else:
                    self._digests.setdefault(source, []).append(sketched.digest)
                    yield sketched.named
                if self._progress is not None:
                    self._progress.advance(size)
                    self._progress.finish(each.name)

    def inputs(self) -> list[str]:
        """A fingerprint of what was counted of each file."""
        return [fingerprint(each) for each in self._digests.values()]


class _One(NamedTuple):
    named: Named
    digest: bytes  # which its worker computes: it takes as long as counting a fifth of the values


def _sketch(per: Rules[Per], tensor: Selected) -> _One | InputError:
    return attempt(partial(_named, per, tensor.description))


def _named(per: Rules[Per], each: Description) -> _One:
    found = sketch(each, per=per.of(names_of(each)))
    one = Named(each.name, each.dtype, each.shape, found, aliases=tuple(sorted(each.aliases)))
    return _One(one, digest(one))
