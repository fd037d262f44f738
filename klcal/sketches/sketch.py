"""Everything calibration may know about a stream of values: an exactly mergeable summary.

One pass, integers and exact extremes only. So sketches form a commutative monoid under ``+``, and a result is
the same to the bit for any batch split, file order, number of workers, and on any device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt

from klcal.errors import InputError, UsageError
from klcal.sketches.counting import BLOCK, FLOAT_DTYPES, MANTISSA_BITS, Counts, count, merge_buckets
from klcal.sketches.device_counting import as_tensor, count_on_device, usable_device

if TYPE_CHECKING:
    import torch

__all__ = ["Sketch", "Stored", "Stretch", "array_chunks", "sketch", "sketch_parts", "stored_array", "stored_chunks"]


class Stretch(Protocol):
    """Some of a tensor's values, wherever they lie."""

    @property
    def repeats(self) -> int:
        """How often each of them stands in the tensor."""

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """The values as flat arrays in storage form: see ``klcal.sketches.counting.FLOAT_DTYPES``."""


@runtime_checkable
class Stored(Protocol):
    """A tensor in a file, as ``klcal.read`` describes it."""

    @property
    def dtype(self) -> str:
        """One of ``klcal.sketches.counting.FLOAT_DTYPES``, where it can be calibrated."""

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

    @property
    def order(self) -> tuple[int, ...] | None:
        """Of its axes in the data, the slowest first; nothing is C's, None where a value stands for several."""


if TYPE_CHECKING:
    Held: TypeAlias = npt.ArrayLike | torch.Tensor
    Values: TypeAlias = Held | Stored


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


def stored_chunks(parts: Iterable[Stretch]) -> Iterator[npt.NDArray[Any]]:
    """The values of a tensor in a file, in the order of its parts.

    Raises:
        InputError: the file is damaged.
    """
    return (chunk for part in parts for chunk in part.chunks())


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
    if is_tensor(values):
        place = usable_device(device) if device else str(values.device)
        if place not in ("cpu", "meta"):
            _float_dtype(str(values.dtype).removeprefix("torch."))
            return Sketch.of(count_on_device([_dense(values)], place))
    elif device not in (None, "cpu"):
        raise UsageError(f"arrays are counted on the CPU, not on {device!r}", "hand in a torch tensor")
    array, dtype = stored_array(values)
    return Sketch.of(count(array_chunks(array, dtype, "K"), dtype))


def is_tensor(values: object) -> TypeGuard[torch.Tensor]:
    """Whether the values are a torch tensor; who hands one in has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def stored_array(values: Held) -> tuple[npt.NDArray[Any], str]:
    """Values that Python holds, as an array in the memory of the CPU, and their dtype: see ``array_chunks``.

    Raises:
        UsageError: they are no array, or not floating point.
    """
    if is_tensor(values):
        return _tensor_array(_dense(values))
    if isinstance(values, np.ma.MaskedArray):
        raise UsageError("masked arrays are not calibrated", "hand in values.compressed()")
    try:
        array: npt.NDArray[Any] = np.asarray(values)
    except ValueError:
        raise UsageError("the values are no array: their lengths differ", "hand in an array") from None
    return array, _float_dtype(array.dtype.name)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if str(tensor.layout) != "torch.strided" or tensor.is_meta:
        what = "a meta tensor, without values" if tensor.is_meta else f"of the layout {tensor.layout}"
        raise UsageError(f"the tensor is {what}", "hand in a dense one")
    return tensor


def _tensor_array(tensor: torch.Tensor) -> tuple[npt.NDArray[Any], str]:
    import torch

    dtype = _float_dtype(str(tensor.dtype).removeprefix("torch."))
    unsigned = {1: torch.uint8, 2: torch.uint16}
    plain = tensor.detach().cpu().resolve_neg()
    native = dtype in ("float64", "float32", "float16")
    return (plain if native else plain.view(unsigned[plain.element_size()])).numpy(), dtype


def _float_dtype(name: str) -> str:
    if name not in FLOAT_DTYPES:
        raise UsageError(f"{name} values are not calibrated", f"hand in one of {', '.join(FLOAT_DTYPES)}")
    return name


def array_chunks(array: npt.NDArray[Any], dtype: str, order: Literal["C", "K"]) -> Iterator[npt.NDArray[Any]]:
    """Flat native pieces in C order, or as they lie in memory: neither a whole copy nor byte-swapped."""
    storage = np.dtype(FLOAT_DTYPES[dtype])
    if array.dtype.name == storage.name:
        blocks: Any = np.nditer(
            array,
            flags=["external_loop", "buffered", "zerosize_ok"],
            order=order,
            op_dtypes=[storage],
            casting="equiv",
            buffersize=BLOCK,
        )
        yield from blocks
    else:  # a dtype of ml_dtypes, which only its bit pattern is wanted of
        yield array.ravel(order=order).view(storage)
