"""Entropy, and how far one probability distribution is from another.

A distribution is the last axis of an array: non-negative numbers that sum to 1. Leading axes are batches and broadcast:
(*rows, n) in, (*rows,) out. NumPy arrays and torch tensors are taken, the result is of the same kind, in float64
and without gradient. p is the reference and q the approximation, always in that order.

    0·log 0 = 0;  p > 0 = q gives +inf, which is the answer and not smoothed away
    nothing is normalised: other numbers raise NotADistribution, which names the first bad row
    base is e (nats), 2 (bits), 10 (bans), or any number above 1

Source, where a function names none: Cover & Thomas, Elements of Information Theory, 2nd ed. 2006, chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from klcal.divergence.arrays import Floats, NotADistribution, Values, as_arrays, distributions, nats_per_unit
from klcal.errors import UsageError

__all__ = [
    "DIVERGENCES",
    "Divergence",
    "NotADistribution",
    "cross_entropy",
    "entropy",
    "hellinger",
    "jeffreys",
    "js",
    "js_distance",
    "kl",
    "reverse_kl",
    "total_variation",
    "wasserstein",
]

# --- the functions


def entropy(p: Values, *, base: float = math.e) -> Values:
    """Entropy H(p) = −Σ p·log p: how much there is to learn from an outcome. In [0, log n].

    Source: Shannon, A Mathematical Theory of Communication, 1948, §6.

    >>> float(entropy([0.5, 0.25, 0.25, 0], base=2))
    1.5
    """
    (p,), like = distributions(p=p)
    return like(_surprise(p, p) / nats_per_unit(base))


def cross_entropy(p: Values, q: Values, *, base: float = math.e) -> Values:
    """Cross-entropy H(p, q) = −Σ p·log q = H(p) + D(p‖q): the cost of coding p by a code made for q.

    >>> float(cross_entropy([0.5, 0.5], [0.25, 0.75], base=2) - entropy([0.5, 0.5], base=2)).__round__(4)
    0.2075
    """
    (p, q), like = distributions(p=p, q=q)
    return like(_surprise(p, q) / nats_per_unit(base))


def kl(p: Values, q: Values, *, base: float = math.e) -> Values:
    """Kullback-Leibler divergence (relative entropy) D(p‖q) = Σ p·log(p/q) ≥ 0: 0 only where p = q.

    Summed as Σ [p·log(p/q) − p + q], the same since both sum to 1: no term is negative, and none cancels, as
    H(p, q) − H(p) does for p ≈ q.

    Source: Kullback & Leibler, On Information and Sufficiency, 1951, §2.

    >>> float(kl([0.5, 0.5], [0.25, 0.75], base=2)).__round__(4)
    0.2075
    >>> kl([[0.5, 0.5], [1, 0]], [1, 0]).tolist()
    [inf, 0.0]
    """
    (p, q), like = distributions(p=p, q=q)
    return like(_relative(p, q) / nats_per_unit(base))


def reverse_kl(p: Values, q: Values, *, base: float = math.e) -> Values:
    """D(q‖p), with the arguments in the order of the other functions: finite only if q is 0 wherever p is.

    >>> float(reverse_kl([0.25, 0.75], [0.5, 0.5], base=2)).__round__(4)
    0.2075
    """
    return kl(q, p, base=base)


def jeffreys(p: Values, q: Values, *, base: float = math.e) -> Values:
    """Symmetrised KL: D(p‖q) + D(q‖p) = Σ (p − q)·log(p/q). The sum, not its half.

    Source: Jeffreys, An Invariant Form for the Prior Probability in Estimation Problems, 1946.

    >>> float(jeffreys([0.25, 0.75], [0.75, 0.25], base=3)).__round__(4)
    1.0
    """
    (p, q), like = distributions(p=p, q=q)
    return like((_relative(p, q) + _relative(q, p)) / nats_per_unit(base))


def js(p: Values, q: Values, *, base: float = math.e) -> Values:
    """Jensen-Shannon divergence ½·D(p‖m) + ½·D(q‖m), m = (p + q)/2. In [0, log 2]: finite for any two distributions.

    Source: Lin, Divergence Measures Based on the Shannon Entropy, 1991, §4.

    >>> float(js([1, 0], [0, 1], base=2))
    1.0
    """
    (p, q), like = distributions(p=p, q=q)
    return like(_jensen_shannon(p, q) / nats_per_unit(base))


def js_distance(p: Values, q: Values, *, base: float = math.e) -> Values:
    """Jensen-Shannon distance: √js, which is a metric; js is not.

    Source: Endres & Schindelin, A New Metric for Probability Distributions, 2003.

    >>> float(js_distance([1, 0], [0, 1], base=2))
    1.0
    """
    (p, q), like = distributions(p=p, q=q)
    return like(np.sqrt(_jensen_shannon(p, q) / nats_per_unit(base)))


def total_variation(p: Values, q: Values) -> Values:
    """Total variation ½·Σ |p − q|: the most by which the probabilities of an event can differ. In [0, 1].

    Source: Levin & Peres, Markov Chains and Mixing Times, 2nd ed. 2017, §4.1.

    >>> float(total_variation([0.5, 0.5], [0.25, 0.75]))
    0.25
    """
    (p, q), like = distributions(p=p, q=q)
    return like(np.abs(p - q).sum(axis=-1) / 2)


def hellinger(p: Values, q: Values) -> Values:
    """Hellinger distance √(½·Σ (√p − √q)²), a metric. In [0, 1].

    Source: Tsybakov, Introduction to Nonparametric Estimation, 2009, §2.4; here with the factor ½.

    >>> float(hellinger([1, 0], [0, 1]))
    1.0
    """
    (p, q), like = distributions(p=p, q=q)
    return like(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=-1) / 2))


def wasserstein(p: Values, q: Values, *, order: int = 1, positions: Values | None = None) -> Values:
    """Wasserstein distance on the line, of order r = 1 or 2: W = (∫₀¹ |F⁻¹(u) − G⁻¹(u)|ʳ du)^(1/r).

    F⁻¹ and G⁻¹ are the quantile functions of p and q: steps, so that the integral is a sum, and exact. The unit is
    that of the positions. Moving a mass ε changes W₂ by up to √ε times the way: at ε = 10⁻¹⁶, rounding, by 10⁻⁸ of it.

    Args:
        p: distributions, (*rows, n).
        q: distributions, (*rows, n).
        order: 1, the earth mover's distance, or 2.
        positions: where the outcomes lie, (n,), in any order; 0 … n − 1 by default.

    Raises:
        NotADistribution: a row of p or q is not a distribution.
        UsageError: the order is neither 1 nor 2, or the positions are not n finite numbers.

    Source: Peyré & Cuturi, Computational Optimal Transport, 2019, remark 2.30.

    >>> [float(wasserstein([1, 0, 0], [0, 0.5, 0.5], positions=[0, 1, 7], order=r)) for r in (1, 2)]
    [4.0, 5.0]
    """
    if order not in (1, 2):
        raise UsageError(f"a Wasserstein distance of order {order} is not known", "use 1 or 2")
    (p, q), like = distributions(p=p, q=q)
    line = np.arange(p.shape[-1], dtype=float) if positions is None else _line(positions, p.shape[-1])
    ascending = np.argsort(line, kind="stable")
    return like(_transport(p[..., ascending], q[..., ascending], line[ascending], order))


# --- the registry


@dataclass(frozen=True)
class Divergence:
    """A function of two distributions, as the command and the documentation know it."""

    function: Callable[..., Values]
    title: str
    unit: str  # "nats" and "√nats" become those of the base; "position" is the unit of the positions; "": a number
    meaning: str

    def __call__(self, p: Values, q: Values, *, base: float = math.e, positions: Values | None = None) -> Values:
        """Its value; the base and the positions go to those functions that take them."""
        if "nats" in self.unit:
            return self.function(p, q, base=base)
        return self.function(p, q, positions=positions) if self.unit == "position" else self.function(p, q)

    def unit_in(self, base: float) -> str:
        """The unit of its value.

        >>> DIVERGENCES["kl"].unit_in(2), DIVERGENCES["js_distance"].unit_in(10), DIVERGENCES["hellinger"].unit_in(2)
        ('bits', '√bans', '')
        """
        return self.unit.replace("nats", BASES.get(base, f"nats / ln {base:g}"))


BASES = {math.e: "nats", 2: "bits", 10: "bans"}
DIVERGENCES: dict[str, Divergence] = {
    "kl": Divergence(kl, "D(P‖Q)", "nats", "what is lost when Q stands for P; +inf where Q lacks what P has"),
    "reverse_kl": Divergence(reverse_kl, "D(Q‖P)", "nats", "what is lost when P stands for Q"),
    "jeffreys": Divergence(jeffreys, "Jeffreys", "nats", "D(P‖Q) + D(Q‖P)"),
    "js": Divergence(js, "Jensen-Shannon", "nats", "what one outcome tells about which of the two it came from"),
    "js_distance": Divergence(js_distance, "JS distance", "√nats", "the root of Jensen-Shannon, a metric"),
    "cross_entropy": Divergence(cross_entropy, "H(P, Q)", "nats", "the cost of coding P by a code made for Q"),
    "total_variation": Divergence(total_variation, "total variation", "", "the most by which an event's odds differ"),
    "hellinger": Divergence(hellinger, "Hellinger", "", "a metric between 0 and 1"),
    "wasserstein_1": Divergence(wasserstein, "Wasserstein-1", "position", "how far mass moves, on average"),
    "wasserstein_2": Divergence(partial(wasserstein, order=2), "Wasserstein-2", "position", "the same, in mean square"),
}


# --- the formulas, on float64 arrays that were checked


def log_ratio(p: Floats, q: Floats) -> Floats:
    """ln(p/q) for p > 0 and q ≥ 0: to full relative precision for p ≈ q, and without overflow where they are far."""
    gap = p - q
    near = np.abs(gap) < q / 2
    with np.errstate(divide="ignore"):
        return np.where(near, np.log1p(gap / np.where(near, q, np.inf)), np.log(p) - np.log(q))


def _relative(p: Floats, q: Floats) -> Floats:
    """Σ [p·ln(p/q) − p + q], homogeneous in (p, q): D(cp‖cq) = c·D(p‖q). Terms below 0 are rounding of |p − q|."""
    occupied = p > 0
    logs = log_ratio(np.where(occupied, p, 1.0), np.where(occupied, q, 1.0))
    return _sum(np.maximum(p * logs - (p - q), 0.0))


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    """D(2p‖p + q)/4 + D(2q‖p + q)/4: the mixture is not halved, so that it does not underflow where p does not."""
    return (_relative(2 * p, p + q) + _relative(2 * q, p + q)) / 4


def _surprise(p: Floats, q: Floats) -> Floats:
    """−Σ p·ln q; a q that exceeds 1 by less than SUM_TOLERANCE counts as 1, so that no term is negative."""
    with np.errstate(divide="ignore"):
        return _sum(p * np.abs(np.log(np.minimum(np.where(p > 0, q, 1.0), 1.0))))


def _transport(p: Floats, q: Floats, line: Floats, order: int) -> Floats:
    """W of distributions on an ascending line.

    All levels of both distribution functions, sorted, cut [0, 1] into pieces on which both quantile functions are
    constant; how many levels of p lie below a piece is the index of its quantile.
    """
    n = line.size
    levels = np.concatenate(np.broadcast_arrays(p.cumsum(axis=-1), q.cumsum(axis=-1)), axis=-1)
    ranks = np.argsort(levels, axis=-1, kind="stable")
    widths = np.diff(np.take_along_axis(levels, ranks, axis=-1), axis=-1, prepend=0.0)
    passed_p: npt.NDArray[np.int64] = np.cumsum(ranks < n, axis=-1) - (ranks < n)
    passed_q: npt.NDArray[np.int64] = np.cumsum(ranks >= n, axis=-1) - (ranks >= n)
    unit = float(line[-1] - line[0]) or 1.0  # so that no square overflows
    ways = np.abs(line[np.minimum(passed_p, n - 1)] - line[np.minimum(passed_q, n - 1)]) / unit
    cost = _sum(widths * ways**order)
    return unit * (np.sqrt(cost) if order == 2 else cost)


def _sum(terms: Floats) -> Floats:
    total: Floats = terms.sum(axis=-1)
    return total


def _line(positions: Values, n: int) -> Floats:
    (line,), _ = as_arrays(positions=positions)
    if line.shape != (n,) or not np.isfinite(line).all():
        raise UsageError(f"positions of shape {line.shape} are not {n} finite numbers", "give one per outcome")
    return line
