"""Values kept whole, as long as there are few of them: their patterns, sorted, and how often each occurs."""

from __future__ import annotations

import numpy as np

from klcal.sketches.counted import counted_patterns
from klcal.sketches.patterns import SIGN, Numbers, Patterns, Resolution, runs, summed
from klcal.sketches.sketch import Sketch

__all__ = ["Few", "distinct"]

ZEROS = 2  # patterns that are 0, and no value among the few


class Few:
    """Distinct patterns and how often each occurred, as long as there are few of them."""

    def __init__(self, few: int) -> None:
        self.few = few
        self.patterns, self.counts = np.empty(0, np.uint32), np.empty(0, np.int32)

    def add(self, bits: Patterns) -> bool:
        """Counts patterns of finite values; where these would be more than a few, counts none and is False."""
        some = bits[: 2 * self.few]  # of ordinary data, enough to see it
        if some.size < bits.size and distinct(some)[0].size > self.few + ZEROS:
            return False
        return self.add_distinct(*distinct(bits))

    def add_distinct(self, patterns: Patterns, counts: Numbers) -> bool:
        """The same, of patterns that ascend."""
        both, summed_counts = np.concatenate([self.patterns, patterns]), np.concatenate([self.counts, counts])
        order = np.argsort(both, kind="stable")
        both, summed_counts, _ = summed(both[order], summed_counts[order], np.array([0, both.size]))
        if np.count_nonzero(both & ~SIGN) > self.few:
            return False
        self.patterns, self.counts = both, summed_counts
        return True

    def sketch(self, resolution: Resolution) -> Sketch:
        """Of what was counted."""
        return counted_patterns(self.patterns, self.counts, np.array([0, self.patterns.size]), resolution)


def distinct(bits: Patterns) -> tuple[Patterns, Numbers]:
    """The patterns that occur, ascending, and how often each does: as np.unique, in half the time."""
    return runs(np.sort(bits), np.array([0, bits.size]))[:2]
