"""The reference rounding.

    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x̂ = (q − zero_point) · scale

in float32, as ONNX QuantizeLinear and DequantizeLinear define it. The scale may be negative. Floating-point formats
have no zero point: q is the value of the format that is nearest to x / scale.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from klcal.errors import UsageError
from klcal.quantizers.code_points import FLOATS, nearest
from klcal.quantizers.granularity import per_at
from klcal.quantizers.layout import Layout, layout

if TYPE_CHECKING:
    import torch

__all__ = ["ByUnit", "Rounding", "dequantize", "is_tensor", "one_for_all", "quantize", "restored", "rounding_of"]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

Quantized: TypeAlias = npt.NDArray[np.int64] | Singles
"""Integers, or values of a floating-point format."""

NOT_NUMBERS = "OSUmMc"  # kinds of dtypes
BLOCK = 1 << 20  # values whose scales are looked up together


class HasUnits(Protocol):
    """The ``Units`` of a row."""

    @property
    def axis(self) -> int | tuple[int, int]: ...
    @property
    def size(self) -> int | tuple[int, int] | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def scale(self) -> Floats: ...
    @property
    def zero_point(self) -> Floats | None: ...
    @property
    def status(self) -> npt.NDArray[np.object_] | None: ...


@runtime_checkable
class HasQparams(Protocol):
    """A row of a table, or a ``Qparams``; a row has ``target``, ``units`` and ``unit`` as well."""

    @property
    def scale(self) -> float | None: ...
    @property
    def zero_point(self) -> int | None: ...
    @property
    def qmin(self) -> int | None: ...
    @property
    def qmax(self) -> int | None: ...


@overload
def quantize(values: torch.Tensor, by: HasQparams, dtype: str | None = None) -> torch.Tensor: ...
@overload
def quantize(  # type: ignore[overload-cannot-match]  # torch's types are not looked at here
    values: npt.ArrayLike, by: HasQparams, dtype: str | None = None
) -> Quantized: ...
def quantize(
    values: npt.ArrayLike | torch.Tensor, by: HasQparams, dtype: str | None = None
) -> Quantized | torch.Tensor:
    """The integers of an array or torch tensor, as int64 of the same kind and shape.

    For a floating-point format they are float32 values of that format instead, in units of the scale: ties go to the
    even code, and values beyond the ends become the end.

    Args:
        values: finite or infinite floats; NaN has no integer. Where channels, groups or blocks have a scale each, the
            axes and extents must be those of the tensor that was calibrated.
        by: a row, from ``klcal.calibrate`` or of a table, or a ``Qparams``.
        dtype: the floating-point format, if ``by`` does not say it, such as a ``Qparams``.

    Raises:
        UsageError: the row has no scale for some value, or does not fit the shape; or the format is not clear.

    >>> from klcal.quantizers.qparams import Qparams
    >>> quantize([-1.0, 0.02, 9.0], Qparams(0.01, 128, 0, 255)).tolist()
    [28, 130, 255]
    >>> quantize([0.3, -9.0], Qparams(0.5), "float4_e2m1fn").tolist()
    [0.5, -6.0]
    """
    _check_quantizer(by)
    rounding = rounding_of(by, dtype)
    if not is_tensor(values):
        array = _array(values).astype(np.float32, copy=False)
        return rounding.quantized(array, *_of_each_value(by, array.shape))
    torch = sys.modules["torch"]
    scale, zero_point = _of_each_value(by, tuple(values.shape))
    if rounding.target is not None:
        single = values.detach().cpu().to(torch.float32).numpy()
        return torch.from_numpy(rounding.quantized(single, scale, zero_point)).to(values.device)
    steps = (values.to(torch.float32) / torch.from_numpy(scale).to(values.device)).round()
    shifted = steps + torch.from_numpy(zero_point).to(values.device)
    return shifted.clamp(rounding.qmin, rounding.qmax).to(torch.int64)


@overload
def dequantize(integers: torch.Tensor, by: HasQparams) -> torch.Tensor: ...
@overload
def dequantize(  # type: ignore[overload-cannot-match]
    integers: npt.ArrayLike, by: HasQparams
) -> Singles: ...
def dequantize(integers: npt.ArrayLike | torch.Tensor, by: HasQparams) -> Singles | torch.Tensor:
    """The values of integers, or of values of a floating-point format: float32 of the same kind and shape.

    Args:
        integers: of ``quantize``; any shape. Where channels, groups or blocks have a scale each, the axes and extents
            must be those of the tensor that was calibrated.
        by: a row, from ``klcal.calibrate`` or of a table, or a ``Qparams``.

    Raises:
        UsageError: the row has no scale for some value, or does not fit the shape.

    >>> from klcal.quantizers.qparams import Qparams
    >>> dequantize([0, 128], Qparams(0.5, 128, 0, 255)).tolist()
    [-64.0, 0.0]
    """
    _check_quantizer(by)
    if not is_tensor(integers):
        array = _array(integers)
        return restored(array, *_of_each_value(by, array.shape))
    torch = sys.modules["torch"]
    scale, zero_point = _of_each_value(by, tuple(integers.shape))
    steps = integers if integers.is_floating_point() else integers - torch.from_numpy(zero_point).to(integers.device)
    return steps.to(torch.float32) * torch.from_numpy(scale).to(integers.device)


def is_tensor(values: object) -> TypeGuard[torch.Tensor]:
    """Whether the values are a torch tensor; a caller with a tensor has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def _array(values: object) -> npt.NDArray[Any]:
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):
        raise UsageError("the values are not an array: their lengths differ", "hand in an array") from None
    if found.dtype.kind in NOT_NUMBERS:
        raise UsageError(f"{found.dtype.name} values are not numbers", "hand in an array of numbers, or a torch tensor")
    return found


def _check_quantizer(by: object) -> None:
    if not isinstance(by, HasQparams):
        raise UsageError(
            f"{by!r} is not a quantizer", "hand in a row of klcal.calibrate or of a table, or klcal.Qparams"
        )


# --- rounding to a number format


class Rounding(NamedTuple):
    """A number format as the rounding needs it."""

    target: str | None  # a floating-point format; None for integers
    qmin: int = 0
    qmax: int = 0

    def quantized(self, values: Singles, scale: Singles, zero_point: Singles) -> npt.NDArray[Any]:
        """``quantize`` of an array; scales and zero points broadcast with it."""
        with np.errstate(over="ignore"):  # a step beyond float32 is beyond qmax as well
            steps = values / scale
        if self.target is not None:
            found: Singles = nearest(steps, self.target).astype(np.float32)
            return found
        integers: npt.NDArray[np.int64] = np.clip(np.rint(steps) + zero_point, self.qmin, self.qmax).astype(np.int64)
        return integers


def restored(quantized: npt.NDArray[Any], scale: Singles, zero_point: Singles) -> Singles:
    """``dequantize`` of an array; scales and zero points broadcast with it."""
    return (quantized - zero_point).astype(np.float32) * scale


def rounding_of(by: HasQparams, dtype: str | None = None) -> Rounding:
    """The number format of a row; for a ``Qparams`` without a zero point, the format ``dtype``.

    Raises:
        UsageError: no format is given, or two.
    """
    target: str | None = getattr(by, "target", None)
    has_zero_point = by.zero_point is not None or getattr(getattr(by, "units", None), "zero_point", None) is not None
    if dtype is not None and dtype not in FLOATS:
        raise UsageError(f"{dtype!r} is not a floating-point format", f"leave it out for integers; else {KNOWN}")
    if has_zero_point:
        if dtype is not None or target in FLOATS:
            raise UsageError(
                f"a quantizer with a zero point does not need a dtype, as {dtype or target}", "leave it out"
            )
        if by.qmin is None or by.qmax is None:
            raise UsageError("the quantizer has no qmin and qmax", "hand in the row as klcal calibrate gave it")
        return Rounding(None, by.qmin, by.qmax)
    if target is not None and dtype is not None and target != dtype:
        raise UsageError(f"the row is one of {target}, not {dtype}", "leave the dtype out")
    if (target or dtype) not in FLOATS:
        raise UsageError("a quantizer without a zero point needs a dtype", f"one of {KNOWN}")
    return Rounding(target or dtype)


KNOWN = ", ".join(FLOATS)


# --- a number for each value


class ByUnit(NamedTuple):
    """Scales and zero points of the units of a tensor, and the layout of its values."""

    place: Layout
    scale: Singles  # (units,), in the order of the values
    zero_point: Singles

    def at(self, start: int, count: int) -> tuple[Singles, Singles]:
        """Scale and zero point of each of ``count`` values from position ``start`` on."""
        begins, units = self.place.runs(start, count)
        lengths = np.diff(begins, append=count)
        return np.repeat(self.scale[units], lengths), np.repeat(self.zero_point[units], lengths)

    @staticmethod
    def of(units: HasUnits, shape: tuple[int, ...], order: tuple[int, ...] = ()) -> ByUnit:
        """The units of a tensor whose values lie in some order of its axes: see ``klcal.quantizers.layout.layout``.

        Raises:
            UsageError: the units do not fit the shape, or a unit that is not all zeros has no scale.
        """
        per = per_at(units.axis, units.size)
        try:
            place = layout(per, shape, order)
        except UsageError:
            place = None
        if place is None or place.grid.shape != units.shape:
            what = f"scales of {list(units.shape)} units per {per} do not fit the shape {list(shape)}"
            raise UsageError(what, "hand in a tensor of the shape that was calibrated")
        lacking = np.isnan(units.scale)
        zeros = np.zeros(lacking.size, bool) if units.status is None else units.status == "zero"
        if lost := int((lacking & ~zeros).sum()):
            hint = "the row's units.status says which; nonfinite='ignore' calibrates their finite values"
            raise UsageError(f"{lost} of {lacking.size} units have no scale", hint)
        # Any quantizer represents zeros; 1 serves as scale and as zero point of every format.
        point = np.zeros(lacking.size) if units.zero_point is None else np.where(lacking, 1.0, units.zero_point)
        numbers = np.where(lacking, 1.0, units.scale), point
        return ByUnit(place, *(place.in_value_order(each.astype(np.float32)) for each in numbers))


def one_for_all(by: HasQparams) -> tuple[Singles, Singles]:
    """Scale and zero point of a row without units.

    Raises:
        UsageError: it has no scale.
    """
    if by.scale is None:
        raise UsageError("the row has no scale", "calibrate the tensor first; the row's reason says why it has none")
    try:
        numbers = np.array(by.scale, np.float32), np.array(by.zero_point or 0, np.float32)
    except (TypeError, ValueError):
        numbers = np.zeros((), np.float32), np.zeros((), np.float32)
    if not np.isfinite(numbers[0]) or not numbers[0]:
        raise UsageError(f"the scale is {by.scale!r}", "a quantizer has a finite scale other than 0")
    return numbers


def _of_each_value(by: HasQparams, shape: tuple[int, ...]) -> tuple[Singles, Singles]:
    """Scale and zero point that broadcast with the values: one for all of them, or one for each.

    Raises:
        UsageError: the row has no scale for this shape.
    """
    if (number := getattr(by, "unit", None)) is not None:
        raise UsageError(f"the row is that of unit {number} alone", "hand in the row of the tensor")
    units = cast(HasUnits | None, getattr(by, "units", None))
    if units is None:
        return one_for_all(by)
    scale, zero_point = np.empty(shape, np.float32), np.empty(shape, np.float32)
    if scale.size:
        by_unit = ByUnit.of(units, shape)
        for start in range(0, scale.size, BLOCK):
            some = slice(start, min(start + BLOCK, scale.size))
            scale.ravel()[some], zero_point.ravel()[some] = by_unit.at(start, some.stop - start)
    return scale, zero_point
