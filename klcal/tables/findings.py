"""Findings of a gate as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Finding", "worst_first"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A tensor that met a rule, or that could not be judged.

    ``text`` is the whole message; ``was`` and ``now`` are the number or the words that the rule looked at, if known.
    """

    source: str
    name: str
    rule: str  # as the user wrote it
    text: str
    was: float | str | None = None  # in the baseline
    now: float | str | None = None
    unit: int | None = None  # the worst one, where channels, groups or blocks met it
    units: int | None = None  # the number of units that met it
    excess: float = math.inf  # distance beyond the limit, as a multiple of the limit; infinite if it is not known


def worst_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """The findings that are no matter of degree, then the furthest beyond their limit; otherwise in the given order.

    >>> a, b, c = (Finding(source="", name=n, rule="", text="", excess=e) for n, e in (("a", 1), ("b", 9), ("c", 2)))
    >>> [each.name for each in worst_first([a, b, c])]
    ['b', 'c', 'a']
    """
    return tuple(sorted(findings, key=lambda each: -each.excess))
