"""Counters of one unit: flat arrays of floating-point values become the sketch of a tensor.

A counter keeps few distinct values whole and counts more of them by bucket. The key of a bucket is the top 19 bits of
the float32 pattern: sign, 8 bits of exponent, 10 of mantissa. So a bucket is an interval of fixed relative width (2⁻¹⁰,
0.1 %), no range has to be known beforehand, and every bfloat16, float16 and float8 value has a bucket of its own. The
result is integers and exact extremes, and depends neither on the order of the values nor on how they are split.

``counter`` takes the compiled kernel if there is one (``compiled_counting``), else NumPy (``numpy_counting``).
``device_counting`` gives the same integers on a CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klcal.kernels.library import library
from klcal.kernels.threads import spread, threads
from klcal.quantizers.code_points import FLOATS, float8
from klcal.sketches.compiled_counting import CompiledCounter, LargeFloats, LargePatterns
from klcal.sketches.numpy_counting import FloatCounter, PatternCounter
from klcal.sketches.patterns import TENSOR, Resolution
from klcal.sketches.sketch import Sketch

__all__ = [
    "FLOAT_DTYPES",
    "Counter",
    "count",
    "counter",
    "values_of",
]

NAN = np.float32(np.nan)

SHARE = 1 << 20  # values of a long array that a thread counts at least
LONG = 1 << 23  # values (4 ms of work) from which a second thread pays: it has to clear and scan its own tables

FLOAT_DTYPES: dict[str, type[np.generic]] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
    "float8_e4m3fnuz": np.uint8,
    "float8_e5m2fnuz": np.uint8,
    "float8_e8m0fnu": np.uint8,
    "float4_e2m1fn": np.uint8,
}
"""The dtypes that can be counted, and the NumPy type of their storage form: bit patterns, if NumPy has no such float.

An array in storage form has one item for each value. A float4 value is the lower four bits of its byte.
"""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Counter(Protocol):
    """Counts flat arrays as one unit."""

    def add(self, block: Array) -> None:
        """Counts the values of a flat array in storage form. Large arrays are faster than many small ones."""

    def sketch(self) -> Sketch:
        """The sketch of all values that were added."""


def counter(dtype: str, resolution: Resolution = TENSOR) -> Counter:
    """A counter of flat arrays of ``FLOAT_DTYPES[dtype]``, in native byte order. float64 is rounded to float32 first.

    >>> counting = counter("float32")
    >>> counting.add(np.float32([0.5, 0.0, 0.5, np.nan]))
    >>> found = counting.sketch()
    >>> found.counts.tolist(), found.zeros.tolist(), found.nan.tolist()
    ([2], [1], [1])
    """
    small, large = _parts(dtype, resolution)
    return small() if library() is None else CompiledCounter(small, large)


def _parts(dtype: str, resolution: Resolution) -> tuple[Callable[[], Counter], Callable[[], Counter]]:
    """Two functions that make a counter of a dtype: in NumPy, and with the compiled kernel."""
    if dtype in ("float32", "float64"):
        return partial(FloatCounter, resolution), partial(LargeFloats, resolution)
    values = pattern_values(dtype)
    return partial(PatternCounter, values, resolution), partial(LargePatterns, values, resolution)


def count(chunks: Iterable[Array], dtype: str, resolution: Resolution = TENSOR) -> Sketch:
    """The sketch of flat arrays of any size, as one unit: see ``counter``. Several threads share a long array."""
    found = counter(dtype, resolution)
    others: list[Sketch] = []
    for chunk in chunks:
        if chunk.size < LONG or threads() == 1:
            found.add(chunk)
        else:
            work = partial(_counted, chunk, dtype, resolution)
            others += spread(work, np.full(-(-chunk.size // SHARE), SHARE), parts=1)
    return sum(others, found.sketch())


def _counted(chunk: Array, dtype: str, resolution: Resolution, first: int, last: int) -> Sketch:
    """The sketch of the shares ``first`` to ``last`` of a long array; a share is ``SHARE`` values."""
    found = counter(dtype, resolution)
    found.add(chunk[first * SHARE : last * SHARE])
    return found.sketch()


def values_of(chunk: Array, dtype: str) -> npt.NDArray[np.floating]:
    """The values of a flat array in storage form, ``FLOAT_DTYPES[dtype]``: float64 stays, all others become float32.

    >>> values_of(np.uint16([0x3F80, 0xC000]), "bfloat16").tolist()
    [1.0, -2.0]
    """
    if dtype in ("float64", "float32"):
        return chunk
    return pattern_values(dtype).take(chunk.view(f"u{chunk.itemsize}"))


@lru_cache
def pattern_values(dtype: str) -> Floats:
    """The value of each bit pattern of a 16- or 8-bit float, (2¹⁶,) or (256,), as float32, which holds it exactly.

    Sources: the OCP 8-bit Floating Point Specification 1.0 (fn), the float8 types of ONNX (fnuz), and the OCP
    Microscaling Formats Specification 1.0, §5.3 (float4_e2m1fn) and §5.4.1 (e8m0).
    """
    patterns = np.arange(1 << 16, dtype=np.uint16)
    match dtype:
        case "float16":
            return patterns.view(np.float16).astype(np.float32)
        case "bfloat16":
            return (patterns.astype(np.uint32) << 16).view(np.float32)
        case "float8_e5m2":  # the upper byte of a float16
            return (patterns[:256] << 8).view(np.float16).astype(np.float32)
        case "float8_e4m3fn":  # no infinities, NaN where all bits but the sign are set
            return np.where(patterns[:256] % 128 == 127, NAN, float8(3, bias=7)).astype(np.float32)
        case "float8_e4m3fnuz":  # no infinities, no -0: its pattern is the only NaN
            return np.where(patterns[:256] == 128, NAN, float8(3, bias=8)).astype(np.float32)
        case "float8_e5m2fnuz":
            return np.where(patterns[:256] == 128, NAN, float8(2, bias=16)).astype(np.float32)
        case "float8_e8m0fnu":  # powers of two, neither zero nor sign; the last is NaN (OCP MX, §5.4.1)
            return np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), NAN).astype(np.float32)
        case "float4_e2m1fn":
            magnitudes = FLOATS[dtype][FLOATS[dtype] >= 0]
            return np.resize(np.concatenate([magnitudes, -magnitudes]), 256).astype(np.float32)
    raise KeyError(dtype)
