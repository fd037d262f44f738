"""Which tensor gets what: rules by globs of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from klcal.errors import UsageError
from klcal.quantizers.granularity import Per, PerTensor, parse_per

__all__ = ["Rules", "parse_rules", "per_of"]

Rules: TypeAlias = tuple[tuple[str, Per], ...]
"""Globs of names, and what the tensors that match have scales for; the first that matches holds."""


def parse_rules(texts: Sequence[str]) -> Rules:
    """The rules of some ``UNIT`` and ``GLOB=UNIT``: the unit without a glob is for what no glob matches.

    Raises:
        UsageError: a text is neither, or two have no glob.

    >>> parse_rules(["tensor", "*.weight=channel:0"])
    (('*.weight', PerChannel(axis=0)), ('*', PerTensor()))
    """
    split = [text.rpartition("=") for text in texts]
    everywhere = [unit for _, equals, unit in split if not equals]
    if len(everywhere) > 1:
        raise UsageError(
            f"--per is given twice for all tensors, as {everywhere[0]} and {everywhere[1]}", "give it once"
        )
    rules = [(glob, parse_per(unit)) for glob, equals, unit in split if equals]
    return (*rules, *(("*", parse_per(unit)) for unit in everywhere))


def per_of(names: Iterable[str], rules: Rules) -> Per:
    """What the first rule that matches one of a tensor's names asks for; a tensor where none does."""
    known = list(names)
    return next((per for glob, per in rules if any(fnmatchcase(name, glob) for name in known)), PerTensor())
