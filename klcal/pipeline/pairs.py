"""Pairs of tensors of two sides: with the same name, with the same file and name, or because there are only two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from klcal.pipeline.selection import Selected, names_of
from klcal.tables.rows import Row

__all__ = ["Pair", "matched", "prefix_hint", "without", "without_prefix"]


class Pair(NamedTuple):
    """A tensor of P and the one of Q that has its name, or neither's partner."""

    p: Selected | None
    q: Selected | None
    quantizer: Row | None = None  # that makes Q of P
    lacking: str = "Q does not have it"  # why P's has no partner


def matched(p: Sequence[Selected], q: Sequence[Selected]) -> list[Pair]:
    """Pairs by name, or the only two tensors whatever they are called."""
    if len(p) == len(q) == 1:
        return [Pair(p[0], q[0])]
    twice = _repeated(p) | _repeated(q)
    partners = {key: each for each in q for key in _keys(each, twice)}
    pairs, taken = [], set()
    for each in p:
        partner = next((partners[key] for key in _keys(each, twice) if key in partners), None)
        pairs.append(Pair(each, partner))
        taken.add(id(partner))
    return pairs + [Pair(None, each) for each in q if id(each) not in taken]


def without(pairs: Iterable[Pair], lost_p: Collection[str], lost_q: Collection[str]) -> Iterator[Pair]:
    """The pairs, without tensors whose partner is in a file that could not be read; "" among these means all files."""
    for pair in pairs:
        lost = lost_q if pair.q is None else lost_p
        alone = pair.p is None or pair.q is None
        if not (alone and any(each.source in lost or "" in lost for each in pair[:2] if each is not None)):
            yield pair


def _repeated(tensors: Iterable[Selected]) -> set[str]:
    times = Counter(name for each in tensors for name in names_of(each.description))
    return {name for name, count in times.items() if count > 1}


def _keys(tensor: Selected, repeated: set[str]) -> list[tuple[str, str]]:
    """The keys of a tensor: its names, with its file if a name occurs in several files."""
    return [(tensor.source if name in repeated else "", name) for name in names_of(tensor.description)]


# --- prefixes


def without_prefix(tensors: Sequence[Selected], prefix: str) -> list[Selected]:
    """The tensors, their names without a prefix, but where another one of that file is called so."""
    taken = {(each.source, name) for each in tensors for name in names_of(each.description)}

    def stripped(source: str, name: str) -> str:
        short = name.removeprefix(prefix)
        return name if not short or (source, short) in taken else short

    def renamed(each: Selected) -> Selected:
        name, *aliases = (stripped(each.source, name) for name in names_of(each.description))
        return each._replace(description=replace(each.description, name=name, aliases=tuple(aliases)))

    return [renamed(each) for each in tensors] if prefix else list(tensors)


def prefix_hint(p: Collection[str], q: Collection[str], of_q: str = "Q") -> list[str]:
    """A hint if no name is on both sides, but most would be without a prefix on one side; else nothing.

    >>> prefix_hint(["module.fc.weight", "module.fc.bias"], ["fc.weight", "fc.bias"])
    ["no name is in both P and Q, but without 'module.' 2 of P are in Q: add --strip-prefix 'module.'"]
    """
    if not set(p).isdisjoint(q):
        return []
    for here, names, there, others in (("P", p, of_q, set(q)), (of_q, q, "P", set(p))):
        ends = ((name, dot.end()) for name in names for dot in re.finditer(r"\.", name))
        found = Counter(name[:end] for name, end in ends if name[end:] in others)
        for prefix, count in found.most_common(1):
            if 2 * count >= min(len(p), len(q)):
                would = f"without {prefix!r} {count} of {here} are in {there}"
                return [f"no name is in both P and {of_q}, but {would}: add --strip-prefix {prefix!r}"]
    return []
