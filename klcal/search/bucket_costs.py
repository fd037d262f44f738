"""The squared error of candidates for a unit of many buckets, from prefix sums.

The error is Σx² less what each level saves, which depends on the number and the sum of the values beyond an edge (the
formula is in ``klcal.search.candidate_costs.squared_errors``). So a candidate costs a look-up for each level, however
many buckets there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import squared_errors
from klcal.search.choices import Spans, allowed_belows
from klcal.sketches.distribution import Distribution
from klcal.sketches.prefix_sums import PrefixSums

__all__ = ["BucketCosts"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class BucketCosts:
    """The costs, Σ(x − x̂)², of candidates for one unit: implements ``klcal.search.explore.Costs``."""

    scheme: Scheme
    spans: Spans  # of one unit
    sums: PrefixSums
    min: Floats  # (1,): the lowest value, 0 if none is negative
    max: Floats  # (1,): the highest value, 0 if none is positive
    size: Floats  # (1,): the number of values

    @staticmethod
    def of(distribution: Distribution, scheme: Scheme, spans: Spans) -> BucketCosts:
        """The costs for the only unit of a distribution."""
        return BucketCosts(
            scheme=scheme,
            spans=spans,
            sums=distribution.prefix_sums(0),
            min=distribution.min,
            max=distribution.max,
            size=distribution.size,
        )

    @property
    def gap(self) -> Floats:
        """(1,): the range, in place of the smallest distance of two values.

        The search tries scales that divide this distance. Among so many values it would be almost 0.
        """
        return self.max - self.min

    def select(self, units: npt.NDArray[np.bool_]) -> BucketCosts:
        """The costs themselves: there is one unit."""
        del units
        return self

    def least_errors(self, scale: Floats) -> tuple[Integers, Floats]:
        """The best number of levels below zero for each scale, and its Σ(x − x̂)²: (1, candidates) each."""
        error = squared_errors(self.sums, self.scheme, scale[0])
        belows = self.scheme.belows
        if self.scheme.kind == "affine":
            first, last = (ends[0][:, None] for ends in allowed_belows(self.scheme, scale, self.spans))
            error = np.where((belows >= first) & (belows <= last), error, np.inf)
        best = np.argmin(error, axis=1)
        least = np.take_along_axis(error, best[:, None], 1)[:, 0]
        return belows[best][None], least[None] * self.size[0]

    def errors(self, scale: Floats, below: Integers) -> Floats:
        """Σ(x − x̂)² of each candidate: (1, candidates) for scales and levels below zero of that shape."""
        error = squared_errors(self.sums, self.scheme, scale[0])
        option = np.searchsorted(self.scheme.belows, below[0]) if self.scheme.kind == "affine" else 0
        found: Floats = error[np.arange(scale.shape[1]), option][None] * self.size[0]
        return found

    def refined(self, scale: Floats, below: Integers) -> Floats:
        """The scales themselves: a step of least squares would improve nothing for so many values."""
        del below
        return scale
