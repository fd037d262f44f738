"""An explanation of a scale as plain values: the distribution of the tensor, and the costs of other scales.

Every number that a plot shows is here; the code that draws a plot computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "DETAILS",
    "Alternative",
    "Curve",
    "Detail",
    "Explanation",
    "Histogram",
    "Nearby",
    "Octaves",
    "Without",
]

Detail = Literal["none", "histogram", "plots", "all"]
"""How much is explained: nothing; the histogram; the loss too, and what is cheap to compare; every method."""
DETAILS: tuple[Detail, ...] = get_args(Detail)


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """The numbers of finite values in bins of equal width, from the lowest to the highest value, zeros included.

    >>> Histogram(low=0.0, high=4.0, counts=(3, 0, 1, 2)).merged(2)
    Histogram(low=0.0, high=4.0, counts=(3, 3))
    """

    low: float
    high: float
    counts: tuple[int, ...]

    def merged(self, bins: int) -> Histogram:
        """The histogram with fewer bins, whose number divides the present one."""
        each = len(self.counts) // bins
        counts = tuple(sum(self.counts[i : i + each]) for i in range(0, len(self.counts), each))
        return Histogram(low=self.low, high=self.high, counts=counts)


@dataclass(frozen=True, kw_only=True)
class Octaves:
    """The nonzero finite values by magnitude; the first count is of 2**first ≤ |x| < 2**(first + 1)."""

    first: int
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The loss of candidates, by rising scale, each with its best zero point; choices of methods have their own.

    The method minimises ``loss``: for ``kl`` the sum of ``divergence`` and ``distortion``, for ``mse`` the
    ``distortion``, for ``kl-classic`` the divergence of the literature. For methods that minimise nothing it is the
    loss of ``kl``. A number that is infinite or undefined is None.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int | None, ...]
    divergence: tuple[float | None, ...]  # D(P‖Q) in nats; None where no cell is cut
    distortion: tuple[float | None, ...]  # weight · MSE / (2 · MSE*); None where MSE* is 0
    loss: tuple[float | None, ...]
    chosen: int  # the place of the choice


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """The choice of a method, and its costs; figures as in a row."""

    method: str
    scale: float
    zero_point: int | None
    low: float
    high: float
    divergence: float | None
    distortion: float | None
    loss: float | None
    mse: float
    sqnr_db: float | None
    clipped: float
    rounded_to_zero: float


@dataclass(frozen=True, kw_only=True)
class Nearby:
    """The costs of a scale close to the choice, with the zero point of the choice."""

    change: float  # relative, of the scale
    loss: float | None
    mse: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class Without:
    """The choice, and its costs, without the values of largest magnitude."""

    share: float  # of the nonzero values
    count: int
    beyond: float  # the largest magnitude that is left
    scale: float | None
    zero_point: int | None
    sqnr_db: float | None  # of the values that are left, with that scale
    sqnr_db_as_is: float | None  # of the same values, with the scale that was chosen for all


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The explanation of a tensor, a channel or a group. Parts that are not there are None or empty."""

    histogram: Histogram | None = None
    octaves: Octaves | None = None
    levels: tuple[float, ...] | None = None  # the values of the codes, if there are not too many
    objective: str | None = None  # the minimised loss: kl, mse, kl-classic; None if the method follows a rule
    weight: float | None = None  # of the distortion
    curve: Curve | None = None
    methods: tuple[Alternative, ...] = ()  # the choice first
    nearby: tuple[Nearby, ...] = ()
    without: tuple[Without, ...] = ()

    @property
    def others(self) -> Iterator[Alternative]:
        """The choices of all methods except the one that was asked for."""
        return iter(self.methods[1:])
