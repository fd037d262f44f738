"""The laws of many rows as intervals of magnitudes, one array for all of them, and what a quantizer per row costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from klcal.quantizers.qparams import level_ends
from klcal.quantizers.scheme import Scheme
from klcal.search.candidate_costs import relative_edges, spread_within_cells
from klcal.search.exact_costs import piece_clipped, piece_errors, piece_zeroed, point_errors
from klcal.sketches.counting import MANTISSA_BITS, SHIFT, SIGN_KEY
from klcal.sketches.distribution import FLOAT64_MANTISSA_BITS, LEAST_NORMAL, Law, Pieces, magnitudes
from klcal.sketches.row_sketch import KEY_BITS, RowSketch, dropped_bits

__all__ = ["RowLaw", "row_clipped", "row_divergences", "row_errors", "row_point_errors", "row_zeroed"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PieceCost = Callable[[Floats, Floats, Floats, Floats | None], Floats]

FLOAT64_BIAS, FLOAT32_BIAS = 1023, 127
SIDE_BITS = KEY_BITS - 1  # of a bucket's key without its sign
EDGES_AT_ONCE = 1 << 20  # edges of sub-bins looked up together: 8 MiB an array


@dataclass(frozen=True, eq=False)
class RowLaw:
    """The nonzero finite values of many rows, each with some. The pieces of each side of a row ascend in magnitude."""

    rows: int
    keys: Integers  # of each piece: row, sign and bucket
    row: Integers
    inner: Floats
    outer: Floats  # equal to inner for points
    counts: Floats
    low: Floats  # (rows,): the least value, or 0 if none is negative
    high: Floats

    @staticmethod
    def of(sketch: RowSketch) -> RowLaw:
        """The law of each row; the outermost pieces end, and the innermost begin, at the exact extremes."""
        row, key = sketch.row, sketch.keys & ((1 << KEY_BITS) - 1)
        negative, magnitude = key >= SIGN_KEY, key & (SIGN_KEY - 1)
        width = 1 << dropped_bits(key, sketch.tops[row])
        inner, outer = magnitudes(magnitude << SHIFT), magnitudes((magnitude + width) << SHIFT)
        outer = np.where(sketch.exact[row], inner, outer)
        least = np.where(negative, -sketch.maximum[row], sketch.minimum[row])
        outer = np.minimum(outer, np.where(negative, -sketch.minimum[row], sketch.maximum[row]))
        inner = np.where(inner < LEAST_NORMAL, outer, inner)  # subnormal numbers are points
        low = np.where(sketch.minimum < 0, sketch.minimum, 0.0)
        high = np.where(sketch.maximum > 0, sketch.maximum, 0.0)
        ends = np.maximum(inner, least), np.maximum(outer, least)
        return RowLaw(sketch.rows, sketch.keys, row, *ends, sketch.counts.astype(np.float64), low, high)

    @cached_property
    def negative(self) -> npt.NDArray[np.bool_]:
        """Of each piece, whether its values are."""
        is_negative: npt.NDArray[np.bool_] = (self.keys & SIGN_KEY) != 0
        return is_negative

    @cached_property
    def pieces(self) -> Integers:
        """How many each row has."""
        return np.bincount(self.row, minlength=self.rows)

    @cached_property
    def size(self) -> Floats:
        """How many values each row has."""
        return self.sums(self.counts)

    @cached_property
    def energy(self) -> Floats:
        """Σ x² of each row: the squared midpoint of each piece and its variance w²/12."""
        return self.sums(self.counts * ((self.inner + self.outer) ** 2 / 4 + (self.outer - self.inner) ** 2 / 12))

    @cached_property
    def before(self) -> Floats:
        """How many values of the same side of its row lie nearer to zero than each piece."""
        total = self.counts.cumsum() - self.counts
        first = np.flatnonzero(np.diff(self.keys >> SIDE_BITS, prepend=-1))
        return total - np.repeat(total[first], np.diff(first, append=total.size))

    def side_size(self, negative: bool) -> Floats:
        """How many values of one sign each row has."""
        return self.sums(np.where(self.negative == negative, self.counts, 0.0))

    @cached_property
    def _begins(self) -> Integers:
        """The first piece of each row."""
        return np.searchsorted(self.row, np.arange(self.rows))

    def sums(self, of_pieces: Floats) -> Floats:
        """The sum over the pieces of each row, of which each has some, whatever rows stand beside it."""
        return np.add.reduceat(of_pieces, self._begins) if self.rows else np.empty(0)

    def select(self, wanted: npt.NDArray[np.bool_]) -> RowLaw:
        """Some of the rows."""
        if wanted.all():
            return self
        kept = wanted[self.row]
        row = (np.cumsum(wanted) - 1)[self.row[kept]]
        keys = (self.keys[kept] & ((1 << KEY_BITS) - 1)) + (row << KEY_BITS)
        pieces = (self.inner[kept], self.outer[kept], self.counts[kept])
        return RowLaw(int(wanted.sum()), keys, row, *pieces, self.low[wanted], self.high[wanted])

    def quantiles(self, rank: Floats, negative: bool | None) -> Floats:
        """The least magnitude within which so many values of each row lie, of one sign or both; 0 for none."""
        kept = np.ones(self.row.size, bool) if negative is None else self.negative == negative
        some = np.flatnonzero(kept)
        if not some.size:
            return np.zeros(self.rows)
        order = some[np.lexsort((self.inner[some], self.row[some]))]
        counts = self.counts[order]
        total = np.append(0.0, counts.cumsum())
        wanted = total[np.searchsorted(self.row[order], np.arange(self.rows))] + rank
        place = np.minimum(np.searchsorted(total[1:], wanted), order.size - 1)
        inside = np.clip((wanted - total[place]) / counts[place], 0.0, 1.0)
        inner, outer = self.inner[order][place], self.outer[order][place]
        return np.where(rank > 0, inner + inside * (outer - inner), 0.0)

    def law(self, row: int, top: int) -> Law:
        """One row, for a method that looks at a row at a time; ``top`` as in ``dropped_bits``.

        Wide buckets are cut into those of full precision, among which their values are spread evenly.
        """
        begin, split, end = np.searchsorted(self.keys, (np.array([0, SIGN_KEY, SIGN_KEY << 1]) + (row << KEY_BITS)))
        return Law(self._pieces(slice(begin, split), top), self._pieces(slice(split, end), top), MANTISSA_BITS)

    def _pieces(self, some: slice, top: int) -> Pieces:
        width = self.outer[some] - self.inner[some]
        parts = np.where(width > 0, 1 << dropped_bits(self.keys[some], np.asarray(top)), 1)
        inner, outer, counts, width, key = (
            np.repeat(each, parts)
            for each in (self.inner[some], self.outer[some], self.counts[some], width, self.keys[some] & (SIGN_KEY - 1))
        )
        key += np.arange(key.size) - np.repeat(np.cumsum(parts) - parts, parts)
        begin, end = (np.clip(magnitudes(each << SHIFT), inner, outer) for each in (key, key + 1))
        kept = (end > begin) | (width == 0)
        share = np.divide(end - begin, width, out=np.ones(width.size), where=width > 0)
        return Pieces(begin[kept], end[kept], (counts * share)[kept])


def row_errors(law: RowLaw, scheme: Scheme, scale: Floats, below: Integers) -> Floats:
    """Σ(x − x̂)² of each row, under a quantizer of its own."""
    return _row_sums(piece_errors, law, scheme, scale, below) * scale**2


def row_point_errors(law: RowLaw, scheme: Scheme, scale: Floats) -> Floats:
    """The same, nearly and sooner: pieces count at their middle, and affine levels have no ends."""
    return _row_sums(point_errors, law, scheme, scale, None) * scale**2


def row_clipped(law: RowLaw, scheme: Scheme, scale: Floats, below: Integers) -> Floats:
    """The number of clipped values of each row, under a quantizer of its own."""
    return _row_sums(piece_clipped, law, scheme, scale, below)


def row_zeroed(law: RowLaw, scheme: Scheme, scale: Floats, below: Integers) -> Floats:
    """The number of values of each row that become 0, under a quantizer of its own."""
    return _row_sums(piece_zeroed, law, scheme, scale, below)


def _row_sums(cost: PieceCost, law: RowLaw, scheme: Scheme, scale: Floats, below: Integers | None) -> Floats:
    per_step = (1 / scale)[law.row]
    start, end = law.inner * per_step, law.outer * per_step
    if scheme.is_even:
        last = None if scheme.is_fixed else np.array(np.inf)
        if below is not None and not scheme.is_fixed:
            under, above = level_ends(below, scheme)
            last = np.where(law.negative, under[law.row], above[law.row])
        return law.sums(law.counts * cost(start, end, np.append(0.0, scheme.above), last))
    found = np.empty(start.size)
    for side, ends in ((~law.negative, scheme.above), (law.negative, scheme.below)):
        found[side] = cost(start[side], end[side], np.append(0.0, ends), None)
    return law.sums(law.counts * found)


def row_divergences(law: RowLaw, scheme: Scheme, scale: Floats, below: Integers, sub: int) -> Floats:
    """D(P‖Q) of each row under a quantizer of its own, as ``klcal.search.candidate_costs.divergences``."""
    step = max(1, EDGES_AT_ONCE // (scheme.size * sub))
    relative = relative_edges(scheme, below[:1], sub)[0]
    zero = np.zeros(law.rows) if scheme.is_float else below.astype(np.float64)
    negative, positive = law.side_size(True), law.side_size(False)
    found = []
    for first in range(0, law.rows, step):
        some = np.arange(first, min(first + step, law.rows))
        edges = (relative - zero[some, None]) * scale[some, None]
        inside = np.empty((some.size, relative.size + 2))
        inside[:, 1:-1] = _signed_mass(law, some, edges)
        inside[:, 0] = -negative[some]
        inside[:, -1] = positive[some]
        found.append(spread_within_cells(np.maximum(np.diff(inside), 0.0), law.size[some], sub))
    return np.concatenate(found)


def _signed_mass(law: RowLaw, rows: Integers, edges: Floats) -> Floats:
    """How many values of a row lie between zero and each edge, with the sign of the edge."""
    magnitude = np.abs(edges)
    negative = edges < 0
    bucket = (magnitude.view(np.int64) >> (FLOAT64_MANTISSA_BITS - MANTISSA_BITS)) - (
        (FLOAT64_BIAS - FLOAT32_BIAS) << MANTISSA_BITS
    )
    wanted = (rows[:, None] << KEY_BITS) + np.where(negative, SIGN_KEY, 0) + np.clip(bucket, 0, SIGN_KEY - 1)
    place = np.searchsorted(law.keys, wanted, side="right") - 1
    here = (place >= 0) & (law.keys[place] >> SIDE_BITS == wanted >> SIDE_BITS)
    inner, width = law.inner[place], law.outer[place] - law.inner[place]
    share = np.where(width > 0, (magnitude - inner) / np.where(width > 0, width, 1.0), magnitude >= inner)
    mass = np.where(here, law.before[place] + law.counts[place] * np.clip(share, 0.0, 1.0), 0.0)
    return np.where(negative, -mass, mass)
