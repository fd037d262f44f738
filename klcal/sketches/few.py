"""Counts of distinct values in NumPy, as long as there are few of them.

The compiled kernel does the same for itself: see ``FloatTables`` in ``klcal.kernels.counting``.
"""

from __future__ import annotations

import numpy as np

from klcal.sketches.counted import counted_patterns
from klcal.sketches.patterns import SIGN, Numbers, Patterns, Resolution, runs, summed
from klcal.sketches.sketch import Sketch

__all__ = ["Few", "distinct"]

ZEROS = 2  # patterns of 0.0 and -0.0, which do not count against the limit


class Few:
    """The distinct float32 patterns of finite values so far, ascending, and how often each occurred.

    >>> few = Few(2)
    >>> few.add(np.float32([1.0, 2.0, 2.0]).view(np.uint32)), few.add(np.float32([3.0]).view(np.uint32))
    (True, False)
    >>> few.counts.tolist()
    [1, 2]
    """

    def __init__(self, few: int) -> None:
        self.few = few
        self.patterns, self.counts = np.empty(0, np.uint32), np.empty(0, np.int32)

    def add(self, bits: Patterns) -> bool:
        """Counts the patterns of finite values, (n,), and returns True.

        Returns False, and counts none of them, if there would be more than ``few`` distinct nonzero values.
        """
        some = bits[: 2 * self.few]  # enough to see it in ordinary data
        if some.size < bits.size and distinct(some)[0].size > self.few + ZEROS:
            return False
        return self.add_distinct(*distinct(bits))

    def add_distinct(self, patterns: Patterns, counts: Numbers) -> bool:
        """As ``add``, for distinct patterns (n,) that ascend, and how often each occurs, (n,)."""
        both, summed_counts = np.concatenate([self.patterns, patterns]), np.concatenate([self.counts, counts])
        order = np.argsort(both, kind="stable")
        both, summed_counts, _ = summed(both[order], summed_counts[order], np.array([0, both.size]))
        if np.count_nonzero(both & ~SIGN) > self.few:
            return False
        self.patterns, self.counts = both, summed_counts
        return True

    def sketch(self, resolution: Resolution) -> Sketch:
        """The sketch, of one unit, of all values that were counted."""
        return counted_patterns(self.patterns, self.counts, np.array([0, self.patterns.size]), resolution)


def distinct(bits: Patterns) -> tuple[Patterns, Numbers]:
    """The distinct patterns of (n,), ascending, and how often each occurs. As np.unique, in half the time."""
    return runs(np.sort(bits), np.array([0, bits.size]))[:2]
