"""The squared error of candidates for units whose values are points: every value is looked at under every candidate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from klcal.kernels import points
from klcal.quantizers.code_points import FLOATS
from klcal.quantizers.scheme import Scheme
from klcal.search.balance import Balance
from klcal.search.choices import Spans, allowed_belows
from klcal.sketches.distribution import Distribution, Points

__all__ = ["PointCosts"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Values = npt.NDArray[np.floating[Any]]

ARITHMETIC = {
    "float8_e4m3fn": points.Floats(mantissa_bits=3, min_exponent=-6, max=448.0),
    "float8_e5m2": points.Floats(mantissa_bits=2, min_exponent=-14, max=57344.0),
    "float4_e2m1fn": points.Floats(mantissa_bits=1, min_exponent=0, max=6.0),
}
"""The formats whose values are rounded by arithmetic (OCP FP8, §5; OCP MX, §5.3.3). The levels of nf4 are looked up."""
FEW_LEVELS = 16  # levels up to which every zero point is tried, for units with few values


@dataclass(frozen=True, eq=False, kw_only=True)
class PointCosts:
    """The costs, Σ(x − x̂)², of candidates for some units: implements ``klcal.search.explore.Costs``.

    Buckets count as points at their middle. The choice is then close to the best, and the table has its exact cost, by
    ``klcal.search.exact_costs``.
    """

    scheme: Scheme
    spans: Spans
    values: Values  # (units, n), float32 or float64: ascending, divided by ``power``, padded with zeros
    counts: Values | None  # (units, n): how often each value occurs, 0 for padding; None if each occurs once
    power: Floats  # (units,): a power of two; divided by it, the largest magnitude is in [1, 2)
    min: Floats  # (units,): the lowest value, 0 if none is negative
    max: Floats  # (units,): the highest value, 0 if none is positive
    size: Floats  # (units,): the number of values
    every_zero_point: bool = False  # whether every zero point of an affine scheme is tried

    @staticmethod
    def of(distribution: Distribution, scheme: Scheme, spans: Spans, *, few: bool = False) -> PointCosts:
        """The costs for all units of a distribution; with ``few``, in float64 and up to 4 bits for every zero point."""
        return PointCosts._of(distribution, distribution.points, scheme, spans, few)

    @staticmethod
    def of_some(distribution: Distribution, scheme: Scheme, spans: Spans) -> PointCosts:
        """The costs of some values of each unit, for a first look: see ``Distribution.thinned``."""
        return PointCosts._of(distribution, distribution.thinned(), scheme, spans, few=False)

    @staticmethod
    def _of(distribution: Distribution, points: Points, scheme: Scheme, spans: Spans, few: bool) -> PointCosts:
        sizes = np.diff(points.starts)
        dtype = np.float64 if few else np.float32
        shape = distribution.units, int(sizes.max(initial=1))
        values, counts = np.zeros(shape, dtype), np.zeros(shape, dtype)
        power = np.ldexp(1.0, np.frexp(np.maximum(-distribution.min, distribution.max))[1] - 1)
        known = np.arange(shape[1]) < sizes[:, None]
        values[known] = points.values / np.repeat(power, sizes)
        counts[known] = points.counts
        once = bool((points.counts == 1).all())
        return PointCosts(
            scheme=scheme,
            spans=spans,
            values=values,
            counts=None if once else counts,
            power=power,
            min=distribution.min,
            max=distribution.max,
            size=distribution.size,
            every_zero_point=few and scheme.size <= FEW_LEVELS,
        )

    def select(self, units: Bools) -> PointCosts:
        """The costs for the units of a mask, (units,)."""
        if units.all():
            return self
        return replace(
            self,
            spans=self.spans.select(units),
            values=self.values[units],
            counts=None if self.counts is None else self.counts[units],
            power=self.power[units],
            min=self.min[units],
            max=self.max[units],
            size=self.size[units],
        )

    @cached_property
    def gap(self) -> Floats:
        """(units,): the smallest distance between two values of a unit, or between a value and 0."""
        values = np.sort(self.values, axis=1)  # with the padding, which is 0
        steps = np.diff(values, axis=1)
        least = np.where(steps > 0, steps, np.inf).min(axis=1, initial=np.inf)
        nearest = np.where(values != 0, np.abs(values), np.inf).min(axis=1)
        gap: Floats = np.minimum(least, nearest) * self.power
        return gap

    def rounding(self, below: Integers) -> points.Rounding:
        """The rounding of candidates with ``below``, (units, candidates), levels below zero."""
        if self.scheme.is_float:
            known = ARITHMETIC.get(self.scheme.dtype)
            return known or points.Levels(FLOATS[self.scheme.dtype].astype(self.values.dtype))
        if self.scheme.is_fixed:
            return points.Integers(float(self.scheme.zero), float(self.scheme.size - 1 - self.scheme.zero))
        under = below[:, :, None].astype(self.values.dtype)
        return points.Integers(under, self.scheme.size - 1 - under)

    def errors(self, scale: Floats, below: Integers) -> Floats:
        """Σ(x − x̂)² of each candidate: (units, candidates)."""
        steps = scale / self.power[:, None]
        return points.squared_errors(self.values, self.counts, steps, self.rounding(below)) * scale**2

    def refined(self, scale: Floats, below: Integers) -> Floats:
        """(units, candidates): the best scales if every value keeps the level that it is rounded to (least squares)."""
        power = self.power[:, None]
        return points.least_squares(self.values, self.counts, scale / power, self.rounding(below)) * power

    def least_errors(self, scale: Floats) -> tuple[Integers, Floats]:
        """The best number of levels below zero for each scale, and its Σ(x − x̂)²: (units, candidates) each."""
        best, least = np.zeros(scale.shape, np.int64), np.full(scale.shape, np.inf)
        for number, below in enumerate(self._belows(scale)):
            error = self.errors(scale, below)
            is_better = (error < least) | (number == 0)
            best, least = np.where(is_better, below, best), np.where(is_better, error, least)
        return best, least

    def _belows(self, scale: Floats) -> Iterator[Integers]:
        """The numbers of levels below zero that are tried, (units, candidates) each. The first of equal ones wins."""
        if self.scheme.kind != "affine":
            yield from (np.full(scale.shape, below) for below in self.scheme.belows)
        elif self.every_zero_point:
            first, last = allowed_belows(self.scheme, scale, self.spans)
            for below in self.scheme.belows[::-1]:
                yield np.clip(below, first, last)
        else:
            first, last = allowed_belows(self.scheme, scale, self.spans)
            balanced = np.clip(self._balance.belows(self.scheme.size, scale / self.power[:, None]), first, last)
            yield balanced
            yield np.minimum(balanced + 1, last)

    @cached_property
    def _balance(self) -> Balance:
        """Where clipping costs least."""
        return Balance.of(self.values, self.counts)
