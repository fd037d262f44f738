"""Divergences of samples: two sketches counted on common bins.

The plug-in estimate takes shares for probabilities: ``kl(pair.p, pair.q)``, or any other of
``klcal.divergence.DIVERGENCES``. It is a statement on the bins; merging bins never increases it. Bins are in ascending
order; exact zeros are a bin of their own, an atom at 0; NaN and infinities are in no bin.

Sampling alone adds the following, in nats, if p has N values in K occupied bins and q has M values:

    E H(p̂) ≈ H(p) − (K − 1)/2N            some bins are never seen: an entropy comes out too small
    E D(p̂‖q) ≈ D(p‖q) + (K − 1)/2N        against a known q; a divergence comes out too large
    E D(p̂‖q̂) ≈ D(p‖q) + (K − 1)/2N + Σ p(1 − q)/2Mq      where no bin of p is empty in q̂: else it is +inf

So two samples of one distribution are apart by about (K − 1)/2·(1/N + 1/M): see ``kl_bias``.

Source: Miller, Note on the Bias of Information Estimates, 1955; Paninski, Estimation of Entropy and Mutual
Information, 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from klcal.divergence.arrays import Floats, nats_per_unit
from klcal.divergence.probabilities import entropy, kl
from klcal.errors import InputError, UsageError
from klcal.sketches.distribution import Distribution
from klcal.sketches.prefix_sums import PrefixSums
from klcal.sketches.sketch import Sketch

Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

__all__ = ["Pair", "common_bins", "even_bins", "kl_bias", "mass_bins", "plug_in_entropy", "plug_in_kl", "sketch_bins"]

EVEN_BINS = 2048  # the usual number in calibration tools
MASS_BINS = 64  # (K − 1)/2N < 0.01 nats from N = 3,200 on
VALUES_PER_BIN, FEWEST_BINS = 2, 2  # the minimum of values of the smaller sample in a bin, and of bins
MOST_WIDER = 4  # two samples that are merged into two bins: the maximum ratio of their ranges
BUCKET = 2.0**-10  # the width of a sketch's buckets, relative to their values


@dataclass(frozen=True, eq=False)
class Pair:
    """The numbers of values of two samples in common bins."""

    counts_p: Floats  # (bins,): whole numbers, except for even bins, which cut through buckets
    counts_q: Floats  # (bins,)
    positions: Floats  # (bins,): the middle of each bin, ascending
    merged: int = 0  # the number of bins that disappeared because bins with values of one sample only were merged

    @property
    def p(self) -> Floats:
        """The share of the first sample in each bin, (bins,): a distribution."""
        return _shares(self.counts_p)

    @property
    def q(self) -> Floats:
        """The share of the second sample in each bin, (bins,): a distribution."""
        return _shares(self.counts_q)


def _shares(counts: Floats) -> Floats:
    shares: Floats = counts / counts.sum()
    return shares


# --- bins


def sketch_bins(a: Sketch, b: Sketch, mantissa_bits: int | None = None) -> Pair:
    """The distinct values of both sketches, or their occupied buckets: exact counts.

    These are the values themselves where both sides have few, else buckets 0.1 % wide, so Wasserstein distances are
    nearly those of the samples. Divergences see every gap between two samples, even at 3 mantissa bits: they are
    mostly +inf.

    Args:
        a: of one unit.
        b: the same.
        mantissa_bits: the resolution to coarsen both to.

    Raises:
        InputError: a sketch has no finite value.
        UsageError: a sketch has fewer mantissa bits.

    >>> from klcal.sketches.values import sketch
    >>> pair = sketch_bins(sketch([0.0, 1.0, -2.0, 1.0]), sketch([3.0]))
    >>> pair.positions.tolist(), pair.counts_p.tolist(), pair.counts_q.tolist()
    ([-2.0, 0.0, 1.0, 3.0], [1.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    """
    _check_finite(a, b)
    if mantissa_bits is None and a.resolution != b.resolution:
        mantissa_bits = min(a.resolution.mantissa_bits, b.resolution.mantissa_bits)
    if mantissa_bits is not None:
        a, b = a.coarsen(mantissa_bits), b.coarsen(mantissa_bits)
    union = a + b
    pieces = Distribution.of(union)
    positions = (pieces.inner + pieces.outer) / 2 * np.where(pieces.negative, -1.0, 1.0)
    negatives = int(np.count_nonzero(pieces.negative))
    order = np.append(np.arange(union.keys.size)[: -negatives - 1 : -1], np.arange(union.keys.size - negatives))
    counts = [np.zeros(union.keys.size) for _ in range(2)]
    for each, found in zip(counts, (a, b), strict=True):
        bucket = np.searchsorted(union.keys, found.keys, side="right") - 1  # its key is the same, or the nearest below
        np.add.at(each, bucket, found.counts)
    return _with_zeros(a, b, counts[0][order], counts[1][order], positions)


def even_bins(a: Sketch, b: Sketch, bins: int = EVEN_BINS) -> Pair:
    """Bins of equal width from the lowest to the highest nonzero value of both, as in a histogram.

    A bucket that is cut counts as evenly spread; a value on an edge belongs to the bin nearer to zero. One outlier
    widens all bins.

    Raises:
        InputError: a sketch has no finite value.
        UsageError: the number of bins is below 1.
    """
    _check_finite(a, b)
    _check_bins(bins)
    if not (a + b).counts.size:
        return _with_zeros(a, b, *np.zeros((3, 0)))
    edges = np.linspace(min(a.minimum[0], b.minimum[0]), max(a.maximum[0], b.maximum[0]), bins + 1)
    counts = [_masses(Distribution.of(each).prefix_sums(0), edges) for each in (a, b)]
    return _with_zeros(a, b, counts[0], counts[1], (edges[:-1] + edges[1:]) / 2)


def mass_bins(a: Sketch, b: Sketch, bins: int = MASS_BINS) -> Pair:
    """At most ``bins`` bins, each a run of buckets with an equal share of the nonzero values of both.

    Use these to estimate a divergence of continuous distributions: no bin is empty on both sides. The estimate is +inf
    only where p alone fills a whole bin, that is 1/bins of both samples together.

    Raises:
        InputError: a sketch has no finite value.
        UsageError: there is less than one bin.

    Source: after Wang, Kulkarni & Verdú, Divergence Estimation of Continuous Distributions Based on Data-Dependent
    Partitions, 2005, which cuts at the quantiles of q alone.
    """
    _check_bins(bins)
    fine = sketch_bins(a, b)
    atom = fine.positions == 0
    shares = (fine.p + fine.q) * ~atom
    middle = (shares.cumsum() - shares / 2) / max(shares.sum(), np.finfo(float).tiny)
    run = np.minimum((middle * bins).astype(np.int64), bins - 1) * 2 + (fine.positions > 0)
    run[atom] = -1
    _, index = np.unique(run, return_inverse=True)
    return _summed(fine, index, shares + atom)


def common_bins(a: Sketch, b: Sketch, bins: int = MASS_BINS) -> Pair:
    """``mass_bins``, merged until every bin has values of both samples, as far as the samples overlap.

    They are for a sample and its rounded copy. A bin that one side alone fills is merged with the nearest bin that the
    other side fills; of two equally near ones, with the one towards zero. Zeros of both sides stay a bin of their own.
    Merging can only lower a divergence (the data-processing inequality): the result is a lower bound.

    Bins are not merged, and a divergence is +inf, where merging would hide that the samples lie apart: where it leaves
    one bin (unless the samples are equal within 0.1 %), or two while one sample reaches over four times as far as the
    other. A sample with fewer than two values a bin gets fewer bins.

    Raises:
        InputError: a sketch has no finite value.
        UsageError: there is less than one bin.

    >>> from klcal.sketches.values import sketch
    >>> values = np.random.default_rng(1).normal(size=1000)
    >>> pair = common_bins(sketch(values), sketch(values.round()))
    >>> pair.positions.size, pair.merged, round(float(kl(pair.p, pair.q)), 4), round(float(kl(pair.q, pair.p)), 4)
    (7, 43, 0.0207, 0.0169)
    """
    least = int(min(a.finite[0], b.finite[0]))
    pair = mass_bins(a, b, min(bins, max(FEWEST_BINS, least // VALUES_PER_BIN)))
    zeros = (pair.positions == 0) & (pair.counts_p > 0) & (pair.counts_q > 0)
    some = np.flatnonzero(~zeros)
    has_p, has_q = pair.counts_p[some] > 0, pair.counts_q[some] > 0
    if (has_p & has_q).all() or not (has_p.any() and has_q.any()):
        return pair
    positions = pair.positions[some]
    group = _groups(_nearest(positions, has_p, has_q))
    groups, widths = int(group[-1]) + 1, [np.ptp(positions[has]) for has in (has_p, has_q)]
    alike = groups > 1 and max(widths) <= MOST_WIDER * min(widths)
    if groups < 3 and not alike and np.ptp(positions) > BUCKET * np.abs(positions).max():
        return pair
    index = np.arange(pair.positions.size) + some.size
    index[some] = group
    _, index = np.unique(index, return_inverse=True)
    return replace(_summed(pair, index, pair.p + pair.q), merged=int(some.size - groups))


def _nearest(positions: Floats, has_p: Bools, has_q: Bools) -> Integers:
    """(bins,): the bin with which each is to be merged; itself, if it has values of both samples."""
    found = np.arange(positions.size)
    for mine, theirs in ((has_p, has_q), (has_q, has_p)):
        alone, there = np.flatnonzero(mine & ~theirs), np.flatnonzero(theirs)
        after = np.searchsorted(there, alone)
        below, above = there[np.clip([after - 1, after], 0, there.size - 1)]
        ways = np.abs(positions[[below, above]] - positions[alone])
        inward = np.abs(positions[below]) < np.abs(positions[above])
        found[alone] = np.where((ways[0] < ways[1]) | ((ways[0] == ways[1]) & inward), below, above)
    return found


def _groups(near: Integers) -> Integers:
    """Which bins belong together, numbered in their order: (bins,). Those of a group are neighbours."""
    bins = np.arange(near.size)
    begin, end = (np.bincount(to(bins, near) + 1, minlength=near.size + 1) for to in (np.minimum, np.maximum))
    found: Integers = np.cumsum(np.cumsum(begin - end)[:-1] == 0) - 1  # where no merger reaches over the gap before
    return found


def _summed(pair: Pair, index: Integers, weights: Floats) -> Pair:
    """Bins of the same index added up, at the mean of their positions, in ascending order."""
    sums = (pair.counts_p, pair.counts_q, weights * pair.positions, weights)
    counts_p, counts_q, moments, masses = (np.bincount(index, each).astype(np.float64) for each in sums)
    positions = moments / masses
    order = np.argsort(positions)
    return Pair(counts_p[order], counts_q[order], positions[order])


def _masses(sums: PrefixSums, edges: Floats) -> Floats:
    """The number of values between each two neighbouring edges; all values lie between the first and the last."""
    positive, negative = sums.sides
    within = positive.mass_within(np.maximum(edges, 0.0)) - negative.mass_within(np.maximum(-edges, 0.0))
    within[0], within[-1] = -negative.size, positive.size
    return np.maximum(np.diff(within), 0.0)


def _with_zeros(a: Sketch, b: Sketch, counts_p: Floats, counts_q: Floats, positions: Floats) -> Pair:
    """Exact zeros as a bin at 0, if there are any."""
    zeros_a, zeros_b = int(a.zeros[0]), int(b.zeros[0])
    if not zeros_a + zeros_b:
        return Pair(counts_p, counts_q, positions)
    at = int(np.searchsorted(positions, 0.0))
    return Pair(np.insert(counts_p, at, zeros_a), np.insert(counts_q, at, zeros_b), np.insert(positions, at, 0.0))


def _check_finite(*sketches: Sketch) -> None:
    for name, each in zip("pq", sketches, strict=True):
        if not each.finite[0]:
            raise InputError(f"the sample of {name} has no finite value: there is nothing to compare")


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise UsageError(f"{bins} bins hold nothing", "use 1 or more")


# --- estimates


def plug_in_entropy(counts: npt.ArrayLike, *, miller_madow: bool = False, base: float = math.e) -> float:
    """H(p̂) of the shares of the bins, (bins,); with ``miller_madow``, + (K − 1)/2N for K occupied bins of N values.

    The correction removes the first order of the bias as long as N is several times K; below, too much or too little.
    It is an entropy of bins, not of a density: half as wide bins have up to one bit more.

    Raises:
        UsageError: the counts are not finite, negative, or all zero.

    >>> round(plug_in_entropy([2, 1, 1], base=2), 6), round(plug_in_entropy([2, 1, 1], miller_madow=True), 6)
    (1.5, 1.289721)
    """
    found = np.asarray(counts, np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise UsageError("these are not the counts of one sample", "hand in numbers of values, one per bin")
    nats = float(entropy(_shares(found)))
    correction = (np.count_nonzero(found) - 1) / (2 * found.sum()) if miller_madow else 0.0
    return float((nats + correction) / nats_per_unit(base))


def plug_in_kl(pair: Pair, *, base: float = math.e) -> float:
    """D(p̂‖q̂) of the shares of the bins: too large by about ``kl_bias``, +inf where q has no value and p has.

    >>> from klcal.sketches.values import sketch
    >>> rng = np.random.default_rng(1)
    >>> pair = mass_bins(sketch(rng.normal(0.0, 1, 50_000)), sketch(rng.normal(0.5, 1, 50_000)))
    >>> round(plug_in_kl(pair), 2), round(kl_bias(pair), 4)  # the distributions are ½·0.5² = 0.125 nats apart
    (0.13, 0.0014)
    """
    return float(kl(pair.p, pair.q, base=base))


def kl_bias(pair: Pair, *, base: float = math.e) -> float:
    """By how much sampling alone makes ``plug_in_kl`` too large, to first order: (K − 1)/2N + Σ p(1 − q)/2Mq.

    The first term is what Miller and Madow add to the entropy of p, which D(p‖q) = H(p, q) − H(p) subtracts; the
    second is the bias of log q̂. For like distributions both together are about (K − 1)/2·(1/N + 1/M). The bias is not
    subtracted silently: for like distributions the difference is negative half of the time, and a difference near 0
    means that the samples do not tell p from q.
    """
    p, q = pair.p, pair.q
    occupied = p > 0
    if (q[occupied] == 0).any():
        return math.inf
    of_entropy = (np.count_nonzero(occupied) - 1) / (2 * pair.counts_p.sum())
    of_log = np.sum(p[occupied] * (1 - q[occupied]) / q[occupied]) / (2 * pair.counts_q.sum())
    return float((of_entropy + of_log) / nats_per_unit(base))
