"""KL divergence between continuous distributions: closed forms for normal ones, quadrature for any two densities.

D(p‖q) = ∫ p(x)·log(p(x)/q(x)) dx does not depend on the coordinates, is at least 0, and is +inf if q is 0 on a set that
has mass under p. Functions take NumPy arrays or torch tensors, and return the same kind, in float64 and without
gradient; ``kl_distributions`` returns the result of torch, with its gradient. Parameters broadcast. The base is e for
nats, 2 for bits, 10 for bans.

Every closed form is summed from terms that are not negative, s² − 1 − 2·ln s of a ratio of deviations s and squared
shifts, which keeps the digits of a small divergence between nearly equal distributions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from klcal.divergence.arrays import Floats, NotADistribution, Values, as_arrays, nats_per_unit, row_name
from klcal.divergence.probabilities import log_ratio
from klcal.errors import UsageError

__all__ = ["kl_density", "kl_distributions", "kl_normal", "kl_normal_diagonal", "kl_normal_full", "kl_standard_normal"]

SYMMETRY_TOLERANCE = 1e-9  # allowed difference of a covariance from its transpose, relative to its largest entry
MASS_TOLERANCE = 1e-6  # allowed difference of the integral of a density from 1
QUADRATURE_ERROR = 1e-10  # the error of an integral, absolute or relative, that the quadrature aims at
UNSURE = 1e-6  # an integral did not converge if its estimated error exceeds this, both absolute and relative
NEGLIGIBLE_MASS = 1e-12  # mass of p where q is 0, below which q is assumed to have underflowed
SUBDIVISIONS = 500  # of an interval, at most


# --- normal distributions


def kl_normal(mean_p: Values, std_p: Values, mean_q: Values, std_q: Values, *, base: float = math.e) -> Values:
    """D(N(μ₁, σ₁²)‖N(μ₂, σ₂²)) = ln(σ₂/σ₁) + (σ₁² + (μ₁ − μ₂)²) / 2σ₂² − ½, elementwise.

    Raises:
        UsageError: a deviation is not positive and finite, a mean not finite, or the shapes do not broadcast.

    Source: Kullback, Information Theory and Statistics, 1959, chapter 9, in one dimension.

    >>> kl_normal(0, 1, [0, 1], 1).tolist()
    [0.0, 0.5]
    """
    parameters, like = as_arrays(mean_p=mean_p, std_p=std_p, mean_q=mean_q, std_q=std_q)
    return like(_kl_normal(*_normal_parameters(parameters)) / nats_per_unit(base))


def kl_normal_diagonal(mean_p: Values, std_p: Values, mean_q: Values, std_q: Values, *, base: float = math.e) -> Values:
    """``kl_normal`` for n independent coordinates, (*rows, n) → (*rows,): the sum over the coordinates.

    >>> float(kl_normal_diagonal([0, 0], [1, 1], [1, 2], [1, 1]))
    2.5
    """
    parameters, like = as_arrays(mean_p=mean_p, std_p=std_p, mean_q=mean_q, std_q=std_q)
    each = _kl_normal(*_normal_parameters(parameters))
    if each.ndim == 0:
        raise UsageError("the parameters have no axis of coordinates", "kl_normal is for one dimension")
    return like(each.sum(axis=-1) / nats_per_unit(base))


def kl_normal_full(mean_p: Values, cov_p: Values, mean_q: Values, cov_q: Values, *, base: float = math.e) -> Values:
    """D(N(μ₁, Σ₁)‖N(μ₂, Σ₂)) = ½·[tr(Σ₂⁻¹Σ₁) − n + (μ₁ − μ₂)ᵀΣ₂⁻¹(μ₁ − μ₂) + ln(det Σ₂ / det Σ₁)].

    Means (*rows, n) and covariances (*rows, n, n) → (*rows,). With Σ = LLᵀ and M = L₂⁻¹L₁, trace and determinants are
    Σ_i (M_ii² − 1 − 2·ln M_ii) + Σ_{i>j} M_ij².

    Raises:
        UsageError: a covariance is not symmetric or not positive definite, a mean not finite, or shapes do not fit.

    Source: Kullback, Information Theory and Statistics, 1959, chapter 9.

    >>> float(kl_normal_full([0, 0], [[1, 0], [0, 1]], [1, 2], [[1, 0], [0, 1]]))
    2.5
    """
    (mean_p, cov_p, mean_q, cov_q), like = as_arrays(mean_p=mean_p, cov_p=cov_p, mean_q=mean_q, cov_q=cov_q)
    _check_fit(mean_p=mean_p, cov_p=cov_p, mean_q=mean_q, cov_q=cov_q)
    _require("finite", np.isfinite, mean_p=mean_p, mean_q=mean_q)
    root_p, root_q = _root("cov_p", cov_p), _root("cov_q", cov_q)
    mixed = np.tril(np.linalg.solve(root_q, root_p), -1)
    shift = np.linalg.solve(root_q, (mean_p - mean_q)[..., None])
    spread = _spread(np.diagonal(root_p, axis1=-2, axis2=-1), np.diagonal(root_q, axis1=-2, axis2=-1))
    with np.errstate(over="ignore"):  # +inf, then
        nats = (spread.sum(axis=-1) + (mixed**2).sum(axis=(-2, -1)) + (shift**2).sum(axis=(-2, -1))) / 2
    return like(nats / nats_per_unit(base))


def kl_standard_normal(mean: Values, log_var: Values, *, base: float = math.e) -> Values:
    """D(N(μ, diag σ²)‖N(0, I)) = ½·Σ (σ² + μ² − 1 − ln σ²): the regulariser of a variational autoencoder.

    (*rows, n) → (*rows,), given μ and ln σ².

    Raises:
        UsageError: a parameter is not finite, or the shapes do not broadcast.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes, 2014, appendix B.

    >>> float(kl_standard_normal([0, 1], [0, 0]))
    0.5
    """
    (mean, log_var), like = as_arrays(mean=mean, log_var=log_var)
    _check_broadcast(mean=mean, log_var=log_var)
    _require("finite", np.isfinite, mean=mean, log_var=log_var)
    with np.errstate(over="ignore"):  # +inf, then
        each = np.maximum(np.expm1(log_var) - log_var, 0.0) + mean**2
    if each.ndim == 0:
        raise UsageError("the parameters have no axis of coordinates", "hand in arrays of one dimension or more")
    return like(each.sum(axis=-1) / 2 / nats_per_unit(base))


def _kl_normal(mean_p: Floats, std_p: Floats, mean_q: Floats, std_q: Floats) -> Floats:
    with np.errstate(over="ignore"):  # +inf, then
        nats: Floats = (_spread(std_p, std_q) + ((mean_p - mean_q) / std_q) ** 2) / 2
    return nats


def _spread(std_p: Floats, std_q: Floats) -> Floats:
    """s² − 1 − 2·ln s, s = σ₁/σ₂. It is at least 0, up to rounding."""
    gap = (std_p - std_q) / std_q
    return np.maximum(gap * (gap + 2) - 2 * log_ratio(std_p, std_q), 0.0)


# --- checks of parameters


def _normal_parameters(parameters: list[Floats]) -> list[Floats]:
    mean_p, std_p, mean_q, std_q = parameters
    _check_broadcast(mean_p=mean_p, std_p=std_p, mean_q=mean_q, std_q=std_q)
    _require("finite", np.isfinite, mean_p=mean_p, mean_q=mean_q)
    _require("positive and finite", lambda std: (std > 0) & (std < np.inf), std_p=std_p, std_q=std_q)
    return parameters


def _require(wanted: str, test: Callable[[Floats], Any], **named: Floats) -> None:
    for name, array in named.items():
        wrong = ~np.asarray(test(array))
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0].tolist())
            raise UsageError(f"{row_name(name, at)} is {array[at]:g}", f"it has to be {wanted}")


def _check_broadcast(**named: Floats) -> None:
    try:
        np.broadcast_shapes(*(array.shape for array in named.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise UsageError(f"the shapes {shapes} do not broadcast", "leading axes are batches") from None


def _check_fit(**named: Floats) -> None:
    """That means are (*rows, n), covariances (*rows, n, n), and rows broadcast."""
    n = max((array.shape[-1] for array in named.values() if array.ndim), default=0)
    for name, array in named.items():
        wanted = (n, n) if name.startswith("cov") else (n,)
        if not n or array.shape[-len(wanted) :] != wanted:
            raise UsageError(f"{name} has shape {array.shape}", "means are (*rows, n), covariances (*rows, n, n)")
    _check_broadcast(**{name: array[..., 0] if name.startswith("cov") else array for name, array in named.items()})


def _root(name: str, covariance: Floats) -> Floats:
    """The lower Cholesky factor of each row."""
    transposed = covariance.swapaxes(-2, -1)
    size = np.abs(covariance).max(axis=(-2, -1), keepdims=True)
    symmetric = (np.abs(covariance - transposed) <= SYMMETRY_TOLERANCE * size).all(axis=(-2, -1))  # NaN is not
    for row in np.argwhere(~symmetric)[:1]:
        raise UsageError(f"{row_name(name, tuple(row.tolist()))} is not symmetric", "hand in a covariance matrix")
    try:
        root: Floats = np.asarray(np.linalg.cholesky(covariance), np.float64)
    except np.linalg.LinAlgError:
        row = next(row for row in np.ndindex(covariance.shape[:-2]) if not _is_positive_definite(covariance[row]))
        hint = "its eigenvalues have to be above 0: drop what is degenerate"
        raise UsageError(f"{row_name(name, row)} is not positive definite", hint) from None
    return root


def _is_positive_definite(matrix: Floats) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


# --- any two distributions


def kl_distributions(p: Any, q: Any, *, base: float = math.e) -> Any:
    """D(p‖q) of two ``torch.distributions``, by ``torch.distributions.kl_divergence``: a tensor, with its gradient.

    Raises:
        UsageError: torch has no closed form for the pair, or these are not distributions.
    """
    torch: Any = sys.modules.get("torch")  # a caller with a distribution has imported it
    if torch is None or not all(isinstance(each, torch.distributions.Distribution) for each in (p, q)):
        raise UsageError("these are not two torch.distributions", "kl_density takes functions, klcal.divergence arrays")
    try:
        return torch.distributions.kl_divergence(p, q) / nats_per_unit(base)
    except NotImplementedError:
        pair = f"{type(p).__name__} and {type(q).__name__}"
        raise UsageError(f"torch has no closed form for {pair}", "kl_density integrates their densities") from None


Density = Callable[[float], float]


def kl_density(
    p: Density,
    q: Density,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    points: Sequence[float] = (),
    log: bool = False,
    base: float = math.e,
) -> float:
    """D(p‖q) of two densities by adaptive quadrature over (low, high), which must hold the mass of both.

    A density that underflows counts as 0, and D as +inf if p has mass there: log densities do not.

    Args:
        p: the density of the reference, a function of one number.
        q: the density of the approximation.
        low: where the line begins.
        high: where it ends.
        points: where to cut the line: at narrow peaks, at peaks far from 0, and at the ends of a support.
        log: whether the functions are log densities.
        base: of the logarithm.

    Raises:
        NotADistribution: a density is negative or NaN, or does not integrate to 1.
        UsageError: scipy is not installed; the interval is empty; an integral does not converge.

    Source: Piessens et al., QUADPACK, 1983 (scipy.integrate.quad).
    """
    cuts = [low, *sorted({float(point) for point in points if low < point < high}), high]
    if not low < high:
        raise UsageError(f"({low:g}, {high:g}) is no interval", "low has to be below high")
    log_p, log_q = (_log_density(name, each, log) for name, each in (("p", p), ("q", q)))
    for name, each in (("p", log_p), ("q", log_q)):
        mass = _integral(lambda x, each=each: math.exp(each(x)), cuts)  # type: ignore[misc]
        if not abs(mass - 1) <= MASS_TOLERANCE:
            hint = "normalise it; where it has narrow or far peaks, name them: points=[…]"
            raise NotADistribution(f"the density {name} integrates to {mass:.9g} over ({low:g}, {high:g})", hint)
    if _integral(lambda x: math.exp(log_p(x)) if log_q(x) == -math.inf else 0.0, cuts) > NEGLIGIBLE_MASS:
        return math.inf
    return _integral(lambda x: _term(log_p(x), log_q(x)), cuts) / nats_per_unit(base)


def _term(log_p: float, log_q: float) -> float:
    """p·ln(p/q) − p + q ≥ 0, as in ``klcal.divergence.probabilities.kl``; 0 where q is, and p is negligible."""
    if log_q == -math.inf:
        return 0.0
    p, q = math.exp(log_p), math.exp(log_q)
    return max(p * (log_p - log_q) - (p - q), 0.0) if p > 0 else q


def _log_density(name: str, density: Density, is_log: bool) -> Density:
    def log_density(x: float) -> float:
        value = float(density(x))
        if math.isnan(value) or value == math.inf or (value < 0 and not is_log):
            raise NotADistribution(f"the density {name} is {value:g} at {x:g}", "densities are finite and not negative")
        return value if is_log else math.log(value) if value > 0 else -math.inf

    return log_density


def _integral(function: Density, cuts: Sequence[float]) -> float:
    try:
        from scipy.integrate import quad
    except ImportError:
        raise UsageError("quadrature needs scipy", "pip install 'klcal[scipy]'") from None
    total = error = 0.0
    for low, high in pairwise(cuts):
        options = {"epsabs": QUADRATURE_ERROR, "epsrel": QUADRATURE_ERROR, "limit": SUBDIVISIONS}
        part, doubt, *_ = quad(function, low, high, full_output=1, **options)
        total, error = total + part, error + doubt
    if not error <= UNSURE * max(1.0, abs(total)):
        hint = "name its peaks and jumps: points=[…]; it may be infinite"
        raise UsageError(f"an integral over ({cuts[0]:g}, {cuts[-1]:g}) does not converge", hint)
    return total
