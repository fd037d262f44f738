"""One tensor of many files: which of their tensors are batches of one, and what that is called."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from klcal.errors import UsageError
from klcal.pipeline.batches import error_of, joined, where
from klcal.pipeline.selection import Batches, Selected
from klcal.readers import Description, Source
from klcal.readers.formats import stem
from klcal.sketches.stored import counted_already
from klcal.tables.status import FAILURES
from klcal.tables.table import FileError

__all__ = ["Pool", "pooled", "unpooled"]

WORDS = ("dir", "stem", "name")
NUMBER = re.compile(r"[._-][0-9]+\Z")  # at the end of a stem: with a separator, so that conv1 and conv2 stay two
FORMS, EXAMPLE = "use dir, stem or name", "'(.*)_[0-9]+'"
SEVERAL = "*"  # the source of a tensor that several files share, where these have no name together
AGAIN = "save it as the others are, or leave it out with --exclude"


@dataclass(frozen=True)
class Pool:
    """By what tensors are pooled: "dir", "stem", "name", or a pattern whose groups say what they become."""

    by: str
    pattern: re.Pattern[str] | None = None

    @staticmethod
    def parse(text: str) -> Pool:
        r"""What ``--pool`` says.

        Raises:
            UsageError: it is neither one of the words nor a regular expression with a group.

        >>> Pool.parse("stem").by, Pool.parse(r"(\w+)_\d+").by
        ('stem', 'regex')
        """
        if text in WORDS:
            return Pool(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what may mean something else one day
                pattern = re.compile(text, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            what = error.msg if isinstance(error, re.error) else "it is too deep"
            raise UsageError(f"pool {text!r} is no regular expression: {what}", f"{FORMS}, or {EXAMPLE}") from None
        if not pattern.groups:
            raise UsageError(
                f"pool {text!r} has no group, which would say what a tensor becomes",
                f"{FORMS}, or put that in parentheses: {EXAMPLE}",
            )
        return Pool("regex", pattern)


class _Key(NamedTuple):
    """What the batches of a pool share."""

    place: tuple[str, ...] = ()  # the parts of an absolute path, without which the source is that of the batches
    source: str = ""
    name: str = ""  # the tensor's; where it has none of its own, the pool's place names it


def pooled(
    tensors: Sequence[Selected], pool: Pool, errors: list[FileError], sources: Sequence[Source] = ()
) -> list[Selected]:
    """Tensors, those that belong together as one.

    By "dir", files of one directory belong together; by "stem", those whose stems differ in a number at their end; by
    "name", those whose tensor has the same name. Tensors that have names, as in a .npz, are pooled name by name.
    By a pattern, found in ``source/name`` (or in the source of a file whose tensor has no name), the group ``name``, or
    all groups with slashes between them, are what it becomes; where it is not found, a tensor stays as it is.

    Args:
        tensors: all that are wanted.
        pool: by what they belong together.
        errors: of files so far; batches that do not fit, as by their dtype, join them.
        sources: all files that were given. Those among the errors are counted as left out, where it is known of what.
    """
    groups: dict[_Key, list[Selected]] = {}
    depths: dict[tuple[str, ...], int] = {}
    for each in tensors:
        key, depth = _key(each, pool)
        groups.setdefault(key, []).append(each)
        if key.place:
            depths[key.place] = max(depth, depths.get(key.place, 1))
    names = _distinct_names(depths)
    lost = _lost(sources, {error.source for error in errors}, pool)
    found = []
    for key, members in groups.items():
        if key.source and len(members) == 1:
            found.append(members[0])
            continue
        files = {member.source for member in members}
        source = names[key.place] if key.place else members[0].source if len(files) == 1 else SEVERAL
        found.append(_pool_of(source, key.name or source, members, errors, lost[key.place or key]))
    return found


def _lost(sources: Iterable[Source], names: Collection[str], pool: Pool) -> Counter[tuple[object, ...]]:
    """How many files of each place, or else of each key, could not be read.

    Args:
        sources: all files.
        names: of those that could not be read.
        pool: by what tensors belong together.
    """
    gone = (each for each in sources if each.name in names)
    keys = (_key(Selected(each.name, Description(stem(each.name), "", ()), each.path), pool)[0] for each in gone)
    return Counter(key.place or key for key in keys)


def _key(tensor: Selected, pool: Pool) -> tuple[_Key, int]:
    """What a tensor is pooled by, and how many parts of its place its source has."""
    source, name = tensor.source, tensor.description.name
    own = "" if name == stem(source) else name
    if counted_already(tensor.description.parts):  # klcal merge adds them up
        return _Key(source=source, name=name), 0
    if pool.pattern is not None:
        called = _called(pool.pattern.search(f"{source}/{own}" if own else source))
        return (_Key(name=called) if called else _Key(source=source, name=name)), 0
    if pool.by == "name":
        return _Key(name=own or stem(source).rsplit("/", 1)[-1]), 0
    if source == "-":
        return _Key(source=source, name=name), 0
    folder, depth = _parts(os.path.dirname(tensor.path)), source.count("/")  # noqa: PTH120 - Path is slow
    if pool.by == "dir":
        return _Key(folder, name=own), max(depth, 1)
    own_stem = stem(source).rsplit("/", 1)[-1]
    return _Key((*folder, NUMBER.sub("", own_stem) or own_stem), name=own), depth + 1


def _called(match: re.Match[str] | None) -> str:
    """What a pattern names; nothing where it is not found, or no group of it took part."""
    if match is None:
        return ""
    named = match.groupdict()
    found = [named["name"]] if "name" in named else match.groups()
    return "/".join(each for each in found if each)


def _parts(folder: str) -> tuple[str, ...]:
    return tuple(part for part in os.path.abspath(folder).split("/") if part) or ("/",)  # noqa: PTH100 - nor does it follow links


def _distinct_names(depths: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], str]:
    """The last parts of each path as a name: as many as its depth, and more until all names differ."""
    while True:
        names = {parts: "/".join(parts[-depth:]) for parts, depth in depths.items()}
        times = Counter(names.values())
        longer = {
            parts: min(depth + (times[names[parts]] > 1), max(depth, len(parts))) for parts, depth in depths.items()
        }
        if longer == depths:
            return names
        depths = longer


# --- what becomes of them


def _pool_of(source: str, name: str, members: Sequence[Selected], errors: list[FileError], lost: int) -> Selected:
    """The tensor whose batches most members are, by their dtype; the others join the errors.

    Args:
        source: of the tensor.
        name: of the tensor.
        members: what belongs together.
        errors: of files and batches so far.
        lost: how many files that belong to it could not be read.
    """
    usable = [each for each in members if each.description.status == "ok"]
    if not usable:
        return _uncounted(source, name, members)
    (dtype, most), *others = Counter(each.description.dtype for each in usable).most_common()
    if 2 * most <= len(usable):
        one, other = (next(e for e in usable if e.description.dtype == d) for d in (dtype, others[0][0]))
        reason = f"its values are {dtype} in {where(one)} and {others[0][0]} in {where(other)}; save all in one dtype"
        empty = Description(name, "", (), status="unsupported", reason=reason)
        return Selected(source, empty, usable[0].path, Batches(tuple(usable), 0))
    batches = [each for each in usable if each.description.dtype == dtype]
    for each in members:
        if each.description.dtype != dtype or each.description.status != "ok":
            here = f"its values are {each.description.dtype}, those of {where(batches[0])} {dtype}"
            errors.append(error_of(each, f"{each.description.reason or here}; {AGAIN}"))
    return joined(source, name, batches, len(members) - len(batches) + lost)


def _uncounted(source: str, name: str, members: Sequence[Selected]) -> Selected:
    """The tensor of members that are all not calibrated, integers for one: a row with the reason of the worst."""
    descriptions = [each.description for each in members]
    worst = next((each for each in descriptions if each.status in FAILURES), descriptions[0])
    whole = joined(source, name, members, 0)
    dtype = worst.dtype if len({each.dtype for each in descriptions}) == 1 else ""
    found = replace(whole.description, dtype=dtype, parts=(), status=worst.status, reason=worst.reason)
    return whole._replace(description=found)


def unpooled(tensors: Sequence[Selected], pool: Pool) -> Iterator[str]:
    """A warning, where a pattern is found nowhere."""
    if tensors and pool.pattern is not None and not any(each.batches for each in tensors):
        yield f"--pool {pool.pattern.pattern!r} is found in no source/name; the first is {where(tensors[0])}"
