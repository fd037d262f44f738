"""The searches that a method needs, in order: each for one kind of a scheme, with one loss.

``klcal.search.units`` and ``klcal.search.methods`` search so by recursion, in NumPy. The C code, on the CPU and on a
device, goes through this list; later steps have the results of earlier ones as candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klcal.quantizers.scheme import Scheme
from klcal.search.density import density_of
from klcal.search.explore import first_ratios
from klcal.search.methods import KL, METHODS, MSE, KLClassic, Method, sub_bins_per_cell
from klcal.search.outcome_structures import Kept, kinds_of, on_place
from klcal.search.structures import HOST, Place
from klcal.search.units import VALUES_PER_BIN, loss_of
from klcal.sketches.patterns import MOST

__all__ = ["Step", "is_searched_in_c", "steps_of"]

OCTAVES = 4  # of a ladder of scales, beyond its first part: groups of six distributions had up to three, at int2
FURTHER = 16  # candidates: on the smallest distance of two values, and the choices of other steps


@dataclass(frozen=True, kw_only=True)
class Step:
    """One search of all units."""

    kind: int  # the index of its scheme in ``kinds_of``
    scheme: Scheme
    sub: int  # sub-bins of each cell, for D; 1 if the squared error alone decides
    weight: float  # of the squared error in the loss
    narrow: int | None  # the earlier step whose scales are candidates; None if there is none
    plain: int | None = None  # the earlier step whose choices, without weights, are candidates
    weighted: bool = False  # whether values count as much as they weigh

    @property
    def enough(self) -> int:
        """The number of values of a unit from which D decides; more than any unit has if it never does."""
        return VALUES_PER_BIN * self.scheme.size * self.sub if self.sub > 1 else MOST + 1

    def candidates(self, how: int) -> int:
        """How many scales are tried for most units that are searched in the way ``how``; for some there are more."""
        density = density_of(self.scheme, how)
        first = first_ratios(self.scheme, density)
        before = first.full.size + first.end.size + first.on_level.size + density.octave.size * OCTAVES
        fine = [ratios.size for ratios in density.around]
        return before + density.starts + density.basins * sum(fine[:1]) + sum(fine[1:]) + density.refinements + FURTHER

    def search(self, how: int, place: Place = HOST) -> Kept:
        """The C structure of the search, for units that are searched in the way ``how``."""
        loss = loss_of(self.scheme, how, self.sub, self.weight)
        return on_place(self.scheme, density_of(self.scheme, how), loss, place)


def is_searched_in_c(method: Method) -> bool:
    """Whether C code, here or on a device, calibrates units by the method, from the sketch to the figures."""
    return type(method) in METHODS.values()


def steps_of(method: Method, scheme: Scheme, *, weighted: bool) -> list[Step]:
    """The searches for a method; none if it only covers a range.

    Narrower kinds are searched by their squared error. With weights, everything is searched without them first. The
    last steps are those whose choices decide: of `kl-classic` two, the choices of its ``others``.

    >>> from klcal.search import methods
    >>> found = steps_of(methods.parse("kl"), Scheme.parse("uint8", "affine", "float32"), weighted=False)
    >>> [(each.scheme.kind, each.sub, each.narrow) for each in found]
    [('symmetric', 1, None), ('symmetric-full', 1, 0), ('affine', 8, 1)]
    """
    deciding = _deciding(method, scheme)
    if not deciding:
        return []
    kinds = kinds_of(scheme)
    last = len(kinds) - 1
    asked: list[tuple[int, Method]] = [*((kind, MSE()) for kind in range(last)), *((last, each) for each in deciding)]
    found = []
    for round_ in range(1 + weighted):
        first = round_ * len(asked)
        for place, (kind, each) in enumerate(asked):
            sub, weight = _loss(each, scheme)
            found.append(
                Step(
                    kind=kind,
                    scheme=kinds[kind],
                    sub=sub,
                    weight=weight,
                    narrow=first + kind - 1 if kind else None,
                    plain=place if round_ else None,
                    weighted=bool(round_),
                )
            )
    return found


def _deciding(method: Method, scheme: Scheme) -> Sequence[Method]:
    """The methods by which the asked kind of a scheme is searched."""
    if isinstance(method, KLClassic):  # with one sub-bin D counts clipping alone, and the whole range is kept
        return method.others if sub_bins_per_cell(method.bins, scheme.size) > 1 else ()
    return (method,) if isinstance(method, KL | MSE) else ()


def _loss(method: Method, scheme: Scheme) -> tuple[int, float]:
    """The number of sub-bins in each cell, and the weight of the squared error."""
    if isinstance(method, KL):
        return sub_bins_per_cell(method.bins, scheme.size), method.weight
    return 1, 1.0
