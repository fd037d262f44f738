"""What a gate stopped at, in plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Finding", "worst_first"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A tensor that met a rule, or of which it is not known.

    ``text`` says it whole; ``was`` and ``now`` are what the rule looked at, a number or words, as far as known.
    """

    source: str
    name: str
    rule: str  # as it was given
    text: str
    was: float | str | None = None  # in the baseline
    now: float | str | None = None
    unit: int | None = None  # the worst one, where channels, groups or blocks met it
    units: int | None = None  # how many did
    excess: float = math.inf  # how far beyond its limit, as a multiple of that; infinite where it is not known


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """What is no matter of degree, then what is furthest beyond its limit; else in the order in which they are.

    >>> a, b, c = (Finding(source="", name=n, rule="", text="", excess=e) for n, e in (("a", 1), ("b", 9), ("c", 2)))
    >>> [each.name for each in worst_first([a, b, c])]
    ['b', 'c', 'a']
    """
    return tuple(sorted(findings, key=lambda each: -each.excess))
