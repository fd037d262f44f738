"""How a range is chosen. A method is a frozen value, its parameters are its fields.

``str(method)`` parses back to an equal method; it is the provenance in the table.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np

from klcal.errors import UsageError
from klcal.quantizers.scheme import Scheme
from klcal.search.choices import Choices, Spans, full_choices
from klcal.search.classic import least_classic
from klcal.search.units import least_loss
from klcal.sketches.distribution import Distribution

__all__ = [
    "KL",
    "METHODS",
    "MSE",
    "KLClassic",
    "Method",
    "MinMax",
    "Percentile",
    "check_importance",
    "has_cost",
    "parse",
    "sub_bins_per_cell",
]

BINS = 2048  # over the kept range; the literature's number (Migacz, GTC 2017, S7310)
MAX_BINS = 1 << 16  # more than the values of most tensors could fill
MIN_WEIGHT = 1e-3  # of it: below, `kl` clips nearly everything, as D alone does
WEIGHT = 4.0  # of the squared error in `kl`: its MSE stays within 1 + D/2 of the least

PERCENTILE = "write percentile:99.99"


class Method(Protocol):
    """Chooses a quantizer for each of some units. Pure."""

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """The choices for units that have values, within spans of positive width; no unit depends on another."""


def sub_bins_per_cell(bins: int, levels: int) -> int:
    """Into how many equal sub-bins each cell is cut, whatever the threshold.

    >>> [sub_bins_per_cell(2048, levels) for levels in (15, 255, 65536)]
    [137, 8, 1]
    """
    return max(1, round(bins / levels))


def _check_bins(bins: object) -> None:
    if type(bins) is not int or not 1 <= bins <= MAX_BINS:
        raise UsageError(f"the number of bins is {bins!r}", f"it is an int, at least 1, at most {MAX_BINS}")


def _shortest(number: float) -> str:
    """The shortest text that reads back to the same number."""
    return repr(int(number) if float(number).is_integer() else float(number))


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Parameters to text: ``name:field=value,…``."""

    has_cost: ClassVar[bool] = True  # that values share in, so that some may count more than others

    def __str__(self) -> str:
        name = next(name for name, method in METHODS.items() if type(self) is method)
        values = ",".join(f"{f.name}={_shortest(getattr(self, f.name))}" for f in fields(self))
        return f"{name}:{values}" if values else name


@dataclass(frozen=True, kw_only=True)
class KL(_Text):
    """Minimise D(P‖Q) + weight · MSE / (2 · MSE*), in nats, where MSE* is the least MSE of any candidate.

    This is the divergence between the joint distributions of a value and its quantized copy, seen through Gaussian
    noise of variance MSE*/weight. MSE(choice)/MSE* ≤ 1 + 2·D(at the MSE optimum)/weight, so it is MSE calibration
    within a few percent, and KL decides where MSE is flat.
    """

    bins: int = BINS
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        _check_bins(self.bins)
        if type(self.weight) not in (int, float) or not MIN_WEIGHT <= self.weight < math.inf:
            hint = f"it is a number, at least {MIN_WEIGHT} and finite, 4 by default"
            raise UsageError(f"the weight is {self.weight!r}", hint)

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """The least loss over the candidates of ``klcal.search.units``; of the MSE where values are too few for D."""
        return least_loss(distribution, scheme, spans, sub_bins_per_cell(self.bins, scheme.size), self.weight)


@dataclass(frozen=True, kw_only=True)
class MSE(_Text):
    """Minimise the mean squared error: the squared Wasserstein-2 distance of the values and their quantized copy."""

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """The least over the candidates of ``klcal.search.units``."""
        return least_loss(distribution, scheme, spans, 1, 1.0)


@dataclass(frozen=True, kw_only=True)
class MinMax(_Text):
    """Keep the whole range."""

    has_cost: ClassVar[bool] = False

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """Covers the spans."""
        del distribution
        return full_choices(scheme, spans)


@dataclass(frozen=True)
class Percentile(_Text):
    """Keep this percentage of the nonzero values: those of smallest magnitude, whatever the scheme.

    The threshold is the smallest that keeps them. Affine schemes trim the ends to the data. Exact zeros do not count,
    so a ReLU does not move the threshold.
    """

    has_cost: ClassVar[bool] = False
    percent: float

    def __post_init__(self) -> None:
        try:
            is_percentage = 0 < self.percent <= 100
        except TypeError:
            is_percentage = False
        if not is_percentage:
            raise UsageError(f"percentile {str(self.percent).removesuffix('.0')} is not in (0, 100]", PERCENTILE)

    def __str__(self) -> str:
        return f"percentile:{_shortest(self.percent)}"

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """Covers what is kept, as far as it lies within the spans."""
        threshold = distribution.quantiles(distribution.number * self.percent / 100)
        low, high = np.maximum(-threshold, spans.low), np.minimum(threshold, spans.high)
        empty = low >= high
        kept = spans._replace(low=np.where(empty, spans.low, low), high=np.where(empty, spans.high, high))
        return full_choices(scheme, kept)


@dataclass(frozen=True, kw_only=True)
class KLClassic(_Text):
    """Least D(P‖Q) alone, with the clipped mass folded into P and not into Q (Migacz, GTC 2017, S7310).

    What the literature does, on sub-bins that follow the candidate. It counts what is clipped, not how far, so it
    clips heavy tails hard: for comparison, and for those who want it.
    """

    bins: int = BINS

    def __post_init__(self) -> None:
        _check_bins(self.bins)

    def __call__(self, distribution: Distribution, scheme: Scheme, spans: Spans, /) -> Choices:
        """The least D over the candidates of ``klcal.search.classic``."""
        return self.among(distribution, scheme, spans, [each(distribution, scheme, spans) for each in self.others])

    @property
    def others(self) -> tuple[MSE, KL]:
        """Methods whose choices are candidates too: so none of them has a lower D."""
        return MSE(), KL(bins=self.bins)

    def among(self, distribution: Distribution, scheme: Scheme, spans: Spans, also: Sequence[Choices], /) -> Choices:
        """The same, where the choices of the others are known."""
        return least_classic(distribution, scheme, spans, sub_bins_per_cell(self.bins, scheme.size), also)


METHODS: dict[str, type[KL | KLClassic | MSE | Percentile | MinMax]] = {
    "kl": KL,
    "kl-classic": KLClassic,
    "mse": MSE,
    "percentile": Percentile,
    "minmax": MinMax,
}


def has_cost(method: Method) -> bool:
    """Whether a method has one, that values share in; one of somebody else's is taken for such."""
    return getattr(method, "has_cost", True)


def check_importance(method: Method) -> None:
    """Raises UsageError where a method has no cost that an importance could weigh."""
    if not has_cost(method):
        raise UsageError(f"importance changes nothing for the method {method}", "use kl, mse or kl-classic")


def parse(text: str | Method, bins: int | None = None) -> Method:
    """The method of ``name``, ``name:field=value,…`` or ``percentile:P``.

    Args:
        text: what ``str(method)`` gives; fields that are left out have their defaults. Or a method.
        bins: short for the method's own ``bins=``.

    Raises:
        UsageError: names what is unknown, out of range or given twice.

    >>> str(parse("kl:weight=1")), parse("percentile:99.9")
    ('kl:bins=2048,weight=1', Percentile(percent=99.9))
    """
    if not isinstance(text, str):
        if isinstance(text, type) or not callable(text):
            raise UsageError(f"the method is {text!r}", "use its name, or a value such as klcal.KL(weight=1)")
        return text
    name, _, rest = text.partition(":")
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(METHODS)}"
        raise UsageError(f"unknown method {name!r}", hint)
    if name == "percentile":
        if not rest:
            raise UsageError("which percentile is not said", PERCENTILE)
        rest = f"percent={rest}" if "=" not in rest else rest
    items = [_parameter(text, item) for item in rest.split(",") if item]
    given = dict(items)
    if len(given) < len(items):
        raise UsageError(f"a parameter is given twice in {text!r}", "give it once")
    known = {f.name for f in fields(METHODS[name])}
    if bins is not None:
        if "bins" in given:
            raise UsageError(f"bins are given twice, in {text!r} and beside it", "give them once")
        given["bins"] = bins
    if unknown := [field for field in given if field not in known]:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes no parameters"
        raise UsageError(f"method {name} has no parameter {unknown[0]!r}", takes)
    return METHODS[name](**given)  # type: ignore[arg-type]  # the fields were checked by name


def _parameter(text: str, item: str) -> tuple[str, float]:
    field, equals, value = item.partition("=")
    try:
        number = float(value)
    except ValueError:
        what = "is not a number" if equals else "is no parameter"
        raise UsageError(f"{item!r} in method {text!r} {what}", "write name:field=number") from None
    return field, int(number) if number.is_integer() and field == "bins" else number
