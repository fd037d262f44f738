"""The definitions, loop by loop, in plain Python: slow, and with nothing of klcal in them but the sketch that is read.

What is quantized is a list of pieces (low, high, count) of the line: count values spread evenly over [low, high], or
all at one point. A quantizer is a scale > 0 and the ascending list of its levels in units of the scale, with zero
among them.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

# --- levels

# fmt: off
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # Dettmers et al., QLoRA, 2023, Appendix E
# fmt: on


def minifloat(exponent_bits: int, mantissa_bits: int, largest: int) -> list[float]:
    """The values of the codes 0 to ``largest`` and of their negatives: OCP FP8 §5, OCP MX §5.3."""
    bias = 2 ** (exponent_bits - 1) - 1
    magnitudes = []
    for code in range(largest + 1):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        fraction = Fraction(mantissa, 2**mantissa_bits)
        significand, power = (fraction, 1 - bias) if exponent == 0 else (1 + fraction, exponent - bias)
        magnitudes.append(float(significand * Fraction(2) ** power))
    return [-magnitude for magnitude in magnitudes[:0:-1]] + magnitudes


FLOATS = {
    "float8_e4m3fn": minifloat(4, 3, 0x7E),  # 0x7F is NaN, and there is no infinity
    "float8_e5m2": minifloat(5, 2, 0x7B),  # infinity is 0x7C
    "float4_e2m1fn": minifloat(2, 1, 0x7),
    "nf4": NF4,
}
KINDS = ("symmetric", "symmetric-full", "symmetric-signed", "affine")


def shape_of(dtype: str, kind: str) -> tuple[int, range]:
    """The size of an integer format, and how many of its levels may lie below zero.

    Whether an integer is signed changes its name, not what it can represent. Of ``symmetric-signed`` the second
    option is a negative scale: the mirror image of the first.
    """
    codes = 2 ** int(dtype.removeprefix("u").removeprefix("int"))
    half = codes // 2
    if kind == "symmetric":
        return codes - 1, range(half - 1, half)
    belows = {"symmetric-full": range(half, half + 1), "symmetric-signed": range(half - 1, half + 1)}
    return codes, range(codes) if kind == "affine" else belows[kind]


def integers(size: int, below: int) -> list[float]:
    """The levels of an integer format with ``below`` of them below zero."""
    return [float(k - below) for k in range(size)]


def options(dtype: str, kind: str = "symmetric") -> list[list[float]]:
    """All sets of levels that a scheme has."""
    if dtype in FLOATS:
        return [FLOATS[dtype]]
    size, belows = shape_of(dtype, kind)
    return [integers(size, below) for below in belows]


def sub_bins(bins: int, levels: int) -> int:
    """Into how many equal sub-bins each cell is cut."""
    return max(1, round(bins / levels))


# --- values

LEAST_NORMAL = 2.0**-126  # of float32


def points(values: Iterable[float]) -> list[tuple[float, float, int]]:
    """The nonzero values themselves, as pieces."""
    counts = Counter(float(x) for x in values if x != 0)
    return [(x, x, counts[x]) for x in sorted(counts)]


def pieces_of(sketch, unit: int = 0) -> list[tuple[float, float, int]]:
    """The nonzero values of a unit of a sketch, ascending: the interval that each key stands for, cut at the extremes.

    A value is a point where the unit is exact; so is, at its middle, an interval of subnormal numbers.
    """
    first, end = sketch.starts[unit : unit + 2].tolist()
    keys, counts = (each[first:end].tolist() for each in (sketch.keys, sketch.counts))
    minimum, maximum = float(sketch.minimum[unit]), float(sketch.maximum[unit])
    top = max((key >> 23 & 255 for key in keys), default=0)
    pieces = []
    for key, count in zip(keys, counts, strict=True):
        pattern, is_negative = key % 2**31, key >= 2**31
        octaves = max(0, top - (pattern >> 23) - 1)  # further than the one below the largest magnitude's
        bits = max(sketch.resolution.least_bits, sketch.resolution.mantissa_bits - octaves)
        inner = number(pattern)
        outer = inner if sketch.exact[unit] else number(pattern + 2 ** (23 - bits))
        low, high = (max(-outer, minimum), min(-inner, maximum)) if is_negative else (inner, outer)
        low, high = max(low, minimum), min(high, maximum)
        if inner < LEAST_NORMAL:
            low = high = (low + high) / 2
        pieces.append((low, high, count))
    return sorted(pieces)


def number(pattern: int) -> float:
    """The float32 of a bit pattern; what follows the greatest is 2¹²⁸."""
    return 2.0**128 if pattern == 0x7F800000 else struct.unpack("<f", struct.pack("<I", pattern))[0]


def total(pieces) -> int:
    return sum(count for _, _, count in pieces)


# --- rounding


def rounded(x: float, scale: float, levels: list[float]) -> float:
    """The level that a value becomes: the nearest to x / scale; of two, the one an even number of levels from zero.

    Levels ascend, so one of the two around it is.
    """
    zero, steps = levels.index(0.0), x / scale
    above = bisect_left(levels, steps)
    around = range(max(above - 1, 0), min(above + 1, len(levels)))
    k = min(around, key=lambda k: (abs(Fraction(steps) - Fraction(levels[k])), (k - zero) % 2))
    return levels[k]


def is_clipped(x: float, scale: float, levels: list[float]) -> bool:
    """Whether a value would round to a further level, if levels went on at either end as wide as the last cell is."""
    further = [2 * levels[0] - levels[1], *levels, 2 * levels[-1] - levels[-2]]
    return rounded(x, scale, further) not in levels


def count_clipped(values: Iterable[float], scale: float, levels: list[float]) -> int:
    return sum(is_clipped(float(x), scale, levels) for x in values)


def count_rounded_to_zero(values: Iterable[float], scale: float, levels: list[float]) -> int:
    return sum(x != 0 and rounded(float(x), scale, levels) == 0 for x in values)


def squared_error(values: Iterable[float], scale: float, levels: list[float]) -> float:
    """Σ(x − x̂)², x̂ being the level that x is rounded to, times the scale."""
    return math.fsum((float(x) - rounded(float(x), scale, levels) * scale) ** 2 for x in values)


def percentile(values: Iterable[float], percent: str) -> float:
    """The least magnitude within which ``percent`` % of the nonzero values lie."""
    magnitudes = sorted(abs(float(x)) for x in values if x != 0)
    return magnitudes[math.ceil(Fraction(percent) / 100 * len(magnitudes)) - 1]


# --- costs of pieces


def nearest(x: float, scale: float, levels: list[float]) -> float:
    """What a value becomes: its nearest level's, found by looking at all of them."""
    return min((level * scale for level in levels), key=lambda value: abs(x - value))


def mse(pieces, scale: float, levels: list[float]) -> float:
    """E(x − x̂)² over the nonzero values: each piece is cut where the nearest level changes."""
    squares = []
    for low, high, count in pieces:
        if low == high:
            squares.append(count * (low - nearest(low, scale, levels)) ** 2)
            continue
        cuts = [(a + b) / 2 * scale for a, b in pairwise(levels)]
        cuts = [low, *(cut for cut in cuts if low < cut < high), high]
        for a, b in pairwise(cuts):
            level = nearest((a + b) / 2, scale, levels)
            squares.append(count / (high - low) * ((b - level) ** 3 - (a - level) ** 3) / 3)
    return math.fsum(squares) / total(pieces)


def masses(pieces, scale: float, levels: list[float], sub: int) -> tuple[dict[int, float], float, float]:
    """The share of the values in each sub-bin that is not empty, and what is clipped below and above.

    Sub-bins end on the side that is farther from zero, their ends included.
    """
    edges = sub_bin_edges(scale, levels, sub)
    share: dict[int, list[float]] = {}
    below_all, above_all = [], []
    for low, high, count in pieces:
        for k, part in _parts(low, high, edges):
            if k < 0:
                below_all.append(part * count)
            elif k == len(levels) * sub:
                above_all.append(part * count)
            else:
                share.setdefault(k, []).append(part * count)
    n = total(pieces)
    found = {k: math.fsum(parts) / n for k, parts in share.items()}
    return found, math.fsum(below_all) / n, math.fsum(above_all) / n


def sub_bin_edges(scale: float, levels: list[float], sub: int) -> list[float]:
    """Cells reach half-way to the next level, the outer ones as far on both sides; each is cut evenly."""
    inner = [(a + b) / 2 for a, b in pairwise(levels)]
    cells = [2 * levels[0] - inner[0], *inner, 2 * levels[-1] - inner[-1]]
    edges = [a + (b - a) * k / sub for a, b in pairwise(cells) for k in range(sub)]
    return [edge * scale for edge in [*edges, cells[-1]]]


def _parts(low: float, high: float, edges: list[float]):
    """Which sub-bins a piece touches, and with what share of it."""
    for k in range(bisect_left(edges, low) - 2, bisect_right(edges, high) + 1):
        if not -1 <= k < len(edges):
            continue
        start = edges[k] if k >= 0 else -math.inf
        end = edges[k + 1] if k + 1 < len(edges) else math.inf
        if low == high:
            if (start < low <= end) if low > 0 else (start <= low < end):
                yield k, 1.0
        elif (overlap := min(high, end) - max(low, start)) > 0:
            yield k, overlap / (high - low)


def _spread(inside: dict[int, float], sub: int) -> dict[int, float]:
    """Each cell's mass spread evenly over its occupied sub-bins."""
    q = {}
    for k in inside:
        cell = [other for other in inside if other // sub == k // sub]
        q[k] = math.fsum(inside[other] for other in cell) / len(cell)
    return q


def divergence(pieces, scale: float, levels: list[float], sub: int) -> float:
    """D(P‖Q) of `kl`: clipped values count in the outermost sub-bins of both."""
    p, lower, upper = masses(pieces, scale, levels, sub)
    for k, clipped in ((0, lower), (len(levels) * sub - 1, upper)):
        if clipped:
            p[k] = p.get(k, 0.0) + clipped
    q = _spread(p, sub)
    return math.fsum(p[k] * math.log(p[k] / q[k]) for k in p)
