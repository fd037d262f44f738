"""The definitions, loop by loop, in plain Python: slow, and nothing of klcal in them but the sketch that is read.

A sketch is a list of pieces (low, high, count) of the line: count values spread evenly over [low, high], or all at
one point. A quantizer is a scale and the ascending list of its levels in units of the scale.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from itertools import pairwise


def pieces_of(sketch) -> list[tuple[float, float, int]]:
    """The nonzero values of a sketch: the interval of float32 numbers that each key stands for, cut at the extremes."""
    dropped = 23 - sketch.mantissa_bits
    sign = 1 << (31 - dropped)
    pieces = []
    for key, count in zip(sketch.keys.tolist(), sketch.counts.tolist(), strict=True):
        magnitude = key % sign
        inner = number(magnitude << dropped)
        outer = inner if sketch.exact else number((magnitude + 1) << dropped)
        low, high = (inner, outer) if key < sign else (-outer, -inner)
        if not sketch.exact:
            low, high = max(low, sketch.minimum), min(high, sketch.maximum)
        pieces.append((low, high, count))
    return pieces


def number(pattern: int) -> float:
    """The float32 of a bit pattern; what follows the greatest is 2¹²⁸."""
    return 2.0**128 if pattern == 0x7F800000 else struct.unpack("<f", struct.pack("<I", pattern))[0]


def total(pieces) -> int:
    return sum(count for _, _, count in pieces)


def integers(count: int, below: int) -> list[float]:
    """The levels of an integer format, so many of them below zero."""
    return [float(k - below) for k in range(count)]


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


def classic_divergence(pieces, scale: float, levels: list[float], sub: int) -> float:
    """D(P‖Q) of `kl-classic`: clipped values count in the outermost sub-bins of P alone."""
    p, lower, upper = masses(pieces, scale, levels, sub)
    q = _spread(p, sub)
    for k, clipped in ((0, lower), (len(levels) * sub - 1, upper)):
        if clipped:
            p[k] = p.get(k, 0.0) + clipped
    if any(k not in q for k in p):
        return math.inf
    return math.fsum(p[k] * math.log(p[k] / q[k]) for k in p)


def candidates(pieces, levels: int, kind: str, per_octave: int, octaves: int):
    """Quantizers whose ends are the data's or lie within: a logarithmic grid of scales, all zero points."""
    low, high = min(0.0, *(p[0] for p in pieces)), max(0.0, *(p[1] for p in pieces))
    options = [levels // 2, levels // 2 - 1] if kind == "symmetric-signed" else [levels // 2]
    span = min(max(-low / below, high / (levels - 1 - below)) for below in options)
    if kind == "affine":
        options, span = list(range(levels)), (high - low) / (levels - 1)
    for step in range(per_octave * octaves):
        scale = span * 2 ** (-step / per_octave)
        if kind != "affine":
            yield from ((scale, below) for below in options)
        else:
            for below in options:
                if below <= -low / scale + 0.5 and levels - 1 - below <= high / scale + 0.5:
                    yield scale, below


def least_loss(errors, pieces, levels_of, sub: int, weight: float, least: float) -> float:
    """The least D + weight·MSE/(2·MSE*) over some (MSE, scale, below). As D ≥ 0, few D have to be looked at.

    Where a value lies on the edge of a sub-bin, D is that of either side, as rounding has it: such candidates are left
    out.
    """
    best = math.inf
    for error, scale, below in sorted(errors):
        price = weight * error / (2 * least)
        if price >= best:
            break
        nats = [divergence(pieces, scale * (1 + nudge), levels_of(below), sub) for nudge in (0, -1e-9, 1e-9)]
        if max(nats) - min(nats) < 1e-6:
            best = min(best, price + nats[0])
    return best
