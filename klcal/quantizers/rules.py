"""Rules by globs of names, for any setting that may differ from tensor to tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from klcal.errors import UsageError
from klcal.quantizers.granularity import UNIT_WORDS, Per, parse_per

__all__ = ["ALL", "Rules", "rules_of", "units_by_name"]

ALL = "*"  # matches all tensors that no other glob matches

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Rules(Generic[Value]):
    """Globs of names with their values. The first glob that matches a name holds; the last one is ``ALL``."""

    pairs: tuple[tuple[str, Value], ...]

    def of(self, names: Iterable[str]) -> Value:
        """The value for a tensor with these names."""
        if len(self.pairs) == 1:  # as it is for most: then there is nothing to match
            return self.pairs[0][1]
        known = list(names)
        matching = (value for glob, value in self.pairs if any(fnmatchcase(name, glob) for name in known))
        return next(matching, self.pairs[-1][1])

    def each(self, change: Callable[[Value], Other]) -> Rules[Other]:
        """The same globs with other values."""
        return Rules(tuple((glob, change(value)) for glob, value in self.pairs))

    @property
    def values(self) -> list[Value]:
        """All values."""
        return [value for _, value in self.pairs]

    @property
    def globs(self) -> list[str]:
        """The globs that may match no tensor."""
        return [glob for glob, _ in self.pairs if glob != ALL]

    def __str__(self) -> str:
        return "; ".join(str(value) if glob == ALL else f"{glob}={value}" for glob, value in self.pairs)


def rules_of(
    name: str,
    given: object,
    default: str,
    words: Collection[str],
    parse: Callable[[Any], Other],
) -> Rules[Other]:
    """The rules of one value for all, of texts ``VALUE`` and ``GLOB=VALUE``, or of values by their globs.

    A value without a glob comes last. Names and values may hold an equals sign: the longest glob is taken behind
    which a known word begins.

    Args:
        name: of the setting, for messages.
        given: a text, or any other value; texts; or a mapping.
        default: the value of names that no rule matches.
        words: the beginnings of values: letters, digits, "-" and "_".
        parse: turns a text into a value, or checks a value.

    Raises:
        UsageError: two have no glob; or as ``parse``.

    >>> str(rules_of("unit", ["tensor", "*.weight=channel:0"], "tensor", ["tensor", "channel"], str))
    '*.weight=channel:0; tensor'
    >>> rules_of("method", "a=b=kl:weight=1", "kl", ["kl"], str).pairs
    (('a=b', 'kl:weight=1'), ('*', 'kl'))
    """
    pairs: list[tuple[str, Any]]
    if isinstance(given, Mapping):
        pairs = list(given.items())
        if wrong := [glob for glob in given if not isinstance(glob, str)]:
            raise UsageError(f"the {name} of {wrong[0]!r}", "rules are by globs of names, which are texts")
    elif isinstance(given, str) or not isinstance(given, Sequence):
        pairs = [_pair(given, words)]
    else:
        pairs = [_pair(text, words) for text in given]
    everywhere = [value for glob, value in pairs if glob == ALL]
    if len(everywhere) > 1:
        twice = f"{everywhere[0]} and {everywhere[1]}"
        raise UsageError(f"the {name} is given twice for all tensors, as {twice}", "give it once, or as 'GLOB=VALUE'")
    pairs = [pair for pair in pairs if pair[0] != ALL]
    return Rules((*pairs, (ALL, everywhere[0] if everywhere else default))).each(parse)


def units_by_name(per: object) -> Rules[Per]:
    """What gets a scale of its own, by the names of tensors.

    Args:
        per: as ``given`` of ``rules_of``; nothing is "tensor".

    Raises:
        UsageError: a word is unknown, or two have no glob.

    >>> str(units_by_name("*.weight=channel:0"))
    '*.weight=channel:0; tensor'
    """
    return rules_of("unit", per, "tensor", UNIT_WORDS, parse_per)


def _pair(given: object, words: Collection[str]) -> tuple[str, object]:
    """The glob and the value: behind the last equals sign that a known word follows, else behind the first."""
    if not isinstance(given, str):
        return ALL, given
    signs = [match.start() for match in re.finditer("=", given)]
    for sign in (*reversed(signs), -1):
        if re.match(r"[\w-]*", given[sign + 1 :])[0] in words:  # type: ignore[index]  # it matches nothing, too
            return (given[:sign] if sign >= 0 else ALL), given[sign + 1 :]
    glob, equals, value = given.partition("=")
    return (glob, value) if equals else (ALL, given)
