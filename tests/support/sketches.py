"""The definition of a sketch, value by value, in plain Python; and how it is drawn, cut and explained."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
from hypothesis import strategies as st

from klcal.sketches.patterns import Resolution
from klcal.sketches.sketch import Sketch

GREATEST = 3.4028234663852886e38  # of float32
RESOLUTIONS = st.builds(
    Resolution, mantissa_bits=st.just(10), least_bits=st.sampled_from([7, 10]), few=st.integers(0, 9)
)


def one_by_one(units: Sequence[Iterable[float]], resolution: Resolution) -> Sketch:
    """The sketch of some units, each value of which is looked at alone."""
    counted = [_unit(list(map(float, values)), resolution) for values in units]
    pieces = [sorted(each["pieces"].items()) for each in counted]
    flat = [piece for each in pieces for piece in each]
    return Sketch(
        keys=np.array([key for key, _ in flat], np.uint32),
        counts=np.array([count for _, count in flat], np.int64),
        starts=np.cumsum([0, *map(len, pieces)]),
        resolution=resolution,
        **{name: np.array([each[name] for each in counted]) for name in counted[0] if name != "pieces"},
    )


def _unit(values: list[float], resolution: Resolution) -> dict:
    rounded = [_as_float32(value) for value in values if math.isfinite(value)]
    kept = [value for value in rounded if math.isfinite(value) and value]
    patterns = Counter(struct.unpack("<I", struct.pack("<f", value))[0] for value in kept)
    cut = patterns
    if len(patterns) > resolution.few:
        top = max(_exponent(pattern) for pattern in patterns)
        cut = Counter()
        for pattern, count in patterns.items():
            bits = resolution.mantissa_bits - max(0, top - _exponent(pattern) - 1)
            step = 1 << (23 - max(resolution.least_bits, bits))
            cut[pattern // step * step] += count
    return {
        "pieces": cut,
        "exact": set(cut) == set(patterns),
        "zeros": rounded.count(0),
        "nan": sum(map(math.isnan, values)),
        "neg_inf": values.count(-math.inf),
        "pos_inf": values.count(math.inf),
        "overflowed": sum(map(math.isinf, rounded)),
        "underflowed": rounded.count(0) - values.count(0),
        "heaviest": 0.0,
        "minimum": min(kept, default=math.inf),
        "maximum": max(kept, default=-math.inf),
    }


def _as_float32(value: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def _exponent(pattern: int) -> int:
    return pattern >> 23 & 255


def differences(left: Sketch, right: Sketch) -> list[str]:
    """Why two sketches are not equal: which fields, which units, which keys."""
    found = [
        f"{f.name}: {getattr(left, f.name)} is not {getattr(right, f.name)}"
        for f in fields(Sketch)
        if f.name in ("resolution", "grid") and getattr(left, f.name) != getattr(right, f.name)
    ]
    if left.units != right.units:
        return [*found, f"units: {left.units} are not {right.units}"]
    for f in fields(Sketch)[4:-2]:
        mine, theirs = getattr(left, f.name), getattr(right, f.name)
        found += [f"{f.name} of unit {u}: {mine[u]} is not {theirs[u]}" for u in np.flatnonzero(mine != theirs)[:3]]
    if not np.array_equal(left.weights, right.weights):
        found.append(f"weights: {left.weights} are not {right.weights}")
    for unit in range(left.units):
        mine, theirs = (
            dict(zip(each.keys.tolist(), each.counts.tolist(), strict=True))
            for each in (left[unit : unit + 1], right[unit : unit + 1])
        )
        keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
        found += [f"unit {unit}, key {key:#010x}: {mine.get(key, 0)} is not {theirs.get(key, 0)}" for key in keys[:3]]
    return found[:20]
