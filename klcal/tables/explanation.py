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
    """The finite values in bins of one width from the least to the greatest of them, zeros included.

    >>> Histogram(low=0.0, high=4.0, counts=(3, 0, 1, 2)).merged(2)
    Histogram(low=0.0, high=4.0, counts=(3, 3))
    """

    low: float
    high: float
    counts: tuple[int, ...]

    def merged(self, bins: int) -> Histogram:
        """The same in fewer bins; their number divides that of the bins that there are."""
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
    """What candidates lose, by rising scale; each has the zero point that is best for it, chosen ones have their own.

    ``loss`` is what the method minimises: for ``kl`` the sum of ``divergence`` and ``distortion``, for ``mse`` the
    ``distortion``, for ``kl-classic`` the divergence of the literature. Methods that minimise nothing have the loss of
    ``kl``. A number is None where it is infinite or undefined.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int | None, ...]
    divergence: tuple[float | None, ...]  # D(P‖Q) in nats; None where no cell is cut
    distortion: tuple[float | None, ...]  # weight · MSE / (2 · MSE*); None where MSE* is 0
    loss: tuple[float | None, ...]
    chosen: int  # the place of the choice


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """What a method chooses, and what that costs; figures as in a row."""

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
    """What a scale costs that is not quite the one that was chosen, with its zero point."""

    change: float  # relative, of the scale
    loss: float | None
    mse: float
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class Without:
    """What would be chosen, and lost, if the values of greatest magnitude were not there."""

    share: float  # of the nonzero values
    count: int
    beyond: float  # the greatest magnitude that is left
    scale: float | None
    zero_point: int | None
    sqnr_db: float | None  # of the values that are left, with that scale
    sqnr_db_as_is: float | None  # of the same values, with the scale that was chosen for all


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Of a tensor, a channel or a group. What was not asked for, or cannot be, is None or empty."""

    histogram: Histogram | None = None
    octaves: Octaves | None = None
    levels: tuple[float, ...] | None = None  # the values that a code stands for, where they are not too many
    objective: str | None = None  # what was minimised: kl, mse, kl-classic; None: the method follows a rule
    weight: float | None = None  # of the distortion
    curve: Curve | None = None
    methods: tuple[Alternative, ...] = ()  # the choice first
    nearby: tuple[Nearby, ...] = ()
    without: tuple[Without, ...] = ()

    @property
    def others(self) -> Iterator[Alternative]:
        """What methods choose that were not asked for."""
        return iter(self.methods[1:])
