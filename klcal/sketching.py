"""Everything calibration may know about a stream of values: an exactly mergeable summary.

One pass, integers and exact extremes only. So sketches form a commutative monoid under ``+``, and a result is
the same to the bit for any batch split, file order, number of workers, and on any device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from klcal.counting import BLOCK, FLOAT_DTYPES, MANTISSA_BITS, Counts, count, merge_buckets
from klcal.device_counting import as_tensor, count_on_device, usable_device
from klcal.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["Sketch", "Stored", "sketch", "sketch_parts"]


class Stretch(Protocol):
    """Some of a tensor's values, wherever they lie."""

    @property
    def repeats(self) -> int:
        """How often each of them stands in the tensor."""

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """The values as flat arrays in storage form: see ``klcal.counting.FLOAT_DTYPES``."""


@runtime_checkable
class Stored(Protocol):
    """A tensor in a file, as ``klcal.read`` describes it."""

    @property
    def dtype(self) -> str:
        """One of ``klcal.counting.FLOAT_DTYPES``, where it can be calibrated."""

    @property
    def name(self) -> str:
        """Its own, in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def status(self) -> str:
        """Either "ok", or why it cannot be calibrated: a status of the table."""

    @property
    def reason(self) -> str | None:
        """The same in words."""

    @property
    def parts(self) -> Sequence[Stretch]:
        """Its data."""


if TYPE_CHECKING:
    Values: TypeAlias = npt.ArrayLike | torch.Tensor | Stored


@dataclass(frozen=True, eq=False)
class Sketch(Counts):
    """How many values fell into each bucket of the float32 bit pattern, and what was not binned.

    Laws, exact, on every device (a ++ b is concatenation):

        sketch(a ++ b) == sketch(a) + sketch(b)
        (a + b) + c == a + (b + c);  a + b == b + a;  a + Sketch() == a
        (a + b).coarsen(k) == a.coarsen(k) + b.coarsen(k)

    A bucket's key is sign, exponent and the first ``mantissa_bits`` bits of the mantissa. Zeros, NaN and
    infinities have counters of their own and are in no bucket. float64 values are rounded to float32.

    >>> s = sketch([0.5, -2.0, 0.0]) + sketch([0.5])
    >>> s.counts.tolist(), s.zeros, s.minimum, s.maximum
    ([2, 1], 1, -2.0, 0.5)
    """

    mantissa_bits: int = MANTISSA_BITS

    @property
    def min(self) -> float | None:
        """The least finite value, zeros included; None where there is none."""
        return min(self.minimum, 0.0 if self.zeros else self.minimum) if self.finite else None

    @property
    def max(self) -> float | None:
        """The greatest finite value, zeros included; None where there is none."""
        return max(self.maximum, 0.0 if self.zeros else self.maximum) if self.finite else None

    @property
    def finite(self) -> int:
        """How many values are finite, zeros included."""
        return self.zeros + int(self.counts.sum())

    @property
    def nonfinite(self) -> int:
        """How many values are NaN or infinite."""
        return self.nan + self.neg_inf + self.pos_inf

    @property
    def numel(self) -> int:
        """How many values were seen."""
        return self.finite + self.nonfinite

    def __add__(self, other: Sketch) -> Sketch:
        if not isinstance(other, Sketch):
            return NotImplemented
        if self.mantissa_bits != other.mantissa_bits:
            raise UsageError(
                f"sketches with {self.mantissa_bits} and {other.mantissa_bits} mantissa bits cannot be added",
                "coarsen the finer one first",
            )
        keys, counts = merge_buckets(self.keys, self.counts, other.keys, other.counts)
        return Sketch(
            keys,
            counts,
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.neg_inf + other.neg_inf,
            self.pos_inf + other.pos_inf,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.exact and other.exact,
            self.mantissa_bits,
        )

    def __radd__(self, other: int) -> Sketch:
        return self if other == 0 else NotImplemented  # so that sum() works

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sketch):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]  # arrays inside

    def repeat(self, times: int) -> Sketch:
        """The sum of ``times`` copies: an expanded view holds each value that often."""
        return replace(
            self,
            counts=self.counts * times,
            zeros=self.zeros * times,
            nan=self.nan * times,
            neg_inf=self.neg_inf * times,
            pos_inf=self.pos_inf * times,
        )

    def coarsen(self, mantissa_bits: int) -> Sketch:
        """The sketch that counting with fewer mantissa bits gives: neighbouring buckets add up.

        ``exact`` is then False unless no bit that was dropped is set.

        Raises:
            UsageError: more bits than the sketch has, or fewer than none.
        """
        dropped = self.mantissa_bits - mantissa_bits
        if not 0 <= mantissa_bits <= self.mantissa_bits:
            raise UsageError(
                f"a sketch with {self.mantissa_bits} mantissa bits has no {mantissa_bits}",
                f"use 0 to {self.mantissa_bits}",
            )
        exact = self.exact and not (self.keys & ((1 << dropped) - 1)).any()
        keys, counts = merge_buckets(self.keys >> dropped, self.counts)
        return replace(self, keys=keys, counts=counts, exact=exact, mantissa_bits=mantissa_bits)

    @staticmethod
    def of(counts: Counts) -> Sketch:
        """The sketch of what one pass counted."""
        return Sketch(**vars(counts))


def sketch_parts(parts: Iterable[Stretch], dtype: str, device: str = "cpu") -> Sketch:
    """The sketch of a tensor in a file, or of some parts of it, in one pass.

    Raises:
        InputError: the file is damaged.
    """
    return sum((_counted(part.chunks(), dtype, device).repeat(part.repeats) for part in parts), Sketch())


def _counted(chunks: Iterable[npt.NDArray[Any]], dtype: str, device: str) -> Sketch:
    if device == "cpu":
        return Sketch.of(count(chunks, dtype))
    return Sketch.of(count_on_device((as_tensor(chunk, dtype) for chunk in chunks), device))


def sketch(values: Values | Sketch, *, device: str | None = None) -> Sketch:
    """The sketch of an array, a list, a torch tensor, or a tensor in a file; of any shape and any floating dtype.

    Args:
        values: what to sketch. bfloat16 and float8 arrays of ml_dtypes are understood.
        device: where a tensor is counted; by default where it is. The result does not depend on it.

    Raises:
        UsageError: the values are not floating point; a device is named for an array.
        InputError: a tensor in a file cannot be calibrated, or is damaged.

    >>> sketch(np.ones((2, 3), np.float16)).numel
    6
    """
    if isinstance(values, Sketch):
        return values
    if isinstance(values, str):
        raise UsageError(f"{values!r} is text, not values", "klcal.read gives the tensors of a file")
    if isinstance(values, Stored):
        if values.status != "ok":
            raise InputError(f"the tensor has no sketch: {values.reason}")
        return sketch_parts(values.parts, values.dtype, device or "cpu")
    torch = sys.modules.get("torch")  # who hands in a tensor has imported it
    if torch is not None and isinstance(values, torch.Tensor):
        return _sketch_tensor(values, device)
    if device not in (None, "cpu"):
        raise UsageError(f"arrays are counted on the CPU, not on {device!r}", "hand in a torch tensor")
    if isinstance(values, np.ma.MaskedArray):
        raise UsageError("masked arrays are not calibrated", "hand in values.compressed()")
    try:
        array: npt.NDArray[Any] = np.asarray(values)
    except ValueError:
        raise UsageError("the values are no array: their lengths differ", "hand in an array") from None
    return Sketch.of(count(_array_chunks(array, _float_dtype(array.dtype.name)), array.dtype.name))


def _sketch_tensor(tensor: torch.Tensor, device: str | None) -> Sketch:
    dtype = _float_dtype(str(tensor.dtype).removeprefix("torch."))
    place = usable_device(device) if device else str(tensor.device)
    if str(tensor.layout) != "torch.strided" or place == "meta":
        what = "a meta tensor, without values" if place == "meta" else f"of the layout {tensor.layout}"
        raise UsageError(f"the tensor is {what}", "hand in a dense one")
    if place != "cpu":
        return Sketch.of(count_on_device([tensor], place))
    import torch

    unsigned = {1: torch.uint8, 2: torch.uint16}
    plain = tensor.detach().cpu().resolve_neg()
    native = dtype in ("float64", "float32", "float16")
    array = (plain if native else plain.view(unsigned[plain.element_size()])).numpy()
    return Sketch.of(count(_array_chunks(array, dtype), dtype))


def _float_dtype(name: str) -> str:
    if name not in FLOAT_DTYPES:
        raise UsageError(f"{name} values are not calibrated", f"hand in one of {', '.join(FLOAT_DTYPES)}")
    return name


def _array_chunks(array: npt.NDArray[Any], dtype: str) -> Iterator[npt.NDArray[Any]]:
    """Flat native pieces in memory order: neither a copy of a strided array nor a byte-swapped one."""
    storage = np.dtype(FLOAT_DTYPES[dtype])
    if array.dtype.name == storage.name:
        blocks: Any = np.nditer(
            array,
            flags=["external_loop", "buffered", "zerosize_ok"],
            order="K",
            op_dtypes=[storage],
            casting="equiv",
            buffersize=BLOCK,
        )
        yield from blocks
    else:  # a dtype of ml_dtypes, which only its bit pattern is wanted of
        yield array.ravel(order="K").view(storage)
